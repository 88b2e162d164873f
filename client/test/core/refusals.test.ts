/** A browser, or an application's own code, that refuses or throws: nothing of the client may stay behind half done. */
import { describe, expect, it, vi } from "vitest";
import { ADA, json, problem, settle, type Tab, World } from "./world.ts";

const LOGOUT = "/auth/logout";
const BODY = { email: ADA.email, password: "correct horse battery" };

const refuse = (name = "SecurityError") => {
  throw new DOMException("The operation is insecure.", name);
};

/**
 * What a sandboxed frame without `allow-same-origin`, and a document of a `data:` address, do in Chromium; with `silent`
 * what the latter does in Firefox: it takes cookies and has none.
 */
const withoutOrigin = (tab: Tab, silent = false) => {
  const { document, navigator } = tab.environment;
  Object.defineProperties(tab.environment, { localStorage: { get: refuse }, origin: { value: "null" } });
  Object.defineProperty(document, "cookie", silent ? { get: () => "", set() {} } : { get: refuse, set: refuse });
  Object.defineProperty(navigator, "locks", { value: { request: async () => refuse() } });
  Object.assign(tab.environment, {
    BroadcastChannel: refuse,
    fetch: vi.fn(() => Promise.reject(new TypeError("Failed to fetch"))),
  });
};

describe("a document without an origin of its own", () => {
  it.each([
    ["/auth", false],
    ["https://auth.example/auth", false],
    ["https://auth.example/auth", true],
  ])("is signed out, and asks nobody: server at %s, cookies silent: %s", async (baseUrl, silent) => {
    const world = new World();
    world.server.open();
    const tab = world.open({ baseUrl });
    withoutOrigin(tab, silent);
    tab.client.start();
    await world.run(120_000);
    expect(tab.state).toEqual({ status: "anonymous", reason: "never" });
    expect(tab.environment.fetch).not.toHaveBeenCalled();
    expect(await tab.client.getToken()).toBeNull();
    tab.fire("pagehide", { persisted: true });
    tab.fire("pageshow", { persisted: true });
    expect(tab.status).toBe("anonymous");
    tab.client.stop();
    expect(world.timers.size).toBe(0);
  });

  it("fails a login by a stable code, and can try again", async () => {
    const world = new World();
    const tab = world.open();
    withoutOrigin(tab);
    tab.client.start();
    for (let turn = 0; turn < 2; turn++)
      await expect(tab.client.login(BODY)).rejects.toMatchObject({ name: "AuthError", code: "network" });
    expect(tab.environment.fetch).toHaveBeenCalledTimes(2);
  });

  it("stops showing whom a render server found when the person signs out", async () => {
    const world = new World();
    world.server.open();
    const { user, session } = world.server.answer();
    const tab = world.open();
    withoutOrigin(tab);
    tab.client.hydrate({ user, session });
    await tab.client.logout();
    expect(tab.state).toEqual({ status: "anonymous", reason: "logout" });
  });
});

describe("a browser that refuses", () => {
  it("to keep notes, for want of room: signs in and out without them", async () => {
    const world = new World();
    const tab = await world.signedIn();
    Object.assign(tab.environment.localStorage as object, { setItem: () => refuse("QuotaExceededError") });
    tab.act();
    tab.fire("pagehide", { persisted: false });
    await tab.client.logout();
    expect(tab.state).toEqual({ status: "anonymous", reason: "logout" });
    expect(await world.login(tab)).toEqual(ADA);
  });

  it("to keep notes: ends the session of a login that comes after a logout all the same", async () => {
    const world = new World();
    const tab = await world.signedIn();
    Object.defineProperty(tab.environment, "localStorage", { get: refuse });
    let release = (_: Response) => {};
    world.server.handlers.set("/auth/login", () => new Promise((resolve) => (release = resolve)));
    const late = tab.client.login(BODY).catch((error) => error);
    await world.run(10);
    await tab.client.logout();
    world.server.open();
    release(json(world.server.answer()));
    expect(await late).toMatchObject({ code: "session_changed" });
    expect(world.server.session).toBeNull();
  });

  it.each(["SecurityError", "InvalidStateError"])(
    "a lock by %s: refreshes, signs in and out without it",
    async (name) => {
      const world = new World();
      const tab = world.open();
      Object.defineProperty(tab.environment.navigator, "locks", { value: { request: async () => refuse(name) } });
      world.server.open();
      tab.client.start();
      await world.run(50);
      expect(tab.status).toBe("authenticated");
      await tab.client.logout();
      expect(await world.login(tab)).toEqual(ADA);
      expect([LOGOUT, "/auth/refresh", "/auth/login"].map((path) => world.server.count(path))).toEqual([1, 1, 1]);
    },
  );

  it("to send an error to other tabs: tells its own page of it all the same", async () => {
    const world = new World();
    const tab = await world.signedIn();
    world.refusesErrors = true;
    const seen: string[] = [];
    tab.client.subscribe(() => seen.push(tab.status));
    world.server.handlers.set("/auth/refresh", () => problem("unavailable", 503));
    await Promise.all([tab.client.renew("secret-token-1").catch(() => null), world.run(50)]);
    expect(seen).toEqual(["degraded"]);
    expect(tab.names()).toEqual(["signedIn", "degraded"]);
  });
});

describe("an application that", () => {
  it("signs out as soon as it is told of a login: the login fails, and the logout is owed until it is sent", async () => {
    const world = new World();
    const tab = world.open();
    tab.client.start();
    world.server.handlers.set(LOGOUT, () => problem("unavailable", 503));
    tab.client.on("signedIn", () => void tab.client.logout());
    await expect(world.login(tab)).rejects.toMatchObject({ name: "AuthError", code: "session_changed" });
    expect(tab.state).toEqual({ status: "anonymous", reason: "logout" });
    expect(world.server.session).not.toBeNull();
    world.server.handlers.clear();
    await world.run(31_000);
    expect(world.server.session).toBeNull();
  });

  it("brings a fetch that throws at once: nothing is stuck, and a logout is sent when it does no more", async () => {
    const world = new World();
    const tab = await world.signedIn();
    const { fetch } = tab.environment;
    Object.assign(tab.environment, {
      fetch: () => {
        throw new TypeError("not ready");
      },
    });
    await expect(Promise.all([tab.client.renew("secret-token-1"), world.run(50)])).rejects.toMatchObject({
      name: "AuthError",
      code: "network",
    });
    expect(tab.status).toBe("degraded");
    await tab.client.logout();
    await expect(world.login(tab)).rejects.toMatchObject({ name: "AuthError", code: "network" });
    Object.assign(tab.environment, { fetch });
    await world.run(31_000);
    expect(world.server.count(LOGOUT)).toBe(1);
    expect(world.server.session).toBeNull();
    expect(await world.login(tab)).toEqual(ADA);
    await settle();
  });
});
