/**
 * Requests to the server's own routes.
 *
 * Owns: how they look, how long they may take and how an answer becomes a value or an `AuthError`. Must not hold: what a
 * session is.
 */
import type { Reason } from "../machine/types.ts";
import { AuthError, type ErrorCode } from "./errors.ts";
import type { Environment } from "./types.ts";

/**
 * A request is given up after this many milliseconds.
 *
 * Why: the server's settle time is made for it: a straggler must not reach the cookie jar after its siblings are dead.
 */
export const LIMIT = 10_000;

type Problem = { code?: unknown; reason?: unknown; request_id?: unknown };

/** Why the server ended a session, where an error says so. Kept beside the error, which is for applications. */
export const endReasons = new WeakMap<AuthError, Reason>();

/** Read the error of an answer. An answer that is not one of this server's says nothing but its status. */
export const readError = async (response: Response): Promise<AuthError> => {
  let problem: Problem = {};
  if (response.headers.get("content-type")?.startsWith("application/problem+json")) {
    problem = ((await response.json().catch(() => null)) as Problem | null) ?? {};
  }
  const { code, reason, request_id: id } = problem;
  const seconds = Number.parseFloat(response.headers.get("retry-after") ?? "");
  const error = new AuthError(
    typeof code === "string" ? (code as ErrorCode) : "unexpected_answer",
    response.status,
    seconds > 0 ? seconds : undefined,
    typeof id === "string" ? id : undefined,
  );
  if (code === "no_session") endReasons.set(error, "expired");
  if (code === "session_ended") endReasons.set(error, typeof reason === "string" ? (reason as Reason) : "expired");
  return error;
};

/**
 * POST to a route that reads the cookie.
 *
 * Why keepalive: without it a page that navigates away loses the cookie of the answer (measured: 3 of 3).
 *
 * @returns the JSON of the answer, undefined when it has none.
 * @throws AuthError with the server's code, or `offline`, `network`, `timeout`, `unexpected_answer`.
 */
export const post = async (
  environment: Environment,
  url: string,
  body: object,
  controller: AbortController,
): Promise<unknown> => {
  if (environment.navigator?.onLine === false) throw new AuthError("offline");
  let late = false;
  const timer = environment.setTimeout(() => {
    late = true;
    controller.abort();
  }, LIMIT);
  try {
    const response = await environment.fetch(url, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Keyturn": "1" },
      body: JSON.stringify(body),
      credentials: environment.location?.origin === new URL(url).origin ? "same-origin" : "include",
      cache: "no-store",
      redirect: "error",
      keepalive: true,
      signal: controller.signal,
    });
    if (!response.ok) throw await readError(response);
    return response.status === 204 ? undefined : await response.json();
  } catch (error) {
    if (error instanceof AuthError) throw error;
    throw new AuthError(late ? "timeout" : error instanceof SyntaxError ? "unexpected_answer" : "network");
  } finally {
    environment.clearTimeout(timer);
  }
};
