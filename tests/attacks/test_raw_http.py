"""Bytes on a socket that no HTTP library would send, against a running `keyturn serve`."""

from __future__ import annotations

import asyncio
import json
import re
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from typing import Any

import anyio
import pytest
import uvicorn
from uvicorn.server import ServerState

from keyturn.arriving import WAITING_LIMIT, BoundedProtocol
from keyturn.runtime import Keyturn
from keyturn.web.application import WebApplication
from keyturn.web.asgi import KeyturnASGI
from tests.attacks.conftest import Server, start_servers, stop_servers
from tests.attacks.support import ORIGIN, SAFE
from tests.databases import sqlite_database
from tests.services import wait_until

BODY = b'{"email":"a@example.com","password":"x"}'
HEAD = (
    b"POST /auth/login HTTP/1.1\r\nHost: auth.test\r\nX-Keyturn: 1\r\nOrigin: %s\r\nContent-Type: application/json\r\n"
    % ORIGIN.encode()
)
LONG = b"x" * 80_000 + b"\r\n\r\n"
Short = tuple[Server, bool]


def exchange(server: Server, sent: bytes, *, until_closed: bool = False) -> bytes:
    """Send bytes and return what comes back: one answer, or all of them until the server closes the connection."""
    answer = b""
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=30)) as link:
        # The server may close while we still send: its answer is there all the same.
        with suppress(OSError):
            link.sendall(sent)
        with suppress(ConnectionResetError):
            while until_closed or not complete(answer):
                chunk = link.recv(65536)
                if not chunk:
                    break
                answer += chunk
    return answer


def complete(answer: bytes) -> bool:
    """Say whether at least one whole answer has arrived."""
    head, found, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return bool(found) and length is not None and len(body) >= int(length[1])


def status(answer: bytes) -> int:
    """Return the status of the first answer, 0 when there is none."""
    found = re.match(rb"HTTP/1\.1 (\d{3})", answer)
    return int(found[1]) if found else 0


def alive(server: Server) -> bool:
    """Say whether the server answers others as before."""
    return status(exchange(server, b"GET /healthz HTTP/1.1\r\nHost: auth.test\r\n\r\n")) == 200


@pytest.mark.parametrize(
    "framing",
    [
        pytest.param(b"Content-Length: 40\r\nContent-Length: 41\r\n\r\n", id="two lengths"),
        pytest.param(b"Content-Length: 40\r\nContent-Length: 40\r\n\r\n", id="one length twice"),
        pytest.param(b"Content-Length: 40, 41\r\n\r\n", id="list of lengths"),
        pytest.param(b"Content-Length: +40\r\n\r\n", id="sign"),
        pytest.param(b"Content-Length: 0x28\r\n\r\n", id="hex"),
        pytest.param(b"Content-Length: -1\r\n\r\n", id="negative"),
        pytest.param(b"Content-Length: 99999999999999999999\r\n\r\n", id="overflow"),
        pytest.param(b"Content-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n", id="length and chunks"),
        pytest.param(b"Transfer-Encoding: chunked, identity\r\n\r\n", id="two encodings"),
        pytest.param(b"Transfer-Encoding: xchunked\r\n\r\n", id="unknown encoding"),
        pytest.param(b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", id="unknown encoding under chunks"),
        pytest.param(
            b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="encodings in two lines"
        ),
    ],
)
def test_ambiguous_framing_smuggles_nothing(server: Server, framing: bytes) -> None:
    """A body whose end two readers would see in different places is refused, and what follows it is never a request."""
    smuggled = b"GET /smuggled-0123456789 HTTP/1.1\r\nHost: auth.test\r\nX-Request-ID: smuggled-0123456789\r\n\r\n"
    answer = exchange(server, HEAD + framing + BODY + smuggled, until_closed=True)
    assert status(answer) in {0, 400, 413, 422}
    assert answer.count(b"HTTP/1.1 ") <= 1
    assert b"smuggled" not in answer
    assert alive(server)


@pytest.mark.parametrize("offer", [b"h2c", b"websocket"])
@pytest.mark.parametrize("framing", [b"Content-Length: %d\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n%x\r\n"])
def test_body_under_an_offer_to_upgrade_is_no_request(server: Server, offer: bytes, framing: bytes) -> None:
    """A parser that has left HTTP takes the body, where it comes by itself, for the next request: so none may come.

    A proxy that passes offers on would give the answer to that request to the next person on the connection.
    """
    upgrade = b"Connection: Upgrade\r\nUpgrade: " + offer + b"\r\n"
    smuggled = b"GET /smuggled-0123456789 HTTP/1.1\r\nHost: a\r\nX-Request-ID: smuggled-0123456789\r\nConnection: close\r\n\r\n"
    answer = b""
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=30)) as link:
        link.sendall(HEAD + upgrade + framing % len(smuggled))
        while not complete(answer):
            answer += link.recv(65536)
        with suppress(OSError):
            link.sendall(smuggled)
            while chunk := link.recv(65536):
                answer += chunk
    assert status(answer) == 400
    assert answer.count(b"HTTP/1.1 ") == 1
    without = exchange(server, b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + upgrade + b"\r\n")
    assert status(without) == 200
    # Some libraries offer it with each connection (Java's, curl --http2), which is nothing for an operator to look after.
    assert "upgrade" not in server.log.read_text().lower()


