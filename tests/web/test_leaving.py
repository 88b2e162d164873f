"""Answers that leave in one piece are those that ASGI's messages would have made, byte for byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from keyturn.arriving import BoundedProtocol
from keyturn.leaving import send_whole
from keyturn.runtime import Keyturn
from keyturn.web.asgi import SEND_WHOLE, KeyturnASGI, write_response
from keyturn.wire import Header, Response, finish
from tests.web.conftest import ORIGIN

pytestmark = pytest.mark.anyio

ID = b"X-Request-ID: 0123456789abcdef\r\n"
LOGIN = (
    b"POST /auth/login HTTP/1.1\r\nHost: a\r\nX-Keyturn: 1\r\nContent-Type: application/json\r\n"
    + (b"Origin: %b\r\n" % ORIGIN.encode())
    + ID
    + b"Content-Length: %d\r\n\r\n%b"
)
BODY = b'{"email":"a@example.com","password":"wrong wrong wrong"}'
Application = Callable[..., Any]


@asynccontextmanager
async def serving(application: Application, *headers: Header) -> AsyncGenerator[tuple[str, int]]:
    """Serve an application as `keyturn serve` does, in this process. Args: headers: those on every answer."""
    config = uvicorn.Config(application, lifespan="off", log_config=None, access_log=False)
    config.load()
    state, loop = ServerState(), asyncio.get_running_loop()
    state.default_headers = [(b"date", b"Thu, 26 Nov 2026 00:00:00 GMT"), *headers]
    async with await loop.create_server(lambda: BoundedProtocol(config, state, {}), "127.0.0.1", 0) as listener:
        yield listener.sockets[0].getsockname()
        for connection in list(state.connections):
            connection.shutdown()


async def exchange(address: tuple[str, int], sent: bytes) -> bytes:
    """Send requests, and then that no more come; return all that is answered until the server ends the connection."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(sent)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + ID + b"\r\n")
    with anyio.fail_after(30):
        answer = await reader.read()
    writer.close()
    return answer


def as_messages(application: Application) -> Application:
    """Return the application as it is under a server that knows messages alone."""

    async def without(scope: Any, receive: Any, send: Any) -> None:
        del scope[SEND_WHOLE]
        await application(scope, receive, send)

    return without


@pytest.mark.parametrize(
    ("status", "sent"),
    [
        pytest.param(200, b"", id="the last of a connection"),
        pytest.param(200, b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + ID + b"\r\n", id="200"),
        pytest.param(200, b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + ID + b"\r\n" * 3, id="an empty line too many"),
        pytest.param(200, 2 * (b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + ID + b"\r\n"), id="two at once"),
        pytest.param(200, b"HEAD /healthz HTTP/1.1\r\nHost: a\r\n" + ID + b"\r\n", id="HEAD"),
        pytest.param(204, b"OPTIONS /auth/login HTTP/1.1\r\nHost: a\r\n" + ID + b"\r\n", id="204"),
        pytest.param(200, b"GET /healthz HTTP/1.0\r\n" + ID + b"\r\n", id="HTTP/1.0"),
        pytest.param(404, b"GET /nothing HTTP/1.1\r\nHost: a\r\n" + ID + b"\r\n", id="404"),
        pytest.param(401, LOGIN % (len(BODY), BODY), id="401"),
        pytest.param(413, LOGIN % (20_000, b"x" * 20_000), id="413"),
        pytest.param(
            401, (LOGIN % (len(BODY), BODY)).replace(b"Content-L", b"Expect: 100-continue\r\nContent-L"), id="Expect"
        ),
    ],
)
async def test_same_bytes(node: Keyturn, status: int, sent: bytes) -> None:
    """What is answered does not tell how it was sent."""
    application = KeyturnASGI(node.web)
    async with serving(application) as whole, serving(as_messages(application)) as messages:
        answer = await exchange(whole, sent)
        assert answer == await exchange(messages, sent)
    assert f" {status} ".encode() in answer


