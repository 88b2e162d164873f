/**
 * The values the client is made of.
 *
 * Owns: what an application sees (`AuthState`) and what the server says. Must not hold: behaviour.
 */
import type { components } from "../contract.ts";

/** The user as the server describes them. */
export type User = Readonly<components["schemas"]["UserOut"]>;

/** What the server says about a session; members it may add later are passed through. */
export type WireSession = Readonly<components["schemas"]["SessionOut"]>;

/** The answer of `login`, `signup` and `refresh`. */
export type Answer = Readonly<components["schemas"]["SignedInOut"]>;

/**
 * The session this browser holds.
 *
 * The three ends are milliseconds on the client's own clock, `auth.now()`: close to the device's date, and never going
 * back.
 */
export type Session = WireSession & {
  /** When the access token expires. */
  readonly accessEndsAt: number;
  /** When the session ends unless a person acts. */
  readonly inactivityEndsAt: number;
  /** When it ends whatever anybody does. */
  readonly absoluteEndsAt: number;
};

/** Why nobody is signed in. The server may add reasons; treat one you do not know like `expired`. */
export type Reason =
  | "never"
  | "logout"
  | "logout_other_tab"
  | "expired"
  | "inactivity"
  | "absolute"
  | "revoked"
  | "reuse_detected"
  | "password_changed"
  | "user_disabled"
  | "evicted";

/** The session is about to end: because nobody acts, or because it has reached its longest life. */
export type Warning = { readonly kind: "inactivity" | "absolute"; readonly endsAt: number };

/** Somebody is signed in; `degraded` when the last refresh failed and the client will try again. */
export type SignedInState = {
  readonly status: "authenticated" | "degraded";
  readonly user: User;
  readonly session: Session;
  readonly warning?: Warning | undefined;
};

/** What an application sees. Frozen, and the same object for as long as nothing changes. */
export type AuthState =
  | { readonly status: "unknown" }
  | { readonly status: "anonymous"; readonly reason: Reason }
  | SignedInState;

/** What `auth.on` listeners are told, by event. */
export type AuthEvents = {
  signedIn: SignedInState;
  signedOut: { readonly reason: Reason };
  /** Another user has signed in in this browser: everything of the former one must leave the page. */
  userChanged: SignedInState;
  /** The same user has a new access token. */
  refreshed: SignedInState;
  /** A refresh failed without saying anything about the session; told once until one succeeds. */
  degraded: { readonly error: unknown };
  /** A warning begins, or turns into one of the other kind. Its end is a snapshot without one. */
  idleWarning: Warning;
  /** An API wants a stronger or fresher login (RFC 9470); `challenge` is its `WWW-Authenticate`. */
  stepUp: { readonly challenge: string };
};

/** The part of an answer that says who is signed in; a render server may hand it to the page. */
export type Identity = { readonly user: User; readonly session: WireSession };
