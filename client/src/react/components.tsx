/**
 * The components.
 *
 * Owns: what is shown to whom. Must not hold: markup of its own, routes, rules.
 */
import { Fragment, type ReactNode, useEffect, useMemo, useRef } from "react";
import type { AuthClient } from "../core/types.ts";
import type { AuthState, Identity, Reason, User } from "../machine/types.ts";
import { bind, Context, useSelected } from "./context.ts";
import { userOf } from "./hooks.ts";

/** What `<AuthProvider>` takes. */
export type AuthProviderProps = {
  /** Made once, outside of components: another one starts anew. */
  client: AuthClient;
  /**
   * Who a render server found signed in: `{ user, session }` of its answer, shown until the browser has verified it. What
   * is given first counts; the client knows better than what comes later. With null, as without it, nothing is known:
   * `<AuthLoading>` is shown, and `<SignedOut>` as soon as the browser knows.
   *
   * Why no token: what a server component passes on stands readable in the page.
   */
  initialSession?: (Identity & { readonly access_token?: never }) | null | undefined;
  children?: ReactNode;
};

/**
 * Give the components below it the client, and run the client for as long as it is mounted.
 *
 * @example
 * ```tsx
 * const auth = createAuthClient();
 * createRoot(document.getElementById("root")!).render(
 *   <AuthProvider client={auth}>
 *     <App />
 *   </AuthProvider>,
 * );
 * ```
 */
export const AuthProvider = ({ client, initialSession, children }: AuthProviderProps): ReactNode => {
  // biome-ignore lint/correctness/useExhaustiveDependencies: what was rendered counts until the client knows better
  const binding = useMemo(() => bind(client, initialSession), [client]);
  useEffect(() => binding.begin(), [binding]);
  return <Context.Provider value={binding}>{children}</Context.Provider>;
};

/** Another user gets other instances: state of the former one's components must not meet the new one's token. */
const forUser = (user: User, children: ReactNode): ReactNode => <Fragment key={user.id}>{children}</Fragment>;

const statusOf = (state: AuthState): AuthState["status"] => state.status;
const reasonOf = (state: AuthState): Reason | null => ("reason" in state ? state.reason : null);

/**
 * Show something to who is signed in. When another user signs in, it starts anew.
 *
 * @example
 * ```tsx
 * <SignedIn><Profile /></SignedIn>
 * ```
 */
export const SignedIn = ({ children }: { children?: ReactNode }): ReactNode => {
  const user = useSelected(userOf);
  return user && forUser(user, children);
};

/**
 * Show something when it is certain that nobody is signed in.
 *
 * @example
 * ```tsx
 * <SignedOut><LoginForm /></SignedOut>
 * ```
 */
export const SignedOut = ({ children }: { children?: ReactNode }): ReactNode =>
  useSelected(statusOf) === "anonymous" ? children : null;

/**
 * Show something while it is not known yet whether somebody is signed in.
 *
 * @example
 * ```tsx
 * <AuthLoading><Spinner /></AuthLoading>
 * ```
 */
export const AuthLoading = ({ children }: { children?: ReactNode }): ReactNode =>
  useSelected(statusOf) === "unknown" ? children : null;

/** What `<RequireAuth>` takes. */
export type RequireAuthProps = {
  children?: ReactNode;
  /** Shown while it is not known yet. */
  loading?: ReactNode;
  /** Shown when nobody is signed in. */
  fallback?: ReactNode;
  /** Called when nobody is signed in, to go to a login page. */
  onSignedOut?: ((reason: Reason) => void) | undefined;
};

/**
 * Show something only to who is signed in, and say what the others get.
 *
 * @example
 * ```tsx
 * <RequireAuth loading={<Spinner />} onSignedOut={() => navigate("/login")}>
 *   <Settings />
 * </RequireAuth>
 * ```
 */
export const RequireAuth = ({ children, loading, fallback, onSignedOut }: RequireAuthProps): ReactNode => {
  const user = useSelected(userOf);
  const reason = useSelected(reasonOf);
  const latest = useRef(onSignedOut);
  // The newest callback, without calling it again because it is written inline.
  useEffect(() => {
    latest.current = onSignedOut;
  });
  useEffect(() => {
    if (reason) latest.current?.(reason);
  }, [reason]);
  return user ? forUser(user, children) : reason ? fallback : loading;
};
