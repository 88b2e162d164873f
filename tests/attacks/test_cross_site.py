"""What a page of another site can make a browser send, and what it must not lead to."""

from __future__ import annotations

import re

import pytest

from keyturn.runtime import Keyturn
from keyturn.web.endpoints import ROUTES
from tests.attacks.support import ORIGIN, PARTNER, PASSWORD, Browser, send

pytestmark = pytest.mark.anyio

EVIL = "https://evil.test"
SIBLING = "https://evil.auth.test"
STATE_CHANGES = ["/auth/signup", "/auth/login", "/auth/refresh", "/auth/logout"]
FORMS = [
    ("application/x-www-form-urlencoded", b"email=a%40example.com&password=x"),
    ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="email"\r\n\r\na\r\n--x--'),
    ("text/plain", b'{"email":"a@example.com","password":"x"}'),
    ("text/plain;application/json", b'{"email":"a@example.com","password":"x"}'),
    ("application/json, text/plain", b'{"email":"a@example.com","password":"x"}'),
    ("application/jsonp", b'{"email":"a@example.com","password":"x"}'),
    ("application/json; charset=utf-16", b'{"email":"a@example.com","password":"x"}'),
    ("application/problem+json", b'{"email":"a@example.com","password":"x"}'),
]


def with_cookie(browser: Browser) -> tuple[str, str]:
    """Return the header that the browser adds to whatever page makes the request."""
    return ("cookie", "; ".join(f"{name}={value}" for name, value in browser.jar.items()))


async def unharmed(browser: Browser) -> None:
    """See that the session goes on as if nothing had happened."""
    assert (await browser.me()).status == 200
    assert (await browser.refresh()).status == 200


@pytest.mark.parametrize("path", STATE_CHANGES)
async def test_form_of_another_site(bob: Browser, path: str) -> None:
    """A form can send three content types and no header of ours: refused before its body is read."""
    for content_type, body in FORMS[:3]:
        for site in ("cross-site", "same-site", "none"):
            headers = [with_cookie(bob), ("origin", EVIL), ("sec-fetch-site", site), ("content-type", content_type)]
            answer = await send(bob.application, "POST", path, headers=headers, body=body)
            assert (answer.status, answer.code, answer.cookies) == (403, "csrf_refused", {})
    await unharmed(bob)


@pytest.mark.parametrize("path", STATE_CHANGES)
async def test_body_that_is_not_json_is_not_read_as_json(bob: Browser, path: str) -> None:
    """Even from our own page: JSON in another content type is 415 (FastAPI CVE-2021-32677)."""
    for content_type, body in FORMS:
        answer = await bob.send("POST", path, headers=[("content-type", content_type)], body=body)
        assert (answer.status, answer.code) == (415, "unsupported_media_type"), content_type
    answer = await bob.send("POST", path, body=b'{"email":"a@example.com","password":"x"}')
    assert answer.code == "unsupported_media_type"
    await unharmed(bob)


@pytest.mark.parametrize("path", STATE_CHANGES)
@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([], id="nothing"),
        pytest.param([("x-keyturn", "1")], id="neither Origin nor Fetch Metadata"),
        pytest.param([("origin", ORIGIN), ("sec-fetch-site", "same-origin")], id="no header of ours"),
        pytest.param([("x-keyturn", "0"), ("origin", ORIGIN)], id="header of another value"),
        pytest.param([("x-keyturn", "1"), ("x-keyturn", "1"), ("origin", ORIGIN)], id="header twice"),
        pytest.param([("x-keyturn", "1"), ("origin", "null")], id="Origin null"),
        pytest.param([("x-keyturn", "1"), ("origin", "null"), ("sec-fetch-site", "same-origin")], id="null, same"),
        pytest.param([("x-keyturn", "1"), ("origin", EVIL), ("sec-fetch-site", "same-origin")], id="foreign origin"),
        pytest.param([("x-keyturn", "1"), ("origin", SIBLING), ("sec-fetch-site", "same-site")], id="sibling"),
        pytest.param([("x-keyturn", "1"), ("origin", SIBLING)], id="sibling without metadata"),
        pytest.param([("x-keyturn", "1"), ("sec-fetch-site", "same-site")], id="same-site"),
        pytest.param([("x-keyturn", "1"), ("sec-fetch-site", "cross-site")], id="cross-site"),
        pytest.param([("x-keyturn", "1"), ("sec-fetch-site", "none")], id="typed address"),
        pytest.param([("x-keyturn", "1"), ("origin", "http://auth.test")], id="http"),
        pytest.param([("x-keyturn", "1"), ("origin", ORIGIN + ".evil.test")], id="suffix"),
        pytest.param([("x-keyturn", "1"), ("origin", "https://evilauth.test")], id="prefix"),
        pytest.param([("x-keyturn", "1"), ("origin", ORIGIN + ":8443")], id="port"),
        pytest.param([("x-keyturn", "1"), ("origin", ORIGIN + "/")], id="slash"),
        pytest.param([("x-keyturn", "1"), ("origin", f"{EVIL} {ORIGIN}")], id="list"),
        pytest.param([("x-keyturn", "1"), ("origin", ORIGIN), ("origin", EVIL)], id="two origins"),
        pytest.param([("x-keyturn", "1"), ("origin", "*")], id="star"),
        pytest.param([("x-keyturn", "1"), ("origin", "")], id="empty"),
        pytest.param([("x-keyturn", "1"), ("origin", EVIL), ("referer", ORIGIN + "/")], id="referer"),
        pytest.param([("x-keyturn", "1"), ("origin", EVIL), ("host", "evil.test")], id="host of the attacker"),
    ],
)
async def test_request_of_another_origin(bob: Browser, path: str, headers: list[tuple[str, str]]) -> None:
    """Each of the three locks refuses by itself, sign-up and login included; no cookie is touched."""
    answer = await send(bob.application, "POST", path, headers=[with_cookie(bob), *headers])
    assert (answer.status, answer.code, answer.cookies) == (403, "csrf_refused", {})
    if path == STATE_CHANGES[-1]:
        await unharmed(bob)


