/**
 * A browser with tabs, and a server, as far as the client sees them.
 *
 * Fakes stand at the edge only: the network, locks, channels, cookies, time. What runs between them is the client.
 */
import { setMaxListeners } from "node:events";
import { type AuthClient, type AuthClientOptions, createAuthClient, type Environment } from "../../src/index.ts";

export const ORIGIN = "https://app.example";
export const ADA = { id: "u1", email: "ada@example.com", name: "Ada" };
export const BOB = { id: "u2", email: "bob@example.com", name: "Bob" };
const BODY = { email: ADA.email, password: "correct horse battery" };

export type Call = { method: string; path: string; headers: Headers; init: RequestInit; body: unknown; tab: Tab };
type Handler = (call: Call) => Response | Promise<Response>;
type Timer = { at: number; run: () => void };

export const json = (body: unknown, status = 200, headers: Record<string, string> = {}): Response =>
  new Response(JSON.stringify(body), { status, headers: { "content-type": "application/json", ...headers } });

export const problem = (
  code: string,
  status: number,
  more: object = {},
  headers: Record<string, string> = {},
): Response =>
  json(
    { type: `urn:keyturn:error:${code}`, title: code, status, detail: code, code, request_id: "req-12345678", ...more },
    status,
    {
      "content-type": "application/problem+json",
      ...headers,
    },
  );

/** Let everything that is ready run, macrotasks of the runtime included. */
export const settle = async (): Promise<void> => {
  for (let turns = 0; turns < 12; turns++) await new Promise((resolve) => setImmediate(resolve));
};

export class Tab {
  readonly window = new EventTarget();
  readonly world: World;
  readonly environment: Environment;
  readonly client: AuthClient;
  readonly events: [string, unknown][] = [];
  hidden = false;
  onLine = true;
  closed = false;
  /** What relative addresses count from: a `<base>` of the page may change it. */
  base = `${ORIGIN}/page`;
  /** What this tab holds or waits for: a tab that goes away lets go of it. */
  readonly released = new AbortController();

  constructor(world: World, options: AuthClientOptions & { without?: readonly string[] } = {}) {
    this.world = world;
    setMaxListeners(0, this.released.signal);
    const { without = [], ...rest } = options;
    this.environment = Object.fromEntries(
      Object.entries(environmentOf(this)).filter(([name]) => !without.includes(name)),
    ) as unknown as Environment;
    if (without.includes("locks")) Object.assign(this.environment, { navigator: { onLine: true } });
    this.client = createAuthClient({ ...rest, environment: this.environment });
    for (const name of [
      "signedIn",
      "signedOut",
      "userChanged",
      "refreshed",
      "degraded",
      "idleWarning",
      "stepUp",
    ] as const)
      this.client.on(name, (detail) => this.events.push([name, detail]));
  }

  get status(): string {
    return this.client.getSnapshot().status;
  }
  get state() {
    return this.client.getSnapshot() as {
      status: string;
      reason?: string;
      user?: typeof ADA;
      warning?: { kind: string; endsAt: number };
      session?: { id: string };
    };
  }
  names(): string[] {
    return this.events.map(([name]) => name);
  }
  fire(type: string, more: object = {}): void {
    this.window.dispatchEvent(Object.assign(new Event(type), more));
  }
  act(): void {
    this.fire("pointerdown");
  }
  async hide(): Promise<void> {
    this.hidden = true;
    this.fire("visibilitychange");
    await settle();
  }
  async show(): Promise<void> {
    this.hidden = false;
    this.fire("visibilitychange");
    await this.world.run(10);
  }
  async line(up: boolean): Promise<void> {
    this.onLine = up;
    this.fire(up ? "online" : "offline");
    await this.world.run(10);
  }
  close(): void {
    this.closed = true;
    this.released.abort();
  }
}

/** The server, with one cookie jar for all tabs: a session, or none. */
export class Server {
  readonly world: World;
  readonly calls: Call[] = [];
  readonly handlers = new Map<string, Handler>();
  session: { id: string; user: typeof ADA; created: number; idleEnd: number; absoluteEnd: number } | null = null;
  ended: string | null = null;
  tokens = 0;
  sessions = 0;
  lifetime = 600;
  idleTimeout = 3600;
  absoluteLifetime = 86_400;
  user = ADA;

  constructor(world: World) {
    this.world = world;
  }

  count(path: string): number {
    return this.calls.filter((call) => call.path === path).length;
  }

  open(user = ADA): void {
    const { time } = this.world;
    this.sessions += 1;
    this.ended = null;
    this.session = {
      id: `${this.sessions}`.padStart(32, "0"),
      user,
      created: time,
      idleEnd: time + this.idleTimeout * 1000,
      absoluteEnd: time + this.absoluteLifetime * 1000,
    };
    this.world.hint = true;
  }

