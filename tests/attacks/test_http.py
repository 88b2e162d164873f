"""Attacks with HTTP itself: headers that proxies and frameworks believe, caches, and paths spelled in odd ways."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event

from keyturn.runtime import Keyturn
from keyturn.web.application import WebApplication
from keyturn.web.asgi import KeyturnASGI
from tests.attacks.conftest import METRICS_TOKEN
from tests.attacks.support import ORIGIN, REFRESH, SAFE, WRONG, Browser, send

pytestmark = pytest.mark.anyio

FAILURES = 10
"""Wrong passwords for one account from one address before it slows down."""


def behind(node: Keyturn, proxies: int) -> KeyturnASGI:
    """Return the same node as it is configured behind so many proxies."""
    return KeyturnASGI(WebApplication(node.services, replace(node.settings.web_config(), trusted_proxies=proxies)))


@pytest.mark.parametrize(
    "name", ["host", "x-forwarded-host", "x-host", "forwarded", "x-original-host", "x-forwarded-server"]
)
async def test_host_poisoning(bob: Browser, name: str) -> None:
    """No answer repeats a host that the caller chose, and none makes a foreign origin ours."""
    for host in ("evil.test", "auth.test:443@evil.test", "auth.test\r\nx: y", "[::1", "evil.test/auth"):
        value = f"host={host}" if name == "forwarded" else host
        answers = [
            await bob.send("POST", "/auth/refresh", headers=[(name, value)]),
            await bob.send("GET", "/auth/me", headers=[(name, value)], bearer=True),
            await bob.send("GET", "/.well-known/jwks.json", headers=[(name, value)]),
            await bob.send("GET", "/auth/nothing", headers=[(name, value)]),
        ]
        for answer in answers:
            assert b"evil" not in answer.body
            assert not any(b"evil" in value for _, value in answer.headers)
        foreign = (("x-keyturn", "1"), ("origin", "https://evil.test"))
        answer = await send(bob.application, "POST", "/auth/login", headers=[*foreign, (name, value)])
        assert answer.code == "csrf_refused"


async def test_host_does_not_change_the_path(bob: Browser) -> None:
    """A Host with a path in it reaches the route that was asked for (Starlette CVE-2026-48710)."""
    for host in ("auth.test/healthz", "auth.test/healthz?", "auth.test#", "/healthz", "x/../healthz"):
        anonymous = [("host", host)]
        assert (await send(bob.application, "GET", "/auth/me", headers=anonymous)).code == "invalid_token"
        assert (await send(bob.application, "GET", "/metrics", headers=anonymous)).code == "invalid_token"


@pytest.mark.parametrize(
    "header",
    [
        ("x-middleware-subrequest", "middleware:middleware:middleware:middleware:middleware"),
        ("x-middleware-subrequest", "src/middleware"),
        ("x-original-url", "/healthz"),
        ("x-rewrite-url", "/healthz"),
        ("x-forwarded-prefix", "/healthz"),
        ("x-forwarded-uri", "/healthz"),
        ("x-forwarded-user", "admin"),
        ("x-remote-user", "admin"),
        ("x-user-id", "admin"),
        ("x-forwarded-proto", "https"),
        ("x-real-ip", "127.0.0.1"),
        ("connection", "authorization, x-keyturn"),
    ],
    ids=lambda header: header[0],
)
async def test_header_that_some_framework_believes(bob: Browser, header: tuple[str, str]) -> None:
    """None of them opens a guarded route or takes a caller elsewhere (Next.js CVE-2025-29927)."""
    assert (await send(bob.application, "GET", "/auth/me", headers=[header])).code == "invalid_token"
    assert (await send(bob.application, "GET", "/metrics", headers=[header])).code == "invalid_token"
    assert (await send(bob.application, "POST", "/auth/refresh", headers=[header])).code == "csrf_refused"
    assert (await send(bob.application, "GET", "/auth/nothing", headers=[header])).code == "not_found"


@pytest.mark.parametrize(
    "path",
    [
        "/auth/%6de",
        "/auth/me/",
        "/auth//me",
        "//auth/me",
        "/auth/./me",
        "/auth/../auth/me",
        "/AUTH/me",
        "/auth/me;x=y",
        "/auth/me%00",
        "/auth/me\\",
        "/auth/me.json",
        "auth/me",
        "",
        "/auth/sessions/",
    ],
)
async def test_path_in_another_spelling(bob: Browser, path: str) -> None:
    """Every path has one spelling, so that a rule of a proxy cannot be slipped past."""
    assert (await bob.send("GET", path, bearer=True)).code == "not_found"


async def guess(app: Any, email: str, *, peer: str, forwarded: Iterable[str] = ()) -> str:
    """Try a wrong password and return the answer's code."""
    headers = [*SAFE, ("content-type", "application/json"), *(("x-forwarded-for", value) for value in forwarded)]
    body = b'{"email":"%s","password":"%s"}' % (email.encode(), WRONG.encode())
    return (await send(app, "POST", "/auth/login", headers=headers, body=body, peer=peer)).code


