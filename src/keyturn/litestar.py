"""Keyturn inside a Litestar application: the routes, the node's life, and who a request acts as.

    app = Litestar([notes], plugins=[KeyturnPlugin(Keyturn())])

    @get("/notes", guards=[requires("notes")])
    async def notes(request: Request[Principal, object, State]) -> str:
        return request.user.user_id

Owns: the routes in Litestar and what its OpenAPI shows. Must not decide anything. Who a request acts as is found in
`verify/litestar.py`, which also serves applications beside the server.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from litestar import Request, Response
from litestar.config.app import AppConfig
from litestar.enums import HttpMethod
from litestar.exceptions import InternalServerException
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, OpenAPIType, Operation, Parameter, RequestBody, Schema
from litestar.plugins import InitPlugin
from litestar.response.base import ASGIResponse

from keyturn.core.errors import InvalidToken
from keyturn.verify.litestar import SECURITY, TokenPlugin, requires
from keyturn.web.application import WebApplication
from keyturn.web.asgi import Receive, Scope, Send, respond_routed, write_response
from keyturn.web.bodies import KeyturnProblem
from keyturn.web.documentation import DOCUMENTED, Documented
from keyturn.web.endpoints import Route
from keyturn.web.hosting import Node, by_path, hosted_routes, lifespan_of
from keyturn.web.messages import Response as Answer

__all__ = ["SECURITY", "KeyturnPlugin", "requires"]

_PROBLEM_TYPE: Final = "application/problem+json"
_CSRF_HEADER: Final = Parameter(
    "X-Keyturn",
    "header",
    schema=Schema(type=OpenAPIType.STRING, enum=["1"]),
    description="A header that a page of another origin cannot send.",
    required=True,
)


class KeyturnPlugin(InitPlugin):
    """Give an application the routes of the contract, start and close the node with it, and set `connection.user`.

    Args:
        node: starts with the application.
        operations: also `/healthz`, `/readyz` and `/metrics`; an application usually has its own.
    """

    def __init__(self, node: Node, *, operations: bool = False) -> None:
        self._node: Final = node
        self._operations: Final = operations

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Add the routes, the node's life and what `TokenPlugin` adds."""
        application = self._node.web
        # Why exempt from the host's CSRF check: ours is stricter (`core/csrf.py`), covers the login too, and needs no token in a page.
        csrf = app_config.csrf_config
        opt = {"exclude_from_csrf" if csrf is None else csrf.exclude_from_csrf_key: True}
        for path, methods in by_path(application, hosted_routes(operations=self._operations)).items():
            answer = _answering(application, methods)
            # First the methods that are refused, OPTIONS among them: Litestar would add an answer of its own.
            others = [method for method in HttpMethod if method.value not in methods]
            app_config.route_handlers.append(_forward(answer, path, others, include_in_schema=False, opt=opt))
            app_config.route_handlers += [_documented(answer, path, route, opt) for route in methods.values()]
        app_config.lifespan.append(lifespan_of(self._node))
        return TokenPlugin(self._node).on_app_init(app_config)


