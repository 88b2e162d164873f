"""Every refusal, with its stable code: the tree below is the whole of it.

KeyturnError
├── UnsafePolicy, UnsafeSettings          start-up only
└── Refused                               one per code of the wire contract
    ├── InvalidRequest 422         ├── SessionEnded 401 (+ reason)    ├── Conflict 409
    ├── UnsupportedMediaType 415   ├── SessionBehind 401              ├── PayloadTooLarge 413
    ├── CsrfRefused 403            ├── StepUpRequired 401             ├── Throttled 429
    ├── InvalidCredentials 401     ├── Forbidden 403                  ├── Unavailable 503
    ├── InvalidToken 401           ├── NotFound 404                   └── Internal 500
    └── NoSession 401              └── MethodNotAllowed 405

Owns: codes, statuses, titles, whether a retry helps and what a client does (`spec/errors.json` is generated from it).
Must not hold: how an error becomes HTTP (`web/`). An error is made anew for each request and never shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from keyturn.core.model import RevokeReason


class KeyturnError(Exception):
    """Root of everything Keyturn raises on purpose."""


class UnsafePolicy(KeyturnError):
    """A policy breaks a guarantee; `problems` names each broken rule."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class UnsafeSettings(UnsafePolicy):
    """The configuration is unsafe for production; `problems` names each finding."""


class Refused(KeyturnError):
    """A request that is answered with a problem document.

    Attributes:
        detail: for the developer who reads the answer; never holds a credential or another user's data.
        retry_after: seconds after which a retry makes sense; None when it never does by itself, or nobody knows when.
    """

    clears_cookies = False
    """True when the browser's cookies are of no more use. Never for a fault: a fault must not sign anybody out."""
    code: ClassVar[str]
    status: ClassVar[int]
    title: ClassVar[str]
    retryable: ClassVar[bool] = False
    client: ClassVar[str]
    """What the browser client does: `show`, `sign_out`, `refresh`, `step_up`, `retry` or `fix` (a programming error)."""

    def __init__(self, detail: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(detail or self.title)
        self.detail = detail
        self.retry_after = retry_after


class InvalidRequest(Refused):
    code, status, title, client = ("invalid_request", 422, "The request is not valid", "show")


class UnsupportedMediaType(Refused):
    code, status, title, client = ("unsupported_media_type", 415, "Only application/json is understood", "fix")


class CsrfRefused(Refused):
    """A request with the cookie that may be a foreign page's. `reason` is for logs only, as that of `InvalidToken`."""

    code, status, title, client = ("csrf_refused", 403, "X-Keyturn: 1 and an allowed Origin are needed", "fix")

    def __init__(self, reason: str = "") -> None:
        super().__init__()
        self.reason = reason


class InvalidCredentials(Refused):
    """Why: unknown, wrong and disabled are one answer, after the same work, so that none of them can be told from outside."""

    code, status, title, client = ("invalid_credentials", 401, "E-mail or password is wrong", "show")


class InvalidToken(Refused):
    """An access token that must not be believed. `reason` is for logs only and never leaves the process."""

    code, status, title, client = ("invalid_token", 401, "The access token is not valid", "refresh")

    def __init__(self, reason: str = "") -> None:
        super().__init__()
        self.reason = reason


class NoSession(Refused):
    code, status, title, client = "no_session", 401, "There is no session", "sign_out"

    def __init__(self, *, clears_cookies: bool = True) -> None:
        super().__init__()
        self.clears_cookies = clears_cookies


class SessionEnded(Refused):
    code, status, title, client = ("session_ended", 401, "The session has ended", "sign_out")

    def __init__(self, reason: RevokeReason) -> None:
        super().__init__()
        self.reason = reason
        # The login that replaced this session has set newer cookies in the same jar.
        self.clears_cookies = reason is not RevokeReason.REPLACED


class SessionBehind(Refused):
    """Why: the database lost commits; the session is good and is kept, so the cookie is not cleared."""

    code, status, title, client = ("session_behind", 401, "The session is newer than the database", "retry")
    retryable = True


class StepUpRequired(Refused):
    """Why: a good token may be in the hands of whoever sits down at an unlocked screen.  Spec: RFC 9470 3."""

    code, status, title, client = ("insufficient_user_authentication", 401, "A fresh sign-in is needed", "step_up")


class Forbidden(Refused):
    code, status, title, client = ("forbidden", 403, "This is not allowed", "show")


class NotFound(Refused):
    code, status, title, client = "not_found", 404, "There is no such thing", "show"


class MethodNotAllowed(Refused):
    code, status, title, client = ("method_not_allowed", 405, "The method is not allowed here", "fix")

    def __init__(self, allow: str) -> None:
        super().__init__()
        self.allow = allow


class Conflict(Refused):
    code, status, title, client = "conflict", 409, "Something else was there first", "show"


class PayloadTooLarge(Refused):
    code, status, title, client = ("payload_too_large", 413, "The body is too large", "fix")


class Throttled(Refused):
    code, status, title, client = "throttled", 429, "Too many attempts", "retry"
    retryable = True

    def __init__(self, retry_after: float) -> None:
        super().__init__(retry_after=retry_after)


class Unavailable(Refused):
    """A dependency is at fault: never a sign-out. `dependency` is for logs and metrics; only `detail` is in the answer."""

    code, status, title, client = ("unavailable", 503, "A dependency is unavailable", "retry")
    retryable = True

    def __init__(self, dependency: str, retry_after: float = 1.0, *, detail: str = "") -> None:
        super().__init__(detail, retry_after=retry_after)
        self.dependency = dependency


class Internal(Refused):
    code, status, title, client = "internal", 500, "Something went wrong", "retry"
    retryable = True


def refusals() -> Iterator[type[Refused]]:
    """Yield every refusal of the contract, in the order of the tree."""
    yield from Refused.__subclasses__()
