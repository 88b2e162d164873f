import { AuthLoading, SignedIn, SignedOut, useAuth } from "keyturn/react";
import { useEffect, useRef } from "react";
import { Header } from "./Header.tsx";
import { IdleDialog } from "./IdleDialog.tsx";
import { Timeline } from "./panels/Timeline.tsx";
import { Session } from "./Session.tsx";
import { Welcome } from "./Welcome.tsx";

/** Where the page changes altogether, whoever works by keyboard or ear goes on at its heading. */
const useHeadingFocus = (part: string) => {
  const former = useRef(part);
  useEffect(() => {
    if (former.current !== part && former.current !== "unknown") document.querySelector<HTMLElement>("h1")?.focus();
    former.current = part;
  }, [part]);
};

export const App = () => {
  const { status } = useAuth();
  useHeadingFocus(status === "degraded" ? "authenticated" : status);
  return (
    <>
      <Header />
      <main className="columns">
        <AuthLoading>
          <div className="stack">
            <h1 tabIndex={-1}>One moment</h1>
            <p className="loading" role="status">
              Looking for a session …
            </p>
          </div>
        </AuthLoading>
        <SignedOut>
          <Welcome />
        </SignedOut>
        <SignedIn>
          <Session />
          <IdleDialog />
        </SignedIn>
        <Timeline />
      </main>
    </>
  );
};
