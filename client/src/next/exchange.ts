/**
 * What a render server asks of the Keyturn server: a token for a minute, for the cookie of the request it renders.
 *
 * Owns: the request and what its answer means. Must not hold: Next.js, anything that outlives the call.
 *
 * Why nothing rotates here: a render has no way to hand a cookie to the browser once it streams, and the browser asks
 * for many renders at once. The exchange reads; the browser alone rotates.
 */
import { isAnswer } from "../core/check.ts";
import { AuthError, accept } from "../core/errors.ts";
import { LIMIT } from "../limits.ts";
import type { Identity } from "../machine/types.ts";
import { hinted, readCookie } from "./cookie.ts";
import { authorization } from "./credential.ts";
import { type Environment, readSettings } from "./settings.ts";

/** Who a request is from, and a token that stands for them for a minute. */
export type Rendered = { readonly token: string; readonly identity: Identity };

/**
 * Why the digest: it is all of an error that Next.js shows to a page of production, `error.tsx` included. Why the cause:
 * whoever reads the log wants to know whether the server is down, slow, or at another address.
 */
const fault = (error: AuthError, cause?: Error): AuthError =>
  Object.assign(error, { digest: error.code }, cause && { cause });

/** The browser's address, by as many values of the header as our own proxies have written. */
const addressOf = (headers: Headers, trustedProxies: number): string | undefined =>
  trustedProxies > 0 ? headers.get("x-forwarded-for")?.split(",").at(-trustedProxies)?.trim() : undefined;

const ask = async (headers: Headers, cookie: string, environment: Environment): Promise<Response> => {
  const { server, path, keyId, key, trustedProxies } = readSettings(environment);
  const body = JSON.stringify({
    ip: addressOf(headers, trustedProxies)?.slice(0, 64),
    user_agent: headers.get("user-agent")?.slice(0, 512),
  });
  const time = Math.floor(Date.now() / 1000);
  return fetch(server + path, {
    method: "POST",
    headers: {
      Authorization: await authorization(keyId, key, time, { path, cookie, body }),
      "Content-Type": "application/json",
      Cookie: `__Host-kt_refresh=${cookie}`,
    },
    body,
    cache: "no-store",
    redirect: "error",
    signal: AbortSignal.timeout(LIMIT),
  });
};

/**
 * Find out who a request is from; null when nobody is signed in. Asks nobody where the cookies say so already.
 *
 * Throws: AuthError `unavailable` when the server cannot be asked or says nothing about the session: that is for an error
 * page. Why never null then: the page would show a sign-out that has not happened.
 */
export const exchange = async (headers: Headers, environment: Environment): Promise<Rendered | null> => {
  const header = headers.get("cookie") ?? "";
  const [cookie, ...others] = readCookie(header, "__Host-kt_refresh");
  if (!hinted(header) || !cookie || others.length || !/^[!-~]+$/.test(cookie)) return null;
  const response = await ask(headers, cookie, environment).catch((error: Error) => {
    if (error instanceof TypeError || error.name === "TimeoutError") throw fault(new AuthError("unavailable"), error);
    throw error;
  });
  const error = await accept(response).then(
    () => null,
    (thrown: AuthError) => thrown,
  );
  if (error?.reason) return null;
  if (error) throw fault(error.code === "unexpected_answer" ? new AuthError("unavailable", response.status) : error);
  const answer: unknown = await response.json().catch(() => null);
  if (!isAnswer(answer)) throw fault(new AuthError("unavailable", response.status));
  const { user, session, access_token } = answer;
  return { token: access_token, identity: { user, session } };
};
