import { describe, expect, it } from "vitest";
import type { Locks } from "../../src/core/types.ts";
import { ADA, BOB, json, problem, settle, type Tab, World } from "./world.ts";

const LOGOUT = "/auth/logout";

describe("login", () => {
  it("signs in, tells the hint nothing and returns the user", async () => {
    const world = new World();
    const tab = world.open();
    tab.client.start();
    expect(await world.login(tab)).toEqual(ADA);
    expect(tab.status).toBe("authenticated");
    expect(tab.names()).toEqual(["signedIn"]);
    expect(await tab.client.getToken()).toBe("secret-token-1");
  });

  it.each(["login", "signup"] as const)("is given up with its page: %s", async (how) => {
    const world = new World();
    const tab = world.open();
    void tab.client[how]({ email: ADA.email, password: "x" });
    await settle();
    expect(world.server.calls).toMatchObject([{ path: `/auth/${how}`, init: { keepalive: false } }]);
  });

  it("throws the server's error and changes nothing", async () => {
    const world = new World();
    const tab = world.open();
    tab.client.start();
    world.server.handlers.set("/auth/login", () => problem("invalid_credentials", 401));
    await expect(world.login(tab)).rejects.toMatchObject({
      name: "AuthError",
      code: "invalid_credentials",
      status: 401,
      retryable: false,
    });
    expect(tab.state).toEqual({ status: "anonymous", reason: "never" });
  });

  it("replaces who is signed in", async () => {
    const world = new World();
    const tab = await world.signedIn();
    world.server.user = BOB;
    await world.run(10);
    expect(await world.login(tab)).toEqual(BOB);
    expect(tab.names()).toEqual(["signedIn", "userChanged"]);
  });

  it("waits for a logout under way, whose answer would remove the new cookie", async () => {
    const world = new World();
    const tab = await world.signedIn();
    let release = (_: Response) => {};
    world.server.handlers.set(LOGOUT, () => new Promise((resolve) => (release = resolve)));
    void tab.client.logout();
    const login = world.login(tab);
    await settle();
    expect(world.server.count("/auth/login")).toBe(0);
    release(new Response(null, { status: 204 }));
    expect(await login).toEqual(ADA);
    expect(world.server.count(LOGOUT)).toBe(1);
  });

  it("does not sign in when the person has logged out meanwhile", async () => {
    const world = new World();
    const tab = world.open();
    tab.client.start();
    world.server.handlers.set("/auth/login", () => new Promise(() => {}));
    const login = tab.client.login({ email: "a@b.example", password: "x" }).catch((error) => error);
    await world.run(10);
    await tab.client.logout();
    // Its cookie may still come, so it is waited for, but no longer than for any answer.
    await world.run(10_000);
    expect(await login).toMatchObject({ name: "AuthError" });
    expect(tab.status).toBe("anonymous");
  });

  it.each([
    ["here", "logout"],
    ["in another tab", "logout_other_tab"],
  ])(
    "that the server grants after the person has logged out %s is ended again, before the next one",
    async (_, reason) => {
      const world = new World();
      const [tab, other] = [await world.signedIn(), await world.signedIn()];
      let release = () => {};
      world.server.handlers.set("/auth/login", () => {
        // The next ones are answered at once.
        world.server.handlers.delete("/auth/login");
        return new Promise((resolve) => {
          release = () => {
            world.server.open(BOB);
            resolve(json(world.server.answer()));
          };
        });
      });
      const late = tab.client.login({ email: BOB.email, password: "x" }).catch((error) => error);
      await world.run(10);
      await (reason === "logout" ? tab : other).client.logout();
      await world.run(10);
      expect(tab.state).toEqual({ status: "anonymous", reason });
      const next = world.login(tab);
      release();
      expect(await late).toMatchObject({ name: "AuthError", code: "session_changed" });
      expect(await next).toEqual(ADA);
      expect(world.server.calls.map(({ path }) => path).slice(-4)).toEqual([
        "/auth/login",
        LOGOUT,
        LOGOUT,
        "/auth/login",
      ]);
      expect(tab.state.user).toEqual(ADA);
    },
  );

  it("whose late session the server could not end at once is ended later", async () => {
    const world = new World();
    const tab = await world.signedIn();
    let release = (_: Response) => {};
    world.server.handlers.set("/auth/login", () => new Promise((resolve) => (release = resolve)));
    const late = tab.client.login({ email: BOB.email, password: "x" }).catch((error) => error);
    await world.run(10);
    await tab.client.logout();
    world.server.handlers.set(LOGOUT, () => problem("unavailable", 503));
    world.server.open(BOB);
    release(json(world.server.answer()));
    expect(await late).toMatchObject({ code: "session_changed" });
    world.server.handlers.delete(LOGOUT);
    tab.fire("focus");
    await world.run(31_000);
    expect(world.server.session).toBeNull();
    expect(tab.state).toEqual({ status: "anonymous", reason: "logout" });
  });

  it("of a page that went into the page cache meanwhile is kept: nobody has logged out", async () => {
    const world = new World();
    const tab = world.open();
    tab.client.start();
    let release = (_: Response) => {};
    world.server.handlers.set("/auth/login", () => new Promise((resolve) => (release = resolve)));
    const login = tab.client.login({ email: ADA.email, password: "x" }).catch((error) => error);
    await world.run(10);
    tab.fire("pagehide", { persisted: true });
    world.server.open();
    release(json(world.server.answer()));
    await login;
    tab.fire("pageshow", { persisted: true });
    await world.run(50);
    expect(world.server.count(LOGOUT)).toBe(0);
    expect(tab.state.user).toEqual(ADA);
  });

  it("returns whom it signed in, though another tab logs out before the browser has taken the lock back", async () => {
    const world = new World();
    const [tab, other] = [world.open(), world.open()];
    const { locks } = tab.environment.navigator as { locks: Locks };
    Object.defineProperty(tab.environment.navigator, "locks", {
      value: {
        request: (...request: Parameters<Locks["request"]>) =>
          locks.request(...request).then(() => new Promise<void>((resolve) => world.setTimeout(resolve, 20))),
      },
    });
    for (const { client } of [tab, other]) client.start();
    const login = tab.client.login({ email: ADA.email, password: "x" });
    // It has taken back the lock under which a logout would be paid, and not yet that of the login.
    await world.run(25);
    expect(tab.status).toBe("authenticated");
    void other.client.logout();
    await world.run(50);
    expect(tab.status).toBe("anonymous");
    expect(await login).toEqual(ADA);
  });

  it.each([
    ["here", "logout"],
    ["in another tab", "logout_other_tab"],
  ])("that waits for the lock is not sent any more when the person logs out meanwhile %s", async (_, reason) => {
    const world = new World();
    const [tab, busy, other] = [await world.signedIn(), await world.signedIn(), await world.signedIn()];
    world.server.handlers.set("/auth/refresh", async () => {
      const answer = json(world.server.answer());
      await new Promise<void>((resolve) => world.setTimeout(resolve, 2_000));
      return answer;
    });
    void busy.client.renew(`secret-token-${world.server.tokens}`);
    await world.run(10);
    world.server.user = BOB;
    const login = tab.client.login({ email: BOB.email, password: "x" }).catch((error) => error);
    await world.run(100);
    await (reason === "logout" ? tab : other).client.logout();
    await world.run(10_000);
    expect(await login).toMatchObject({ name: "AuthError", code: "session_changed" });
    expect(world.server.count("/auth/login")).toBe(0);
    expect(tab.state).toEqual({ status: "anonymous", reason });
    expect(tab.names()).toEqual(["signedIn", "refreshed", "refreshed", "signedOut"]);
    // It is not in the way of the next one.
    expect(await world.login(tab)).toEqual(BOB);
  });
});

