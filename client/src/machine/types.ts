/**
 * The values the client is made of.
 *
 * Owns: what an application sees (`AuthState`) and what the server says. Must not hold: behaviour.
 */
import type { components } from "../contract.ts";

/** The user as the server describes them. */
export type User = Readonly<components["schemas"]["KeyturnUser"]>;

/** What the server says about a session; members it may add later are passed through. */
export type WireSession = Readonly<components["schemas"]["KeyturnSession"]>;

/** The answer of `login`, `signup` and `refresh`. */
export type Answer = Readonly<components["schemas"]["KeyturnSignedIn"]>;

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
export type Warning = {
  /** `inactivity`: it goes on if a person acts (`auth.stay()`). `absolute`: only a new login helps. */
  readonly kind: "inactivity" | "absolute";
  /** When it ends, on the clock of `auth.now()`. */
  readonly endsAt: number;
};

/** Somebody is signed in; `degraded` when the last refresh failed and the client will try again. */
export type SignedInState = {
  /** Both mean that somebody is signed in. */
  readonly status: "authenticated" | "degraded";
  /** The same object for as long as nothing of the user changes. */
  readonly user: User;
  /** Another object after each refresh. */
  readonly session: Session;
  /** There while the session is about to end. */
  readonly warning?: Warning | undefined;
};

/**
 * What an application sees. Frozen, and the same object for as long as nothing changes.
 *
 * `unknown`: the server has yet to say who may be shown, at the load of a page, back from the page cache, past an end of
 * the session. `anonymous`: nobody is signed in.
 */
export type AuthState =
  | { readonly status: "unknown" }
  | { readonly status: "anonymous"; readonly reason: Reason }
  | SignedInState;

/** What `auth.on` listeners are told, by event. */
export type AuthEvents = {
  /** Somebody is signed in where nobody was: by a login in any tab, or since the page has found their session. */
  signedIn: SignedInState;
  /** The session has ended, or a page that hoped to find one learns so. Not told for the reason `never`. */
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
export type Identity = {
  /** Who. */
  readonly user: User;
  /** By which session. Its times count from when the server answered. */
  readonly session: WireSession;
};
