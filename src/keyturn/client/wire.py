"""One request to the server's cookie routes, and its answer as a value.

Owns: the exchange, its limits and the cookies in it. Must not hold: what an answer means (`reading.py`), when to ask.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from time import monotonic
from typing import Any, Final, NamedTuple

LIMIT: Final = 10.0
"""Seconds after which a request is given up. Why: the server's settle time is made for it (docs/decisions/0013)."""
_MAX_ANSWER: Final = 64 * 1024
"""Bytes; a hundred times the longest answer of the contract."""

_exchanging: ContextVar[bool] = ContextVar("keyturn_exchange", default=False)


class Answer(NamedTuple):
    """One HTTP answer. Header names are in lower case."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """Return the first value of a header."""
        return next((value for key, value in self.headers if key == name), None)

    def cookie(self, name: str) -> str | None:
        """Return the cookie that is set; None when it is left alone or removed."""
        for key, value in self.headers:
            if key == "set-cookie" and value.startswith(f"{name}="):
                return value.partition(";")[0].partition("=")[2].strip() or None
        return None

    def __repr__(self) -> str:
        """Show no header and no body: tokens come in both."""
        return f"Answer(status={self.status}, redacted)"


class NoAnswer(Exception):
    """There is none that counts; `code` says why, and `detail` what the system or the HTTP library met."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


def post(library: Any, url: str, headers: Mapping[str, str], content: bytes, options: Mapping[str, Any]) -> Answer:
    """Send one POST by a client of its own, and read its answer if it comes in time.

    Why a client of its own: the application's client would put the refresh cookie into its jar and send it with every
    request to that host; it may follow redirects, wait for longer, or belong to another event loop. Why made anew: there
    is one exchange in minutes, and none of its state can be inherited over a fork.

    Args:
        library: httpx or httpx2, which are one interface under two names.
        options: of the client: `verify`, `proxy`, `trust_env`.

    Raises: NoAnswer: `network`, `timeout` or `unexpected_answer` (endless).
    """
    began = monotonic()
    # httpcore for httpx, httpcore2 for httpx2: at DEBUG it logs the headers of every answer.
    logging.getLogger(f"{library.__name__.replace('httpx', 'httpcore')}.http11").addFilter(_shows_no_cookie)
    here = _exchanging.set(True)
    # Keeps no cookie of any domain.
    nothing = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    try:
        with (
            library.Client(timeout=LIMIT, follow_redirects=False, cookies=nothing, **options) as client,
            client.stream("POST", url, headers=headers, content=content, extensions=_watched(began)) as response,
        ):
            body = b""
            for piece in response.iter_bytes():
                body += piece
                if len(body) > _MAX_ANSWER:
                    raise NoAnswer("unexpected_answer")
                _in_time(began)
            # Why a late answer does not count: by then its cookie may be dead, and others may have gone on.
            _in_time(began)
            return Answer(response.status_code, [(k.lower(), v) for k, v in response.headers.multi_items()], body)
    except library.RequestError as fault:
        code = "timeout" if isinstance(fault, library.TimeoutException) else "network"
        # The system's own words; a fault of the protocol may repeat what was sent, a cookie among it.
        said = f": {fault}" if isinstance(fault, library.NetworkError) and str(fault) else ""
        raise NoAnswer(code, type(fault).__name__ + said) from None
    finally:
        _exchanging.reset(here)


def _watched(began: float) -> dict[str, Any]:
    """Return what has the library tell of each step of an exchange, to end one that takes too long.

    Why not by its time-outs alone: each is for one step, or one read. A host is tried at every address that it has, and the
    head of an answer is read until it ends.
    """

    def heard(step: str, told: Mapping[str, Any]) -> None:
        if step.endswith("send_request_headers.started"):
            # A process may have been stopped, or without a network, since it read its cookie. Others have gone on from it then, and
            # it would be reuse.
            _in_time(began)
        elif step.endswith(("connect_tcp.complete", "start_tls.complete")):
            stream = told["return_value"]
            stream.read = partial(_read_in_time, began, stream.read)

    return {"trace": heard}


def _read_in_time(began: float, read: Callable[..., bytes], max_bytes: int, timeout: float | None = None) -> bytes:
    return read(max_bytes, timeout=_in_time(began))


def _shows_no_cookie(_record: logging.LogRecord) -> bool:
    """Keep an exchange of ours out of the log. Why: whoever reads a refresh token there is signed in."""
    return not _exchanging.get()


def _in_time(began: float) -> float:
    """Return how many seconds are left. Raises: NoAnswer: none."""
    left = began + LIMIT - monotonic()
    if left <= 0:
        raise NoAnswer("timeout")
    return left
