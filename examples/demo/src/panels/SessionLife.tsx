import { useAuth, useSession } from "keyturn/react";
import { hasCookies, refreshNow } from "../auth.ts";
import { lastOf, look, useDecisions } from "../decisions.ts";
import { useAction, useClock } from "../hooks.ts";
import { Button } from "../parts/Button.tsx";
import { Card } from "../parts/Card.tsx";
import { Problem } from "../parts/Problem.tsx";
import { tellSpan } from "../words.ts";

const ROUND = 2 * Math.PI * 44;

/** How much of the access token is left, as a ring that empties. */
const Ring = ({ left, whole }: { left: number; whole: number }) => (
  <div className="ring" role="timer" aria-live="off" aria-label="Access token">
    <svg viewBox="0 0 100 100" aria-hidden="true">
      <circle cx="50" cy="50" r="44" className="ring-back" />
      <circle
        cx="50"
        cy="50"
        r="44"
        className="ring-left"
        strokeDasharray={ROUND}
        strokeDashoffset={ROUND * (1 - left / whole)}
        transform="rotate(-90 50 50)"
      />
    </svg>
    <p>
      <strong>{Math.ceil(left / 1000)} s</strong>
      <span>access token</span>
    </p>
  </div>
);

/** The session as it lives: its token's countdown, its generation, what the last refresh came to. */
export const SessionLife = () => {
  const session = useSession();
  const { status } = useAuth();
  const { rows, times } = useDecisions();
  const at = useClock();
  const action = useAction();
  if (!session) return null;

  const whole = (times?.access_lifetime ?? 60) * 1000;
  const last = lastOf(rows);
  const refresh = async () => {
    await refreshNow();
    await look();
  };
  return (
    <Card title="This session, live" tag="useSession()" className="life">
      <div className="life-body">
        <Ring left={Math.min(whole, Math.max(0, session.accessEndsAt - at))} whole={whole} />
        <dl>
          <div>
            <dt>Last outcome</dt>
            <dd>
              <span className="tag good" data-testid="outcome">
                {last?.outcome || "opened"}
              </span>
            </dd>
          </div>
          <div>
            <dt>Generation</dt>
            <dd data-testid="generation">{last?.generation || "0"}</dd>
          </div>
          <div>
            <dt>Ends if idle in</dt>
            <dd>{tellSpan(session.inactivityEndsAt - at)}</dd>
          </div>
          <div>
            <dt>Ends anyway in</dt>
            <dd>{tellSpan(session.absoluteEndsAt - at)}</dd>
          </div>
        </dl>
      </div>
      <p>
        The page holds an access token in memory for a minute and gets a new one by itself before that is over. Refresh
        by hand, at once again, and once more after {times?.settle_time ?? 5} s, and see the outcome change. Reload: you
        stay signed in, by a cookie no script can read.
      </p>
      <p className="hint">
        A second tab shares the session: open it, log out in one, and look at the other. An ordinary server keeps these
        times longer.
      </p>
      <Problem
        text={
          hasCookies()
            ? null
            : "This browser has not kept the cookies of this page, as Safari does on http://localhost: a reload or a refresh signs you out. Try another browser."
        }
      />
      <Problem text={status === "degraded" ? "The last refresh got no answer. The session is kept." : action.error} />
      <div className="buttons">
        <Button kind="primary" busy={action.busy} onClick={() => action.run(refresh)}>
          Refresh now
        </Button>
        <a className="button plain" href="/" target="_blank" rel="noopener">
          Open a second tab
        </a>
      </div>
    </Card>
  );
};
