/**
 * A server of the wire contract as small as the bindings need it, on a real port, with the ways in which one fails.
 *
 * Owns: one browser's session, and an API behind it. It keeps no cookie: whoever talks to it is that browser.
 */
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Environment, Identity } from "../../src/index.ts";

export type Hit = {
  readonly route: string;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
  /** Whether the other side went away before the answer. */
  readonly aborted: () => boolean;
};

export const makeIdentity = (name: string, created = 0): Identity => ({
  user: { id: `id-of-${name}`, email: `${name}@example.org`, name },
  session: {
    id: `${name.length}${created}`.padStart(32, "0"),
    created_at: new Date(Date.UTC(2026, 0, 1) + created * 1000).toISOString(),
    inactivity_expires_in: 3600,
    absolute_expires_in: 86_400,
  },
});

const read = async (request: IncomingMessage): Promise<Buffer> => {
  const parts: Buffer[] = [];
  for await (const part of request) parts.push(part);
  return Buffer.concat(parts);
};

export const startServer = async () => {
  const hits: Hit[] = [];
  const waiting = new Map<string, Promise<void>>();
  const broken = new Set<string>();
  let issued = 0;
  let logins = 0;
  const valid = new Set<string>();

  const state = {
    hits,
    url: "",
    /** Who is signed in in this browser. */
    identity: makeIdentity("ada") as Identity | null,
    expiresIn: 600,
    /** How often a route was asked. */
    count: (route: string) => hits.filter((hit) => hit.route === route).length,
    last: (route: string) => hits.filter((hit) => hit.route === route).at(-1),
    /** The API takes no token that was issued so far. */
    expireTokens: () => valid.clear(),
    tokens: () => issued,
    /** Answer this route only when the returned function is called. */
    hold(route: string): () => void {
      let release = () => {};
      const open = new Promise<void>((resolve) => {
        release = resolve;
      });
      waiting.set(route, open);
      return () => {
        waiting.delete(route);
        release();
      };
    },
    /** This route breaks the connection after it has read the request. Returns the way to repair it. */
    breakDown(route: string): () => void {
      broken.add(route);
      return () => broken.delete(route);
    },
    close: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };

  const answer = (response: ServerResponse, status: number, body?: object, type = "application/json") =>
    response.writeHead(status, { "content-type": type }).end(body && JSON.stringify(body));

  const problem = (response: ServerResponse, status: number, code: string) =>
    answer(response, status, { code, request_id: "r-1" }, "application/problem+json");

  const signedIn = (response: ServerResponse, identity: Identity) => {
    const token = `token-${++issued}`;
    valid.add(token);
    response.setHeader("set-cookie", "kt_hint=1");
    answer(response, 200, { access_token: token, token_type: "Bearer", expires_in: state.expiresIn, ...identity });
  };

  const routes: Record<string, (response: ServerResponse, hit: Hit) => unknown> = {
    "POST /auth/refresh": (response) =>
      state.identity
        ? signedIn(response, state.identity)
        : problem(response.setHeader("set-cookie", "kt_hint=; Max-Age=0"), 401, "no_session"),
    "POST /auth/login": (response, { body }) => {
      const { email, password } = JSON.parse(body.toString());
      if (password === "wrong") return problem(response, 401, "invalid_credentials");
      state.identity = makeIdentity(email.split("@")[0], ++logins);
      return signedIn(response, state.identity);
    },
    "POST /auth/logout"(response) {
      state.identity = null;
      answer(response.setHeader("set-cookie", "kt_hint=; Max-Age=0"), 204);
    },
    "GET /api/never": (response) => answer(response, 401, { detail: "never" }),
    "GET /api/forbidden": (response) => answer(response, 403),
    "GET /api/step-up": (response) =>
      response.writeHead(401, { "www-authenticate": 'Bearer error="insufficient_user_authentication"' }).end(),
    "GET /api/late-step-up": (response, { headers }) =>
      valid.has(headers.authorization?.replace("Bearer ", "") ?? "")
        ? routes["GET /api/step-up"]?.(response, {} as Hit)
        : answer(response, 401),
    "GET /api/open": (response) => answer(response, 200, {}),
  };

  const serve = async (request: IncomingMessage, response: ServerResponse) => {
    const { origin = "*" } = request.headers;
    response.setHeader("access-control-allow-origin", origin);
    response.setHeader("access-control-allow-headers", "authorization, content-type, x-keyturn, x-once");
    response.setHeader("access-control-allow-methods", "GET, POST, DELETE");
    response.setHeader("access-control-allow-credentials", "true");
    response.setHeader("access-control-expose-headers", "www-authenticate");
    if (request.method === "OPTIONS") return response.writeHead(204).end();
    const path = new URL(request.url ?? "", state.url).pathname;
    const route = `${request.method} ${path}`;
    const body = await read(request);
    const hit: Hit = {
      route,
      headers: request.headers,
      body,
      aborted: () => response.closed && !response.writableEnded,
    };
    hits.push(hit);
    await waiting.get(route);
    if (broken.has(route)) return response.destroy();
    const known = routes[route];
    if (known) return known(response, hit);
    if (!path.startsWith("/api/")) return problem(response, 404, "not_found");
    const token = request.headers.authorization?.replace("Bearer ", "") ?? "";
    if (!valid.has(token)) return problem(response, 401, "invalid_token");
    return answer(response, 200, { user: state.identity?.user.name });
  };

  const server = createServer((request, response) => void serve(request, response).catch(() => response.destroy()));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  state.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return state;
};

