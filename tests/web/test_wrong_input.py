"""Wrong input of every kind, on every route: the documented code, never a 5xx, and nothing is changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import pytest
from pydantic import ValidationError

from keyturn.web import bodies
from keyturn.web.documentation import DOCUMENTED
from keyturn.web.endpoints import ROUTES, Route
from tests.web.conftest import PASSWORD, Browser

pytestmark = pytest.mark.anyio

ROUTE: Mapping[str, Route] = {route.name: route for route in ROUTES}
GOOD: Mapping[str, dict[str, Any]] = {
    "sign_up": {"email": "new@example.com", "password": PASSWORD},
    "log_in": {"email": "new@example.com", "password": PASSWORD},
    "refresh": {"idle_seconds": 1},
    "log_out": {"everywhere": False},
    "change_password": {"current_password": PASSWORD, "new_password": "another long and winding phrase"},
}
BODIES = list(GOOD)
TEXT, FLAG, NUMBER = "text", "flag", "number"
MEMBERS = {
    "sign_up": {"email": TEXT, "password": TEXT, "name": TEXT, "remember": FLAG, "device_name": TEXT},
    "log_in": {"email": TEXT, "password": TEXT, "remember": FLAG, "device_name": TEXT},
    "refresh": {"idle_seconds": NUMBER},
    "log_out": {"everywhere": FLAG},
    "change_password": {"current_password": TEXT, "new_password": TEXT},
}
NOT_A: Mapping[str, list[Any]] = {
    TEXT: [1, 1.5, True, [], ["a@example.com"], {}, {"$ne": ""}, "", "\0", "a\0b"],
    FLAG: [0, 1, "true", "false", "", [], {}, 1.0],
    NUMBER: ["1", "", True, False, [], {}, -1, -0.001, 1e300, 10**400],
}


def url(name: str) -> str:
    """Return the path of a route."""
    route = ROUTE[name]
    return route.path_below("/auth").replace("{session_id}", "0" * 32)


async def send(browser: Browser, name: str, body: bytes, content_type: str | None = "application/json") -> str:
    """Send a body to a route and return the code of the refusal, which must be one that the route documents."""
    headers = dict(browser.bearer) if name == "change_password" else {}
    if content_type is not None:
        headers["content-type"] = content_type
    answer = await browser.post(url(name), content=body, headers=headers)
    assert answer.status_code >= 400, f"{name} took {body[:60]!r}"
    problem = answer.json()
    documented = {refusal.code: refusal.status for refusal in DOCUMENTED[name].refusals}
    assert documented[problem["code"]] == answer.status_code
    assert "set-cookie" not in answer.headers
    found: str = problem["code"]
    return found


@pytest.mark.parametrize("name", BODIES)
async def test_member_of_the_wrong_type(ada: Browser, name: str) -> None:
    """Every member has its exact type: nothing is read as something else."""
    for member, kind in MEMBERS[name].items():
        for wrong in NOT_A[kind]:
            body = json.dumps({**GOOD[name], member: wrong}).encode()
            assert await send(ada, name, body) == "invalid_request", (member, wrong)


@pytest.mark.parametrize(
    ("number", "good"),
    [
        *((number, True) for number in ("0", "-0", "-0.0", "5e-324", "12.5", "1000000000000", "1e12")),
        *((number, False) for number in ("-5e-324", "1000000000000.1", "1000000000001", "1e400", "1" + "0" * 400)),
        *((number, False) for number in ("1" + "0" * 5000, "NaN", "Infinity", "-Infinity", "01", "1.", ".5", "+1")),
    ],
)
async def test_idle_seconds_at_its_bounds(ada: Browser, number: str, good: bool) -> None:
    """The route reads them by hand, and takes what the contract says of them: no more and no less."""
    body = f'{{"idle_seconds": {number}}}'
    answer = await ada.post("/auth/refresh", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == (200 if good else 422)
    with nullcontext() if good else pytest.raises(ValidationError):
        bodies.Refresh.model_validate_json(body)


@pytest.mark.parametrize(
    ("member", "wrong", "detail"),
    [
        ("email", "x", "email: String should have at least 3 characters"),
        ("name", "x" * 201, "name: String should have at most 200 characters"),
        ("name", "a\0b", "name: Value error, no NUL character is allowed"),
        ("password", "violet otter", "The password needs at least 15 characters"),
    ],
)
async def test_length_is_told(browser: Browser, member: str, wrong: str, detail: str) -> None:
    """A member that is too short or too long comes back with what it may be, and without itself."""
    answer = await browser.post("/auth/signup", json={**GOOD["sign_up"], member: wrong})
    assert (answer.status_code, answer.json()["detail"]) == (422, detail)


@pytest.mark.parametrize("name", ["sign_up", "log_in", "change_password"])
async def test_member_missing(ada: Browser, name: str) -> None:
    """A body without what is needed is refused, and so is none at all."""
    for member in GOOD[name]:
        body = {key: value for key, value in GOOD[name].items() if key != member}
        assert await send(ada, name, json.dumps(body).encode()) == "invalid_request"
        assert await send(ada, name, json.dumps({**GOOD[name], member: None}).encode()) == "invalid_request"
    assert await send(ada, name, b"", None) == "invalid_request"


@pytest.mark.parametrize("name", BODIES)
async def test_member_unknown(ada: Browser, name: str) -> None:
    """What is not in the contract is refused and not ignored (mass assignment)."""
    unknown = ["is_admin", "email_verified", "id", "disabled", "scope", "__proto__", "email[]", "Email", "", "user_id"]
    for member in unknown:
        body = json.dumps({**GOOD[name], member: True}).encode()
        assert await send(ada, name, body) == "invalid_request", member


@pytest.mark.parametrize("name", BODIES)
async def test_body_that_is_not_one_json_object(ada: Browser, name: str) -> None:
    """Another encoding, a doubled member or anything but an object is refused."""
    good = json.dumps(GOOD[name])
    member = next(iter(GOOD[name]))
    value = json.dumps(GOOD[name][member])
    wrong = [
        f"[{good}]".encode(),
        b"null",
        b'"text"',
        b"{",
        good.encode("utf-16"),
        good.encode("utf-32"),
        b"\xef\xbb\xbf" + good.encode(),
        good.replace("}", f', "{member}": {value}}}').encode(),
        good.replace("}", ', "x": NaN}').encode(),
        good.replace("}", ', "x": ' + "[" * 4000 + "]" * 4000 + "}").encode(),
        (good + good).encode(),
        good.encode().replace(b"{", b'{"\xff":1,'),
        good.encode().replace(b"{", b'{"\\ud800":1,'),
        b"email=a%40example.com&password=x",
        b"\x00",
        b" ",
    ]
    for body in wrong:
        assert await send(ada, name, body) == "invalid_request", body[:40]


@pytest.mark.parametrize("name", BODIES)
async def test_body_under_another_type(ada: Browser, name: str) -> None:
    """Only application/json is read, whatever the body looks like."""
    body = json.dumps(GOOD[name]).encode()
    for content_type in (
        None,
        "",
        "text/plain",
        "text/plain;charset=UTF-8",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json-patch+json",
        "application/vnd.api+json",
        "application/json; charset=iso-8859-1",
        "*/*",
    ):
        assert await send(ada, name, body, content_type) == "unsupported_media_type", content_type


@pytest.mark.parametrize("name", BODIES)
async def test_body_too_large(ada: Browser, name: str) -> None:
    """A body over the limit is refused by its size, before it is looked at."""
    member = next(iter(GOOD[name]))
    for body in (json.dumps({**GOOD[name], member: "x" * 2**20}).encode(), b" " * 2**20):
        assert await send(ada, name, body) == "payload_too_large"


@pytest.mark.parametrize(
    "email",
    [
        "a" * 400 + "@example.com",
        "no at sign",
        "@example.com",
        "ada@",
        "ada@example",
        "ada@@example.com",
        "ada@example.com,eve@example.com",
        "ada@example.com\r\nBcc: eve@example.com",
        "Ada <ada@example.com>",
        "<script>@example.com",
        " ",
        "ada@[127.0.0.1]",
        "ada@exa mple.com",
    ],
)
async def test_email_that_is_none(browser: Browser, email: str) -> None:
    """What is not one plain address signs nobody up, and logs nobody in."""
    for name in ("sign_up", "log_in"):
        body = json.dumps({"email": email, "password": PASSWORD}).encode()
        assert await send(browser, name, body) in {"invalid_request", "invalid_credentials"}
    assert (
        await send(browser, "sign_up", json.dumps({"email": email, "password": PASSWORD}).encode()) == "invalid_request"
    )


@pytest.mark.parametrize("password", ["short", "x" * 1025, "password" * 2, "aaaaaaaaaaaaaaaaaaaa", "x" * 5000])
async def test_password_that_does_not_pass(ada: Browser, password: str) -> None:
    """A new password has its length and is not a common one; nothing is cut off."""
    sign_up = {"email": "other@example.com", "password": password}
    assert await send(ada, "sign_up", json.dumps(sign_up).encode()) == "invalid_request"
    change = {"current_password": PASSWORD, "new_password": password}
    assert await send(ada, "change_password", json.dumps(change).encode()) == "invalid_request"


@pytest.mark.parametrize(
    "session_id",
    [
        "0" * 31,
        "0" * 33,
        "g" * 32,
        "A" * 32,
        "me",
        "..",
        "%00",
        "*",
        "1 or 1=1",
        "0" * 32,
        "x" * 10_000,
        "%F0%9F%98%80",
    ],
)
async def test_session_id_of_any_kind(ada: Browser, session_id: str) -> None:
    """An id that is none is a session that is not there."""
    answer = await ada.delete(f"/auth/sessions/{session_id}", headers=ada.bearer)
    assert answer.status_code in {404, 405}
    assert answer.json().get("code") in {"not_found", "method_not_allowed"} or answer.json() == {"detail": "Not Found"}
    assert (await ada.get("/auth/me", headers=ada.bearer)).status_code == 200


@pytest.mark.parametrize("name", ["me", "list_sessions", "end_session", "end_other_sessions", "change_password"])
async def test_access_token_of_any_kind(ada: Browser, name: str) -> None:
    """Whatever stands in the Authorization header, only a valid access token opens a route."""
    route = ROUTE[name]
    forged = ada.token[:-4] + ("AAAA" if not ada.token.endswith("AAAA") else "BBBB")
    refresh_token = ada.cookies["__Host-kt_refresh"]
    for value in (
        "",
        "Bearer",
        "Bearer x",
        f"Basic {ada.token}",
        f"Bearer {forged}",
        f"Bearer {refresh_token}",
        ada.token,
    ):
        headers = {"authorization": value}
        if name == "change_password":
            answer = await ada.post(url(name), json=GOOD[name], headers=headers)
        else:
            answer = await ada.request(route.method, url(name), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token"), value
        assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'


@pytest.mark.parametrize(
    "cookie", ["", "x", "kt_rt_", "kt_rt_" + "A" * 88, "kt_rt_" + "é" * 44, "%00", "x" * 4000, '"a"']
)
async def test_refresh_cookie_of_any_kind(browser: Browser, cookie: str) -> None:
    """A refresh cookie that is not ours is no session."""
    for name in ("refresh", "log_out"):
        headers = {b"cookie": b"__Host-kt_refresh=" + cookie.encode()}
        answer = await browser.post(url(name), headers=headers)
        assert answer.status_code == (401 if name == "refresh" else 204)
        assert "__Host-kt_refresh=;" in str(answer.headers.get_list("set-cookie"))


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
async def test_query_is_ignored(browser: Browser, route: Route) -> None:
    """No route reads a query, however odd."""
    answer = await browser.request(route.method, url(route.name) + "?a[]=1&__proto__=x&%00=%ff&email=a@example.com")
    assert answer.status_code < 500
    plain = await browser.request(route.method, url(route.name))
    assert answer.status_code == plain.status_code


@pytest.mark.parametrize("route", [route for route in ROUTES if route.method != "POST"], ids=lambda route: route.name)
async def test_body_where_none_belongs(ada: Browser, route: Route) -> None:
    """A body on a route without one is not read."""
    headers = {**ada.bearer, "content-type": "text/plain"}
    if route.name == "metrics":
        headers = {}
    content = b"\xff" * 100
    answer = await ada.request(route.method, url(route.name), content=content, headers=headers)
    assert answer.status_code in {200, 204, 401, 404}
