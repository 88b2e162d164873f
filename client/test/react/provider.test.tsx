// @vitest-environment jsdom
import { Component, type ReactNode, StrictMode, Suspense, useEffect, useState, version } from "react";
import { describe, expect, test, vi } from "vitest";
import { type AuthClient, createAuthClient } from "../../src/index.ts";
import {
  AuthLoading,
  AuthProvider,
  RequireAuth,
  SignedIn,
  SignedOut,
  useAuth,
  useIdle,
  useSession,
  useUser,
} from "../../src/react/index.ts";
import { makeBrowser, makeIdentity } from "../axios/server.ts";
import { eventually } from "../eventually.ts";
import { makeWorld, mount, REFRESH, takeComplaints, watch } from "./page.tsx";

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

const makeGate = () => {
  let opened = false;
  let open = () => {};
  const promise = new Promise<void>((resolve) => {
    open = () => {
      opened = true;
      resolve();
    };
  });
  return { promise, opened: () => opened, open: () => open() };
};

/** Suspend until the gate is opened. */
const Gate = ({ gate, children }: { gate: ReturnType<typeof makeGate>; children?: ReactNode }) => {
  if (!gate.opened()) throw gate.promise;
  return children;
};

class Boundary extends Component<{ onError: (error: unknown) => void; children: ReactNode }> {
  override state = { failed: false };
  static getDerivedStateFromError = () => ({ failed: true });
  override componentDidCatch(error: unknown) {
    this.props.onError(error);
  }
  override render() {
    return this.state.failed ? "failed" : this.props.children;
  }
}

const Asks = ({ onToken }: { onToken: (token: string | null) => void }) => {
  const { getToken } = useAuth();
  useEffect(() => {
    void getToken().then(onToken);
  }, [getToken, onToken]);
  return null;
};

const Suspends = ({ gate, client }: { gate: ReturnType<typeof makeGate> | null; client: AuthClient }) => (
  <Suspense fallback="wait">
    <AuthProvider client={client}>{gate ? <Gate gate={gate}>through</Gate> : <Status />}</AuthProvider>
  </Suspense>
);

const Form = () => {
  const { status, user, login, logout } = useAuth();
  const act = () => (user ? logout() : login({ email: "bob@example.org", password: "a long enough one" }));
  return (
    <button type="button" onClick={() => void act()}>
      {status} {user?.name}
    </button>
  );
};

const Draft = () => {
  const [owner] = useState(useUser()?.name);
  return <p>draft of {owner}</p>;
};

const Required = ({ client, round, tell }: { client: AuthClient; round: number; tell: (what: string) => void }) => (
  <AuthProvider client={client}>
    <RequireAuth
      loading={`loading ${round}`}
      fallback={`please log in ${round}`}
      onSignedOut={(reason) => tell(`${reason} in round ${round}`)}
    >
      secret {round}
    </RequireAuth>
  </AuthProvider>
);

const Name = ({ rendered }: { rendered: () => void }) => {
  rendered();
  return <p>{useUser()?.name ?? "nobody"}</p>;
};

const Until = () => <p>{` until ${useSession()?.accessEndsAt ?? 0}`}</p>;

const Idle = ({ warnAt }: { warnAt?: number }) => {
  const { warning, secondsLeft, stay } = useIdle(warnAt === undefined ? {} : { warnAt });
  return (
    <button type="button" onClick={stay}>
      {warning ? `${warning.kind} ${secondsLeft}` : `calm ${secondsLeft}`}
    </button>
  );
};

test("these tests run on the React they say they run on", ({ task }) => {
  expect(version).toMatch(task.file.projectName === "react-18" ? /^18\.2\./ : /^19\./);
});

