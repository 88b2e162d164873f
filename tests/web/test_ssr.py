"""The route of render servers: a signature over what is asked, and an access token that advances nothing."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from keyturn.core.errors import Forbidden
from keyturn.runtime import Keyturn
from keyturn.tokens import base64url
from keyturn.web.application import WebApplication
from keyturn.web.asgi import KeyturnASGI
from keyturn.web.config import WebConfig
from keyturn.web.server_credential import WINDOW, Signed, authorization, check
from tests.core.vectors import load
from tests.web.conftest import ORIGIN, SSR_KEY, Browser

PATH = "/auth/ssr"

pytestmark = pytest.mark.anyio

REFRESH = "__Host-kt_refresh"


@pytest.fixture
async def server(application: Any) -> Any:
    """A render server: no browser headers, no cookie jar."""
    transport = httpx.ASGITransport(application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        yield client


async def ask(
    server: httpx.AsyncClient, cookie: str, body: bytes = b"", *, key_id: str = "next", key: bytes = SSR_KEY
) -> httpx.Response:
    """Ask for an access token as a render server does."""
    headers = {"authorization": authorization(key_id, key, int(time.time()), Signed(PATH, cookie.encode(), body))}
    if cookie:
        headers["cookie"] = f"{REFRESH}={cookie}"
    if body:
        headers["content-type"] = "application/json"
    return await server.post("/auth/ssr", headers=headers, content=body)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"ip":"203.0.113.5","user_agent":"Mozilla/5.0"}'])
async def test_render_with_a_live_cookie(ada: Browser, server: httpx.AsyncClient, body: bytes) -> None:
    """A render server gets a token for a minute, no cookie, and the browser's cookie is as good as before."""
    cookie = ada.cookies[REFRESH]
    token = ""
    for _ in range(3):
        answer = await ask(server, cookie, body)
        token = answer.json()["access_token"]
        assert answer.status_code == 200, answer.text
        assert answer.json().keys() == {"access_token", "expires_in", "user", "session"}
        assert answer.json()["expires_in"] == 60
        assert "set-cookie" not in answer.headers
    assert (await ada.get("/auth/me", headers={"authorization": f"Bearer {token}"})).status_code == 200
    assert (await ada.post("/auth/refresh")).status_code == 200


async def test_render_of_an_ended_session(ada: Browser, server: httpx.AsyncClient) -> None:
    """The reason is told; a cookie is never cleared by this route."""
    cookie = ada.cookies[REFRESH]
    await ada.post("/auth/logout")
    answer = await ask(server, cookie)
    assert (answer.status_code, answer.json()["code"]) == (401, "session_ended")
    assert answer.json()["reason"] == "logout"
    assert "set-cookie" not in answer.headers
    nothing = await ask(server, "")
    assert (nothing.status_code, nothing.json()["code"]) == (401, "no_session")
    assert "set-cookie" not in nothing.headers