@pytest.mark.parametrize(
    "first", [b"GET /healthz HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n", b"CONNECT /healthz HTTP/1.1\r\n"]
)
@pytest.mark.parametrize("came", ["nothing", "half a head", "a head", "a request"])
def test_requests_behind_an_offer_to_upgrade(server: Server, first: bytes, came: str) -> None:
    """Each is answered, in order, whatever of it came with the offer, which a parser that has left HTTP forgets.

    Then its body was a request by itself, or whoever waited for its answer got that of the next one.
    """
    smuggled = b"GET /smuggled-0123456789 HTTP/1.1\r\nHost: a\r\nX-Request-ID: smuggled-0123456789\r\n\r\n"
    head = HEAD + b"Content-Length: %d\r\n\r\n" % len(smuggled)
    others = head + smuggled
    cut = {"nothing": 0, "half a head": 20, "a head": len(head), "a request": len(others)}[came]
    last = b"GET /auth/me HTTP/1.1\r\nHost: a\r\nX-Request-ID: last-0123456789\r\nConnection: close\r\n\r\n"
    answer = b""
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=30)) as link:
        link.sendall(first + b"Host: a\r\n\r\n" + others[:cut])
        while not complete(answer):
            answer += link.recv(65536)
        link.sendall(others[cut:] + last)
        while chunk := link.recv(65536):
            answer += chunk
    assert [int(each) for each in re.findall(rb"HTTP/1\.1 (\d{3})", answer)][1:] == [422, 401]
    assert b"smuggled" not in answer
    assert answer.count(b"last-0123456789") == 2
    assert alive(server)


@pytest.mark.parametrize("announced", [16 * 1024 + 1, 10**9, 10**15])
def test_huge_announced_body_is_refused_unread(server: Server, announced: int) -> None:
    """A length over the limit is a 413 before a byte of the body is sent, and the connection ends."""
    answer = exchange(server, HEAD + b"Content-Length: %d\r\n\r\n" % announced)
    assert status(answer) == 413
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "payload_too_large"
    assert b"connection: close" in answer.lower()
    assert alive(server)