SPELLINGS = [
    "203.0.113.{n}",
    "203.0.113.{n}, 198.51.100.9",
    "203.0.113.{n},",
    "203.0.113.{n}:1234",
    "[2001:db8:{n}::1]:443",
    "::ffff:203.0.113.{n}",
    "unknown, 203.0.113.{n}",
    "for=203.0.113.{n}",
    " 203.0.113.{n}\t",
    "203.0.113.{n} ",
    "127.0.0.{n}",
    "fe80::{n}%eth0",
]


async def test_forwarded_for_is_not_believed_without_a_proxy(sqlite_node: Keyturn) -> None:
    """Without a trusted proxy the address is the peer's, whatever the header says in whatever spelling."""
    email = "nobody-forwarded@example.com"
    codes = [
        await guess(sqlite_node.asgi, email, peer="192.0.2.1", forwarded=[SPELLINGS[n % len(SPELLINGS)].format(n=n)])
        for n in range(FAILURES + 3)
    ]
    assert codes == ["invalid_credentials"] * FAILURES + ["throttled"] * 3


@pytest.mark.parametrize("proxies", [1, 2])
async def test_forwarded_for_spoofed_behind_proxies(sqlite_node: Keyturn, proxies: int) -> None:
    """Behind proxies only what they wrote themselves counts: the values further left are the caller's invention."""
    app = behind(sqlite_node, proxies)
    email = f"nobody-behind-{proxies}@example.com"
    written = [f"198.51.100.{proxies}", "10.0.0.1"][:proxies]
    codes = []
    for n in range(FAILURES + 3):
        invented = SPELLINGS[n % len(SPELLINGS)].format(n=n)
        one_line = [", ".join([invented, *written])]
        lines = [invented, *written]
        codes.append(await guess(app, email, peer="10.0.0.2", forwarded=one_line if n % 2 else lines))
    assert codes == ["invalid_credentials"] * FAILURES + ["throttled"] * 3


async def test_forwarded_for_of_any_length_is_not_kept(bob: Browser, sqlite_node: Keyturn) -> None:
    """Whoever comes by one proxy too few fills no memory with what they call addresses."""
    application = behind(sqlite_node, 2)
    tracemalloc.start()
    try:
        for number in range(300):
            chain = ("x-forwarded-for", f"{number:030000}, 198.51.100.7")
            assert (await send(application, "POST", "/auth/refresh", headers=[*SAFE, chain])).status == 401
        assert tracemalloc.get_traced_memory()[0] < 3_000_000
    finally:
        tracemalloc.stop()


