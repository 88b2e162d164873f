"""Keyturn: login sessions with rotating refresh tokens that never sign an honest user out.

This module owns the public surface and nothing else: no logic. Names are imported when they are first used, so that a
service which only checks access tokens does not pay for a database driver.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keyturn.core.errors import InvalidToken, Refused, Unavailable, UnsafePolicy, UnsafeSettings
    from keyturn.core.events import Event, EventType
    from keyturn.core.model import Principal, Session, User
    from keyturn.runtime import Keyturn
    from keyturn.settings import Settings

__version__ = "0.1.0"

__all__ = [
    "Event",
    "EventType",
    "InvalidToken",
    "Keyturn",
    "Principal",
    "Refused",
    "Session",
    "Settings",
    "Unavailable",
    "UnsafePolicy",
    "UnsafeSettings",
    "User",
    "__version__",
]

_HOMES = {
    "Event": "keyturn.core.events",
    "EventType": "keyturn.core.events",
    "InvalidToken": "keyturn.core.errors",
    "Keyturn": "keyturn.runtime",
    "Principal": "keyturn.core.model",
    "Refused": "keyturn.core.errors",
    "Session": "keyturn.core.model",
    "Settings": "keyturn.settings",
    "Unavailable": "keyturn.core.errors",
    "UnsafePolicy": "keyturn.core.errors",
    "UnsafeSettings": "keyturn.core.errors",
    "User": "keyturn.core.model",
}
_NEEDS_WEB = frozenset({"Keyturn", "Settings"})


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _NEEDS_WEB:
        import_module("keyturn.web")  # which says what to install
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
