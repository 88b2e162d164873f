"""The way to Redis: what a URL may ask for, how long a question takes, and whatever else answers at that address."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import anyio
import pytest

from keyturn.core.errors import Unavailable
from keyturn.core.login import Limit
from keyturn.stores.redis import ANSWER_TIME, AT_ONCE, CHANNEL, ENTRIES, RedisFeed, connect, ping, ping_feed, publish
from keyturn.stores.revocations import Denied, open_denylist
from keyturn.stores.throttle import RedisThrottle
from keyturn.wire import name_of
from tests.auth.corpus import certify
from tests.services import RedisServer
from tests.stores.support import eventually, open_database

pytestmark = pytest.mark.anyio

A = Limit(("login-account", "alice@example.com"), 3, 900.0)
B = Limit(("login-address", "192.0.2.1"), 5, 600.0)
SLACK = 1.5
"""Seconds that a busy machine may take longer."""

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncGenerator[int]:
    """Serve on a port of this machine, until the block ends."""
    tasks: set[asyncio.Task[None]] = set()

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (OSError, EOFError, ValueError):
            pass
        finally:
            writer.close()

    def began(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(guarded(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(began, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def command(reader: asyncio.StreamReader) -> list[bytes]:
    """Read one command as a client sends it."""
    parts = int((await reader.readuntil())[1:])
    return [(await reader.readexactly(int((await reader.readuntil())[1:]) + 2))[:-2] for _ in range(parts)]


def answering_with(reply: bytes, pause: float = 0.0) -> Serve:
    """Greet as Redis does, and answer everything else with one reply."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            [name, *_] = await command(reader)
            await asyncio.sleep(pause)
            writer.write(b"%1\r\n+proto\r\n:3\r\n" if name == b"HELLO" else reply)

    return serve


