import type { ComponentProps } from "react";

type Props = ComponentProps<"button"> & {
  kind?: "plain" | "primary" | "quiet" | "danger";
  /** Under way: it cannot be pressed again, and keeps the focus. */
  busy?: boolean;
};

export const Button = ({ kind = "plain", busy = false, type = "button", onClick, ...rest }: Props) => (
  <button
    {...rest}
    type={type}
    className={`button ${kind}`}
    aria-disabled={busy}
    aria-busy={busy}
    onClick={busy ? (event) => event.preventDefault() : onClick}
  />
);
