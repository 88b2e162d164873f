/**
 * The one error the client throws.
 *
 * Owns: its codes and what they allow. Must not hold: a message, token or body of a request: errors end up in logs.
 */

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
  override readonly name = "AuthError";
  readonly code: ErrorCode;
  /** The HTTP status, or 0 when there was no answer. */
  readonly status: number;
  /** Whether the same request may succeed later. */
  readonly retryable: boolean;
  /** Seconds to wait at least, when the server said so. */
  readonly retryAfter?: number;
  /** By this the server's log knows the request. */
  readonly requestId?: string;

  constructor(code: ErrorCode, status = 0, retryAfter?: number, requestId?: string) {
    super(code);
    this.code = code;
    this.status = status;
    this.retryable =
      code !== "session_changed" && (!status || status > 499 || status === 429 || code === "session_behind");
    if (retryAfter !== undefined) this.retryAfter = retryAfter;
    if (requestId !== undefined) this.requestId = requestId;
  }
}
