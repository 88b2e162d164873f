/**
 * The hooks.
 *
 * Owns: what a component sees of the state and of time. Must not hold: rules (machine), a token.
 */
import { useEffect, useMemo, useReducer } from "react";
import type { AuthClient } from "../core/types.ts";
import type { AuthState, Reason, Session, User, Warning } from "../machine/types.ts";
import { useBinding, useSelected } from "./context.ts";

/** What a component can do. All of them may be taken out of the object. */
export type AuthActions = Pick<AuthClient, "login" | "signup" | "logout" | "fetch" | "getToken" | "sessions"> & {
  /** The client of the nearest `<AuthProvider>`, for what is not listed here. */
  readonly client: AuthClient;
};

/**
 * What a component sees: one kind per status, so that `status` tells TypeScript whether there is a `user`. What a status
 * has not is null.
 */
export type AuthView =
  | { readonly status: "unknown"; readonly user: null; readonly session: null; readonly reason: null }
  | { readonly status: "anonymous"; readonly user: null; readonly session: null; readonly reason: Reason }
  | {
      readonly status: "authenticated" | "degraded";
      readonly user: User;
      readonly session: Session;
      readonly reason: null;
    };

/** What `useAuth` returns. */
export type UseAuth = AuthView & AuthActions;

/** The end of the session as far as a person should see it. */
export type Idle = {
  /** Set while the session is about to end. `kind` says whether staying helps: against `absolute` only a login does. */
  readonly warning: Warning | null;
  /** Whole seconds that are left, counted down while there is a warning. */
  readonly secondsLeft: number | null;
  /** The person wants to stay: closes the warning in every tab. */
  readonly stay: () => void;
};

export const userOf = (state: AuthState): User | null => ("user" in state ? state.user : null);
const sessionOf = (state: AuthState): Session | null => ("session" in state ? state.session : null);
const warningOf = (state: AuthState): Warning | null => ("warning" in state && state.warning) || null;
const all = (state: AuthState): AuthState => state;

/**
 * Read everything, and get what a component can do.
 *
 * @example
 * ```tsx
 * function Greeting() {
 *   const { status, user, logout } = useAuth();
 *   if (status === "unknown") return <p>One moment</p>;
 *   if (status === "anonymous") return <a href="/login">Log in</a>;
 *   return <button onClick={() => logout()}>Log {user.email} out</button>;
 * }
 * ```
 */
export const useAuth = (): UseAuth => {
  const { client } = useBinding();
  const state = useSelected(all);
  return useMemo(() => {
    const { login, signup, logout, fetch, getToken, sessions } = client;
    const actions: AuthActions = { client, login, signup, logout, fetch, getToken, sessions };
    return { user: null, session: null, reason: null, ...state, ...actions } as UseAuth;
  }, [client, state]);
};

/**
 * Read who is signed in, or null. Renders again only when that changes, not at a refresh.
 *
 * @example
 * ```tsx
 * const Name = () => <p>{useUser()?.name ?? "Guest"}</p>;
 * ```
 */
export const useUser = (): User | null => useSelected(userOf);

/**
 * Read the session of this browser, or null. Its three ends are on the clock of `auth.now()`.
 *
 * @example
 * ```tsx
 * const Since = () => <p>Signed in since {useSession()?.created_at}</p>;
 * ```
 */
export const useSession = (): Session | null => useSelected(sessionOf);

/**
 * Read that the session is about to end, and let the person stay.
 *
 * @param options - `warnAt`: how many seconds before the end the warning starts, for the whole page; without it, what
 * the client was made with.
 *
 * @example
 * ```tsx
 * function IdleWarning() {
 *   const { warning, secondsLeft, stay } = useIdle({ warnAt: 120 });
 *   if (!warning) return null;
 *   return (
 *     <div role="alertdialog" aria-label="Your session is about to end">
 *       {secondsLeft} s left {warning.kind === "inactivity" && <button onClick={stay}>Stay</button>}
 *     </div>
 *   );
 * }
 * ```
 */
export const useIdle = ({ warnAt }: { warnAt?: number | undefined } = {}): Idle => {
  const { client } = useBinding();
  const warning = useSelected(warningOf);
  const [, count] = useReducer((counted: number) => counted + 1, 0);
  const left = warning ? Math.max(0, warning.endsAt - client.now()) : null;

  useEffect(() => {
    if (warnAt !== undefined) client.warnAt(warnAt);
  }, [client, warnAt]);

  // After every render, up to the moment the number changes: an interval would drift over it.
  useEffect(() => {
    if (!left) return;
    const timer = setTimeout(count, left % 1000 || 1000);
    return () => clearTimeout(timer);
  });

  return { warning, secondsLeft: left && Math.ceil(left / 1000), stay: client.stay };
};
