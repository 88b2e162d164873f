"""Fixtures for all tests: the services, the databases and the two lengths of the long proofs.

Fixtures that only one area uses belong to that area's own conftest.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TypeVar

import hypothesis
import pytest

from tests.databases import ENGINES, PostgresDatabase, sqlite_database
from tests.services import PostgresServer, RedisServer, remove_leftovers, sqlite_url

Length = TypeVar("Length")

SERVICE_FIXTURES = {"postgres", "postgres_url", "empty_postgres_url", "redis_server", "redis_url"}
EMPTY_DATABASE = "empty"
"""The PostgreSQL database without tables."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the switches for the long versions and for the pictures in the documentation."""
    group = parser.getgroup("keyturn")
    group.addoption("--prove", action="store_true", help="run the proofs at their full length")
    group.addoption("--chaos", action="store_true", help="run the chaos tests at their full length")
    group.addoption(
        "--browser-family",
        choices=("shell", "chromium", "firefox", "webkit"),
        default="shell",
        help="run tests/browser/client in this browser of the system; shell is Chromium without windows",
    )
    group.addoption("--screenshots", action="store_true", help="write docs/images anew from the browser tests")


def pytest_configure(config: pytest.Config) -> None:
    """Set up hypothesis: the same examples in every run, new ones under `--prove`."""
    # A script that runs us in its background has us ignore it, and so would all that we start and interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    long = bool(config.getoption("--prove"))
    hypothesis.settings.register_profile("keyturn", deadline=None, derandomize=not long)
    hypothesis.settings.load_profile("keyturn")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the collector of unreachable cycles from what is loaded here and stays: it would look through it again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts a service, so that `-m "not services"` runs anywhere, and put what waits where others work meanwhile.

    The chaos tests and those of commands wait for processes. Each worker begins with its part of the list, so that two of them
    have these, module by module. The benchmarks come last: a worker has them to itself otherwise.
    """
    waits: list[pytest.Item] = []
    slow: dict[Path, list[pytest.Item]] = {}
    others: list[pytest.Item] = []
    benchmarks: list[pytest.Item] = []
    for item in items:
        if SERVICE_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.services)
        if item.get_closest_marker("waits") is not None:
            waits.append(item)
        elif item.nodeid.startswith(("tests/chaos/", "tests/cli/")):
            slow.setdefault(item.path, []).append(item)
        else:
            (benchmarks if item.nodeid.startswith("tests/bench/") else others).append(item)
    first, second = ([item for module in list(slow.values())[start::2] for item in module] for start in range(2))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    between = max(0, len(items) // workers * (workers // 2) - len(waits) - len(first))
    items[:] = [*waits, *first, *others[:between], *second, *others[between:], *benchmarks]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run async tests on asyncio alone."""
    return "asyncio"


@pytest.fixture(scope="session")
def prove(pytestconfig: pytest.Config) -> bool:
    """Whether the proofs run at their full length."""
    return bool(pytestconfig.getoption("--prove"))


@pytest.fixture(scope="session")
def chaos(pytestconfig: pytest.Config) -> bool:
    """Whether the chaos tests run at their full length."""
    return bool(pytestconfig.getoption("--chaos"))


@pytest.fixture(scope="session")
def scale(prove: bool, chaos: bool) -> Callable[[Length, Length], Length]:
    """Choose between two lengths: `scale(200, 100_000)` is the second with --prove or --chaos."""

    def choose(short: Length, long: Length) -> Length:
        return long if prove or chaos else short

    return choose


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A running PostgreSQL of this test process."""
    remove_leftovers()
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def postgres_database(postgres: PostgresServer) -> PostgresDatabase:
    """The database of that PostgreSQL which `postgres_url` lends."""
    return PostgresDatabase(postgres, "test")


@pytest.fixture
def postgres_url(postgres: PostgresServer, postgres_database: PostgresDatabase) -> Iterator[str]:
    """The URL of a PostgreSQL database of this test's own, with the tables of this version and no row."""
    postgres_database.make_ready()
    yield postgres_database.url
    postgres.start()


@pytest.fixture(scope="session")
def _empty_postgres(postgres: PostgresServer) -> PostgresServer:
    postgres.start()
    postgres.create_database(EMPTY_DATABASE)
    return postgres


@pytest.fixture
def empty_postgres_url(_empty_postgres: PostgresServer) -> Iterator[str]:
    """The URL of a PostgreSQL database of this test's own that has no tables yet."""
    _empty_postgres.start()
    yield _empty_postgres.url(EMPTY_DATABASE)
    _empty_postgres.start()
    _empty_postgres.empty_database(EMPTY_DATABASE)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A running Redis or Valkey of this test process."""
    remove_leftovers()
    server = RedisServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of the Redis, emptied for this test."""
    redis_server.start()
    redis_server.flush()
    return redis_server.url


@pytest.fixture
def sqlite_database_url(tmp_path: Path) -> str:
    """The URL of a SQLite file of this test's own, with the tables of this version and no row."""
    return sqlite_database(tmp_path)


@pytest.fixture(params=ENGINES)
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a database of this test's own with the tables of this version and no row, once for each engine."""
    url: str = request.getfixturevalue("sqlite_database_url" if request.param == "sqlite" else "postgres_url")
    return url


@pytest.fixture(params=ENGINES)
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database of this test's own that has no tables yet, once for each engine; there is no SQLite file."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path)
    url: str = request.getfixturevalue("empty_postgres_url")
    return url
