"""What every embedding in a framework shares: the node it serves, its life, and its paths.

Owns: what an adapter needs to know of a node. Must not hold: a framework (`fastapi.py`, `starlette.py`, `litestar.py`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Protocol

from keyturn.ports import Clock, PrincipalSource
from keyturn.web.application import WebApplication
from keyturn.web.endpoints import ROUTES, Route

_OPERATIONS: Final = frozenset({"healthz", "readyz", "metrics"})


class Node(PrincipalSource, Protocol):
    """A node of Keyturn, as `keyturn.runtime.Keyturn` is one."""

    @property
    def web(self) -> WebApplication: ...

    @property
    def clock(self) -> Clock: ...

    async def start(self) -> None: ...

    async def close(self) -> None: ...


def lifespan_of(node: Node) -> Callable[[object], AbstractAsyncContextManager[None]]:
    """Return what starts a node with the application it is part of, and closes it after a failed start as well.

    It has the form of an ASGI framework's lifespan, which is called with the application.
    """

    @asynccontextmanager
    async def lifespan(_app: object) -> AsyncGenerator[None]:
        try:
            await node.start()
            yield
        finally:
            await node.close()

    return lifespan


def hosted_routes(*, operations: bool) -> list[Route]:
    """List the routes of an embedding.

    Args:
        operations: `/healthz`, `/readyz` and `/metrics`, too; an application usually has its own.
    """
    return [route for route in ROUTES if operations or route.name not in _OPERATIONS]


def by_path(application: WebApplication, routes: Iterable[Route]) -> dict[str, dict[str, Route]]:
    """Return the routes by path, with parameters in braces, and method."""
    found: dict[str, dict[str, Route]] = {}
    for route in routes:
        found.setdefault(route.path_below(application.config.base_path), {})[route.method] = route
    return found
