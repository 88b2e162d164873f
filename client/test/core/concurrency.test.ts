import { describe, expect, it } from "vitest";
import { BOB, type Call, json, problem, settle, type Tab, World } from "./world.ts";

const API = "/api/things";
const many = (count: number, run: () => Promise<Response>) => Array.from({ length: count }, run);

/** Let the server take its time for a refresh, and answer as always or otherwise. */
const slow = (world: World, milliseconds: number, answer = (_: Call) => json(world.server.answer())) =>
  world.server.handlers.set(
    "/auth/refresh",
    (call) => new Promise((resolve) => world.setTimeout(() => resolve(answer(call)), milliseconds)),
  );

describe("concurrency", () => {
  it("50 parallel fetches with an expired token make one refresh, and all succeed", async () => {
    const world = new World();
    const tab = await world.signedIn();
    await tab.hide();
    await world.run(700_000);
    const all = Promise.all(many(50, () => tab.client.fetch(API)));
    await world.run(100);
    expect((await all).map((response) => response.status)).toEqual(Array(50).fill(200));
    expect(world.server.count("/auth/refresh")).toBe(2);
    expect(world.server.count(API)).toBe(50);
  });

  it("50 parallel 401s of a token that looked valid make one refresh, each is retried once and succeeds", async () => {
    const world = new World();
    const tab = await world.signedIn();
    world.server.tokens += 1; // The server no longer takes the old one.
    const all = Promise.all(many(50, () => tab.client.fetch(API)));
    await world.run(100);
    expect((await all).every((response) => response.ok)).toBe(true);
    expect(world.server.count("/auth/refresh")).toBe(2);
    expect(world.server.count(API)).toBe(100);
  });

  it("a 401 that arrives after another's refresh is retried with the new token, without one more refresh", async () => {
    const world = new World();
    const tab = await world.signedIn();
    let release = (_: Response) => {};
    world.server.handlers.set("/api/slow", ({ headers }) =>
      headers.get("authorization") === "Bearer secret-token-1"
        ? new Promise((resolve) => {
            release = resolve;
          })
        : json("done"),
    );
    const slow = tab.client.fetch("/api/slow");
    await settle();
    expect(await Promise.all([tab.client.renew("secret-token-1"), world.run(50)])).toEqual([
      "secret-token-2",
      undefined,
    ]);
    release(problem("invalid_token", 401));
    expect((await slow).status).toBe(200);
    expect(world.server.count("/auth/refresh")).toBe(2);
  });

  it("8 tabs restored at once make at most 2 refreshes", async () => {
    const world = new World();
    world.server.open();
    const tabs = Array.from({ length: 8 }, () => world.open());
    for (const tab of tabs) tab.client.start();
    await world.run(500);
    expect(tabs.map((tab) => tab.status)).toEqual(Array(8).fill("authenticated"));
    expect(world.server.count("/auth/refresh")).toBeLessThanOrEqual(2);
  });

  it("8 tabs make one refresh when the lock comes to each before the token of the tab that had it", async () => {
    const world = new World();
    world.travel = 40;
    slow(world, 50);
    world.server.open();
    const tabs = Array.from({ length: 8 }, () => world.open());
    for (const tab of tabs) tab.client.start();
    await world.run(95);
    expect(tabs.map((tab) => tab.status)).toEqual(Array(8).fill("authenticated"));
    expect(world.server.count("/auth/refresh")).toBe(1);
  });

  it("a tab that got the lock without a token waits no longer for one than a quarter of a second", async () => {
    const world = new World();
    world.server.open();
    slow(world, 3_000, () => problem("unavailable", 503));
    const [first, second] = [world.open(), world.open()];
    first.client.start();
    second.client.start();
    await world.run(3_100);
    expect(world.server.count("/auth/refresh")).toBe(1);
    await world.run(200);
    expect(world.server.count("/auth/refresh")).toBe(2);
  });

  it("8 tabs that each get a 401 make at most 2 refreshes, the others adopt the token", async () => {
    const world = new World();
    const tabs = await Promise.all(Array.from({ length: 8 }, () => world.signedIn()));
    const before = world.server.count("/auth/refresh");
    world.server.tokens += 1;
    const all = Promise.all(tabs.map((tab) => tab.client.fetch(API)));
    await world.run(500);
    expect((await all).every((response) => response.ok)).toBe(true);
    expect(world.server.count("/auth/refresh") - before).toBeLessThanOrEqual(2);
  });

  it("over many token lifetimes 8 tabs refresh at most 1.3 times per lifetime", async () => {
    const world = new World();
    const tabs = await Promise.all(Array.from({ length: 8 }, () => world.signedIn()));
    const before = world.server.count("/auth/refresh");
    for (let turn = 0; turn < 100; turn++) {
      world.random = ((turn * 7) % 10) / 10;
      tabs[0]?.act();
      await world.run(60_000);
    }
    expect(tabs.every((tab) => tab.status === "authenticated")).toBe(true);
    expect((world.server.count("/auth/refresh") - before) / 10).toBeLessThanOrEqual(1.3);
  });

  it("the next tab succeeds when the one that holds the lock is closed in mid-refresh", async () => {
    const world = new World();
    world.server.open();
    const first = world.open();
    const second = world.open();
    world.server.handlers.set("/auth/refresh", () => new Promise(() => {}));
    first.client.start();
    await world.run(50);
    second.client.start();
    await world.run(50);
    expect(world.server.count("/auth/refresh")).toBe(1);
    world.server.handlers.clear();
    first.close();
    await world.run(50);
    expect(second.status).toBe("authenticated");
  });

  it("goes ahead without the lock when it cannot be had, and steals nothing", async () => {
    const world = new World();
    world.server.open();
    const frozen = world.open();
    void frozen.environment.navigator?.locks?.request(
      "https://app.example/auth",
      { signal: new AbortController().signal },
      () => new Promise(() => {}),
    );
    const tab = world.open();
    tab.client.start();
    await world.run(10_500);
    expect(tab.status).toBe("unknown");
    await world.run(1_000);
    expect(tab.status).toBe("authenticated");
  });

  it("sends nothing twice when other code steals the lock from under it", async () => {
    const world = new World();
    world.server.open();
    const tab = world.open();
    // As browsers do it: what ran under the lock goes on, and who asked for it is told.
    Object.assign(tab.environment.navigator as object, {
      locks: {
        request: (_name: string, _options: object, run: () => Promise<void>) =>
          new Promise((_resolve, reject) => {
            void run();
            world.setTimeout(() => reject(new DOMException("stolen", "AbortError")), 100);
          }),
      },
    });
    world.server.handlers.set("/auth/refresh", async () => {
      const answer = json(world.server.answer());
      await new Promise<void>((resolve) => world.setTimeout(resolve, 3_000));
      return answer;
    });
    tab.client.start();
    await world.run(5_000);
    expect(tab.status).toBe("authenticated");
    expect(world.server.count("/auth/refresh")).toBe(1);
  });

  it.each(["/auth/refresh", "/auth/logout"])(
    "%s does not pass by a slow one of another tab, or its late cookie would undo a third tab's login",
    async (path) => {
      const world = new World();
      const [first, second, third] = [await world.signedIn(), await world.signedIn(), await world.signedIn()];
      const rejected = `secret-token-${world.server.tokens}`;
      world.server.handlers.set("/auth/logout", () => problem("unavailable", 503));
      if (path === "/auth/logout") await first.client.logout();
      // The server is done with it at once, and its answer travels, within the limit of a request.
      let jar = "ada's";
      world.server.handlers.set(path, async ({ tab }) => {
        const answer = path === "/auth/logout" ? new Response(null, { status: 204 }) : json(world.server.answer());
        await new Promise<void>((resolve) => world.setTimeout(resolve, tab === first ? 7_000 : 4_000));
        jar = "ada's";
        return answer;
      });
      world.server.handlers.set("/auth/login", () => {
        world.server.open(BOB);
        jar = "bob's";
        return json(world.server.answer());
      });
      for (const tab of [first, second]) {
        // Sends the logout that is owed, if there is one.
        tab.fire("online");
        void tab.client.renew(rejected);
        await world.run(10);
      }
      await world.run(2_500);
      const login = third.client.login({ email: BOB.email, password: "correct horse battery" });
      await world.run(30_000);
      expect(await login).toEqual(BOB);
      expect(jar).toBe("bob's");
    },
  );

  it("a login waits for two slow refreshes of other tabs, one after the other", async () => {
    const world = new World();
    const [first, second, third] = [await world.signedIn(), await world.signedIn(), await world.signedIn()];
    const rejected = `secret-token-${world.server.tokens}`;
    let jar = "ada's";
    slow(world, 9_000, ({ tab }) => {
      if (tab === first) return problem("unavailable", 503);
      jar = "ada's";
      return json(world.server.answer());
    });
    world.server.handlers.set("/auth/login", () => {
      world.server.open(BOB);
      jar = "bob's";
      return json(world.server.answer());
    });
    for (const tab of [first, second]) void tab.client.renew(rejected).catch(() => {});
    await world.run(10);
    const login = third.client.login({ email: BOB.email, password: "correct horse battery" });
    await world.run(30_000);
    expect(await login).toEqual(BOB);
    expect(jar).toBe("bob's");
  });

  it.each([["locks"], ["BroadcastChannel"], ["locks", "BroadcastChannel"]])("works without %s", async (...without) => {
    const world = new World();
    world.server.open();
    const tabs = Array.from({ length: 3 }, () => world.open({ without }));
    for (const tab of tabs) tab.client.start();
    await world.run(500);
    expect(tabs.map((tab) => tab.status)).toEqual(Array(3).fill("authenticated"));
    expect(world.server.count("/auth/refresh")).toBeLessThanOrEqual(3);
    await world.run(1_300_000);
    expect(tabs.map((tab) => tab.status)).toEqual(Array(3).fill("authenticated"));
  });

  it.each(["getToken", "renew", "logout", "stay"] as const)(
    "a listener may call %s without a deadlock",
    async (name) => {
      const world = new World();
      world.server.open();
      const tab = world.open();
      let done: unknown = "waiting";
      const calls = {
        getToken: () => tab.client.getToken(),
        renew: () => tab.client.renew("secret-token-1"),
        logout: () => tab.client.logout(),
        stay: async () => tab.client.stay(),
      };
      tab.client.on("signedIn", () => {
        calls[name]().then((value) => {
          done = value ?? "nothing";
        });
      });
      tab.client.start();
      await world.run(500);
      expect(done).not.toBe("waiting");
      expect(tab.status).toBe(name === "logout" ? "anonymous" : "authenticated");
    },
  );

  it("tells every listener of what happens in order, also of what another listener brings about", async () => {
    const world = new World();
    world.server.open();
    const tab = world.open();
    const told: string[] = [];
    tab.client.on("signedIn", () => void tab.client.logout());
    tab.client.on("signedIn", () => told.push("signedIn"));
    tab.client.on("signedOut", () => told.push("signedOut"));
    tab.client.subscribe(() => told.push(tab.status));
    tab.client.start();
    await world.run(500);
    expect(told).toEqual(["signedIn", "anonymous", "signedOut", "anonymous"]);
    await world.login(tab).catch(() => {});
    expect(told.slice(4)).toEqual(["signedIn", "anonymous", "signedOut", "anonymous"]);
  });

  it("ignores a broadcast that is older than what it has", async () => {
    const world = new World();
    const tab = await world.signedIn();
    const old = world.posted.find((message) => (message as { type: string }).type === "granted");
    await world.run(10_000);
    await Promise.all([tab.client.renew("secret-token-1"), world.run(50)]);
    const [channel] = world.channels;
    channel?.receive(old);
    expect(await tab.client.getToken()).toBe("secret-token-2");
  });

  it("adopts another user's login from another tab, and says so once", async () => {
    const world = new World();
    const tab = await world.signedIn();
    const other = await world.signedIn();
    await world.run(1_000);
    world.server.user = BOB;
    await world.login(other);
    await world.run(50);
    expect(tab.state.user).toEqual(BOB);
    expect(tab.names().filter((name) => name === "userChanged")).toHaveLength(1);
    expect(await tab.client.getToken()).toBe(`secret-token-${world.server.tokens}`);
  });

  it.each([
    ["a token", (world: World) => json(world.server.answer())],
    ["an end", () => problem("session_ended", 401, { reason: "revoked" })],
    ["a failure", () => problem("unavailable", 503)],
  ])("%s that was asked for before another tab's login comes too late to count", async (_, answer) => {
    const world = new World();
    const tab = await world.signedIn({ without: ["locks"] });
    const other = await world.signedIn();
    await world.run(1_000);
    let release = (_: Response) => {};
    world.server.handlers.set("/auth/refresh", () => new Promise((resolve) => (release = resolve)));
    const asked = tab.client.renew(`secret-token-${world.server.tokens}`);
    await world.run(10);
    const late = answer(world);
    world.server.user = BOB;
    await world.login(other);
    await world.run(10);
    const shown = tab.client.getSnapshot();
    expect(tab.state.user).toEqual(BOB);
    release(late);
    await world.run(100);
    expect(tab.client.getSnapshot()).toBe(shown);
    expect(await asked).toBe(await other.client.getToken());
  });

  it("does not hand data asked for as the first user to a page of the second", async () => {
    const world = new World();
    const tab = await world.signedIn();
    const other = await world.signedIn();
    let release = (_: Response) => {};
    world.server.handlers.set(API, () => new Promise((resolve) => (release = resolve)));
    const asked = tab.client.fetch(API).catch((error) => error);
    await world.run(1_000);
    world.server.user = BOB;
    await world.login(other);
    await world.run(50);
    release(json({ secret: "ada's" }));
    expect(await asked).toMatchObject({ name: "AuthError", code: "session_changed" });
  });

  it("does not send the first user's request again with the second user's token", async () => {
    const world = new World();
    const tab = await world.signedIn();
    const other = await world.signedIn();
    let release = (_: Response) => {};
    world.server.handlers.set(API, () => new Promise((resolve) => (release = resolve)));
    const asked = tab.client.fetch(API, { method: "POST", body: "{}" }).catch((error) => error);
    await world.run(1_000);
    world.server.user = BOB;
    await world.login(other);
    await world.run(50);
    release(problem("invalid_token", 401));
    await asked;
    expect(world.server.count(API)).toBe(1);
  });

  it.each<[string, (world: World, tab: Tab) => unknown]>([
    ["ends", ({ server }) => server.end("revoked")],
    ["is logged out of", (_, tab) => tab.client.logout()],
  ])("sends nothing as nobody that a user's page asked for, whose session %s while it waits", async (_, end) => {
    const world = new World();
    const tab = await world.signedIn();
    await tab.hide();
    await world.run(700_000);
    const asked = tab.client.fetch(API, { method: "POST", body: "{}" }).catch((error) => error);
    await end(world, tab);
    await world.run(50);
    expect(await asked).toMatchObject({ code: "session_changed", retryable: false });
    expect(world.server.count(API)).toBe(0);
    // What the page asks for after that it asks for as nobody.
    expect((await tab.client.fetch(API)).status).toBe(401);
  });

  it.each([
    ["had a token that no longer lasts", (world: World) => world.run(700_000)],
    ["was back from the page cache", async (_: World, tab: Tab) => tab.fire("pagehide", { persisted: true })],
  ])("does not send as the second user what the first user's page asked for while it %s", async (_, lose) => {
    const world = new World();
    const tab = await world.signedIn();
    const other = await world.signedIn();
    await Promise.all([tab.hide(), other.hide()]);
    await lose(world, tab);
    world.server.handlers.set("/auth/login", async () => {
      await new Promise<void>((resolve) => world.setTimeout(resolve, 500));
      world.server.open(BOB);
      return json(world.server.answer());
    });
    const login = other.client.login({ email: BOB.email, password: "correct horse battery" });
    await world.run(100);
    // It has to wait for the lock, which the login has.
    const sent = tab.client.fetch(API, { method: "POST", body: "ada's" }).catch((error) => error);
    await world.run(1_000);
    expect(await login).toEqual(BOB);
    expect(await sent).toMatchObject({ name: "AuthError", code: "session_changed", retryable: false });
    expect(world.server.count(API)).toBe(0);
    expect(tab.state.user).toEqual(BOB);
  });

  it("is signed in by a login in another tab while it shows the form", async () => {
    const world = new World();
    const tab = world.open();
    const other = world.open();
    tab.client.start();
    other.client.start();
    expect(tab.status).toBe("anonymous");
    await world.login(other);
    await world.run(50);
    expect(tab.status).toBe("authenticated");
    expect(tab.names()).toEqual(["signedIn"]);
  });

  it("finds a login in another tab by the hint where no channel tells of it", async () => {
    const world = new World();
    const tab = world.open({ without: ["BroadcastChannel"] });
    tab.client.start();
    world.server.open();
    tab.fire("focus");
    await world.run(50);
    expect(tab.status).toBe("authenticated");
  });

  it("a document that the browser sends without cookies, a frame of another site, signs nobody out in the tabs", async () => {
    const world = new World();
    const tab = await world.signedIn();
    const frame = await world.signedIn();
    world.server.handlers.set("/auth/refresh", (call) =>
      call.tab === frame ? problem("no_session", 401) : json(world.server.answer()),
    );
    // Where browsers do not divide storage by the site at the top, the frame hears of the tab's token.
    const token = (await frame.client.getToken()) as string;
    const asked = frame.client.renew(token);
    await world.run(50);
    expect(await asked).toBeNull();
    expect(frame.state).toEqual({ status: "anonymous", reason: "expired" });
    expect(tab.status).toBe("authenticated");
    expect(await tab.client.getToken()).toBe(token);
    expect(tab.names()).not.toContain("signedOut");
  });

  it("a listener that throws does not keep the next from hearing", async () => {
    const world = new World();
    const tab = await world.signedIn();
    const heard: string[] = [];
    const uncaught: unknown[] = [];
    const listeners = process.listeners("uncaughtException");
    process.removeAllListeners("uncaughtException");
    process.once("uncaughtException", (error) => uncaught.push(error.message));
    tab.client.on("signedOut", () => {
      throw new Error("mine");
    });
    tab.client.on("signedOut", ({ reason }) => heard.push(reason));
    await tab.client.logout();
    await settle();
    for (const listener of listeners) process.on("uncaughtException", listener);
    expect(heard).toEqual(["logout"]);
    expect(uncaught).toEqual(["mine"]);
  });
});
