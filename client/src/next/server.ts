/**
 * `keyturn/next/server`: who a request is from, for Server Components, Route Handlers and Server Actions.
 *
 * Owns: the tie to Next.js: its headers, its redirect, its memory of one request. Must not hold: anything on the module
 * that belongs to a user: one process renders for all of them at once.
 */
import { headers } from "next/headers";
import { redirect } from "next/navigation";
import { cache } from "react";
import type { Identity, User } from "../machine/types.ts";
import { exchange } from "./exchange.ts";
import { basePathOf, readSettings } from "./settings.ts";

export { AuthError } from "../core/errors.ts";
export { safeReturnTo } from "./return-to.ts";

// React keeps it for one render; in Route Handlers and Server Actions every call asks anew.
const rendered = cache(async () => exchange(await headers(), process.env));

/**
 * Read who is signed in; null when nobody is.
 *
 * Throws: AuthError `unavailable` when the server cannot be asked, for the next `error.tsx`.
 *
 * @returns `{ user, session }`, without a token: it may be handed to `<AuthProvider initialSession>`.
 *
 * @example
 * ```tsx
 * const Name = async () => <p>{(await getSession())?.user.name ?? "Guest"}</p>;
 * ```
 */
export const getSession = async (): Promise<Identity | null> => (await rendered())?.identity ?? null;

/** Where `requireUser` leads when nobody is signed in. */
export type RequireUserOptions = {
  /** Where to go on after the login: the path of the page that asks, which Next.js does not tell it. */
  returnTo?: string | undefined;
  /** The login page; default `/login`. */
  login?: string | undefined;
};

/**
 * Read who is signed in; nobody: go to the login page.
 *
 * This, in every page and Server Action that is private, is what keeps others out; a layout is not asked again when
 * somebody navigates below it. A Route Handler asks `getSession`, and answers 401.
 *
 * @example
 * ```tsx
 * export default async function Page() {
 *   const user = await requireUser({ returnTo: "/account" });
 *   return <h1>{user.name}</h1>;
 * }
 * ```
 */
export const requireUser = async ({ returnTo, login = "/login" }: RequireUserOptions = {}): Promise<User> => {
  const session = await getSession();
  if (session) return session.user;
  const query = returnTo && (login.includes("?") ? "&" : "?") + new URLSearchParams({ returnTo });
  return redirect(login + (query ?? ""));
};

/**
 * As `fetch`, as the user of the request: with their access token, where the address is of `KEYTURN_API_URL` or of the
 * Keyturn server. A relative address counts from `KEYTURN_API_URL`, and one below `/auth/` from the Keyturn server.
 * Nothing of it is ever cached.
 *
 * @example
 * ```ts
 * const sessions = await (await serverFetch("/auth/sessions")).json();
 * ```
 */
export const serverFetch = async (input: string | URL, init: RequestInit = {}): Promise<Response> => {
  // First, so that a build finds out that the page is rendered on demand before it asks for settings that it may not have.
  await headers();
  const { api, server } = readSettings(process.env);
  // As in the browser, where the rewrites let these go to the Keyturn server.
  const routes = `${input}`.startsWith(`${basePathOf(process.env)}/`);
  const url = new URL(input, routes ? server : api);
  const ours = [new URL(api).origin, server].includes(url.origin);
  const token = ours && (await rendered())?.token;
  const sent = new Headers(init.headers);
  if (token && !sent.has("authorization")) sent.set("authorization", `Bearer ${token}`);
  // Why over whatever the caller says: a cached answer would be another user's.
  return fetch(url, { ...init, headers: sent, cache: "no-store", next: undefined } as RequestInit);
};
