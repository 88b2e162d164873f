"""One function per route: read the request, call `Auth`, answer.

Owns: the routes, which of them need the CSRF verdict, and what each answers. Must not hold: a framework, the store,
rules about sessions; how answers are spelled (`answers.py`); routing and faults (`application.py`).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import Final, NamedTuple

from keyturn.auth import Auth
from keyturn.core import cookie
from keyturn.core.errors import InvalidRequest, InvalidToken, NotFound, Unavailable
from keyturn.core.model import Contact, Principal, SessionId
from keyturn.devices import describe
from keyturn.exchange import Cookies
from keyturn.ports import DescribeDevice
from keyturn.web import answers, bodies, server_credential
from keyturn.web.config import WebConfig
from keyturn.web.messages import Header, Request, Response, parse_json, readable

_IDLE_SECONDS: Final = re.compile(rb'\{"idle_seconds": ?((?:0|[1-9][0-9]{0,8})(?:\.[0-9]{1,9})?)\}')
"""The refresh body as clients write it; any other spelling goes through the JSON reader."""
_SESSION_ID: Final = re.compile(r"[0-9a-f]{32}")
JWKS_MAX_AGE: Final = 300
"""Seconds; far less than a new key is published before it signs."""
METRICS_TYPE: Final = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the endpoints call.

    Args:
        auth: the use cases.
        jwks: the public signing keys as a JSON document, and its ETag. Raises: Unavailable: none was loaded yet.
        ensure_started: raises Unavailable on a node that nobody has started.
        ready: asks everything the node needs; name -> whether it is in order. Must not raise.
        metrics: everything counted, in Prometheus' text format; None: nothing is counted.
        describe_device: User-Agent -> `Firefox on Windows`.
    """

    auth: Auth
    jwks: Callable[[], tuple[bytes, str]]
    ensure_started: Callable[[], None]
    ready: Callable[[], Awaitable[Mapping[str, bool]]]
    metrics: Callable[[], bytes] | None = None
    describe_device: DescribeDevice = field(default=describe)


class Call(NamedTuple):
    """One request on its way through an endpoint."""

    request: Request
    services: Services
    config: WebConfig

    def contact(self, idle_seconds: float | None = None) -> Contact:
        """Say who is calling."""
        user_agent = self.request.user_agent()
        address = self.request.client_address(self.config.trusted_proxies)
        return Contact(address, user_agent, self.services.describe_device(user_agent), idle_seconds)

    def cookies(self) -> Cookies:
        """Read our cookie of a session."""
        return Cookies(self.request.cookie(cookie.REFRESH), ensure_awaited=self.request.ensure_awaited)

    def cookies_with_device(self) -> Cookies:
        """Read all our cookies: the device counts where a session is opened."""
        return self.cookies()._replace(device=self.request.cookie(cookie.DEVICE))

    def principal(self) -> Principal:
        """Verify the access token. Raises: InvalidToken. Unavailable: no key was loaded yet."""
        return self.services.auth.authenticate(self.request.bearer())


Endpoint = Callable[[Call], Awaitable[Response]]


class Route(NamedTuple):
    """One row of the contract."""

    name: str
    method: str
    path: str
    endpoint: Endpoint
    browser: bool = False
    """Authenticated by cookie or setting one: needs the CSRF verdict, and may clear the cookies."""
    rooted: bool = False
    """True: the path is absolute and not below the base path."""
    asks_nobody: bool = False
    """True: needs nothing of the node, and is answered before it has started."""

    def path_below(self, base_path: str) -> str:
        """Return the path under which it is reached, with its parameter in braces."""
        return self.path if self.rooted else base_path + self.path


# -- with the cookie


async def sign_up(call: Call) -> Response:
    """Create a user and sign them in."""
    if not call.config.signup_open:
        raise NotFound
    body = await call.request.model(bodies.SignUp)
    result = await call.services.auth.sign_up(
        body.email,
        body.password,
        body.name,
        remember=body.remember,
        device_name=body.device_name,
        contact=call.contact(),
        cookies=call.cookies_with_device(),
    )
    return answers.signed_in(result, call.config.same_site, status=201)


async def log_in(call: Call) -> Response:
    """Prove a password and open a session."""
    body = await call.request.model(bodies.LogIn)
    result = await call.services.auth.log_in(
        body.email,
        body.password,
        remember=body.remember,
        device_name=body.device_name,
        contact=call.contact(),
        cookies=call.cookies_with_device(),
    )
    return answers.signed_in(result, call.config.same_site)


async def refresh(call: Call) -> Response:
    """Exchange the refresh cookie for an access token."""
    contact = call.contact(await _idle_seconds(call.request))
    result = await call.services.auth.refresh(call.cookies(), contact)
    return answers.signed_in(result, call.config.same_site)


async def log_out(call: Call) -> Response:
    """End the cookie's session; also with nothing to end, also twice."""
    body = await call.request.model(bodies.LogOut)
    await call.services.auth.log_out(call.cookies(), everywhere=body.everywhere)
    return answers.nothing(*answers.cleared_cookies(call.config.same_site))


async def _idle_seconds(request: Request) -> float | None:
    """Read the one member of a refresh body by hand: this is the route that is called all day."""
    content = await request.body()
    if match := _IDLE_SECONDS.fullmatch(content):
        return float(match[1])
    members = parse_json(content) if content else {}
    if not members:
        return None
    idle = members.pop("idle_seconds", None)
    if members:
        raise InvalidRequest("an unknown member")
    if idle is None:
        return None
    # Exact types: True is no number. What lies between the bounds is finite.
    if type(idle) not in {int, float} or not 0 <= idle <= 1e12:
        raise InvalidRequest("idle_seconds: a number of seconds, 0 to 10^12")
    return float(idle)