  end(reason: string): void {
    this.session = null;
    this.ended = reason;
  }

  answer() {
    const { session, world } = this;
    if (!session) throw new Error("no session");
    this.tokens += 1;
    return {
      access_token: `secret-token-${this.tokens}`,
      token_type: "Bearer" as const,
      expires_in: this.lifetime,
      user: session.user,
      session: {
        id: session.id,
        created_at: new Date(session.created).toISOString(),
        inactivity_expires_in: Math.max(0, Math.floor((session.idleEnd - world.time) / 1000)),
        absolute_expires_in: Math.max(0, Math.floor((session.absoluteEnd - world.time) / 1000)),
      },
    };
  }

  refuse(): Response {
    this.world.hint = false;
    return this.ended ? problem("session_ended", 401, { reason: this.ended }) : problem("no_session", 401);
  }

  async handle(call: Call): Promise<Response> {
    this.calls.push(call);
    const special = this.handlers.get(call.path);
    if (special) return special(call);
    const { world } = this;
    switch (call.path) {
      case "/auth/login":
      case "/auth/signup":
        this.open(this.user);
        return json(this.answer(), call.path === "/auth/login" ? 200 : 201);
      case "/auth/refresh": {
        const { session } = this;
        if (!session) return this.refuse();
        const idle = (call.body as { idle_seconds: number | null }).idle_seconds;
        const active = world.time - (idle ?? Infinity) * 1000;
        if (active < session.idleEnd) session.idleEnd = Math.max(session.idleEnd, active + this.idleTimeout * 1000);
        const over =
          world.time >= session.absoluteEnd ? "absolute" : world.time >= session.idleEnd ? "inactivity" : null;
        if (over) {
          this.end(over);
          return this.refuse();
        }
        return json(this.answer());
      }
      case "/auth/logout":
        this.end("logout");
        world.hint = false;
        return new Response(null, { status: 204 });
      default: {
        const token = call.headers.get("authorization");
        if (token !== `Bearer secret-token-${this.tokens}` || !this.session) return problem("invalid_token", 401);
        return json({ path: call.path, user: this.session.user.id });
      }
    }
  }
}

export class World {
  /** What a clock that is never wrong says, in milliseconds. */
  time = Date.parse("2026-11-23T12:00:00Z");
  asleep = 0;
  /** How wrong the device's date is. */
  offset = 0;
  hint = false;
  random = 0.5;
  /** With what a request fails that is aborted, where not with its signal's reason; null when it never ends. */
  aborted: DOMException | null | undefined;
  /** Whether messages with an error in them throw, as in browsers that cannot clone one. */
  refusesErrors = false;
  /** How long a broadcast travels, in milliseconds. */
  travel = 0;
  storage = new Map<string, string>();
  timers = new Map<number, Timer>();
  private nextTimer = 1;
  readonly channels = new Set<{ tab: Tab; name: string; receive: (data: unknown) => void }>();
  readonly posted: unknown[] = [];
  private readonly queues = new Map<string, Promise<unknown>>();
  readonly server = new Server(this);
  readonly tabs: Tab[] = [];
  private readonly start = this.time;

  open(options: AuthClientOptions & { without?: readonly string[] } = {}): Tab {
    const tab = new Tab(this, options);
    this.tabs.push(tab);
    return tab;
  }

  /** A tab of somebody signed in, after its first refresh. */
  async signedIn(options: AuthClientOptions & { without?: readonly string[] } = {}): Promise<Tab> {
    if (!this.server.session) this.server.open();
    const tab = this.open(options);
    tab.client.start();
    await this.run(50);
    return tab;
  }

  login(tab: Tab): Promise<unknown> {
    const done = tab.client.login(BODY);
    done.catch(() => {});
    return this.run(50).then(() => done);
  }

  monotonic(): number {
    return this.time - this.start - this.asleep;
  }
  date(): number {
    return this.time + this.offset;
  }

  setTimeout(run: () => void, milliseconds = 0): number {
    this.timers.set(this.nextTimer, { at: this.monotonic() + Math.max(0, milliseconds), run });
    return this.nextTimer++;
  }

  setInterval(run: () => void, milliseconds: number): number {
    const id = this.nextTimer++;
    const wait = () => this.timers.set(id, { at: this.monotonic() + milliseconds, run: beat });
    const beat = () => {
      wait();
      run();
    };
    wait();
    return id;
  }

  /** Let time pass, and what happens in it happen in order. */
  async run(milliseconds: number): Promise<void> {
    const until = this.monotonic() + milliseconds;
    await settle();
    for (;;) {
      const [id, timer] = [...this.timers].reduce<[number, Timer | null]>(
        (first, [key, one]) => (!first[1] || one.at < first[1].at ? [key, one] : first),
        [0, null],
      );
      if (!timer || timer.at > until) break;
      this.timers.delete(id);
      this.time += Math.max(0, timer.at - this.monotonic());
      timer.run();
      await settle();
    }
    this.time += Math.max(0, until - this.monotonic());
  }

