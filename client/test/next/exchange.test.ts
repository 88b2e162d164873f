import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { readCookie } from "../../src/next/cookie.ts";
import { authorization } from "../../src/next/credential.ts";
import { exchange } from "../../src/next/exchange.ts";
import { readSettings } from "../../src/next/settings.ts";
import { makeIdentity } from "../axios/server.ts";
import { load } from "./vectors.ts";

const { cookie: NAME, read } = load("cookie.json");
const { keys, signed } = load("server-credential.json");
const COOKIE = `${NAME}=kt_rt_AQ; kt_hint=1`;
const identity = makeIdentity("ada");

test.each(signed)("signed as the vectors say: $name", async ({ key_id, time, path, cookie, body, ...vector }) => {
  expect(await authorization(key_id, keys[key_id] ?? "", time, { path, cookie, body })).toBe(vector.authorization);
});

// Node joins the headers of a request so, and gives their bytes as Latin-1.
const latin1 = (value: string) => Buffer.from(value, "utf8").toString("latin1");

test.each(read)("cookies as the vectors say: $name", ({ headers, values }) => {
  expect(readCookie(latin1(headers.join("; ")), NAME)).toEqual(values.map(latin1));
});

let asked: { request: IncomingMessage; body: string }[];
let answer: { status: number; body: unknown };
let environment: { [name: string]: string };
let close: () => Promise<void>;