describe("loading", () => {
  test("a hint and a live cookie: one refresh, from loading to signed in, signed out is never painted", async () => {
    const page = mount(
      <AuthProvider client={world.auth}>
        <Parts />
      </AuthProvider>,
    );
    const seen = watch(page.container);
    await eventually(() => expect(page.text()).toBe("signed in"));
    expect(seen.filter(Boolean)).toEqual(["loading", "signed in"]);
    expect(world.server.count(REFRESH)).toBe(1);
  });

  test("no hint: signed out, and no request at all", async () => {
    const auth = createAuthClient({ environment: makeBrowser(world.server, { hint: false }).environment });
    const page = mount(
      <AuthProvider client={auth}>
        <Status />
      </AuthProvider>,
    );
    await eventually(() => expect(page.text()).toBe("anonymous never"));
    expect(world.server.hits).toEqual([]);
  });

  test("a hint but a dead cookie: one 401, signed out, the hint is gone", async () => {
    world.server.identity = null;
    const page = mount(
      <AuthProvider client={world.auth}>
        <Status />
      </AuthProvider>,
    );
    await eventually(() => expect(page.text()).toBe("anonymous expired"));
    expect(world.server.count(REFRESH)).toBe(1);
    expect(world.browser.environment.document?.cookie).toBe("kt_hint=");
    world.browser.happen("focus");
    await world.auth.getToken();
    expect(world.server.count(REFRESH)).toBe(1);
  });

  test("the server is down: loading goes on, nobody is signed out", async () => {
    world.server.breakDown(REFRESH);
    const page = mount(
      <AuthProvider client={world.auth}>
        <Parts />
      </AuthProvider>,
    );
    const failed = vi.fn();
    world.auth.on("degraded", failed);
    await eventually(() => expect(failed).toHaveBeenCalled());
    expect(page.text()).toBe("loading");
  });

  test("an effect of a child that asks for a token joins the one refresh", async () => {
    const got: unknown[] = [];
    mount(
      <AuthProvider client={world.auth}>
        <Asks onToken={(token) => got.push(token)} />
      </AuthProvider>,
    );
    await eventually(() => expect(got).toEqual(["token-1"]));
    expect(world.server.count(REFRESH)).toBe(1);
  });

  test("with an initialSession and no server markup: signed in from the first paint", async () => {
    const page = mount(
      <AuthProvider client={world.auth} initialSession={makeIdentity("ada")}>
        <Status />
      </AuthProvider>,
    );
    const seen = watch(page.container);
    await eventually(() => expect(world.server.count(REFRESH)).toBe(1));
    await world.auth.getToken();
    expect(new Set(seen.filter(Boolean))).toEqual(new Set(["authenticated ada"]));
  });

  test("an initialSession that a provider gets after a logout brings nobody back", async () => {
    await world.auth.getToken();
    await world.auth.logout();
    const page = mount(
      <AuthProvider client={world.auth} initialSession={makeIdentity("ada")}>
        <Status />
      </AuthProvider>,
    );
    const seen = watch(page.container);
    await eventually(() => expect(page.text()).toBe("anonymous logout"));
    expect(seen.join()).not.toContain("ada");
  });
});

test("an initialSession shows nobody while a page that came back from the page cache is verified", async () => {
  world.auth.start();
  await world.auth.getToken();
  const release = world.server.hold(REFRESH);
  world.browser.happen("pageshow", { persisted: true });
  const page = mount(
    <AuthProvider client={world.auth} initialSession={makeIdentity("ada")}>
      <Status />
    </AuthProvider>,
  );
  const seen = watch(page.container);
  await eventually(() => expect(page.text()).toBe("unknown"));
  world.server.identity = null;
  release();
  await eventually(() => expect(page.text()).toMatch(/^anonymous/));
  expect(seen.join()).not.toContain("ada");
  world.auth.stop();
});

