import { useAuth } from "keyturn/react";
import { useAction } from "./hooks.ts";
import { Button } from "./parts/Button.tsx";

const STATUS = {
  unknown: "Looking for a session",
  anonymous: "Not signed in",
  authenticated: "Signed in",
  degraded: "The server does not answer; the session is kept",
};

/** The name of the page, who is signed in, and the way out. */
export const Header = () => {
  const { status, user, logout } = useAuth();
  const leaving = useAction();
  return (
    <header className="top">
      <p className="brand">
        <svg viewBox="0 0 32 32" aria-hidden="true">
          <rect width="32" height="32" rx="8" className="brand-back" />
          <circle cx="12" cy="16" r="5" className="brand-line" />
          <path d="M17 16h9m-4 0v5" className="brand-line" />
        </svg>
        Keyturn <span>demo</span>
      </p>
      <p className={`status ${status}`} role="status">
        {STATUS[status]}
        {user && status === "authenticated" && (
          <>
            {" as "}
            <strong>{user.email}</strong>
          </>
        )}
      </p>
      {user && (
        <Button kind="quiet" busy={leaving.busy} onClick={() => leaving.run(() => logout())}>
          Log out
        </Button>
      )}
    </header>
  );
};
