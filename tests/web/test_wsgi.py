"""The plain WSGI application at its edges: headers as servers join them, bodies in every form, paths as sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyturn.core.errors import InvalidRequest, Unavailable
from keyturn.core.policy import REQUEST_LIMIT
from keyturn.runtime import Keyturn
from keyturn.web.messages import MAX_BODY_BYTES, BodyTooSlow, ClientGone
from keyturn.web.wsgi import read_environ
from tests.databases import sqlite_database
from tests.web.conftest import BROWSER, ORIGIN
from tests.web.wsgi import Answer, call, new_node, sign_up

SECURE = "Path=/; Secure; HttpOnly; SameSite=Lax"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyturn]:
    """A node that starts with the first request."""
    made = new_node(sqlite_database(tmp_path_factory.mktemp("wsgi")))
    yield made
    made.threaded.close()


@pytest.fixture(scope="module")
def ada(node: Keyturn) -> Answer:
    """The answer to Ada's sign-up."""
    return sign_up(node.wsgi, "ada@example.com")


def refresh(node: Keyturn, cookie: str, **environ: Any) -> Answer:
    """Refresh with a Cookie header."""
    return call(node.wsgi, path="/auth/refresh", HTTP_COOKIE=cookie, **environ)


def _environ(name: str, value: str) -> dict[str, Any]:
    return {name: value}


def code(answer: Answer) -> str:
    """Return the code of a problem."""
    assert answer.all("content-type") == ["application/problem+json"]
    found: str = answer.json["code"]
    return found


def test_session_over_wsgi(node: Keyturn) -> None:
    """A session's whole life goes over WSGI, with every cookie of an answer."""
    first = sign_up(node.wsgi, "grace@example.com")
    cookies = [header.partition("=") for header in first.all("set-cookie")]
    assert [name for name, _, _ in cookies] == ["__Host-kt_refresh", "kt_hint", "__Host-kt_device"]
    assert first.all("set-cookie")[0].endswith(SECURE)
    assert first.all("cache-control") == ["private, no-store"]
    again = refresh(node, first.cookie)
    assert again.status == 200
    bearer = f"Bearer {again.json['access_token']}"
    me = call(node.wsgi, "GET", "/auth/me", headers={}, HTTP_AUTHORIZATION=bearer)
    assert me.json["user"]["email"] == "grace@example.com"
    head = call(node.wsgi, "HEAD", "/auth/me", headers={}, HTTP_AUTHORIZATION=bearer)
    assert (head.status, head.body, head.all("content-length")) == (200, b"", me.all("content-length"))
    assert call(node.wsgi, path="/auth/logout", HTTP_COOKIE=again.cookie).status == 204
    ended = refresh(node, again.cookie)
    assert (code(ended), ended.json["reason"]) == ("session_ended", "logout")


# -- headers that a server has joined


@pytest.mark.parametrize(
    "form",
    [
        "{mine}; {mine}",
        "{mine},{mine}",
        "{mine}, {mine}",
        "{mine}; a=1,{mine}",
        "a=1,{mine}; {mine}",
        "{mine},a=1",
        "a=1,{mine}",
        "{mine}; a=1,\t__Host-kt_refresh=planted",
        "__Host-kt_refresh=planted,{mine}",
    ],
)
def test_cookie_that_may_be_two(node: Keyturn, ada: Answer, form: str) -> None:
    """Where it cannot be told that ours stands there exactly once, it is not used, and not cleared."""
    answer = refresh(node, form.format(mine=ada.cookie))
    assert code(answer) == "no_session"
    assert answer.all("set-cookie") == []


@pytest.mark.parametrize("form", ["{mine}", "a=1,2; {mine}; b=3, 4", "a=x,y__Host-kt_refresh=z; {mine}", "{mine};a=,"])
def test_cookie_beside_commas(node: Keyturn, ada: Answer, form: str) -> None:
    """A comma in somebody else's cookie makes no difference."""
    assert refresh(node, form.format(mine=ada.cookie)).status == 200


def test_planted_cookie_alone(node: Keyturn) -> None:
    """A cookie of a sibling subdomain whose value looks like a second header signs nobody in: `__Host-` holds."""
    theirs = sign_up(node.wsgi, "mallory@example.com").cookie
    assert code(refresh(node, f"a=1,{theirs}")) == "no_session"


