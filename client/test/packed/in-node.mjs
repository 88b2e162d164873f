// The packed files on a render server: importing them and making a client touches nothing of a browser.
import assert from "node:assert/strict";

for (const name of ["window", "document", "location", "localStorage"])
  if (!(name in globalThis))
    Object.defineProperty(globalThis, name, {
      configurable: true,
      get() {
        throw new Error(`${name} was touched on import`);
      },
    });
const { AuthError, createAuthClient, ...rest } = await import("keyturn");
const react = await import("keyturn/react");
// As next.config does.
const next = await import("keyturn/next");
for (const name of ["window", "document", "location", "localStorage"]) delete globalThis[name];
// axios itself looks for a window when it is imported.
const { attachAuth } = await import("keyturn/axios");

assert.deepEqual(Object.keys(rest), []);
const auth = createAuthClient();
auth.start();
assert.deepEqual(auth.getServerSnapshot(), { status: "unknown" });
assert.equal(new AuthError("offline").code, "offline");
assert.equal(typeof react.AuthProvider, "function");
assert.equal(typeof attachAuth, "function");
assert.equal(typeof next.withAuthRewrites({}).rewrites, "function");
await assert.rejects(import("keyturn/next/server"), /is for Server Components/);
auth.stop();

const { createElement } = await import("react");
const { renderToString } = await import("react-dom/server");
const page = renderToString(
  createElement(react.AuthProvider, { client: auth }, createElement(react.AuthLoading, null, "loading")),
);
assert.equal(page, "loading");
