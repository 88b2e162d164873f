"""A node on an event loop of its own: threads, forks, its start and its end."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest

from keyturn.core.errors import InvalidToken
from keyturn.core.events import Event, EventType
from keyturn.runtime import Keyturn
from keyturn.settings import Settings
from keyturn.testing import FrozenClock
from keyturn.tokens.secret_ring import SecretRing
from keyturn.web.hosting import by_path, hosted_routes
from keyturn.web.messages import Request
from tests.databases import sqlite_database
from tests.services import wait_until
from tests.web.conftest import BROWSER, ORIGIN, PARTNER, PASSWORD
from tests.web.wsgi import Answer, Outcomes, call, new_node, sign_up

THREADS = 24
ROOT = Path(__file__).parents[2]


class Heard:
    """Notes the type of each event, and takes its time over a sign-up."""

    def __init__(self) -> None:
        self.seen: list[EventType] = []
        self.go_on = threading.Event()

    async def emit(self, event: Event) -> None:
        """Take an event."""
        self.seen.append(event.type)
        if event.type is EventType.SIGNED_UP:
            await asyncio.to_thread(self.go_on.wait)


def test_refreshes_of_many_threads(database_url: str, scale: Callable[[int, int], int]) -> None:
    """Of N parallel presentations of one token through N threads, exactly one confirms; all are answered."""
    clock, outcomes = FrozenClock(), Outcomes()
    node = new_node(database_url, database_clock=clock, sinks=[outcomes])
    threads = scale(THREADS, 8 * THREADS)
    gate = threading.Barrier(threads)

    def refresh(cookie: str) -> int:
        gate.wait()
        return call(node.wsgi, path="/auth/refresh", HTTP_COOKIE=cookie).status

    try:
        first = sign_up(node.wsgi, "ada@example.com").cookie
        child = call(node.wsgi, path="/auth/refresh", HTTP_COOKIE=first).cookie
        clock.advance(61)
        outcomes.seen.clear()
        with ThreadPoolExecutor(threads) as pool:
            assert list(pool.map(refresh, [child] * threads)) == [200] * threads
        assert Counter(outcomes.seen) == {"confirm": 1, "rotate": threads - 1}
    finally:
        node.threaded.close()


@pytest.mark.parametrize("when", ["after", "before"])
def test_forked_workers(tmp_path: Path, when: str) -> None:
    """A node starts in each worker after the fork; one that was started before it refuses loudly and shares nothing."""
    # Newer Pythons warn of forks beside threads; that there is one, and what it must not do, is what this is about.
    command = [
        sys.executable,
        "-W",
        "ignore::DeprecationWarning",
        "-m",
        "tests.web.prefork_worker",
        sqlite_database(tmp_path),
        when,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert lines == ["201"] * 2 if when == "after" else all("before it forked" in line for line in lines)
    assert done.stderr == ""


def test_end_of_a_node(tmp_path: Path) -> None:
    """A closed node ends its thread and says so to whoever comes after; closing twice, or what never ran, is no error."""
    node = new_node(sqlite_database(tmp_path))
    node.threaded.close()
    before = set(threading.enumerate())
    node.threaded.start()
    node.threaded.start()
    [thread] = [thread for thread in set(threading.enumerate()) - before if thread.name == "keyturn"]
    node.threaded.close()
    node.threaded.close()
    wait_until(lambda: not thread.is_alive(), 10, "the end of the thread")
    for use in (lambda: call(node.wsgi, "GET", "/healthz"), lambda: node.threaded.authenticate("x")):
        with pytest.raises(RuntimeError, match="closed"):
            use()


def test_end_of_a_process(tmp_path: Path) -> None:
    """A process that ends in an orderly way has written what waited for the next second."""
    program = """
import sys
from keyturn.testing import FrozenClock
from tests.web.wsgi import call, new_node, sign_up