@pytest.mark.parametrize("between", [",", ", "])
def test_authorization_twice(node: Keyturn, ada: Answer, between: str) -> None:
    """Two access tokens are none."""
    bearer = f"Bearer {ada.json['access_token']}"
    assert call(node.wsgi, "GET", "/auth/me", HTTP_AUTHORIZATION=bearer).status == 200
    twice = call(node.wsgi, "GET", "/auth/me", HTTP_AUTHORIZATION=f"{bearer}{between}{bearer}")
    assert code(twice) == "invalid_token"


@pytest.mark.parametrize(
    "joined",
    [
        {"HTTP_ORIGIN": f"{ORIGIN},{ORIGIN}"},
        {"HTTP_ORIGIN": f"https://evil.test,{ORIGIN}"},
        {"HTTP_X_KEYTURN": "1,1"},
        {"HTTP_ORIGIN": None, "HTTP_SEC_FETCH_SITE": "same-origin,same-origin"},
    ],
    ids=["origin", "foreign origin", "our header", "fetch metadata"],
)
def test_browser_headers_twice(node: Keyturn, joined: dict[str, Any]) -> None:
    """No header that says where a request comes from may stand there twice."""
    assert code(call(node.wsgi, **joined)) == "csrf_refused"


def test_content_type_twice(node: Keyturn) -> None:
    """Two types are none of ours."""
    answer = call(node.wsgi, json_body={}, CONTENT_TYPE="application/json,application/json")
    assert code(answer) == "unsupported_media_type"


# -- paths


@pytest.mark.parametrize("name", ["REQUEST_URI", "RAW_URI"])
@pytest.mark.parametrize(
    "sent",
    [
        *("/auth/%6Cogin", "http://auth.test/auth/logi%6E?x=1"),
        *("//auth/login", "/auth//login", "/auth/login/", "/auth/login/?x=1", "http://auth.test//auth/login"),
        *("http://auth.test/auth/login", "x://auth.test/auth/login?", "/auth/login#", "/auth/login#?"),
        *("/x/../auth/login", "/./auth/login?x=1", "/auth/x/y/../../login"),  # uWSGI and mod_wsgi
    ],
)
def test_path_in_another_spelling(node: Keyturn, name: str, sent: str) -> None:
    """It would slip past a proxy's rules, so it is another path, where the server tells how it was sent."""
    assert code(call(node.wsgi, **_environ(name, sent))) == "not_found"


@pytest.mark.parametrize("sent", ["/auth/login?next=%2F", "/auth/login?a//b/", "/auth/login?#", "/x/auth/login?"])
def test_path_in_a_whole_target(node: Keyturn, sent: str) -> None:
    """A query is not looked at, nor is a mount."""
    assert code(call(node.wsgi, json_body={}, REQUEST_URI=sent)) == "invalid_request"


@pytest.mark.parametrize(
    "path", ["", "/", "/auth", "/auth/login/", "//auth/login", "/auth/l\xc3\xb6gin", "/AUTH/login"]
)
def test_unknown_path(node: Keyturn, path: str) -> None:
    """Paths are matched as they are spelled."""
    assert code(call(node.wsgi, path=path, SCRIPT_NAME="" if path else "/mounted")) == "not_found"


def test_path_below_a_mount(node: Keyturn) -> None:
    """The application can be mounted: the mount's path is not part of ours."""
    assert call(node.wsgi, "GET", "/healthz", SCRIPT_NAME="/x").status == 200


def test_unknown_method(node: Keyturn) -> None:
    """A method that a path does not have is refused by us, with what it has."""
    answer = call(node.wsgi, "DELETE")
    assert (code(answer), answer.all("allow")) == ("method_not_allowed", ["OPTIONS, POST"])


# -- bodies


class Dripping:
    """An input that hands over a byte at a time, as `read1` of a socket's file may."""

    def __init__(self, content: bytes) -> None:
        self.left = content

    def read(self, size: int) -> bytes:
        """Wait for all of it, which nobody should."""
        raise AssertionError(size)

    def read1(self, size: int) -> bytes:
        """Hand over what has come."""
        assert size > 0
        byte, self.left = self.left[:1], self.left[1:]
        return byte


async def body_of(source: object, length: str | None, seconds: float = 10.0, **environ: Any) -> bytes:
    """Read the body of a request."""
    whole = {"REQUEST_METHOD": "POST", "CONTENT_TYPE": "application/json", "wsgi.input": source, **environ}
    return await read_environ(whole | {"CONTENT_LENGTH": length}, seconds).body()


@pytest.mark.anyio
async def test_body_that_drips() -> None:
    """A body that comes in pieces is put together, and given up where it takes too long."""
    assert await body_of(Dripping(b"true and more"), "4") == b"true"
    drip = Dripping(b"true")
    with pytest.raises(BodyTooSlow):
        await body_of(drip, "4", 0.0)
    assert drip.left == b"rue"