  /** The device sleeps: the world goes on, `performance` and timers do not. */
  sleep(milliseconds: number): void {
    this.time += milliseconds;
    this.asleep += milliseconds;
  }

  /** One lock at a time by name, in order; a tab that is closed lets go. */
  request(tab: Tab, name: string, signal: AbortSignal, run: () => Promise<void>): Promise<unknown> {
    const before = this.queues.get(name) ?? Promise.resolve();
    let started = false;
    const gone = new Promise<void>((resolve) => tab.released.signal.addEventListener("abort", () => resolve()));
    const mine = Promise.race([before, gone]).then(() => {
      if (tab.closed || signal.aborted) return;
      started = true;
      return Promise.race([run(), gone]);
    });
    this.queues.set(name, Promise.all([before, mine.catch(() => {})]));
    return new Promise((resolve, reject) => {
      signal.addEventListener("abort", () => started || reject(signal.reason));
      mine.then(resolve, reject);
    });
  }
}

const environmentOf = (tab: Tab): Environment => {
  const { world } = tab;
  return {
    async fetch(input, init = {}) {
      const request = input instanceof Request ? input : undefined;
      const url = new URL(request?.url ?? String(input), tab.base);
      const headers = new Headers(init.headers ?? request?.headers);
      const text = request?.body ? await request.text() : typeof init.body === "string" ? init.body : undefined;
      const body = text && /json/.test(headers.get("content-type") ?? "") ? JSON.parse(text) : (text ?? init.body);
      const signal = init.signal ?? request?.signal;
      const call: Call = {
        method: init.method ?? request?.method ?? "GET",
        path: url.origin === ORIGIN ? url.pathname : url.href,
        headers,
        init,
        body,
        tab,
      };
      if (!tab.onLine) throw new TypeError("Failed to fetch");
      return new Promise<Response>((resolve, reject) => {
        if (signal?.aborted) return reject(signal.reason);
        signal?.addEventListener("abort", () => world.aborted === null || reject(world.aborted ?? signal.reason));
        world.server.handle(call).then(resolve, reject);
      });
    },
    setTimeout: (run, milliseconds) => world.setTimeout(() => tab.closed || run(), milliseconds),
    setInterval: (run, milliseconds) => world.setInterval(() => tab.closed || run(), milliseconds),
    clearInterval: (timer) => void world.timers.delete(timer as number),
    performance: { now: () => world.monotonic() },
    Date: { now: () => world.date() },
    Math: { random: () => world.random },
    AbortSignal: {
      timeout(milliseconds) {
        const controller = new AbortController();
        world.setTimeout(() => controller.abort(new DOMException("late", "TimeoutError")), milliseconds);
        return controller.signal;
      },
    },
    addEventListener: (name, listener, options) => tab.window.addEventListener(name, listener, options),
    document: {
      get cookie() {
        return world.hint ? "theme=dark; kt_hint=1" : "theme=dark";
      },
      set cookie(value) {
        if (/^kt_hint=;.*Max-Age=0/.test(value)) world.hint = false;
      },
      get baseURI() {
        return tab.base;
      },
      get hidden() {
        return tab.hidden;
      },
    },
    location: { href: `${ORIGIN}/page`, origin: ORIGIN, hostname: "app.example" },
    navigator: {
      get onLine() {
        return tab.onLine;
      },
      locks: { request: (name, { signal }, run) => world.request(tab, name, signal, run) },
    },
    BroadcastChannel: class {
      onmessage: ((event: MessageEvent) => void) | null = null;
      private readonly own;
      private readonly name: string;
      constructor(name: string) {
        this.name = name;
        this.own = {
          tab,
          name,
          receive: (data: unknown) => !tab.closed && this.onmessage?.({ data } as MessageEvent),
        };
        world.channels.add(this.own);
      }
      postMessage(message: unknown) {
        if (!world.channels.has(this.own)) throw new DOMException("closed", "InvalidStateError");
        if (world.refusesErrors && Object.values(message as object).some((value) => value instanceof Error))
          throw new DOMException("not cloned", "DataCloneError");
        const data = structuredClone(message);
        world.posted.push(data);
        for (const other of world.channels)
          if (other !== this.own && other.name === this.name)
            world.setTimeout(() => world.channels.has(other) && other.receive(data), world.travel);
      }
      close() {
        world.channels.delete(this.own);
      }
    },
    localStorage: {
      getItem: (key) => world.storage.get(key) ?? null,
      setItem: (key, value) => void world.storage.set(key, value),
    },
  };
};
