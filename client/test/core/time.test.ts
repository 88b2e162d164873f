import { describe, expect, it } from "vitest";
import { json, problem, settle, World } from "./world.ts";

const HOUR = 3_600_000;
const REFRESH = "/auth/refresh";

describe("time", () => {
  it.each([HOUR, 24 * HOUR, -HOUR, -24 * HOUR])(
    "a device clock that is off by %d ms makes no difference",
    async (offset) => {
      const world = new World();
      world.offset = offset;
      const tab = await world.signedIn();
      await world.run(500_000);
      expect(world.server.count(REFRESH)).toBe(1);
      await world.run(100_000);
      expect(world.server.count(REFRESH)).toBe(2);
      expect(tab.status).toBe("authenticated");
    },
  );

  it.each([HOUR, 24 * HOUR, -HOUR, -24 * HOUR])(
    "a device clock that jumps by %d ms costs at most one refresh",
    async (jump) => {
      const world = new World();
      const tab = await world.signedIn();
      world.offset = jump;
      await world.run(30_000);
      expect(world.server.count(REFRESH)).toBeLessThanOrEqual(2);
      expect(tab.status).toBe("authenticated");
      expect(tab.names()).not.toContain("signedOut");
    },
  );

  it("tabs that opened before and after the clock was set back understand each other's times", async () => {
    const world = new World();
    world.offset = 3 * HOUR; // Until the network is up and tells the time.
    const early = await world.signedIn();
    world.offset = 0;
    await world.run(1_000);
    const late = await world.signedIn();
    const [seen, clients] = [[] as string[], [early, late]];
    for (const tab of clients) tab.client.subscribe(() => seen.push(tab.status));
    for (const active of clients) {
      const [passive] = clients.filter((tab) => tab !== active);
      await passive?.hide();
      for (let minute = 0; minute < 90; minute++) {
        active.act();
        await world.run(60_000);
      }
      await passive?.show();
    }
    expect(new Set(seen)).toEqual(new Set(["authenticated"]));
    for (const tab of clients) expect(new Set(tab.names().slice(1))).toEqual(new Set(["refreshed"]));
    const before = world.server.calls.length;
    await Promise.all(clients.map((tab) => tab.client.getToken()));
    expect(world.server.calls.length).toBe(before);
  });

  it("a page that opened after the clock was set back takes no old act for a new one", async () => {
    const world = new World();
    world.offset = 3 * HOUR;
    const tab = await world.signedIn();
    tab.act();
    world.offset = 0;
    await world.run(300_000);
    tab.fire("pagehide", { persisted: false });
    tab.close();
    await world.signedIn();
    expect(world.server.calls.at(-1)?.body).toEqual({ idle_seconds: 300 });
  });

  it("after 3 h of sleep never sends the expired token, and refreshes once", async () => {
    const world = new World();
    world.server.idleTimeout = 86_400;
    const tab = await world.signedIn();
    world.sleep(3 * HOUR);
    const sent = tab.client.fetch("/api/x");
    await world.run(100);
    expect((await sent).ok).toBe(true);
    expect(world.server.count(REFRESH)).toBe(2);
    expect(world.server.calls.at(-1)?.headers.get("authorization")).toBe("Bearer secret-token-2");
  });

  it("notices by itself that the device has slept", async () => {
    const world = new World();
    world.server.idleTimeout = 86_400;
    await world.signedIn();
    world.sleep(3 * HOUR);
    await world.run(10_000);
    expect(world.server.count(REFRESH)).toBe(2);
  });

  it("wakes without a network, waits for it, and is still signed in", async () => {
    const world = new World();
    world.server.idleTimeout = 86_400;
    const tab = await world.signedIn();
    world.sleep(3 * HOUR);
    await tab.line(false);
    tab.fire("focus");
    await world.run(60_000);
    expect(world.server.count(REFRESH)).toBe(1);
    await tab.line(true);
    expect(world.server.count(REFRESH)).toBe(2);
    expect(tab.status).toBe("authenticated");
  });

  it("does not refresh while hidden, and is fresh when visible again", async () => {
    const world = new World();
    world.server.idleTimeout = 86_400;
    const tab = await world.signedIn();
    await tab.hide();
    await world.run(HOUR);
    expect(world.server.count(REFRESH)).toBe(1);
    await tab.show();
    expect(world.server.count(REFRESH)).toBe(2);
  });

  it("refreshes before the first request of a tab that was frozen for an hour", async () => {
    const world = new World();
    world.server.idleTimeout = 86_400;
    const tab = await world.signedIn();
    world.timers.clear(); // Frozen: nothing runs, time goes on.
    world.time += HOUR;
    const sent = tab.client.fetch("/api/x");
    await world.run(100);
    expect((await sent).ok).toBe(true);
    expect(world.server.calls.map((call) => call.path)).toEqual([REFRESH, REFRESH, "/api/x"]);
  });

  it("runs into no hot loop with tokens that live shorter than the leeway", async () => {
    const world = new World();
    world.server.lifetime = 3;
    const tab = await world.signedIn();
    for (let turn = 0; turn < 10; turn++) {
      const sent = tab.client.fetch("/api/x");
      await world.run(1_000);
      expect((await sent).ok).toBe(true);
    }
    expect(world.server.count(REFRESH)).toBeLessThanOrEqual(6);
  });

  it("asks no more than once a second even for tokens that are dead on arrival", async () => {
    const world = new World();
    world.server.lifetime = 0;
    await world.signedIn();
    await world.run(10_000);
    expect(world.server.count(REFRESH)).toBeLessThanOrEqual(12);
  });

  it("spreads proactive refreshes over the last part of the token's life", async () => {
    const times: number[] = [];
    for (const random of [0, 0.5, 0.999]) {
      const world = new World();
      world.random = random;
      await world.signedIn();
      const began = world.monotonic();
      while (world.server.count(REFRESH) < 2) await world.run(1_000);
      times.push(Math.round((world.monotonic() - began) / 1_000));
    }
    expect(times).toEqual([510, 540, 570]);
  });

  it("getToken lasts for as long as it is asked to", async () => {
    const world = new World();
    const tab = await world.signedIn();
    await tab.hide();
    await world.run(575_000);
    expect(await tab.client.getToken()).toBe("secret-token-1");
    const asked = tab.client.getToken({ minTtl: 28 });
    await world.run(50);
    expect(await asked).toBe("secret-token-2");
  });
});