async def test_login_csrf_signs_nobody_in(sqlite_node: Keyturn, bob: Browser) -> None:
    """A foreign page with the attacker's right password sets no cookie in the victim's browser."""
    victim = Browser(sqlite_node.asgi, email=bob.email)
    foreign = (("x-keyturn", "1"), ("origin", EVIL), ("sec-fetch-site", "cross-site"))
    answer = await victim.send("POST", "/auth/login", {"email": bob.email, "password": PASSWORD}, safe=foreign)
    assert answer.code == "csrf_refused"
    assert victim.jar == {}


@pytest.mark.parametrize("route", [route for route in ROUTES if route.method != "GET"], ids=lambda route: route.name)
async def test_get_and_head_on_state_changes(bob: Browser, route: object) -> None:
    """Nothing changes by a link or an image: 405 with the methods that there are."""
    path = "/auth" + getattr(route, "path", "").replace("{session_id}", bob.session_id)
    for method in ("GET", "HEAD", "PUT", "PATCH", "TRACE", "CONNECT", "get", "post"):
        answer = await bob.send(method, path, bearer=True)
        if path == "/auth/sessions" and method in {"GET", "HEAD"}:
            assert answer.status == 200
            continue
        assert answer.status == 405
        assert answer.header("allow")
        assert answer.cookies == {}
    await unharmed(bob)


@pytest.mark.parametrize("name", ["x-http-method-override", "x-http-method", "x-method-override", "_method"])
async def test_method_override(bob: Browser, name: str) -> None:
    """No header and no parameter makes a POST of a GET, or a DELETE of a POST."""
    for method, path in (("GET", "/auth/logout"), ("POST", f"/auth/sessions/{bob.session_id}"), ("GET", "/auth/me")):
        answer = await bob.send(
            method, path, headers=[(name, "POST"), (name, "DELETE")], bearer=True, query=b"_method=DELETE"
        )
        assert answer.status == (200 if path == "/auth/me" else 405)
    await unharmed(bob)


@pytest.mark.parametrize("origin", [EVIL, "null", SIBLING, "https://app.test.evil.test", "*", "http://app.test", ""])
@pytest.mark.parametrize("path", ["/auth/me", "/auth/refresh", "/auth/sessions", "/.well-known/jwks.json", "/nothing"])
async def test_cors_for_a_foreign_origin(bob: Browser, path: str, origin: str) -> None:
    """No foreign origin is reflected, neither in an answer nor in a preflight, and there is no wildcard."""
    preflight = [("origin", origin), ("access-control-request-method", "POST")]
    preflight += [("access-control-request-headers", "x-keyturn, content-type")]
    for method in ("GET", "POST", "OPTIONS"):
        answer = await send(bob.application, method, path, headers=preflight)
        assert not [name for name, _ in answer.headers if name.startswith(b"access-control-")]
        assert answer.header("vary") == "Origin"


async def test_cors_for_a_configured_origin(bob: Browser) -> None:
    """A configured origin is named exactly, never by a wildcard, with `Vary: Origin`."""
    preflight = [("origin", PARTNER), ("access-control-request-method", "POST")]
    answer = await send(bob.application, "OPTIONS", "/auth/refresh", headers=preflight)
    assert answer.header("access-control-allow-origin") == PARTNER
    assert answer.header("access-control-allow-credentials") == "true"
    assert answer.header("vary") == "Origin"
    assert "*" not in answer.header("access-control-allow-headers")
    assert "GET" not in answer.header("access-control-allow-methods")


async def test_framing_sniffing_and_embedding(sqlite_node: Keyturn, bob: Browser) -> None:
    """No answer of any kind can be framed, sniffed or embedded across origins, leaks its address, or redirects."""
    everything = [await bob.send("GET", f"/auth{path}", bearer=True) for path in ("/me", "/sessions", "/nothing")]
    everything += [await bob.send("POST", f"/auth{path}", json=[1]) for path in ("/login", "/refresh", "/logout")]
    everything += [await bob.send("GET", path) for path in ("/healthz", "/readyz", "/metrics", "/")]
    everything.append(await send(sqlite_node.asgi, "POST", "/auth/refresh"))
    for answer in everything:
        assert answer.header("x-frame-options") == "DENY"
        assert answer.header("content-security-policy") == "default-src 'none'; frame-ancestors 'none'"
        assert answer.header("x-content-type-options") == "nosniff"
        assert answer.header("referrer-policy") == "no-referrer"
        # Nobody is sent anywhere.
        assert not answer.values("location")
        assert answer.status not in range(300, 400)
        assert answer.header("cross-origin-resource-policy") == "same-origin"
        assert re.fullmatch(r"[A-Za-z0-9._-]{8,64}", answer.header("x-request-id"))
