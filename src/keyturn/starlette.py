"""Keyturn inside a Starlette application: the routes, and the node's life.

    node = Keyturn()
    app = Starlette(
        routes=[*routes(node), Route("/notes", notes)],
        lifespan=lifespan(node),
        middleware=[token_middleware(node)],
    )

`keyturn.verify.starlette` finds out who a request acts as, and refuses bad tokens wherever they go but to these routes.

Owns: the routes in Starlette, and that the host's check of tokens lets them judge for themselves. Must not decide anything.
"""

from __future__ import annotations

from typing import Final

from starlette.authentication import AuthCredentials, BaseUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from keyturn.verify.starlette import TokenBackend, TokenRefused, on_error, requires
from keyturn.web.application import WebApplication
from keyturn.web.asgi import serve
from keyturn.web.hosting import Node, by_path, hosted_routes
from keyturn.web.hosting import lifespan_of as lifespan

__all__ = ["lifespan", "requires", "routes", "token_middleware"]


def routes(source: WebApplication | Node, *, operations: bool = False) -> list[BaseRoute]:
    """Return the routes of the contract, for `Starlette(routes=[...])` or a `Mount`.

    Args:
        source: what answers; a node also needs `lifespan`, or its own around the application's.
        operations: also `/healthz`, `/readyz` and `/metrics`; an application usually has its own.
    """
    application = source if isinstance(source, WebApplication) else source.web
    paths = by_path(application, hosted_routes(operations=operations))
    return [Route(path, _Endpoint(application, f"keyturn_{next(iter(paths[path].values())).name}")) for path in paths]


class _Endpoint:
    """One path as Starlette calls it: an object and not a function, so that it hands over every method, and the messages as they come.

    It has a name, which middlewares of hosts ask of an endpoint.
    """

    def __init__(self, application: WebApplication, name: str) -> None:
        self.__name__: Final = name
        self._application: Final = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if not await serve(self._application, scope, receive, send):
            # Nobody is there to read it, but a middleware of the host takes no answer for a fault.
            await Response(status_code=400)(scope, receive, send)


class _HostBackend(TokenBackend):
    """Let the node's own routes judge what they are sent: `/ssr` and `/metrics` have credentials of their own.

    Why by the end of the path: the routes may be in a `Mount`, which has not been found yet. Whoever is let pass is nobody.
    """

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self._own: Final = tuple(by_path(node.web, hosted_routes(operations=True)))

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        try:
            return await super().authenticate(conn)
        except TokenRefused:
            if conn.scope["path"].endswith(self._own):
                return None
            raise


def token_middleware(node: Node) -> Middleware:
    """Return the middleware that finds out who a request acts as, for `Starlette(middleware=[...])`, around the routes too."""
    return Middleware(AuthenticationMiddleware, backend=_HostBackend(node), on_error=on_error)
