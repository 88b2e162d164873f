/**
 * `createAuthClient`: the shell around the machine.
 *
 * Owns: the state (and with it the token, in this closure and nowhere else), the requests that change who is signed in
 * and their order, the page, the heartbeat, other tabs, the application's requests. Must not hold: rules (machine), what is believed (check). One
 * closure, so that minifiers can shorten every name in it; the parts stand in the order in which they build on another.
 */
import { ACTED, CALM, HAND_OVER, HEARTBEAT, LIMIT, LOCK_LIMIT, OWED, OWED_INTERVAL, STREAM_SPARE } from "../limits.ts";
import {
  type Change,
  type Context,
  INITIAL,
  type Event as MachineEvent,
  news,
  refreshAt,
  step,
  usable,
} from "../machine/machine.ts";
import type { Identity, User } from "../machine/types.ts";
import { isAnswer, isMessage } from "./check.ts";
import { AuthError, accept, read } from "./errors.ts";
import type { AuthClient, AuthClientOptions, AuthEvents, Channel, Environment, Target, TokenOptions } from "./types.ts";

/** The document, where there is one, or where it does not matter that there is none. */
type Page = NonNullable<Environment["document"]>;

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
  const { environment = globalThis as Environment } = options;
  // A render server has no address; nothing is asked from there.
  const { document, navigator, location = { href: "no:/" } as Location } = environment;
  const { href: base, hostname: host } = new URL(options.baseUrl ?? "/auth", location.href);
  const origins = options.apiOrigins ?? [location.origin];

  /** What listeners are being told, and are still to be told. */
  let told: (readonly [string, unknown])[] = [];
  let state = INITIAL;
  let lead = (options.idleWarning ?? 60) * 1000;
  let starts = 0;
  let listening: AbortController | undefined;
  let channel: Channel | undefined;
  let heartbeat: unknown;
  /** What is under way. The result of nothing else counts. */
  let flight: Promise<void> | undefined;

  // -- Time
  let ahead = 0;

  // Never goes back, and does not stand still while the device sleeps as `performance` does in some browsers. The date
  // may be wrong: when it jumps ahead that is taken for sleep, which costs one refresh, and at worst shows nobody until that
  // is back.
  const now = () => {
    const steady = environment.performance.now();
    ahead = Math.max(ahead, environment.Date.now() - steady);
    return steady + ahead;
  };
  // How far the date is behind that, in a tab that opened before it was set back. Tabs tell each other times by the date:
  // it is the same in all of them.
  const skew = () => now() - environment.Date.now();

  /**
   * Do what a browser may refuse, where nothing depends on it: storage is blocked or full, the document has no origin of
   * its own (a sandboxed frame, a `data:` address), there is no such thing.
   */
  const attempt = <Result>(run: () => Result): Result | undefined => {
    try {
      return run();
    } catch {}
    return undefined;
  };

  // -- State
  // An EventTarget, because a listener that throws is reported and the next one is called all the same.
  const bus = new EventTarget();

  const on: AuthClient["on"] = (name, callback) => {
    const listening = new AbortController();
    bus.addEventListener(name, ({ detail }: CustomEventInit) => callback(detail), listening);
    return () => listening.abort();
  };

  const dispatch = (change: Change & Partial<Context> = { type: "tick" }) => {
    const former = state;
    const event = {
      at: now(),
      // Whose end it is, to other tabs. A message of another tab has its own.
      id: former.seen?.session.id,
      own: true,
      ...change,
      // Last, for another tab's message is taken as it is.
      random: environment.Math.random(),
      lead,
    } as MachineEvent;
    state = step(former, event);
    // Before anything else: nothing that is under way may sign in again, or another one in.
    if (state.epoch !== former.epoch) flight = undefined;
    // Other tabs take what they know of it, and leave the rest. It throws after `stop`, and where errors cannot be cloned.
    if (event.own && state !== former) attempt(() => channel?.postMessage({ ...event, at: event.at - skew() }));
    // To every listener in order: what one of them brings about comes after the rest of the five things that may be told.
    if (told.push(...news(former, state)) < 6) {
      for (const [name, detail] of told) if (detail) bus.dispatchEvent(new CustomEvent(name, { detail }));
      told = [];
    }
  };

  /**
   * Read or write a note that outlives the page, where that is allowed. An empty one is none. Each server has its own: an
   * application beside this one, with another server, shares the storage.
   */
  const note = (key: string, value?: string | number) =>
    attempt(() => {
      const notes = environment.localStorage as Storage;
      return value == null ? notes.getItem(key + base) : notes.setItem(key + base, value as string);
    });

  // -- Requests
  /** Ask this server, with the token where `covers` says so. What goes wrong on the way has a code, too. */
  const call = (method: string, path: string, body?: string): Promise<Response> => {
    const signal = environment.AbortSignal.timeout(LIMIT);
    return new Promise<Response>((resolve, reject) => {
      // As well: in WebKit a request that was under way when its page went into the page cache never ends, nor by its signal.
      signal.addEventListener("abort", reject);
      void authFetch((base + path) as Target, {
        method,
        cache: "no-store",
        body: body as string,
        headers: { "content-type": "application/json", "x-keyturn": "1" },
        redirect: "error",
        credentials: "include",
        // Why: without it a page that navigates away loses the cookie of the answer (measured: 3 of 3). A login ends with
        // its page, or its time: an answer that comes later would sign in whoever is there by then.
        keepalive: !/login|signup/.test(path),
        signal,
      }).then(resolve, reject);
    })
      .catch((error) => {
        throw error instanceof AuthError
          ? error
          : new AuthError(signal.aborted ? "timeout" : navigator?.onLine === false ? "offline" : "network");
      })
      .then(accept);
  };

  /**
   * Ask for a token and take it, unless what was asked for is void by then, or before. `late` sees to the cookie of an
   * answer that came after another session had begun, or the former one ended.
   */
  const ask = async (path: string, body: object, counts: () => boolean, late: () => unknown) => {
    // The server would sign in whom nobody waits for any more.
    if (!counts()) throw new AuthError("session_changed");
    const at = now();
    const former = state;
    const answer = await read(await call("POST", path, JSON.stringify(body)));
    if (!isAnswer(answer)) throw new AuthError("unexpected_answer");
    if (counts()) dispatch({ type: "granted", answer, at });
    // Void before, or because a listener has signed out at once.
    if (state.token !== answer.access_token) {
      if (state.epoch !== former.epoch) await late();
      throw new AuthError("session_changed");
    }
  };

  /**
   * Run while no other tab does.
   * No lock makes this correct (a tab that goes away drops its lock while its request travels); the server does. It
   * saves requests.
   */
  const locked = async (run: () => Promise<void>) => {
    let ran: Promise<void> | undefined;
    const once = () => (ran ??= run());
    await navigator?.locks
      ?.request(base, { signal: environment.AbortSignal.timeout(LOCK_LIMIT) }, once)
      .catch(() => {});
    return once();
  };

  /**
   * Look at the hint, if the page can see the cookies of the server's host: without it there is no session, and no
   * request; with it somebody may have signed in in another tab.
   */
  const checkHint = () => {
    // No server takes a session from a document without an origin of its own, so there is none, wherever the server is.
    // By the origin, and not by whether its cookies can be read: that throws in Chromium, but not at Firefox's `data:`
    // addresses, which have none.
    const none = note(OWED) || environment.origin === "null";
    if (!document || (!none && host !== location.hostname)) return;
    if (!none && document.cookie.includes("kt_hint=1")) {
      if (state.ended) void refresh();
    } else if (state.view === INITIAL.view && !flight)
      dispatch({ type: "ended", reason: state.seen ? "logout" : "never", own: false });
  };

  /**
   * Let this be what is under way; `counts` tells it whether it still is, once it has waited for the lock.
   *
   * Why nothing is ever aborted: Chromium stores the cookies of a `keepalive` answer all the same (measured).
   */
  const fly = (run: (counts: () => boolean) => Promise<void>): Promise<void> => {
    const mine: Promise<void> = run(() => flight === mine).finally(() => {
      if (flight === mine) flight = undefined;
    });
    flight = mine;
    return mine;
  };

  /** Refresh, or join what is under way, or do nothing within a cool-down. The state says how it went. */
  const refresh = async (): Promise<void> => {
    const { token } = state;
    const asked = now();
    if (!flight && asked < state.retryAt) return;
    const flown =
      flight ??
      fly((counts) =>
        locked(async () => {
          // Let the token land that the tab before has got, as long as the lock took: at least what is already queued.
          if (state.token === token)
            await new Promise<void>((resolve) => environment.setTimeout(resolve, Math.min(now() - asked, HAND_OVER)));
          if (state.token !== token) return;
          // Infinite, in JSON null, when nobody has acted: a refresh is no person.
          // A late answer may have brought back the cookie of the session that was left, and its hint. Then that is
          // asked for once more, by `checkHint`, and the server removes it.
          await ask("/refresh", { idle_seconds: Math.round((now() - state.activeAt) / 1000) }, counts, checkHint).catch(
            (error: AuthError) => {
              if (counts())
                dispatch(error.reason ? { type: "ended", reason: error.reason } : { type: "failed", error });
            },
          );
        }),
      );
    await flown.catch(() => {});
  };

  /** Get a token that is not `rejected` and lasts; null when nobody is signed in. */
  const obtain = async (rejected: string | null, { minTtl = 10, signal }: TokenOptions = {}) => {
    signal?.throwIfAborted();
    const has = (least: number) => state.token !== rejected && usable(state, now(), least * 1000);
    checkHint();
    // A second time, for what was under way may have been void, or have brought just the token that was rejected.
    for (let tries = 2; tries-- && !state.ended && !has(minTtl); ) {
      const waiting = new AbortController();
      await new Promise<unknown>((resolve) => {
        signal?.addEventListener("abort", resolve, waiting);
        void refresh().then(resolve);
      });
      // The signal may be one for as long as the application lives: nothing of this may stay there.
      waiting.abort();
      signal?.throwIfAborted();
    }
    if (!state.ended && !has(0)) throw state.error ?? new AuthError("network");
    return state.token ?? null;
  };

  /** Send the logout that is owed. */
  const sendLogout = async (owed = note(OWED)): Promise<void> => {
    if (!owed) return;
    note(OWED, owed);
    const again = await call("POST", "/logout", owed).then(
      // Whatever else is no answer of this server.
      (response) => response.status !== 204,
      (error: AuthError) => error.retryable,
    );
    if (!again) note(OWED, "");
  };

  /** When to look next for a logout that is owed, by this tab or by one that is gone. */
  let payAt = 0;

  /** Log in or sign up. */
  const enter = async (path: string, body: object): Promise<User> => {
    await fly(async (counts) => {
      // Under a lock of its own: nobody waits for one for as long as two requests may take. Also when nothing is owed: two
      // slow requests of other tabs are over by then, whose cookies would replace those of this login.
      await locked(sendLogout);
      await locked(async () => {
        // Late, and nobody else is there: the person has logged out since, and nobody waits for this session.
        await ask(path, body, counts, () => state.ended && sendLogout("{}"));
        // What is still owed is void: the server ends the former session of this browser when it opens the next one.
        note(OWED, "");
      });
    });
    act(true);
    return (state.seen as Identity).user;
  };

  const logout: AuthClient["logout"] = ({ everywhere } = {}) => {
    // It waits for no lock, for the page may go away at once. Logins wait for it, in every tab: its answer removes the
    // cookies, new ones, too.
    // What is owed stays so: a second logout must not make of one from everywhere one from here.
    const left = sendLogout((!everywhere && note(OWED)) || JSON.stringify({ everywhere }));
    void locked(async () => left);
    // The server does it, too, when it can be reached.
    attempt(() => {
      (document as Page).cookie = "kt_hint=;Path=/;Max-Age=0";
    });
    dispatch({ type: "ended", reason: "logout" });
    return left;
  };

  // -- The page, the person, other tabs
  const act = (stay?: boolean) => dispatch({ type: "acted", stay });

  /** Do what is due by now. */
  const look = () => {
    dispatch();
    // Once no other tab is at it.
    if (now() >= payAt) {
      payAt = now() + OWED_INTERVAL;
      if (note(OWED)) void locked(sendLogout);
    }
    // Where anybody may be looking. Also when the browser takes itself to be offline: without a network Chromium does so
    // though the server is on the same machine, and a refresh that was never sent let the session of who was active end.
    if (now() >= refreshAt(state, lead) && !(document as Page).hidden) void refresh();
  };

  /** An event of the page or of the person. */
  const happens = ({ type, persisted }: Event & { persisted?: boolean }) => {
    // Of the names in `start` these parts stand in pointerdown, pointermove, keydown and wheel alone.
    if (/po|k|ee/.test(type)) return act();
    // Before a page goes into the page cache, and before it is painted from there: whoever comes back may be another.
    if (persisted) {
      flight = undefined;
      dispatch({ type: "hide" });
    }
    // For the next page: a person who clicks a link acts on this one.
    if (type === "pagehide") return note(ACTED, state.activeAt - skew());
    if (type === "online") {
      payAt = 0;
      dispatch({ type });
    }
    if (!(document as Page).hidden) checkHint();
    look();
  };

  /** A message of another tab. */
  const hear = ({ data }: { data?: unknown }) => {
    // Never later than now: the date may have been set back on the way.
    if (isMessage(data)) dispatch({ ...data, at: Math.min(now(), data.at + skew()), own: false });
  };

  // -- The application's requests

  /** Until when the 401s of an API start no refresh, by its origin; only those that get the token have one. */
  const calm: Record<string, number> = {};

  /** The origin of the API at an address, if it gets the token. */
  const covers: AuthClient["covers"] = (address) => {
    // As `fetch` reads it: a `<base>` may send a relative address elsewhere.
    const { href: target, origin: api } = new URL(address, document?.baseURI ?? location.href);
    const [elsewhere, route] = target.split(base + "/");
    // Where the cookie speaks, or nobody yet, a token is of no use, and a refresh for their 401 would never end.
    return (elsewhere ? origins.includes(api) : !/^(refresh|login|signup|logout)\b/.test(route as string)) && api;
  };

  const challenged: AuthClient["challenged"] = (challenge) =>
    /insufficient_user/.test(challenge as string) &&
    bus.dispatchEvent(new CustomEvent("stepUp", { detail: { challenge } }));

  const authFetch = async (input: Target, init: RequestInit = {}): Promise<Response> => {
    const headers = new Headers(init.headers ?? input.headers);
    const api = covers(input.url ?? (input as string | URL));
    if (!api || headers.has("authorization")) return environment.fetch(input, init);
    const streams = (init.body as Partial<ReadableStream> | null | undefined)?.getReader;
    const wanted = { minTtl: streams && STREAM_SPARE, signal: init.signal ?? input.signal };
    // Before anybody is known the page is the first one's.
    const epoch = state.epoch || 1;
    let token = await obtain(null, wanted);
    // What one user's page asks for must neither go out as another or nobody, nor reach a page that shows those.
    const check = () => {
      if (state.epoch !== epoch || (token && !state.token)) throw new AuthError("session_changed");
    };
    let response!: Response;
    // Send it, and tell whether another token may help.
    const refused = async () => {
      check();
      if (token) headers.set("authorization", "Bearer " + token);
      // A clone goes out, so that the body is still there for the second time. Of a Request that is sent with other
      // headers `fetch` keeps all but these two.
      const sent = { referrerPolicy: input.referrerPolicy, referrer: input.referrer, ...init, headers } as RequestInit;
      // What was asked for as nobody may reach anybody.
      response = await environment.fetch(input.clone?.() ?? input, sent).finally(() => token && check());
      return !challenged(response.headers.get("www-authenticate")) && response.status === 401;
    };
    if ((await refused()) && token && !streams && !((calm[api] as number) > now())) {
      token = await obtain(token, wanted);
      if (token && (await refused())) calm[api] = now() + CALM;
    }
    return response;
  };

  const hydrate = (answer: Identity) => {
    // Nobody was known, so what is under way was asked for nobody else, and still counts.
    const kept = flight;
    if (!state.epoch) dispatch({ type: "granted", answer });
    flight = kept;
  };

  return {
    start() {
      if (!document || starts++) return;
      listening = new AbortController();
      heartbeat = environment.setInterval(look, HEARTBEAT);
      const names = "online focus pagehide pageshow visibilitychange wheel keydown pointerdown pointermove";
      for (const name of names.split(" "))
        environment.addEventListener(name, happens, { capture: true, signal: listening.signal });
      // Not every browser has one, and Firefox throws here where cookies are blocked.
      attempt(() => {
        channel = new (environment.BroadcastChannel as NonNullable<Environment["BroadcastChannel"]>)(base);
        channel.onmessage = hear;
      });
      // What the page before has noted when it went, as if another tab said so.
      hear({ data: { type: "acted", at: parseFloat(note(ACTED) as string) } });
      checkHint();
      look();
      // With a token, too: whatever other tabs did while this one was stopped it has not heard.
      if (!state.ended) void refresh();
    },
    stop() {
      if (!starts || --starts) return;
      environment.clearInterval(heartbeat as never);
      listening?.abort();
      channel?.close();
    },
    getSnapshot: () => state.view,
    getServerSnapshot: () => INITIAL.view,
    subscribe: (callback) => on("change" as keyof AuthEvents, callback),
    on,
    hydrate,
    getToken: (options) => obtain(null, options),
    renew: obtain,
    fetch: authFetch,
    login: (body) => enter("/login", body),
    signup: (body) => enter("/signup", body),
    logout,
    sessions: {
      list: async () => {
        const { sessions } = await read(await call("GET", "/sessions"));
        if (!sessions) throw new AuthError("unexpected_answer");
        return sessions;
      },
      revoke: async (id) =>
        state.seen?.session.id === id ? logout() : void (await call("DELETE", "/sessions/" + encodeURIComponent(id))),
    },
    stay() {
      act(true);
      if (!state.ended) void refresh();
    },
    warnAt(seconds) {
      lead = seconds * 1000;
      dispatch();
    },
    now,
    covers,
    challenged,
    get epoch() {
      return state.epoch;
    },
  };
};
