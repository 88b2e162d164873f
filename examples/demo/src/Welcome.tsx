import { useAuth } from "keyturn/react";
import { SignInForm } from "./panels/SignInForm.tsx";
import { tellReason } from "./words.ts";

/** What somebody sees who is not signed in: why not, what this is, and the way in. */
export const Welcome = () => {
  const { reason } = useAuth();
  const told = tellReason(reason);
  return (
    <div className="stack">
      {told ? (
        <section className={told.bad ? "notice bad" : "notice"} role={told.bad ? "alert" : "status"}>
          <h1 tabIndex={-1}>{told.title}</h1>
          <p>{told.text}</p>
        </section>
      ) : (
        <section className="hero">
          <h1 tabIndex={-1}>Sign in once, and stay signed in</h1>
          <p>
            Sign up with any address; it stays on this machine. Then reload, open more tabs, log in from another browser
            and let a thief copy your cookie. The list shows what the server decides each time.
          </p>
        </section>
      )}
      <SignInForm first={reason === "never"} />
    </div>
  );
};