def test_huge_chunked_body_is_refused_while_it_comes(server: Server) -> None:
    """A body without a length is read up to the limit and no further."""
    chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    answer = exchange(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 64)
    assert status(answer) in {0, 413}
    assert alive(server)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        pytest.param(HEAD + b"Content-Length: 4000100\r\n\r\n", 413, id="length over the limit"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n5000\r\n" + b"x" * 0x5000, 413, id="chunks over it"),
        pytest.param(HEAD + b"Connection: close\r\nContent-Length: 4000100\r\n\r\n", 413, id="last one"),
        pytest.param(
            b"POST /none HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 4000100\r\n\r\n", 404, id="unread"
        ),
        pytest.param(HEAD + b"Host: b\r\nContent-Length: 4000100\r\n\r\n", 400, id="malformed"),
        pytest.param(b"GET / HTTP/1.1\r\nX: " + b"x" * 80_000, 431, id="huge head"),
    ],
)
def test_answer_that_comes_before_the_end_of_the_request(server: Server, head: bytes, expected: int) -> None:
    """Whoever sends all of it before they read, as proxies do, meets no reset, and the connection ends after the answer.

    nginx makes a 502 of a reset, and sends nothing more to the server for ten seconds.
    """
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=30)) as link:
        link.sendall(head)
        assert select.select([link], [], [], 30)[0]
        for _ in range(40):
            link.sendall(b"x" * 100_000)
        answer = b""
        while chunk := link.recv(65536):
            answer += chunk
    assert status(answer) == expected
    assert answer.count(b"HTTP/1.1 ") == 1
    assert alive(server)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET /auth/me HTTP/1.1\r\nHost: auth.test\r\nX: " + b"x" * 2_000_000, id="header"),
        pytest.param(b"GET /auth/me HTTP/1.1\r\nHost: auth.test\r\n" + b"X: %d\r\n" % 10**6 * 200_000, id="headers"),
        pytest.param(b"GET /" + b"x" * 2_000_000, id="path"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: %d\r\n" % 10**6 * 200_000, id="trailers"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + LONG, id="whole header"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + b"X:1\r\n" * 14_000 + b"\r\n", id="whole headers"),
        pytest.param(
            b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /healthz HTTP/1.1\r\nHost: a\r\nX: " + LONG,
            id="whole second head",
        ),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: " + LONG, id="whole trailer"),
    ],
)
def test_huge_head_is_refused(server: Server, sent: bytes) -> None:
    """What belongs to no body ends after 64 KiB, although the request never does: it would fill the memory.

    So does a request that ends before it is looked at: with one read of the socket.
    """
    answer = exchange(server, sent, until_closed=True)
    assert status(answer) in {0, 431}
    assert alive(server)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + b"X:\r\n" * 300 + b"\r\n", id="whole head"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + b"X:\r\n" * 300, id="half a head"),
        pytest.param(HEAD + b"Content-Length: 40\r\n" + b"X:\r\n" * 300 + b"\r\n", id="half a body"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X:\r\n" * 300 + b"\r\n", id="trailers"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X:\r\n" * 300, id="half the trailers"),
    ],
)
def test_many_small_headers(server: Server, sent: bytes) -> None:
    """More than 256 end the connection: a thousand connections with 64 KiB of them each held more than a gigabyte."""
    answer = exchange(server, sent, until_closed=True)
    assert status(answer) in ({431} if b"chunked" not in sent else {0, 431})
    assert alive(server)


def refused(server: Server) -> list[Any]:
    """Return what the log says of requests that never arrived: status, sender, reason."""
    lines = [json.loads(line) for line in server.log.read_bytes().splitlines() if line.startswith(b"{")]
    return [(line["status"], line["peer"], line.get("why")) for line in lines if line["logger"] == "keyturn.arriving"]


