/**
 * `createAuthClient`: the shell around the machine.
 *
 * Owns: the state (and with it the token, in this closure and nowhere else), the requests that change who is signed in
 * and their order, the page, the timer, other tabs. Must not hold: rules (machine), what is believed (check). One
 * closure, so that minifiers can shorten every name in it; the parts stand in the order in which they build on another.
 */
import {
  type Change,
  type Context,
  INITIAL,
  type Event as MachineEvent,
  nextAt,
  refreshAt,
  step,
  usable,
} from "../machine/machine.ts";
import type { AuthEvents, SignedInState, User } from "../machine/types.ts";
import { isAnswer, readMessage } from "./check.ts";
import { AuthError, readError } from "./errors.ts";
import { ACTED, CALM, LIMIT, LOCK_LIMIT, LONGEST_TIMER, OWED, OWED_INTERVAL, STREAM_SPARE } from "./limits.ts";
import type { AuthClient, AuthClientOptions, Channel, Environment } from "./types.ts";

/**
 * Make the client of one server for one page. Nothing is touched before `start()`; a render server makes one per request.
 *
 * @example
 * ```ts
 * const auth = createAuthClient({ baseUrl: "/auth" });
 * auth.subscribe(() => console.log(auth.getSnapshot().status));
 * auth.start();
 * const response = await auth.fetch("/api/profile");
 * ```
 */