async def test_other_headers_that_name_an_address_are_not_read(sqlite_node: Keyturn, bob: Browser) -> None:
    """Also behind a proxy: `Forwarded`, `X-Real-IP`, `True-Client-IP` and the like name nobody."""
    app = behind(sqlite_node, 1)
    names = ("forwarded", "x-real-ip", "true-client-ip", "cf-connecting-ip", "x-client-ip", "x-cluster-client-ip")
    other = Browser(app, email=bob.email, peer="192.0.2.77")
    headers = [(name, "for=203.0.113.1" if name == "forwarded" else "203.0.113.1") for name in names]
    assert (
        await other.send("POST", "/auth/login", {"email": bob.email, "password": bob.password}, headers=headers)
    ).status == 200
    assert {one["ip"] for one in await other.sessions() if one["current"]} == {"192.0.2.77"}
    await other.log_out()


async def test_rotating_ipv6_addresses_share_one_counter(sqlite_node: Keyturn) -> None:
    """A subscriber has 2**64 addresses: the throttle counts the /64, in every spelling of it."""
    spellings = [
        "2001:db8:0:7::{n:x}",
        "2001:0db8:0000:0007::{n:x}",
        "2001:DB8:0:7:ffff:{n:x}::",
        "2001:db8::7:0:0:0:{n:x}",
    ]
    email = "nobody-v6@example.com"
    peers = [spellings[n % len(spellings)].format(n=n + 1) for n in range(FAILURES + 3)]
    codes = [await guess(sqlite_node.asgi, email, peer=peer) for peer in peers]
    assert codes == ["invalid_credentials"] * FAILURES + ["throttled"] * 3
    assert await guess(sqlite_node.asgi, email, peer="2001:db8:0:8::1") == "invalid_credentials"


async def test_ipv4_in_ipv6_clothing_is_one_address(sqlite_node: Keyturn) -> None:
    """`192.0.2.9`, `::ffff:192.0.2.9` and `64:ff9b::192.0.2.9` are one caller, and no other one is."""
    email = "nobody-mapped@example.com"
    peers = ["192.0.2.9", "::ffff:192.0.2.9", "::ffff:c000:209", "64:ff9b::192.0.2.9", "64:ff9b::c000:209"]
    codes = [await guess(sqlite_node.asgi, email, peer=peers[n % len(peers)]) for n in range(FAILURES + 1)]
    assert codes == ["invalid_credentials"] * FAILURES + ["throttled"]
    assert await guess(sqlite_node.asgi, email, peer="64:ff9b::192.0.2.10") == "invalid_credentials"


async def test_answers_never_come_out_of_a_shared_cache(sqlite_node: Keyturn, bob: Browser) -> None:
    """Every answer says `private, no-store`, errors and logouts too; only the public keys may be kept (CVE-2025-48947)."""
    paths = [("POST", "/auth/login"), ("POST", "/auth/refresh"), ("POST", "/auth/logout"), ("GET", "/auth/me")]
    paths += [("GET", "/auth/sessions"), ("GET", "/auth/nothing"), ("GET", "/auth/refresh"), ("OPTIONS", "/auth/login")]
    paths += [("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics")]
    for method, path in paths:
        for query in (b"", b"x.css", b"cb=1"):
            answer = await send(sqlite_node.asgi, method, path, query=query)
            assert answer.header("cache-control") == "private, no-store", path
            assert not answer.values("etag")
            assert not answer.values("last-modified")
    fresh = Browser(sqlite_node.asgi, email=bob.email)
    for answer in (await fresh.log_in(), await fresh.refresh(), await fresh.log_out()):
        assert answer.header("cache-control") == "private, no-store"
    keys = await send(sqlite_node.asgi, "GET", "/.well-known/jwks.json")
    assert keys.header("cache-control").startswith("public")
    assert keys.cookies == {}


