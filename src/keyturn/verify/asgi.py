"""Access tokens in any ASGI application: a middleware that finds out who a request acts as.

    app = TokenMiddleware(app, Verifier("https://auth.example.com", audience="notes"))

    async def app(scope, receive, send):
        principal = principal_of(scope, Requirement(scopes=("notes",)))

Owns: the translation to ASGI. Must not decide anything (`guard.py`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from keyturn.core.errors import Refused
from keyturn.core.model import Principal
from keyturn.ports import Clock, PrincipalSource
from keyturn.verify.guard import ANYBODY, POLICY_VIOLATION, Guard, Identified, Requirement, refusal
from keyturn.wire import values_of

__all__ = ["TokenMiddleware", "principal_of"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_KEY: Final = "keyturn"


class TokenMiddleware:
    """Leave in the scope who a request acts as, and answer the refusals that the application raises.

    By itself it lets every request pass: the routes ask, with `principal_of`. Why: a middleware that guards by path is
    one spelling of a path away from open, and a route that asks has no principal to act for when it was passed by.

    Args:
        app: the application around which it is put.
        source: a Verifier, or the Keyturn node of this process.
        require: what every request needs, for an application that has no public route at all; None: nothing.
        clock: seconds since the Unix epoch; see `Guard`.
    """

    def __init__(
        self,
        app: Application,
        source: PrincipalSource,
        *,
        require: Requirement | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._app: Final = app
        self._guard: Final = Guard(source, clock=clock)
        self._require: Final = require

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one connection; a lifespan passes as it is."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        found = scope[_KEY] = await self._guard.identify_async(values_of(scope["headers"], b"authorization"))
        try:
            if self._require is not None:
                found.demand(self._require)
            await self._app(scope, receive, watched)
        except Refused as refused:
            if started:
                raise
            await _answer(refused, scope, send)


def principal_of(scope: Scope, requirement: Requirement = ANYBODY) -> Principal:
    """Return who a request acts as; what it raises is answered by the middleware.

    Args:
        scope: the connection's; a framework keeps it as `request.scope`.
        requirement: what the route needs.

    Raises:
        InvalidToken, Forbidden, StepUpRequired, Unavailable.
        RuntimeError: there is no TokenMiddleware around this application.
    """
    found = scope.get(_KEY)
    if not isinstance(found, Identified):
        raise RuntimeError("put keyturn.verify.asgi.TokenMiddleware around this application")
    return found.demand(requirement)


async def _answer(refused: Refused, scope: Scope, send: Send) -> None:
    answer = refusal(refused, values_of(scope["headers"], b"x-request-id"))
    kind = "http"
    if scope["type"] == "websocket":
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": refused.code})
            return
        kind = "websocket.http"
    body = b"" if scope.get("method") == "HEAD" else answer.body
    await send({"type": f"{kind}.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": f"{kind}.response.body", "body": body})