def leading_to(port: int, passing: Callable[[bytes], Awaitable[None]]) -> Serve:
    """Be a proxy in front of Redis; `passing` is awaited before an answer of it is passed on."""

    async def pump(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wait: Callable[[bytes], Awaitable[None]] | None
    ) -> None:
        while data := await reader.read(65536):
            if wait is not None:
                await wait(data)
            writer.write(data)
            await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        ways = [asyncio.ensure_future(pump(reader, back, None)), asyncio.ensure_future(pump(there, writer, passing))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            back.close()

    return serve


# -- the URL


@pytest.mark.parametrize(
    "more",
    [
        "/0?decode_responses=true",
        "/0?legacy_responses=false",
        "/0?encoding=utf-16",
        "/0?socket_timeout=60",
        "/0?socket_connect_timeout=60",
        "/0?retry=3",
        "/0?retry_on_timeout=true",
        "/0?max_connections=1",
        "/0?host=elsewhere",
        "/0?redis_connect_func=x",
        "/0?protocol=4",
        "/0?ssl_ca_certs=ca.pem",
        "/keyturn",
        "/0/1",
        "/-1",
    ],
)
def test_url_that_would_be_taken_for_another(more: str) -> None:
    """What would change the answers, the patience or, unsaid, the database is refused before anything is asked."""
    for opened in (connect, open_denylist):
        with pytest.raises(ValueError, match="the Redis URL is malformed"):
            _ = opened(f"redis://127.0.0.1{more}")


@pytest.mark.parametrize(
    "more", ["", "/", "/3", "?db=3", "/3?protocol=2", "/3?protocol=3", "?client_name=keyturn&health_check_interval=10"]
)
async def test_url_of_this_redis(redis_url: str, more: str) -> None:
    """Any database, both protocols: attempts are counted and revocations passed on."""
    async with connect(redis_url.removesuffix("/0") + more) as redis:
        await ping(redis)
        await ping_feed(redis)
        await publish(redis, [Denied("revoked", time.time() + 60)], time.time())
        throttle = RedisThrottle(redis)
        assert [await throttle.take([A, B]) is None for _ in range(4)] == [True, True, True, False]
        async with aclosing(RedisFeed(redis_url.removesuffix("/0") + more)()) as batches:
            assert [entry.id for entry in (await anext(batches)).entries] == ["revoked"]


@pytest.mark.parametrize(
    "more", ["ssl_ca_certs={}/none.pem", "ssl_ca_certs={}/text", "ssl_min_version=1", "ssl_ciphers=X"]
)
def test_certificate_that_cannot_be_read(tmp_path: Path, more: str) -> None:
    """It is told at the start, not by the first login; the file is no part of the message."""
    (tmp_path / "text").write_text("no certificate")
    with pytest.raises(ValueError, match=r"a parameter of TLS that cannot be used: [A-Za-z]+$"):
        _ = connect(f"rediss://127.0.0.1?{more.format(tmp_path)}")


def test_fault_of_tls_without_a_reason() -> None:
    """Python's own `ssl` raises some that OpenSSL knows nothing of: the log names them as well."""
    fault = Unavailable("redis")
    fault.__cause__ = ssl.SSLError("No cipher can be selected.")
    assert name_of(fault) == "SSLError"


async def test_certificates_are_read_once(
    redis_server: RedisServer, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with each connection: that stops everything for as long, and logins that come together open many."""
    certificate = certify(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    connections: list[ssl.SSLContext] = []
    made: list[ssl.SSLContext] = []
    make = ssl.create_default_context

    def counted() -> ssl.SSLContext:
        made.append(make())
        return made[-1]

    monkeypatch.setattr(ssl, "create_default_context", counted)

    async def passing(_: bytes) -> None:
        pass

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(tls)
        await leading_to(redis_server.port, passing)(reader, writer)

    async with (
        listening(serve, tls) as port,
        connect(f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate}") as redis,
    ):
        throttle = RedisThrottle(redis)
        await asyncio.gather(*(throttle.take([Limit(("a", str(i)), 1, 60.0)]) for i in range(40)))
    assert 1 < len(connections) <= AT_ONCE
    assert len(made) == 1


# -- how long, and how many


async def test_more_attempts_than_connections(redis_url: str) -> None:
    """They wait for each other, and nobody is refused for there being many. So they do on another event loop later."""

    async def flood(redis: RedisThrottle) -> list[float | None]:
        return await asyncio.gather(*(redis.take([Limit(("a", str(i)), 1, 60.0)]) for i in range(300)))

    async with connect(redis_url) as redis:
        assert await flood(RedisThrottle(redis)) == [None] * 300
        assert len(await redis.client_list(_type="normal")) <= AT_ONCE
        await redis.aclose()

        def elsewhere() -> list[float | None]:
            async def run() -> list[float | None]:
                await redis.flushall()
                try:
                    return await flood(RedisThrottle(redis))
                finally:
                    await redis.aclose()

            return asyncio.run(run())

        assert await asyncio.to_thread(elsewhere) == [None] * 300


@pytest.mark.parametrize("warm", [False, True], ids=["new connection", "open connection"])
async def test_redis_that_is_frozen(redis_server: RedisServer, redis_url: str, warm: bool) -> None:
    """Nobody waits longer than it takes, also when they are many; once it goes on, so does everything."""
    async with connect(redis_url) as redis:
        throttle = RedisThrottle(redis)
        if warm:
            assert await throttle.take([B]) is None
        assert redis_server._process is not None
        os.kill(redis_server._process.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            attempts = (throttle.take([A]) for _ in range(3 * AT_ONCE))
            answers = await asyncio.gather(*attempts, return_exceptions=True)
            assert time.monotonic() - began < ANSWER_TIME + SLACK
            assert {type(answer) for answer in answers} == {Unavailable}
        finally:
            os.kill(redis_server._process.pid, signal.SIGCONT)
        assert await throttle.take([B]) is None


async def test_redis_that_is_slow(redis_server: RedisServer, redis_url: str) -> None:
    """A connection is not waited for answer by answer, each in its time."""

    async def passing(_: bytes) -> None:
        await asyncio.sleep(1.4)

    async with (
        listening(leading_to(redis_server.port, passing)) as port,
        connect(f"redis://127.0.0.1:{port}/3") as redis,
    ):
        began = time.monotonic()
        with pytest.raises(Unavailable):
            await RedisThrottle(redis).take([A])
        assert time.monotonic() - began < ANSWER_TIME + SLACK


async def test_connections_that_are_dead_and_not_closed(redis_server: RedisServer, redis_url: str) -> None:
    """As after a firewall forgot them, or the machine of the master burnt down: over a new one everybody is counted in time."""
    dead = False

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def passing(_: bytes) -> None:
            if dead and not new:
                await anyio.sleep_forever()

        new = dead
        await leading_to(redis_server.port, passing)(reader, writer)

    async with listening(serve) as port, connect(f"redis://127.0.0.1:{port}") as redis:
        throttle = RedisThrottle(redis)
        limits = [[Limit(("a", str(i)), 3, 60.0)] for i in range(AT_ONCE)]
        assert await asyncio.gather(*(throttle.take(each) for each in limits)) == [None] * AT_ONCE
        dead = True
        began = time.monotonic()
        assert await asyncio.gather(*(throttle.take(each) for each in limits)) == [None] * AT_ONCE
        assert time.monotonic() - began < ANSWER_TIME + SLACK


async def test_address_that_takes_no_connection() -> None:
    """As behind a firewall that answers nothing: no retry makes it longer."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        async with connect(f"redis://127.0.0.1:{full.getsockname()[1]}") as redis:
            began = time.monotonic()
            with pytest.raises(Unavailable):
                await RedisThrottle(redis).take([A])
            assert time.monotonic() - began < ANSWER_TIME + SLACK
        for each in waiting:
            each.close()


# -- whatever else is there


@pytest.mark.parametrize(
    "reply",
    [
        b"+OK\r\n",
        b"_\r\n",
        b"#t\r\n",
        b",1.5\r\n",
        b":-1\r\n",
        b":many\r\n",
        b"$-5\r\n",
        b"*0\r\n",
        b"*1\r\n:-1\r\n",
        b"*2\r\n_\r\n_\r\n",
        b"*2\r\n,inf\r\n,inf\r\n",
        b"*2\r\n+no\r\n+no\r\n",
        b"*1\r\n" * 20_000 + b":1\r\n",
        b"%1\r\n*1\r\n:1\r\n:1\r\n",
        b"-ERR \xff\xfe\r\n",
        b"?\r\n",
    ],
)
async def test_answer_that_is_none_of_a_script(reply: bytes) -> None:
    """Whatever a server says but what was asked: nobody has counted, and that is a fault of Redis."""
    async with listening(answering_with(reply)) as port, connect(f"redis://:secret@127.0.0.1:{port}") as redis:
        for asked in (RedisThrottle(redis).take([A, B]), ping(redis)):
            with pytest.raises(Unavailable) as raised:
                await asked
            assert raised.value.dependency == "redis"


async def test_wait_that_nobody_would_live_to_see() -> None:
    """No caller is told to wait for longer than a counter lives."""
    many = b"*2\r\n:9223372036854775807\r\n:-1\r\n"
    async with listening(answering_with(many)) as port, connect(f"redis://127.0.0.1:{port}") as redis:
        assert await RedisThrottle(redis).take([A, B]) in {A.window, B.window}


@pytest.mark.parametrize("user", ["", ":secret@"], ids=["nobody", "somebody"])
@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b"+OK\r\n" * 9, bytes(range(256)), b""]
)
async def test_server_that_is_no_redis(said: bytes, user: str) -> None:
    """It is a fault of Redis, whatever it says first."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()

    async with listening(serve) as port, connect(f"redis://{user}127.0.0.1:{port}") as redis:
        throttle = RedisThrottle(redis)
        for asked in (throttle.take([A]), throttle.give_back([A]), ping(redis), ping_feed(redis)):
            with pytest.raises(Unavailable):
                await asked


async def test_answer_that_nobody_has_asked_for() -> None:
    """It is nobody's: its connection is given up, and it does not answer the next question."""
    answers = iter([b"*1\r\n:-1\r\n*1\r\n:5000\r\n"])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            [name, *_] = await command(reader)
            counted = next(answers, b"*1\r\n:-1\r\n") if name == b"EVALSHA" else b"+OK\r\n"
            writer.write(b"%1\r\n+proto\r\n:3\r\n" if name == b"HELLO" else counted)

    async with listening(serve) as port, connect(f"redis://127.0.0.1:{port}") as redis:
        throttle = RedisThrottle(redis)
        assert await throttle.take([A]) is None
        await anyio.sleep(0.05)
        assert await throttle.take([A]) is None


