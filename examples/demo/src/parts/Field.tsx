import { type ComponentProps, useId } from "react";

type Props = Omit<ComponentProps<"input">, "id"> & { label: string; hint?: string };

/** A labelled input. */
export const Field = ({ label, hint, ...rest }: Props) => {
  const id = useId();
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      <input {...rest} id={id} aria-describedby={hint && `${id}-hint`} />
      {hint && <small id={`${id}-hint`}>{hint}</small>}
    </div>
  );
};
