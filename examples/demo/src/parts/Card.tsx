import { type ReactNode, useId } from "react";

type Props = { title: string; tag?: string; className?: string; children: ReactNode };

/** A titled part of the page. `tag` names what of the client it uses. */
export const Card = ({ title, tag, className = "", children }: Props) => {
  const id = useId();
  return (
    <section className={`card ${className}`} aria-labelledby={id}>
      <div className="card-head">
        <h2 id={id}>{title}</h2>
        {tag && <code>{tag}</code>}
      </div>
      {children}
    </section>
  );
};
