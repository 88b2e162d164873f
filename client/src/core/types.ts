/**
 * The public shape of the client and what it needs from the browser.
 *
 * Owns: types only. Must not hold: behaviour.
 */
import type { paths } from "../contract.ts";
import type { AuthEvents, AuthState, Identity, User } from "../machine/types.ts";

type Body<Path extends "/auth/login" | "/auth/signup" | "/auth/password"> =
  paths[Path]["post"]["requestBody"]["content"]["application/json"];

export type LoginBody = Body<"/auth/login">;
export type SignupBody = Body<"/auth/signup">;
export type PasswordBody = Body<"/auth/password">;

/** One of the user's sessions, as shown to them. */
export type ListedSession = Readonly<
  paths["/auth/sessions"]["get"]["responses"][200]["content"]["application/json"]["sessions"][number]
>;

/** What the client uses of the browser. Every member has a browser default; tests replace them one by one. */
export type Environment = {
  fetch: (input: RequestInfo | URL, init?: RequestInit) => Promise<Response>;
  /** Milliseconds that never go back; may stand still while the device sleeps. */
  monotonic: () => number;
  /** The device's date in milliseconds; may be wrong and may jump. */
  date: () => number;
  random: () => number;
  setTimeout: (callback: () => void, milliseconds: number) => unknown;
  clearTimeout: (timer: unknown) => void;
  /** Where page and person events arrive; without it (server, edge) `start` does nothing. */
  window?: Pick<EventTarget, "addEventListener"> | undefined;
  document?: { cookie: string; readonly visibilityState: string } | undefined;
  location?: { readonly href: string; readonly origin: string } | undefined;
  navigator?: { readonly onLine: boolean } | undefined;
  locks?:
    | { request: (name: string, options: { signal: AbortSignal }, run: () => Promise<void>) => Promise<unknown> }
    | undefined;
  openChannel?: ((name: string) => Channel) | undefined;
  /** For two facts that hold no secret: when a person last acted, and that a logout is still to be sent. */
  storage: Pick<Storage, "getItem" | "setItem" | "removeItem">;
};

/** The part of BroadcastChannel that is used. */
export type Channel = {
  postMessage: (message: unknown) => void;
  close: () => void;
  onmessage: ((event: MessageEvent) => void) | null;
};

export type AuthClientOptions = {
  /** Where the server's routes are; default `/auth`. */
  baseUrl?: string;
  /** The origins whose requests through `auth.fetch` get the access token; default the page's own. */
  apiOrigins?: readonly string[];
  /** Seconds before the end of the session at which a warning starts; default 60. */
  idleWarning?: number;
  /** Who a render server found signed in: shown until the browser has verified it. */
  initialSession?: Identity | undefined;
  /** Replaces parts of the browser, for tests and unusual hosts. */
  environment?: Partial<Environment>;
};

export type TokenOptions = {
  /** Seconds the token has to last at least, where its lifetime allows. */
  minTtl?: number;
  signal?: AbortSignal | null | undefined;
};

/** The client of one server in one page. */
export type AuthClient = {
  /** Begin: refresh silently if there may be a session, listen to the page and to other tabs. May be nested. */
  start(): void;
  /** Stop listening. Calls nest: the last `stop` undoes the first `start`. */
  stop(): void;
  getSnapshot(): AuthState;
  /**
   * What to render before the browser has spoken: with `identity` as of that user, and nothing of it is kept. Its times
   * count from 0, so that a server and a browser render the same.
   */
  getServerSnapshot(identity?: Identity): AuthState;
  /** Call back after every change of the snapshot; returns the way to stop that. */
  subscribe(callback: () => void): () => void;
  /** Tell what happens; returns the way to stop that. */
  on<Name extends keyof AuthEvents>(name: Name, callback: (detail: AuthEvents[Name]) => void): () => void;
  /** Show who a render server found signed in, while nothing better is known. */
  hydrate(identity: Identity): void;
  /** A valid access token, refreshed when needed; null when nobody is signed in. Throws `AuthError` otherwise. */
  getToken(options?: TokenOptions): Promise<string | null>;
  /**
   * Get a new access token though `rejected`, the one an API refused, looks valid.
   *
   * Returns the newer token when there is one already, or null when there is no session any more.
   */
  renew(rejected: string, options?: TokenOptions): Promise<string | null>;
  /** As `fetch`, with the access token for the API's origins; after a 401 one refresh and one retry. */
  fetch(input: RequestInfo | URL, init?: RequestInit): Promise<Response>;
  login(body: LoginBody): Promise<User>;
  signup(body: SignupBody): Promise<User>;
  /** Sign out here at once; the server is told when it can be reached. */
  logout(options?: { everywhere?: boolean }): Promise<void>;
  readonly sessions: {
    list(): Promise<readonly ListedSession[]>;
    revoke(id: string): Promise<void>;
    /** End all sessions but this one. */
    revokeOthers(): Promise<void>;
  };
  changePassword(body: PasswordBody): Promise<void>;
  /** A person wants to stay: closes the warning in every tab and tells the server once. */
  stay(): void;
  /** Change how many seconds before the end the warning starts. */
  warnAt(seconds: number): void;
  /** The clock that the ends in `Session` and `Warning` are on: milliseconds, sleep included. */
  now(): number;
  /** Whether a request to this address gets the access token. */
  covers(url: string | URL): boolean;
  /** Raised whenever another session begins or this one ends; data asked for under a lower one is stale. */
  readonly epoch: number;
};