async def test_render_with_two_cookies(ada: Browser, server: httpx.AsyncClient) -> None:
    """Which of the two is meant nobody can say, so a credential that covers one of them covers nothing."""
    cookie, other = ada.cookies[REFRESH], "planted"
    for covered in (cookie, other):
        value = authorization("next", SSR_KEY, int(time.time()), Signed(PATH, covered.encode(), b""))
        headers = {"authorization": value, "cookie": f"{REFRESH}={cookie}; {REFRESH}={other}"}
        answer = await server.post(PATH, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


async def test_render_without_the_credential(ada: Browser, server: httpx.AsyncClient) -> None:
    """A cookie alone, a Bearer token or another key gets nothing, and is not told what is wrong with a body either."""
    cookie = ada.cookies[REFRESH]
    jar = {"cookie": f"{REFRESH}={cookie}"}
    bare = await server.post("/auth/ssr", headers=jar)
    token = await server.post("/auth/ssr", headers={**jar, **ada.bearer})
    other_key = await ask(server, cookie, key=b"k" * 32)
    other_id = await ask(server, cookie, key_id="nuxt")
    body = await server.post("/auth/ssr", headers=jar, json={"nobody": "knows this"})
    for answer in (bare, token, other_key, other_id, body):
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert answer.json()["detail"] == bare.json()["detail"]


async def test_render_route_without_keys(node: Keyturn) -> None:
    """Where no render server is known there is no route."""
    transport = httpx.ASGITransport(KeyturnASGI(WebApplication(node.services, WebConfig())))
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        assert (await client.post("/auth/ssr")).status_code == 404


NOW = 1_800_000_000
KEYS = {"next": SSR_KEY}
SIGNED = Signed(PATH, b"c", b"b")


@pytest.mark.parametrize("skew", [-WINDOW, 0, WINDOW])
def test_credential_within_its_window(skew: int) -> None:
    """The two clocks may differ by a minute."""
    check([authorization("next", SSR_KEY, NOW + skew, SIGNED).encode()], KEYS, NOW, SIGNED)


@pytest.mark.parametrize("skew", [-WINDOW - 1, WINDOW + 1, -(10**9)])
def test_credential_out_of_its_window(skew: int) -> None:
    """An older one is of no use any more, and none can be made in advance."""
    with pytest.raises(Forbidden):
        check([authorization("next", SSR_KEY, NOW + skew, SIGNED).encode()], KEYS, NOW, SIGNED)


@pytest.mark.parametrize(
    "other",
    [
        Signed("/auth/refresh", b"c", b"b"),
        Signed(PATH, b"other", b"b"),
        Signed(PATH, b"c", b"other"),
        Signed(PATH, b"", b"b"),
        Signed(PATH, b"c", b""),
        Signed(PATH, b"cb", b""),
    ],
)
def test_credential_for_another_request(other: Signed) -> None:
    """It covers the cookie and the body, each by itself."""
    value = authorization("next", SSR_KEY, NOW, SIGNED).encode()
    with pytest.raises(Forbidden):
        check([value], KEYS, NOW, other)


@pytest.mark.parametrize("change", [b"", b"Bearer x", b"Keyturn-HMAC", b"twice", b"padded", b"lower", b"long"])
def test_credential_malformed(change: bytes) -> None:
    """Every other form is refused, and nothing throws."""
    good = authorization("next", SSR_KEY, NOW, Signed(PATH, b"", b"")).encode()
    values = {
        b"twice": [good, good],
        b"padded": [good + b"="],
        b"lower": [good.lower()],
        b"long": [good.replace(b"time=", b"time=" + b"0" * 5000)],
    }.get(change, [change])
    with pytest.raises(Forbidden):
        check(values, KEYS, NOW, Signed(PATH, b"", b""))


VECTORS = load("server-credential.json")
VECTOR_KEYS = {key_id: base64url.decode(key) for key_id, key in VECTORS["keys"].items()}


def signed(case: dict[str, Any]) -> Signed:
    """Return what a vector says is signed."""
    return Signed(case["path"], case["cookie"].encode(), case["body"].encode())


@pytest.mark.parametrize("case", VECTORS["signed"], ids=lambda case: case["name"])
def test_credential_of_the_vectors(case: dict[str, Any]) -> None:
    """The same request under the same key at the same second has the same header, whoever writes it."""
    key_id, time = case["key_id"], case["time"]
    assert authorization(key_id, VECTOR_KEYS[key_id], time, signed(case)) == case["authorization"]


@pytest.mark.parametrize("case", VECTORS["judged"], ids=lambda case: case["name"])
def test_credential_judged_as_the_vectors_say(case: dict[str, Any]) -> None:
    """It is accepted byte for byte and within its minute, or it is nothing."""
    outcome = "accepted"
    try:
        check([value.encode() for value in case["headers"]], VECTOR_KEYS, case["now"], signed(case))
    except Forbidden:
        outcome = "forbidden"
    assert outcome == case["outcome"]
