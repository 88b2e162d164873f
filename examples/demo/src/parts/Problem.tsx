/** Says what went wrong, to eyes and ears. */
export const Problem = ({ text }: { text: string | null }) => (
  <div role="alert" className="problem-slot">
    {text && <p className="problem">{text}</p>}
  </div>
);
