"""The routes as Django views: HttpRequest to Request, and Response to HttpResponse.

Owns: the translation to Django, under ASGI and WSGI. Must not decide anything.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Coroutine, Mapping
from http.cookies import Morsel
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.views.decorators.csrf import csrf_exempt

from keyturn.django.hooks import apart
from keyturn.verify.django import translate
from keyturn.web.asgi import NEVER_FOUND, read_request
from keyturn.web.endpoints import Route
from keyturn.web.hosting import by_path, hosted_routes
from keyturn.web.messages import MAX_BODY_BYTES, Request
from keyturn.web.messages import Response as Answer
from keyturn.web.threaded import Threaded, ThreadedNode
from keyturn.web.wsgi import read_environ


def urls(node: Threaded, *, operations: bool = False) -> list[URLPattern]:
    """Return the routes of the contract, for `include`.

    Args:
        node: what answers; it starts with the first request of each process and closes at its end.
        operations: also `/healthz`, `/readyz` and `/metrics`; a project usually has its own.
    """
    threaded = node.threaded
    threaded.context = apart
    return [
        path(
            route.removeprefix("/").replace("{", "<").replace("}", ">"),
            _view(threaded, methods),
            name=f"keyturn_{next(iter(methods.values())).name}",
        )
        for route, methods in by_path(threaded.web, hosted_routes(operations=operations)).items()
    ]


def _view(node: ThreadedNode, methods: Mapping[str, Route]) -> Callable[..., Coroutine[Any, Any, HttpResponse]]:
    """Make the view of one path.

    Why exempt from Django's CSRF check: ours is stricter (`core/csrf.py`: a header, Fetch Metadata and Origin), covers
    the login too, and needs no token in a page. Why exempt from LoginRequiredMiddleware: these routes are the login.
    Why in no transaction of ATOMIC_REQUESTS: Django has none for async views, and the node opens its own.
    """

    async def answer(request: HttpRequest, session_id: str = "") -> HttpResponse:
        timeout = node.web.config.body_timeout
        content = Content(request)
        if isinstance(request, ASGIRequest):
            message = read_request(dict(request.scope), content.receive, timeout, parameter=session_id)
        else:
            message = read_environ(request.META, timeout, source=request, parameter=session_id)
        return _translate(await content.awaited(node, message, methods))

    answer.login_required = False  # type: ignore[attr-defined]
    for alias in connections:
        transaction.non_atomic_requests(using=alias)(answer)
    return csrf_exempt(answer)


class Content:
    """A request as Django has received it: the whole body is here, and Django cancels the view when the client goes.

    It has the two marks that uvicorn sets on its own object, which `keyturn.web.asgi` reads.
    """

    more_body = False

    def __init__(self, request: HttpRequest) -> None:
        self._request = request
        self.disconnected = False

    async def receive(self) -> dict[str, object]:
        """Hand over the body, or one byte more than is ever taken of it."""
        try:
            return {"type": "http.request", "body": self._request.read(MAX_BODY_BYTES + 1)}
        except OSError:
            return {"type": "http.disconnect"}

    async def awaited(self, node: ThreadedNode, message: Request, methods: Mapping[str, Route]) -> Answer:
        """Answer the request, and let nothing of it be judged once nobody waits for it."""
        try:
            # A path that was percent-encoded is none of ours, although Django has found it.
            return await node.respond_async(message, None if message.path == NEVER_FOUND else methods)
        except BaseException:
            self.disconnected = True
            raise


class _Rendered(Morsel[str]):
    """A cookie exactly as `core/cookie.py` has rendered it.

    Why: Django keeps cookies in a dict of their own and writes them again at the end; what matters of ours is in the
    bytes, and nothing on the way may change an attribute.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text
        name, _, value = text.partition(";")[0].partition("=")
        self.set(name, value, value)

    def OutputString(self, attrs: Container[str] | None = None) -> str:  # noqa: N802 - the name is the base class's
        return self._text


def _translate(answer: Answer) -> HttpResponse:
    response = translate(answer)
    for name, value in answer.headers:
        if name == b"set-cookie":
            cookie = _Rendered(value.decode("latin-1"))
            response.cookies[cookie.key] = cookie
    return response