describe("mounting and unmounting", () => {
  test("StrictMode mounts, unmounts and mounts: one refresh, one channel, one set of listeners", async () => {
    const page = mount(
      <StrictMode>
        <AuthProvider client={world.auth}>
          <Status />
        </AuthProvider>
      </StrictMode>,
    );
    await eventually(() => expect(page.text()).toBe("authenticated ada"));
    expect(world.browser.opened()).toBe(2);
    expect(world.server.count(REFRESH)).toBe(1);
    expect(world.browser.channels()).toBe(1);
    expect(world.browser.listeners()).toBe(1);
    page.leave();
    await eventually(() => expect(world.browser.channels()).toBe(0));
    expect(world.browser.listeners()).toBe(0);
  });

  test("two providers of one client: one refresh, and it works until the last of them is gone", async () => {
    const tree = (
      <AuthProvider client={world.auth}>
        <Status />
      </AuthProvider>
    );
    const [first, second] = [mount(tree), mount(tree)];
    await eventually(() => expect(first.text() + second.text()).toBe("authenticated ada".repeat(2)));
    expect(world.server.count(REFRESH)).toBe(1);
    expect(world.browser.opened()).toBe(1);
    first.leave();
    expect(world.browser.listeners()).toBe(1);
    await world.auth.logout();
    await eventually(() => expect(second.text()).toBe("anonymous logout"));
    second.leave();
    await eventually(() => expect(world.browser.listeners()).toBe(0));
    expect(world.browser.channels()).toBe(0);
  });

  test("a hot update brings another client: the former one lets go of everything", async () => {
    const page = mount(
      <AuthProvider client={world.auth}>
        <Status />
      </AuthProvider>,
    );
    await eventually(() => expect(page.text()).toBe("authenticated ada"));
    const browser = makeBrowser(world.server);
    const next = createAuthClient({ environment: browser.environment });
    page.show(
      <AuthProvider client={next}>
        <Status />
      </AuthProvider>,
    );
    await eventually(() => expect(browser.listeners()).toBe(1));
    expect(world.browser.listeners()).toBe(0);
    expect(world.browser.channels()).toBe(0);
    await eventually(() => expect(page.text()).toBe("authenticated ada"));
    expect(world.server.count(REFRESH)).toBe(2);
  });

  test("a client of another server shows whom it was rendered for, not the former one's user", async () => {
    const page = mount(
      <AuthProvider client={world.auth} initialSession={makeIdentity("ada")}>
        <Status />
      </AuthProvider>,
    );
    await eventually(() => expect(world.server.count(REFRESH)).toBe(1));
    await world.auth.getToken();
    const next = createAuthClient({ environment: makeBrowser(world.server).environment });
    const release = world.server.hold(REFRESH);
    page.show(
      <AuthProvider client={next} initialSession={makeIdentity("bob")}>
        <Status />
      </AuthProvider>,
    );
    await eventually(() => expect(world.server.count(REFRESH)).toBe(2));
    expect(page.text()).toBe("authenticated bob");
    expect(next.getSnapshot()).toMatchObject({ user: { name: "bob" } });
    release();
  });

  test("a tree that suspends before it is mounted touches nothing", async () => {
    const gate = makeGate();
    const page = mount(
      <Suspense fallback="wait">
        <AuthProvider client={world.auth}>
          <Gate gate={gate}>
            <Status />
          </Gate>
        </AuthProvider>
      </Suspense>,
    );
    await eventually(() => expect(page.text()).toBe("wait"));
    expect(world.browser.opened()).toBe(0);
    expect(world.server.hits).toEqual([]);
    gate.open();
    await eventually(() => expect(page.text()).toBe("authenticated ada"));
    expect(world.server.count(REFRESH)).toBe(1);
  });

  test("a tree that suspends later goes on listening", async () => {
    const gate = makeGate();
    const page = mount(<Suspends gate={null} client={world.auth} />);
    await eventually(() => expect(page.text()).toBe("authenticated ada"));
    page.show(<Suspends gate={gate} client={world.auth} />);
    await eventually(() => expect(page.text()).toContain("wait"));
    expect(world.browser.listeners()).toBe(1);
    gate.open();
    await eventually(() => expect(page.text()).toBe("through"));
    expect(world.browser.opened()).toBe(1);
  });

  test("a hook without a provider says what is missing", async () => {
    const said: unknown[] = [];
    // React reports what a boundary caught, to the page and to the console.
    window.addEventListener("error", (event) => event.preventDefault());
    const page = mount(
      <Boundary onError={(error) => said.push(error)}>
        <Status />
      </Boundary>,
    );
    await eventually(() => expect(page.text()).toBe("failed"));
    expect(said.join()).toContain("<AuthProvider>");
    takeComplaints();
  });
});

describe("signing in and out", () => {
  test("login, and logout, through what useAuth gives", async () => {
    const auth = createAuthClient({ environment: makeBrowser(world.server, { hint: false }).environment });
    const page = mount(
      <AuthProvider client={auth}>
        <Form />
      </AuthProvider>,
    );
    const button = () => page.container.querySelector("button");
    await eventually(() => expect(page.text()).toBe("anonymous "));
    button()?.click();
    await eventually(() => expect(page.text()).toBe("authenticated bob"));
    button()?.click();
    await eventually(() => expect(page.text()).toBe("anonymous "));
    await eventually(() => expect(world.server.count("POST /auth/logout")).toBe(1));
  });

  test("another user signs in: what is for signed-in users starts anew", async () => {
    const page = mount(
      <AuthProvider client={world.auth}>
        <SignedIn>
          <Draft />
        </SignedIn>
        <RequireAuth>
          <Draft />
        </RequireAuth>
      </AuthProvider>,
    );
    await eventually(() => expect(page.text()).toBe("draft of ada".repeat(2)));
    await world.auth.login({ email: "bob@example.org", password: "a long enough one" });
    await eventually(() => expect(page.text()).toBe("draft of bob".repeat(2)));
  });

  test("RequireAuth shows what is for the moment, and calls back once with the newest callback", async () => {
    const release = world.server.hold(REFRESH);
    const calls: string[] = [];
    const page = mount(<Required round={1} client={world.auth} tell={(what) => calls.push(what)} />);
    await eventually(() => expect(page.text()).toBe("loading 1"));
    release();
    await eventually(() => expect(page.text()).toBe("secret 1"));
    page.show(<Required round={2} client={world.auth} tell={(what) => calls.push(what)} />);
    await eventually(() => expect(page.text()).toBe("secret 2"));
    await world.auth.logout();
    await eventually(() => expect(calls).toEqual(["logout in round 2"]));
    expect(page.text()).toBe("please log in 2");
    page.show(<Required round={3} client={world.auth} tell={(what) => calls.push(what)} />);
    await eventually(() => expect(page.text()).toBe("please log in 3"));
    expect(calls).toEqual(["logout in round 2"]);
  });
});