class _Answer(Response[bytes]):
    """An answer for the hooks of the host, which may add headers, cookies and a background task, and change nothing of ours."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.body, status_code=answer.status)
        self._answer: Final = answer

    def to_asgi_response(self, *_: object, **__: object) -> ASGIResponse:
        """Return what sends it. What the host says of all its answers, such as how long they are kept, is left out."""
        return cast("ASGIResponse", self._send)

    async def _send(self, scope: Scope, _receive: Receive, send: Send) -> None:
        headers = self._answer.headers
        if self.headers:
            ours = {name for name, _ in headers}
            added = [
                (name.lower().encode("latin-1"), str(value).encode("latin-1")) for name, value in self.headers.items()
            ]
            headers.extend(header for header in added if header[0] not in ours)
        headers.extend(added.to_encoded_header() for added in self.cookies)
        await write_response(self._answer, scope, send)
        if self.background is not None:
            await self.background()


_Handler = Callable[[Request[Any, Any, Any]], Awaitable[Response[bytes]]]


def _answering(application: WebApplication, methods: Mapping[str, Route]) -> _Handler:
    """Return what answers the requests for one path, which Litestar has found below whatever path the host has."""

    async def answer(request: Request[Any, Any, Any]) -> Response[bytes]:
        # Litestar has types of its own for what ASGI says of scopes and messages.
        scope, receive = cast("Scope", request.scope), cast("Receive", request.receive)
        stream, gone = request.stream(), InternalServerException
        parameter = request.path_params.get("session_id", "")
        found = await respond_routed(application, methods, scope, receive, stream, gone=gone, parameter=parameter)
        if found is None:
            return Response(b"", status_code=400)  # nobody is there to read it
        return _Answer(found)

    return answer


def _forward(answer: _Handler, path: str, methods: Sequence[HttpMethod], **more: Any) -> HTTPRouteHandler:
    """Return a handler that leaves the whole request to us: body, headers and cookies as they came, and go."""

    # It asks for nothing but the request, so Litestar reads nothing of it.
    async def forward(request: Request[Any, Any, Any]) -> Response[bytes]:
        return await answer(request)

    spelled = path.replace("{session_id}", "{session_id:str}")
    # The status is ours to set; Litestar takes a 204, its own for DELETE, as a promise that nothing is returned. So is the
    # limit of a body: Litestar's own would be an exception in the middle of our reading.
    ours: dict[str, Any] = {"status_code": 200, "request_max_body_size": None, "return_dto": None}
    return HTTPRouteHandler(spelled, http_method=methods, **ours, **more)(forward)


# -- what OpenAPI shows


def _documented(answer: _Handler, path: str, route: Route, opt: Mapping[str, Any]) -> HTTPRouteHandler:
    documented = DOCUMENTED[route.name]
    return _forward(
        answer,
        path,
        [HttpMethod(route.method)],
        opt=opt,
        name=f"keyturn_{route.name}",
        operation_id=f"keyturn_{route.name}",
        operation_class=_operation_of(route, documented),
        summary=documented.summary,
        tags=["keyturn"],
        responses=_responses(documented),
    )


def _responses(documented: Documented) -> dict[int, ResponseSpec]:
    """Document the refusals of a route by status: one entry for all codes that share it."""
    found = {documented.status: ResponseSpec(documented.answer, generate_examples=False, description="Done")}
    for refusal in documented.refusals:
        text = f"`{refusal.code}`: {refusal.title}"
        if refusal.status in found:
            text = f"{found[refusal.status].description}. {text}"
        found[refusal.status] = ResponseSpec(
            KeyturnProblem, generate_examples=False, description=text, media_type=_PROBLEM_TYPE
        )
    return found


@dataclass
class _WrittenSchema(Schema):
    """A schema that stands there as it is: Litestar does not read these bodies, our strict reader does."""

    written: dict[str, Any] = field(default_factory=dict)

    def to_schema(self) -> dict[str, Any]:
        """Return it."""
        return self.written


def _operation_of(route: Route, documented: Documented) -> type[Operation]:
    """Return the description of a route, with what Litestar cannot see and without what it supposes."""
    statuses = {str(status) for status in _responses(documented)}

    @dataclass
    class _Operation(Operation):
        def __post_init__(self) -> None:
            self.responses = {status: each for status, each in (self.responses or {}).items() if status in statuses}
            if route.browser:
                self.parameters = [*(self.parameters or ()), _CSRF_HEADER]
            if InvalidToken in documented.refusals and route.name != "metrics":
                self.security = SECURITY
            if documented.body is not None:
                schema = _WrittenSchema(written=documented.body.model_json_schema())
                content = {"application/json": OpenAPIMediaType(schema=schema)}
                self.request_body = RequestBody(content, required=documented.body_required)

    return _Operation
