"""The scenarios of an application with Keyturn inside, over every framework and a real wire."""

from __future__ import annotations

import pytest

from keyturn.verify import Verifier
from tests.attacks.support import DEVICE, ORIGIN, PASSWORD, REFRESH, SAFE, WRONG, Browser, send
from tests.frameworks.adapters import Wire
from tests.frameworks.conftest import late
from tests.frameworks.directory import OwnUsers
from tests.verify.publisher import PATIENCE

pytestmark = pytest.mark.anyio

BEARER = "Bearer error="


async def notes(browser: Browser, path: str = "/notes") -> tuple[int, str]:
    """Ask for a guarded route of the host; return the status, and the user or the code."""
    answer = await browser.send("GET", path, bearer=True, safe=())
    return answer.status, answer.json()["user"] if answer.status == 200 else answer.code


async def test_sign_up_and_log_in(embedded: Wire, browser: Browser) -> None:
    """A person signs up, is the one the host's routes see, and signs in again from elsewhere."""
    answer = await browser.sign_up()
    assert answer.status == 201
    # Three headers, none of them merged: a framework that keeps headers in a dict would lose two.
    assert {value.partition("=")[0] for value in answer.values("set-cookie")} == {REFRESH, "kt_hint", DEVICE}
    assert all("Path=/" in value for value in answer.values("set-cookie"))
    assert await notes(browser) == (200, browser.user_id)
    elsewhere = Browser(embedded, email=browser.email)
    assert (await elsewhere.log_in()).status == 200
    assert elsewhere.user_id == browser.user_id
    assert (await elsewhere.me()).json()["user"]["email"] == browser.email
    assert (await Browser(embedded, email=browser.email).log_in(password=WRONG)).code == "invalid_credentials"


async def test_refresh(ada: Browser) -> None:
    """A refresh gives a new token, which works, and a new cookie."""
    cookie, token = ada.cookie, ada.token
    answer = await ada.refresh()
    assert answer.status == 200
    assert ada.token != token
    assert ada.cookie != cookie
    assert await notes(ada) == (200, ada.user_id)


async def test_refresh_with_a_body(ada: Browser) -> None:
    """A body reaches the endpoint through the framework as it was sent."""
    assert (await ada.send("POST", "/auth/refresh", {"idle_seconds": 5})).status == 200
    assert (await ada.send("POST", "/auth/refresh", {"idle_seconds": "5"})).code == "invalid_request"


async def test_guarded_route_without_token(embedded: Wire, browser: Browser) -> None:
    """Nobody gets in without a token, with a document that says so; an open route stays open."""
    assert (await browser.send("GET", "/open", safe=())).json() == {"open": True}
    answer = await send(embedded, "GET", "/notes", headers=[("x-request-id", "request-1234")])
    assert (answer.status, answer.code) == (401, "invalid_token")
    assert answer.header("www-authenticate") == f'{BEARER}"invalid_token"'
    assert answer.header("content-type") == "application/problem+json"
    assert answer.header("cache-control") == "private, no-store"
    assert answer.header("x-content-type-options") == "nosniff"
    assert answer.header("x-request-id") == answer.json()["request_id"] == "request-1234"


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer x", "Basic YTpi", "Bearer a b", "Bearer \u00ff", "\u00ff"])
async def test_guarded_route_with_another_header(embedded: Wire, value: str) -> None:
    """Anything but a token of ours is a 401, whatever its bytes."""
    answer = await send(embedded, "GET", "/notes", headers=[("authorization", value)])
    assert (answer.status, answer.code) == (401, "invalid_token")


async def test_two_tokens(embedded: Wire, ada: Browser) -> None:
    """Two Authorization headers are none."""
    headers = [("authorization", f"Bearer {ada.token}")] * 2
    for path in ("/notes", "/auth/me"):
        assert (await send(embedded, "GET", path, headers=headers)).code == "invalid_token"


async def test_scopes(embedded: Wire, ada: Browser) -> None:
    """A missing scope is a 403 that names all that are needed; the scopes come from the application's claims hook."""
    answer = await ada.send("GET", "/admin", bearer=True, safe=())
    assert (answer.status, answer.code) == (403, "forbidden")
    assert answer.header("www-authenticate") == f'{BEARER}"insufficient_scope", scope="notes admin"'
    admin = Browser(embedded)
    assert (await admin.sign_up(name="admin")).status == 201
    assert await notes(admin, "/admin") == (200, admin.user_id)


async def test_step_up(ada: Browser) -> None:
    """A route may need a fresh or a stronger sign-in, and says so in the words that the client understands."""
    assert await notes(ada, "/recent") == (200, ada.user_id)
    answer = await ada.send("GET", "/strong", bearer=True, safe=())
    assert (answer.status, answer.code) == (401, "insufficient_user_authentication")
    challenge = f'{BEARER}"insufficient_user_authentication", max_age="300", amr_values="otp"'
    assert answer.header("www-authenticate") == challenge


