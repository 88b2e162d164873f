"""The tests' own services do what the other tests rely on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.services import PREFIX, PostgresServer, RedisServer, ServiceError, main, remove_leftovers

pytestmark = pytest.mark.anyio


async def write_and_read(url: str) -> int:
    """Create a table with one row in the database and count its rows."""
    engine = create_async_engine(url)
    try:
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE kept (number INTEGER)"))
            await connection.execute(text("INSERT INTO kept VALUES (7)"))
        async with engine.connect() as connection:
            return len((await connection.execute(text("SELECT number FROM kept"))).all())
    finally:
        await engine.dispose()


async def test_database_url_on_each_engine(database_url: str) -> None:
    """A test gets an empty database of its own on either engine."""
    assert await write_and_read(database_url) == 1


def test_postgres_killed_and_restarted(postgres: PostgresServer, postgres_url: str) -> None:
    """What was committed before a SIGKILL is there after the restart, under the same URL."""
    name = postgres_url.rpartition("/")[2]
    postgres.execute("CREATE TABLE kept AS SELECT 7 AS number", name)
    before = psutil.Process().children(recursive=True)
    postgres.kill9()
    assert not postgres.running
    assert not [process for process in before if "postgres" in _name(process)]
    with pytest.raises(ServiceError):
        postgres.execute("SELECT 1", name)
    postgres.restart()
    assert postgres.url(name) == postgres_url
    assert postgres.execute("SELECT number FROM kept", name) == "7"


def test_postgres_settings(postgres: PostgresServer) -> None:
    """The PostgreSQL of the tests is as durable as one in production."""
    assert postgres.execute("SHOW fsync") == "on"
    assert postgres.execute("SHOW synchronous_commit") == "on"


def test_redis_killed_and_restarted(redis_server: RedisServer, redis_url: str) -> None:
    """What Redis acknowledged before a SIGKILL is there after the restart, under the same URL."""
    assert redis_server.command("SET kept 7") == "+OK"
    redis_server.kill9()
    with pytest.raises(ConnectionError):
        redis_server.command("PING")
    redis_server.restart()
    assert redis_server.url == redis_url
    assert redis_server.command("EXISTS kept") == ":1"


def test_redis_url_is_emptied(redis_server: RedisServer, redis_url: str) -> None:
    """No test sees what another left in Redis."""
    assert redis_url == redis_server.url
    assert redis_server.command("DBSIZE") == ":0"


@pytest.mark.services
def test_server_of_a_killed_run_is_removed() -> None:
    """A test run that was killed leaves nothing that the next run does not remove."""
    program = (
        "import os, signal; from tests.services import RedisServer; s = RedisServer(); s.start();"
        "print(s.directory, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=root, check=False)
    left = Path(done.stdout.strip())
    assert left.name.startswith(PREFIX)
    assert left.is_dir()
    assert _processes_of(left)
    remove_leftovers()
    assert not left.exists()
    assert not _processes_of(left)


@pytest.mark.services
def test_program_that_one_target_needs_besides(capsys: pytest.CaptureFixture[str]) -> None:
    """`make chaos` and `make prove` need more; where one is missing, that and what to install is said."""
    assert main() == 0
    assert main(["no-such-program"]) == 1
    said = capsys.readouterr().err
    assert "no-such-program is not installed; on Debian or Ubuntu: apt-get install " in said
    assert "pgbouncer, nginx, haproxy, caddy, apache2 and faketime for `make chaos`" in said
    assert "firefox-esr, webkit2gtk-driver, xvfb and faketime for `make prove`" in said


def test_server_of_a_living_run_is_kept(postgres: PostgresServer) -> None:
    """Removing leftovers does not touch a run that lives."""
    assert f"{PREFIX}{os.getpid()}-" in postgres.directory.name
    remove_leftovers()
    assert postgres.execute("SELECT 1") == "1"


def _name(process: psutil.Process) -> str:
    try:
        return "" if process.status() == psutil.STATUS_ZOMBIE else process.name()
    except psutil.NoSuchProcess:
        return ""


def _processes_of(directory: Path) -> list[int]:
    return [process.pid for process in psutil.process_iter(["cwd"]) if str(directory) in str(process.info["cwd"])]
