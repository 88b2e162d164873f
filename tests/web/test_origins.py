"""Requests from other sites: the CSRF verdict where it applies, and CORS for whom it was configured."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from keyturn.core.events import Event, EventType
from keyturn.runtime import Keyturn
from keyturn.web.application import WebApplication
from keyturn.web.asgi import KeyturnASGI
from keyturn.web.config import WebConfig
from tests.web.conftest import ORIGIN, PARTNER, Browser

pytestmark = pytest.mark.anyio

COOKIE_ROUTES = ["/auth/signup", "/auth/login", "/auth/refresh", "/auth/logout"]
EVIL = "https://evil.test"

# (what differs from a request of our own page, whether it passes); None takes a header away.
TABLE: list[tuple[dict[str, str | None], bool]] = [
    ({}, True),
    ({"origin": PARTNER, "sec-fetch-site": "cross-site"}, True),
    ({"sec-fetch-site": None}, True),
    ({"origin": None}, True),
    ({"x-keyturn": None}, False),
    ({"x-keyturn": "0"}, False),
    ({"x-keyturn": ""}, False),
    ({"x-keyturn": "1, 1"}, False),
    ({"origin": EVIL}, False),
    ({"origin": "null"}, False),
    ({"origin": ""}, False),
    ({"origin": "https://auth.test.evil.test"}, False),
    ({"origin": "https://auth.test@evil.test"}, False),
    ({"origin": "https://sub.auth.test"}, False),
    ({"origin": "http://auth.test"}, False),
    ({"origin": "https://auth.test:8443"}, False),
    ({"origin": "https://auth.test/"}, False),
    ({"origin": f"{ORIGIN} {EVIL}"}, False),
    ({"origin": "*"}, False),
    ({"origin": EVIL, "sec-fetch-site": "same-origin"}, False),
    ({"origin": None, "sec-fetch-site": "cross-site"}, False),
    ({"origin": None, "sec-fetch-site": "same-site"}, False),
    ({"origin": None, "sec-fetch-site": "none"}, False),
    ({"origin": None, "sec-fetch-site": None}, False),
]


def headers_with(changes: dict[str, str | None]) -> list[tuple[str, str]]:
    """Make the headers of a page of ours, with changes."""
    whole = {"x-keyturn": "1", "origin": ORIGIN, "sec-fetch-site": "same-origin"} | changes
    return [(name, value) for name, value in whole.items() if value is not None]


@pytest.fixture
async def bare(application: Any) -> Any:
    """A client that sends nothing by itself."""
    transport = httpx.ASGITransport(application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        yield client


@pytest.mark.parametrize(("changes", "passes"), TABLE)
async def test_verdict_on_every_cookie_route(
    bare: httpx.AsyncClient, changes: dict[str, str | None], passes: bool
) -> None:
    """What does not come from a page of ours is refused before anything of it is read, login and sign-up included."""
    for path in COOKIE_ROUTES:
        answer = await bare.post(path, headers=headers_with(changes), content=b"")
        refused = answer.status_code == 403
        assert refused != passes, path
        if refused:
            assert answer.json()["code"] == "csrf_refused"
            assert "set-cookie" not in answer.headers


async def test_two_of_one_header(bare: httpx.AsyncClient) -> None:
    """Two Origin or two custom headers are refused, whichever of them is ours."""
    for double in (("origin", EVIL), ("origin", ORIGIN), ("x-keyturn", "1")):
        answer = await bare.post("/auth/refresh", headers=[*headers_with({}), double])
        assert answer.json()["code"] == "csrf_refused"


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"])
async def test_form_of_another_site(ada: Browser, content_type: str) -> None:
    """A form can send none of what a request of ours must have."""
    ada.headers.clear()
    body = b'{"everywhere":true}'
    sent = {"content-type": content_type, "origin": EVIL, "sec-fetch-site": "cross-site"}
    answer = await ada.post("/auth/logout", content=body, headers=sent)
    assert answer.json()["code"] == "csrf_refused"
    ours = {"x-keyturn": "1", "origin": ORIGIN, "content-type": content_type}
    assert (await ada.post("/auth/logout", content=body, headers=ours)).status_code == 415
    assert (await ada.post("/auth/refresh", headers=headers_with({}))).status_code == 200


async def test_refusal_in_a_log_of_texts(bare: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever's log shows nothing but texts reads there what was missing, which the answer does not say."""
    with caplog.at_level("INFO", "keyturn"):
        answer = await bare.post("/auth/refresh", headers=headers_with({"origin": EVIL}))
    # The test's own client has words of its own, where another test has left a log of everything.
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("keyturn.")]
    assert ours == ["csrf_refused", "refused: csrf_refused (origin not allowed)"]
    assert {name in answer.json()["detail"] for name in ("X-Keyturn", "Origin")} == {True}


