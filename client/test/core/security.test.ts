import { readFileSync } from "node:fs";
import { inspect } from "node:util";
import { describe, expect, it } from "vitest";
import { AuthError, type ErrorCode } from "../../src/index.ts";
import { problem, settle, World } from "./world.ts";

const SECRET = /secret-token|correct horse/;

/** Everything that can be reached from a value by its properties, symbols and prototypes' getters included. */
const reach = (root: unknown): string => {
  const seen = new Set<unknown>();
  const texts: string[] = [];
  const visit = (value: unknown) => {
    if (typeof value === "string") texts.push(value);
    if ((typeof value !== "object" && typeof value !== "function") || value === null || seen.has(value)) return;
    seen.add(value);
    for (const key of Reflect.ownKeys(value)) {
      try {
        visit((value as Record<PropertyKey, unknown>)[key]);
      } catch {}
    }
  };
  visit(root);
  return texts.join("\n");
};

describe("security", () => {
  it("the token cannot be reached through the client, its state, its storage or its cookies", async () => {
    const world = new World();
    const tab = world.open();
    tab.client.start();
    await world.login(tab);
    tab.act();
    tab.fire("pagehide", { persisted: false });
    const kept = [...world.storage.entries()].flat().join();
    for (const text of [
      reach(tab.client),
      reach(tab.client.getSnapshot()),
      inspect(tab.client, { depth: 20, showHidden: true, getters: true }),
      JSON.stringify(tab.client.getSnapshot()),
      kept,
      tab.environment.document?.cookie ?? "",
    ])
      expect(text).not.toMatch(SECRET);
  });

  it("events and errors hold no secret", async () => {
    const world = new World();
    const tab = world.open();
    tab.client.start();
    world.server.handlers.set("/auth/login", () => problem("invalid_credentials", 401));
    const error = await world.login(tab).catch((thrown) => thrown);
    world.server.handlers.clear();
    await world.login(tab);
    world.server.handlers.set("/auth/refresh", () => problem("unavailable", 503));
    await world.run(600_000);
    for (const text of [
      inspect(error, { depth: 20, showHidden: true }),
      inspect(tab.events, { depth: 20, showHidden: true }),
    ])
      expect(text).not.toMatch(SECRET);
    expect(tab.names()).toEqual(["signedIn", "degraded"]);
  });

  const answer = {
    access_token: "evil",
    expires_in: 600,
    token_type: "Bearer",
    user: { id: "evil", email: "e", name: null },
    session: { id: "e", created_at: "2027-01-01T00:00:00.000Z", inactivity_expires_in: 10, absolute_expires_in: 10 },
  };
  const at = Date.parse("2026-11-23T12:00:01Z");
  it.each<[string, unknown]>([
    ["nothing", undefined],
    ["null", null],
    ["a text", "granted"],
    ["a number", 7],
    ["a list", ["granted"]],
    ["an unknown type", { type: "hide" }],
    ["a tick", { type: "tick", at: 9e15, lead: 1e12 }],
    ["a rule's name of Object", { type: "constructor", at }],
    ["__proto__", { type: "__proto__", at }],
    ["a token without an answer", { type: "granted", at }],
    ["a token without a time", { type: "granted", answer }],
    ["a token at no number", { type: "granted", at: "1", answer }],
    ["a token with an infinite life", { type: "granted", at, answer: { ...answer, expires_in: Infinity } }],
    [
      "a token that is no text",
      { type: "granted", at, answer: { ...answer, access_token: { toString: () => "evil" } } },
    ],
    ["an empty token", { type: "granted", at, answer: { ...answer, access_token: "" } }],
    ["a token of nobody", { type: "granted", at, answer: { ...answer, user: null } }],
    ["a token of no session", { type: "granted", at, answer: { ...answer, session: undefined } }],
    [
      "a session without an end",
      { type: "granted", at, answer: { ...answer, session: { ...answer.session, absolute_expires_in: null } } },
    ],
    ["an end without a reason", { type: "ended", at, id: null }],
    ["an end without a time", { type: "ended", reason: "logout" }],
    ["an end of a session that is a number", { type: "ended", at, id: 7, reason: "logout" }],
    ["an end of a session that is an object", { type: "ended", at, id: {}, reason: "logout" }],
    ["an end that only says that somebody had no cookie", { type: "ended", at, id: null, reason: "expired" }],
    ["an end with an object for a reason", { type: "ended", at, id: null, reason: {} }],
    ["an act at no time", { type: "acted", at: NaN }],
    ["an act before all time", { type: "acted", at: -1 }],
  ])("a broadcast of %s is ignored", async (_, message) => {
    const world = new World();
    const tab = await world.signedIn();
    const before = tab.client.getSnapshot();
    for (const channel of world.channels) channel.receive(message);
    await settle();
    expect(tab.client.getSnapshot()).toBe(before);
    expect(await tab.client.getToken()).toBe("secret-token-1");
  });

  it("a broadcast cannot say that it is this tab's own, nor lie about the time to come", async () => {
    const world = new World();
    const tab = await world.signedIn();
    const [channel] = world.channels;
    channel?.receive({ type: "acted", at: 9e15, stay: true, own: true, epoch: 7, lead: 1e12 });
    expect(world.posted.filter((message) => (message as { type: string }).type === "acted")).toEqual([]);
    expect(tab.state.warning).toBeUndefined();
    await world.run(600_000);
    expect(world.server.calls.at(-1)).toMatchObject({ body: { idle_seconds: expect.toSatisfy((idle) => idle > 500) } });
  });

  it("uses nothing that a strict CSP or Trusted Types forbid, and no console", () => {
    for (const file of ["core/client.ts", "core/check.ts", "core/errors.ts", "machine/machine.ts"]) {
      const source = readFileSync(new URL(`../../src/${file}`, import.meta.url), "utf8").replace(
        /\/\*[\s\S]*?\*\/|\/\/.*/g,
        "",
      );
      expect(source).not.toMatch(/\beval\b|new Function|innerHTML|Worker|createObjectURL|createElement|console\./);
    }
  });
});

