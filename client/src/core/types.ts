/**
 * The public shape of the client and what it needs from the browser.
 *
 * Owns: types only. Must not hold: behaviour.
 */
import type { paths } from "../contract.ts";
import type { AuthState, Identity, AuthEvents as MachineEvents, User } from "../machine/types.ts";
import type { AuthError } from "./errors.ts";

type Body<Path extends "/auth/login" | "/auth/signup"> =
  paths[Path]["post"]["requestBody"]["content"]["application/json"];

/** What `login` takes: e-mail address and password, if they are to be remembered, how the device is called. */
export type LoginBody = Body<"/auth/login">;

/** What `signup` takes: as for a login, and a name. */
export type SignupBody = Body<"/auth/signup">;

/** One of the user's sessions, as shown to them. */
export type ListedSession = Readonly<
  paths["/auth/sessions"]["get"]["responses"][200]["content"]["application/json"]["sessions"][number]
>;

/** What `auth.on` listeners are told, by event. */
export type AuthEvents = Omit<MachineEvents, "degraded"> & {
  /** A refresh failed without saying anything about the session; told once until one succeeds. */
  degraded: { readonly error: AuthError };
};

/** What `fetch` takes; an address has none of the members of a Request. */
export type Target = (RequestInfo | URL) & Partial<Request>;

/** The part of BroadcastChannel that is used. */
export type Channel = {
  postMessage: (message: unknown) => void;
  close: () => void;
  onmessage: ((event: MessageEvent) => void) | null;
};

/** What the client uses of the browser, by the browser's own names: `globalThis` is one. Tests bring another. */
export type Environment = {
  fetch(input: RequestInfo | URL, init?: RequestInit): Promise<Response>;
  setTimeout(callback: () => void, milliseconds?: number): unknown;
  setInterval(callback: () => void, milliseconds: number): unknown;
  /** Ends what either of them began, as in browsers. */
  clearInterval(timer: never): void;
  /** Never goes back; may stand still while the device sleeps. */
  readonly performance: { now(): number };
  /** May be wrong and may jump. */
  readonly Date: { now(): number };
  readonly Math: { random(): number };
  readonly AbortSignal: { timeout(milliseconds: number): AbortSignal };
  /** Where the events of the page and of the person arrive: wherever there is a `document`. */
  addEventListener(name: string, listener: (event: Event) => void, options: AddEventListenerOptions): void;
  /** Without it (server, edge, worker) `start` does nothing. */
  readonly document?: { cookie: string; readonly hidden: boolean; readonly baseURI?: string };
  /** `"null"` in a document that has none of its own (a sandboxed frame, a `data:` address), whatever its address. */
  readonly origin?: string;
  readonly location?: { readonly href: string; readonly origin: string; readonly hostname: string };
  readonly navigator?: { readonly onLine: boolean; readonly locks?: Locks };
  readonly BroadcastChannel?: new (name: string) => Channel;
  /** For two facts that hold no secret: when a person last acted, and that a logout is still to be sent. */
  readonly localStorage?: Pick<Storage, "getItem" | "setItem">;
};

/** The part of Web Locks that is used. Only a secure context has them; without, tabs may refresh at once. */
export type Locks = {
  request(name: string, options: { signal: AbortSignal }, run: () => Promise<void>): Promise<unknown>;
};

/** What a client is made with. */
export type AuthClientOptions = {
  /** Where the server's routes are, a path or a full address without a slash at the end; default `/auth`. */
  baseUrl?: string | undefined;
  /**
   * The origins whose requests through `auth.fetch` get the access token; default the page's own, which is no longer among
   * them once others are named. Each exactly as `location.origin` has it: `https://api.example.com`, without a slash at
   * the end.
   */
  apiOrigins?: readonly string[] | undefined;
  /** Seconds before the end of the session at which a warning starts; default 60. */
  idleWarning?: number | undefined;
  /** The browser; default `globalThis`. For tests and unusual hosts. */
  environment?: Environment | undefined;
};

/** How long a token has to last, and how long to wait for it. */
export type TokenOptions = {
  /** Seconds the token has to last at least; default 10. Never more than a twentieth of its lifetime is asked for. */
  minTtl?: number | undefined;
  /** Gives the wait up, which then fails with the signal's reason. The refresh goes on, for others may wait for it. */
  signal?: AbortSignal | null | undefined;
};

