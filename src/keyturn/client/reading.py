"""Answers of the server, believed as far as they have the right form.

Owns: reading them into what is kept of a sign-in. Must not hold: requests, stores.
"""

from __future__ import annotations

import re
from typing import Any, Final

from keyturn.client.errors import Unavailable, read_object
from keyturn.client.store import Stored, User
from keyturn.client.wire import Answer

REFRESH_COOKIE: Final = "__Host-kt_refresh"
DEVICE_COOKIE: Final = "__Host-kt_device"
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{1,8192}")
"""What may stand in a Cookie or an Authorization header without changing what is around it."""
_LONGEST: Final = 1e9
"""Seconds that an access token may last."""


def read_sign_in(answer: Answer, held: Stored, server: str, at: float) -> Stored:
    """Return what is kept from now on.

    The refresh token stays when the answer brings none: a child that is too young to be confirmed gets no child itself.

    Args:
        held: what was kept when the request was sent, and gave its cookies.
        server: where the answer is from.
        at: when the request was sent; the access token is counted from then.

    Raises: Unavailable: this is no answer of the contract.
    """
    document = read_object(answer.body)
    access: Any = document.get("access_token")
    lifetime: Any = document.get("expires_in")
    refresh = answer.cookie(REFRESH_COOKIE) or held.refresh_token
    device = answer.cookie(DEVICE_COOKIE) or held.device_token
    session = document.get("session")
    session_id = session.get("id") if isinstance(session, dict) else None
    user = _user(document.get("user"))
    # Exact types: True is no number. What lies between the bounds is finite, and no int that a float cannot hold.
    lasts = type(lifetime) in {int, float} and 0 <= lifetime <= _LONGEST
    tokens = is_token(access) and is_token(refresh)
    if not (lasts and tokens and user is not None and isinstance(session_id, str)):
        raise Unavailable("unexpected_answer", answer.status)
    return Stored(
        server=server,
        refresh_token=refresh,
        device_token=device if is_token(device) else None,
        access_token=access,
        expires_at=at + lifetime,
        expires_in=lifetime,
        session_id=session_id,
        user=user,
    )


def _user(found: Any) -> User | None:
    if not isinstance(found, dict):
        return None
    user_id, email, name = found.get("id"), found.get("email"), found.get("name")
    if not isinstance(user_id, str) or not isinstance(email, str):
        return None
    return User(user_id, email, name if isinstance(name, str) else None)


def is_token(value: Any) -> bool:
    """Say whether this may be sent as a token."""
    return isinstance(value, str) and _TOKEN.fullmatch(value) is not None
