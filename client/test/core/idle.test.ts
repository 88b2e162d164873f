import { describe, expect, it } from "vitest";
import { problem, settle, World } from "./world.ts";

const REFRESH = "/auth/refresh";
const MINUTE = 60_000;

const idle = async (timeout = 1_800) => {
  const world = new World();
  world.server.idleTimeout = timeout;
  const tab = world.open();
  tab.client.start();
  await world.login(tab);
  return { world, tab };
};
const reports = (world: World) =>
  world.server.calls
    .filter((call) => call.path === REFRESH)
    .map((call) => (call.body as { idle_seconds: number | null }).idle_seconds);

describe("idle", () => {
  it("activity in one tab alone keeps the others from warning and from signing out", async () => {
    const { world, tab: active } = await idle();
    const other = await world.signedIn();
    for (let minute = 0; minute < 120; minute++) {
      active.act();
      await world.run(MINUTE);
    }
    expect(other.status).toBe("authenticated");
    expect(other.names()).not.toContain("idleWarning");
    expect(active.names()).not.toContain("idleWarning");
  });

  it.each(["pointerdown", "pointermove", "keydown", "wheel"])("a person acts by %s alone", async (how) => {
    const { world, tab } = await idle();
    for (let minute = 0; minute < 120; minute++) {
      tab.fire(how);
      await world.run(MINUTE);
    }
    expect(tab.status).toBe("authenticated");
    expect(tab.names()).not.toContain("idleWarning");
  });

  it("warns a minute before the end, in every tab, with the time of the end", async () => {
    const { world, tab } = await idle();
    const other = await world.signedIn();
    const end = world.time + 1_800_000;
    await world.run(1_738_000);
    expect(tab.state.warning).toBeUndefined();
    await world.run(10_000);
    for (const one of [tab, other]) {
      expect(one.state.warning?.kind).toBe("inactivity");
      expect(one.names().filter((name) => name === "idleWarning")).toHaveLength(1);
      expect(Math.abs((one.state.warning?.endsAt ?? 0) - end)).toBeLessThan(2_000);
    }
  });

  it("`stay` in any tab closes all warnings and tells the server once", async () => {
    const { world, tab } = await idle();
    const others = [await world.signedIn(), await world.signedIn()];
    await world.run(1_750_000);
    expect(others.map((one) => one.state.warning?.kind)).toEqual(["inactivity", "inactivity"]);
    const before = world.server.count(REFRESH);
    others[0]?.client.stay();
    await world.run(500);
    for (const one of [tab, ...others]) expect(one.state.warning).toBeUndefined();
    expect(world.server.count(REFRESH)).toBe(before + 1);
    expect(reports(world).at(-1)).toBe(0);
    await world.run(1_700_000);
    expect(tab.status).toBe("authenticated");
  });

  it("while a warning stands a moving mouse does not answer it", async () => {
    const { world, tab } = await idle();
    await world.run(1_750_000);
    tab.fire("pointermove");
    await settle();
    expect(tab.state.warning).toBeDefined();
  });

  it("refreshes while a warning stands, and is neither answered by them nor warned again", async () => {
    const { world, tab } = await idle();
    const other = await world.signedIn();
    const warned = () => [tab, other].map((one) => one.state.warning?.kind);
    for (const one of [tab, other]) one.client.warnAt(300);
    await world.run(1_510_000);
    const before = world.server.count(REFRESH);
    const broken: unknown[] = [];
    await world.run(250_000);
    expect(world.server.count(REFRESH)).toBe(before + 1);
    expect(warned()).toEqual(["inactivity", "inactivity"]);
    expect(broken).toEqual([]);
    for (const one of [tab, other]) expect(one.names().filter((name) => name === "idleWarning")).toHaveLength(1);
  });

  it("an act that another tab took for one closes the warning here, too", async () => {
    const { world, tab } = await idle();
    const other = await world.signedIn();
    other.client.warnAt(30);
    await world.run(1_750_000);
    expect([tab.state.warning?.kind, other.state.warning]).toEqual(["inactivity", undefined]);
    other.act();
    await world.run(10);
    expect(tab.state.warning).toBeUndefined();
  });

  it("tells listeners what the snapshot says", async () => {
    const { world, tab } = await idle();
    const told: unknown[] = [];
    tab.client.on("refreshed", (detail) => told.push(detail === tab.client.getSnapshot()));
    tab.client.warnAt(300);
    await world.run(1_700_000);
    expect(told).toEqual([true, true, true]);
  });

  it("at the end asks the server, which ends the session for want of activity", async () => {
    const { world, tab } = await idle();
    await world.run(1_803_000);
    expect(tab.state).toEqual({ status: "anonymous", reason: "inactivity" });
  });

  it("says in every tab why it ended, also when the cookies are gone before the reason has come", async () => {
    const { world, tab } = await idle();
    const other = await world.signedIn();
    await world.run(1_799_000);
    world.travel = 100;
    let release = (): void => {};
    world.server.handlers.set(REFRESH, async () => {
      world.server.end("inactivity");
      const refused = world.server.refuse();
      await new Promise<void>((resolve) => (release = resolve));
      return refused;
    });
    await world.run(4_000);
    expect([tab.status, other.status, world.hint]).toEqual(["unknown", "unknown", false]);
    const asked = [tab, other].map((one) => one.client.getToken());
    release();
    await world.run(50);
    const waiting = [tab, other].filter((one) => one.status === "unknown");
    expect(waiting).toHaveLength(1);
    for (const one of waiting) asked.push(one.client.getToken());
    await world.run(1_000);
    for (const one of [tab, other]) expect(one.state).toEqual({ status: "anonymous", reason: "inactivity" });
    expect(await Promise.all(asked)).toEqual([null, null, null]);
  });

  it("asleep past the limit is signed out at wake, without a countdown", async () => {
    const { world, tab } = await idle();
    world.sleep(3 * 3_600_000);
    tab.fire("focus");
    expect(tab.status).toBe("unknown");
    await world.run(100);
    expect(tab.state).toEqual({ status: "anonymous", reason: "inactivity" });
    expect(tab.names()).not.toContain("idleWarning");
  });

  it("past the limit with the server out of reach shows nothing, and signs nobody out", async () => {
    const { world, tab } = await idle();
    world.server.handlers.set(REFRESH, () => problem("unavailable", 503));
    await world.run(1_900_000);
    expect(tab.status).toBe("unknown");
    expect(tab.names()).not.toContain("signedOut");
  });

  it("background refreshes alone never extend, and say how long nobody has acted", async () => {
    const { world, tab } = await idle();
    await world.run(1_790_000);
    expect(tab.status).toBe("authenticated");
    expect(reports(world)).toEqual(
      [540, 1080, 1620].map((seconds) => expect.toSatisfy((idle) => Math.abs(idle - seconds) < 12)),
    );
    await world.run(20_000);
    expect(tab.status).toBe("anonymous");
  });

  it("nobody acted on this page: nothing is reported", async () => {
    const world = new World();
    await world.signedIn();
    await world.run(600_000);
    expect(reports(world)).toEqual([null, null]);
  });

  it("a click on a link counts on the page it leads to", async () => {
    const { world, tab } = await idle();
    await world.run(5 * MINUTE);
    tab.act();
    await world.run(30_000);
    tab.fire("pagehide", { persisted: false });
    tab.close();
    await world.signedIn();
    expect(reports(world).at(-1)).toBe(30);
  });

  it("tells the server of activity in time when the token lives longer than the timeout", async () => {
    const { world, tab } = await idle(300);
    for (let turn = 0; turn < 60; turn++) {
      tab.act();
      await world.run(20_000);
    }
    expect(tab.status).toBe("authenticated");
    expect(tab.names()).not.toContain("idleWarning");
    expect(world.server.count(REFRESH)).toBeLessThan(12);
  });

  it("a timeout shorter than the warning warns at its half", async () => {
    const { world, tab } = await idle(40);
    await world.run(15_000);
    expect(tab.state.warning).toBeUndefined();
    await world.run(10_000);
    expect(tab.state.warning?.kind).toBe("inactivity");
  });

  it("near the absolute end gives another warning, which staying does not extend", async () => {
    const { world, tab } = await idle();
    if (world.server.session) world.server.session.absoluteEnd = world.time + 1_200_000;
    await Promise.all([tab.client.renew("secret-token-1"), world.run(50)]);
    await world.run(1_150_000);
    expect(tab.state.warning?.kind).toBe("absolute");
    tab.client.stay();
    await world.run(1_000);
    expect(tab.state.warning?.kind).toBe("absolute");
    await world.run(60_000);
    expect(tab.state).toEqual({ status: "anonymous", reason: "absolute" });
  });

  it("warns as early as it is told to", async () => {
    const { world, tab } = await idle();
    tab.client.warnAt(600);
    await world.run(1_100_000);
    expect(tab.state.warning).toBeUndefined();
    await world.run(110_000);
    expect(tab.state.warning?.kind).toBe("inactivity");
    tab.client.warnAt(60);
    expect(tab.state.warning).toBeUndefined();
  });

  it("tells other tabs of activity no more than once a second", async () => {
    const { world, tab } = await idle();
    await world.run(5_000);
    const before = world.posted.length;
    for (let turn = 0; turn < 100; turn++) {
      tab.fire("pointermove");
      await world.run(20);
    }
    expect(world.posted.length - before).toBeLessThanOrEqual(2);
  });
});
