"""Keyturn in somebody's FastAPI application."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Body, Depends, FastAPI, HTTPException, Request, Security, WebSocket
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from fastapi.security import SecurityScopes
from pydantic import BaseModel

from keyturn.core.model import Principal, SessionId
from keyturn.fastapi import (
    CurrentPrincipal,
    PrincipalRefused,
    current_principal,
    install,
    openapi_document,
    router,
)
from keyturn.runtime import Keyturn
from keyturn.settings import Settings
from tests.web.conftest import BROWSER, ORIGIN, PARTNER, PASSWORD, Browser

pytestmark = pytest.mark.anyio

notes = APIRouter()


class UserOut(BaseModel):
    """A model of the host, called as FastAPI's tutorial calls one."""

    mine: int


class Held(BaseModel):
    """A model in which the host has a principal."""

    principal: Principal


@notes.get("/notes")
async def read_notes(principal: CurrentPrincipal) -> dict[str, str]:
    """A route for anybody signed in."""
    return {"user": principal.user_id}


@notes.get("/admin")
async def read_admin(principal: Annotated[Principal, Security(current_principal, scopes=["admin", "notes"])]) -> str:
    """A route for a scope that few have."""
    return principal.user_id


async def whoever(request: Request) -> Principal | None:
    """A dependency of the host for routes that are for everybody."""
    given = "authorization" in request.headers
    return await current_principal(request, SecurityScopes(), None) if given else None


def host_of(node: Keyturn) -> FastAPI:
    """Make a host application that registers nothing but routes."""
    app = FastAPI()
    app.include_router(notes)
    app.include_router(router(node))
    return app


@pytest.fixture
def host(node: Keyturn) -> FastAPI:
    """The host application."""
    return host_of(node)


@pytest.fixture
async def guest(host: FastAPI) -> AsyncIterator[Browser]:
    """A browser at the host application."""
    async with Browser(host) as made:
        yield made


async def test_principal_of_a_request(guest: Browser) -> None:
    """A route that asks for a principal has one."""
    signed_in = await guest.sign_up()
    answer = await guest.get("/notes", headers=guest.bearer)
    assert (answer.status_code, answer.json()) == (200, {"user": signed_in.json()["user"]["id"]})


@pytest.mark.parametrize("value", [None, "", "Bearer", "Bearer x", "Basic YTpi", "Bearer a b"])
async def test_request_without_principal(guest: Browser, value: str | None) -> None:
    """Anybody else gets the problem document, although the host has registered no handler."""
    answer = await guest.get("/notes", headers={} if value is None else {"authorization": value})
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert answer.headers["cache-control"] == "private, no-store"
    assert answer.json()["code"] == "invalid_token"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


async def test_refusals_in_the_log(guest: Browser, caplog: pytest.LogCaptureFixture) -> None:
    """Why a request was refused is in the log alone: of our routes with the route and the address, of the host's without."""
    address = guest.headers["x-forwarded-for"]
    with caplog.at_level("INFO", "keyturn"):
        for path in ("/auth/me", "/notes"):
            answer = await guest.get(path, headers={"authorization": "Basic YTpi", "x-request-id": "request-1234"})
            assert "authorization_header" not in answer.text
    ours, hosts = (vars(record) for record in caplog.records if record.message.startswith("refused"))
    for entry in (ours, hosts):
        assert (entry["code"], entry["status"], entry["levelname"]) == ("invalid_token", 401, "INFO")
        assert (entry["why"], entry["request_id"]) == ("authorization_header", "request-1234")
        assert entry["message"] == "refused: invalid_token (authorization_header)"
    assert (ours["route"], ours["ip"]) == ("me", address)
    assert "route" not in hosts


async def test_request_with_two_tokens(guest: Browser) -> None:
    """Two Authorization headers are refused in the host's routes too."""
    await guest.sign_up()
    headers = [("authorization", f"Bearer {guest.token}")] * 2
    assert (await guest.get("/notes", headers=headers)).status_code == 401


@pytest.mark.parametrize(("name", "status"), [("admin", 200), ("ada", 403)])
async def test_scopes_of_a_route(guest: Browser, name: str, status: int) -> None:
    """A missing scope is a 403 that names what is needed; the scopes come from the application's claims hook."""
    await guest.sign_up(name=name)
    answer = await guest.get("/admin", headers=guest.bearer)
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["code"] == "forbidden"
        assert answer.headers["www-authenticate"] == 'Bearer error="insufficient_scope", scope="admin notes"'


