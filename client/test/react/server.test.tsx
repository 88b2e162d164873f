import { PassThrough } from "node:stream";
import { text } from "node:stream/consumers";
import { type ReactNode, Suspense } from "react";
import { renderToPipeableStream } from "react-dom/server";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { createAuthClient } from "../../src/index.ts";
import { AuthProvider, RequireAuth, SignedIn, SignedOut, useAuth, useIdle, useSession } from "../../src/react/index.ts";
import { makeIdentity } from "../axios/server.ts";

const complaints: unknown[] = [];
const asked = vi.fn();

beforeEach(() => {
  complaints.length = 0;
  asked.mockReset();
  vi.stubGlobal("fetch", asked);
  for (const method of ["error", "warn"] as const)
    vi.spyOn(console, method).mockImplementation((...parts) => void complaints.push(parts));
});

afterEach(() => expect(complaints).toEqual([]));

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

type Gate = ReturnType<typeof makeGate>;

const Status = ({ gate }: { gate?: Gate }) => {
  if (gate && !gate.opened()) throw gate.promise;
  const { status, user } = useAuth();
  const { warning, secondsLeft } = useIdle();
  return <p>{JSON.stringify([status, user?.name, useSession()?.id, warning, secondsLeft])}</p>;
};

const page = (client: ReturnType<typeof createAuthClient>, name: string | null, gate?: Gate): ReactNode => (
  <AuthProvider client={client} initialSession={name ? makeIdentity(name) : null}>
    <SignedIn>hello</SignedIn>
    <SignedOut>goodbye</SignedOut>
    <RequireAuth loading="loading">secret of {name}</RequireAuth>
    <Suspense fallback="wait">{gate ? <Status gate={gate} /> : <Status />}</Suspense>
  </AuthProvider>
);

const render = (tree: ReactNode) => {
  const out = new PassThrough();
  const shell = new Promise<void>((resolve, reject) => {
    const { pipe } = renderToPipeableStream(tree, {
      onShellReady() {
        pipe(out);
        resolve();
      },
      onShellError: reject,
      onError: reject,
    });
  });
  return { shell, html: shell.then(() => text(out)) };
};

test("two users' renders at the same time through one client of the module share nothing", async () => {
  const client = createAuthClient();
  const [adasGate, bobsGate] = [makeGate(), makeGate()];
  const ada = render(page(client, "ada", adasGate));
  const bob = render(page(client, "bob", bobsGate));
  await Promise.all([ada.shell, bob.shell]);
  const nobody = await render(page(client, null)).html;
  bobsGate.open();
  const bobs = await bob.html;
  adasGate.open();
  const adas = await ada.html;
  expect(adas).toContain("secret of <!-- -->ada");
  expect(adas).toContain(makeIdentity("ada").session.id);
  expect(adas).not.toContain("bob");
  expect(bobs).toContain("secret of <!-- -->bob");
  expect(bobs).not.toContain("ada");
  expect(nobody).toContain("loading");
  expect(nobody).not.toMatch(/ada|bob|hello|goodbye/);
  expect(client.getSnapshot()).toEqual({ status: "unknown" });
  expect(client.epoch).toBe(0);
});

test("20 renders ask the server of sessions nothing: zero rotations", async () => {
  const client = createAuthClient();
  const pages = await Promise.all(Array.from({ length: 20 }, () => render(page(client, "ada")).html));
  expect(new Set(pages).size).toBe(1);
  expect(asked).not.toHaveBeenCalled();
});