# -- with an access token


async def me(call: Call) -> Response:
    """Show who the access token stands for."""
    auth = call.services.auth
    user, session = await auth.me(call.principal())
    return answers.me(user, session, auth.clock())


async def list_sessions(call: Call) -> Response:
    """List the user's live sessions."""
    principal = call.principal()
    listing = await call.services.auth.list_sessions(principal)
    return answers.ok(answers.sessions(listing, principal.session_id))


async def end_session(call: Call) -> Response:
    """End one session of the user's own."""
    principal = call.principal()
    if _SESSION_ID.fullmatch(call.request.parameter) is None:
        raise NotFound
    await call.services.auth.end_session(principal, SessionId(bytes.fromhex(call.request.parameter)))
    return answers.nothing()


async def end_other_sessions(call: Call) -> Response:
    """End all sessions of the user but this one."""
    await call.services.auth.end_other_sessions(call.principal())
    return answers.nothing()


async def change_password(call: Call) -> Response:
    """Change the password; all other sessions end and this one gets a new refresh token."""
    principal = call.principal()
    body = await call.request.model(bodies.ChangePassword)
    renewed = await call.services.auth.change_password(
        principal, body.current_password, body.new_password, call.cookies(), call.contact()
    )
    # What the cookie needs is known by now: the password is changed, and to ask anybody could only make that an error.
    if renewed is None or renewed.refresh_token is None:
        return answers.nothing()
    same_site = call.config.same_site
    return answers.nothing(*answers.refresh_cookies(renewed.refresh_token, renewed.session, renewed.now, same_site))


# -- with a server credential


async def render(call: Call) -> Response:
    """Give a render server a short access token for the cookie it forwards; never a Set-Cookie."""
    request, keys, auth = call.request, call.config.ssr_keys, call.services.auth
    if not keys:
        raise NotFound
    cookies = call.cookies()
    token = cookies.refresh[0] if len(cookies.refresh) == 1 else b""
    content = await request.body()
    signed = server_credential.Signed(request.path, token, content)
    server_credential.check(request.values(b"authorization"), keys, auth.clock(), signed)
    body = await request.model(bodies.Render)
    # The caller is our own server; the person's browser is whom it names. What kind of device that is, nobody asks here.
    contact = Contact(readable(body.ip or ""), readable(body.user_agent or ""), device="")
    return answers.rendered(await auth.render(cookies, contact))


# -- for machines


async def jwks(call: Call) -> Response:
    """Publish the public signing keys."""
    body, etag = call.services.jwks()
    caching: list[Header] = [
        (b"cache-control", b"public, max-age=%d" % JWKS_MAX_AGE),
        (b"etag", etag.encode("ascii")),
    ]
    if _matches(call.request.values(b"if-none-match"), etag.encode("ascii")):
        return Response(304, caching, cacheable=True)
    return Response(200, [answers.JSON_TYPE, *caching], body, cacheable=True)


def _matches(if_none_match: Sequence[bytes], etag: bytes) -> bool:
    """Compare weakly.  Spec: RFC 9110 13.1.2."""
    tags = [tag.strip().removeprefix(b"W/") for value in if_none_match for tag in value.split(b",")]
    return etag.removeprefix(b"W/") in tags or tags == [b"*"]


async def healthz(call: Call) -> Response:
    """Say that the process runs; asks nobody."""
    return answers.ok({"status": "ok"})


async def readyz(call: Call) -> Response:
    """Say whether everything is in order that a refresh needs, so not Redis.  ADR 0042."""
    failing = sorted(name for name, in_order in (await call.services.ready()).items() if not in_order)
    if failing not in ([], ["redis"]):
        raise Unavailable(failing[0], detail="not in order: " + ", ".join(failing))
    return answers.ok({"status": "ready"})


async def metrics(call: Call) -> Response:
    """Show the counters to whoever has the token."""
    token, collect = call.config.metrics_token, call.services.metrics
    if token is None or collect is None:
        raise NotFound
    if not compare_digest(call.request.bearer().encode("ascii"), token.get_secret_value().encode()):
        raise InvalidToken("metrics_token")
    return Response(200, [METRICS_TYPE], collect())


ROUTES: Final = (
    Route("sign_up", "POST", "/signup", sign_up, browser=True),
    Route("log_in", "POST", "/login", log_in, browser=True),
    Route("refresh", "POST", "/refresh", refresh, browser=True),
    Route("log_out", "POST", "/logout", log_out, browser=True),
    Route("me", "GET", "/me", me),
    Route("list_sessions", "GET", "/sessions", list_sessions),
    Route("end_session", "DELETE", "/sessions/{session_id}", end_session),
    Route("end_other_sessions", "DELETE", "/sessions", end_other_sessions),
    Route("change_password", "POST", "/password", change_password),
    Route("render", "POST", "/ssr", render),
    Route("jwks", "GET", "/.well-known/jwks.json", jwks, rooted=True),
    Route("healthz", "GET", "/healthz", healthz, rooted=True, asks_nobody=True),
    Route("readyz", "GET", "/readyz", readyz, rooted=True),
    Route("metrics", "GET", "/metrics", metrics, rooted=True),
)
"""Every route there is; what is not here is a 404."""
