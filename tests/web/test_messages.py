"""Requests as values: headers, addresses, bodies. And times in answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn.core.errors import InvalidRequest, InvalidToken, UnsupportedMediaType
from keyturn.web import bodies
from keyturn.web.answers import rfc3339
from keyturn.web.messages import MAX_USER_AGENT, Header, Request, parse_json

pytestmark = pytest.mark.anyio

JSON: Header = (b"content-type", b"application/json")


def make(headers: Sequence[Header] = (), body: bytes = b"", *, peer: str | None = "192.0.2.9") -> Request:
    """Make a request whose body has arrived."""

    async def read() -> bytes:
        return body

    return Request("POST", "/auth/login", headers, read, peer=peer)


@pytest.mark.parametrize(
    ("forwarded", "hops", "expected"),
    [
        ([], 0, "192.0.2.9"),
        ([b"203.0.113.5"], 0, "192.0.2.9"),
        ([b"203.0.113.5"], 1, "203.0.113.5"),
        ([b"6.6.6.6, 203.0.113.5"], 1, "203.0.113.5"),
        ([b"6.6.6.6", b"203.0.113.5"], 1, "203.0.113.5"),
        ([b"6.6.6.6,203.0.113.5, 10.0.0.1"], 2, "203.0.113.5"),
        ([b"203.0.113.5"], 2, "192.0.2.9"),
        ([], 1, "192.0.2.9"),
        ([b"unknown"], 1, "192.0.2.9"),
        ([b"203.0.113.5, "], 1, "192.0.2.9"),
        ([b"203.0.113.5:4711"], 1, "203.0.113.5"),
        ([b"[2001:DB8::1]:4711"], 1, "2001:db8::1"),
        ([b"[2001:db8::1]"], 1, "2001:db8::1"),
        ([b"2001:db8:0:0:0:0:0:1"], 1, "2001:db8::1"),
        ([b"::ffff:203.0.113.5"], 1, "203.0.113.5"),
        ([b"fe80::1%eth0"], 1, "192.0.2.9"),
        ([b"203.0.113.5\r\nx: y"], 1, "192.0.2.9"),
        ([b"\xff\xfe"], 1, "192.0.2.9"),
        ([b"0177.0.0.1"], 1, "192.0.2.9"),
    ],
)
def test_client_address_by_trusted_hops(forwarded: list[bytes], hops: int, expected: str) -> None:
    """Only what our own proxies wrote is believed, whatever stands to the left of it."""
    request = make([(b"x-forwarded-for", value) for value in forwarded])
    assert request.client_address(hops) == expected


@pytest.mark.parametrize("name", [b"x-real-ip", b"forwarded", b"x-client-ip", b"true-client-ip", b"cf-connecting-ip"])
def test_client_address_in_other_headers(name: bytes) -> None:
    """No other spelling of a client address is looked at."""
    assert make([(name, b"6.6.6.6")]).client_address(1) == "192.0.2.9"


def test_client_address_without_peer() -> None:
    """A local socket has no address, and none is made up."""
    assert make(peer=None).client_address(0) == ""


@pytest.mark.parametrize("value", [b"Bearer abc", b"bearer abc", b"BEARER   abc", b"Bearer a-_.~+/b=="])
def test_bearer_well_formed(value: bytes) -> None:
    """The scheme is read without regard to case.  Spec: RFC 9110 11.1."""
    assert make([(b"authorization", value)]).bearer() == value.split()[-1].decode()


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Basic YTpi",
        b"Bearer a b",
        b"Bearer\ta",
        b" Bearer a",
        b"Bearer \xff",
        b"Bearer: a",
        b"Token a",
        b"B" * 100000,
    ],
)
def test_bearer_malformed(value: bytes) -> None:
    """A malformed Authorization header is a 401 and never an exception of another kind."""
    with pytest.raises(InvalidToken):
        make([(b"authorization", value)]).bearer()


def test_bearer_twice() -> None:
    """Two Authorization headers are refused, even equal ones."""
    with pytest.raises(InvalidToken):
        make([(b"authorization", b"Bearer a"), (b"authorization", b"Bearer a")]).bearer()


@given(st.lists(st.binary(max_size=40), max_size=3))
def test_bearer_of_anything(values: list[bytes]) -> None:
    """Whatever the header says, it is a token or a refusal."""
    try:
        token = make([(b"authorization", value) for value in values]).bearer()
    except InvalidToken:
        return
    assert token
    assert " " not in token


@pytest.mark.parametrize("sent", [b"0123456789abcdef", b"A-b_c.d12345", b"12345678", b"a" * 64])
def test_request_id_well_formed(sent: bytes) -> None:
    """A proxy's request id is taken over, so that its logs and ours can be joined."""
    assert make([(b"x-request-id", sent)]).id == sent.decode()


