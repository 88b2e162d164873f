/** A page for the tests: React as it runs in a browser, without `act`, and everything it complains about. */
import type { ReactNode } from "react";
import { createRoot, hydrateRoot, type Root } from "react-dom/client";
import { afterEach, beforeEach, expect, vi } from "vitest";
import { createAuthClient } from "../../src/index.ts";
import { type Browser, makeBrowser, type Server, startServer } from "../axios/server.ts";

export const REFRESH = "POST /auth/refresh";

const roots = new Set<Root>();
let complaints: string[] = [];

/** Everything React or a page complained about during a test fails it, unless the test takes it out. */
export const takeComplaints = (): string[] => {
  const taken = complaints;
  complaints = [];
  return taken;
};

beforeEach(() => {
  complaints = [];
  for (const method of ["error", "warn"] as const)
    vi.spyOn(console, method).mockImplementation(
      (...parts: unknown[]) => void complaints.push(parts.map(String).join(" ")),
    );
});

afterEach(() => {
  for (const root of roots) root.unmount();
  roots.clear();
  document.body.innerHTML = "";
  expect(takeComplaints()).toEqual([]);
});

export type Mounted = {
  readonly container: HTMLElement;
  readonly text: () => string;
  readonly show: (tree: ReactNode) => void;
  readonly leave: () => void;
};

const mounted = (container: HTMLElement, root: Root): Mounted => {
  roots.add(root);
  return {
    container,
    text: () => container.textContent ?? "",
    show: (tree) => root.render(tree),
    leave() {
      roots.delete(root);
      root.unmount();
    },
  };
};

const makeContainer = (html = ""): HTMLElement => {
  const container = document.createElement("div");
  container.innerHTML = html;
  return document.body.appendChild(container);
};

export const mount = (tree: ReactNode): Mounted => {
  const container = makeContainer();
  const root = createRoot(container);
  root.render(tree);
  return mounted(container, root);
};

/** Take over what a server rendered. */
export const hydrate = (html: string, tree: ReactNode): Mounted => {
  const container = makeContainer(html);
  const onRecoverableError = (error: unknown) => void complaints.push(`recovered: ${error}`);
  return mounted(container, hydrateRoot(container, tree, { onRecoverableError }));
};

/** Record every text an element shows, in order. */
export const watch = (element: HTMLElement): string[] => {
  const seen: string[] = [];
  const look = () => {
    const text = element.textContent ?? "";
    if (seen.at(-1) !== text) seen.push(text);
  };
  look();
  new MutationObserver(look).observe(element, { childList: true, subtree: true, characterData: true });
  return seen;
};

/** A server, a browser and a client for each test. */
export const makeWorld = () => {
  const world = {} as { server: Server; browser: Browser; auth: ReturnType<typeof createAuthClient> };
  beforeEach(async () => {
    world.server = await startServer();
    world.browser = makeBrowser(world.server);
    world.auth = createAuthClient({ environment: world.browser.environment });
  });
  afterEach(() => world.server.close());
  return world;
};