@pytest.mark.parametrize(("name", "first"), [("admin", "websocket.accept"), ("Ada", "websocket.close")])
async def test_websocket(node: Keyturn, caplog: pytest.LogCaptureFixture, name: str, first: str) -> None:
    """A guarded WebSocket is accepted for who may come in, and closed before that for everybody else."""
    app = host_of(node)

    @app.websocket("/talk")
    async def talk(
        websocket: WebSocket, principal: Annotated[Principal, Security(current_principal, scopes=["admin"])]
    ) -> None:
        await websocket.accept()
        await websocket.send_text(principal.user_id)

    async with Browser(app) as guest:
        signed_in = await guest.sign_up(name=name)
        headers = [(header.encode(), value.encode()) for header, value in guest.bearer.items()]
    sent: list[Any] = []

    async def take(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    caplog.clear()
    caplog.set_level("INFO")
    scope = {"type": "websocket", "path": "/talk", "query_string": b"", "headers": headers, "subprotocols": []}
    await app(scope, receive, take)
    assert sent[0]["type"] == first
    if name == "admin":
        assert sent[1]["text"] == signed_in.json()["user"]["id"]
    else:
        assert (sent[0]["code"], sent[0]["reason"]) == (1008, "forbidden")
        assert [record.msg for record in caplog.records if "code" in vars(record)] == ["refused: forbidden"]


async def test_route_for_everybody(node: Keyturn) -> None:
    """A host asks by itself where a token may be missing; a bad one is refused there as everywhere."""
    app = host_of(node)

    @app.get("/front")
    async def front(principal: Annotated[Principal | None, Depends(whoever)]) -> str | None:
        return None if principal is None else principal.user_id

    async with Browser(app) as guest:
        signed_in = await guest.sign_up()
        assert (await guest.get("/front")).json() is None
        assert (await guest.get("/front", headers=guest.bearer)).json() == signed_in.json()["user"]["id"]
        assert (await guest.get("/front", headers={"authorization": "Bearer x"})).json()["code"] == "invalid_token"


async def test_principal_that_a_body_holds(node: Keyturn) -> None:
    """Where a host has declared no dependency, but what FastAPI reads from the body, nobody becomes who they write that they are."""
    app = host_of(node)

    @app.post("/optional")
    async def optional(principal: CurrentPrincipal | None = None) -> str | None:
        return principal and principal.user_id

    @app.post("/bare")
    async def bare(principal: Annotated[Principal, Body()]) -> str:
        return principal.user_id

    body: dict[str, object] = {"user_id": "admin", "session_id": "", "token_id": "", "scopes": ["admin"]}
    body |= {"amr": ["pwd"], "authenticated_at": 0, "expires_at": 4e9, "claims": {}}
    async with Browser(app) as guest:
        for path in ("/optional", "/bare"):
            for written in (body, list(body.values())):
                assert (await guest.post(path, json=written)).status_code == 422


def test_principal_in_a_model_of_the_host() -> None:
    """A host may hand one on in a model of its own, as it is."""
    ada = Principal("ada", SessionId(bytes(16)), "token", frozenset(), ("pwd",), 0.0, 60.0, {})
    assert Held(principal=ada).principal is ada


async def test_handler_of_the_host_goes_first(node: Keyturn) -> None:
    """A host that answers HTTP errors in its own way answers these too, with our status and headers."""
    app = host_of(node)

    @app.exception_handler(401)
    async def mine(_request: Request, fault: HTTPException) -> JSONResponse:
        return JSONResponse({"mine": fault.detail}, fault.status_code, fault.headers)

    async with Browser(app) as guest:
        answer = await guest.get("/notes")
    assert answer.status_code == 401
    assert answer.json() == {"mine": "The access token is not valid"}
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert answer.headers["content-type"] == "application/json"


async def test_handler_of_the_host_from_before(node: Keyturn) -> None:
    """A host that answers refusals in its own way does so also where it says it before it gets the routes."""

    async def mine(_request: Request, _fault: Exception) -> JSONResponse:
        return JSONResponse({"mine": True}, 401)

    app = FastAPI(exception_handlers={PrincipalRefused: mine})
    app.include_router(notes)
    install(app, node)
    async with Browser(app) as guest:
        assert (await guest.get("/notes")).json() == {"mine": True}


@pytest.mark.parametrize("guarded", ["router", "application"])
async def test_dependency_of_many_routes(node: Keyturn, guarded: str) -> None:
    """A router is guarded as a whole; a dependency of the whole application guards the login, too."""
    mine = [Security(current_principal)]
    app = FastAPI(dependencies=mine if guarded == "application" else [])
    inner = APIRouter(dependencies=mine)
    inner.add_api_route("/inner", lambda: "in")
    app.include_router(inner)
    install(app, node)
    async with Browser(app) as guest:
        assert (await guest.get("/inner")).status_code == 401
        assert (await guest.sign_up()).status_code == (201 if guarded == "router" else 401)


async def test_mounted_application(node: Keyturn) -> None:
    """An application below finds the Keyturn that was installed in it, and says what is missing without one."""
    inner = FastAPI()
    inner.include_router(notes)
    outer = FastAPI()
    install(outer, node)
    outer.mount("/inner", inner)
    async with Browser(outer) as guest:
        await guest.sign_up()
        assert (await guest.get("/inner/notes", headers=guest.bearer)).status_code == 500
        for it in (node, node.web, outer.state.keyturn):
            inner.state.keyturn = it
            assert (await guest.get("/inner/notes", headers=guest.bearer)).status_code == 200
        assert (await guest.get("/inner/notes")).json()["code"] == "invalid_token"


async def test_cors_of_the_host(node: Keyturn) -> None:
    """The host's middleware and ours name an origin once; it answers our preflights, by what the guide allows."""
    guide = (Path(__file__).parents[2] / "client" / "README.md").read_text(encoding="utf-8")
    allowed = guide.partition("allow credentials, the methods")[2].partition("and to expose")[0]
    methods, headers = (re.findall(r"`([\w-]+)`", part) for part in allowed.split("and the headers"))
    app = FastAPI()
    install(app, node)
    app.add_middleware(
        CORSMiddleware, allow_origins=[PARTNER], allow_credentials=True, allow_methods=methods, allow_headers=headers
    )
    async with Browser(app) as guest:
        guest.headers.update({"origin": PARTNER, "sec-fetch-site": "same-site"})
        asked = "authorization,content-type,x-keyturn"
        wanted = {"access-control-request-method": "POST", "access-control-request-headers": asked}
        assert (await guest.options("/auth/login", headers=wanted)).status_code == 200
        answer = await guest.sign_up()
        assert answer.status_code == 201
        assert answer.headers.get_list("access-control-allow-origin") == [PARTNER]


async def test_prefix_of_the_host(node: Keyturn) -> None:
    """The routes work below a prefix."""
    app = FastAPI()
    app.include_router(router(node), prefix="/api")
    async with Browser(app) as guest:
        body = {"email": guest.email, "password": PASSWORD}
        assert (await guest.post("/api/auth/signup", json=body)).status_code == 201
        assert (await guest.post("/api/auth/refresh")).status_code == 200
        assert (await guest.get("/api/auth/refresh")).status_code == 405
        assert (await guest.post("/auth/refresh")).status_code == 404


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT"])
async def test_encoded_path(guest: Browser, method: str) -> None:
    """A path spelled in another way is not found, whatever the method."""
    await guest.sign_up()
    assert (await guest.request(method, "/auth/%6de", headers=guest.bearer)).status_code == 404


async def test_operations_stay_with_the_host(guest: Browser) -> None:
    """Health, readiness and metrics are the host's own unless it asks for ours."""
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await guest.get(path)).status_code == 404
    assert (await guest.get("/.well-known/jwks.json")).status_code == 200