async def test_server_that_drains(node: Keyturn) -> None:
    """Its answers are the last of their connections."""
    async with serving(KeyturnASGI(node.web), (b"connection", b"close")) as address:
        answer = await exchange(address, b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.count(b"HTTP/1.1 ") == answer.count(b"connection: close\r\n") == 1


async def test_one_piece() -> None:
    """Head and body are one write, of a request that is followed by others."""
    written: list[bytes] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        cycle: RequestResponseCycle = send.__self__
        write = cycle.transport.write

        def note(data: bytes) -> None:
            written.append(bytes(data))
            write(data)

        cycle.transport.write = note  # type: ignore[method-assign, assignment]
        await write_response(finish(Response(200, [], b"{}"), "0123456789abcdef"), scope, send)

    async with serving(application) as address:
        await exchange(address, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert written[0].endswith(b"content-length: 2\r\n\r\n{}")


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        pytest.param([(b"x-one", b"1\r\nset-cookie: a=b"), (b"content-length", b"2")], b"{}", id="a line in a value"),
        pytest.param([(b"x-one", b"1\n2"), (b"content-length", b"2")], b"{}", id="LF"),
        pytest.param([(b"x-one", b"1\r2"), (b"content-length", b"2")], b"{}", id="CR"),
        pytest.param([(b"x-one: 1\r\nx-two", b"2"), (b"content-length", b"2")], b"{}", id="a line in a name"),
        pytest.param([(b"content-length", b"3")], b"{}", id="too short"),
        pytest.param([(b"content-length", b"1")], b"{}", id="too long"),
        pytest.param([(b"content-length", b"2"), (b"content-length", b"3")], b"{}", id="two lengths"),
    ],
)
async def test_what_the_server_refuses_is_not_sent(headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    """An answer that uvicorn would not send as messages goes to it, and none of it to the client."""
    taken: list[bool] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        taken.append(scope[SEND_WHOLE](send, 200, headers, body))
        await write_response(Response(200, headers, body), scope, send)

    async with serving(application) as address:
        answer = await exchange(address, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert not any(taken)
    assert b"set-cookie" not in answer


async def test_one_answer_to_a_request() -> None:
    """Of a second one nothing is sent."""
    taken: list[bool] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        taken.extend(send_whole(send, 200, [(b"content-length", b"2")], b"{}") for _ in range(2))

    async with serving(application) as address:
        answer = await exchange(address, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert taken[:2] == [True, False]
    assert answer.count(b"{}") == 1


async def test_client_who_reads_too_slowly() -> None:
    """While what was sent before is still unread, the next answer waits for its turn, as messages do."""
    taken: list[bool] = []
    refused = anyio.Event()
    body = b"x" * 1_000_000
    headers = [(b"content-length", b"%d" % len(body))]

    async def application(scope: Any, receive: Any, send: Any) -> None:
        taken.append(send_whole(send, 200, headers, body))
        if not taken[-1]:
            refused.set()
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    async with serving(application) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(12 * b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        with anyio.fail_after(30):
            await refused.wait()
            for _ in range(12):
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
                await reader.readexactly(len(body))
        writer.close()
    assert taken[0]


async def test_client_who_has_gone() -> None:
    """Nothing is sent to nobody."""
    taken: list[bool] = []
    arrived, gone = anyio.Event(), anyio.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        arrived.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        taken.append(send_whole(send, 200, [(b"content-length", b"2")], b"{}"))
        gone.set()

    async with serving(application) as address:
        _, writer = await asyncio.open_connection(*address)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        with anyio.fail_after(30):
            await arrived.wait()
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            await gone.wait()
    assert taken == [False]


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "as messages"])
def test_client_who_has_gone_while_another_request_waits(whole: bool) -> None:
    """Only the last request is told, and uvloop refuses what one before writes: that is no fault of the application's."""
    uvloop = pytest.importorskip("uvloop", reason="PyPy has none")

    async def leave() -> list[BaseException]:
        faults: list[BaseException] = []
        answered, done = anyio.Event(), anyio.Event()
        headers = [(b"content-length", b"2")]

        async def application(scope: Any, receive: Any, send: Any) -> None:
            cycle, first = receive.__self__, not answered.is_set()
            while not (first or cycle.transport.has_ended()):  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.01)
            assert not cycle.disconnected
            answered.set()
            try:
                if not (whole and send_whole(send, 200, headers, b"{}")):
                    await send({"type": "http.response.start", "status": 200, "headers": headers})
                    await send({"type": "http.response.body", "body": b"{}"})
            except RuntimeError as fault:  # what uvicorn would log
                faults.append(fault)
            if not first:
                done.set()

        async with serving(application) as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(3 * b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            with anyio.fail_after(30):
                await reader.readuntil(b"{}")
                writer.transport.abort()
                await done.wait()
        return faults

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(leave()) == []


async def test_body_that_somebody_between_has_changed(node: Keyturn) -> None:
    """A body counts as it is handed to us, not as it came."""

    async def between(scope: Any, receive: Any, send: Any) -> None:
        async def replaced() -> Any:
            return {**await receive(), "body": BODY}

        await KeyturnASGI(node.web)(scope, replaced, send)

    async with serving(between) as address:
        answer = await exchange(address, LOGIN % (2, b"{}"))
    assert answer.startswith(b"HTTP/1.1 401 ")


async def test_between_the_server_and_us(node: Keyturn) -> None:
    """What stands between hears of every answer: then it goes as messages."""
    seen: list[str] = []

    async def between(scope: Any, receive: Any, send: Any) -> None:
        async def note(message: Any) -> None:
            seen.append(message["type"])
            await send(message)

        await KeyturnASGI(node.web)(scope, receive, note)

    async with serving(between) as address:
        answer = await exchange(address, b"")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert seen == ["http.response.start", "http.response.body"]
