"""`KeyturnAuth` where httpx2 and httpx are both installed: it serves the clients of either.

Owns: nothing. Why one class for both: their `Auth` classes are distinct types and each client takes its own only, and
which one a program means is not to be guessed from what some dependency brought along.
"""

from __future__ import annotations

from keyturn.client import httpx, httpx2


class KeyturnAuth(httpx2.KeyturnAuth, httpx.KeyturnAuth):  # type: ignore[misc] # pyright: ignore[reportIncompatibleMethodOverride]
    """Sign in to a Keyturn server and send access tokens along: `Client(auth=auth)`. See `flow.SyncMethods`."""


class AsyncKeyturnAuth(httpx2.AsyncKeyturnAuth, httpx.AsyncKeyturnAuth):  # type: ignore[misc] # pyright: ignore[reportIncompatibleMethodOverride]
    """The same with coroutines: `AsyncClient(auth=auth)`. See `flow.AsyncMethods`."""