async def test_refusal_is_an_event(node: Keyturn, bare: httpx.AsyncClient) -> None:
    """A refused origin reaches the sinks; the answer does not say which check failed."""
    seen: list[Event] = []

    class Sink:
        async def emit(self, event: Event) -> None:
            seen.append(event)

    services = node.services
    object.__setattr__(node.auth, "sinks", (*node.auth.sinks, Sink()))
    try:
        answer = await bare.post("/auth/refresh", headers=headers_with({"origin": EVIL}))
    finally:
        object.__setattr__(node.auth, "sinks", node.auth.sinks[:-1])
    assert services.auth is node.auth
    assert [event.type for event in seen] == [EventType.CSRF_REFUSED]
    assert seen[0].data["why"] == "origin not allowed"
    assert "origin not allowed" not in answer.text


# -- CORS


async def test_cors_for_a_configured_origin(ada: Browser) -> None:
    """A configured origin reads the answer, with credentials, errors included."""
    for path, headers in (("/auth/me", ada.bearer), ("/auth/me", {})):
        answer = await ada.get(path, headers={**headers, "origin": PARTNER})
        assert answer.headers["access-control-allow-origin"] == PARTNER
        assert answer.headers["access-control-allow-credentials"] == "true"
        assert answer.headers["access-control-expose-headers"] == "retry-after, www-authenticate, x-request-id"
        assert answer.headers["vary"] == "Origin"


async def test_cors_for_nobody(browser: Browser) -> None:
    """Where nobody's origin is named a cache is told all the same: it may keep the keys for whoever asks next."""
    for path in ("/.well-known/jwks.json", "/auth/me", "/healthz"):
        assert (await browser.get(path)).headers["vary"] == "Origin"


async def test_cors_for_two_origins(bare: httpx.AsyncClient) -> None:
    """Neither is told anything, whichever stands first."""
    for first, second in ((PARTNER, EVIL), (EVIL, PARTNER), (PARTNER, PARTNER)):
        answer = await bare.get("/auth/me", headers=[("origin", first), ("origin", second)])
        assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    "origin", [EVIL, "null", "*", "https://app.test.evil.test", "https://app.test:444", "", ORIGIN]
)
async def test_cors_for_anybody_else(ada: Browser, origin: str) -> None:
    """No other origin is told anything; a cache is told that the answer depends on it."""
    answer = await ada.get("/auth/me", headers={**ada.bearer, "origin": origin})
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert answer.headers["vary"] == "Origin"


async def test_preflight(browser: Browser) -> None:
    """A preflight of a configured origin learns the methods of the path; any other learns nothing about CORS."""
    asked = {"origin": PARTNER, "access-control-request-method": "POST", "access-control-request-headers": "x-keyturn"}
    answer = await browser.options("/auth/refresh", headers=asked)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == PARTNER
    assert answer.headers["access-control-allow-methods"] == "POST"
    allowed = answer.headers["access-control-allow-headers"]
    assert set(allowed.split(", ")) == {"authorization", "content-type", "x-keyturn", "x-request-id"}
    plain = await browser.options("/auth/refresh", headers={"origin": PARTNER})
    assert "access-control-allow-methods" not in plain.headers
    refused = await browser.options("/auth/refresh", headers={**asked, "origin": EVIL})
    assert refused.status_code == 204
    assert not [name for name in refused.headers if name.startswith("access-control-")]