describe("errors", () => {
  const spec = JSON.parse(readFileSync(new URL("../../../spec/errors.json", import.meta.url), "utf8")) as {
    errors: { code: ErrorCode; status: number; retryable: boolean; client: string; reasons?: string[] }[];
  };

  it("the codes are those of the contract", () => {
    // Both ways: a code that is missing in the type does not compile, one that is too many is found here.
    const known: Record<
      Exclude<ErrorCode, "offline" | "network" | "timeout" | "unexpected_answer" | "session_changed">,
      true
    > = {
      invalid_request: true,
      unsupported_media_type: true,
      csrf_refused: true,
      invalid_credentials: true,
      invalid_token: true,
      no_session: true,
      session_ended: true,
      session_behind: true,
      insufficient_user_authentication: true,
      forbidden: true,
      not_found: true,
      method_not_allowed: true,
      conflict: true,
      payload_too_large: true,
      throttled: true,
      unavailable: true,
      internal: true,
    };
    expect(Object.keys(known).sort()).toEqual(spec.errors.map(({ code }) => code).sort());
  });

  it.each(spec.errors)("$code is retryable as the contract says", ({ code, status, retryable }) => {
    expect(new AuthError(code, status).retryable).toBe(retryable);
  });

  it.each(spec.errors)(
    "$code as the answer of a refresh does what the contract asks of a client: $client",
    async (error) => {
      const world = new World();
      const tab = await world.signedIn();
      world.server.handlers.set("/auth/refresh", () =>
        problem(error.code, error.status, error.reasons && { reason: error.reasons[0] }),
      );
      await Promise.all([tab.client.renew("secret-token-1").catch(() => null), world.run(50)]);
      expect(tab.status).toBe(error.client === "sign_out" ? "anonymous" : "degraded");
    },
  );

  it.each(spec.errors.flatMap(({ reasons }) => reasons ?? []))(
    "the reason %s reaches the application",
    async (reason) => {
      const world = new World();
      world.server.end(reason);
      world.hint = true;
      const tab = world.open();
      tab.client.start();
      await world.run(50);
      expect(tab.state.reason).toBe(reason);
    },
  );

  it("carries what the server said and nothing else", () => {
    const error = new AuthError("throttled", 429, { retryAfter: 3, requestId: "r" });
    expect({ ...error }).toEqual({
      name: "AuthError",
      code: "throttled",
      status: 429,
      retryable: true,
      retryAfter: 3,
      requestId: "r",
    });
    expect(error.message).toBe("throttled");
    expect(error).toBeInstanceOf(Error);
  });
});
