/**
 * `auth.fetch`: the application's own requests.
 *
 * Owns: who gets the token, and the one retry. Must not hold: how a token is got.
 */
import { AuthError } from "./errors.ts";
import type { Flights } from "./flights.ts";
import type { Store } from "./store.ts";
import type { Environment } from "./types.ts";

/** Where the cookie speaks, or nobody yet: a token is of no use there, and a refresh for their 401 would never end. */
const OWN = /^\/(refresh|login|signup|logout)$/;
/** After an API refused even a new token, its 401s start no refresh for so long. */
const CALM = 5_000;
/** A stream cannot be sent twice, so its token has to last. */
const STREAM_SPARE = 30_000;
export const SPARE = 10_000;

/** Make the test of whether an address gets the token: an allowed origin, exactly, or a route of the server itself. */
export const makeCovers =
  (environment: Environment, baseUrl: string, apiOrigins: readonly string[]) =>
  (address: string | URL): boolean => {
    const { origin, href, pathname } = new URL(address, environment.location?.href);
    const own = href.startsWith(`${baseUrl}/`);
    return own ? !OWN.test(pathname.slice(new URL(baseUrl).pathname.length)) : apiOrigins.includes(origin);
  };

export const makeFetch = (
  environment: Environment,
  store: Store,
  { obtain }: Flights,
  now: () => number,
  covers: (address: string | URL) => boolean,
) => {
  let calmUntil = 0;

  return async (input: RequestInfo | URL, init: RequestInit = {}): Promise<Response> => {
    const request = input instanceof Request ? input : undefined;
    const headers = new Headers(init.headers ?? request?.headers);
    if (!covers(request?.url ?? (input as string | URL)) || headers.has("authorization"))
      return environment.fetch(input, init);
    const signal = init.signal ?? request?.signal;
    const streams = init.body instanceof ReadableStream;

    let token = await obtain(streams ? STREAM_SPARE : SPARE, null, signal);
    const { epoch } = store.state();
    const send = async (): Promise<Response> => {
      if (token) headers.set("authorization", `Bearer ${token}`);
      // A clone goes out, so that the body is still there for the second time.
      const response = await environment.fetch(request ? request.clone() : input, { ...init, headers });
      // What was asked for as one user must not reach a page that shows another, or nobody.
      if (token && store.state().epoch !== epoch) throw new AuthError("session_changed");
      return response;
    };

    const response = await send();
    const challenge = response.headers.get("www-authenticate") ?? "";
    if (challenge.includes("insufficient_user_authentication")) store.emit("stepUp", { challenge });
    else if (response.status === 401 && token && !streams && now() >= calmUntil) {
      token = await obtain(0, token, signal);
      if (token && store.state().epoch === epoch) {
        void response.body?.cancel();
        const second = await send();
        if (second.status === 401) calmUntil = now() + CALM;
        return second;
      }
    }
    return response;
  };
};
