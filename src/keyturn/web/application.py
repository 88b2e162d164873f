"""Requests to endpoints: routing, the CSRF verdict, CORS, faults, and the headers on every answer.

Owns: what is true of all routes. Must not hold: what a route does (`endpoints.py`), sockets (`asgi.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from time import perf_counter
from typing import Any, Final, NoReturn

from keyturn.background import to_its_end
from keyturn.core import csrf
from keyturn.core.errors import (
    CsrfRefused,
    Internal,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    Refused,
)
from keyturn.core.events import Event, EventType
from keyturn.sinks import tell
from keyturn.web import answers
from keyturn.web.config import WebConfig
from keyturn.web.endpoints import ROUTES, Call, Route, Services
from keyturn.web.messages import BodyTooSlow, ClientGone, Header, Request, Response, text_of
from keyturn.wire import log_refusal

_logger = logging.getLogger(__name__)

Observe = Callable[[str, int, float], None]
"""(route name, status, seconds) -> None; for metrics."""

END_TIME: Final = 20.0
"""Seconds that the end of a node waits for a request: a database that hangs has been given up by then."""
_PREFLIGHT_HEADERS: Final = b"authorization, content-type, %s, x-request-id" % csrf.HEADER
_EXPOSED_HEADERS: Final = b"retry-after, www-authenticate, x-request-id"


class WebApplication:
    """Answer requests over HTTP values.

    Args:
        services: what the endpoints call.
        config: addresses, origins, limits, keys.
        observe: is told of every answer of a route, and not of a path or a method that there is not.
        to_the_end: a request that the host cancels goes on to its end all the same, without an answer.
            Why: some servers cancel a request whose client has gone, and a host may have a timeout. Between the commit
            and the sinks that would keep an event from the application: that somebody has used a stolen token, say. It
            takes a task for each request, so it is for those whose sinks would miss something.
    """

    def __init__(
        self, services: Services, config: WebConfig, *, observe: Observe | None = None, to_the_end: bool = False
    ) -> None:
        self.services: Final = services
        self.config: Final = config
        self._observe: Final = observe
        self._to_the_end: Final = to_the_end
        self._under_way: Final[set[asyncio.Future[Any]]] = set()
        self._always_trusted: Final = config.trusted_origins
        self._exact: Final[dict[str, dict[str, Route]]] = {}
        self._below: Final[dict[str, dict[str, Route]]] = {}
        for route in ROUTES:
            path, brace, _ = route.path_below(config.base_path).partition("{")
            table = self._below if brace else self._exact
            table.setdefault(path, {})[route.method] = route

    def respond(self, request: Request) -> Awaitable[Response]:
        """Answer any request. Raises, when awaited: ClientGone, and nothing else but cancellation.

        Why no coroutine, here and in the next two: they would have nothing to wait for but the next one.
        """
        methods = self.methods_at(request)
        if methods is None:
            return _ready(self.refuse(NotFound(), request))
        return self.respond_at(methods, request)

    def respond_at(self, methods: Mapping[str, Route], request: Request) -> Awaitable[Response]:
        """Answer a request for a path that has these methods."""
        route = methods.get("GET" if request.method == "HEAD" else request.method)
        if route is None:
            return _ready(self._other_method(request, methods))
        return self.run(route, request)

    def run(self, route: Route, request: Request) -> Awaitable[Response]:
        """Answer a request that has been routed."""
        work = self._run(route, request)
        return to_its_end(work, self._under_way) if self._to_the_end else work

    def refuse(self, refused: Refused, request: Request) -> Response:
        """Answer a request that comes to no route; with what is true of every answer, for a page of another origin and for `HEAD`."""
        return self._finish(answers.problem(refused, request.id), request)

    async def finish(self, patience: float = END_TIME) -> None:
        """Wait for the requests under way, also those that their host has cancelled; cancel what does not end.

        Args:
            patience: seconds.
        """
        until = perf_counter() + patience
        while self._under_way and (left := until - perf_counter()) > 0:
            await asyncio.wait(self._under_way, timeout=left)
        if self._under_way:
            _logger.error("requests do not end, and are given up: a sink, a claims hook or the user directory hangs")
            for request in self._under_way:
                request.cancel()
            await asyncio.wait(self._under_way, timeout=1.0)

    async def _run(self, route: Route, request: Request) -> Response:
        started = perf_counter()
        try:
            if route.browser:
                verdict = self._verdict(request)
                if not verdict.allowed:
                    await self._refuse_foreign(request, verdict)
                # Why: it could sign somebody up, and then not in.
                self.services.ensure_started()
            response = await route.endpoint(Call(request, self.services, self.config))
        except ClientGone:
            raise
        except Refused as refused:
            response = self._refuse(refused, request, route)
        except Exception:
            # Logged here, once; the caller learns the request id and nothing else.  Spec: ASVS 5.0 16.5.1.
            _logger.exception("internal error", extra={"route": route.name, "request_id": request.id})
            response = answers.problem(Internal(), request.id)
        response = self._finish(response, request)
        if self._observe is not None:
            self._observe(route.name, response.status, perf_counter() - started)
        return response

    def _other_method(self, request: Request, methods: Mapping[str, Route]) -> Response:
        """Answer OPTIONS, and refuse every method that the path does not have."""
        names = set(methods) | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())
        allow = ", ".join(sorted(names))
        if request.method != "OPTIONS":
            return self.refuse(MethodNotAllowed(allow), request)
        response = answers.nothing((b"allow", allow.encode("ascii")))
        if request.values(b"access-control-request-method") and self._cross_origin(request):
            response.headers.extend(
                [
                    (b"access-control-allow-methods", ", ".join(sorted(methods)).encode("ascii")),
                    (b"access-control-allow-headers", _PREFLIGHT_HEADERS),
                    (b"access-control-max-age", b"600"),
                ]
            )
        return self._finish(response, request)

    def methods_at(self, request: Request) -> Mapping[str, Route] | None:
        """Return the methods of the request's path, whose parameter the request then holds; None: there is no such path."""
        methods = self._exact.get(request.path)
        if methods is None:
            parent, slash, last = request.path.rpartition("/")
            methods = self._below.get(parent + slash) if last else None
            request.parameter = last
        return methods

    def _verdict(self, request: Request) -> csrf.CsrfVerdict:
        """Judge whether a cookie-authenticated request comes from a page we trust; before anything else of it is read."""
        origin = request.raw(b"origin")
        present = origin is not None or bool(request.values(b"origin"))
        header, site = request.raw(csrf.HEADER), request.raw(b"sec-fetch-site")
        return _verdict_on(header, site, origin, present, self._trusted_origins(request))

    async def _refuse_foreign(self, request: Request, verdict: csrf.CsrfVerdict) -> NoReturn:
        auth = self.services.auth
        data = {"why": verdict.why, "ip": request.client_address(self.config.trusted_proxies)}
        await tell(auth.sinks, Event(EventType.CSRF_REFUSED, auth.clock(), data=data))
        raise CsrfRefused(verdict.why)

    def _trusted_origins(self, request: Request) -> frozenset[str]:
        if self.config.own_origin_from_host and (host := request.only(b"host")) is not None:
            return self._always_trusted | {f"{request.scheme}://{host.lower()}"}
        return self._always_trusted

    def _refuse(self, refused: Refused, request: Request, route: Route) -> Response:
        address = request.client_address(self.config.trusted_proxies)
        log_refusal(_logger, refused, request.id, route=route.name, ip=address)
        response = answers.problem(refused, request.id)
        if refused.clears_cookies and route.browser:
            response.headers.extend(answers.cleared_cookies(self.config.same_site))
        # What is left of a body that was refused is not read: the connection ends with the answer.
        return response._replace(close=isinstance(refused, PayloadTooLarge | BodyTooSlow))

    def _finish(self, response: Response, request: Request) -> Response:
        if self.config.allowed_origins:
            response.headers.extend(self._cors(request))
        response = answers.finish(response, request.id)
        return response._replace(body=b"") if request.method == "HEAD" else response

    def _cross_origin(self, request: Request) -> str | None:
        origin = request.only(b"origin")
        return origin if origin in self.config.allowed_origins else None

    def _cors(self, request: Request) -> list[Header]:
        """Let a configured origin read the answer; say nothing about any other.

        Why exact match and no wildcard: an origin that is reflected unseen may read every user's tokens.
        Spec: OWASP ASVS 5.0 3.4.2.
        """
        headers: list[Header] = [(b"vary", b"Origin")]
        origin = self._cross_origin(request)
        if origin is not None:
            headers += [
                (b"access-control-allow-origin", origin.encode("latin-1")),
                (b"access-control-allow-credentials", b"true"),
                (b"access-control-expose-headers", _EXPOSED_HEADERS),
            ]
        return headers


async def _ready(response: Response) -> Response:
    return response


# The pages that ask are few; how long a header may be, the server limits.
@lru_cache(maxsize=64)
def _verdict_on(
    header: bytes | None, site: bytes | None, origin: bytes | None, present: bool, trusted: frozenset[str]
) -> csrf.CsrfVerdict:
    return csrf.verdict(csrf.CsrfRequest(text_of(header), text_of(site), text_of(origin), present), trusted)
