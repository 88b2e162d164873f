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

/** What `<AuthProvider>` takes. The options of the client count as they are when it is mounted. */
export type AuthProviderProps = Pick<AuthClientOptions, "apiOrigins" | "baseUrl" | "idleWarning"> & {
  /**
   * What `getSession()` found; left away where a layout does not ask. With null the provider expects nobody, and loads the
   * document anew where there is somebody; `<SignedOut>` is still shown by the browser alone, once it knows.
   */
  initialSession?: ProviderProps["initialSession"];
  children?: ReactNode;
};

/** Where it is noted for which session the provider loaded the document anew. */
const NOTE = "kt_document";

/** Clients whose page is on its way out. */
const leaving = new WeakSet<AuthClient>();

/** The session a state is of: empty when nobody is signed in, undefined while that is not known. */
const sessionOf = (state: AuthState): string | undefined =>
  "session" in state ? state.session.id : state.status === "anonymous" ? "" : undefined;

/** Note for which session the document is loaded anew. False when it was before: once more would show no other. */
const note = (place: string, session: string): boolean => {
  try {
    if (sessionStorage.getItem(place) === session) return false;
    sessionStorage.setItem(place, session);
  } catch {}
  return true;
};

type FollowProps = {
  shown: string | undefined;
  /**
   * Where its note is. Why `<Anonymous>` has one of its own: in a page that shows it to somebody who is signed in the
   * provider finds whom it expects, and would take the other's note away, each time the document is loaded. A provider
   * that was not given anybody always does, and may be around one that was.
   */
  place?: string;
};

/** Load the document anew once the session of this browser is not the one that `shown` was rendered for. */
const Follow = ({ shown, place = NOTE + typeof shown }: FollowProps): ReactNode => {
  const { client } = useAuth();
  useEffect(() => {
    let expected = shown;
    /** Returns whether somebody else is there, for whom the document was loaded anew already. */
    const look = (): boolean => {
      const session = sessionOf(client.getSnapshot());
      if (leaving.has(client)) return false;
      expected ??= session;
      const known = session !== undefined;
      const other = known && session !== expected;
      // No session is called as the place is: the one who was expected is there.
      const leaves = known && note(place, other ? session : place) && other;
      // What was rendered for somebody is hidden while it is not certain that they are still there.
      if (leaves || shown) document.documentElement.style.visibility = leaves || !known ? "hidden" : "";
      if (leaves) {
        leaving.add(client);
        // After what the client is about to do: a logout removes the hint first, and then no server signs in by it.
        setTimeout(() => location.reload());
      }
      return other && !leaves;
    };
    // Loaded anew for that session before; but if the router came here because it has ended now, only the server knows.
    // So ask it: of an end the browser hears then, and the provider does the rest.
    if (look())
      client
        .getToken()
        .then((token) => token && client.renew(token))
        .catch(() => {});
    const leave = client.subscribe(look);
    return () => {
      leave();
      // What comes after this, if not another document, is of another part of the application.
      if (shown && !leaving.has(client)) document.documentElement.style.visibility = "";
    };
  }, [client, shown, place]);
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
    <Follow shown="" place="kt_anonymous" />
    {children}
  </>
);
