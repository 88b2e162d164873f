import { getEventListeners } from "node:events";
import { describe, expect, it } from "vitest";
import { type Call, json, ORIGIN, problem, World } from "./world.ts";

const API = "/api/things";

const refusing = async (status = 401, headers = {}) => {
  const world = new World();
  const tab = await world.signedIn();
  world.server.handlers.set(API, () => problem("invalid_token", status, {}, headers));
  const send = async (input: RequestInfo = API, init: RequestInit = {}) => {
    const [response] = await Promise.all([tab.client.fetch(input, init), world.run(100)]);
    return response;
  };
  return { world, tab, send };
};

describe("auth.fetch", () => {
  it("sends the token to the page's own origin", async () => {
    const world = new World();
    const tab = await world.signedIn();
    await tab.client.fetch(API);
    expect(world.server.calls.at(-1)?.headers.get("authorization")).toBe("Bearer secret-token-1");
  });

  it("retries a POST of JSON with the identical body and headers", async () => {
    const world = new World();
    const tab = await world.signedIn();
    world.server.tokens += 1;
    const body = JSON.stringify({ a: 1 });
    const sent = tab.client.fetch(API, {
      method: "POST",
      body,
      headers: { "content-type": "application/json", "x-mine": "1" },
    });
    await world.run(100);
    expect((await sent).status).toBe(200);
    const calls = world.server.calls.filter((call) => call.path === API);
    expect(calls.map((call) => call.body)).toEqual([{ a: 1 }, { a: 1 }]);
    expect(calls.map((call) => call.headers.get("x-mine"))).toEqual(["1", "1"]);
  });

  it("retries a FormData with the same object", async () => {
    const world = new World();
    const tab = await world.signedIn();
    world.server.tokens += 1;
    const body = new FormData();
    body.set("a", "1");
    const sent = tab.client.fetch(API, { method: "POST", body });
    await world.run(100);
    expect((await sent).status).toBe(200);
    expect(world.server.calls.filter((call) => call.path === API).map((call) => call.init.body)).toEqual([body, body]);
  });

  it("clones a Request with a body, so that it can be sent twice", async () => {
    const world = new World();
    const tab = await world.signedIn();
    world.server.tokens += 1;
    const request = new Request(ORIGIN + API, { method: "PUT", body: "text", headers: { "x-mine": "1" } });
    const sent = tab.client.fetch(request);
    await world.run(100);
    expect((await sent).status).toBe(200);
    const calls = world.server.calls.filter((call) => call.path === API);
    expect(calls.map(({ method, body, headers }) => [method, body, headers.get("x-mine")])).toEqual([
      ["PUT", "text", "1"],
      ["PUT", "text", "1"],
    ]);
  });

  it("sends a Request as it was made, both times", async () => {
    const world = new World();
    const tab = await world.signedIn();
    world.server.tokens += 1;
    const sent: Request[] = [];
    const { fetch } = tab.environment;
    Object.assign(tab.environment, {
      fetch: (input: Request, init: RequestInit) => {
        if (input instanceof Request) sent.push(new Request(input.clone(), init));
        return fetch(input, init);
      },
    });
    const own = {
      referrer: "",
      referrerPolicy: "same-origin",
      mode: "same-origin",
      credentials: "omit",
      cache: "reload",
      redirect: "manual",
      integrity: "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
      keepalive: true,
    } as const;
    const answer = tab.client.fetch(new Request(ORIGIN + API, own));
    await world.run(100);
    expect((await answer).status).toBe(200);
    expect(sent).toHaveLength(2);
    for (const request of sent) expect(request).toMatchObject(own);
    // What the caller says with it counts, as for `fetch`.
    await tab.client.fetch(new Request(ORIGIN + API, own), { referrerPolicy: "origin" });
    expect(sent.at(-1)).toMatchObject({ ...own, referrerPolicy: "origin" });
  });

  it("checks the token before a stream is sent, and never sends a stream again", async () => {
    const world = new World();
    const tab = await world.signedIn();
    const stream = () => new Response("bytes").body as ReadableStream;
    world.server.handlers.set(API, () => problem("invalid_token", 401));
    await tab.hide();
    await world.run(580_000); // 20 s are left: enough for a request, not for a stream.
    const sent = tab.client.fetch(API, { method: "POST", body: stream(), duplex: "half" } as RequestInit);
    await world.run(100);
    expect((await sent).status).toBe(401);
    expect(world.server.count("/auth/refresh")).toBe(2);
    expect(world.server.calls.at(-1)?.headers.get("authorization")).toBe("Bearer secret-token-2");
    expect(world.server.count(API)).toBe(1);
  });

  it("hits an API that always says 401 exactly twice, returns its answer and keeps the session", async () => {
    const { world, tab, send } = await refusing();
    expect((await send()).status).toBe(401);
    expect(world.server.count(API)).toBe(2);
    expect(world.server.count("/auth/refresh")).toBe(2);
    expect(tab.status).toBe("authenticated");
  });

  it("does not refresh for every request to an API that always says 401", async () => {
    const { world, send } = await refusing();
    for (let turn = 0; turn < 10; turn++) await send();
    expect(world.server.count("/auth/refresh")).toBe(2);
    await world.run(6_000);
    await send();
    expect(world.server.count("/auth/refresh")).toBe(3);
  });

  it("still refreshes for an API while another one refuses every token", async () => {
    const world = new World();
    const [broken, fine] = ["https://broken.example/x", "https://fine.example/x"] as const;
    const tab = await world.signedIn({ apiOrigins: ["https://broken.example", "https://fine.example"] });
    world.server.handlers.set(broken, () => problem("invalid_token", 401));
    const fetch = async (url: string) => (await Promise.all([tab.client.fetch(url), world.run(100)]))[0].status;
    expect(await fetch(broken)).toBe(401);
    expect(world.server.count("/auth/refresh")).toBe(2);
    // The other API has heard of a revocation, say, and wants a newer token than this one.
    world.server.tokens += 1;
    expect(await fetch(fine)).toBe(200);
    expect(world.server.count("/auth/refresh")).toBe(3);
    expect(await fetch(broken)).toBe(401);
    expect(world.server.count("/auth/refresh")).toBe(3);
  });

  it("never refreshes for a 403", async () => {
    const { world, send } = await refusing(403);
    expect((await send()).status).toBe(403);
    expect(world.server.count(API)).toBe(1);
    expect(world.server.count("/auth/refresh")).toBe(1);
  });

  it("leaves the caller's own Authorization alone", async () => {
    const { world, send } = await refusing();
    const own = { headers: { Authorization: "Basic mine" } };
    expect((await send(API, own)).status).toBe(401);
    expect((await send(new Request(ORIGIN + API, own))).status).toBe(401);
    const calls = world.server.calls.filter((call) => call.path === API);
    expect(calls.map((call) => call.headers.get("authorization"))).toEqual(["Basic mine", "Basic mine"]);
  });

  it.each([
    "https://evil.example/api",
    "http://app.example/api",
    "https://app.example:8443/api",
    "https://app.example.evil.example/api",
    "https://sub.app.example/api",
    "//evil.example/api",
  ])("gives no token to %s", async (url) => {
    const world = new World();
    const tab = await world.signedIn();
    world.server.handlers.set(new URL(url, ORIGIN).href, ({ headers }) => json(headers.get("authorization")));
    expect(await (await tab.client.fetch(url)).json()).toBeNull();
    expect(tab.client.covers(url)).toBe(false);
  });

  it("counts a relative address from the page's <base>, as the browser does", async () => {
    const world = new World();
    const tab = await world.signedIn();
    const echo = ({ headers }: Call) => json(headers.get("authorization"));
    for (const path of ["https://evil.example/api", "/api"]) world.server.handlers.set(path, echo);
    tab.base = "https://evil.example/";
    expect(await (await tab.client.fetch("/api")).json()).toBeNull();
    expect(tab.client.covers("/api")).toBe(false);
    // What the client itself asks for goes where it always went.
    expect(await Promise.all([tab.client.renew("secret-token-1"), world.run(50)])).toEqual([
      "secret-token-2",
      undefined,
    ]);
    tab.base = `${ORIGIN}/app/`;
    expect(await (await tab.client.fetch("../api")).json()).toBe("Bearer secret-token-2");
  });

  it("gives the token to further origins that are named exactly, and then only to those", async () => {
    const world = new World();
    const tab = await world.signedIn({ apiOrigins: ["https://api.example"] });
    expect(tab.client.covers("https://api.example/x")).toBe("https://api.example");
    expect(tab.client.covers("/x")).toBe(false);
    expect(tab.client.covers("/auth/sessions")).toBe(ORIGIN);
  });

  it.each(["refresh", "login", "signup", "logout"])("does not loop over a 401 of /auth/%s", async (name) => {
    const world = new World();
    const tab = await world.signedIn();
    world.server.handlers.set(`/auth/${name}`, ({ headers }) =>
      problem(headers.has("authorization") ? "internal" : "no_session", 401),
    );
    const before = world.server.calls.length;
    const response = await tab.client.fetch(`/auth/${name}`, { method: "POST" });
    expect(await response.json()).toMatchObject({ code: "no_session" });
    expect(world.server.calls.length).toBe(before + 1);
    expect(tab.status).toBe("authenticated");
  });

  it("never sends a POST again after a network error", async () => {
    const world = new World();
    const tab = await world.signedIn();
    world.server.handlers.set(API, () => Promise.reject(new TypeError("Failed to fetch")));
    await expect(tab.client.fetch(API, { method: "POST", body: "1" })).rejects.toThrow("Failed to fetch");
    expect(world.server.count(API)).toBe(1);
  });

  it("goes out without a token when nobody is signed in", async () => {
    const world = new World();
    const tab = world.open();
    tab.client.start();
    world.server.handlers.set(API, ({ headers }) => json(headers.get("authorization")));
    expect(await (await tab.client.fetch(API)).json()).toBeNull();
  });

  it("waits for the first refresh while nothing is known", async () => {
    const world = new World();
    world.server.open();
    const tab = world.open();
    tab.client.start();
    const sent = tab.client.fetch(API);
    await world.run(50);
    expect((await sent).status).toBe(200);
  });

  it("signs out and returns the 401 when the session has ended", async () => {
    const world = new World();
    const tab = await world.signedIn();
    world.server.end("revoked");
    const sent = tab.client.fetch(API);
    await world.run(50);
    expect((await sent).status).toBe(401);
    expect(tab.state).toEqual({ status: "anonymous", reason: "revoked" });
    expect(world.server.count(API)).toBe(1);
  });

  it("says why when the refresh after a 401 fails, instead of passing for signed out", async () => {
    const { world, tab } = await refusing();
    world.server.handlers.set("/auth/refresh", () => problem("unavailable", 503));
    const sent = tab.client.fetch(API).catch((error) => error);
    await world.run(50);
    expect(await sent).toMatchObject({ code: "unavailable", retryable: true });
    expect(tab.status).toBe("degraded");
  });

  it("is cancelled at once while it waits for a token, and leaves the refresh alone", async () => {
    const world = new World();
    world.server.open();
    const tab = world.open();
    const controller = new AbortController();
    tab.client.start();
    const sent = tab.client.fetch(API, { signal: controller.signal }).catch((error) => error);
    controller.abort();
    expect(await sent).toMatchObject({ name: "AbortError" });
    await world.run(50);
    expect(tab.status).toBe("authenticated");
    expect(world.server.count(API)).toBe(0);
    await expect(tab.client.getToken({ signal: controller.signal })).rejects.toMatchObject({ name: "AbortError" });
  });

  it("leaves nothing on a signal that outlives the wait for a token", async () => {
    const world = new World();
    world.server.open();
    const tab = world.open();
    const { signal } = new AbortController();
    tab.client.start();
    const tokens = Array.from({ length: 5 }, () => tab.client.getToken({ signal }));
    expect(getEventListeners(signal, "abort")).toHaveLength(5);
    await world.run(50);
    expect(new Set(await Promise.all(tokens)).size).toBe(1);
    expect(getEventListeners(signal, "abort")).toEqual([]);
  });

  it("tells of a step-up challenge and does not refresh for it", async () => {
    const challenge = 'Bearer error="insufficient_user_authentication", acr_values="phr"';
    const { world, tab, send } = await refusing(401, { "www-authenticate": challenge });
    expect((await send()).status).toBe(401);
    expect(tab.events.at(-1)).toEqual(["stepUp", { challenge }]);
    expect(world.server.count(API)).toBe(1);
    expect(world.server.count("/auth/refresh")).toBe(1);
  });

  it("tells of one that answers the second try, too, and takes it for no refusal of every token", async () => {
    const challenge = 'Bearer error="insufficient_user_authentication", max_age="300"';
    const { world, tab, send } = await refusing();
    world.server.handlers.set(API, ({ headers }) =>
      problem(
        "invalid_token",
        401,
        {},
        headers.get("authorization")?.endsWith("-1") ? {} : { "www-authenticate": challenge },
      ),
    );
    expect((await send()).status).toBe(401);
    expect(world.server.count(API)).toBe(2);
    expect(tab.events.at(-1)).toEqual(["stepUp", { challenge }]);
    world.server.handlers.delete(API);
    world.server.tokens += 1;
    expect((await send()).status).toBe(200);
    expect(world.server.count("/auth/refresh")).toBe(3);
  });
});

