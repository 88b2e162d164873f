/**
 * `createAuthClient`: puts the parts together.
 *
 * Owns: the public object. Must not hold: behaviour of its own.
 */
import { render, UNKNOWN } from "../machine/machine.ts";
import type { AuthState, Message, User } from "../machine/types.ts";
import { browser, makeClock } from "./environment.ts";
import { makeCovers, makeFetch, SPARE } from "./fetch.ts";
import { type Flights, makeFlights } from "./flights.ts";
import { readError } from "./http.ts";
import { makePage } from "./page.ts";
import { makeStore, type Store } from "./store.ts";
import type { AuthClient, AuthClientOptions, LoginBody, SignupBody } from "./types.ts";

/**
 * Make the client of one server for one page.
 *
 * Nothing is touched before `start()`; on a render server make one per request.
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
  const environment = { ...browser(), ...options.environment };
  const { location } = environment;
  const given = options.baseUrl ?? "/auth";
  const baseUrl = (location ? new URL(given, location.href).href : given).replace(/\/$/, "");
  const now = makeClock(environment);
  let starts = 0;

  const page = makePage(
    environment,
    () => store,
    () => flights,
    now,
    baseUrl,
    options.idleWarning ?? 60,
  );
  const store: Store = makeStore(environment, (message: Message) => page.tell(message), page.arm);
  const flights: Flights = makeFlights(environment, store, now, baseUrl, page.arm);
  const covers = makeCovers(environment, baseUrl, options.apiOrigins ?? (location ? [location.origin] : []));
  const authFetch = makeFetch(environment, store, flights, now, covers);

  const enter = async (path: string, body: LoginBody | SignupBody): Promise<User> => {
    await flights.enter(path, body);
    page.act(true);
    return (store.state().view as Extract<AuthState, { user: User }>).user;
  };

  const call = async (path: string, method: string, body?: object): Promise<Response> => {
    const response = await authFetch(baseUrl + path, {
      method,
      cache: "no-store",
      credentials: location?.origin === new URL(baseUrl).origin ? "same-origin" : "include",
      headers: { "X-Keyturn": "1", ...(body && { "Content-Type": "application/json" }) },
      ...(body && { body: JSON.stringify(body) }),
    });
    if (!response.ok) throw await readError(response);
    return response;
  };

  const hydrate: AuthClient["hydrate"] = (identity) => store.dispatch({ type: "hydrated", identity, at: now() });
  if (options.initialSession) hydrate(options.initialSession);
  const first = options.initialSession ? render(options.initialSession) : UNKNOWN;

  return {
    start: () => void (starts++ || page.start()),
    stop: () => void (starts && (--starts || page.stop())),
    getSnapshot: () => store.state().view,
    getServerSnapshot: (identity) => (identity ? render(identity) : first),
    subscribe: store.subscribe,
    on: store.on,
    hydrate,
    getToken: ({ minTtl, signal } = {}) => flights.obtain(minTtl === undefined ? SPARE : minTtl * 1000, null, signal),
    renew: (rejected, { signal } = {}) => flights.obtain(0, rejected, signal),
    fetch: authFetch,
    login: (body) => enter("/login", body),
    signup: (body) => enter("/signup", body),
    logout: ({ everywhere = false } = {}) => flights.leave(everywhere),
    sessions: {
      list: async () => (await (await call("/sessions", "GET")).json()).sessions,
      async revoke(id) {
        const view = store.state().view;
        if ("session" in view && view.session.id === id) return flights.leave(false);
        await call(`/sessions/${encodeURIComponent(id)}`, "DELETE");
      },
      revokeOthers: async () => void (await call("/sessions", "DELETE")),
    },
    changePassword: async (body) => void (await call("/password", "POST", body)),
    stay() {
      page.act(true);
      page.tick();
      if (now() >= store.state().retryAt) void flights.refresh();
    },
    warnAt: page.warnAt,
    now,
    covers,
    get epoch() {
      return store.state().epoch;
    },
  };
};
