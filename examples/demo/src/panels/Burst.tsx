import { useAuth } from "keyturn/react";
import { useState } from "react";
import { api, auth, call } from "../auth.ts";
import { countRefreshes } from "../decisions.ts";
import { useAction } from "../hooks.ts";
import { Button } from "../parts/Button.tsx";
import { Card } from "../parts/Card.tsx";
import { Problem } from "../parts/Problem.tsx";

const MANY = 10;

type Count = { refused: number; refreshes: number; answered: number };

/** Send many requests with a token that the API no longer takes, and count what happens. */
const burst = async (): Promise<Count> => {
  await call("/demo/notes/refuse", "POST");
  const ask = (number: number) => (number % 2 ? api.get("/demo/notes") : auth.fetch("/demo/notes"));
  let answered = 0;
  const refreshes = await countRefreshes(async () => {
    const answers = await Promise.allSettled(Array.from({ length: MANY }, (_, number) => ask(number)));
    answered = answers.filter((answer) => answer.status === "fulfilled" && answer.value.status === 200).length;
  });
  // The API has counted what it refused.
  const { refused } = (await api.get<{ refused: number }>("/demo/notes")).data;
  return { refused, refreshes, answered };
};

/** Shows that many refused requests make one refresh. */
export const Burst = () => {
  const { status } = useAuth();
  const [count, setCount] = useState<Count | null>(null);
  const action = useAction();
  const run = async () => setCount(await burst());
  return (
    <Card title={`${MANY} requests at once`} tag="attachAuth()">
      <p>
        The API is told to refuse the present token, as if it had expired. Then {MANY} requests go out together, half of
        them through axios. They share one refresh, and each is sent again once.
      </p>
      <div className="buttons">
        <Button busy={action.busy || status === "degraded"} onClick={() => action.run(run)}>
          Send {MANY} requests
        </Button>
      </div>
      <Problem text={action.error} />
      <dl className="counts" aria-live="polite">
        <div>
          <dt>refused (401)</dt>
          <dd>{count?.refused ?? "–"}</dd>
        </div>
        <div>
          <dt>refreshes</dt>
          <dd>{count?.refreshes ?? "–"}</dd>
        </div>
        <div>
          <dt>answered</dt>
          <dd>{count?.answered ?? "–"}</dd>
        </div>
      </dl>
    </Card>
  );
};