@pytest.mark.parametrize(
    "sent", [[b"1234567"], [b"a" * 65], [b"with space 12"], [b"a\r\nset-cookie: x"], [b"12345678"] * 2]
)
def test_request_id_malformed(sent: list[bytes]) -> None:
    """Anything that could forge a log line or a header is replaced."""
    made = make([(b"x-request-id", value) for value in sent]).id
    assert made.encode() not in sent
    assert len(made) == 32


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b"Mozilla/5.0", "Mozilla/5.0"),
        (b"a\tb\x1b[31mc\x85d", "a?b?[31mc?d"),
        (b"<script>alert(1)</script>", "<script>alert(1)</script>"),
        (b"x" * 10_000, "x" * MAX_USER_AGENT),
    ],
)
def test_user_agent_for_people(sent: bytes, kept: str) -> None:
    """Control characters are gone and length is bounded; escaping markup is for whoever shows it."""
    assert make([(b"user-agent", sent)]).user_agent() == kept


def test_user_agent_twice() -> None:
    """Two User-Agent headers are none."""
    assert make([(b"user-agent", b"a"), (b"user-agent", b"b")]).user_agent() == ""


@pytest.mark.parametrize(
    "content_type",
    [b"application/json", b"Application/JSON", b"application/json; charset=utf-8", b'application/json;charset="UTF-8"'],
)
async def test_content_type_of_json(content_type: bytes) -> None:
    """JSON in UTF-8 is read, however its type is spelled."""
    assert await make([(b"content-type", content_type)], b'{"a":1}').json() == {"a": 1}


@pytest.mark.parametrize(
    "types",
    [
        [],
        [b""],
        [b"text/plain"],
        [b"text/json"],
        [b"application/jsonp"],
        [b"application/problem+json"],
        [b"application/x-www-form-urlencoded"],
        [b"multipart/form-data; boundary=application/json"],
        [b"text/plain; application/json"],
        [b"application/json; charset=utf-16"],
        [b"application/json, text/plain"],
        [b"application/json", b"application/json"],
    ],
)
async def test_content_type_of_anything_else(types: list[bytes]) -> None:
    """JSON under another type is not read: a form of another site could have sent it (FastAPI CVE-2021-32677)."""
    with pytest.raises(UnsupportedMediaType):
        await make([(b"content-type", value) for value in types], b'{"a":1}').json()


async def test_empty_body_needs_no_type() -> None:
    """No body is an empty object."""
    assert await make().json() == {}


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"null",
        b"1",
        b'"a"',
        b"{",
        b"{} {}",
        b"{'a':1}",
        b'{"a":1,}',
        b'{"a":1,"a":1}',
        b'{"x":{"a":1,"a":2}}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\\ud800"}',
        b'{"a":"\\udc00\\ud800"}',
        b'{"a":"\x00"}',
        b'\xef\xbb\xbf{"a":1}',
        '{"a":1}'.encode("utf-16"),
        b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"a":' * 17 + b"1" + b"}" * 17,
        b'{"a":' + b"9" * 5000 + b"}",
    ],
)
async def test_json_not_strict(body: bytes) -> None:
    """What two readers could read differently is refused."""
    with pytest.raises(InvalidRequest):
        await make([JSON], body).json()


@given(st.binary(max_size=200))
def test_json_of_any_bytes(body: bytes) -> None:
    """Whatever arrives is an object or a refusal, and the refusal repeats nothing of it."""
    detail = ""
    try:
        assert type(parse_json(body)) is dict
    except InvalidRequest as refused:
        detail = refused.detail
    assert detail in {"", "the body is not one strict JSON object"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from(["email", "password", "remember", "device_name", "is_admin", "id"]), json_values)
)
def test_login_body_of_any_json(members: dict[str, object]) -> None:
    """Every JSON object is a login of exact types, or a refusal that repeats no value."""

    async def read() -> bytes:
        return json.dumps(members).encode("utf-8", "surrogatepass")

    request = Request("POST", "/", [JSON], read)
    coroutine = request.model(bodies.LogIn)
    try:
        coroutine.send(None)
    except StopIteration as done:
        body: bodies.LogIn = done.value
        assert set(members) <= {"email", "password", "remember", "device_name"}
        assert type(body.email) is type(body.password) is str
        assert type(body.remember) is bool
    except InvalidRequest as refused:
        detail = refused.detail
        assert all(str(value) not in detail for value in members.values() if len(str(value)) > 30)


async def test_refused_body_repeats_nothing() -> None:
    """Neither the message nor the exception's context holds what was sent."""
    body = b'{"email":"ada@example.com","password":"hunter2hunter2hunter2","remember":"hunter2","hunter2":1}'
    with pytest.raises(InvalidRequest) as caught:
        await make([JSON], body).model(bodies.LogIn)
    assert "hunter2" not in repr(caught.value) + caught.value.detail
    assert caught.value.__context__ is None
    assert "remember" in caught.value.detail
    assert "an unknown member" in caught.value.detail


@given(st.integers(0, 7_258_118_400_000))
def test_times_to_the_millisecond(milliseconds: int) -> None:
    """As the standard library reads them, in one form."""
    text = rfc3339(milliseconds / 1000)
    assert datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC) == timedelta(milliseconds=milliseconds)
    assert len(text) == len("2026-01-01T00:00:00.000Z")
    assert text.endswith("Z")
    # What is left is cut off: no time is told that is yet to come.
    assert rfc3339(milliseconds / 1000 + 0.0009) == text
