/**
 * The public shape of the client and what it needs from the browser.
 *
 * Owns: types only. Must not hold: behaviour.
 */
import type { paths } from "../contract.ts";
import type { AuthEvents, AuthState, Identity, User } from "../machine/types.ts";

type Body<Path extends "/auth/login" | "/auth/signup"> =
  paths[Path]["post"]["requestBody"]["content"]["application/json"];

export type LoginBody = Body<"/auth/login">;
export type SignupBody = Body<"/auth/signup">;

/** One of the user's sessions, as shown to them. */
export type ListedSession = Readonly<
  paths["/auth/sessions"]["get"]["responses"][200]["content"]["application/json"]["sessions"][number]
>;

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

export type AuthClientOptions = {
  /** Where the server's routes are, without a slash at the end; default `/auth`. */
  baseUrl?: string | undefined;
  /** The origins whose requests through `auth.fetch` get the access token; default the page's own. */
  apiOrigins?: readonly string[] | undefined;
  /** Seconds before the end of the session at which a warning starts; default 60. */
  idleWarning?: number | undefined;
  /** The browser; default `globalThis`. For tests and unusual hosts. */
  environment?: Environment | undefined;
};

export type TokenOptions = {
  /** Seconds the token has to last at least; default 10. Never more than a twentieth of its lifetime is asked for. */
  minTtl?: number | undefined;
  signal?: AbortSignal | null | undefined;
};

/** The client of one server in one page. */
export type AuthClient = {
  /** Begin: refresh silently if there may be a session, listen to the page and to other tabs. May be nested. */
  start(): void;
  /** Stop listening. Calls nest: the last `stop` undoes the first `start`. */
  stop(): void;
  getSnapshot(): AuthState;
  /** What to render before the browser has spoken. */
  getServerSnapshot(): AuthState;
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
  logout(options?: { everywhere?: boolean | undefined }): Promise<void>;
  readonly sessions: {
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
  /** The origin of this address if a request to it gets the access token, else false. */
  covers(url: string | URL): string | false;
  /** Whether a `WWW-Authenticate` asks for a stronger or fresher login; if so `stepUp` is told. No refresh helps then. */
  challenged(challenge: string | null | undefined): boolean;
  /** Raised whenever another session begins or this one ends; data asked for under a lower one is stale. */
  readonly epoch: number;
};
