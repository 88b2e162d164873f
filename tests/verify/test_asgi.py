"""The middleware of plain ASGI: it lets everything pass until a route asks, or refuses everything where it is told to."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keyturn.core.errors import InvalidToken
from keyturn.verify import ANYBODY, Refused, Requirement, Verifier, refusal
from keyturn.verify.asgi import TokenMiddleware, principal_of
from tests.attacks.support import send
from tests.verify.tokens import bearer

pytestmark = pytest.mark.anyio


@pytest.fixture
def verifier(make_verifier: Callable[..., Verifier]) -> Verifier:
    """A Verifier by this machine's clock."""
    return make_verifier(clock=time.time)


async def careless(scope: Any, _receive: Any, sends: Any) -> None:
    """An application whose route forgets to ask."""
    await sends({"type": "http.response.start", "status": 200, "headers": []})
    await sends({"type": "http.response.body", "body": scope["path"].encode()})


async def late(scope: Any, _receive: Any, sends: Any) -> None:
    """An application that asks when its answer has begun."""
    await sends({"type": "http.response.start", "status": 200, "headers": []})
    principal_of(scope)


async def test_route_that_does_not_ask(verifier: Verifier) -> None:
    """The middleware alone guards nothing, and says so in its documentation."""
    assert (await send(TokenMiddleware(careless, verifier), "GET", "/")).status == 200


async def test_enforcing(verifier: Verifier) -> None:
    """Told to, it lets nothing through that lacks what every request needs, whatever the routes do."""
    guarded = TokenMiddleware(careless, verifier, require=Requirement(scopes=("notes",)))
    assert (await send(guarded, "GET", "/")).code == "invalid_token"
    assert (await send(guarded, "GET", "/", headers=bearer())).code == "forbidden"
    assert (await send(guarded, "GET", "/", headers=bearer(scope="notes"))).status == 200
    head = await send(guarded, "HEAD", "/")
    assert (head.status, head.body) == (401, b"")


async def test_inside_a_framework(verifier: Verifier) -> None:
    """A framework answers itself what its routes raise: the middleware has its place inside it, or the framework is told what to answer."""

    async def ask(request: Request) -> Response:
        return Response(principal_of(request.scope).user_id)

    async def answer(_request: Request, fault: Exception) -> Response:
        assert isinstance(fault, Refused)
        made = refusal(fault)
        return Response(made.body, made.status, {name.decode(): value.decode() for name, value in made.headers})

    inside = Starlette(routes=[Route("/", ask)], middleware=[Middleware(TokenMiddleware, source=verifier)])
    told = TokenMiddleware(Starlette(routes=[Route("/", ask)], exception_handlers={Refused: answer}), verifier)
    for app in (inside, told):
        assert (await send(app, "GET", "/")).code == "invalid_token"
        assert (await send(app, "GET", "/", headers=bearer())).status == 200


async def test_refused_when_the_answer_has_begun(verifier: Verifier) -> None:
    """An answer that has begun cannot be taken back: the server is told, and nobody takes it for whole."""
    with pytest.raises(InvalidToken):
        await send(TokenMiddleware(late, verifier), "GET", "/")


async def test_without_middleware() -> None:
    """A route that asks where nobody looked is told what is missing, and runs for nobody."""
    with pytest.raises(RuntimeError, match="TokenMiddleware"):
        principal_of({"type": "http"})


@pytest.mark.parametrize(
    ("extensions", "expected"),
    [
        ({}, ["websocket.close"]),
        ({"websocket.http.response": {}}, ["websocket.http.response.start", "websocket.http.response.body"]),
    ],
)
async def test_websocket(verifier: Verifier, extensions: dict[str, Any], expected: list[str]) -> None:
    """A WebSocket without a token is refused before it is accepted, with the document where the server can send one."""
    sent: list[Any] = []

    async def take(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/", "headers": [], "extensions": extensions}
    await TokenMiddleware(careless, verifier, require=ANYBODY)(scope, receive, take)
    assert [message["type"] for message in sent] == expected
    assert sent[0].get("status", sent[0].get("code")) in {401, 1008}


async def test_lifespan(verifier: Verifier) -> None:
    """The application's own start-up passes as it is."""
    seen: list[Any] = []

    async def application(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope)

    async def nothing(*_: Any) -> Any:
        return None

    scope = {"type": "lifespan"}
    await TokenMiddleware(application, verifier, require=ANYBODY)(scope, nothing, nothing)
    assert seen == [scope]