@pytest.mark.parametrize("rest", [b"", b"\r\n"], ids=["half a head", "whole head"])
def test_refusal_of_a_head_is_logged(server: Server, rest: bytes) -> None:
    """Once, with who sent it: a browser with too many cookies is not to be looked for among malformed requests."""

    before = refused(server)
    assert status(exchange(server, b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + b"X:\r\n" * 300 + rest)) == 431
    wait_until(lambda: len(refused(server)) > len(before), 10, "a line in the log")
    assert alive(server)
    assert refused(server)[len(before) :] == [(431, "127.0.0.1", None)]


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"GET http://a/healthz HTTP/1.1\r\nHost: a\r\n\r\n", "a target that is more than a path"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", "Invalid method encountered"),
        (b"GET /\xff?secret HTTP/1.1\r\nHost: a\r\n\r\n", "invalid url"),
    ],
    ids=["our reason", "the parser's", "without the path"],
)
def test_malformed_request_is_logged(server: Server, sent: bytes, why: str) -> None:
    """With who sent it, and why: a proxy that is set up wrongly, or speaks TLS to a server that does not, is found by it."""
    before = refused(server)
    assert status(exchange(server, sent)) == 400
    wait_until(lambda: len(refused(server)) > len(before), 10, "a line in the log")
    assert refused(server)[len(before) :] == [(400, "127.0.0.1", why)]


def test_head_within_the_limit(server: Server) -> None:
    """A head of 60 KB, as of a browser with too many cookies, is read; so is the request after it."""
    request = b"GET /healthz HTTP/1.1\r\nHost: auth.test\r\nCookie: " + b"x" * 60_000 + b"\r\n\r\n"
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=30)) as link:
        for _ in range(3):
            link.sendall(request)
            answer = b""
            while not complete(answer):
                answer += link.recv(65536)
            assert status(answer) == 200


def test_requests_sent_without_waiting(server: Server) -> None:
    """A few requests at once are answered, each; thousands end the connection: each held waits in memory for its turn.

    Ten connections that sent a megabyte of them, and read nothing, took a gigabyte and seven seconds of everybody's time.
    """
    request = b"GET /auth/me HTTP/1.1\r\nHost: auth.test\r\n\r\n"
    last = b"GET /auth/me HTTP/1.1\r\nHost: auth.test\r\nConnection: close\r\n\r\n"
    few = exchange(server, request * 8 + last, until_closed=True)
    assert few.count(b"HTTP/1.1 401 ") == 9
    many = exchange(server, request * 10_000 + last, until_closed=True)
    assert many.count(b"HTTP/1.1 ") <= WAITING_LIMIT
    assert alive(server)


def test_trailers_are_no_headers(server: Server) -> None:
    """What stands behind a body opens nothing, and names no address: some proxies pass it on as it is, behind their own headers.

    Spec: RFC 9110 6.5.1.
    """
    head = b"POST /auth/refresh HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 198.51.100.77\r\n"
    trailers = b"X-Keyturn: 1\r\nOrigin: %s\r\nX-Forwarded-For: 203.0.113.77\r\n\r\n" % ORIGIN.encode()
    assert status(exchange(server, head + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + trailers)) == 403
    wait_until(lambda: "198.51.100.77" in server.log.read_text(), 30, "the line in the log")
    assert "203.0.113.77" not in server.log.read_text()


FILES = {"-n 300": False, "-Sn 256": True}
"""How many files a server may open, as `ulimit` takes it: no more, or more where it asks for them; who rests there is then kept."""


@pytest.fixture(scope="module", params=FILES, ids=["no more files to be had", "more files to be had"])
def short_of_files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Short]:
    """A server that may open few files, and whether it may have more than these."""
    directory, files = tmp_path_factory.mktemp("short"), request.param
    (server,) = start_servers(sqlite_database(directory), directory, 1, files=files)
    yield server, FILES[files]
    stop_servers([server])


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HT", HEAD + b"Content-Length: 40\r\n\r\n"], ids=len)
def test_connections_that_keep_others_out(short_of_files: Short, sent: bytes) -> None:
    """Whoever opens as many as there may be, or more, keeps nobody out, and takes no file that the database needs."""
    server, kept = short_of_files
    body = b'{"email": "ada%d@example.com", "password": "a long and winding passphrase"}' % len(sent)
    with ExitStack() as stack:
        links = [
            stack.enter_context(closing(socket.create_connection(("127.0.0.1", server.port), timeout=30)))
            for _ in range(600)
        ]
        for link in links:
            with suppress(OSError):
                link.sendall(sent)
        assert alive(server)
        sign_up = HEAD.replace(b"login", b"signup") + b"Content-Length: %d\r\n\r\n" % len(body) + body
        assert status(exchange(server, sign_up)) == 201
        answer = b""
        with suppress(OSError):
            links[0].sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"[len(sent) :] if len(sent) < 40 else b"x" * 40)
            answer = links[0].recv(65536)
        assert bool(status(answer)) == kept


