/** The browser client of Keyturn. This is its whole public surface. */
export { createAuthClient } from "./core/client.ts";
export { AuthError, type ClientErrorCode, type ErrorCode, type ServerErrorCode } from "./core/errors.ts";
export type {
  AuthClient,
  AuthClientOptions,
  AuthEvents,
  Channel,
  Environment,
  ListedSession,
  Locks,
  LoginBody,
  SignupBody,
  TokenOptions,
} from "./core/types.ts";
export type {
  Answer,
  AuthState,
  Identity,
  Reason,
  Session,
  SignedInState,
  User,
  Warning,
  WireSession,
} from "./machine/types.ts";
