"""Keyturn in somebody's Starlette or Litestar application: where it meets the framework's own ways."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from fastapi import Request as FastAPIRequest
from litestar import Litestar, Request, Response, post
from litestar.background_tasks import BackgroundTask
from litestar.config.csrf import CSRFConfig
from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler
from litestar.middleware.logging import LoggingMiddlewareConfig
from litestar.openapi.config import OpenAPIConfig
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response as StarletteResponse
from starlette.routing import Mount

from keyturn.fastapi import install
from keyturn.litestar import KeyturnPlugin
from keyturn.runtime import Keyturn
from keyturn.starlette import lifespan, routes, token_middleware
from keyturn.tokens import base64url
from keyturn.web.messages import MAX_BODY_BYTES
from tests.attacks.conftest import lighten, settings_of
from tests.attacks.support import REFRESH, SAFE, Answer, Browser, send
from tests.databases import sqlite_database
from tests.services import sqlite_url

pytestmark = pytest.mark.anyio


@pytest.fixture
def fresh(tmp_path: Path) -> Keyturn:
    """A node that nobody has started."""
    node = Keyturn(settings_of(sqlite_database(tmp_path)))
    lighten(node)
    return node


async def audit(request: FastAPIRequest) -> None:
    """Read what comes, as a dependency of a whole FastAPI application."""
    await request.body()


async def drain(request: FastAPIRequest) -> None:
    """Read what comes, and keep nothing of it."""
    async for _ in request.stream():
        pass


async def overhear(request: Request[Any, Any, Any]) -> None:
    """Read what comes, as a hook of a whole Litestar application."""
    await request.body()


async def check(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
    """Read what comes, as a guard of a whole Litestar application."""
    assert isinstance(connection, Request)
    await connection.body()


served: list[int | None] = []


async def mark(response: Response[Any]) -> Response[Any]:
    """Say who has answered, as a hook of a whole Litestar application."""
    response.headers["X-Served-By"] = "notes"
    response.headers["Cache-Control"] = "max-age=60"
    response.background = BackgroundTask(served.append, response.status_code)
    response.set_cookie("theme", "dark")
    return response


def fastapi_of(node: Keyturn, **more: Any) -> Any:
    """Put a node into a FastAPI application."""
    app = FastAPI(**more)
    install(app, node)
    return app


def litestar_of(node: Keyturn, **more: Any) -> Any:
    """Put a node into a Litestar application."""
    return Litestar([], plugins=[KeyturnPlugin(node)], **more)


@pytest.mark.parametrize(
    ("make", "reader"),
    [
        (fastapi_of, {"dependencies": [Depends(audit)]}),
        (litestar_of, {"before_request": overhear}),
        (litestar_of, {"guards": [check]}),
        (litestar_of, {"middleware": [LoggingMiddlewareConfig().middleware], "request_max_body_size": 10}),
    ],
    ids=["dependency", "hook", "guard", "log"],
)
async def test_body_that_the_host_has_read(fresh: Keyturn, make: Callable[..., Any], reader: dict[str, Any]) -> None:
    """A host that reads every body takes none from us: what would come next is the end of the connection."""
    app = make(fresh, **reader)
    await fresh.start()
    try:
        browser = Browser(app)
        assert (await browser.sign_up()).status == 201
        assert (await browser.refresh()).status == 200
        assert (await browser.log_out()).status == 204
        assert (await browser.log_in()).status == 200
        assert (await browser.send("POST", "/auth/login", {"x": "y" * MAX_BODY_BYTES})).code == "payload_too_large"
    finally:
        await fresh.close()


@pytest.mark.parametrize("make", [fastapi_of, litestar_of])
async def test_body_that_does_not_end(fresh: Keyturn, make: Callable[..., Any]) -> None:
    """Whoever leaves in the middle of a body is no fault of ours, and whoever sends without end gets no more of our memory."""
    app = make(fresh)
    await fresh.start()
    try:
        browser = Browser(app)
        await browser.sign_up()
        pieces = [b"x" * MAX_BODY_BYTES, b"x", b"x"]
        answer = await browser.send(
            "POST", "/auth/refresh", headers=[("content-type", "application/json")], body=pieces
        )
        assert (answer.code, answer.header("connection")) == ("payload_too_large", "close")
        assert (await leave(app)).status == 400
        assert (await browser.refresh()).status == 200
    finally:
        await fresh.close()


async def leave(app: Any) -> Answer:
    """Begin a body, and go."""

    async def cut(scope: Any, receive: Any, send: Any) -> None:
        async def partly() -> Any:
            message = await receive()
            return {**message, "more_body": True} if message["type"] == "http.request" else message

        await app(scope, partly, send)

    return await send(cut, "POST", "/auth/logout", headers=[*SAFE, ("content-type", "application/json")], body=b"{")


class PassingOn(BaseHTTPMiddleware):
    """A middleware of a whole Starlette application, which wants an answer to every request, and the name of its endpoint."""

    async def dispatch(self, request: StarletteRequest, call_next: RequestResponseEndpoint) -> StarletteResponse:
        """Pass it on."""
        response = await call_next(request)
        response.headers["x-endpoint"] = request.scope["endpoint"].__name__
        return response


async def test_middleware_of_starlette(fresh: Keyturn) -> None:
    """A middleware that waits for every answer has one to who has left, too, and not a fault in its log; endpoints have names."""
    app = Starlette(routes=routes(fresh), lifespan=lifespan(fresh), middleware=[Middleware(PassingOn)])
    async with app.router.lifespan_context(app):
        assert (await leave(app)).status == 400
        assert (await send(app, "GET", "/auth/me")).header("x-endpoint") == "keyturn_me"
    assert app.url_path_for("keyturn_refresh") == "/auth/refresh"


async def test_body_that_the_host_has_thrown_away(fresh: Keyturn, caplog: pytest.LogCaptureFixture) -> None:
    """A host that reads every body and keeps none is told so, in the log, instead of waiting."""
    await fresh.start()
    try:
        assert (await Browser(fastapi_of(fresh, dependencies=[Depends(drain)])).log_in()).code == "internal"
    finally:
        await fresh.close()
    assert "Stream consumed" in caplog.text


async def test_hook_of_litestar_after_an_answer(fresh: Keyturn) -> None:
    """A hook that sees every answer sees ours as an answer, may add to it, and changes no cookie of ours."""
    async with fresh.lifespan():
        plain, marked = Browser(litestar_of(fresh)), Browser(litestar_of(fresh, after_request=mark))
        for browser in (plain, marked):
            assert (await browser.sign_up()).status == 201
        answers = [await browser.refresh() for browser in (plain, marked)]
        assert [answer.status for answer in answers] == [200, 200]
        assert (answers[1].header("x-served-by"), answers[1].header("cache-control")) == ("notes", "private, no-store")
        own = answers[1].values("set-cookie")
        assert own.pop().startswith("theme=dark")
        assert [re.sub("=[^;]*", "", one, count=1) for one in own] == [
            re.sub("=[^;]*", "", one, count=1) for one in answers[0].values("set-cookie")
        ]
        assert (await marked.me()).header("content-type") == "application/json"
        assert (await marked.send("HEAD", "/auth/me", bearer=True)).body == b""
        gone = await marked.log_out()
        assert (gone.status, gone.values("content-type"), gone.cookies[REFRESH]) == (204, [], "")
        assert served == [201, 200, 200, 200, 204]


async def test_mount_in_starlette(fresh: Keyturn) -> None:
    """The routes work below a prefix, over an application's own values too."""
    app = Starlette(routes=[Mount("/api", routes=routes(fresh.web))], lifespan=lifespan(fresh))
    async with app.router.lifespan_context(app):
        browser = Browser(app)
        answer = await browser.send("POST", "/api/auth/signup", {"email": browser.email, "password": browser.password})
        assert answer.status == 201
        assert (await browser.send("POST", "/api/auth/refresh")).status == 200
        assert (await send(app, "POST", "/auth/refresh")).status == 404


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_credentials_that_are_no_access_token(tmp_path: Path, prefix: str) -> None:
    """A host that refuses bad tokens everywhere leaves those of a render server and of Prometheus to the routes."""
    token = secrets.token_urlsafe(24)
    ssr = f"web:{base64url.encode(secrets.token_bytes(32))}"
    node = Keyturn(settings_of(sqlite_database(tmp_path), metrics_token=token, ssr_keys=ssr))
    own = routes(node, operations=True)
    app = Starlette(
        routes=[Mount(prefix, routes=own)] if prefix else own,
        lifespan=lifespan(node),
        middleware=[token_middleware(node)],
    )
    bearer = [("authorization", f"Bearer {token}")]
    render = [("authorization", "Keyturn-HMAC key=web, time=1, signature=x")]
    async with app.router.lifespan_context(app):
        assert (await send(app, "GET", f"{prefix}/metrics", headers=bearer)).status == 200
        assert (await send(app, "POST", f"{prefix}/auth/ssr", headers=render)).code == "forbidden"
        assert (await send(app, "GET", f"{prefix}/auth/me", headers=bearer)).code == "invalid_token"
        assert (await send(app, "GET", f"{prefix}/elsewhere", headers=bearer)).code == "invalid_token"