async def test_log_out(ada: Browser) -> None:
    """A logout ends the access token too, where revocation is on, and clears the cookies."""
    assert await notes(ada) == (200, ada.user_id)
    answer = await ada.log_out()
    assert answer.status == 204
    assert answer.cookies == {REFRESH: "", "kt_hint": ""}
    assert answer.header("content-length") in {"", "0"}
    assert await notes(ada) == (401, "invalid_token")
    assert (await ada.refresh()).code == "no_session"


async def test_sessions(embedded: Wire, ada: Browser) -> None:
    """Sessions are listed and ended by their id in the path; another's or no id is not found."""
    phone = Browser(embedded, email=ada.email)
    assert (await phone.log_in()).status == 200
    assert {each["id"] for each in await ada.sessions()} == {ada.session_id, phone.session_id}
    assert (await ada.send("DELETE", f"/auth/sessions/{phone.session_id}", bearer=True)).status == 204
    assert await notes(phone) == (401, "invalid_token")
    assert (await ada.send("DELETE", "/auth/sessions/nobody", bearer=True)).code == "not_found"
    assert (await ada.send("DELETE", "/auth/sessions", bearer=True)).status == 204
    assert await notes(ada) == (200, ada.user_id)


@pytest.mark.parametrize(
    "safe",
    [
        (),
        [("origin", ORIGIN), ("sec-fetch-site", "same-origin")],
        [("x-keyturn", "1")],
        [("x-keyturn", "1"), ("origin", "https://evil.test"), ("sec-fetch-site", "cross-site")],
        [("x-keyturn", "1"), ("origin", "null")],
    ],
    ids=["nothing", "no header", "no origin", "foreign", "null"],
)
async def test_foreign_page(ada: Browser, safe: list[tuple[str, str]]) -> None:
    """A page of another origin refreshes nothing and logs nobody out."""
    for path in ("/auth/refresh", "/auth/logout"):
        answer = await ada.send("POST", path, safe=safe)
        assert (answer.status, answer.code, answer.values("set-cookie")) == (403, "csrf_refused", [])
    assert (await ada.refresh()).status == 200


@pytest.mark.parametrize(
    ("content_type", "body", "code"),
    [
        ("application/json", b"", "invalid_request"),
        ("application/json", b"{", "invalid_request"),
        ("application/json", b"[]", "invalid_request"),
        ("application/json", b"\xff\xfe", "invalid_request"),
        ("application/json", b'{"email":"a@b.test","email":"c@d.test","password":"x"}', "invalid_request"),
        ("application/json", b'{"email":"a@b.test","password":"x","is_admin":true}', "invalid_request"),
        ("application/json", b" " * 20_000, "payload_too_large"),
        ("application/x-www-form-urlencoded", b"email=a%40b.test&password=x", "unsupported_media_type"),
        ("multipart/form-data; boundary=x", b"--x--\r\n", "unsupported_media_type"),
        ("text/plain", b"{}", "unsupported_media_type"),
    ],
)
async def test_wrong_body(embedded: Wire, content_type: str, body: bytes, code: str) -> None:
    """What is no body of the contract is refused as documented: no framework has read it first."""
    headers = [*SAFE, ("content-type", content_type)]
    answer = await send(embedded, "POST", "/auth/login", headers=headers, body=body)
    assert answer.code == code
    assert answer.header("content-type") == "application/problem+json"


async def test_users_of_the_application(embedded: Wire, users: OwnUsers, browser: Browser) -> None:
    """Who signs up is in the application's own table, and who is disabled there is out at the next refresh."""
    assert (await browser.sign_up()).status == 201
    assert browser.user_id.startswith("own-")
    assert (await Browser(embedded, email=browser.email.upper()).sign_up()).code == "conflict"
    user = await users.get(browser.user_id)
    assert user is not None
    assert user.email == browser.email
    users.disable(browser.user_id)
    assert (await browser.refresh()).code == "session_ended:user_disabled"
    assert (await browser.log_in()).code == "invalid_credentials"


async def test_password_of_the_application(ada: Browser) -> None:
    """A changed password is in the application's own table."""
    body = {"current_password": PASSWORD, "new_password": f"{PASSWORD} and more"}
    assert (await ada.send("POST", "/auth/password", body, bearer=True)).status == 204
    assert (await ada.log_in()).code == "invalid_credentials"
    assert (await ada.log_in(password=f"{PASSWORD} and more")).status == 200


# -- what a framework could do to a request on its way


async def refresh_with(browser: Browser, *cookies: bytes) -> str:
    """Refresh with these Cookie headers, byte by byte, and return the code."""
    answer = await send(
        browser.application, "POST", "/auth/refresh", headers=[*SAFE, *(("cookie", c) for c in cookies)]
    )
    return answer.code


async def test_doubled_cookie(ada: Browser) -> None:
    """Two cookies of our name are none, in one header or in two: nobody picks the one an attacker planted."""
    good = f"{REFRESH}={ada.cookie}".encode()
    bad = f"{REFRESH}=planted".encode()
    for cookies in ([good + b"; " + bad], [bad + b"; " + good], [good, bad], [bad, good], [good, good]):
        assert await refresh_with(ada, *cookies) == "no_session"
    assert await refresh_with(ada, good) == "200"