clock = FrozenClock()
node = new_node(sys.argv[1], database_clock=clock)
cookie = sign_up(node.wsgi, "ada@example.com").cookie
clock.advance(100)
assert call(node.wsgi, path="/auth/refresh", json_body={"idle_seconds": 0}, HTTP_COOKIE=cookie).status == 200
"""
    command = [sys.executable, "-c", program, sqlite_database(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    with closing(sqlite3.connect(tmp_path / "keyturn.db")) as database:
        rows = database.execute("SELECT last_active_at - created_at FROM keyturn_sessions").fetchall()
    assert rows == [(100.0,)]


def test_loop_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without a free file descriptor says so, hangs nobody, and tries again with the next request."""

    def fail() -> asyncio.AbstractEventLoop:
        raise OSError("too many open files")

    node = new_node(sqlite_database(tmp_path))
    with monkeypatch.context() as broken:
        broken.setattr(asyncio.events, "new_event_loop", fail)
        with pytest.raises(OSError, match="too many"):
            call(node.wsgi, "GET", "/healthz")
    assert call(node.wsgi, "GET", "/healthz").status == 200
    node.threaded.close()


def test_first_request_checks_a_token(tmp_path: Path) -> None:
    """A process whose first request only brings an access token starts the node for it."""
    one = new_node(sqlite_database(tmp_path))
    other = Keyturn(one.settings)
    try:
        token = sign_up(one.wsgi, "ada@example.com").json["access_token"]
        assert other.threaded.authenticate(token).amr == ("pwd",)
        with pytest.raises(InvalidToken):
            other.threaded.authenticate(token[:-1])
    finally:
        one.threaded.close()
        other.threaded.close()


def test_application_ends_the_sessions_of_a_user(tmp_path: Path) -> None:
    """From a thread, as an administrator's view would; also in a process that has answered nothing yet."""
    one = new_node(sqlite_database(tmp_path))
    other = Keyturn(one.settings)
    try:
        signed_in = sign_up(one.wsgi, "ada@example.com").json
        assert other.threaded.end_user_sessions(signed_in["user"]["id"]) == 1
        assert one.threaded.end_user_sessions(signed_in["user"]["id"]) == 0
        with pytest.raises(InvalidToken):
            other.threaded.authenticate(signed_in["access_token"])
    finally:
        one.threaded.close()
        other.threaded.close()