describe("sessions", () => {
  it("lists and ends the user's sessions with the token", async () => {
    const world = new World();
    const tab = await world.signedIn();
    world.server.handlers.set("/auth/sessions", () => json({ sessions: [{ id: "a" }] }));
    world.server.handlers.set("/auth/sessions/a", () => new Response(null, { status: 204 }));
    expect(await tab.client.sessions.list()).toEqual([{ id: "a" }]);
    await tab.client.sessions.revoke("a");
    expect(world.server.calls.at(-1)).toMatchObject({ method: "DELETE", path: "/auth/sessions/a" });
    expect(world.server.calls.at(-1)?.headers.get("authorization")).toBe("Bearer secret-token-1");
  });

  it("makes a logout of ending this session", async () => {
    const world = new World();
    const tab = await world.signedIn();
    await tab.client.sessions.revoke(tab.state.session?.id ?? "");
    expect(tab.state).toEqual({ status: "anonymous", reason: "logout" });
    expect(world.server.count("/auth/logout")).toBe(1);
  });

  it.each<[string, (world: World) => void, boolean?]>([
    ["offline", () => {}, false],
    ["network", ({ server }) => server.handlers.set("/auth/sessions", () => Promise.reject(TypeError()))],
    ["timeout", ({ server }) => server.handlers.set("/auth/sessions", () => new Promise(() => {}))],
    ["unexpected_answer", ({ server }) => server.handlers.set("/auth/sessions", () => json("hello"))],
    ["unexpected_answer", ({ server }) => server.handlers.set("/auth/sessions", () => new Response("<html>"))],
  ])("fails by the code %s, as everything that asks this server", async (code, fail, onLine = true) => {
    const world = new World();
    const tab = await world.signedIn();
    tab.onLine = onLine;
    fail(world);
    const listed = tab.client.sessions.list().catch((error) => error);
    await world.run(10_000);
    expect(await listed).toMatchObject({ name: "AuthError", code, status: 0, retryable: true });
    expect(tab.status).toBe("authenticated");
  });

  it.each([
    ["fails without the reason", new DOMException("Fetch is aborted", "AbortError")],
    ["never ends, as one does whose page was in the page cache", null],
  ])("is given up in time in WebKit, where a request that is aborted %s", async (_, aborted) => {
    const world = new World();
    const tab = await world.signedIn();
    world.aborted = aborted;
    for (const path of ["/auth/sessions", "/auth/refresh"])
      world.server.handlers.set(path, () => new Promise(() => {}));
    const asked = [tab.client.sessions.list(), tab.client.renew("secret-token-1")].map((one) =>
      one.catch((error) => error),
    );
    await world.run(10_000);
    for (const error of await Promise.all(asked)) expect(error).toMatchObject({ code: "timeout", retryable: true });
  });

  it("throws the server's error", async () => {
    const world = new World();
    const tab = await world.signedIn();
    world.server.handlers.set("/auth/sessions/b", () => problem("not_found", 404));
    await expect(tab.client.sessions.revoke("b")).rejects.toMatchObject({
      code: "not_found",
      requestId: "req-12345678",
    });
  });
});