async def test_server_that_leads_elsewhere() -> None:
    """No message of a server has the password sent to another."""
    elsewhere: list[bytes] = []

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        elsewhere.append(await reader.read(1000))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            [name, *_] = await command(reader)
            if name == b"EVALSHA":
                place = b"127.0.0.2:%d" % port
                writer.write(b">4\r\n+MOVING\r\n:1\r\n:30\r\n$%d\r\n%b\r\n" % (len(place), place))
                await writer.drain()
                await asyncio.sleep(0.1)
                return
            writer.write(b"%1\r\n+proto\r\n:3\r\n" if name == b"HELLO" else b"+OK\r\n")

    async with listening(serve) as port:
        server = await asyncio.start_server(other, "127.0.0.2", port)
        async with server, connect(f"redis://:secret@127.0.0.1:{port}") as redis:
            for _ in range(2):
                with pytest.raises(Unavailable):
                    await RedisThrottle(redis).take([A])
    assert elsewhere == []


# -- counters


async def test_counter_without_an_end(redis_url: str) -> None:
    """It has got one when it refuses somebody: what was full stays full for a window, and not for ever."""
    async with connect(redis_url) as redis:
        throttle = RedisThrottle(redis)
        assert [await throttle.take([A]) is None for _ in range(3)] == [True, True, True]
        [key] = await redis.keys("*")
        await redis.persist(key)
        assert await throttle.take([A]) == pytest.approx(900.0, abs=SLACK)
        assert 0 < await redis.ttl(key) <= 900