export const createAuthClient = (options: AuthClientOptions = {}): AuthClient => {
  const { environment = globalThis as unknown as Environment } = options;
  const { document, navigator } = environment;
  const { href, origin, hostname } = environment.location ?? { href: "http://localhost" };
  const server = new URL(options.baseUrl ?? "/auth", href);
  const base = server.href;
  const origins = options.apiOrigins ?? [origin];
  const credentials = server.origin === origin ? "same-origin" : "include";

  let state = INITIAL;
  let lead = (options.idleWarning ?? 60) * 1000;
  let starts = 0;
  let calmUntil = 0;
  let listening: AbortController | undefined;
  let channel: Channel | undefined;
  let timer: unknown;
  /** What is under way, and whose result counts: after `drop` nobody's. */
  let flight: Promise<void> | undefined;
  let current: object | undefined;
  let leaving: Promise<void> | undefined;

  // -- Time
  let ahead = -Infinity;

  // Never goes back, and does not stand still while the device sleeps as `performance` does in some browsers. The date
  // may be wrong: when it jumps ahead that is taken for sleep, which at worst costs one refresh. Tabs that opened before
  // and after it was set back disagree, so another tab's times are never later than now.
  const now = () => {
    const steady = environment.performance.now();
    ahead = Math.max(ahead, environment.Date.now() - steady);
    return steady + ahead;
  };
  const awake = () => document?.visibilityState !== "hidden" && navigator?.onLine !== false;

  const arm = () => {
    environment.clearTimeout(timer as never);
    if (listening)
      timer = environment.setTimeout(look, Math.min(nextAt(state, lead, awake() && !flight) - now(), LONGEST_TIMER));
  };

  // -- State
  // An EventTarget, because a listener that throws is reported and the next one is called all the same.
  const bus = new EventTarget();

  const on: AuthClient["on"] = (name, callback) => {
    const listener = ({ detail }: CustomEventInit) => callback(detail);
    bus.addEventListener(name, listener);
    return () => bus.removeEventListener(name, listener);
  };
  const emit = (name: string, detail?: unknown) => bus.dispatchEvent(new CustomEvent(name, { detail }));

  const dispatch = (change: Change & Partial<Context>) => {
    const former = state;
    const { epoch } = former;
    const event = { at: now(), epoch, own: true, random: environment.Math.random(), lead, ...change } as MachineEvent;
    const [next, ...effects] = step(former, event);
    state = next;
    // Before anything else: nothing that is under way may sign in again.
    if (next.ended && epoch !== next.epoch) drop();
    // Other tabs take what they know of it, and leave the rest.
    if (event.own && next !== former) channel?.postMessage({ id: former.seen?.session.id, ...event });
    for (const [name, detail = next.view] of effects) emit(name, detail);
    if (next.view !== former.view) emit("change");
    arm();
  };
  const gone = () => state.view.status === "anonymous";

  /** Whether there may be a session; undefined where the page cannot see the cookie of the server's host. */
  const hint = () => (document && server.hostname === hostname ? /\bkt_hint=1/.test(document.cookie) : undefined);

  /** Without a hint there is no session, and no request. */
  const glance = () => {
    if (state.view.status === "unknown" && hint() === false)
      dispatch({ type: "ended", reason: state.seen ? "logout" : "never", own: false });
  };

  /** Read, write or remove (null) a note that outlives the page, where that is allowed. */
  const note = (key: string, value?: string | null) => {
    try {
      const notes = environment.localStorage;
      if (value) notes?.setItem(key, value);
      else if (value === null) notes?.removeItem(key);
      else return notes?.getItem(key);
    } catch {}
    return undefined;
  };

  // -- Requests
  const post = async (path: string, body: object): Promise<unknown> => {
    try {
      const response = await environment.fetch(base + path, {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-Keyturn": "1" },
        credentials,
        cache: "no-store",
        body: JSON.stringify(body),
        redirect: "error",
        // Why: without it a page that navigates away loses the cookie of the answer (measured: 3 of 3).
        keepalive: true,
        signal: environment.AbortSignal.timeout(LIMIT),
      });
      if (!response.ok) throw await readError(response);
      return await response.json().catch(() => 0);
    } catch (error) {
      if (error instanceof AuthError) throw error;
      const late = (error as Error).name === "TimeoutError";
      throw new AuthError(late ? "timeout" : navigator?.onLine === false ? "offline" : "network");
    }
  };

  /** Ask for a token and take it, unless what was asked for is void by then. */
  const ask = async (path: string, body: object, mine: object, context: Partial<Context> = {}) => {
    const at = now();
    const answer = await post(path, body);
    if (!isAnswer(answer)) throw new AuthError("unexpected_answer");
    if (current !== mine) throw new AuthError("session_changed");
    dispatch({ type: "granted", answer, at, ...context });
  };

  /**
   * Run while no other tab does.
   * No lock makes this correct (a tab that goes away drops its lock while its request travels); the server does. It
   * saves requests.
   */
  const locked = async (run: () => Promise<void>) => {
    let ran: Promise<void> | undefined;
    const once = () => (ran ??= run());
    const signal = environment.AbortSignal.timeout(LOCK_LIMIT);
    await navigator?.locks?.request(base, { signal }, once).catch(() => {});
    return once();
  };
  const drop = () => {
    current = flight = undefined;
  };

  /** Where no channel told of a login elsewhere, the hint does. */
  const doubt = () => void (gone() && hint() && !note(OWED) && refresh());

  // Why nothing is ever aborted: Chromium stores the cookies of a `keepalive` answer all the same (measured).
  const fly = (run: (mine: object) => Promise<void>): Promise<void> => {
    const mine = {};
    current = mine;
    flight = locked(() => run(mine)).finally(() => {
      if (current === mine) drop();
      arm();
    });
    return flight;
  };

  /** Refresh, or join what is under way, or do nothing within a cool-down. The state says how it went. */
  const refresh = async (): Promise<void> => {
    const { token, epoch, retryAt } = state;
    const run = async (mine: object) => {
      // A broadcast that is already queued lands first.
      await new Promise<void>((resolve) => environment.setTimeout(resolve));
      if (current !== mine || state.token !== token) return;
      // Infinite, in JSON null, when nobody has acted: a refresh is no person.
      const idle_seconds = Math.round((now() - state.activeAt) / 1000);
      try {
        await ask("/refresh", { idle_seconds }, mine, { epoch });
      } catch (thrown) {
        const error = thrown as AuthError;
        const { reason, code } = error;
        if (current === mine) dispatch(reason ? { type: "ended", reason, epoch } : { type: "failed", error, epoch });
        // It came too late and brought back the cookie of the session that was left: the server removes it.
        else if (code === "session_changed") doubt();
      }
    };
    if (flight || now() >= retryAt) await (flight ?? fly(run)).catch(() => {});
  };

  /** Get a token that is not `rejected` and lasts for `spare` seconds; null when nobody is signed in. */
  const obtain = async (spare: number, rejected: string | null, signal?: AbortSignal | null) => {
    signal?.throwIfAborted();
    const has = (least: number) => state.token !== rejected && usable(state, now(), least * 1000);
    glance();
    for (let tries = 2; tries-- && !gone() && !has(spare); ) {
      const waits = [refresh()];
      if (signal) waits.push(new Promise((_, no) => signal.addEventListener("abort", () => no(signal.reason))));
      await Promise.race(waits);
    }
    if (gone()) return null;
    if (has(0)) return state.token;
    throw state.error ?? new AuthError("network");
  };

  /** Send the logout that is owed. */
  const settle = async (owed = note(OWED)): Promise<void> => {
    if (!owed) return;
    try {
      await post("/logout", { everywhere: owed === "true" });
    } catch (error) {
      if ((error as AuthError).retryable) return void environment.setTimeout(pay, OWED_INTERVAL);
    }
    note(OWED, null);
  };
  const pay = () => locked(() => settle());

  const enter = async (path: string, body: object): Promise<User> => {
    await leaving;
    await pay();
    // What is still owed is void: the server ends the former session of this browser when it opens the next one.
    note(OWED, null);
    await fly((mine) => ask(path, body, mine));
    act(true);
    return (state.view as SignedInState).user;
  };

  const logout: AuthClient["logout"] = ({ everywhere = false } = {}) => {
    dispatch({ type: "ended", reason: "logout" });
    // The server does it, too, when it can be reached.
    if (document) document.cookie = "kt_hint=; Path=/; Max-Age=0; Secure";
    const owed = `${everywhere}`;
    note(OWED, owed);
    // Not locked: the page may go away at once.
    leaving = settle(owed);
    return leaving;
  };

  // -- The page, the person, other tabs
  const act = (stay: boolean) => dispatch({ type: "acted", stay });

  const look = () => {
    dispatch({ type: "tick" });
    if (awake() && now() >= refreshAt(state, lead)) void refresh();
  };

  const happens = ({ type, persisted }: Event & { persisted?: boolean }) => {
    if (/^(po|k)/.test(type)) return act(false);
    // Before a page goes into the page cache, and before it is painted from there: whoever comes back may be another.
    if (persisted) {
      drop();
      dispatch({ type: "hide" });
    }
    // For the next page: a person who clicks a link acts on this one.
    if (type === "pagehide") return note(ACTED, `${state.activeAt}`);
    if (type === "online") {
      dispatch({ type: "online" });
      void pay();
    }
    if (!awake()) return;
    glance();
    doubt();
    look();
  };

  const hear = ({ data }: MessageEvent) => {
    const message = readMessage(data);
    // Another tab's clock may be ahead.
    if (message) dispatch({ ...message, own: false, ...("at" in message && { at: Math.min(message.at, now()) }) });
  };

  const start = () => {
    if (starts++ || !document) return;
    listening = new AbortController();
    for (const name of "pointerdown pointermove keydown visibilitychange focus online pageshow pagehide".split(" "))
      environment.addEventListener?.(name, happens, { capture: true, signal: listening.signal });
    if (environment.BroadcastChannel) {
      channel = new environment.BroadcastChannel(base);
      channel.onmessage = hear;
    }
    hear({ data: { type: "acted", at: Number.parseFloat(note(ACTED) as string) } } as MessageEvent);
    glance();
    void pay();
    if (!gone() && !state.token) void refresh();
  };

  const stop = () => {
    if (!starts || --starts) return;
    listening?.abort();
    channel?.close();
    listening = channel = undefined;
    arm();
  };

  // -- The application's requests

  const covers: AuthClient["covers"] = (address) => {
    const url = new URL(address, href);
    // Where the cookie speaks, or nobody yet, a token is of no use, and a refresh for their 401 would never end.
    return url.href.startsWith(`${base}/`)
      ? !/^\/(refresh|login|signup|logout)\b/.test(url.href.slice(base.length))
      : origins.includes(url.origin);
  };

  const challenged: AuthClient["challenged"] = (challenge) => {
    const step = !!challenge?.includes("insufficient_user_authentication");
    if (step) emit("stepUp", { challenge });
    return step;
  };

  const authFetch = async (input: RequestInfo | URL, init: RequestInit = {}): Promise<Response> => {
    const request = input instanceof Request ? input : undefined;
    const headers = new Headers(init.headers ?? request?.headers);
    if (!covers(request?.url ?? (input as string | URL)) || headers.has("authorization"))
      return environment.fetch(input, init);
    const signal = init.signal ?? request?.signal;
    const streams = init.body instanceof ReadableStream;
    let token = await obtain(streams ? STREAM_SPARE : 10, null, signal);
    const { epoch } = state;
    const send = async () => {
      if (token) headers.set("authorization", `Bearer ${token}`);
      // A clone goes out, so that the body is still there for the second time.
      const response = await environment.fetch(request?.clone() ?? input, { ...init, headers });
      // What was asked for as one user must not reach a page that shows another, or nobody.
      if (token && state.epoch !== epoch) throw new AuthError("session_changed");
      return response;
    };
    const response = await send();
    if (challenged(response.headers.get("www-authenticate"))) return response;
    if (response.status !== 401 || !token || streams || now() < calmUntil) return response;
    token = await obtain(0, token, signal);
    if (!token || state.epoch !== epoch) return response;
    const second = await send();
    if (second.status === 401) calmUntil = now() + CALM;
    return second;
  };

  const call = async (method: string, path: string): Promise<Response> => {
    const response = await authFetch(base + path, { method });
    if (!response.ok) throw await readError(response);
    return response;
  };

  const hydrate: AuthClient["hydrate"] = (identity) => {
    const answer = { ...identity, access_token: null, expires_in: 0 } as const;
    if (!state.seen) dispatch({ type: "granted", answer });
  };
  if (options.initialSession) hydrate(options.initialSession);
  const first = state.view;

  return {
    start,
    stop,
    getSnapshot: () => state.view,
    getServerSnapshot: () => first,
    subscribe: (callback) => on("change" as keyof AuthEvents, callback),
    on,
    hydrate,
    getToken: ({ minTtl = 10, signal } = {}) => obtain(minTtl, null, signal),
    renew: (rejected, { signal } = {}) => obtain(0, rejected, signal),
    fetch: authFetch,
    login: (body) => enter("/login", body),
    signup: (body) => enter("/signup", body),
    logout,
    sessions: {
      list: async () => (await (await call("GET", "/sessions")).json()).sessions,
      revoke: async (id) =>
        state.seen?.session.id === id ? logout() : void (await call("DELETE", `/sessions/${encodeURIComponent(id)}`)),
    },
    stay() {
      act(true);
      void refresh();
    },
    warnAt(seconds) {
      lead = seconds * 1000;
      dispatch({ type: "tick" });
    },
    now,
    covers,
    challenged,
    get epoch() {
      return state.epoch;
    },
  };
};
