import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { getSession, requireUser, serverFetch } from "../../src/next/server.ts";
import { makeIdentity } from "../axios/server.ts";

const identity = makeIdentity("ada");
const SIGNED_IN = { cookie: "__Host-kt_refresh=kt_rt_AQ; kt_hint=1" };

// Next.js knows the headers of a request only while it serves one.
let request: { [name: string]: string } = SIGNED_IN;
let building = false;
vi.mock("next/headers", () => ({
  headers: async () => {
    if (building) throw new Error("this page is rendered on demand");
    return new Headers(request);
  },
}));

type Recorded = { url: string; hits: IncomingMessage[]; close: () => void };
let auth: Recorded;
let api: Recorded;
let stranger: Recorded;

const record = async (answer: object): Promise<Recorded> => {
  const hits: IncomingMessage[] = [];
  const server = createServer((hit, response) => {
    hits.push(hit);
    response.end(JSON.stringify(answer));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const close = () => {
    server.close();
    server.closeAllConnections();
  };
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, hits, close };
};

beforeEach(async () => {
  request = SIGNED_IN;
  building = false;
  auth = await record({ access_token: "t", expires_in: 60, ...identity });
  [api, stranger] = [await record({}), await record({})];
  vi.stubEnv("KEYTURN_URL", auth.url);
  vi.stubEnv("KEYTURN_SSR_KEYS", "next:AQID");
  vi.stubEnv("KEYTURN_API_URL", `${api.url}/v1/`);
});

afterEach(() => {
  vi.unstubAllEnvs();
  for (const server of [auth, api, stranger]) server.close();
});

const sent = ({ hits }: Recorded) => hits.map(({ method, url, headers }) => [method, url, headers.authorization]);

test("a session has no token in it", async () => {
  expect(await getSession()).toEqual(identity);
  request = {};
  expect(await getSession()).toBeNull();
});

test("nobody is sent to the login page, with the way back", async () => {
  expect(await requireUser()).toEqual(identity.user);
  request = {};
  const back = requireUser({ returnTo: "/account?a=1&b=//evil.example" });
  await expect(back).rejects.toMatchObject({
    digest: expect.stringContaining(";/login?returnTo=%2Faccount%3Fa%3D1%26b%3D%2F%2Fevil.example;"),
  });
  await expect(requireUser({ login: "/de/login" })).rejects.toMatchObject({
    digest: expect.stringContaining(";/de/login;"),
  });
  await expect(requireUser({ login: "/login?via=page", returnTo: "/a" })).rejects.toMatchObject({
    digest: expect.stringContaining(";/login?via=page&returnTo=%2Fa;"),
  });
});

test("the token goes to the API and to the Keyturn server, and to nobody else", async () => {
  await serverFetch("notes", { method: "POST", body: "x", headers: { "X-Mine": "1" } });
  await serverFetch(new URL("/auth/sessions", auth.url));
  await serverFetch(`${stranger.url}/notes`);
  await serverFetch("/own", { headers: { Authorization: "Basic x" } });
  expect(sent(api)).toEqual([
    ["POST", "/v1/notes", "Bearer t"],
    ["GET", "/own", "Basic x"],
  ]);
  expect(api.hits[0]?.headers["x-mine"]).toBe("1");
  expect(sent(auth).at(-2)).toEqual(["GET", "/auth/sessions", "Bearer t"]);
  expect(sent(stranger)).toEqual([["GET", "/notes", undefined]]);
});

test("a relative address of the Keyturn server's own routes counts from there, as in the browser", async () => {
  await serverFetch("/auth/sessions");
  expect(sent(auth).at(-1)).toEqual(["GET", "/auth/sessions", "Bearer t"]);
  await serverFetch("/authors");
  vi.stubEnv("KEYTURN_BASE_PATH", "/id");
  await serverFetch("/id/me");
  expect(sent(auth).at(-1)).toEqual(["GET", "/id/me", "Bearer t"]);
  expect(sent(api)).toEqual([["GET", "/authors", "Bearer t"]]);
});

test("without an address of an API, relative ones count from the Keyturn server", async () => {
  vi.stubEnv("KEYTURN_API_URL", "");
  await serverFetch("/auth/me");
  expect(sent(auth).at(-1)).toEqual(["GET", "/auth/me", "Bearer t"]);
  await serverFetch(`${api.url}/notes`);
  expect(sent(api)).toEqual([["GET", "/notes", undefined]]);
});

test("as nobody it asks without a token, and asks for none", async () => {
  request = {};
  await serverFetch("notes");
  expect([sent(api), auth.hits]).toEqual([[["GET", "/v1/notes", undefined]], []]);
});

test("nothing of it is kept, whatever the caller says", async () => {
  const fetched = vi.spyOn(globalThis, "fetch");
  const init = { cache: "force-cache", next: { revalidate: 3600 } } as RequestInit;
  await serverFetch("notes", init);
  for (const [, options] of fetched.mock.calls) expect(options).toMatchObject({ cache: "no-store" });
  expect(fetched.mock.lastCall?.[1]).toMatchObject({ next: undefined });
});

test("a build learns that the page is rendered on demand, without the settings of the running server", async () => {
  building = true;
  vi.stubEnv("KEYTURN_URL", "");
  vi.stubEnv("KEYTURN_SSR_KEYS", "");
  await expect(serverFetch("notes")).rejects.toThrow("this page is rendered on demand");
});
