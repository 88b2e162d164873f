/**
 * The browser's side: the provider, and what is done when the page shows somebody else than who is signed in.
 *
 * Owns: loading the document anew. Must not hold: routes, markup.
 *
 * Why the document and not the router: a document load drops all that the router has cached for a former user, and lets
 * the server decide what is to be seen. One rule covers login, logout in any tab, another user and an ended session.
 */
import { type ReactNode, useEffect, useState } from "react";
import { createAuthClient } from "../core/client.ts";
import type { AuthClient, AuthClientOptions } from "../core/types.ts";
import type { AuthState } from "../machine/types.ts";
import { AuthProvider as Provider, type AuthProviderProps as ProviderProps, useAuth } from "../react/index.ts";

export type AuthProviderProps = Pick<AuthClientOptions, "apiOrigins" | "baseUrl" | "idleWarning"> & {
  /** What `getSession()` found; left away where a layout does not ask. */
  initialSession?: ProviderProps["initialSession"];
  children?: ReactNode;
};

const NOTE = "kt_document";

/** Clients whose page is on its way out. */
const leaving = new WeakSet<AuthClient>();

/** The session a state is of: empty when nobody is signed in, undefined while that is not known. */
const sessionOf = (state: AuthState): string | undefined =>
  "session" in state ? state.session.id : state.status === "anonymous" ? "" : undefined;

/** Keep for which session the document was loaded anew. False when it was before: once more would show no other. */
const note = (session: string | null): boolean => {
  try {
    if (session === null) sessionStorage.removeItem(NOTE);
    else if (sessionStorage.getItem(NOTE) === session) return false;
    else sessionStorage.setItem(NOTE, session);
  } catch {}
  return true;
};

/** Load the document anew once the session of this browser is not the one that `shown` was rendered for. */
const Follow = ({ shown }: { shown: string | undefined }): ReactNode => {
  const { client } = useAuth();
  useEffect(() => {
    let expected = shown;
    const look = () => {
      if (leaving.has(client)) return;
      const session = sessionOf(client.getSnapshot());
      if (session !== undefined) expected ??= session;
      const other = session !== undefined && session !== expected && note(session);
      if (session === expected && session !== undefined) note(null);
      // What was rendered for somebody is hidden while it is not certain that they are still there.
      const uncertain = session === undefined && !!shown;
      document.documentElement.style.visibility = other || uncertain ? "hidden" : "";
      if (!other) return;
      leaving.add(client);
      // After what the client is about to do: a logout removes the hint first, and then no server signs in by it.
      setTimeout(() => location.reload());
    };
    look();
    const leave = client.subscribe(look);
    return () => {
      leave();
      // What comes after this, if not another document, is of another part of the application.
      if (shown && !leaving.has(client)) document.documentElement.style.visibility = "";
    };
  }, [client, shown]);
  return null;
};

/**
 * Make the client of this page, and give the components below it who is signed in: all of `keyturn/react` works there.
 *
 * When somebody signs in or out, in this tab or another, the document is loaded anew.
 *
 * @example
 * ```tsx
 * // app/layout.tsx
 * <AuthProvider initialSession={await getSession()}>{children}</AuthProvider>
 * ```
 */
export const AuthProvider = ({ initialSession, children, ...options }: AuthProviderProps): ReactNode => {
  // One for a mounted provider; on a render server one for a render.
  const [client] = useState(() => createAuthClient(options));
  return (
    <Provider client={client} initialSession={initialSession}>
      <Follow shown={initialSession === undefined ? undefined : (initialSession?.session.id ?? "")} />
      {children}
    </Provider>
  );
};

/**
 * Mark what a page renders for nobody: the login form.
 *
 * When a session has ended and only the router came here, the rest of the page is still the former user's: then the
 * document is loaded anew.
 *
 * @example
 * ```tsx
 * // app/login/page.tsx
 * <Anonymous><LoginForm /></Anonymous>
 * ```
 */
export const Anonymous = ({ children }: { children?: ReactNode }): ReactNode => (
  <>
    <Follow shown="" />
    {children}
  </>
);