beforeEach(async () => {
  asked = [];
  answer = { status: 200, body: { access_token: "t", expires_in: 60, ...identity } };
  const server = createServer(async (request, response) => {
    asked.push({ request, body: await text(request) });
    if (!answer.status) return void response.destroy();
    response.writeHead(answer.status, { location: "/elsewhere" });
    response.end(typeof answer.body === "string" ? answer.body : JSON.stringify(answer.body));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  environment = { KEYTURN_URL: url, KEYTURN_SSR_KEYS: `next:${keys.next}` };
  close = () =>
    new Promise((resolve) => {
      server.close(() => resolve());
      server.closeAllConnections();
    });
});

afterEach(() => close());

const ask = (headers: { [name: string]: string } = {}) =>
  exchange(new Headers({ cookie: COOKIE, ...headers }), environment);

test("a live cookie: who it is, and the token apart from it", async () => {
  expect(await ask()).toEqual({ token: "t", identity });
});

test("one request, signed, with the one cookie and who the browser is; its address by the proxies that are trusted", async () => {
  environment.KEYTURN_TRUSTED_PROXIES = "2";
  const agent = "Mozilla/5.0 ".repeat(100);
  const fetched = vi.spyOn(globalThis, "fetch");
  await ask({ cookie: `a=b; ${COOKIE}`, "user-agent": agent, "x-forwarded-for": "192.0.2.66, 192.0.2.1, 10.0.0.1" });
  const [{ request, body } = { request: { headers: {}, url: "", method: "" }, body: "" }] = asked;
  expect([asked.length, request.method, request.url]).toEqual([1, "POST", "/auth/ssr"]);
  // Next.js has a cache behind `fetch`, in which the answer would be another user's.
  expect(fetched.mock.lastCall?.[1]).toMatchObject({ cache: "no-store" });
  expect(request.headers.cookie).toBe(`${NAME}=kt_rt_AQ`);
  expect(JSON.parse(body)).toEqual({ ip: "192.0.2.1", user_agent: agent.slice(0, 512) });
  const header = request.headers.authorization ?? "";
  const time = Number(/time=(\d+)/.exec(header)?.[1]);
  const same = { path: "/auth/ssr", cookie: "kt_rt_AQ", body };
  expect(header).toBe(await authorization("next", keys.next ?? "", time, same));
});

test("no address is told where no proxy is trusted, or too few have written one", async () => {
  await ask({ "x-forwarded-for": "192.0.2.66" });
  environment.KEYTURN_TRUSTED_PROXIES = "2";
  await ask({ "x-forwarded-for": "192.0.2.66" });
  expect(asked.map(({ body }) => JSON.parse(body))).toEqual([{}, {}]);
});

test("what is too long for an address is cut off: the server would refuse the whole request for it", async () => {
  environment.KEYTURN_TRUSTED_PROXIES = "1";
  await ask({ "x-forwarded-for": "x".repeat(100) });
  expect(asked.map(({ body }) => JSON.parse(body))).toEqual([{ ip: "x".repeat(64) }]);
});

test.each([
  ["no cookie at all", ""],
  ["no hint: the browser has logged out", `${NAME}=kt_rt_AQ`],
  ["a hint alone", "kt_hint=1"],
  ["two of the name", `${COOKIE}; ${NAME}=kt_rt_AQ`],
  ["an empty one", `${NAME}=; kt_hint=1`],
  ["one that is no token", `${NAME}=k\u00fc; kt_hint=1`],
  ["another case", "__host-kt_refresh=kt_rt_AQ; kt_hint=1"],
])("%s: nobody, and nobody is asked", async (_, cookie) => {
  expect(await ask({ cookie })).toBeNull();
  expect(asked).toEqual([]);
});

test.each(["no_session", "session_ended"])("%s: nobody", async (code) => {
  answer = { status: 401, body: { code, reason: "revoked" } };
  expect(await ask()).toBeNull();
});

test.each([
  [0, "", "unavailable"],
  [302, "", "unavailable"],
  [500, { code: "internal" }, "internal"],
  [502, "<html>", "unavailable"],
  [503, { code: "unavailable" }, "unavailable"],
  [503, { kind: "Status", reason: "ServiceUnavailable" }, "unavailable"],
  [401, "<html>", "unavailable"],
  [401, { reason: "Unauthorized" }, "unavailable"],
  [401, { code: "session_behind" }, "session_behind"],
  [403, { code: "forbidden" }, "forbidden"],
  [404, { code: "not_found" }, "not_found"],
  [429, { code: "throttled" }, "throttled"],
  [200, "<html>", "unavailable"],
  [200, { access_token: "t" }, "unavailable"],
])("%d %j is a fault, told as %s, and never a sign-out", async (status, body, code) => {
  answer = { status, body };
  await expect(ask()).rejects.toMatchObject({ name: "AuthError", code, digest: code });
  expect(asked).toHaveLength(1);
});

test("no answer: the cause says why, for the log", async () => {
  answer = { status: 0, body: "" };
  await expect(ask()).rejects.toMatchObject({ code: "unavailable", cause: { name: "TypeError" } });
});

test("no answer in time: likewise", async () => {
  vi.spyOn(AbortSignal, "timeout").mockReturnValue(AbortSignal.abort(new DOMException("late", "TimeoutError")));
  await expect(ask()).rejects.toMatchObject({ code: "unavailable", cause: { name: "TimeoutError" } });
});

test.each([{ KEYTURN_URL: "" }, ...["", "next", "next:", "next:AQID!"].map((sign) => ({ KEYTURN_SSR_KEYS: sign }))])(
  "%j is a fault of the deployment, with nothing secret in what it says",
  async (missing) => {
    Object.assign(environment, missing);
    await expect(ask()).rejects.toThrow("KEYTURN_URL and KEYTURN_SSR_KEYS");
  },
);

test("the first of several keys signs; the base path is part of what is signed", () => {
  const settings = readSettings({
    KEYTURN_URL: "https://auth.internal/",
    KEYTURN_SSR_KEYS: " new.1:AQID, old:BAUG",
    KEYTURN_BASE_PATH: "/api/auth",
  });
  expect(settings).toEqual({
    server: "https://auth.internal",
    path: "/api/auth/ssr",
    api: "https://auth.internal",
    keyId: "new.1",
    key: "AQID",
    trustedProxies: 0,
  });
});