async def test_cors_by_default(node: Keyturn) -> None:
    """Without configured origins there is no CORS at all."""
    transport = httpx.ASGITransport(KeyturnASGI(WebApplication(node.services, WebConfig())))
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        answer = await client.get("/healthz", headers={"origin": ORIGIN})
    assert "vary" not in answer.headers
    assert not [name for name in answer.headers if name.startswith("access-control-")]


# -- what counts as our own origin


@pytest.mark.parametrize(
    ("config", "allowed"),
    [
        (WebConfig(own_origin_from_host=True), True),
        (WebConfig(), False),
        (WebConfig(own_origins=frozenset({"https://other.test"})), False),
    ],
)
async def test_own_origin_from_host(node: Keyturn, config: WebConfig, allowed: bool) -> None:
    """Only where it was switched on (development) does the Host of a request make its origin ours."""
    transport = httpx.ASGITransport(KeyturnASGI(WebApplication(node.services, config)))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
        headers = {"x-keyturn": "1", "origin": "http://localhost:8000"}
        for host in ("localhost:8000", "LocalHost:8000"):
            assert (await client.post("/auth/logout", headers={**headers, "host": host})).is_success == allowed
        foreign = {"x-keyturn": "1", "origin": "http://localhost:8001"}
        assert (await client.post("/auth/logout", headers=foreign)).status_code == 403


@pytest.mark.parametrize(
    "origin",
    [
        *("*", "null", "https://a.test/", "https://A.test", "a.test", "ftp://a.test", ""),
        *("https://a.test:443", "http://a.test:80", "https://[::1]:443"),
        *("https://a.test:0", "https://a.test:08443", "https://a.test:65536", "https://a.test:99999"),
        *("https://..", "https://-", "https://a..test", "https://.a.test", "https://-a.test", "https://a-.test"),
        *("https://[0:0:0:0:0:0:0:1]", "https://[2001:db8::0001]", "https://[::ffff:192.0.2.1]", "https://[:::]"),
        *("https://127.1", "https://192.0.2.01", "https://0x7f.0.0.1", "https://3221225985", "https://192.0.2.256"),
        *("https://192.0.2.1.", "https://a.1"),
    ],
)
def test_config_of_a_malformed_origin(origin: str) -> None:
    """What no browser sends as an origin never gets into the allow-list, where it would stand for nobody."""
    with pytest.raises(ValueError, match="not an origin"):
        WebConfig(allowed_origins=frozenset({origin}))


@pytest.mark.parametrize(
    "origin",
    [
        *("https://a.test", "http://localhost:8000", "https://a.test:80", "http://a.test:443", "https://a.test:65535"),
        *(
            "https://a--b.c-d.test",
            "https://xn--bcher-kva.test",
            "http://my_app:3000",
            "https://_a.test",
            "https://a.test.",
            "http://127.0.0.1:1",
            "http://[::1]",
            "https://[2001:db8::1]:8443",
            "https://[::ffff:c000:201]",
            "https://a.1b",
        ),
    ],
)
def test_config_of_an_origin(origin: str) -> None:
    """Everything that browsers send, spelled as they spell it."""
    assert WebConfig(allowed_origins=frozenset({origin})).trusted_origins == {origin}


@pytest.mark.parametrize(
    "path", ["", "/", "auth", "/auth/", "/a b", "/{x}", "//", "/a?b", "/..", "/.", "/a/../b", "/./a", "/a/.."]
)
def test_config_of_a_malformed_base_path(path: str) -> None:
    """A base path is one or more plain segments."""
    with pytest.raises(ValueError, match="KEYTURN_BASE_PATH"):
        WebConfig(base_path=path)
