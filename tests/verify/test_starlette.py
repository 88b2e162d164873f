"""The Starlette integration where it meets Starlette's own ways."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, AuthenticationError, BaseUser, SimpleUser
from starlette.authentication import requires as starlette_requires
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from keyturn.verify import Verifier
from keyturn.verify.starlette import TokenUser, on_error, requires, token_middleware
from tests.attacks.support import send
from tests.verify.tokens import bearer

pytestmark = pytest.mark.anyio


@starlette_requires(["authenticated", "notes"])
async def theirs(request: Request) -> Response:
    """A route guarded in Starlette's own way."""
    user = request.user
    assert isinstance(user, TokenUser)
    assert user.is_authenticated
    return JSONResponse([user.display_name, user.principal.token_id])


async def anybody(request: Request) -> Response:
    """A route that shows whether somebody is signed in."""
    return JSONResponse(request.user.is_authenticated)


class Notes(HTTPEndpoint):
    """A class whose method is guarded."""

    @requires("notes")
    async def get(self, request: Request) -> Response:
        """Answer with who the request acts as."""
        return JSONResponse(request.user.identity)


ROUTES = [Route("/theirs", theirs), Route("/anybody", anybody), Route("/notes", Notes)]


@pytest.fixture
def app(make_verifier: Callable[..., Verifier]) -> Starlette:
    """An application with our middleware."""
    return Starlette(routes=ROUTES, middleware=[token_middleware(make_verifier(clock=time.time))])


async def test_their_requires(app: Starlette) -> None:
    """Starlette's own decorator sees our scopes, and answers in its own way."""
    answer = await send(app, "GET", "/theirs", headers=bearer(scope="notes"))
    assert answer.json() == ["ada", "0123456789abcdef"]
    assert (await send(app, "GET", "/theirs", headers=bearer())).status == 403
    assert (await send(app, "GET", "/theirs")).status == 403


async def test_cors_of_the_host(make_verifier: Callable[..., Verifier]) -> None:
    """A page of another origin can read that its token is not valid where the host's CORS middleware stands before ours."""
    page = "https://app.test"
    cors = Middleware(CORSMiddleware, allow_origins=[page])
    app = Starlette(routes=ROUTES, middleware=[cors, token_middleware(make_verifier(clock=time.time))])
    answer = await send(app, "GET", "/notes", headers=[("origin", page), ("authorization", "Bearer x")])
    assert (answer.code, answer.header("access-control-allow-origin")) == ("invalid_token", page)


async def test_route_for_anybody(app: Starlette) -> None:
    """Without a token a request is nobody's; with a bad one it is refused, wherever it goes."""
    assert (await send(app, "GET", "/anybody")).json() is False
    assert (await send(app, "GET", "/anybody", headers=bearer())).json() is True
    assert (await send(app, "GET", "/anybody", headers=[("authorization", "Bearer x")])).code == "invalid_token"


async def test_credentials_of_another_scheme(app: Starlette) -> None:
    """What a proxy asks of everybody, or another backend of its own, makes nobody of ours, and keeps nobody from a public route."""
    basic = [("authorization", "Basic YTpi")]
    assert (await send(app, "GET", "/anybody", headers=basic)).json() is False
    assert (await send(app, "GET", "/notes", headers=basic)).code == "invalid_token"
    for both in ([*basic, *bearer()], [*bearer(), *basic]):
        assert (await send(app, "GET", "/anybody", headers=both)).code == "invalid_token"


async def test_method_of_a_class(app: Starlette) -> None:
    """The decorator works on methods too."""
    assert (await send(app, "GET", "/notes", headers=bearer(scope="notes"))).json() == "ada"
    assert (await send(app, "GET", "/notes", headers=bearer())).code == "forbidden"


async def test_object_that_is_called(make_verifier: Callable[..., Verifier]) -> None:
    """The decorator works on an object as well, as Starlette's own does."""

    class Called:
        async def __call__(self, request: Request) -> Response:
            return JSONResponse(request.user.identity)

    middleware = [token_middleware(make_verifier(clock=time.time))]
    app = Starlette(routes=[Route("/called", requires("notes")(Called()))], middleware=middleware)
    assert (await send(app, "GET", "/called", headers=bearer(scope="notes"))).json() == "ada"
    assert (await send(app, "GET", "/called", headers=bearer())).code == "forbidden"


async def test_without_middleware() -> None:
    """A guarded route in an application without the middleware lets nobody in, and says what is missing."""
    with pytest.raises(RuntimeError, match="token_middleware"):
        await send(Starlette(routes=ROUTES), "GET", "/notes", headers=bearer(scope="notes"))


async def test_user_of_another_backend() -> None:
    """Whom another middleware knows has no token of ours."""

    class Theirs(AuthenticationBackend):
        async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser]:
            return AuthCredentials(["notes"]), SimpleUser("ada")

    app = Starlette(routes=ROUTES, middleware=[Middleware(AuthenticationMiddleware, backend=Theirs())])
    assert (await send(app, "GET", "/notes", headers=bearer(scope="notes"))).code == "invalid_token"


def test_fault_of_another_backend() -> None:
    """What another backend raises is a 401 of ours, too."""
    request = Request({"type": "http", "headers": []})
    assert on_error(request, AuthenticationError("no")).status_code == 401


@pytest.mark.parametrize("scope", ["notes", "other"])
async def test_websocket(make_verifier: Callable[..., Verifier], scope: str) -> None:
    """A guarded WebSocket is accepted for who may come in, and closed before that for everybody else."""

    @requires("notes")
    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()

    app = Starlette(
        routes=[WebSocketRoute("/talk", talk)], middleware=[token_middleware(make_verifier(clock=time.time))]
    )
    sent: list[Any] = []

    async def take(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    headers = [(name.encode(), value.encode()) for name, value in bearer(scope=scope)]
    await app({"type": "websocket", "path": "/talk", "headers": headers, "subprotocols": []}, receive, take)
    if scope == "notes":
        assert sent[0]["type"] == "websocket.accept"
    else:
        assert sent == [{"type": "websocket.close", "code": 1008, "reason": "forbidden"}]


async def test_what_is_no_endpoint() -> None:
    """A function that is called without a request cannot be guarded, and does not run."""
    with pytest.raises(TypeError, match="endpoint"):
        await requires()(anybody)(1)  # type: ignore[arg-type]