def test_connections_that_are_answered_and_send_on_keep_nobody_out(short_of_files: Short) -> None:
    """They rest as well: nobody waits for more than the end of what is forgotten."""
    server, _ = short_of_files
    with ExitStack() as stack:
        for _ in range(600):
            link = stack.enter_context(closing(socket.create_connection(("127.0.0.1", server.port), timeout=30)))
            link.sendall(HEAD + b"Content-Length: 4000100\r\n\r\n")
            assert status(link.recv(65536)) == 413
        assert alive(server)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        pytest.param(b"GET /healthz HTTP/1.1\r\n\r\n", 400, id="none"),
        pytest.param(b"GET /healthz HTTP/2.0\r\n\r\n", 400, id="none in a version of another kind"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: auth.test\r\nhost: evil.test\r\n\r\n", 400, id="two"),
        pytest.param(b"GET /healthz HTTP/1.0\r\nHost: auth.test\r\nHost: auth.test\r\n\r\n", 400, id="two in HTTP/1.0"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost:\r\n\r\n", 200, id="empty"),
        pytest.param(b"GET /healthz HTTP/1.0\r\n\r\n", 200, id="none in HTTP/1.0, as old health checks"),
    ],
)
def test_host_that_servers_on_the_way_may_read_differently(server: Server, head: bytes, expected: int) -> None:
    """Spec: RFC 9112 3.2: exactly one in HTTP/1.1, and never two."""
    assert status(exchange(server, head, until_closed=expected == 400)) == expected
    assert alive(server)


@pytest.mark.parametrize(
    "target",
    [
        *(b"https://auth.test/readyz", b"http://auth.test/readyz", b"HTTP://auth.test:80/readyz", b"x://a@b/readyz"),
        *(b"/readyz#", b"/readyz#/auth/", b"/readyz?#", b"https://auth.test", b"auth.test:80", b"readyz", b"?/readyz"),
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"CONNECT"])
def test_target_that_a_proxy_may_take_for_another_path(server: Server, method: bytes, target: bytes) -> None:
    """What is more than a path and a query is no request: Varnish lets `https://auth.test/readyz` pass a rule about `^/readyz`."""
    answer = exchange(server, b"%s %s HTTP/1.1\r\nHost: auth.test\r\n\r\n" % (method, target))
    assert status(answer) == 400
    assert alive(server)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET /auth/me HTTP/1.1\r\nHost: auth.test\r\nX-A: b\r\n\tfolded\r\n\r\n", id="folded header"),
        pytest.param(b"GET /auth/me HTTP/1.1\r\nHost: auth.test\r\nX-A : b\r\n\r\n", id="blank before colon"),
        pytest.param(b"GET /auth/me HTTP/1.1\r\nHost: auth.test\r\nX-A: b\0c\r\n\r\n", id="NUL in a value"),
        pytest.param(b"GET /auth/me HTTP/9.9\r\nHost: auth.test\r\n\r\n", id="version"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2 preface"),
        pytest.param(b"GET http://evil.test/auth/me HTTP/1.1\r\nHost: auth.test\r\n\r\n", id="absolute form"),
        pytest.param(b"GET /auth/me\r\n\r\n", id="HTTP/0.9"),
        pytest.param(b"\r\n\r\n\0\0\0\0", id="nothing"),
    ],
)
def test_malformed_request_is_no_error_of_ours(server: Server, sent: bytes) -> None:
    """Whatever the bytes: no 5xx, no success, and the server goes on."""
    link = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    with closing(link):
        link.sendall(sent)
        link.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := link.recv(65536):
            answer += chunk
    assert status(answer) in {0, 400, 401, 404, 405}
    assert alive(server)