async def test_address_of_a_route(node: Keyturn) -> None:
    """Names of routes lead where they should: all of ours begin with our own, and the host may use every other."""
    app = FastAPI()
    install(app, node)
    app.add_api_route("/here", lambda: None, name="answer")
    assert app.url_path_for("answer") == "/here"
    assert app.url_path_for("keyturn_refresh") == "/auth/refresh"
    names = [getattr(route, "name", "") for route in router(node).routes]
    assert [name for name in names if not name.startswith("keyturn_")] == []


async def test_router_runs_the_node(tmp_path: Path) -> None:
    """Including the router is all a host does: the node starts and closes with the application."""
    settings = Settings.load(env="development", database_url=f"sqlite:///{tmp_path}/k.db", base_url=ORIGIN)
    app = FastAPI()
    app.include_router(router(Keyturn(settings)))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers=BROWSER) as client,
    ):
        answer = await client.post("/auth/signup", json={"email": "ada@example.com", "password": PASSWORD})
        assert answer.status_code == 201


async def test_lifespan_that_needs_the_node(tmp_path: Path) -> None:
    """A host whose own lifespan makes a user runs the node around that, and its router runs it once more."""
    node = Keyturn(Settings.load(env="development", database_url=f"sqlite:///{tmp_path}/keyturn.db", base_url=ORIGIN))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        async with node.lifespan():
            await node.users.create("ada@example.com", None, await node.passwords.hash(PASSWORD))
            yield

    app = FastAPI(lifespan=lifespan)
    install(app, node)
    async with app.router.lifespan_context(app), Browser(app) as browser:
        browser.email = "ada@example.com"
        assert (await browser.log_in()).status_code == 200
        assert (await browser.post("/auth/refresh")).status_code == 200