async def test_counter_that_was_made_while_the_clock_was_ahead(redis_url: str) -> None:
    """Nobody waits until that time comes: a window at most."""
    async with connect(redis_url) as redis:
        throttle = RedisThrottle(redis)
        assert [await throttle.take([A]) is None for _ in range(3)] == [True, True, True]
        [key] = await redis.keys("*")
        await redis.expire(key, 400 * 86400)
        assert await throttle.take([A]) == pytest.approx(900.0, abs=SLACK)
        assert 0 < await redis.ttl(key) <= 900


async def test_everything_has_an_end(redis_url: str) -> None:
    """After a storm of attempts and revocations there is no key that stays."""
    async with connect(redis_url) as redis:
        throttle = RedisThrottle(redis)
        limits = [[Limit(("a", str(i % 40)), 3, 60.0), Limit(("b", str(i % 7)), 20, None)] for i in range(400)]
        taken = await asyncio.gather(*(throttle.take(each) for each in limits))
        given = [each for each, wait in zip(limits, taken, strict=True) if wait is None]
        await asyncio.gather(*(throttle.give_back(each, proven=False) for each in given[::2]))
        await publish(redis, [Denied(f"r{i}", time.time() + 60) for i in range(50)], time.time())
        await ping(redis)
        await ping_feed(redis)
        assert await redis.zcard(ENTRIES) == 50
        keys = await redis.keys("*")
        assert len(keys) > 20
        assert [key for key in keys if await redis.ttl(key) <= 0] == []


# -- revocations


async def test_many_revocations_over_a_thin_line(redis_server: RedisServer, redis_url: str) -> None:
    """They are read and told page by page: no answer takes longer than one may, however many there are."""

    async def passing(data: bytes) -> None:
        await asyncio.sleep(len(data) / 300_000)

    entries = {Denied(f"{i:0128}", time.time() + 600.25) for i in range(8_000)}
    async with connect(redis_url) as redis, listening(leading_to(redis_server.port, passing)) as port:
        await publish(redis, entries, time.time())
        async with aclosing(RedisFeed(f"redis://127.0.0.1:{port}", heartbeat=10.0)()) as batches:
            assert set((await anext(batches)).entries) == entries