describe("logout", () => {
  it("in one tab signs out all others within a second, and drops their tokens", async () => {
    const world = new World();
    const tabs = await Promise.all(Array.from({ length: 4 }, () => world.signedIn()));
    await tabs[0]?.client.logout();
    await world.run(1_000);
    expect(tabs.map((tab) => tab.state.reason)).toEqual([
      "logout",
      "logout_other_tab",
      "logout_other_tab",
      "logout_other_tab",
    ]);
    for (const tab of tabs) {
      expect(await tab.client.getToken()).toBeNull();
      expect(tab.names().filter((name) => name === "signedOut")).toHaveLength(1);
    }
    expect(world.server.count(LOGOUT)).toBe(1);
  });

  it("clears the state before anything is awaited", async () => {
    const world = new World();
    const tab = await world.signedIn();
    void tab.client.logout();
    expect(tab.state).toEqual({ status: "anonymous", reason: "logout" });
    expect(world.hint).toBe(false);
    await settle();
  });

  it("while a refresh is in flight discards its token", async () => {
    const world = new World();
    const tab = await world.signedIn();
    let release = (_: Response) => {};
    world.server.handlers.set("/auth/refresh", () => new Promise((resolve) => (release = resolve)));
    const asked = tab.client.renew("secret-token-1");
    await world.run(10);
    const late = world.server.answer();
    await tab.client.logout();
    release(json(late));
    await world.run(1_000);
    expect(await asked).toBeNull();
    expect(tab.status).toBe("anonymous");
    expect(world.hint).toBe(false);
    expect(tab.names()).toEqual(["signedIn", "signedOut"]);
  });

  it("in another tab discards what is in flight here", async () => {
    const world = new World();
    const tab = await world.signedIn({ without: ["locks"] });
    const other = await world.signedIn();
    let release = (_: Response) => {};
    world.server.handlers.set("/auth/refresh", () => new Promise((resolve) => (release = resolve)));
    void tab.client.renew(`secret-token-${world.server.tokens}`).catch(() => {});
    await world.run(10);
    const late = world.server.answer();
    await other.client.logout();
    await world.run(10);
    release(json(late));
    await world.run(100);
    expect(tab.state).toEqual({ status: "anonymous", reason: "logout_other_tab" });
  });

  it("is not undone by a straggling broadcast of the ended session", async () => {
    const world = new World();
    const tab = await world.signedIn();
    const straggler = world.posted.find((message) => (message as { type: string }).type === "granted");
    await tab.client.logout();
    for (const channel of world.channels) channel.receive(straggler);
    expect(tab.status).toBe("anonymous");
  });

  it("offline clears the state at once and tells the server when the network is back", async () => {
    const world = new World();
    const tab = await world.signedIn();
    await tab.line(false);
    await tab.client.logout({ everywhere: true });
    expect(tab.status).toBe("anonymous");
    expect(world.hint).toBe(false);
    expect(world.server.count(LOGOUT)).toBe(0);
    await tab.line(true);
    expect(world.server.calls.at(-1)).toMatchObject({ path: LOGOUT, body: { everywhere: true } });
    expect(world.server.session).toBeNull();
    await world.run(120_000);
    expect(world.server.count(LOGOUT)).toBe(1);
  });

  it("everywhere stays owed when another logout follows, here or in another tab", async () => {
    const world = new World();
    const [tab, other] = [await world.signedIn(), await world.signedIn()];
    world.server.handlers.set(LOGOUT, () => problem("unavailable", 503));
    await tab.client.logout({ everywhere: true });
    await Promise.all([tab.client.logout(), other.client.logout()]);
    world.server.handlers.clear();
    await world.run(61_000);
    expect(world.server.calls.at(-1)).toMatchObject({ path: LOGOUT, body: { everywhere: true } });
    await tab.client.logout();
    expect(world.server.calls.at(-1)?.body).toEqual({});
  });

  it("offline is still sent by the next page when this one is closed before", async () => {
    const world = new World();
    const tab = await world.signedIn();
    await tab.line(false);
    await tab.client.logout();
    tab.close();
    const next = world.open();
    next.client.start();
    expect(next.status).toBe("anonymous");
    await world.run(100);
    expect(world.server.count(LOGOUT)).toBe(1);
  });

  it("that is owed by a tab that is closed is sent by another one that is open, once", async () => {
    const world = new World();
    const [tab, ...others] = [await world.signedIn(), await world.signedIn(), await world.signedIn()];
    world.server.handlers.set(LOGOUT, () => problem("unavailable", 503));
    await tab.client.logout();
    tab.close();
    world.server.handlers.clear();
    await world.run(31_000);
    expect(world.server.session).toBeNull();
    expect(others.map(({ state }) => state.reason)).toEqual(["logout_other_tab", "logout_other_tab"]);
    await world.run(120_000);
    expect(world.server.count(LOGOUT)).toBe(2);
  });

  it("that is owed is not undone by `stay`, which asks the server nothing for who is signed out", async () => {
    const world = new World();
    const tab = await world.signedIn();
    world.server.handlers.set(LOGOUT, () => problem("unavailable", 503));
    await tab.client.logout();
    const { epoch } = tab.client;
    tab.client.stay();
    await world.run(1_000);
    expect(tab.state).toEqual({ status: "anonymous", reason: "logout" });
    expect(tab.client.epoch).toBe(epoch);
    expect(world.server.calls.map(({ path }) => path)).toEqual(["/auth/refresh", LOGOUT]);
  });

  it("that is owed does not end the session of a later login", async () => {
    const world = new World();
    const tab = await world.signedIn();
    await tab.line(false);
    await tab.client.logout();
    tab.onLine = true;
    world.server.handlers.set(LOGOUT, () => problem("unavailable", 503));
    await world.login(tab);
    world.server.handlers.clear();
    const logouts = world.server.count(LOGOUT);
    await tab.line(true);
    await world.run(120_000);
    expect(world.server.count(LOGOUT)).toBe(logouts);
    expect(tab.status).toBe("authenticated");
  });

  it.each([
    ["without a network", (tab: Tab) => tab.line(false)],
    [
      "with a wrong password",
      async ({ world }: Tab) => {
        world.server.handlers.set(LOGOUT, () => problem("unavailable", 503));
        world.server.handlers.set("/auth/login", () => problem("invalid_credentials", 401));
      },
    ],
  ])("that is owed is still sent after a login that failed %s", async (_, fail) => {
    const world = new World();
    const tab = await world.signedIn();
    await fail(tab);
    await tab.client.logout();
    await expect(world.login(tab)).rejects.toMatchObject({ name: "AuthError" });
    expect(world.server.session).not.toBeNull();
    world.server.handlers.clear();
    await tab.line(true);
    await world.run(31_000);
    expect(world.server.session).toBeNull();
  });

  it("is sent again when the server could not take it, and not when it never will", async () => {
    const world = new World();
    const tab = await world.signedIn();
    world.server.handlers.set(LOGOUT, () => problem("unavailable", 503));
    await tab.client.logout();
    world.server.handlers.set(LOGOUT, () => problem("csrf_refused", 403));
    await world.run(31_000);
    expect(world.server.count(LOGOUT)).toBe(2);
    await world.run(120_000);
    expect(world.server.count(LOGOUT)).toBe(2);
  });

  it("is tried again every half minute, however often the network comes and goes", async () => {
    const world = new World();
    const tab = await world.signedIn();
    world.server.handlers.set(LOGOUT, () => problem("unavailable", 503));
    await tab.client.logout();
    for (let turn = 0; turn < 20; turn++) {
      await tab.line(false);
      await tab.line(true);
    }
    const before = world.server.count(LOGOUT);
    expect(before).toBeGreaterThan(20);
    await world.run(301_000);
    expect(world.server.count(LOGOUT) - before).toBe(10);
  });

  it.each([
    ["a page", 200],
    ["a page", 403],
    ["a redirect's target", 404],
  ])("is sent again after %s with status %d, which is no answer of this server", async (_, status) => {
    const world = new World();
    const tab = await world.signedIn();
    world.server.handlers.set(LOGOUT, () => new Response("<html>", { status }));
    await tab.client.logout();
    world.server.handlers.clear();
    expect(world.server.session).not.toBeNull();
    await world.run(31_000);
    expect(world.server.session).toBeNull();
    await world.run(120_000);
    expect(world.server.count(LOGOUT)).toBe(2);
  });

  it.each(["", "https://auth.example"])(
    "that is owed to the server at '%s' counts in the next page, though it fails once more and a refresh would not",
    async (origin) => {
      const world = new World();
      const { handlers } = world.server;
      for (const path of [LOGOUT, "/auth/refresh"])
        handlers.set(`https://auth.example${path}`, (call) => world.server.handle({ ...call, path }));
      const baseUrl = `${origin}/auth`;
      const tab = await world.signedIn({ baseUrl });
      handlers.set(LOGOUT, () => problem("unavailable", 503));
      await tab.client.logout();
      tab.close();
      world.hint = true; // A refresh that was under way brought it back.
      const next = world.open({ baseUrl });
      next.client.start();
      await world.run(1_000);
      expect(next.state).toEqual({ status: "anonymous", reason: "never" });
      expect(await next.client.getToken()).toBeNull();
      handlers.delete(LOGOUT);
      await world.run(31_000);
      expect(world.server.session).toBeNull();
      expect(next.names()).toEqual([]);
    },
  );

  it("that is owed to one server is not sent to that of another application on the same origin", async () => {
    const world = new World();
    const tab = await world.signedIn();
    const elsewhere = "https://auth.example/auth";
    const { user, session } = world.server.answer();
    const answer = { access_token: "t", token_type: "Bearer", expires_in: 600, user, session };
    world.server.handlers.set(`${elsewhere}/refresh`, () => json(answer));
    world.server.handlers.set(`${elsewhere}/logout`, () => new Response(null, { status: 204 }));
    await tab.line(false);
    await tab.client.logout();
    const other = world.open({ baseUrl: elsewhere });
    other.client.start();
    await world.run(100);
    expect(other.status).toBe("authenticated");
    expect(world.server.count(`${elsewhere}/logout`)).toBe(0);
    // It is still owed where it is.
    await tab.line(true);
    expect(world.server.session).toBeNull();
  });

  it("needs the cookie alone: no access token is sent or refreshed", async () => {
    const world = new World();
    const tab = await world.signedIn();
    await tab.hide();
    await world.run(700_000);
    await tab.client.logout();
    const call = world.server.calls.at(-1);
    expect(call).toMatchObject({ path: LOGOUT, body: {}, init: { keepalive: true } });
    expect(call?.headers.has("authorization")).toBe(false);
    expect(world.server.count("/auth/refresh")).toBe(1);
  });

  it("works where notes cannot be kept", async () => {
    const world = new World();
    const tab = world.open();
    Object.defineProperty(tab.environment, "localStorage", {
      get() {
        throw new DOMException("blocked", "SecurityError");
      },
    });
    world.server.open();
    tab.client.start();
    await world.run(50);
    await tab.client.logout();
    expect(tab.status).toBe("anonymous");
    expect(world.server.count(LOGOUT)).toBe(1);
  });
});