@pytest.mark.anyio
async def test_slow_body_is_given_up(sqlite_node: Keyturn) -> None:
    """A body of one byte a minute costs its time limit and no more: an answer, then the connection ends.

    The limit is made short here; the rest of the body never comes.
    """
    config = replace(sqlite_node.settings.web_config(), body_timeout=0.05)
    application = KeyturnASGI(WebApplication(sqlite_node.services, config))
    sent: list[Any] = []
    arriving = iter([{"type": "http.request", "body": b"{", "more_body": True}])

    async def receive() -> Any:
        for message in arriving:
            return message
        await anyio.sleep_forever()
        return None

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(name.encode(), value.encode()) for name, value in (*SAFE, ("content-type", "application/json"))]
    scope = {"type": "http", "method": "POST", "path": "/auth/login", "http_version": "1.1", "headers": headers}
    with anyio.fail_after(30):
        await application(scope, receive, send)
    assert sent[0]["status"] == 422
    assert (b"connection", b"close") in sent[0]["headers"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("first", "then"),
    [
        pytest.param(b"", b"", id="nothing"),
        pytest.param(b"GET /healthz HT", b"", id="half a head"),
        pytest.param(b"GET /", b"x", id="a head byte by byte"),
        pytest.param(b"\r\n", b"\r\n", id="empty lines"),
        pytest.param(
            b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n\r\n", b"x", id="a body nobody asked for"
        ),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /", b"x", id="the second request"),
        pytest.param(HEAD + b"Content-Length: 900000\r\n\r\n", b"x", id="a body that was refused"),
        pytest.param(HEAD + b"Host: b\r\nContent-Length: 9000\r\n\r\n", b"x", id="a head that was refused"),
    ],
)
async def test_request_that_never_ends_is_given_up(sqlite_node: Keyturn, first: bytes, then: bytes) -> None:
    """A connection on which a request does not end in time is closed: a few hundred would take all there may be.

    The times are made short here. What comes now and then, after the first answer too, buys no time.
    """
    config = uvicorn.Config(KeyturnASGI(sqlite_node.web), lifespan="off", log_config=None, timeout_keep_alive=1)
    config.load()
    state = ServerState()

    class Hasty(BoundedProtocol):
        arrival_time = 0.3

    loop = asyncio.get_running_loop()
    async with await loop.create_server(lambda: Hasty(config, state, {}), "127.0.0.1", 0) as listener:
        reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
        writer.write(first)

        async def until_closed() -> None:
            # A byte that comes while the server closes is one that it has not read: then the end is a reset.
            with suppress(ConnectionResetError):
                await reader.read()

        answered = asyncio.create_task(until_closed())
        with anyio.fail_after(30):
            # Its end of an answer is not yet the end of the connection.
            while not answered.done() or state.connections:
                await anyio.sleep(0.05)
                writer.write(then)
        writer.close()


