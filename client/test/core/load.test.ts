import { describe, expect, it } from "vitest";
import { ADA, BOB, json, problem, settle, type Tab, World } from "./world.ts";

describe("load", () => {
  it("with a hint and a live cookie refreshes once and never shows signed out", async () => {
    const world = new World();
    world.server.open();
    const tab = world.open();
    const seen: string[] = [];
    tab.client.subscribe(() => seen.push(tab.status));
    expect(tab.status).toBe("unknown");
    tab.client.start();
    await world.run(50);
    expect(seen).toEqual(["authenticated"]);
    expect(tab.state.user).toEqual(ADA);
    expect(world.server.count("/auth/refresh")).toBe(1);
    expect(tab.names()).toEqual(["signedIn"]);
  });

  it("sends the refresh so that it survives the page and no cache answers it", async () => {
    const world = new World();
    await world.signedIn();
    const [call] = world.server.calls;
    expect(call?.method).toBe("POST");
    expect(call?.init).toMatchObject({
      keepalive: true,
      cache: "no-store",
      redirect: "error",
      credentials: "include",
    });
    expect(call?.headers.get("x-keyturn")).toBe("1");
    expect(call?.headers.get("content-type")).toBe("application/json");
    expect(call?.body).toEqual({ idle_seconds: null });
  });

  it("without a hint makes no request and is anonymous at once", async () => {
    const world = new World();
    const tab = world.open();
    tab.client.start();
    expect(tab.client.getSnapshot()).toEqual({ status: "anonymous", reason: "never" });
    await world.run(60_000);
    expect(world.server.calls).toEqual([]);
    expect(tab.names()).toEqual([]);
  });

  it("with a hint and a dead cookie asks once, is anonymous, loses the hint and does not retry", async () => {
    const world = new World();
    world.server.end("inactivity");
    world.hint = true;
    const tab = world.open();
    tab.client.start();
    await world.run(120_000);
    expect(tab.state).toEqual({ status: "anonymous", reason: "inactivity" });
    expect(world.hint).toBe(false);
    expect(world.server.count("/auth/refresh")).toBe(1);
    expect(tab.names()).toEqual(["signedOut"]);
  });

  it("mounted, unmounted and mounted again refreshes once and leaves one channel and one set of listeners", async () => {
    const world = new World();
    world.server.open();
    const tab = world.open();
    tab.client.start();
    tab.client.stop();
    tab.client.start();
    await world.run(50);
    expect(world.server.count("/auth/refresh")).toBe(1);
    expect(world.channels.size).toBe(1);
    tab.act();
    await world.run(2_000);
    expect(world.posted.filter((message) => (message as { type: string }).type === "acted")).toHaveLength(1);
  });

  it("under two providers makes one flight and leaks nothing after the last stop", async () => {
    const world = new World();
    world.server.open();
    const tab = world.open();
    tab.client.start();
    tab.client.start();
    await world.run(50);
    tab.client.stop();
    expect(world.channels.size).toBe(1);
    tab.client.stop();
    expect(world.channels.size).toBe(0);
    await world.run(3_600_000);
    expect(world.server.count("/auth/refresh")).toBe(1);
    expect(world.timers.size).toBe(0);
    tab.client.stop();
    expect(tab.status).toBe("authenticated");
  });

  it.each([
    ["a logout", (world: World, other: Tab) => other.client.logout().then(() => world.run(50)), undefined],
    ["another user's login", (world: World, other: Tab) => world.login(other), BOB],
  ])("started again finds out about %s that came while it was stopped", async (_, happen, user) => {
    const world = new World();
    const tab = await world.signedIn();
    const other = await world.signedIn();
    tab.client.stop();
    world.server.user = BOB;
    await world.run(1_000);
    await happen(world, other);
    tab.client.start();
    await world.run(50);
    expect(tab.state.user).toEqual(user);
  });

  it("with the server down backs off, and is never anonymous", async () => {
    const world = new World();
    world.server.open();
    world.server.handlers.set("/auth/refresh", () => problem("unavailable", 503));
    const tab = world.open();
    tab.client.start();
    await world.run(120_000);
    expect(tab.status).toBe("unknown");
    expect(tab.names()).toEqual(["degraded"]);
    const tries = world.server.count("/auth/refresh");
    expect(tries).toBeGreaterThan(3);
    expect(tries).toBeLessThan(10);
    world.server.handlers.clear();
    await world.run(120_000);
    expect(tab.status).toBe("authenticated");
  });

  it("starts where the browser refuses a channel", async () => {
    const world = new World();
    world.server.open();
    const tab = world.open();
    // Firefox, where cookies are blocked. A provider that throws here would take the whole page with it.
    class BroadcastChannel {
      onmessage = null;
      constructor() {
        throw new DOMException("The operation is insecure.", "SecurityError");
      }
      postMessage() {}
      close() {}
    }
    Object.assign(tab.environment, { BroadcastChannel });
    tab.client.start();
    await world.run(50);
    expect(tab.status).toBe("authenticated");
    await tab.client.logout();
    tab.client.stop();
  });

  it("lets getToken before the end of start wait for the same flight", async () => {
    const world = new World();
    world.server.open();
    const tab = world.open();
    const before = tab.client.getToken();
    tab.client.start();
    const after = tab.client.getToken();
    await world.run(50);
    expect(await before).toBe("secret-token-1");
    expect(await after).toBe("secret-token-1");
    expect(world.server.count("/auth/refresh")).toBe(1);
  });

  it("gives no token to an anonymous page, without a request", async () => {
    const world = new World();
    const tab = world.open();
    expect(await tab.client.getToken()).toBeNull();
    expect(world.server.calls).toEqual([]);
  });

  it("shows who a render server found, without a token, until it has been verified", async () => {
    const world = new World();
    world.server.open();
    const { user, session } = world.server.answer();
    const tab = world.open();
    tab.client.hydrate({ user, session });
    expect(tab.state).toMatchObject({ status: "authenticated", user });
    tab.client.start();
    await world.run(50);
    expect(world.server.count("/auth/refresh")).toBe(1);
    expect(await tab.client.getToken()).toBe("secret-token-2");
    expect(tab.names()).toEqual(["signedIn", "refreshed"]);
  });

  it("that it was told who a render server found voids no refresh that is under way", async () => {
    const world = new World();
    world.server.open();
    const { user, session } = world.server.answer();
    world.server.handlers.set("/auth/refresh", async () => {
      const answer = json(world.server.answer());
      await new Promise<void>((resolve) => world.setTimeout(resolve, 300));
      return answer;
    });
    const tab = world.open();
    const asked = tab.client.getToken();
    await world.run(100);
    tab.client.hydrate({ user, session });
    tab.client.start();
    await world.run(1_000);
    expect(await asked).toBe("secret-token-2");
    expect(world.server.count("/auth/refresh")).toBe(1);
  });

  it("a render server's answer brings nobody back who has logged out before it was known who is there", async () => {
    const world = new World();
    world.server.open();
    const { user, session } = world.server.answer();
    const tab = world.open();
    await tab.line(false);
    await tab.client.logout();
    tab.client.hydrate({ user, session });
    expect(tab.state).toEqual({ status: "anonymous", reason: "logout" });
  });

  it("on a render server or at the edge touches nothing and stays unknown", async () => {
    const world = new World();
    const tab = world.open({
      without: ["document", "location", "addEventListener", "BroadcastChannel", "localStorage", "locks"],
    });
    tab.client.start();
    await settle();
    expect(tab.client.getServerSnapshot()).toEqual({ status: "unknown" });
    expect(tab.status).toBe("unknown");
    expect(world.server.calls).toEqual([]);
    tab.client.stop();
  });

  it("keeps the same frozen snapshot while nothing changes", async () => {
    const world = new World();
    const tab = await world.signedIn();
    const snapshot = tab.client.getSnapshot();
    await world.run(60_000);
    expect(tab.client.getSnapshot()).toBe(snapshot);
    expect(Object.isFrozen(snapshot)).toBe(true);
    expect(Object.isFrozen(tab.state.user)).toBe(true);
    expect(Object.isFrozen(tab.state.session)).toBe(true);
  });
});