/** The client of one server in one page. */
export type AuthClient = {
  /** Begin: refresh silently if there may be a session, listen to the page and to other tabs. May be nested. */
  start(): void;
  /** Stop listening. Calls nest: the last `stop` undoes the first `start`. */
  stop(): void;
  /** Who is signed in, as far as is known now. */
  getSnapshot(): AuthState;
  /** What to render on a server, and in a browser that takes its page over: always `unknown`. */
  getServerSnapshot(): AuthState;
  /** Call back after every change of the snapshot. Returns the function that ends this. */
  subscribe(callback: () => void): () => void;
  /** Call back whenever this event happens. Returns the function that ends this. */
  on<Name extends keyof AuthEvents>(name: Name, callback: (detail: AuthEvents[Name]) => void): () => void;
  /**
   * Show who a render server found signed in, while nothing better is known. There is no token by that: the first
   * refresh brings one.
   */
  hydrate(identity: Identity): void;
  /**
   * A valid access token, refreshed when needed; null when nobody is signed in. It is that of whoever is signed in once it
   * is there: compare `epoch` before and after where that matters, as `fetch` does.
   *
   * Throws: the AuthError of the last refresh when there is no token because it failed (`offline`, `network`, `timeout`,
   * `unexpected_answer`, or what the server answered); the signal's reason.
   */
  getToken(options?: TokenOptions): Promise<string | null>;
  /**
   * Get a new access token though `rejected`, the one an API refused, looks valid.
   *
   * Returns the newer token when there is one already, or null when there is no session any more. Throws as `getToken`.
   */
  renew(rejected: string, options?: TokenOptions): Promise<string | null>;
  /**
   * As `fetch`, with the access token for the API's origins; after a 401 one refresh and one retry, with the same body. A
   * stream as `body` goes out once. A request with an `Authorization` of its own is left alone.
   *
   * Throws: what `fetch` throws; what `getToken` throws; AuthError `session_changed` when another user, or nobody, is
   * there by now. An error status of the API is an answer, as for `fetch`.
   */
  fetch(input: RequestInfo | URL, init?: RequestInit): Promise<Response>;
  /**
   * Sign in, in every tab; whoever was signed in before is not any more.
   *
   * Throws: AuthError `invalid_credentials`; `throttled`, with `retryAfter`; `session_changed` when a logout or another
   * login came between; any other code. A login that fails changes nothing here.
   */
  login(body: LoginBody): Promise<User>;
  /**
   * Create a user and sign them in, as `login` does.
   *
   * Throws: AuthError `conflict` when the address is taken; `invalid_request` when the address or the password will not
   * do; `not_found` when the server takes no sign-ups; otherwise as `login`.
   */
  signup(body: SignupBody): Promise<User>;
  /**
   * Sign out here at once, in every tab; the server is told when it can be reached. `everywhere`: in all of the user's
   * browsers.
   *
   * Resolves when the server has answered or cannot be reached, after 10 s at most. Never throws.
   */
  logout(options?: { everywhere?: boolean | undefined }): Promise<void>;
  /** The user's sessions, in this browser and others. Throws: AuthError. */
  readonly sessions: {
    /** All that are live, this one among them (`current`). */
    list(): Promise<readonly ListedSession[]>;
    /** End one of the user's sessions; ending this one is a logout. */
    revoke(id: string): Promise<void>;
  };
  /** A person wants to stay: closes the warning in every tab and tells the server once. */
  stay(): void;
  /** Change how many seconds before the end the warning starts. */
  warnAt(seconds: number): void;
  /** The clock that the ends in `Session` and `Warning` are on: milliseconds, sleep included. */
  now(): number;
  /**
   * The origin of this address if a request to it gets the access token, else false. A relative one counts from the page,
   * as for `fetch`. The server's own routes that sign in and out get none.
   */
  covers(url: string | URL): string | false;
  /** Whether a `WWW-Authenticate` asks for a stronger or fresher login; if so `stepUp` happens. No refresh helps then. */
  challenged(challenge: string | null | undefined): boolean;
  /** Raised whenever another session begins or this one ends; data asked for under a lower one is stale. */
  readonly epoch: number;
};