async def test_node_that_nobody_started(node: Keyturn, guest: Browser) -> None:
    """Where no lifespan runs, good tokens and the key set are a fault for now: nobody is signed out, no cache keeps it."""
    await guest.sign_up()
    idle = Keyturn(node.settings)
    app = FastAPI()
    app.include_router(notes)
    app.include_router(router(idle, operations=True))
    async with Browser(app) as other:
        for path in ("/notes", "/auth/me", "/.well-known/jwks.json", "/readyz"):
            answer = await other.get(path, headers=guest.bearer)
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable"), path
            assert answer.headers["cache-control"] == "private, no-store"
            assert answer.headers["retry-after"] == "1"
        assert (await other.get("/notes")).json()["code"] == "invalid_token"
        assert (await other.get("/healthz")).status_code == 200
    await idle.close()


# -- what the host's OpenAPI shows


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return every operation of ours by its id."""
    return {
        operation["operationId"]: operation
        for methods in document["paths"].values()
        for operation in methods.values()
        if operation["operationId"].startswith("keyturn_")
    }


async def test_openapi_of_the_host(host: FastAPI) -> None:
    """Routes, bodies, answers, errors and security schemes are in the host's document."""
    document = host.openapi()
    found = operations(document)
    assert found.keys() == {
        f"keyturn_{name}"
        for name in (
            *("sign_up", "log_in", "refresh", "log_out", "me", "list_sessions", "end_session", "end_other_sessions"),
            *("change_password", "render", "jwks"),
        )
    }
    login = found["keyturn_log_in"]
    body = login["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["email", "password"]
    assert body["additionalProperties"] is False
    answer = login["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer == {"$ref": "#/components/schemas/KeyturnSignedIn"}
    for status in ("401", "403", "413", "415", "422", "429", "503"):
        problem = login["responses"][status]["content"]["application/problem+json"]["schema"]
        assert problem == {"$ref": "#/components/schemas/KeyturnProblem"}
    assert found["keyturn_me"]["security"] == [{"KeyturnAccessToken": []}]
    assert found["keyturn_refresh"]["security"] == [{"KeyturnRefreshCookie": []}]
    assert "security" not in login
    # To the letter as in spec/openapi.json, with no word of ours to ourselves.
    assert found.items() <= operations(openapi_document()).items()


async def test_openapi_of_a_guarded_route(host: FastAPI) -> None:
    """A host's own route shows that it needs an access token, and which scopes."""
    paths = host.openapi()["paths"]
    assert paths["/notes"]["get"]["security"] == [{"KeyturnAccessToken": []}]
    assert paths["/admin"]["get"]["security"] == [{"KeyturnAccessToken": ["admin", "notes"]}]


async def test_openapi_with_a_model_of_the_host(node: Keyturn) -> None:
    """The host's models keep their names, whatever they are called: all of ours begin with our own."""
    app = host_of(node)

    @app.get("/mine")
    async def mine() -> UserOut:
        return UserOut(mine=1)

    ours = openapi_document()["components"]["schemas"].keys()
    assert app.openapi()["components"]["schemas"].keys() - ours == {"UserOut"}
    assert [name for name in ours if not name.startswith("Keyturn")] == []
