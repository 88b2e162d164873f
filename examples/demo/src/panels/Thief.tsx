import { useEffect, useState } from "react";
import { refreshNow } from "../auth.ts";
import { look, useDecisions } from "../decisions.ts";
import { useAction } from "../hooks.ts";
import { Button } from "../parts/Button.tsx";
import { Card } from "../parts/Card.tsx";
import { Problem } from "../parts/Problem.tsx";

/** How often this page refreshes while the thief is at work, so that one need not wait for it. */
const PACE = 2500;

/** Refresh now and then, as a page in use does, for as long as it is told to. */
const useBusyPage = (on: boolean) => {
  useEffect(() => {
    if (!on) return;
    // A refresh that fails shows in the state of the session.
    const timer = setInterval(() => void refreshNow().catch(() => {}), PACE);
    return () => clearInterval(timer);
  }, [on]);
};

const rob = async () => {
  const response = await fetch("/demo/thief", { method: "POST", headers: { "X-Keyturn": "1" } });
  if (!response.ok) throw new Error("there is nothing to steal");
  await look();
};

/** Lets the server copy this browser's cookie and use it as somebody else would. */
export const Thief = () => {
  const [robbed, setRobbed] = useState(false);
  const { rows } = useDecisions();
  const action = useAction();
  useBusyPage(robbed);
  const uses = robbed ? rows.filter(({ who }) => who === "thief").length : 0;
  return (
    <Card title="Play the thief" className="thief">
      <p>
        The server copies this session's cookie and uses it from “another machine”, while this page goes on using yours.
        For a few seconds that looks like two tabs of one browser. Once both have gone on, one of them comes with a
        token that was replaced long ago: the session ends for both, and a thief cannot stay unseen.
      </p>
      <div className="buttons">
        <Button
          kind="danger"
          busy={action.busy || robbed}
          onClick={() => action.run(rob).then((worked) => worked && setRobbed(true))}
        >
          {robbed ? "The thief is at work …" : "Copy my cookie"}
        </Button>
        <p role="status" className="hint">
          {robbed && (uses ? "The thief has used the copy. Watch the list." : "The thief has a copy of your cookie.")}
        </p>
      </div>
      <Problem text={action.error} />
    </Card>
  );
};