@pytest.mark.anyio
@pytest.mark.parametrize(
    "first",
    [
        pytest.param(HEAD + b"Content-Length: 900000\r\n\r\n", id="a body that was refused"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /", id="half a head"),
    ],
)
async def test_request_that_never_ends_keeps_no_server_from_ending(sqlite_node: Keyturn, first: bytes) -> None:
    """A server that is told to end does not wait for it."""
    config = uvicorn.Config(KeyturnASGI(sqlite_node.web), lifespan="off", log_config=None)
    config.load()
    state, loop = ServerState(), asyncio.get_running_loop()
    async with await loop.create_server(lambda: BoundedProtocol(config, state, {}), "127.0.0.1", 0) as listener:
        reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
        writer.write(first)
        with anyio.fail_after(10):
            await reader.readuntil(b"}")
            for connection in list(state.connections):
                connection.shutdown()
            while state.connections:
                await anyio.lowlevel.checkpoint()
        writer.close()


@pytest.mark.anyio
@pytest.mark.parametrize("unread", [b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /", b""])
async def test_request_that_has_come_when_the_server_ends_is_answered(sqlite_node: Keyturn, unread: bytes) -> None:
    """Also by a connection that rests, where the system holds it: a proxy made a 502 of the reset. Half of one is not waited for."""
    config = uvicorn.Config(KeyturnASGI(sqlite_node.web), lifespan="off", log_config=None)
    config.load()
    state, loop = ServerState(), asyncio.get_running_loop()
    async with await loop.create_server(lambda: BoundedProtocol(config, state, {}), "127.0.0.1", 0) as listener:
        with closing(socket.create_connection(listener.sockets[0].getsockname())) as link, anyio.fail_after(10):
            link.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            link.setblocking(False)
            assert status(await loop.sock_recv(link, 65536)) == 200
            link.sendall(unread)
            for connection in list(state.connections):
                connection.shutdown()
            # Who has sent nothing is told at once, and not when the loop comes to it: what is sent meanwhile would be lost.
            answer = await loop.sock_recv(link, 65536) if unread else link.recv(65536)
            assert status(answer) == (200 if unread.endswith(b"\r\n") else 0)
            while state.connections:
                await anyio.lowlevel.checkpoint()


@pytest.mark.anyio
async def test_request_that_has_come_when_a_connection_has_rested_for_long_is_answered(sqlite_node: Keyturn) -> None:
    """The time of a busy server is over when it comes to look, and not when the request came."""
    config = uvicorn.Config(KeyturnASGI(sqlite_node.web), lifespan="off", log_config=None)
    config.load()
    protocol, loop = BoundedProtocol(config, ServerState(), {}), asyncio.get_running_loop()
    request = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
    async with await loop.create_server(lambda: protocol, "127.0.0.1", 0) as listener:
        with closing(socket.create_connection(listener.sockets[0].getsockname())) as link, anyio.fail_after(10):
            link.setblocking(False)
            for _ in range(2):
                link.sendall(request)
                assert status(await loop.sock_recv(link, 65536)) == 200
                link.sendall(request)
                protocol.timeout_keep_alive_handler()
                assert status(await loop.sock_recv(link, 65536)) == 200
            protocol.timeout_keep_alive_handler()
            assert link.recv(65536) == b""


@pytest.mark.anyio
async def test_requests_in_two_pieces(sqlite_node: Keyturn) -> None:
    """The time and the size of a request end with it, or with the connection: the next one has its own."""
    config = uvicorn.Config(KeyturnASGI(sqlite_node.web), lifespan="off", log_config=None)
    config.load()
    protocol, loop = BoundedProtocol(config, ServerState(), {}), asyncio.get_running_loop()
    protocol.arrival_time = 600.0
    async with await loop.create_server(lambda: protocol, "127.0.0.1", 0) as listener:
        reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
        with anyio.fail_after(30):
            for last in (False, False, True):
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\nCookie: " + b"x" * 40_000)
                while protocol._deadline is None:
                    await anyio.lowlevel.checkpoint()
                if not last:
                    writer.write(b"\r\n\r\n")
                    assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
                    assert protocol._deadline is None
            writer.close()
            while protocol._deadline is not None:
                await anyio.lowlevel.checkpoint()


def test_slow_clients_do_not_keep_others_waiting(server: Server) -> None:
    """Two hundred connections that send half a request each leave the server as quick to answer everybody else."""
    links = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(200)]
    try:
        for index, link in enumerate(links):
            link.sendall(HEAD if index % 2 else HEAD + b"Content-Length: 40\r\n\r\n{")
        assert alive(server)
        assert status(exchange(server, HEAD + b"Content-Length: 40\r\n\r\n" + BODY)) in {401, 422}
    finally:
        for link in links:
            link.close()
    assert alive(server)
