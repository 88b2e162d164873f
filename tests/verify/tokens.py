"""Tokens that are valid now, by this machine's clock: for what lets no clock in. For tests only."""

from __future__ import annotations

import time
from typing import Any

from tests.tokens.forge import sign


def token_of_now(*, age: int = 0, **fields: Any) -> str:
    """Return a token whose sign-in is some seconds old."""
    now = int(time.time())
    return sign(issued_at=now, expires_at=now + 600, authenticated_at=now - age, **fields)


def bearer(**fields: Any) -> list[tuple[str, str]]:
    """Return the headers of a request with such a token."""
    return [("authorization", f"Bearer {token_of_now(**fields)}")]
