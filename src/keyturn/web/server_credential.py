"""The credential of a render server: an HMAC over what it asks for.

    Authorization: Keyturn-HMAC key=<id>, time=<unix seconds>, signature=<base64url>
    signature = HMAC-SHA256(key, "keyturn-ssr-v1" LF "POST" LF path LF time
                                 LF hex(SHA-256(refresh cookie value)) LF hex(SHA-256(body)))

Owns: the format and the check. Must not hold: the route, the clock.

Why a signature and not a password: what is sent is of no use for another path, cookie, body or minute, so a log or a
proxy that keeps it gives little away. Within the window the very same request may be replayed; it only reads, and
answers what it answered before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from hmac import compare_digest, digest
from typing import Final, NamedTuple

from keyturn.core.errors import Forbidden
from keyturn.tokens import base64url

SCHEME: Final = "Keyturn-HMAC"
WINDOW: Final = 60
"""Seconds by which the two clocks may differ."""
_LABEL: Final = b"keyturn-ssr-v1"
_HEADER: Final = re.compile(
    rb"Keyturn-HMAC key=([A-Za-z0-9._-]{1,64}), ?time=([0-9]{1,12}), ?signature=([A-Za-z0-9_-]{43})"
)


class Signed(NamedTuple):
    """What of a request is signed, beside the time."""

    path: str
    """As the server sees it: `/auth/ssr`, with the base path."""
    cookie: bytes
    """The value of `__Host-kt_refresh`; empty when there is none."""
    body: bytes


def sign(key: bytes, time: int, signed: Signed) -> bytes:
    """Return the signature of one request."""
    digests = (sha256(signed.cookie).hexdigest().encode(), sha256(signed.body).hexdigest().encode())
    parts = (_LABEL, b"POST", signed.path.encode(), b"%d" % time, *digests)
    return digest(key, b"\n".join(parts), "sha256")


def authorization(key_id: str, key: bytes, time: int, signed: Signed) -> str:
    """Return the value of the Authorization header of one request."""
    return f"{SCHEME} key={key_id}, time={time}, signature={base64url.encode(sign(key, time, signed))}"


def check(values: Sequence[bytes], keys: Mapping[str, bytes], now: float, signed: Signed) -> None:
    """Let a render server pass; refuse everybody else.

    Why 403 and not 401: a wrong key is a fault of the deployment, and must not look like a session that has ended.

    Args:
        values: every Authorization header.
        keys: id -> key.
        now: seconds, the database's clock.

    Raises: Forbidden: one answer for all reasons.
    """
    match = _HEADER.fullmatch(values[0]) if len(values) == 1 else None
    if match is not None:
        key = keys.get(match[1].decode("ascii"))
        time = int(match[2])
        if key is not None and abs(now - time) <= WINDOW:
            expected = base64url.encode(sign(key, time, signed)).encode("ascii")
            if compare_digest(expected, match[3]):
                return
    raise Forbidden("the server credential is missing, wrong or too old")
