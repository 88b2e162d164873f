"""Programs that use the client: one way to call each of its kinds, and a store whose token has expired.

Owns: the kinds and their callers. Must not hold: claims.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import httpx
import httpx2

import keyturn.client.httpx
import keyturn.client.httpx2
from keyturn.client import TokenStore

ACCOUNT: dict[str, Any] = {"email": "ada@example.com", "password": "violet otters juggle quietly"}
PARALLEL = 50
_TLS = httpx.create_ssl_context()
"""Made once: to read the authorities takes a tenth of a second."""


class Kind(NamedTuple):
    """One HTTP library, used in threads or in tasks."""

    library: Any
    binding: Any
    tasks: bool

    def auth(self, url: str, **more: Any) -> Any:
        """Make an auth of this kind."""
        name = "AsyncKeyturnAuth" if self.tasks else "KeyturnAuth"
        return getattr(self.binding, name)(url, **more)


KINDS = {
    "httpx": Kind(httpx, keyturn.client.httpx, tasks=False),
    "httpx-async": Kind(httpx, keyturn.client.httpx, tasks=True),
    "httpx2": Kind(httpx2, keyturn.client.httpx2, tasks=False),
    "httpx2-async": Kind(httpx2, keyturn.client.httpx2, tasks=True),
}


class Program:
    """A program with one auth and one client, whose calls are awaited whatever its kind.

    Args:
        kind: of which library, in threads or in tasks.
        url: of the server.
        options: of the auth.
    """

    def __init__(self, kind: Kind, url: str, **options: Any) -> None:
        self.kind = kind
        self.auth = kind.auth(url, verify=_TLS, **options)
        library = kind.library
        # Without limits of its own, so that all requests are under way at once.
        limits = library.Limits(max_connections=None)
        made = library.AsyncClient if kind.tasks else library.Client
        self.client = made(base_url=url, auth=self.auth, limits=limits, verify=_TLS, timeout=60, follow_redirects=True)
        self._threads = ThreadPoolExecutor(PARALLEL)

    async def __aenter__(self) -> Program:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await (self.client.aclose() if self.kind.tasks else self.run(self.client.close))
        self._threads.shutdown()

    async def run(self, call: Callable[..., Any], *args: Any, **more: Any) -> Any:
        """Make a call of the auth or of the client."""
        if self.kind.tasks:
            return await call(*args, **more)
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: call(*args, **more))

    async def log_in(self) -> None:
        """Sign in with the account of all tests."""
        await self.run(self.auth.log_in, **ACCOUNT)

    async def get(self, url: str = "/api/who") -> Any:
        """Get something."""
        return await self.run(self.client.get, url)

    async def storm(self, count: int = PARALLEL) -> list[Any]:
        """Get something many times at once."""
        return await asyncio.gather(*(self.get() for _ in range(count)))

    async def stream(self, url: str, content: bytes) -> Any:
        """Post a body that cannot be sent twice."""
        headers = {"Content-Length": str(len(content))}
        if self.kind.tasks:
            return await self.client.post(url, content=pieces_async(content), headers=headers)
        return await self.run(self.client.post, url, content=_pieces(content), headers=headers)


async def open_program(stack: AsyncExitStack, kind: Kind, url: str, **options: Any) -> Program:
    """Make a program that ends with the stack."""
    return await stack.enter_async_context(Program(kind, url, **options))


def expire(store: TokenStore) -> None:
    """Make the access token in a store look expired."""
    held = store.load()
    assert store.replace(held, held._replace(expires_at=0.0))


def _pieces(content: bytes) -> Any:
    yield content


async def pieces_async(content: bytes) -> AsyncIterator[bytes]:
    """Yield a body in a way that can be read once."""
    yield content
