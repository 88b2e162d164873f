// @vitest-environment jsdom
import type { ReactNode } from "react";
import { beforeEach, describe, expect, test, vi } from "vitest";
import type { Identity } from "../../src/index.ts";
import { Anonymous, AuthProvider } from "../../src/next/client.tsx";
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
  // Its second request goes out after that, and must not be the next test's.
  await eventually(() => expect(asked).toHaveBeenCalledTimes(2));
});

describe("where <Anonymous> meets somebody who is signed in", () => {
  const { style } = document.documentElement;
  const reload = vi.fn();
  const refreshed = vi.fn(async () => answer());
  let answer: () => Response;

  beforeEach(() => {
    sessionStorage.clear();
    style.visibility = "";
    // biome-ignore lint/suspicious/noDocumentCookie: it is what the server sets
    document.cookie = "kt_hint=1";
    answer = () => Response.json({ access_token: "t", token_type: "Bearer", expires_in: 600, ...identity });
    refreshed.mockClear();
    reload.mockClear();
    vi.stubGlobal("fetch", refreshed);
    // jsdom cannot load a document.
    const { href, origin, hostname } = location;
    vi.stubGlobal("location", { href, origin, hostname, reload });
  });

  const show = (part: ReactNode, found: Identity | null | undefined) => (
    <AuthProvider initialSession={found}>
      {part} <Name />
    </AuthProvider>
  );
  const login = <Anonymous>Log in</Anonymous>;
  const account = <p>Account of</p>;

  test.each([
    ["as theirs", identity, [1, 0, 0]],
    ["without asking", undefined, [1, 0, 0]],
    // The one, and then the other: each finds somebody whom it does not expect.
    ["as nobody's", null, [1, 1, 0, 0]],
  ])("with a layout rendered %s: the document is loaded anew, and then shown as it is", async (_, found, loads) => {
    for (const more of loads) {
      const [before, asked] = [reload.mock.calls.length, refreshed.mock.calls.length];
      style.visibility = "";
      const page = mount(show(login, found));
      await eventually(() => expect(page.text()).toBe("Log in ada"));
      await eventually(() => expect(refreshed).toHaveBeenCalledTimes(asked + 1));
      // What it is to do without delay it has done after that.
      await new Promise((resolve) => setTimeout(resolve));
      expect([reload.mock.calls.length - before, style.visibility]).toEqual([more, more ? "hidden" : ""]);
      page.leave();
    }
  });

  test("below a provider that was not asked for anybody: it is loaded anew once, and not for ever", async () => {
    for (const more of [1, 0, 0]) {
      const [before, asked] = [reload.mock.calls.length, refreshed.mock.calls.length];
      const page = mount(<AuthProvider>{show(account, null)}</AuthProvider>);
      await eventually(() => expect(page.text()).toBe("Account of ada"));
      // The inner one asks as well, or is told by the outer one's answer.
      await eventually(() => expect(refreshed.mock.calls.length).toBeGreaterThan(asked));
      await eventually(() => expect(reload.mock.calls.length - before).toBe(more));
      await new Promise((resolve) => setTimeout(resolve, 50));
      expect(reload.mock.calls.length - before).toBe(more);
      page.leave();
    }
  });

  test("though it was loaded anew for that before: it is again once their session has ended, which only the server knows", async () => {
    const former = mount(show(login, identity));
    await eventually(() => expect(reload).toHaveBeenCalledTimes(1));
    former.leave();

    style.visibility = "";
    const page = mount(show(account, identity));
    await eventually(() => expect(refreshed).toHaveBeenCalledTimes(2));
    expect([page.text(), style.visibility]).toEqual(["Account of ada", ""]);
    answer = () => Response.json({ code: "session_ended", reason: "revoked" }, { status: 401 });
    page.show(show(login, identity));
    await eventually(() => expect(reload).toHaveBeenCalledTimes(2));
    expect(style.visibility).toBe("hidden");
  });

  test("what was rendered for them is hidden when it comes back from the page cache, as anywhere else", async () => {
    const former = mount(show(login, identity));
    await eventually(() => expect(reload).toHaveBeenCalledTimes(1));
    former.leave();

    style.visibility = "";
    const page = mount(show(login, identity));
    await eventually(() => expect(refreshed).toHaveBeenCalledTimes(2));
    await eventually(() => expect(page.text()).toBe("Log in ada"));
    window.dispatchEvent(Object.assign(new Event("pageshow"), { persisted: true }));
    expect(style.visibility).toBe("hidden");
    await eventually(() => expect(style.visibility).toBe(""));
    expect(reload).toHaveBeenCalledTimes(1);
  });
});
