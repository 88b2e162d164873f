"""`KeyturnAuth` for the clients of httpx. Owns: nothing but the library's names."""

from __future__ import annotations

from typing import ClassVar

import httpx

from keyturn.client.flow import AsyncMethods, SyncMethods


class KeyturnAuth(SyncMethods, httpx.Auth):
    """Sign in to a Keyturn server and send access tokens along: `httpx.Client(auth=auth)`. See `flow.SyncMethods`."""

    library: ClassVar = httpx


class AsyncKeyturnAuth(AsyncMethods, httpx.Auth):
    """The same with coroutines: `httpx.AsyncClient(auth=auth)`. See `flow.AsyncMethods`."""

    library: ClassVar = httpx
