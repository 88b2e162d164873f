/**
 * The one error the client throws.
 *
 * Owns: its codes and what they allow. Must not hold: a message, token or body of a request: errors end up in logs.
 */
import type { Reason } from "../machine/types.ts";

/** What the server answers; `spec/errors.json` lists them with their meaning. */
export type ServerErrorCode =
  | "invalid_request"
  | "unsupported_media_type"
  | "csrf_refused"
  | "invalid_credentials"
  | "invalid_token"
  | "no_session"
  | "session_ended"
  | "session_behind"
  | "insufficient_user_authentication"
  | "forbidden"
  | "not_found"
  | "method_not_allowed"
  | "conflict"
  | "payload_too_large"
  | "throttled"
  | "unavailable"
  | "internal";

/** What goes wrong on this side: no network, no answer in time, no answer of this server, a request of a former session. */
export type ClientErrorCode = "offline" | "network" | "timeout" | "unexpected_answer" | "session_changed";

/** Every `code` of an `AuthError`. */
export type ErrorCode = ServerErrorCode | ClientErrorCode;

/**
 * Says what went wrong by a stable `code`.
 *
 * @example
 * ```ts
 * try {
 *   await auth.login({ email, password });
 * } catch (error) {
 *   if (error instanceof AuthError && error.code === "invalid_credentials") show("E-mail or password is wrong");
 *   else throw error;
 * }
 * ```
 */
export class AuthError extends Error {
  /** What went wrong, and the message, too. A newer server may have codes that are not listed. */
  declare readonly code: ErrorCode;
  /** The HTTP status, or 0 when there was no answer. */
  declare readonly status: number;
  /** Whether the same request may succeed later. */
  declare readonly retryable: boolean;
  /** Seconds to wait at least, when the server said so in seconds; a date in `Retry-After` is not read. */
  declare readonly retryAfter?: number | undefined;
  /** By this the server's log knows the request. */
  declare readonly requestId?: string | undefined;
  /** Why the session ended, where that is what went wrong. */
  declare readonly reason?: Reason | undefined;

  constructor(code: ErrorCode, status = 0, more?: Pick<AuthError, "retryAfter" | "requestId" | "reason">) {
    super(code);
    Object.assign(this, more, {
      name: "AuthError",
      code,
      status,
      // session_behind; unexpected_answer, whatever its status: it was not this server that said so; 429 and above.
      retryable: /behind|answer/.test(code) || status > 428 || (!status && code !== "session_changed"),
    });
  }
}

/** Read an answer's JSON; nothing where there is none. */
export const read = async (response: Response) => (await response.json().catch(() => {})) ?? {};

/** Let an answer pass if it is one of success. An error that is not this server's says nothing but its status. */
export const accept = async (response: Response): Promise<Response> => {
  if (response.ok) return response;
  const { code, reason, request_id } = await read(response);
  throw new AuthError(typeof code === "string" ? (code as ErrorCode) : "unexpected_answer", response.status, {
    retryAfter: +(response.headers.get("retry-after") as string) || undefined,
    requestId: request_id,
    // Why by the code: gateways answer with a `reason`, too, and theirs must not sign anybody out.
    reason: code === "session_ended" ? reason : code === "no_session" ? "expired" : undefined,
  });
};
