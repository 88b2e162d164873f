// @vitest-environment jsdom
import { expect, test, vi } from "vitest";
import { AuthProvider } from "../../src/next/client.tsx";
import { useUser } from "../../src/react/index.ts";
import { makeIdentity } from "../axios/server.ts";
import { eventually } from "../eventually.ts";
import { mount } from "../react/page.tsx";

const identity = makeIdentity("ada");
const Name = () => <p>{useUser()?.name}</p>;

test("a page that comes back from the page cache is hidden until the browser knows that its user is still there", async () => {
  let answer = () => {};
  const asked = vi.fn(async () => {
    await new Promise<void>((resolve) => {
      answer = resolve;
    });
    return Response.json({ access_token: "t", token_type: "Bearer", expires_in: 600, ...identity });
  });
  vi.stubGlobal("fetch", asked);
  // biome-ignore lint/suspicious/noDocumentCookie: it is what the server sets
  document.cookie = "kt_hint=1";
  const { style } = document.documentElement;
  const page = mount(
    <AuthProvider initialSession={identity}>
      <Name />
    </AuthProvider>,
  );
  await eventually(() => expect(asked).toHaveBeenCalledTimes(1));
  expect([page.text(), style.visibility]).toEqual(["ada", ""]);
  answer();
  await eventually(() => expect(page.text()).toBe("ada"));
  for (const type of ["pagehide", "pageshow"]) {
    window.dispatchEvent(Object.assign(new Event(type), { persisted: true }));
    expect(style.visibility).toBe("hidden");
  }
  await eventually(() => expect(asked).toHaveBeenCalledTimes(2));
  expect(style.visibility).toBe("hidden");
  answer();
  await eventually(() => expect(style.visibility).toBe(""));
  expect(page.text()).toBe("ada");
});

test("a provider that leaves while nothing is certain leaves the document visible to what comes after it", async () => {
  const asked = vi.fn(() => new Promise(() => {}));
  vi.stubGlobal("fetch", asked);
  // biome-ignore lint/suspicious/noDocumentCookie: it is what the server sets
  document.cookie = "kt_hint=1";
  const { style } = document.documentElement;
  const page = mount(
    <AuthProvider initialSession={identity}>
      <Name />
    </AuthProvider>,
  );
  // By then the client listens to the page; the name is there before.
  await eventually(() => expect(asked).toHaveBeenCalledTimes(1));
  window.dispatchEvent(Object.assign(new Event("pageshow"), { persisted: true }));
  expect(style.visibility).toBe("hidden");
  page.show(<p>A page for everybody</p>);
  await eventually(() => expect(page.text()).toBe("A page for everybody"));
  expect(style.visibility).toBe("");
});
