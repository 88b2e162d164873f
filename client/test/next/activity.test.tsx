// @vitest-environment jsdom
/** What `<Activity>` of React 19.2 hides, as the router of Next.js does with `cacheComponents`. */
import { Activity } from "react";
import { expect, test } from "vitest";
import { AuthProvider, SignedIn, SignedOut, useUser } from "../../src/react/index.ts";
import { makeIdentity } from "../axios/server.ts";
import { eventually } from "../eventually.ts";
import { makeWorld, mount, REFRESH, watch } from "../react/page.tsx";

const world = makeWorld();
type Mode = "hidden" | "visible";

const Name = () => <p>{useUser()?.name}</p>;
const Part = () => (
  <>
    <SignedIn>
      <Name />
    </SignedIn>
    <SignedOut>nobody</SignedOut>
  </>
);

test("a provider that is hidden lets go of everything, and asks before it goes on", async () => {
  const tree = (mode: Mode) => (
    <Activity mode={mode}>
      <AuthProvider client={world.auth} initialSession={makeIdentity("ada")}>
        <Part />
      </AuthProvider>
    </Activity>
  );
  const page = mount(tree("hidden"));
  await eventually(() => expect(page.text()).toBe("ada"));
  expect(world.browser.opened()).toBe(0);
  expect(world.server.count(REFRESH)).toBe(0);
  page.show(tree("visible"));
  await eventually(() => expect(world.server.count(REFRESH)).toBe(1));
  await world.auth.getToken();
  page.show(tree("hidden"));
  await eventually(() => expect(world.browser.listeners()).toBe(0));
  expect(world.browser.channels()).toBe(0);
  const seen = watch(page.container);
  world.server.identity = null;
  page.show(tree("visible"));
  await eventually(() => expect(page.text()).toBe("nobody"));
  expect(seen).toEqual(["ada", "nobody"]);
  expect(world.browser.listeners()).toBe(1);
});

test("what is hidden within SignedIn goes with its user, and what is hidden around it when it is shown, if not before", async () => {
  const tree = (mode: Mode) => (
    <AuthProvider client={world.auth}>
      <Activity mode={mode}>
        <Part />
      </Activity>
      <SignedIn>
        <Activity mode={mode}>
          <Name />
        </Activity>
      </SignedIn>
    </AuthProvider>
  );
  const page = mount(tree("visible"));
  await eventually(() => expect(page.text()).toBe("adaada"));
  const [around, within] = page.container.querySelectorAll("p");
  page.show(tree("hidden"));
  await eventually(() => expect(around?.style.display).toBe("none"));
  await world.auth.logout();
  // React renders what is hidden when it has time, so nothing is said here of what is around.
  await eventually(() => expect(within?.isConnected).toBe(false));
  page.show(tree("visible"));
  await eventually(() => expect(page.text()).toBe("nobody"));
});
