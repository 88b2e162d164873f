import { useAuth, useIdle } from "keyturn/react";
import { useEffect, useRef } from "react";
import { Button } from "./parts/Button.tsx";

/** Asks whether somebody is there before the session ends. Answered in any tab, it closes in all of them. */
export const IdleDialog = () => {
  const { warning, secondsLeft, stay } = useIdle();
  const { logout } = useAuth();
  const dialog = useRef<HTMLDialogElement>(null);
  const kind = warning?.kind;

  useEffect(() => {
    const element = dialog.current;
    if (kind) element?.showModal();
    // Closing a modal dialog gives the focus back to where it was.
    return () => element?.close();
  }, [kind]);

  const left = secondsLeft ?? 0;
  const extendable = kind !== "absolute";
  return (
    <dialog
      ref={dialog}
      role="alertdialog"
      aria-labelledby="idle-title"
      aria-describedby="idle-text"
      onCancel={(event) => {
        event.preventDefault();
        if (extendable) stay();
      }}
    >
      <h2 id="idle-title">{extendable ? "Are you still there?" : "Your session is about to end"}</h2>
      <p id="idle-text">
        {extendable
          ? "Nobody has been active for a while. Without an answer you will be signed out, in every tab of this browser."
          : "It has reached its longest life. Save what you are doing and log in again."}
      </p>
      <p className="idle-left" role="timer" aria-live="off">
        {left} s
      </p>
      {/* A number that is read out every second drowns everything else. */}
      <p className="unseen" role="status">
        {warning && (left % 15 === 0 || left === 10) ? `${left} seconds left` : ""}
      </p>
      <div className="buttons">
        {extendable && (
          <Button kind="primary" onClick={stay}>
            Stay signed in
          </Button>
        )}
        <Button onClick={() => void logout()}>{extendable ? "Log out now" : "Log out"}</Button>
      </div>
    </dialog>
  );
};