describe("the end from elsewhere", () => {
  it.each(["revoked", "reuse_detected", "password_changed", "user_disabled", "evicted", "absolute", "inactivity"])(
    "%s is exposed as the reason in every tab, with one event in each",
    async (reason) => {
      const world = new World();
      const tabs = await Promise.all([world.signedIn(), world.signedIn()]);
      world.server.end(reason);
      await world.run(600_000);
      for (const tab of tabs) {
        expect(tab.state).toEqual({ status: "anonymous", reason });
        expect(tab.names().filter((name) => name === "signedOut")).toHaveLength(1);
      }
      expect(world.server.count("/auth/refresh")).toBe(2);
    },
  );

  it("a session that has ended in another tab does not take a newer one with it", async () => {
    const world = new World();
    const tab = await world.signedIn();
    const [channel] = world.channels;
    const at = world.time;
    channel?.receive({ type: "ended", at, id: "f".repeat(32), reason: "revoked" });
    expect(tab.status).toBe("authenticated");
    channel?.receive({ type: "ended", at, id: tab.state.session?.id, reason: "revoked" });
    expect(tab.status).toBe("anonymous");
  });
});

describe("the page cache", () => {
  it("a page that goes into it shows nothing when it comes back until it has been verified", async () => {
    const world = new World();
    const tab = await world.signedIn();
    tab.fire("pagehide", { persisted: true });
    expect(tab.client.getSnapshot()).toEqual({ status: "unknown" });
    world.time += 60_000;
    tab.fire("pageshow", { persisted: true });
    expect(tab.status).toBe("unknown");
    await world.run(50);
    expect(tab.status).toBe("authenticated");
    expect(tab.names()).toEqual(["signedIn", "refreshed"]);
  });

  it("a page that comes back after a logout never shows what it showed, and asks nobody", async () => {
    const world = new World();
    const tab = await world.signedIn();
    tab.fire("pagehide", { persisted: true });
    world.server.end("logout");
    world.hint = false;
    const shown: string[] = [];
    tab.client.subscribe(() => shown.push(tab.status));
    tab.fire("pageshow", { persisted: true });
    await world.run(1_000);
    expect(shown).toEqual(["anonymous"]);
    expect(world.server.count("/auth/refresh")).toBe(1);
  });

  it("a result that was under way when the page left does not count when it is back", async () => {
    const world = new World();
    const tab = await world.signedIn();
    let release = (_: Response) => {};
    world.server.handlers.set("/auth/refresh", () => new Promise((resolve) => (release = resolve)));
    void tab.client.renew("secret-token-1").catch(() => {});
    await world.run(10);
    const late = world.server.answer();
    tab.fire("pagehide", { persisted: true });
    release(json(late));
    await world.run(10);
    expect(tab.status).toBe("unknown");
  });

  it.each([
    ["before it is known who is there", ["session_changed", "unknown"]],
    ["when its user has been verified", [200, "authenticated"]],
  ])("an answer that was under way when the page left, and comes %s", async (when, outcome) => {
    const world = new World();
    const tab = await world.signedIn();
    let release = (_: Response) => {};
    world.server.handlers.set("/api/mail", () => new Promise((resolve) => (release = resolve)));
    const asked = tab.client.fetch("/api/mail").then(
      ({ status }) => status,
      ({ code }) => code,
    );
    await world.run(10);
    tab.fire("pagehide", { persisted: true });
    tab.fire("pageshow", { persisted: true });
    if (/verified/.test(when)) await world.run(50);
    release(json("ada's"));
    expect([await asked, tab.status]).toEqual(outcome);
  });

  it("a page that is only left keeps its refresh under way, so that the cookie arrives", async () => {
    const world = new World();
    const tab = await world.signedIn();
    let signal: AbortSignal | null | undefined;
    world.server.handlers.set("/auth/refresh", ({ init }) => {
      signal = init.signal;
      return new Promise(() => {});
    });
    void tab.client.renew("secret-token-1").catch(() => {});
    await world.run(10);
    tab.fire("pagehide", { persisted: true });
    expect(signal?.aborted).toBe(false);
  });
});