describe("network", () => {
  it("offline gives the token that is still valid, then a typed error, and clears nothing", async () => {
    const world = new World();
    const tab = await world.signedIn();
    await tab.line(false);
    expect(await tab.client.getToken()).toBe("secret-token-1");
    await world.run(620_000);
    const asked = tab.client.getToken().catch((error) => error);
    await world.run(50);
    expect(await asked).toMatchObject({ name: "AuthError", code: "offline", status: 0, retryable: true });
    expect(tab.status).toBe("degraded");
    expect(world.hint).toBe(true);
  });

  it("keeps the session of who is active where the browser takes itself to be offline and the server can be reached", async () => {
    const world = new World();
    const tab = await world.signedIn();
    // As Chromium does without a network, when the server is on the same machine.
    Object.defineProperty(tab.environment.navigator, "onLine", { value: false });
    for (let minutes = 0; minutes < 65; minutes += 5) {
      tab.act();
      await world.run(300_000);
    }
    const asked = tab.client.getToken();
    await world.run(50);
    expect(await asked).not.toBeNull();
  });

  it.each([500, 502, 503])("a proactive refresh that gets %d keeps the session and cools down", async (status) => {
    const world = new World();
    const tab = await world.signedIn();
    world.server.handlers.set(REFRESH, () =>
      status === 502 ? new Response("<h1>Bad gateway</h1>", { status }) : problem("unavailable", status),
    );
    const views: unknown[] = [];
    tab.client.subscribe(() => views.push(tab.state));
    await world.run(545_000);
    expect(tab.status).toBe("degraded");
    expect(views).toEqual([tab.state]);
    expect(world.server.count(REFRESH)).toBeGreaterThan(2);
    expect(await tab.client.getToken()).toBe("secret-token-1");
    expect(world.server.count(REFRESH)).toBeLessThanOrEqual(4);
    expect(tab.names().filter((name) => name === "degraded")).toHaveLength(1);
  });

  it.each([
    ["session_behind", 401],
    ["csrf_refused", 403],
    ["conflict", 409],
    ["throttled", 429],
    ["internal", 500],
  ])("%s keeps the session", async (code, status) => {
    const world = new World();
    const tab = await world.signedIn();
    world.server.handlers.set(REFRESH, () => problem(code, status));
    await Promise.all([tab.client.renew("secret-token-1").catch(() => {}), world.run(50)]);
    expect(tab.status).toBe("degraded");
  });

  it.each([
    ["a page", () => new Response("<html>", { status: 200 })],
    ["a proxy's 401", () => new Response("<html>", { status: 401 })],
    ["JSON of another service", () => json({ token: "x" })],
    ["null", () => json(null)],
    ["a problem that is null", () => json(null, 401, { "content-type": "application/problem+json" })],
    ["too early", () => new Response(null, { status: 425 })],
  ])("%s in place of an answer keeps the session", async (_, answer) => {
    const world = new World();
    const tab = await world.signedIn();
    world.server.handlers.set(REFRESH, answer);
    const asked = tab.client.renew("secret-token-1").catch((error) => error);
    await world.run(50);
    expect(await asked).toMatchObject({ code: "unexpected_answer" });
    expect(tab.status).toBe("degraded");
  });

  it("survives a lost response and retries 3 h later", async () => {
    const world = new World();
    world.server.idleTimeout = 86_400;
    const tab = await world.signedIn();
    world.server.handlers.set(REFRESH, () => Promise.reject(new TypeError("reset")));
    await world.run(545_000);
    world.sleep(3 * HOUR);
    world.server.handlers.clear();
    await world.run(120_000);
    expect(tab.status).toBe("authenticated");
    expect(tab.names()).not.toContain("signedOut");
  });

  it("50 callers during an outage make one refresh per cool-down", async () => {
    const world = new World();
    const tab = await world.signedIn();
    await tab.hide();
    await world.run(700_000);
    world.server.handlers.set(REFRESH, () => problem("unavailable", 503, {}, { "retry-after": "20" }));
    const callers = async () => {
      const all = Promise.all(Array.from({ length: 50 }, () => tab.client.getToken().catch((error) => error.code)));
      await world.run(50);
      return all;
    };
    expect(await callers()).toEqual(Array(50).fill("unavailable"));
    expect(await callers()).toEqual(Array(50).fill("unavailable"));
    expect(world.server.count(REFRESH)).toBe(2);
    await world.run(20_000);
    await callers();
    expect(world.server.count(REFRESH)).toBe(3);
  });

  it.each([
    ["throttled", 429],
    ["unavailable", 503],
  ])("honours Retry-After of %s", async (code, status) => {
    const world = new World();
    const tab = await world.signedIn();
    world.server.handlers.set(REFRESH, () => problem(code, status, {}, { "retry-after": "90" }));
    const asked = tab.client.renew("secret-token-1").catch((error) => error);
    await world.run(50);
    expect(await asked).toMatchObject({ code, status, retryAfter: 90, retryable: true });
    await world.run(89_000);
    expect(world.server.count(REFRESH)).toBe(2);
    tab.fire("online"); // The network coming back is no answer to a server that asked to wait.
    await world.run(500);
    expect(world.server.count(REFRESH)).toBe(2);
    await tab.hide();
    await world.run(1_000);
    await tab.show();
    expect(await tab.client.getToken()).toBe("secret-token-1");
  });

  it("gives a refresh up after 10 s", async () => {
    const world = new World();
    const tab = await world.signedIn();
    world.server.handlers.set(REFRESH, () => new Promise(() => {}));
    const asked = tab.client.renew("secret-token-1").catch((error) => error);
    await world.run(9_000);
    expect(tab.status).toBe("authenticated");
    await world.run(2_000);
    expect(await asked).toMatchObject({ code: "timeout", retryable: true });
  });

  it("tells of an outage once, however often the network comes and goes in it", async () => {
    const world = new World();
    const tab = await world.signedIn();
    world.server.handlers.set(REFRESH, () => problem("unavailable", 503));
    for (let turn = 0; turn < 3; turn++) {
      await Promise.all([tab.client.renew("secret-token-1").catch(() => {}), world.run(1_000)]);
      await tab.line(false);
      await tab.line(true);
    }
    expect(world.server.count(REFRESH)).toBeGreaterThan(3);
    expect(tab.names()).toEqual(["signedIn", "degraded"]);
    world.server.handlers.clear();
    await world.run(60_000);
    await Promise.all([tab.client.renew("secret-token-1"), world.run(50)]);
    expect(tab.names()).toEqual(["signedIn", "degraded", "refreshed"]);
  });

  it("retries at once when the network is back", async () => {
    const world = new World();
    const tab = await world.signedIn();
    await tab.line(false);
    for (let turn = 0; turn < 8; turn++) {
      await Promise.all([tab.client.renew("secret-token-1").catch(() => {}), world.run(100_000)]);
    }
    expect(tab.status).toBe("degraded");
    const before = world.server.count(REFRESH);
    await tab.line(true);
    await settle();
    expect(world.server.count(REFRESH)).toBe(before + 1);
    expect(tab.status).toBe("authenticated");
  });
});