async def test_a_caching_proxy_serves_nobody_elses_answer(sqlite_node: Keyturn, bob: Browser) -> None:
    """A proxy that keeps what it may keep (RFC 9111 3) has nothing of one user to give to another."""
    kept: dict[str, bytes] = {}

    async def through_cache(browser: Browser, path: str) -> bytes:
        if path in kept:
            return kept[path]
        answer = await browser.send("GET", path, bearer=True)
        directives = {part.strip() for part in answer.header("cache-control").split(",")}
        if not directives & {"private", "no-store"}:
            kept[path] = answer.body
        return answer.body

    other = Browser(sqlite_node.asgi)
    assert (await other.sign_up()).status == 201
    for path in ("/auth/me", "/auth/sessions", "/auth/me.css", "/auth/me/x.js"):
        first, second = await through_cache(bob, path), await through_cache(other, path)
        assert bob.email.encode() not in second
        assert first != second
    assert kept == {}


async def test_metrics_and_health_tell_strangers_nothing(sqlite_node: Keyturn) -> None:
    """The metrics need their token; health says that it lives and no more."""
    app = sqlite_node.asgi
    for value in ("", "Bearer", f"Bearer {METRICS_TOKEN}x", f"Basic {METRICS_TOKEN}", f"Bearer {METRICS_TOKEN[:-1]}"):
        answer = await send(app, "GET", "/metrics", headers=[("authorization", value)])
        assert answer.code == "invalid_token"
    assert (await send(app, "GET", "/healthz")).json() == {"status": "ok"}
    assert (await send(app, "GET", "/readyz")).json() == {"status": "ready"}
    for path in ("/docs", "/openapi.json", "/redoc", "/.git/config", "/.env", "/debug", "/admin", "/"):
        assert (await send(app, "GET", path)).code == "not_found"


async def test_readiness_asked_by_many_is_found_out_once(node: Keyturn) -> None:
    """Two hundred at once have the database asked as one does: or they could make a node say that it is not ready."""
    lent: list[object] = []
    pool = node.engine.sqlalchemy.sync_engine.pool

    def count(connection: object, *_: object) -> None:
        lent.append(connection)

    event.listen(pool, "checkout", count)
    try:
        await send(node.asgi, "GET", "/readyz")
        alone = len(lent)
        answers = await asyncio.gather(*(send(node.asgi, "GET", "/readyz") for _ in range(200)))
    finally:
        event.remove(pool, "checkout", count)
    assert {answer.status for answer in answers} == {200}
    assert 0 < alone < 5
    assert len(lent) == 2 * alone


async def test_version_and_server_are_not_told(bob: Browser) -> None:
    """No answer names a product or a version."""
    for path in ("/auth/me", "/healthz", "/nothing"):
        names = {name for name, _ in (await bob.send("GET", path)).headers}
        assert not names & {b"server", b"x-powered-by", b"via"}


async def test_request_id_of_the_caller(bob: Browser) -> None:
    """A request id is taken over only when it can do no harm in a log or a header."""
    for value in (
        "x" * 65,
        "short",
        "a b c d e f g",
        "id\r\nset-cookie: a=b",
        "<script>alert(1)</script>",
        "\u00e9" * 10,
    ):
        answer = await bob.send("GET", "/healthz", headers=[("x-request-id", value)])
        assert answer.header("x-request-id") != value
        assert len(answer.header("x-request-id")) == 32
    answer = await bob.send("GET", "/healthz", headers=[("x-request-id", "trace-0123456789")])
    assert answer.header("x-request-id") == "trace-0123456789"


async def test_plain_http_scheme_gives_the_same_secure_cookies(sqlite_node: Keyturn, bob: Browser) -> None:
    """A request that reaches the server over http still gets `Secure` cookies only."""
    browser = Browser(sqlite_node.asgi, email=bob.email)
    answer = await browser.send("POST", "/auth/login", {"email": bob.email, "password": bob.password}, scheme="http")
    assert answer.status == 200
    assert all("; Secure" in value for value in answer.values("set-cookie"))
    assert REFRESH in answer.cookies
    assert ORIGIN.startswith("https")
