"""Keyturn inside a FastAPI application: the routes, and who the request acts as.

    app = FastAPI()
    app.include_router(router(Keyturn()))

    @app.get("/notes")
    async def notes(principal: CurrentPrincipal): ...

    @app.get("/admin")
    async def admin(principal: Annotated[Principal, Security(current_principal, scopes=["admin"])]): ...

Owns: the routes in FastAPI and what its OpenAPI shows. Must not decide anything. Who a request acts as is found in
`verify/fastapi.py`, which also serves applications beside the server.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, FastAPI, Request, Response, Security
from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.routing import iter_route_contexts
from fastapi.security import APIKeyCookie, APIKeyHeader, HTTPBearer
from starlette.requests import ClientDisconnect

import keyturn
from keyturn.core import cookie
from keyturn.core.model import Principal
from keyturn.verify.fastapi import BEARER, PrincipalRefused, TokenAuth, answer_refusal, translate
from keyturn.verify.guard import Guard
from keyturn.web import server_credential
from keyturn.web.application import WebApplication
from keyturn.web.asgi import end_connection, respond_routed
from keyturn.web.bodies import KeyturnProblem
from keyturn.web.config import WebConfig
from keyturn.web.documentation import DOCUMENTED, Documented
from keyturn.web.endpoints import ROUTES, Route
from keyturn.web.hosting import Node, by_path, hosted_routes, lifespan_of

__all__ = ["CurrentPrincipal", "PrincipalRefused", "current_principal", "install", "router"]

_COOKIE: Final = APIKeyCookie(
    name=cookie.REFRESH.decode(),
    scheme_name="KeyturnRefreshCookie",
    description="The refresh cookie, which only the browser holds.",
    auto_error=False,
)
_METRICS: Final = HTTPBearer(
    scheme_name="KeyturnMetricsToken", description="The token in KEYTURN_METRICS_TOKEN.", auto_error=False
)
_SERVER: Final = APIKeyHeader(
    name="Authorization",
    scheme_name="KeyturnServerCredential",
    description=f"`{server_credential.SCHEME} key=..., time=..., signature=...`, see spec/wire.md.",
    auto_error=False,
)
_PROBLEM_REF: Final = {"$ref": f"#/components/schemas/{KeyturnProblem.__name__}"}
_PROBLEM_TYPE: Final = "application/problem+json"
_CSRF_HEADER: Final[dict[str, Any]] = {
    "name": "X-Keyturn",
    "in": "header",
    "required": True,
    "description": "A header that a page of another origin cannot send.",
    "schema": {"type": "string", "enum": ["1"]},
}
_SESSION_ID: Final[dict[str, Any]] = {
    "name": "session_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
}


class _ProblemResponse(JSONResponse):
    """Makes FastAPI document the refusals of a route without a body of its own under their media type."""

    media_type = _PROBLEM_TYPE


def router(source: WebApplication | Node, *, operations: bool = False) -> APIRouter:
    """Return the routes of the contract, for `include_router`.

    A node is started and closed with the application it is included in.

    Args:
        source: what answers.
        operations: also `/healthz`, `/readyz` and `/metrics`; an application usually has its own.
    """
    application = source if isinstance(source, WebApplication) else source.web
    lifespan = None if isinstance(source, WebApplication) else lifespan_of(source)
    routes = hosted_routes(operations=operations)
    made = describe(application.config, routes, lambda route: _Endpoint(application, route), lifespan=lifespan)
    for path, methods in by_path(application, routes).items():
        answer, name = _other_methods(application, methods), f"keyturn_{next(iter(methods.values())).name}"
        # No method at all is every method to Starlette.
        made.add_route(path, answer, methods=[], name=name, include_in_schema=False)
    return made


def install(app: FastAPI, source: WebApplication | Node, *, operations: bool = False) -> None:
    """Include the routes and make `CurrentPrincipal` find them.

    An application mounted below this one has a state of its own: set its `state.keyturn` to this one's.
    """
    app.include_router(router(source, operations=operations))
    app.state.keyturn = source if isinstance(source, WebApplication) else source.web
    app.exception_handlers.setdefault(PrincipalRefused, answer_refusal)


def describe(
    config: WebConfig,
    routes: list[Route],
    endpoint_of: Callable[[Route], Callable[[Request], Awaitable[Response]]],
    *,
    lifespan: Any = None,
) -> APIRouter:
    """Return the routes with everything OpenAPI says about them."""
    made = APIRouter(tags=["keyturn"], lifespan=lifespan)
    for route in routes:
        documented = DOCUMENTED[route.name]
        made.add_api_route(
            route.path_below(config.base_path),
            endpoint_of(route),
            methods=[route.method],
            name=f"keyturn_{route.name}",
            operation_id=f"keyturn_{route.name}",
            summary=documented.summary,
            status_code=documented.status,
            response_model=documented.answer,
            response_description="Done",
            response_class=_response_class(documented),
            responses=_responses(documented),
            dependencies=[Security(scheme) for scheme in _schemes(route)],
            openapi_extra=_extra(route, documented),
        )
    return made


def openapi_document() -> dict[str, Any]:
    """Return the OpenAPI document of every route under its default path."""
    app = FastAPI(
        title="Keyturn",
        version=keyturn.__version__,
        description="Login sessions with rotating refresh tokens. spec/wire.md says what this document cannot.",
    )
    app.include_router(describe(WebConfig(), list(ROUTES), lambda _: _documented_only))
    return app.openapi()


async def _documented_only(_request: Request) -> Response:
    raise NotImplementedError("this application is a document and serves nothing")


def _response_class(documented: Documented) -> type[Response]:
    if documented.answer is not None:
        return JSONResponse
    return _ProblemResponse if documented.status == 204 else PlainTextResponse


def _responses(documented: Documented) -> dict[int | str, dict[str, Any]]:
    """Document the refusals of a route by status: one entry for all codes that share it."""
    codes: dict[int, list[str]] = {}
    titles: dict[int, list[str]] = {}
    for refusal in documented.refusals:
        codes.setdefault(refusal.status, []).append(refusal.code)
        titles.setdefault(refusal.status, []).append(f"`{refusal.code}`: {refusal.title}")
    found: dict[int | str, dict[str, Any]] = {}
    for status in sorted(codes):
        described: dict[str, Any] = {"description": ". ".join(titles[status])}
        if _response_class(documented) is _ProblemResponse:
            # FastAPI puts the model under the media type of the route's own response class, and into the components.
            described["model"] = KeyturnProblem
        else:
            described["content"] = {_PROBLEM_TYPE: {"schema": _PROBLEM_REF}}
        found[status] = described
    return found


def _schemes(route: Route) -> list[Callable[..., Any]]:
    if route.name in {"sign_up", "log_in"}:
        return []
    if route.browser:
        return [_COOKIE]
    if route.name == "render":
        return [_SERVER]
    if route.name == "metrics":
        return [_METRICS]
    return [] if route.name in {"jwks", "healthz", "readyz"} else [BEARER]


def _extra(route: Route, documented: Documented) -> dict[str, Any]:
    """Describe what FastAPI does not read itself: bodies and headers go past it, to our strict reader."""
    extra: dict[str, Any] = {}
    parameters = [_CSRF_HEADER] if route.browser else []
    if "{session_id}" in route.path:
        parameters.append(_SESSION_ID)
    if parameters:
        extra["parameters"] = parameters
    if route.name == "log_out":
        extra["security"] = [{}]  # besides the cookie: nothing to end is no error
    if documented.body is not None:
        schema = documented.body.model_json_schema()
        content = {"application/json": {"schema": schema}}
        extra["requestBody"] = {"required": documented.body_required, "content": content}
    return extra


# -- requests and answers


# One route as FastAPI calls it. It knows its application, so that `CurrentPrincipal` can find it. This is no docstring,
# because FastAPI would show one as the description of each route.
class _Endpoint:
    def __init__(self, application: WebApplication, route: Route) -> None:
        self.application: Final = application
        self._methods: Final = {route.method: route}

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        return await _answer(self.application, self._methods, request)


def _other_methods(
    application: WebApplication, methods: Mapping[str, Route]
) -> Callable[[Request], Awaitable[Response]]:
    """Answer the methods of a path that are not in its contract, HEAD and OPTIONS among them."""

    async def answer(request: Request) -> Response:
        return await _answer(application, methods, request)

    return answer


async def _answer(application: WebApplication, methods: Mapping[str, Route], request: Request) -> Response:
    parameter = request.path_params.get("session_id", "")
    stream, gone = request.stream(), ClientDisconnect
    answer = await respond_routed(
        application, methods, request.scope, request.receive, stream, gone=gone, parameter=parameter
    )
    if answer is None:
        return Response(status_code=400)  # nobody is there to read it
    end_connection(answer, request.scope)
    return translate(answer)


# -- who the request acts as


def _guard_of(connection: HTTPConnection) -> Guard:
    return Guard(_application_of(connection).services.auth)


current_principal: Final = TokenAuth(_guard_of)
"""Depend on it, with the scopes a route needs; `current_principal.step_up(max_age=300)` asks for a fresh sign-in."""

CurrentPrincipal = Annotated[Principal, Security(current_principal)]
"""Declare a parameter of this type: the route then needs a valid access token."""


def _application_of(connection: HTTPConnection) -> WebApplication:
    """Find the Keyturn of an application: as installed, or among its routes; looked for once."""
    app = connection.app
    found = getattr(app.state, "keyturn", None)
    if found is None:
        endpoints = (context.endpoint for context in iter_route_contexts(app.routes))
        found = next((one.application for one in endpoints if isinstance(one, _Endpoint)), None)
        if found is None:
            raise RuntimeError(
                "this application has no Keyturn: call keyturn.fastapi.install(app, node), or, where it is mounted below "
                "the one that has it, set its state.keyturn = node"
            )
        app.state.keyturn = found
    if not isinstance(found, WebApplication):
        found = app.state.keyturn = getattr(found, "web", None)  # a node's
        if not isinstance(found, WebApplication):
            raise TypeError("app.state.keyturn is not a Keyturn")
    return found
