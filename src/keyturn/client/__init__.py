"""The Python clients: `KeyturnAuth` for httpx and httpx2, and stores that keep a sign-in over restarts.

This module owns the public surface and nothing else. Names are imported when they are first used: a program that has
one of the two HTTP libraries needs not the other, and nothing of the server.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keyturn.client.either import AsyncKeyturnAuth, KeyturnAuth
    from keyturn.client.errors import AuthError, Refused, SessionEnded, StoreFault, Unavailable
    from keyturn.client.file_store import FileTokenStore
    from keyturn.client.store import MemoryTokenStore, Stored, TokenStore, User

__all__ = [
    "AsyncKeyturnAuth",
    "AuthError",
    "FileTokenStore",
    "KeyturnAuth",
    "MemoryTokenStore",
    "Refused",
    "SessionEnded",
    "StoreFault",
    "Stored",
    "TokenStore",
    "Unavailable",
    "User",
]

_HOMES = {
    "AuthError": "errors",
    "FileTokenStore": "file_store",
    "MemoryTokenStore": "store",
    "Refused": "errors",
    "SessionEnded": "errors",
    "StoreFault": "errors",
    "Stored": "store",
    "TokenStore": "store",
    "Unavailable": "errors",
    "User": "store",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name) or _binding()}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def _binding() -> str:
    """Name the module for the HTTP library that is installed; with both, one whose class serves the clients of either."""
    installed = [name for name in ("httpx2", "httpx") if find_spec(name) is not None]
    if not installed:
        raise ImportError("keyturn.client needs httpx2 or httpx: pip install 'keyturn[httpx2]'")
    return "either" if len(installed) == 2 else installed[0]
