"""The real PgBouncer between nodes and PostgreSQL: what is not session mode is refused, session mode carries everything."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import asyncpg
import httpx2
import pytest

from keyturn.stores.poolers import connect, execute_where_direct, shares_backends
from tests.chaos.conftest import skip_without
from tests.chaos.databases import PgBouncer
from tests.chaos.node import Node, Pace, settings
from tests.cli.conftest import SAFE, Command
from tests.services import PostgresServer, wait_until

Start = Callable[..., PgBouncer]

SHARING = {
    "transaction": {"pool_mode": "transaction"},
    "one backend": {"pool_mode": "transaction", "default_pool_size": 1},
    "backends in turn": {"pool_mode": "transaction", "server_round_robin": 1},
    "statement": {"pool_mode": "statement"},
}
_STATE = (
    "SELECT current_setting('idle_in_transaction_session_timeout'),"
    " (SELECT count(*) FROM pg_prepared_statements WHERE name <> '')"
)
ANSWER_TIME = 10.0
"""Seconds in which a node hears of a revocation; it would find it by itself after a minute."""


@pytest.fixture
def start(postgres: PostgresServer, chaos: bool) -> Iterator[Start]:
    """Start PgBouncers. Only `make chaos` insists on the program."""
    skip_without("pgbouncer", chaos=chaos)
    with contextlib.ExitStack() as stack:

        def start(**options: str | int) -> PgBouncer:
            bouncer = PgBouncer(postgres, **options)
            stack.callback(bouncer.close)
            bouncer.start()
            return bouncer

        yield start


@pytest.mark.parametrize("options", SHARING.values(), ids=SHARING)
def test_a_pooler_that_shares_backends_is_refused_and_left_as_it_was(
    start: Start, postgres: PostgresServer, empty_postgres_url: str, tmp_path: Path, options: dict[str, str | int]
) -> None:
    """Twice: what the first run left on a backend would trouble the second, and somebody else."""
    bouncer = start(**options)
    command = Command(tmp_path, {**SAFE, "KEYTURN_DATABASE_URL": bouncer.url(empty_postgres_url)})
    for _ in range(2):
        for arguments in (("migrate",), ("serve", "--port", "0")):
            assert command.run(*arguments, status=1).startswith("keyturn: unsafe_settings: database_pooled: ")
        assert "UNSAFE  database_pooled: " in command.run("doctor", status=1)
    assert asyncio.run(_state(bouncer.url(empty_postgres_url))) == ("0", 0)
    assert postgres.relations(empty_postgres_url.rpartition("/")[2]) == ""


@pytest.mark.parametrize(("mode", "shares"), [("transaction", True), ("session", False)])
def test_a_busy_pooler_is_judged_as_an_idle_one(start: Start, postgres_url: str, mode: str, shares: bool) -> None:
    """Among others whose transactions take whatever backend is free."""
    url = start(pool_mode=mode).url(postgres_url)

    async def judge() -> list[bool]:
        async with _busy(url, 12):
            return [await _shares(url) for _ in range(10)]

    assert asyncio.run(judge()) == [shares] * 10


def test_backends_that_no_two_connections_meet_on(start: Start, postgres_url: str) -> None:
    """So many, handed out in turn, that none comes round again while it is looked: but a connection has several."""
    url = start(pool_mode="transaction", server_round_robin=1).url(postgres_url)

    async def judge() -> bool:
        held = [await connect(url, name="held") for _ in range(40)]
        for statement in ("BEGIN; SELECT 1", "COMMIT"):
            for connection in held:
                await connection.execute(statement)
        for connection in held:
            connection.terminate()  # type: ignore[no-untyped-call]
        return await _shares(url)

    assert asyncio.run(judge())


def test_session_mode_carries_everything(start: Start, postgres_url: str, tmp_path: Path, pace: Pace) -> None:
    """Two nodes migrate at once; what one of them ends, the other hears at once."""
    environment = settings(start(pool_mode="session").url(postgres_url), pace)
    with _started(Node(tmp_path / "one", environment), Node(tmp_path / "two", environment)) as (one, two):
        headers = {"X-Keyturn": "1", "Origin": f"http://localhost:{one.port}"}
        with httpx2.Client(base_url=f"http://localhost:{one.port}", headers=headers, timeout=30) as client:
            person = {"email": "ada@example.com", "password": "correct horse battery staple"}
            answer = client.post("/auth/signup", json=person)
            token = answer.json()["access_token"]
            # A browser would send a secure cookie to localhost.
            cookies = {"Cookie": "; ".join(f"{name}={value}" for name, value in answer.cookies.items())}
            assert client.post("/auth/refresh", headers=cookies).status_code == 200
            assert _me(two, token) == 200
            assert client.post("/auth/logout", headers=cookies).status_code == 204
        wait_until(lambda: _me(two, token) == 401, ANSWER_TIME, "the refusal of a revoked token by the other node")
        assert one.ready()
        assert two.ready()


@contextmanager
def _started(*nodes: Node) -> Iterator[tuple[Node, ...]]:
    try:
        for node in nodes:
            node.start(wait=False)
        wait_until(lambda: all(node.ready() for node in nodes), ANSWER_TIME * 6, "nodes that are ready")
        yield nodes
    finally:
        for node in nodes:
            node.kill9()


def _me(node: Node, token: str) -> int:
    url = f"http://127.0.0.1:{node.port}/auth/me"
    return httpx2.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=30).status_code


async def _state(url: str) -> tuple[str, int]:
    """Say what a backend of the pooler would do to whoever has it next: a setting of ours, statements under a name."""
    connection = await connect(url, name="somebody else")
    try:
        (row,) = await connection.fetch(_STATE)
        return row[0], row[1]
    finally:
        connection.terminate()  # type: ignore[no-untyped-call]


async def _shares(url: str) -> bool:
    connection = await connect(url, name="judge")
    try:
        assert not await execute_where_direct(connection, "SELECT")
        return await shares_backends(connection, lambda: connect(url, name="judge"))
    finally:
        connection.terminate()  # type: ignore[no-untyped-call]


@asynccontextmanager
async def _busy(url: str, clients: int) -> AsyncGenerator[None]:
    """Let clients make one transaction after the other for the length of a block."""

    async def work(connection: asyncpg.Connection) -> None:
        while True:
            await connection.execute("BEGIN; SELECT 1; COMMIT")
            await asyncio.sleep(0.002)

    connections = [await connect(url, name="busy") for _ in range(clients)]
    tasks = [asyncio.create_task(work(each)) for each in connections]
    yield
    assert not any(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for each in connections:
        each.terminate()  # type: ignore[no-untyped-call]