async def test_path_of_litestar(fresh: Keyturn) -> None:
    """The routes have the path that the application has, with methods and parameter as everywhere."""
    app = Litestar([], path="/api", plugins=[KeyturnPlugin(fresh)])
    async with app.lifespan():
        browser = Browser(app)
        answer = await browser.send("POST", "/api/auth/signup", {"email": browser.email, "password": browser.password})
        assert answer.status == 201
        assert (await browser.send("POST", "/api/auth/refresh")).status == 200
        refused = await browser.send("GET", "/api/auth/refresh")
        assert (refused.code, refused.header("allow")) == ("method_not_allowed", "OPTIONS, POST")
        bearer = [("authorization", f"Bearer {answer.json()['access_token']}")]
        assert (await send(app, "HEAD", "/api/auth/me", headers=bearer)).status == 200
        session = answer.json()["session"]["id"]
        assert (await send(app, "DELETE", f"/api/auth/sessions/{session}", headers=bearer)).status == 204
        assert (await send(app, "GET", "/auth/me", headers=bearer)).status == 404


@pytest.mark.parametrize("config", [CSRFConfig("s" * 32), CSRFConfig("s" * 32, exclude_from_csrf_key="open")])
async def test_csrf_check_of_litestar(fresh: Keyturn, config: CSRFConfig) -> None:
    """The routes are exempt from the host's check, whose token no login has; the host's own stay guarded."""

    @post("/notes")
    async def write() -> None:
        """A route of the host."""

    app = Litestar([write], plugins=[KeyturnPlugin(fresh)], csrf_config=config)
    async with app.lifespan():
        browser = Browser(app)
        answer = await browser.sign_up()
        assert answer.status == 201
        assert "csrftoken" not in answer.cookies
        assert (await browser.refresh()).status == 200
        assert (await browser.send("GET", "/auth/refresh")).code == "method_not_allowed"
        assert (await browser.send("POST", "/auth/refresh", safe=())).code == "csrf_refused"
        assert (await browser.send("POST", "/notes", safe=())).status == 403


