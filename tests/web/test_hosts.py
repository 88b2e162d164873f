"""Keyturn in somebody's Starlette or Litestar application: where it meets the framework's own ways."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from litestar import Litestar, post
from litestar.config.csrf import CSRFConfig
from litestar.openapi.config import OpenAPIConfig
from starlette.applications import Starlette
from starlette.routing import Mount

from keyturn.litestar import KeyturnPlugin
from keyturn.runtime import Keyturn
from keyturn.starlette import lifespan, routes, token_middleware
from keyturn.tokens import base64url
from tests.attacks.conftest import lighten, settings_of
from tests.attacks.support import Browser, send
from tests.services import sqlite_url

pytestmark = pytest.mark.anyio


@pytest.fixture
def fresh(tmp_path: Path) -> Keyturn:
    """A node that nobody has started."""
    node = Keyturn(settings_of(sqlite_url(tmp_path)))
    lighten(node)
    return node


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
    node = Keyturn(settings_of(sqlite_url(tmp_path), metrics_token=token, ssr_keys=ssr))
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
