import type { ListedSession } from "keyturn";
import { useAuth } from "keyturn/react";
import { useState } from "react";
import { call } from "../auth.ts";
import { useAction, useLoaded } from "../hooks.ts";
import { Button } from "../parts/Button.tsx";
import { Card } from "../parts/Card.tsx";
import { Problem } from "../parts/Problem.tsx";
import { tellDate } from "../words.ts";

const nameOf = ({ device_name, device }: ListedSession): string => device_name || device || "Unknown device";

/** One session of the user's. */
const Device = ({ session, busy, onEnd }: { session: ListedSession; busy: boolean; onEnd: () => void }) => (
  <li>
    <div>
      <p>
        <strong>{nameOf(session)}</strong> {session.current && <span className="tag good">this device</span>}
      </p>
      <p className="hint">
        {session.device_name && `${session.device} · `}
        {session.ip} · since {tellDate(session.created_at)}
      </p>
    </div>
    <Button busy={busy} onClick={onEnd} aria-label={`End the session on ${nameOf(session)}`}>
      End
    </Button>
  </li>
);

/** Everywhere the user is signed in, and the ways to end that. */
export const Devices = () => {
  const { sessions, logout } = useAuth();
  const { value: listed, reload } = useLoaded(sessions.list);
  const [done, setDone] = useState("");
  const action = useAction();

  const end = (text: string, work: () => Promise<unknown>) =>
    action.run(async () => {
      await work();
      setDone(text);
      await reload();
    });

  return (
    <Card title="Where you are signed in" tag="auth.sessions">
      <p>Log in from another browser or a private window, then end that session here: the other one says why.</p>
      <ul className="devices">
        {listed?.map((session) => (
          <Device
            key={session.id}
            session={session}
            busy={action.busy}
            onEnd={() => end(`The session on ${nameOf(session)} has ended.`, () => sessions.revoke(session.id))}
          />
        ))}
      </ul>
      <Problem text={action.error} />
      <p role="status" className="hint">
        {done}
      </p>
      <div className="buttons">
        <Button
          busy={action.busy}
          onClick={() => end("All other sessions have ended.", () => call("/auth/sessions", "DELETE"))}
        >
          End all others
        </Button>
        <Button kind="danger" busy={action.busy} onClick={() => action.run(() => logout({ everywhere: true }))}>
          Log out everywhere
        </Button>
      </div>
    </Card>
  );
};