@pytest.mark.anyio
async def test_body_that_ends_early() -> None:
    """A client that leaves in mid-body, or whose server says so by an error, is gone."""

    class Broken:
        def read(self, size: int) -> bytes:
            raise ConnectionResetError

    for source in (Dripping(b"tr"), Broken()):
        with pytest.raises(ClientGone):
            await body_of(source, "4")


@pytest.mark.anyio
async def test_body_in_chunks() -> None:
    """A body without a length is read to its end where the server knows the end, and refused where it does not."""
    chunked: dict[str, Any] = {"HTTP_TRANSFER_ENCODING": "chunked"}
    assert await body_of(Dripping(b"true"), None, **chunked, **{"wsgi.input_terminated": True}) == b"true"
    for length in (None, "4"):
        with pytest.raises(InvalidRequest):
            await body_of(Dripping(b"true"), length, **chunked)


def test_body_at_the_limit(node: Keyturn) -> None:
    """One byte over the limit is too many, announced or not."""
    body = b'{"email":"nobody@example.com","password":"wrong"}'
    body += b" " * (MAX_BODY_BYTES - len(body))
    endless: dict[str, Any] = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True, "CONTENT_LENGTH": ""}
    forms: list[dict[str, Any]] = [{}, endless]
    for more in forms:
        assert code(call(node.wsgi, body=body, **more)) == "invalid_credentials"
        assert code(call(node.wsgi, body=body + b" ", **more)) == "payload_too_large"


@pytest.mark.parametrize("length", ["9" * 40, str(MAX_BODY_BYTES + 1), "000000000000000099999999999"])
@pytest.mark.anyio
async def test_body_announced_too_large(node: Keyturn, length: str) -> None:
    """What is announced too large is refused without reading it."""
    assert code(call(node.wsgi, body=b"{}", CONTENT_LENGTH=length)) == "payload_too_large"


@pytest.mark.parametrize("length", ["2,2", "-1", "0x2", "two"])
@pytest.mark.anyio
async def test_length_that_is_none(length: str) -> None:
    """Two lengths, or what is no number, are refused and not chosen from."""
    with pytest.raises(InvalidRequest):
        await body_of(Dripping(b"{}"), length)


def test_foreign_page_with_a_broken_body(node: Keyturn) -> None:
    """Where a request comes from is judged before its body, although the body was read first."""
    foreign = BROWSER | {"origin": "https://evil.test"}
    assert code(call(node.wsgi, body=b" " * (MAX_BODY_BYTES + 1), headers=foreign)) == "csrf_refused"


def test_client_that_has_gone(node: Keyturn) -> None:
    """Nobody is there to read an answer, and WSGI must have one all the same."""
    answer = call(node.wsgi, body=b"{}", CONTENT_LENGTH="100")
    assert code(answer) == "invalid_request"


def test_type_that_nobody_sent(node: Keyturn, ada: Answer) -> None:
    """Where a request has no body, wsgiref makes up a type: one is judged only where there is one."""
    made_up: dict[str, Any] = {"CONTENT_TYPE": "text/plain"}
    assert refresh(node, ada.cookie, **made_up).status == 200
    assert code(refresh(node, ada.cookie, body=b"{}", **made_up)) == "unsupported_media_type"


def test_age_of_a_request() -> None:
    """A request that has waited longer than anybody waits for its answer is not judged; its body counts as waiting."""
    now = [100.0]

    class Slow:
        def read(self, size: int) -> bytes:
            now[0] += REQUEST_LIMIT
            return b"{}"

    environ = {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "2", "wsgi.input": Slow()}
    request = read_environ(environ, REQUEST_LIMIT + 1, monotonic=lambda: now[0])
    with pytest.raises(Unavailable):
        request.ensure_awaited()


def test_node_that_cannot_start(tmp_path: Path) -> None:
    """A node that cannot start answers 503 and tries again with the next request."""
    database = tmp_path / "keyturn.db"
    database.write_bytes(b"this is no database" * 100)
    node = new_node(f"sqlite:///{database}")
    try:
        answer = call(node.wsgi, path="/auth/refresh", HTTP_COOKIE="__Host-kt_refresh=x")
        assert (code(answer), answer.all("retry-after")) == ("unavailable", ["1"])
        assert answer.all("set-cookie") == []
        database.rename(tmp_path / "elsewhere.db")  # and not deleted: the next file might be taken for it
        assert sign_up(node.wsgi, "ada@example.com").status == 201
    finally:
        node.threaded.close()
