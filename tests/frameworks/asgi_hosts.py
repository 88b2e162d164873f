"""Host applications on ASGI: each guards the same routes in its framework's own idiom, with or without a node inside."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Security
from litestar import Litestar, Router, get
from litestar import Request as LitestarRequest
from litestar.datastructures import State
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from keyturn import fastapi as embedded_fastapi
from keyturn import starlette as embedded_starlette
from keyturn.core.model import Principal
from keyturn.litestar import KeyturnPlugin
from keyturn.ports import PrincipalSource
from keyturn.runtime import Keyturn
from keyturn.verify import Requirement
from keyturn.verify.asgi import TokenMiddleware, principal_of
from keyturn.verify.fastapi import TokenAuth
from keyturn.verify.litestar import TokenPlugin
from keyturn.verify.litestar import requires as guard
from keyturn.verify.starlette import requires, token_middleware

# -- plain ASGI

NEEDS = {
    "/notes": Requirement(scopes=("notes",)),
    "/admin": Requirement(scopes=("notes", "admin")),
    "/recent": Requirement(max_age=3600),
    "/strong": Requirement(max_age=300, amr=("otp",)),
}


async def lifespan(receive: Any, send: Any) -> None:
    """Answer for an application that has nothing to start and nothing to close."""
    for phase in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{phase}.complete"})


async def application(scope: Any, _receive: Any, send: Any) -> None:
    """The routes of the host."""
    if scope["path"] == "/open":
        answer: dict[str, object] = {"open": True}
    else:
        answer = {"user": principal_of(scope, NEEDS[scope["path"]]).user_id}
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


def plain_checking(source: PrincipalSource) -> Any:
    """A bare application with the middleware around it."""
    guarded = TokenMiddleware(application, source)

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
        else:
            await guarded(scope, receive, send)

    return serve


def plain(node: Keyturn) -> Any:
    """The node's own application, with a bare one beside it."""
    guarded = TokenMiddleware(application, node)

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        ours = scope["type"] == "http" and (scope["path"] in NEEDS or scope["path"] == "/open")
        await (guarded if ours else node.asgi)(scope, receive, send)

    return serve


# -- FastAPI


def fastapi_routes(auth: TokenAuth) -> APIRouter:
    """The routes of the host."""
    made = APIRouter()

    @made.get("/open")
    async def read_open() -> dict[str, bool]:
        return {"open": True}

    @made.get("/notes")
    async def read_notes(principal: Principal = Security(auth, scopes=["notes"])) -> dict[str, str]:
        return {"user": principal.user_id}

    @made.get("/admin")
    def read_admin(principal: Principal = Security(auth, scopes=["notes", "admin"])) -> dict[str, str]:
        return {"user": principal.user_id}

    recent = auth.step_up(max_age=3600)

    @made.get("/recent")
    async def read_recent(principal: Principal = Depends(recent)) -> dict[str, str]:
        return {"user": principal.user_id}

    strong = auth.step_up(max_age=300, amr=["otp"])

    @made.get("/strong")
    async def read_strong(principal: Principal = Depends(strong)) -> dict[str, str]:
        return {"user": principal.user_id}

    return made


def fastapi_checking(source: PrincipalSource) -> FastAPI:
    """A FastAPI application that only checks tokens."""
    app = FastAPI()
    app.include_router(fastapi_routes(TokenAuth(source)))
    return app


def fastapi(node: Keyturn) -> FastAPI:
    """A FastAPI application with a node inside."""
    app = FastAPI()
    embedded_fastapi.install(app, node)
    app.include_router(fastapi_routes(embedded_fastapi.current_principal))
    return app


# -- Starlette


async def read_open(_request: Request) -> Response:
    """A route for everybody."""
    return JSONResponse({"open": True})


async def read_user(request: Request) -> Response:
    """Answer with who the request acts as."""
    return JSONResponse({"user": request.user.identity})


def read_user_in_a_thread(request: Request) -> Response:
    """Do as `read_user` in a function that Starlette runs in a thread."""
    return JSONResponse({"user": request.user.identity})


STARLETTE_ROUTES = [
    Route("/open", read_open),
    Route("/notes", requires("notes")(read_user)),
    Route("/admin", requires("notes", "admin")(read_user_in_a_thread)),
    Route("/recent", requires(max_age=3600)(read_user)),
    Route("/strong", requires(max_age=300, amr=["otp"])(read_user)),
]


def starlette_checking(source: PrincipalSource) -> Starlette:
    """A Starlette application that only checks tokens."""
    return Starlette(routes=STARLETTE_ROUTES, middleware=[token_middleware(source)])


def starlette(node: Keyturn) -> Starlette:
    """A Starlette application with a node inside."""
    return Starlette(
        routes=[*embedded_starlette.routes(node), *STARLETTE_ROUTES],
        lifespan=embedded_starlette.lifespan(node),
        middleware=[embedded_starlette.token_middleware(node)],
    )


# -- Litestar

Authenticated = LitestarRequest[Principal, object, State]


@get("/open")
async def show_open() -> dict[str, bool]:
    """A route for everybody."""
    return {"open": True}


@get("/notes", guards=[guard("notes")])
async def show_notes(request: Authenticated) -> dict[str, str]:
    """Answer with who the request acts as."""
    return {"user": request.user.user_id}


@get("/admin", guards=[guard("notes", "admin")], sync_to_thread=True)
def show_admin(request: Authenticated) -> dict[str, str]:
    """Do the same in a thread."""
    return {"user": request.user.user_id}


@get("/recent", guards=[guard(max_age=3600)])
async def show_recent(request: Authenticated) -> dict[str, str]:
    """Do the same for a recent sign-in."""
    return {"user": request.user.user_id}


@get("/strong", guards=[guard(max_age=300, amr=["otp"])])
async def show_strong(request: Authenticated) -> dict[str, str]:
    """Do the same for a strong one."""
    return {"user": request.user.user_id}


def litestar_routes() -> Router:
    """The routes of the host."""
    return Router("/", route_handlers=[show_open, show_notes, show_admin, show_recent, show_strong])


def litestar_checking(source: PrincipalSource) -> Litestar:
    """A Litestar application that only checks tokens."""
    return Litestar([litestar_routes()], plugins=[TokenPlugin(source)])


def litestar(node: Keyturn) -> Litestar:
    """A Litestar application with a node inside."""
    return Litestar([litestar_routes()], plugins=[KeyturnPlugin(node)])
