"""Access tokens in Starlette: its authentication backend, and `requires` with scopes and step-up.

    app = Starlette(routes=..., middleware=[token_middleware(Verifier("https://auth.example.com", audience="notes"))])

    @requires("notes")
    async def notes(request: Request) -> Response:
        return JSONResponse({"user": request.user.identity})

Starlette's own `requires(["authenticated", "notes"])` works too; it answers 403 in plain text.

Owns: the translation to Starlette. Must not decide anything (`guard.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, Final, TypeVar, cast

from starlette.authentication import AuthCredentials, AuthenticationBackend, AuthenticationError, BaseUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.websockets import WebSocket

from keyturn.core.errors import InvalidToken, Refused
from keyturn.core.model import Principal
from keyturn.ports import Clock, PrincipalSource
from keyturn.verify.guard import POLICY_VIOLATION, Guard, Requirement, refusal
from keyturn.wire import is_for_others, values_of

__all__ = ["TokenBackend", "TokenRefused", "TokenUser", "on_error", "requires", "token_middleware"]

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


class TokenRefused(AuthenticationError):
    """A token that must not be believed, or that nobody can judge now."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.title)
        self.refused: Final = refused


class TokenUser(BaseUser):
    """`request.user` of a request with a valid token."""

    def __init__(self, guard: Guard, principal: Principal) -> None:
        self._guard: Final = guard
        self.principal: Final = principal

    @property
    def is_authenticated(self) -> bool:
        """Always: a request without a token has Starlette's own UnauthenticatedUser."""
        return True

    @property
    def display_name(self) -> str:
        """The user id; a token holds no name."""
        return self.principal.user_id

    @property
    def identity(self) -> str:
        """The user id."""
        return self.principal.user_id

    def ensure(self, requirement: Requirement) -> None:
        """Ask for more than a valid token. Raises: Forbidden, StepUpRequired."""
        self._guard.ensure(self.principal, requirement)


class TokenBackend(AuthenticationBackend):
    """Starlette's way to find out who a request acts as.

    Args:
        source: a Verifier, or the Keyturn node of this process.
        clock: seconds since the Unix epoch; see `Guard`.
    """

    def __init__(self, source: PrincipalSource, *, clock: Clock | None = None) -> None:
        self._guard: Final = Guard(source, clock=clock)

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        """Return the scopes, `authenticated` among them, and the user; None without an Authorization header of our scheme.

        Raises: TokenRefused: the header holds no token to believe; answered by `on_error`.
        """
        values = values_of(conn.scope["headers"], b"authorization")
        if is_for_others(values):
            return None
        try:
            principal = await self._guard.check_async(values)
        except Refused as refused:
            raise TokenRefused(refused) from None
        return AuthCredentials(["authenticated", *principal.scopes]), TokenUser(self._guard, principal)


def on_error(conn: HTTPConnection, fault: AuthenticationError) -> Response:
    """Answer a TokenRefused with its problem document; for `AuthenticationMiddleware(on_error=...)`."""
    return _answer(conn, fault.refused if isinstance(fault, TokenRefused) else InvalidToken())


def token_middleware(source: PrincipalSource, *, clock: Clock | None = None) -> Middleware:
    """Return the middleware with our backend and our answers, for `Starlette(middleware=[...])`."""
    return Middleware(AuthenticationMiddleware, backend=TokenBackend(source, clock=clock), on_error=on_error)


def requires(*scopes: str, max_age: int | None = None, amr: Sequence[str] = ()) -> Callable[[Endpoint], Endpoint]:
    """Let an endpoint run only for a valid token with these scopes; answer everybody else as `keyturn.wire` does.

    Args:
        scopes: every one must be granted; none: any valid token.
        max_age, amr: as in `Requirement`.

    Raises, when a request comes: RuntimeError: the application has no `token_middleware`.
    """
    requirement = Requirement(scopes, max_age, amr)

    def decorate(endpoint: Endpoint) -> Endpoint:
        @wraps(endpoint)
        async def guarded_async(*args: Any, **kwargs: Any) -> Any:
            connection = _connection_among((*args, *kwargs.values()))
            refused = _refused(connection, requirement)
            if refused is None:
                return await endpoint(*args, **kwargs)
            if isinstance(connection, WebSocket):
                return await connection.close(POLICY_VIOLATION, refused.code)
            return _answer(connection, refused)

        @wraps(endpoint)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            connection = _connection_among((*args, *kwargs.values()))
            refused = _refused(connection, requirement)
            return endpoint(*args, **kwargs) if refused is None else _answer(connection, refused)

        # An endpoint may be an object that is called, too.
        is_async = iscoroutinefunction(endpoint) or iscoroutinefunction(type(endpoint).__call__)
        return cast("Endpoint", guarded_async if is_async else guarded)

    return decorate


def _connection_among(arguments: Iterable[object]) -> HTTPConnection:
    """Find what an endpoint is called for: it is a function of a request, or a method of an HTTPEndpoint."""
    for argument in arguments:
        if isinstance(argument, HTTPConnection):
            return argument
    raise TypeError("only an endpoint, which takes a request or a WebSocket, can be guarded")


def _refused(connection: HTTPConnection, requirement: Requirement) -> Refused | None:
    if "user" not in connection.scope:
        raise RuntimeError(
            "this application has no token_middleware, that of keyturn.starlette or of keyturn.verify.starlette"
        )
    user = connection.scope["user"]
    try:
        if not isinstance(user, TokenUser):
            raise InvalidToken("authorization_header")
        user.ensure(requirement)
    except Refused as refused:
        return refused
    return None


def _answer(conn: HTTPConnection, refused: Refused) -> Response:
    answer = refusal(refused, values_of(conn.scope["headers"], b"x-request-id"))
    response = Response(answer.body, answer.status)
    response.raw_headers = answer.headers
    return response