export type Server = Awaited<ReturnType<typeof startServer>>;

/** A page of that server: what the client needs of a browser, with what it holds on to counted. */
export const makeBrowser = (server: Server, { hint = true } = {}) => {
  const events = new EventTarget();
  const listening = new Map<string, number>();
  const channels = new Set<object>();
  const notes = new Map<string, string>();
  let ahead = 0;
  let opened = 0;

  class Channel {
    onmessage: ((event: MessageEvent) => void) | null = null;
    constructor() {
      opened++;
      channels.add(this);
    }
    postMessage() {}
    close() {
      channels.delete(this);
    }
  }

  const document = { cookie: hint ? "kt_hint=1" : "", hidden: false };
  const environment: Environment = {
    async fetch(input, init) {
      const response = await fetch(input, init);
      for (const cookie of response.headers.getSetCookie()) document.cookie = cookie.split(";")[0] ?? "";
      return response;
    },
    setTimeout: (callback, milliseconds) => setTimeout(callback, milliseconds),
    setInterval: (callback, milliseconds) => setInterval(callback, milliseconds),
    clearInterval: (timer) => clearInterval(timer),
    performance: { now: () => performance.now() + ahead },
    Date: { now: () => Date.now() + ahead },
    Math,
    AbortSignal,
    addEventListener(name, listener, options) {
      listening.set(name, (listening.get(name) ?? 0) + 1);
      options.signal?.addEventListener("abort", () => listening.set(name, (listening.get(name) ?? 0) - 1));
      events.addEventListener(name, listener, options);
    },
    document,
    location: { href: `${server.url}/`, origin: server.url, hostname: "127.0.0.1" },
    navigator: { onLine: true },
    BroadcastChannel: Channel,
    localStorage: {
      getItem: (key) => notes.get(key) ?? null,
      setItem: (key, value) => void notes.set(key, value),
    },
  };

  return {
    environment,
    /** Listeners per event: the most of any, so that 1 means one set of them. */
    listeners: () => Math.max(0, ...listening.values()),
    channels: () => channels.size,
    opened: () => opened,
    /** The page's events. */
    happen: (name: string, detail?: object) => events.dispatchEvent(Object.assign(new Event(name), detail)),
    /** Let time pass. */
    pass: (milliseconds: number) => {
      ahead += milliseconds;
    },
  };
};

export type Browser = ReturnType<typeof makeBrowser>;
