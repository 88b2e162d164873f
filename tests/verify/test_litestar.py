"""The Litestar integration where it meets Litestar's own ways."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from litestar import HttpMethod, Litestar, Request, Response, get, route
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.spec import Components

from keyturn.core.model import Principal
from keyturn.verify import Verifier
from keyturn.verify.litestar import SECURITY, TokenPlugin, requires
from tests.attacks.support import send
from tests.verify.tokens import bearer

pytestmark = pytest.mark.anyio

MORE_THAN_THREADS = 40
"""An event loop has 32 at most (`ThreadPoolExecutor`)."""


@get("/notes", guards=[requires("notes")], security=SECURITY)
async def notes(request: Request[Principal, object, State]) -> str:
    """A guarded route."""
    return request.user.user_id


@get("/anybody")
async def anybody(request: Request[Principal | None, object, State]) -> bool:
    """A route that shows whether somebody is signed in."""
    return request.user is not None


@route("/options", http_method=[HttpMethod.OPTIONS], guards=[requires()])
async def options(request: Request[Principal, object, State]) -> str:
    """A guarded route that answers OPTIONS itself."""
    return request.user.user_id


@pytest.fixture
def plugin(make_verifier: Callable[..., Verifier]) -> TokenPlugin:
    """The plugin over real published keys."""
    return TokenPlugin(make_verifier(clock=time.time))


async def test_user(plugin: TokenPlugin) -> None:
    """`request.user` is the principal, or None."""
    app = Litestar([notes, anybody], plugins=[plugin])
    assert (await send(app, "GET", "/notes", headers=bearer(scope="notes"))).body == b"ada"
    assert (await send(app, "GET", "/anybody", headers=bearer())).json() is True
    assert (await send(app, "GET", "/anybody")).json() is False


async def test_guard_while_every_thread_is_taken(plugin: TokenPlugin) -> None:
    """A guard waits for no thread: those belong to the host's handlers, which may hold them all."""
    app = Litestar([notes], plugins=[plugin])
    assert (await send(app, "GET", "/notes", headers=bearer(scope="notes"))).status == 200
    taken = threading.Event()
    loop = asyncio.get_running_loop()
    takers = [loop.run_in_executor(None, taken.wait) for _ in range(MORE_THAN_THREADS)]
    try:
        async with asyncio.timeout(10.0):
            assert (await send(app, "GET", "/notes", headers=bearer(scope="notes"))).body == b"ada"
            assert (await send(app, "GET", "/notes", headers=bearer())).code == "forbidden"
    finally:
        taken.set()
        await asyncio.gather(*takers)


async def test_options(plugin: TokenPlugin) -> None:
    """A route that answers OPTIONS itself is guarded like any other."""
    app = Litestar([options], plugins=[plugin])
    assert (await send(app, "OPTIONS", "/options", headers=bearer())).body == b"ada"
    assert (await send(app, "OPTIONS", "/options")).code == "invalid_token"


async def test_handler_of_the_host_goes_first(plugin: TokenPlugin) -> None:
    """A host that answers 401 in its own way answers these too, with our status and headers."""

    def mine(_request: Request[Any, Any, Any], fault: HTTPException) -> Response[dict[str, str]]:
        return Response({"mine": fault.detail}, status_code=fault.status_code, headers=fault.headers)

    app = Litestar([notes], plugins=[plugin], exception_handlers={401: mine})
    answer = await send(app, "GET", "/notes")
    assert (answer.status, answer.json()) == (401, {"mine": "The access token is not valid"})
    assert answer.header("www-authenticate") == 'Bearer error="invalid_token"'


async def test_without_plugin() -> None:
    """A guarded route in an application without the plugin lets nobody in."""
    answer = await send(Litestar([notes]), "GET", "/notes", headers=bearer(scope="notes"))
    assert answer.status == 500


@pytest.mark.parametrize("components", [Components(), [Components()]], ids=["one", "several"])
def test_openapi(plugin: TokenPlugin, components: Components | list[Components]) -> None:
    """A guarded route shows that it needs an access token, beside what the host's document has already."""
    config = OpenAPIConfig(title="Notes", version="1", components=components)
    document = Litestar([notes], plugins=[plugin], openapi_config=config).openapi_schema.to_schema()
    assert document["paths"]["/notes"]["get"]["security"] == SECURITY
    assert document["components"]["securitySchemes"]["KeyturnAccessToken"]["scheme"] == "bearer"


def test_openapi_of_another_application(plugin: TokenPlugin) -> None:
    """An application of the same process that checks no tokens shows nothing of ours, by default or by a configuration of both."""
    config = OpenAPIConfig(title="Notes", version="1")
    Litestar([notes], plugins=[plugin])
    Litestar([notes], plugins=[plugin], openapi_config=config)
    for other in (Litestar([anybody]), Litestar([anybody], openapi_config=config)):
        assert "securitySchemes" not in other.openapi_schema.to_schema()["components"]


def test_without_openapi(plugin: TokenPlugin) -> None:
    """A host without a document of its own gets none."""
    assert Litestar([notes], plugins=[plugin], openapi_config=None).openapi_config is None
