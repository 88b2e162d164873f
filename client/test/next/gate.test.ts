import fc from "fast-check";
import { NextRequest } from "next/server";
import { describe, expect, test } from "vitest";
import { authGate, safeReturnTo } from "../../src/next/index.ts";

const ask = (path: string, init: RequestInit = {}, gate = authGate()) =>
  gate(new Request(`https://app.example${path}`, init));

test("with the hint the request goes on, whatever else it has", () => {
  expect(ask("/account", { headers: { cookie: "a=b; kt_hint=1" } })).toBeUndefined();
});

test.each(["", "kt_hint=0", "kt_hint=", "xkt_hint=1", "kt_hint_=1"])("without it (%s) to the login page", (cookie) => {
  const answer = ask("/account/7?tab=a&b=c", { headers: { cookie } });
  expect(answer?.status).toBe(307);
  expect(answer?.headers.get("location")).toBe("https://app.example/login?returnTo=%2Faccount%2F7%3Ftab%3Da%26b%3Dc");
  expect(answer?.headers.get("cache-control")).toBe("private, no-store");
});

test("Server Actions and what the router fetches go on: the page redirects by itself", () => {
  expect(ask("/account", { method: "POST" })).toBeUndefined();
  const answers = ["empty", "document"].map((dest) => ask("/account", { headers: { "sec-fetch-dest": dest } }));
  expect(answers.map((answer) => answer?.status)).toEqual([undefined, 307]);
});

test("the login page may be elsewhere on the site", () => {
  const location = ask("/a", {}, authGate({ login: "/de/login" }))?.headers.get("location");
  expect(location).toBe("https://app.example/de/login?returnTo=%2Fa");
});

describe("in an application below a base path, which `redirect` puts before all that it is given", () => {
  const below = (path: string, gate = authGate()) =>
    gate(new NextRequest(`https://app.example${path}`, { nextConfig: { basePath: "/app" } }))?.headers.get("location");

  test.each([
    ["/app/account?tab=1", "%2Faccount%3Ftab%3D1"],
    ["/app/app/account", "%2Fapp%2Faccount"],
    ["/app", "%2F"],
    ["/app?tab=1", "%2F%3Ftab%3D1"],
  ])("%s leads to its login page, and the way back is without it", (path, returnTo) => {
    expect(below(path)).toBe(`https://app.example/app/login?returnTo=${returnTo}`);
    expect(below(path, authGate({ login: "/de/login" }))).toBe(`https://app.example/app/de/login?returnTo=${returnTo}`);
  });

  test.each(["/app/login", "/app/login/", "/app/login?returnTo=%2Faccount"])("%s itself goes on", (path) =>
    expect(below(path)).toBeUndefined(),
  );
});

test.each(["/login", "/login/", "/login?returnTo=%2Faccount"])(
  "%s itself goes on, whatever the matcher says",
  (path) => {
    expect(ask(path)).toBeUndefined();
    expect(ask(path, {}, authGate({ login: "/login/?via=gate" }))).toBeUndefined();
    expect(ask("/login/help")?.status).toBe(307);
  },
);

test.each([
  ["/", "/"],
  ["/account?tab=1#top", "/account?tab=1#top"],
  ["/a/../b", "/b"],
  ["/%2F%2Fevil.example", "/%2F%2Fevil.example"],
  ["/login?returnTo=//evil.example", "/login?returnTo=//evil.example"],
])("%s leads to %s", (value, expected) => expect(safeReturnTo(value)).toBe(expected));

test.each([
  undefined,
  null,
  ["/a"],
  "",
  "account",
  "//evil.example",
  "/\\evil.example",
  "\\\\evil.example",
  "/\t/evil.example",
  "/\n/evil.example",
  "/a\r\nSet-Cookie: a=b",
  "/.//evil.example",
  "/a/..//evil.example",
  "/%2e//evil.example",
  "https://evil.example",
  "https:/evil.example",
  "javascript:alert(1)",
  " /account",
  "/a\u0000",
])("%j leads nowhere", (value) => expect(safeReturnTo(value, "/home")).toBe("/home"));

test("whatever it is given, a browser stays on the site with it", () => {
  const pieces = fc.constantFrom(
    "/",
    "\\",
    "..",
    ".",
    "%2e",
    "%2F",
    "evil.example",
    "@",
    ":",
    "\t",
    "\n",
    "?",
    "#",
    "a",
  );
  fc.assert(
    fc.property(fc.array(pieces, { maxLength: 12 }), (parts) => {
      const path = safeReturnTo(`/${parts.join("")}`);
      expect(new URL(path, "https://app.example/x/y").origin).toBe("https://app.example");
      expect(safeReturnTo(path)).toBe(path);
    }),
    { numRuns: 2000 },
  );
});
