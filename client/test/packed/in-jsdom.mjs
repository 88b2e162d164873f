// The packed files in a page: a login, a request and a logout over a server that is a function.
import assert from "node:assert/strict";
import { JSDOM } from "jsdom";

const { window } = new JSDOM("", { url: "https://app.example/" });
for (const name of [
  "document",
  "location",
  "localStorage",
  "AbortController",
  "AbortSignal",
  "EventTarget",
  "CustomEvent",
])
  globalThis[name] = window[name];
globalThis.window = window;
globalThis.addEventListener = window.addEventListener.bind(window);
const paths = [];
globalThis.fetch = async (input, init) => {
  const { pathname } = new URL(input, window.location.href);
  paths.push(pathname);
  if (pathname === "/api") return new Response(new Headers(init.headers).get("authorization"));
  if (pathname === "/auth/logout") return new Response(null, { status: 204 });
  return Response.json({
    access_token: "t",
    token_type: "Bearer",
    expires_in: 600,
    user: { id: "u", email: "e", name: null },
    session: { id: "s", created_at: "2026-01-01T00:00:00.000Z", inactivity_expires_in: 60, absolute_expires_in: 60 },
  });
};
const { createAuthClient } = await import("keyturn");
const auth = createAuthClient();
auth.start();
assert.equal(auth.getSnapshot().status, "anonymous");
await auth.login({ email: "e", password: "p" });
assert.equal(auth.getSnapshot().status, "authenticated");
assert.equal(await (await auth.fetch("/api")).text(), "Bearer t");
await auth.logout();
assert.equal(auth.getSnapshot().status, "anonymous");
assert.deepEqual(paths, ["/auth/login", "/api", "/auth/logout"]);
auth.stop();