@pytest.mark.parametrize(
    "other",
    [
        b"\xa0__Host-kt_refresh=planted",
        b"\xc2\xa0__Host-kt_refresh=planted",
        b"__Host-kt_refresh\xa0=planted",
        b"__Host-kt_refresh\x85=planted",
        b"__host-kt_refresh=planted",
        b"__Host-kt_refresh%20=planted",
        b"__Host-kt_refresh",
        b'theme="a; b=\xff\xfe"',
        b"=; =;;; \xe2\x98\x83=\xe2\x98\x83",
    ],
)
async def test_odd_cookie_beside_ours(ada: Browser, other: bytes) -> None:
    """Cookies reach us as they were sent: no byte is stripped that would make a look-alike ours, or ours unreadable."""
    good = f"{REFRESH}={ada.cookie}".encode()
    assert await refresh_with(ada, other + b"; " + good) == "200"
    ada.jar[REFRESH] = "planted"
    assert await refresh_with(ada, other) == "no_session"


async def test_token_elsewhere(embedded: Wire, ada: Browser) -> None:
    """A token in the query, in a form or in a cookie is not looked at."""
    token = ada.token
    for path in ("/notes", "/auth/me"):
        answer = await send(embedded, "GET", path, query=f"access_token={token}".encode())
        assert answer.code == "invalid_token"
        cookie = f"access_token={token}; Authorization=Bearer {token}"
        assert (await send(embedded, "GET", path, headers=[("cookie", cookie)])).code == "invalid_token"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/auth/login", "OPTIONS, POST"),
        ("HEAD", "/auth/refresh", "OPTIONS, POST"),
        ("PUT", "/auth/me", "GET, HEAD, OPTIONS"),
        ("POST", "/auth/sessions", "DELETE, GET, HEAD, OPTIONS"),
        ("PATCH", "/auth/sessions/x", "DELETE, OPTIONS"),
    ],
)
async def test_other_method(embedded: Wire, method: str, path: str, allow: str) -> None:
    """A method that is not in the contract is a 405 of ours that names those that are; HEAD has no body."""
    answer = await send(embedded, method, path, headers=SAFE)
    assert (answer.status, answer.header("allow")) == (405, allow)
    assert answer.header("content-type") == "application/problem+json"
    assert (answer.body == b"") == (method == "HEAD")


async def test_head_and_options(embedded: Wire, ada: Browser) -> None:
    """HEAD is GET without the body, whose length it tells (RFC 9110 8.6); OPTIONS names the methods, and lets a trusted origin ask."""
    whole = await ada.send("GET", "/auth/me", bearer=True)
    head = await ada.send("HEAD", "/auth/me", bearer=True)
    assert (head.status, head.body) == (200, b"")
    assert head.header("content-length") == whole.header("content-length") == str(len(whole.body))
    options = await send(embedded, "OPTIONS", "/auth/login")
    assert (options.status, options.header("allow")) == (204, "OPTIONS, POST")
    headers = [("origin", "https://app.test"), ("access-control-request-method", "POST")]
    preflight = await send(embedded, "OPTIONS", "/auth/login", headers=headers)
    assert preflight.header("access-control-allow-origin") == "https://app.test"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT"])
async def test_encoded_path(ada: Browser, method: str) -> None:
    """A path spelled in another way is no route of ours, whatever the method."""
    assert (await ada.send(method, "/auth/%6de", bearer=True)).status == 404


@pytest.mark.parametrize("path", ["/auth/me/", "/auth/sessions/", "/auth//me"])
async def test_path_with_a_slash_too_many(ada: Browser, path: str) -> None:
    """It is no route of ours either, unless the host sends its callers on to the path that is."""
    answer = await ada.send("GET", path, bearer=True)
    sent_on = answer.status in {307, 308} and answer.header("location").endswith(("/auth/me", "/auth/sessions"))
    assert answer.status == 404 or sent_on


async def test_address_behind_a_proxy(ada: Browser) -> None:
    """The client's address is what the one trusted proxy says, and no longer list helps to forge it."""
    forged = Browser(ada.application, email=ada.email)
    headers = [("x-forwarded-for", f"203.0.113.66, {forged.peer}")]
    body = {"email": ada.email, "password": PASSWORD}
    assert (await forged.send("POST", "/auth/login", body, headers=headers)).status == 200
    assert {each["ip"] for each in await forged.sessions()} == {ada.peer, forged.peer}


async def test_published_keys(embedded: Wire, ada: Browser) -> None:
    """A service beside the application checks its tokens by the keys that it publishes."""
    url = f"http://127.0.0.1:{embedded.port}/.well-known/jwks.json"
    verifier = Verifier(ORIGIN, jwks_url=url, timeout=PATIENCE, clock=late)
    principal = await verifier.authenticate_async(ada.token)
    assert principal.user_id == ada.user_id
    assert principal.scopes == {"notes"}


async def test_unknown_paths_stay_with_the_host(embedded: Wire) -> None:
    """What is not in the contract is the host's own, and the host has no such thing."""
    for path in ("/auth/unknown", "/auth"):
        assert (await send(embedded, "GET", path)).status == 404