def test_call_that_would_wait_for_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A sink, a hook or a directory that calls what blocks is told what to await instead; the node goes on."""

    class Blocking:
        async def emit(self, event: Event) -> None:
            if event.type is EventType.SIGNED_IN and event.user_id is not None:
                node.threaded.end_user_sessions(event.user_id)

    node = new_node(sqlite_database(tmp_path), sinks=[Blocking()])
    answered: Future[Answer] = Future()
    # A daemon: should it wait for ever, the tests do not.
    threading.Thread(target=lambda: answered.set_result(sign_up(node.wsgi, "ada@example.com")), daemon=True).start()
    try:
        assert answered.result(timeout=30).status == 201
    finally:
        node.threaded.close()
    [told] = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert "await node.auth.end_user_sessions" in told


def test_event_loops_of_a_host(tmp_path: Path) -> None:
    """A node answers on whatever event loop is asked, one after the other: it has its own."""
    node = new_node(sqlite_database(tmp_path))
    headers = [(name.encode(), value.encode()) for name, value in BROWSER.items()]

    async def nothing() -> bytes:
        return b""

    try:
        for _ in range(2):
            request = Request("POST", "/auth/refresh", headers, nothing)
            assert asyncio.run(node.threaded.respond_async(request)).status == 401
    finally:
        node.threaded.close()


def test_host_that_gives_a_request_up(database_url: str) -> None:
    """A host that cancels a request, as Django does when its client has gone, does not stop it: what is done is also told."""

    sink = Heard()
    node = new_node(database_url, sinks=[sink])
    node.threaded.start()
    headers = [(name.lower().encode(), value.encode()) for name, value in BROWSER.items()]
    body = json.dumps({"email": "ada@example.com", "password": PASSWORD}).encode()

    async def read() -> bytes:
        return body

    async def give_up() -> None:
        request = Request("POST", "/auth/signup", [*headers, (b"content-type", b"application/json")], read)
        asked = asyncio.create_task(node.threaded.respond_async(request))
        await asyncio.to_thread(wait_until, lambda: EventType.SIGNED_UP in sink.seen, 30, "half of the request")
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        sink.go_on.set()

    try:
        asyncio.run(give_up())
        wait_until(lambda: EventType.SIGNED_IN in sink.seen, 30, "the end of the request")
        assert sink.seen[-2:] == [EventType.SIGNED_UP, EventType.SIGNED_IN]
    finally:
        sink.go_on.set()
        node.threaded.close()


@pytest.mark.waits
def test_requests_that_wait_for_the_start() -> None:
    """While the database hangs all requests share one attempt to start, and each gets an answer of its own."""
    attempts = 0

    def hang() -> None:
        nonlocal attempts
        held = []
        with suppress(OSError):
            while True:
                held.append(silent.accept())
                attempts += 1

    with closing(socket.create_server(("127.0.0.1", 0))) as silent, ThreadPoolExecutor(THREADS) as pool:
        threading.Thread(target=hang, daemon=True).start()
        node = new_node(f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/nothing")
        gate = threading.Barrier(THREADS)

        def ask() -> Answer:
            gate.wait()
            return call(node.wsgi, "GET", "/readyz")

        answers = [future.result() for future in [pool.submit(ask) for _ in range(THREADS)]]
        assert [answer.json["code"] for answer in answers] == ["unavailable"] * THREADS
        assert len({answer.json["request_id"] for answer in answers}) == THREADS
        assert attempts == 1
        node.threaded.close()


@pytest.mark.waits
def test_liveness_while_the_database_hangs() -> None:
    """It is told before the node has begun to start, while it starts, and after it could not; readiness is told as it is."""

    async def nothing() -> bytes:
        return b""

    with closing(socket.create_server(("127.0.0.1", 0))) as silent, ThreadPoolExecutor(1) as pool:
        silent.settimeout(30)
        node = new_node(f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/nothing")
        operations = by_path(node.web, hosted_routes(operations=True))

        def is_alive() -> bool:
            hosted = node.threaded.respond(Request("GET", "/api/healthz", [], nothing), operations["/healthz"])
            return (call(node.wsgi, "GET", "/healthz").status, hosted.status) == (200, 200)

        assert is_alive()
        ready = pool.submit(call, node.wsgi, "GET", "/readyz")
        connection, _ = silent.accept()  # the first to connect is the start
        with connection:
            assert is_alive()
            assert call(node.wsgi, "DELETE", "/healthz").json["code"] == "method_not_allowed"
            assert not ready.done()
        assert ready.result().json["code"] == "unavailable"
        assert is_alive()
        node.threaded.close()


def test_answers_of_a_node_that_cannot_start(caplog: pytest.LogCaptureFixture) -> None:
    """They are as any other: `HEAD` has no body, a page of another origin may ask, and may read what it is told, and the log
    says why under the request's id.
    """
    with closing(socket.create_server(("127.0.0.1", 0))) as closed:
        port = closed.getsockname()[1]
    secret = SecretRing.generate(os.urandom(32))
    url = f"postgresql://nobody@127.0.0.1:{port}/nothing"
    settings = Settings.load(
        env="development", database_url=url, secret=secret, base_url=ORIGIN, allowed_origins=PARTNER
    )
    node = Keyturn(settings)
    try:
        preflight = call(
            node.wsgi,
            "OPTIONS",
            "/auth/refresh",
            headers={"origin": PARTNER, "access-control-request-method": "POST"},
        )
        assert (preflight.status, preflight.all("access-control-allow-methods")) == (204, ["POST"])
        for method, path in (("GET", "/auth/me"), ("HEAD", "/auth/me"), ("HEAD", "/readyz")):
            answer = call(node.wsgi, method, path, headers={"origin": PARTNER})
            assert (answer.status, answer.all("vary")) == (503, ["Origin"])
            assert answer.all("access-control-allow-origin") == [PARTNER]
            assert bool(answer.body) is (method == "GET")
            told = [vars(record) for record in caplog.records if record.message == "the node cannot start"]
            assert told[-1]["request_id"] == answer.all("x-request-id")[0]
    finally:
        node.threaded.close()


def test_frameworks_that_nobody_uses() -> None:
    """Neither Django nor Flask is loaded by a program that does not ask for it."""
    unwanted = "{'asgiref', 'django', 'flask', 'werkzeug'}"
    program = (
        f"import sys, keyturn.runtime, keyturn.verify.threaded; sys.exit(', '.join({unwanted} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr.strip() == ""
