"""What the client raises, each with a stable code.

AuthError
├── SessionEnded    nobody is signed in (any more); `reason` says why. Log in again
├── Refused         the server says no, and would say so again: a wrong password, a taken address
├── Unavailable     no answer, or none that counts. Nothing is lost: the same call may succeed later
└── StoreFault      the token store cannot be used as it is. Nothing in it was changed

Owns: the tree and the reading of problem documents. Must not hold: a token, a body, what is done about an error.
An error is raised anew for everybody who waited for the same refresh, and never shared (`anew`).
"""

from __future__ import annotations

import json
from copy import copy
from typing import Any, Final, Self

from keyturn.client.wire import Answer

_SIGNED_OUT: Final = ("no_session", "session_ended")


class AuthError(Exception):
    """Say what went wrong by a stable `code`: the server's own (`spec/errors.json`), or one of this side.

    Codes of this side: `network`, `timeout`, `unexpected_answer`, `session_changed` (another process signed somebody else
    in); `store_unsafe`, `store_corrupt`, `store_foreign`, `store_unavailable`.

    Args:
        code: stable; for programs.
        status: of the HTTP answer; 0 when there was none.
        detail: for the developer who reads it.
        reason: why the session ended, where it has.
        retry_after: seconds to wait at least, when the server said so.
        request_id: by this the server's log knows the request.
    """

    retryable = False
    """Whether the same call may succeed later."""

    def __init__(
        self,
        code: str,
        status: int = 0,
        detail: str = "",
        *,
        reason: str = "",
        retry_after: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(code, status, detail)
        self.code = code
        self.status = status
        self.reason = reason
        self.retry_after = retry_after
        self.request_id = request_id

    def anew(self) -> Self:
        """Return an error that says the same, with a traceback of its own."""
        return copy(self)

    def __str__(self) -> str:
        code, _, detail = self.args
        return ": ".join(part for part in (code, self.reason, detail) if part)


class SessionEnded(AuthError):
    """Nobody is signed in; the stored tokens are gone.

    `reason` is one of the server's; `expired`: the server knows of no such session, and not why; `never`: nobody has logged
    in; `logout`.
    """


class Refused(AuthError):
    """The server refused, and would refuse again."""


class Unavailable(AuthError):
    """There is no answer that counts; what was signed in still is."""

    retryable = True


class StoreFault(AuthError):
    """The token store cannot be used; `detail` names the file and what is the matter with it."""

    def __init__(self, code: str, status: int = 0, detail: str = "") -> None:
        super().__init__(code, status, detail)
        self.retryable = code == "store_unavailable"


def read_error(answer: Answer) -> AuthError:
    """Read the error of an answer. One that is not this server's says nothing but its status.

    Why by the code and not by the status or a `reason`: gateways answer 401 and have reasons, too, and theirs must not
    sign anybody out.
    """
    document = read_object(answer.body)
    code, reason, detail = (document.get(name) for name in ("code", "reason", "detail"))
    request_id = document.get("request_id")
    status = answer.status
    if not isinstance(code, str):
        code, detail = "unexpected_answer", f"HTTP status {status}"
    kind: type[AuthError] = Refused
    if code in _SIGNED_OUT:
        kind = SessionEnded
    elif status >= 500 or status == 429 or code == "session_behind":
        kind = Unavailable
    return kind(
        code,
        status,
        detail if isinstance(detail, str) else "",
        reason=(reason if isinstance(reason, str) else "expired") if kind is SessionEnded else "",
        retry_after=_seconds(answer.header("retry-after")),
        request_id=request_id if isinstance(request_id, str) else None,
    )


def read_object(content: bytes) -> dict[str, Any]:
    """Read a JSON object; anything else is an empty one."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isascii() and text.isdigit() else None