@pytest.mark.parametrize("path", ["/auth/me/", "/auth//me", "//auth/me"])
async def test_path_that_litestar_tidies_up(fresh: Keyturn, path: str) -> None:
    """A path with a slash too many is not found, although Litestar has found it."""
    answer = await send(Litestar([], plugins=[KeyturnPlugin(fresh)]), "GET", path)
    assert answer.code == "not_found"


@pytest.mark.parametrize("operations", [False, True])
async def test_operations(fresh: Keyturn, operations: bool) -> None:
    """Health and readiness are the host's own unless it asks for ours."""
    expected = 200 if operations else 404
    starlette = Starlette(routes=routes(fresh, operations=operations))
    litestar = Litestar([], plugins=[KeyturnPlugin(fresh, operations=operations)])
    for app in (starlette, litestar):
        assert (await send(app, "GET", "/healthz")).status == expected


async def test_node_that_cannot_start(tmp_path: Path) -> None:
    """A host whose node does not start does not start, and lets go of what was opened."""
    node = Keyturn(settings_of(sqlite_url(tmp_path), migrate=False))
    app = Starlette(lifespan=lifespan(node))
    with pytest.raises(Exception, match="database_not_migrated"):
        async with app.router.lifespan_context(app):
            pytest.fail("it started")


def test_openapi_of_litestar(fresh: Keyturn) -> None:
    """Routes, bodies, answers, errors and the security scheme are in the host's document, and nothing supposed."""
    config = OpenAPIConfig(title="Notes", version="1")
    document = Litestar([], plugins=[KeyturnPlugin(fresh)], openapi_config=config).openapi_schema.to_schema()
    login = document["paths"]["/auth/login"]["post"]
    body = login["requestBody"]["content"]["application/json"]["schema"]
    assert (body["required"], body["additionalProperties"]) == (["email", "password"], False)
    assert login["responses"].keys() == {"200", "401", "403", "413", "415", "422", "429", "500", "503"}
    problem = login["responses"]["401"]["content"]["application/problem+json"]["schema"]
    assert problem == {"$ref": "#/components/schemas/KeyturnProblem"}
    assert [each["name"] for each in login["parameters"]] == ["X-Keyturn"]
    assert document["paths"]["/auth/signup"]["post"]["responses"].keys() >= {"201", "409"}
    assert "security" not in login
    me = document["paths"]["/auth/me"]["get"]
    assert me["security"] == [{"KeyturnAccessToken": []}]
    ended = document["paths"]["/auth/sessions/{session_id}"]["delete"]
    assert ended["responses"].keys() == {"204", "401", "404", "500", "503"}
    assert set(document["paths"]["/auth/logout"]) == {"post"}
