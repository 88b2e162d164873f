import { type Row, useDecisions } from "../decisions.ts";
import { Card } from "../parts/Card.tsx";
import { tellTime } from "../words.ts";

const BAD = /refused|reuse|drift|throttled/;

const kindOf = ({ event, outcome }: Row): string => {
  if (BAD.test(event) || outcome === "reuse") return "bad";
  return event === "session_ended" ? "plain" : "good";
};

const Decision = ({ row }: { row: Row }) => (
  <li className={row.who === "thief" ? "by-thief" : ""}>
    <p className="decision-head">
      <span className={`tag ${kindOf(row)}`}>{row.outcome || row.event.replaceAll("_", " ")}</span>
      <span className="who">{row.who === "thief" ? "the thief" : "you"}</span>
      {row.generation && <span>generation {row.generation}</span>}
      {row.reason && <span>{row.reason}</span>}
      <time>{tellTime(row.at)}</time>
    </p>
    <p>{row.text}</p>
  </li>
);

/** What the server decided about this browser, newest first. */
export const Timeline = () => {
  const { rows } = useDecisions();
  return (
    <aside aria-label="Behind the curtain">
      <Card title="What the server decided" className="timeline">
        {/* biome-ignore lint/a11y/noNoninteractiveTabindex: whoever has no mouse scrolls it by keyboard */}
        <div className="log" role="log" aria-label="Decisions, newest first" tabIndex={0}>
          {rows.length ? (
            <ol reversed>
              {rows.toReversed().map((row) => (
                <Decision key={row.number} row={row} />
              ))}
            </ol>
          ) : (
            <p className="hint">Nothing yet. It begins when somebody signs up.</p>
          )}
        </div>
      </Card>
    </aside>
  );
};
