// @vitest-environment jsdom
import { type ReactNode, StrictMode, Suspense, useEffect } from "react";
import { renderToString } from "react-dom/server";
import { expect, test, vi } from "vitest";
import { createAuthClient } from "../../src/index.ts";
import { AuthLoading, AuthProvider, SignedIn, SignedOut, useAuth, useSession, useUser } from "../../src/react/index.ts";
import { makeIdentity } from "../axios/server.ts";
import { eventually } from "../eventually.ts";
import { hydrate, makeWorld, REFRESH, watch } from "./page.tsx";

const world = makeWorld();

const Status = () => {
  const { status, user, reason } = useAuth();
  return <p>{[status, user?.name, reason].filter(Boolean).join(" ")}</p>;
};

const Parts = () => (
  <>
    <AuthLoading>loading</AuthLoading>
    <SignedOut>signed out</SignedOut>
    <SignedIn>signed in</SignedIn>
  </>
);

const Ends = () => {
  const session = useSession();
  return <p>{[session?.accessEndsAt, session?.inactivityEndsAt, session?.absoluteEndsAt].join(" ")}</p>;
};

const Greets = ({ greet }: { greet: (name: string | null | undefined) => void }) => {
  const user = useUser();
  useEffect(() => greet(user?.name), [greet, user]);
  return null;
};

/** What a render server sends: rendered there with a client of its own. */
const renderThere = (children: ReactNode, name?: string): string =>
  renderToString(
    <AuthProvider client={createAuthClient()} initialSession={name ? makeIdentity(name) : null}>
      {children}
    </AuthProvider>,
  );

const here = (children: ReactNode, name?: string) => (
  <AuthProvider client={world.auth} initialSession={name ? makeIdentity(name) : null}>
    {children}
  </AuthProvider>
);

test("rendered as signed in: taken over without a complaint, never shown as anything else, verified by one refresh", async () => {
  const html = renderThere([<Status key="1" />, <Parts key="2" />], "ada");
  expect(html).toContain("authenticated ada");
  const page = hydrate(html, here([<Status key="1" />, <Parts key="2" />], "ada"));
  const seen = watch(page.container);
  const refreshed = vi.fn();
  world.auth.on("refreshed", refreshed);
  await eventually(() => expect(world.server.count(REFRESH)).toBe(1));
  expect(await world.auth.getToken()).toBe("token-1");
  await eventually(() => expect(refreshed).toHaveBeenCalled());
  expect(seen).toEqual(["authenticated adasigned in"]);
});

test("rendered without knowing: loading is taken over, then signed in", async () => {
  const html = renderThere(<Parts />);
  expect(html).toBe("loading");
  const page = hydrate(html, here(<Parts />));
  const seen = watch(page.container);
  await eventually(() => expect(page.text()).toBe("signed in"));
  expect(seen.filter(Boolean)).toEqual(["loading", "signed in"]);
});

test("rendered as signed in, but the session has ended since: signed out, with the reason", async () => {
  world.server.identity = null;
  const page = hydrate(renderThere(<Status />, "ada"), here(<Status />, "ada"));
  await eventually(() => expect(page.text()).toBe("anonymous expired"));
});

test("rendered as one user, but the cookie is another's: that one is shown", async () => {
  world.server.identity = makeIdentity("bob", 5);
  const page = hydrate(renderThere(<Status />, "ada"), here(<Status />, "ada"));
  await eventually(() => expect(page.text()).toBe("authenticated bob"));
});

test("the two clocks are hours apart and times are shown: no complaint, then the browser's times", async () => {
  world.browser.pass(7 * 3600_000);
  const html = renderThere(<Ends />, "ada");
  expect(html).toContain("0 3600000 86400000");
  const page = hydrate(html, here(<Ends />, "ada"));
  await eventually(() => expect(Number(page.text().split(" ")[0])).toBeGreaterThan(7 * 3600_000));
});

test("StrictMode: one refresh, one channel, one set of listeners", async () => {
  const html = renderThere(<Status />, "ada");
  const page = hydrate(html, <StrictMode>{here(<Status />, "ada")}</StrictMode>);
  await eventually(() => expect(world.server.count(REFRESH)).toBe(1));
  await world.auth.getToken();
  expect(page.text()).toBe("authenticated ada");
  expect(world.server.count(REFRESH)).toBe(1);
  expect(world.browser.channels()).toBe(1);
  expect(world.browser.listeners()).toBe(1);
});

test("an effect that depends on the user runs once, though the user is rendered, taken over and verified", async () => {
  const greet = vi.fn();
  hydrate(renderThere(<Greets greet={greet} />, "ada"), here(<Greets greet={greet} />, "ada"));
  await eventually(() => expect(world.server.count(REFRESH)).toBe(1));
  await world.auth.getToken();
  await world.auth.renew("token-1");
  await eventually(() => expect(greet).toHaveBeenCalled());
  expect(greet.mock.calls).toEqual([["ada"]]);
});

test("a part that hydrates after another user has signed in: no complaint, and it shows the other one", async () => {
  let open = () => {};
  let opened = true;
  const promise = new Promise<void>((resolve) => {
    open = () => {
      opened = true;
      resolve();
    };
  });
  const late = {
    read() {
      if (!opened) throw promise;
    },
  };
  const tree = [
    <Status key="1" />,
    <Suspense key="2" fallback="wait">
      <Late late={late} />
    </Suspense>,
  ];
  const html = renderThere(tree, "ada");
  opened = false;
  const page = hydrate(html, here(tree, "ada"));
  await eventually(() => expect(world.auth.getSnapshot().status).toBe("authenticated"));
  await world.auth.login({ email: "bob@example.org", password: "a long enough one" });
  await eventually(() => expect(page.text()).toBe("authenticated boblate ada"));
  open();
  await eventually(() => expect(page.text()).toBe("authenticated boblate bob"));
});

const Late = ({ late }: { late: { read: () => void } }) => {
  late.read();
  return <p>late {useUser()?.name}</p>;
};