describe("what makes components render", () => {
  test("useUser renders again for another user, not for a refresh", async () => {
    let renders = 0;
    const page = mount(
      <AuthProvider client={world.auth}>
        <Name rendered={() => renders++} />
        <Until />
      </AuthProvider>,
    );
    await eventually(() => expect(page.text()).toMatch(/ada until [1-9]/));
    const [before, shown] = [renders, page.text()];
    await world.auth.renew("token-1");
    await eventually(() => expect(page.text()).not.toBe(shown));
    expect(renders).toBe(before);
  });

  test("the token stands in nothing that React keeps", async () => {
    const page = mount(
      <AuthProvider client={world.auth}>
        <Status />
        <Parts />
      </AuthProvider>,
    );
    await eventually(() => expect(page.text()).toContain("authenticated ada"));
    const seen = new Set<unknown>();
    const texts: string[] = [];
    const walk = (value: unknown): void => {
      if (typeof value === "string") texts.push(value);
      if (typeof value !== "object" || value === null || seen.has(value) || value instanceof EventTarget) return;
      seen.add(value);
      for (const { value: member } of Object.values(Object.getOwnPropertyDescriptors(value))) walk(member);
    };
    for (const key of Object.keys(page.container)) walk(Reflect.get(page.container, key));
    expect(texts).toContain("ada@example.org");
    expect(texts.filter((text) => text.includes("token-1"))).toEqual([]);
  });
});

describe("useIdle", () => {
  test("warns, counts down, and staying tells the server and closes the warning", async () => {
    world.server.expiresIn = 10_000;
    const page = mount(
      <AuthProvider client={world.auth}>
        <Idle />
      </AuthProvider>,
    );
    await eventually(() => expect(world.auth.getSnapshot().status).toBe("authenticated"));
    await eventually(() => expect(page.text()).toBe("calm null"));
    world.browser.pass(3_545_000);
    world.browser.happen("focus");
    await eventually(() => expect(page.text()).toMatch(/^inactivity [45]\d$/));
    const seen = watch(page.container);
    world.browser.pass(20_000);
    await eventually(() => expect(page.text()).toMatch(/^inactivity [23]\d$/));
    expect(seen.length).toBeGreaterThan(1);
    page.container.querySelector("button")?.click();
    await eventually(() => expect(page.text()).toBe("calm null"));
    await eventually(() => expect(world.server.last(REFRESH)?.body.toString()).toBe('{"idle_seconds":0}'));
  });

  test("warnAt says how early", async () => {
    world.server.expiresIn = 10_000;
    const page = mount(
      <AuthProvider client={world.auth}>
        <Idle warnAt={600} />
      </AuthProvider>,
    );
    await eventually(() => expect(world.auth.getSnapshot().status).toBe("authenticated"));
    world.browser.pass(3_100_000);
    world.browser.happen("focus");
    await eventually(() => expect(page.text()).toMatch(/^inactivity (500|4\d\d)$/));
    page.show(
      <AuthProvider client={world.auth}>
        <Idle warnAt={60} />
      </AuthProvider>,
    );
    await eventually(() => expect(page.text()).toBe("calm null"));
  });

  test("an end of the session that staying does not help against is told apart", async () => {
    const { session, user } = makeIdentity("ada");
    world.server.identity = { user, session: { ...session, absolute_expires_in: 30 } };
    const page = mount(
      <AuthProvider client={world.auth}>
        <Idle />
      </AuthProvider>,
    );
    await eventually(() => expect(page.text()).toMatch(/^absolute (30|[12]\d)$/));
  });
});
