/** The React binding of Keyturn. This is its whole public surface. */
export {
  AuthLoading,
  AuthProvider,
  type AuthProviderProps,
  RequireAuth,
  type RequireAuthProps,
  SignedIn,
  SignedOut,
} from "./components.tsx";
export {
  type AuthActions,
  type AuthView,
  type Idle,
  type UseAuth,
  useAuth,
  useIdle,
  useSession,
  useUser,
} from "./hooks.ts";
