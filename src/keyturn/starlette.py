"""Keyturn inside a Starlette application: the routes, and the node's life.

    node = Keyturn()
    app = Starlette(
        routes=[*routes(node), Route("/notes", notes)],
        lifespan=lifespan(node),
        middleware=[token_middleware(node)],
    )

`keyturn.verify.starlette` finds out who a request acts as: it takes a node as well as a Verifier.

Owns: the routes in Starlette. Must not decide anything.
"""

from __future__ import annotations

from starlette.routing import BaseRoute, Route

from keyturn.verify.starlette import requires, token_middleware
from keyturn.web.application import WebApplication
from keyturn.web.asgi import KeyturnASGI
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
    # An object and not a function: Starlette then hands over every method, and the messages as they come.
    endpoint = KeyturnASGI(application)
    paths = by_path(application, hosted_routes(operations=operations))
    return [Route(path, endpoint) for path in paths]