async def test_all_sessions_end_at_once(redis_url: str, sqlite_database_url: str) -> None:
    """A service with Redis alone hears of each soon, also of what is announced by hundreds of requests together."""
    async with open_database(sqlite_database_url):
        pass
    node, service = open_denylist(sqlite_database_url, redis_url=redis_url), open_denylist(redis_url)
    try:
        async with connect(redis_url) as redis:
            await asyncio.gather(node.start(), service.start())
            with anyio.fail_after(30):
                while (await redis.pubsub_numsub(CHANNEL))[0][1] < 2:  # noqa: ASYNC110 - Redis counts them
                    await anyio.sleep(0.01)
        await anyio.sleep(0.1)
        for i in range(1_000):
            node.add([Denied(f"r{i}", time.time() + 600)])
        await eventually(lambda: len(service) == 1_000, 5.0)
    finally:
        await node.close()
        await service.close()


async def test_announcement_that_failed(redis_server: RedisServer, redis_url: str, sqlite_database_url: str) -> None:
    """It is made good as soon as Redis takes it, and not only when the set is read the next time."""
    async with open_database(sqlite_database_url):
        pass
    node, service = open_denylist(sqlite_database_url, redis_url=redis_url), open_denylist(redis_url)
    try:
        async with connect(redis_url) as redis:
            await asyncio.gather(node.start(), service.start())
            node.add([Denied("before", time.time() + 600)])
            await eventually(lambda: "before" in service)
            assert redis_server.command("CONFIG SET maxmemory 1") == "+OK"
            node.add([Denied("revoked", time.time() + 600)])
            await anyio.sleep(0.3)
            assert await redis.zscore(ENTRIES, "revoked") is None
            assert redis_server.command("CONFIG SET maxmemory 0") == "+OK"
        await eventually(lambda: "revoked" in service, 12.0)
    finally:
        redis_server.command("CONFIG SET maxmemory 0")
        await node.close()
        await service.close()


@pytest.mark.parametrize("limit", [None, "1024"], ids=["killed", "too slow"])
async def test_listener_whose_connection_redis_ends(
    redis_server: RedisServer, redis_url: str, limit: str | None
) -> None:
    """Also because more has come at once than Redis keeps for one who listens: it comes back, and reads what it has missed."""
    service = open_denylist(redis_url)
    entries = [Denied(f"{i:0100}", time.time() + 600) for i in range(4_000)]
    try:
        async with connect(redis_url) as redis:
            await service.start()
            if limit is None:
                assert redis_server.command("CLIENT KILL TYPE pubsub").startswith(":")
            else:
                await redis.config_set("client-output-buffer-limit", f"pubsub {limit} {limit} 1")
            await publish(redis, entries, time.time())
            await redis.config_set("client-output-buffer-limit", "pubsub 33554432 8388608 60")
            await eventually(lambda: len(service) == len(entries), 10.0)
            if limit is not None:
                assert (await redis.info("stats")).get("client_output_buffer_limit_disconnections", 1) > 0
    finally:
        await service.close()


async def test_redis_that_is_busy_with_a_script(redis_server: RedisServer, redis_url: str) -> None:
    """Somebody else's: an attempt is a fault at once, and counted when it has ended. One of ours that is forgotten is sent again."""
    async with connect(redis_url) as redis, connect(redis_url) as other:
        throttle = RedisThrottle(redis)
        assert await throttle.take([A]) is None
        assert redis_server.command("SCRIPT FLUSH") == "+OK"
        assert await throttle.take([A]) is None
        await other.config_set("lua-time-limit", 100)
        endless = asyncio.ensure_future(other.eval("while true do end", 0))
        await asyncio.sleep(0.5)
        try:
            began = time.monotonic()
            with pytest.raises(Unavailable):
                await throttle.take([A])
            assert time.monotonic() - began < ANSWER_TIME
        finally:
            await redis.script_kill()
            await asyncio.gather(endless, return_exceptions=True)
            await other.config_set("lua-time-limit", 5000)
        assert [await throttle.take([A]) is None for _ in range(2)] == [True, False]
