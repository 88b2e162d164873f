"""Real nodes for the attacks: one in this process per kind of database, and three processes over one database."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from keyturn.password_pool import PasswordPool
from keyturn.runtime import Keyturn
from keyturn.settings import Settings
from keyturn.testing import FrozenClock
from keyturn.tokens.password import PasswordHasher, PasswordProfile
from keyturn.web.application import WebApplication
from keyturn.web.asgi import KeyturnASGI
from tests.attacks.support import ORIGIN, PARTNER, SECRET, Browser
from tests.databases import ENGINES, sqlite_database
from tests.services import PostgresServer, wait_until

ROOT = Path(__file__).parents[2]
SSR_KEY = bytes(range(32, 64))
SSR_KEYS = "next:ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8"
METRICS_TOKEN = "metrics-token-0123456789"
START_TIMEOUT = 60.0
_databases = itertools.count(1)


@pytest.fixture(scope="session")
def clock() -> FrozenClock:
    """The clock of the nodes in this process and of their databases. Tests may move it forward, by days at most."""
    return FrozenClock(float(int(time.time())))


def _database(request: pytest.FixtureRequest, directory: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield sqlite_database(directory)
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = f"attacks_{next(_databases)}"
    server.create_database(name)
    yield server.url(name)
    server.start()
    server.drop_database(name)


@pytest.fixture(scope="session", params=ENGINES)
def shared_database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the database of the nodes in this process, once for each engine."""
    yield from _database(request, tmp_path_factory.mktemp("attacks"))


@pytest.fixture(scope="session", params=ENGINES)
def servers_database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the database of the server processes, which go by the real clock."""
    yield from _database(request, tmp_path_factory.mktemp("servers"))


def settings_of(database_url: str, **more: object) -> Settings:
    """Return the settings of a node under attack: development, so that nothing but the attack is in the way."""
    values = {"env": "development", "base_url": ORIGIN, "allowed_origins": PARTNER, "secret": SECRET}
    return Settings.load(**{**values, "database_url": database_url, **more})


def with_passwords(node: Keyturn, passwords: PasswordPool) -> KeyturnASGI:
    """Return the same node's routes over another password pool."""
    services = replace(node.services, auth=replace(node.auth, passwords=passwords))
    return KeyturnASGI(WebApplication(services, node.settings.web_config()))


def lighten(node: Keyturn) -> None:
    """Give a node that does not run yet a cheap password hash: here it is broken into by other means."""
    node.passwords.close()
    node.passwords = PasswordPool(PasswordHasher(PasswordProfile(64, 1)))
    node.auth = replace(node.auth, passwords=node.passwords)


@pytest.fixture(scope="session")
async def node(anyio_backend: str, shared_database_url: str, clock: FrozenClock) -> AsyncIterator[Keyturn]:
    """A running node on each kind of database; tests share it and bring users of their own."""
    keyturn = Keyturn(
        settings_of(shared_database_url, ssr_keys=SSR_KEYS, metrics_token=METRICS_TOKEN), database_clock=clock
    )
    lighten(keyturn)
    async with keyturn.lifespan():
        yield keyturn


@pytest.fixture(scope="session")
async def sqlite_node(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory, clock: FrozenClock
) -> AsyncIterator[Keyturn]:
    """A running node for attacks that never get as far as a database."""
    url = sqlite_database(tmp_path_factory.mktemp("attacks-http"))
    keyturn = Keyturn(settings_of(url, ssr_keys=SSR_KEYS, metrics_token=METRICS_TOKEN), database_clock=clock)
    lighten(keyturn)
    async with keyturn.lifespan():
        yield keyturn


@pytest.fixture
async def ada(node: Keyturn) -> Browser:
    """A browser whose owner has just signed up."""
    browser = Browser(node.asgi)
    answer = await browser.sign_up()
    assert answer.status == 201, answer.body
    return browser


@pytest.fixture
async def eve(node: Keyturn) -> Browser:
    """Another user, in another browser."""
    browser = Browser(node.asgi)
    answer = await browser.sign_up()
    assert answer.status == 201, answer.body
    return browser


@pytest.fixture(scope="module")
async def bob(sqlite_node: Keyturn) -> Browser:
    """A browser that the tests of one module share: for attacks that leave its session as it is."""
    browser = Browser(sqlite_node.asgi)
    answer = await browser.sign_up()
    assert answer.status == 201, answer.body
    return browser


class Server(NamedTuple):
    """A running `keyturn serve`."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def origin(self) -> str:
        """Where it is reached."""
        return f"http://127.0.0.1:{self.port}"


def start_servers(
    database_url: str, directory: Path, count: int, *, files: str = "", **environment: str
) -> list[Server]:
    """Start `keyturn serve` several times over one database and wait until all listen.

    Args:
        files: how many files they may open, as the shell's `ulimit` takes it.
    """
    command = [sys.executable, "-m", "keyturn.cli", "serve", "--port", "0"]
    if files:
        command = ["sh", "-c", f'ulimit {files} && exec "$@"', "sh", *command]
    found = {
        "KEYTURN_ENV": "development",
        "KEYTURN_BASE_URL": ORIGIN,
        "KEYTURN_SECRET": SECRET,
        "KEYTURN_DATABASE_URL": database_url,
        "KEYTURN_TRUSTED_PROXIES": "1",
        **environment,
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KEYTURN_")}
    servers: list[Server] = []
    for index in range(count):
        log = directory / f"server-{index}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env={**kept, **found},
                start_new_session=True,
            )
        servers.append(Server(process, 0, log))
    try:
        return [server._replace(port=_port_of(server)) for server in servers]
    except BaseException:
        stop_servers(servers)
        raise


def stop_servers(servers: list[Server]) -> None:
    """End servers, each at once."""
    for server in servers:
        if server.process.poll() is None:
            os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()


def _port_of(server: Server) -> int:
    def lines() -> list[dict[str, object]]:
        found = server.log.read_bytes().splitlines(keepends=True)
        return [json.loads(line) for line in found if line.startswith(b"{") and line.endswith(b"\n")]

    def listening() -> bool:
        assert server.process.poll() is None, server.log.read_text()
        return any(line["message"] == "listening" for line in lines())

    wait_until(listening, START_TIMEOUT, "the start of keyturn serve")
    port = next(line["port"] for line in lines() if line["message"] == "listening")
    assert isinstance(port, int)
    return port


@pytest.fixture(scope="session")
def servers(servers_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Three processes of `keyturn serve` over one database of each kind, by the real clock."""
    started = start_servers(servers_database_url, tmp_path_factory.mktemp("logs"), 3)
    yield started
    stop_servers(started)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One process of `keyturn serve` on SQLite, for attacks on its HTTP."""
    directory = tmp_path_factory.mktemp("server")
    started = start_servers(sqlite_database(directory), directory, 1)
    yield started[0]
    stop_servers(started)
