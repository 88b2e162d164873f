"""Access tokens in FastAPI: a dependency that finds out who a request acts as.

    auth = TokenAuth(Verifier("https://auth.example.com", audience="notes"))

    @app.get("/notes")
    async def notes(principal: Annotated[Principal, Security(auth, scopes=["notes"])]): ...

    @app.delete("/account")
    async def delete(principal: Annotated[Principal, Depends(auth.step_up(max_age=300))]): ...

Owns: the translation to FastAPI, and its OpenAPI's security scheme. Must not decide anything (`guard.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Annotated, Final

from fastapi import HTTPException, Request, Response, Security, WebSocketException
from fastapi.requests import HTTPConnection
from fastapi.security import HTTPBearer, SecurityScopes

from keyturn.core.errors import Refused
from keyturn.core.model import Principal
from keyturn.ports import Clock, PrincipalSource
from keyturn.verify.guard import ANYBODY, POLICY_VIOLATION, Guard, Requirement, refusal
from keyturn.wire import Response as Answer
from keyturn.wire import values_of

__all__ = ["PrincipalRefused", "TokenAuth", "answer_refusal"]


class _Shown(HTTPBearer):
    """What OpenAPI shows of a guarded route. The header is read elsewhere, strictly and as it came."""

    async def __call__(self, request: HTTPConnection) -> None:
        """Read nothing."""


BEARER: Final = _Shown(
    scheme_name="KeyturnAccessToken", bearerFormat="JWT", description="The access token.", auto_error=False
)

Source = PrincipalSource | Callable[[HTTPConnection], Guard]


class PrincipalRefused(HTTPException):
    """A request without a valid access token, or without something its route needs. Carries the finished answer."""

    def __init__(self, refused: Refused, answer: Answer) -> None:
        """Keep status and headers where any handler of HTTPException finds them."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in answer.headers}
        # A handler that writes its own body knows its own type.
        headers.pop("content-type")
        headers.pop("content-length")
        super().__init__(refused.status, refused.title, headers)
        self.answer: Final = answer


class TokenAuth:
    """A dependency that returns who the request acts as.

    Why a dependency and not a middleware: a route that forgets to ask has no principal to act for, whereas a middleware
    that is passed by (Next.js CVE-2025-29927) leaves every route open.

    Args:
        source: a Verifier, the Keyturn node of this process, or a function that finds the guard of a request or WebSocket.
        max_age, amr: as in `Requirement`; `step_up` sets them.
        clock: seconds since the Unix epoch; see `Guard`.
    """

    def __init__(
        self,
        source: Source,
        *,
        max_age: int | None = None,
        amr: Sequence[str] = (),
        clock: Clock | None = None,
    ) -> None:
        self._source: Final = source
        self._guard_of: Final = source if callable(source) else _always(Guard(source, clock=clock))
        self._clock: Final = clock
        alone = Requirement(max_age=max_age, amr=amr)  # raises when the program starts, not later
        self._max_age: Final = max_age
        self._amr: Final = alone.amr
        # The very one for which a guard reads no clock.
        self._without_scopes: Final = ANYBODY if alone == ANYBODY else alone

    def step_up(self, *, max_age: int | None = None, amr: Collection[str] = ()) -> TokenAuth:
        """Return the dependency of a route that also needs a fresh or a stronger sign-in.  Spec: RFC 9470."""
        # Why a Collection: FastAPI makes no parameter of one, and refuses `Depends(auth.step_up)` when the route is made. Of a
        # Sequence it makes one, and whoever calls such a route is let in.
        more = Requirement(max_age=max_age, amr=amr if isinstance(amr, str) else tuple(amr))
        youngest = min((age for age in (self._max_age, max_age) if age is not None), default=None)
        both = tuple(dict.fromkeys((*self._amr, *more.amr)))
        return TokenAuth(self._source, max_age=youngest, amr=both, clock=self._clock)

    async def __call__(
        self, connection: HTTPConnection, scopes: SecurityScopes, _shown: Annotated[object, Security(BEARER)]
    ) -> Principal:
        """Return the principal of a request, or of the one that opens a WebSocket.

        Raises:
            PrincipalRefused: 401 `invalid_token` or `insufficient_user_authentication`, 403 `forbidden` naming the
                scopes needed, 503 `unavailable` when no keys are to be had.
            WebSocketException: the same for a WebSocket, which is then closed with the code as its reason.

        Spec: RFC 6750 3, 3.1; RFC 9470 3; OWASP ASVS 5.0 8.2.1, 8.3.1.
        """
        headers = connection.scope["headers"]
        guard = self._guard_of(connection)
        asked = scopes.scopes
        requirement = _requirement(tuple(asked), self._max_age, self._amr) if asked else self._without_scopes
        try:
            return await guard.check_async(values_of(headers, b"authorization"), requirement)
        except Refused as fault:
            refused = fault
        answer = refusal(refused, values_of(headers, b"x-request-id"))
        if connection.scope["type"] == "websocket":
            raise WebSocketException(POLICY_VIOLATION, refused.code)
        _take_over(connection)
        raise PrincipalRefused(refused, answer)


def _always(guard: Guard) -> Callable[[HTTPConnection], Guard]:
    return lambda _connection: guard


# The routes of an application ask for a few different things, each of them at every request.
_requirement = lru_cache(maxsize=256)(Requirement)


def translate(answer: Answer) -> Response:
    """Make FastAPI's response of an answer."""
    response = Response(answer.body, answer.status)
    # As they are: a dict of headers would lose all but one Set-Cookie.
    response.raw_headers = answer.headers
    return response


async def answer_refusal(_request: Request, refused: Exception) -> Response:
    """Answer a PrincipalRefused: for `add_exception_handler`, where a host wants it in a place of its own."""
    if not isinstance(refused, PrincipalRefused):
        raise refused
    return translate(refused.answer)


def _take_over(connection: HTTPConnection) -> None:
    """See to it that a refusal is answered with its problem document although nobody registered a handler for it.

    Starlette keeps the application's handlers in the scope. Should it stop to, FastAPI's own handler still answers
    with the right status and headers.
    """
    handlers = connection.scope.get("starlette.exception_handlers")
    if isinstance(handlers, tuple) and isinstance(handlers[0], dict):
        handlers[0].setdefault(PrincipalRefused, answer_refusal)
