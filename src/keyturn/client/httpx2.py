"""`KeyturnAuth` for the clients of httpx2. Owns: nothing but the library's names."""

from __future__ import annotations

from typing import ClassVar

import httpx2

from keyturn.client.flow import AsyncMethods, SyncMethods


class KeyturnAuth(SyncMethods, httpx2.Auth):
    """Sign in to a Keyturn server and send access tokens along: `httpx2.Client(auth=auth)`. See `flow.SyncMethods`."""

    library: ClassVar = httpx2


class AsyncKeyturnAuth(AsyncMethods, httpx2.Auth):
    """The same with coroutines: `httpx2.AsyncClient(auth=auth)`. See `flow.AsyncMethods`."""

    library: ClassVar = httpx2
