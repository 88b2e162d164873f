"""Access tokens in Litestar: a plugin that sets `connection.user`, and guards with scopes and step-up.

    app = Litestar([notes], plugins=[TokenPlugin(Verifier("https://auth.example.com", audience="notes"))])

    @get("/notes", guards=[requires("notes")])
    async def notes(request: Request[Principal, object, State]) -> str:
        return request.user.user_id

Owns: the translation to Litestar, and its OpenAPI's security scheme. Must not decide anything (`guard.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from copy import copy
from typing import Any, Final

from litestar import Request, Response
from litestar.config.app import AppConfig
from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException
from litestar.handlers.base import BaseRouteHandler
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult, DefineMiddleware
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme
from litestar.plugins import InitPlugin
from litestar.types import ASGIApp

from keyturn.core.errors import Refused
from keyturn.ports import Clock, PrincipalSource
from keyturn.verify.guard import Guard, Identified, Requirement, refusal
from keyturn.wire import values_of

__all__ = ["SECURITY", "PrincipalRefused", "TokenPlugin", "requires"]

_SCHEME: Final = "KeyturnAccessToken"
SECURITY: Final[list[dict[str, list[str]]]] = [{_SCHEME: []}]
"""For a handler's `security=`, so that OpenAPI shows that it needs a token."""


class PrincipalRefused(HTTPException):
    """A request without a valid access token, or without something its route needs."""

    def __init__(self, refused: Refused, connection: ASGIConnection[Any, Any, Any, Any]) -> None:
        """Keep status and headers where any handler of HTTPException finds them."""
        answer = refusal(refused, values_of(connection.scope["headers"], b"x-request-id"))
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in answer.headers}
        # Whoever writes another body knows its type and its length.
        self.media_type: Final = headers.pop("content-type")
        headers.pop("content-length")
        self.body: Final = answer.body
        super().__init__(detail=refused.title, status_code=refused.status, headers=headers)


class TokenPlugin(InitPlugin):
    """Find out who each request acts as: `connection.user` is the principal, or None.

    By itself it lets every request pass: the routes ask, with `requires`.

    Args:
        source: a Verifier, or the Keyturn node of this process.
        clock: seconds since the Unix epoch; see `Guard`.
    """

    def __init__(self, source: PrincipalSource, *, clock: Clock | None = None) -> None:
        self._guard: Final = Guard(source, clock=clock)

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Add the middleware, the answer of a refusal and the security scheme."""
        app_config.middleware.append(DefineMiddleware(_TokenMiddleware, guard=self._guard))
        app_config.exception_handlers.setdefault(PrincipalRefused, _answer_refusal)
        if isinstance(app_config.openapi_config, OpenAPIConfig):
            # The default one is Litestar's own, which all applications of the process have.
            app_config.openapi_config = copy(app_config.openapi_config)
            scheme = SecurityScheme(type="http", scheme="bearer", bearer_format="JWT", description="The access token.")
            shown = Components(security_schemes={_SCHEME: scheme})
            components = app_config.openapi_config.components
            app_config.openapi_config.components = [
                *([components] if isinstance(components, Components) else components),
                shown,
            ]
        return app_config


class _TokenMiddleware(AbstractAuthenticationMiddleware):
    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        # OPTIONS too: a route that answers it itself may ask for a principal.
        super().__init__(app, exclude_http_methods=[])
        self._guard: Final = guard

    async def authenticate_request(self, connection: ASGIConnection[Any, Any, Any, Any]) -> AuthenticationResult:
        """Return the principal and how it was found."""
        found = await self._guard.identify_async(values_of(connection.scope["headers"], b"authorization"))
        return AuthenticationResult(user=found.principal, auth=found)


def requires(
    *scopes: str, max_age: int | None = None, amr: Sequence[str] = ()
) -> Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], Coroutine[Any, Any, None]]:
    """Return a guard: a valid token with these scopes, and the sign-in that the route needs.

    Why a coroutine, which waits for nothing: Litestar runs any other guard on a thread, for which it waits in turn with the
    host's own work.

    Args:
        scopes: every one must be granted; none: any valid token.
        max_age, amr: as in `Requirement`.

    Raises, when it is awaited: PrincipalRefused; RuntimeError: the application has no TokenPlugin.
    """
    requirement = Requirement(scopes, max_age, amr)

    async def guard(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
        found = connection.scope.get("auth")
        if not isinstance(found, Identified):
            raise RuntimeError("this application has neither KeyturnPlugin(node) nor TokenPlugin(verifier)")
        try:
            found.demand(requirement)
            return
        except Refused as fault:
            refused = fault
        raise PrincipalRefused(refused, connection)

    return guard


def _answer_refusal(_request: Request[Any, Any, Any], refused: PrincipalRefused) -> Response[bytes]:
    return Response(
        refused.body, status_code=refused.status_code, headers=refused.headers, media_type=refused.media_type
    )
