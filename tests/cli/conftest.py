"""Fixtures of the command-line tests: the command with an environment of its own, in this process or in another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, redirect_stderr, redirect_stdout
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import Any

import httpx2
import pytest

from keyturn.cli import main
from keyturn.runtime import Keyturn
from keyturn.settings import Settings
from tests.attacks.support import ORIGIN
from tests.services import sqlite_url, wait_until

SECRET = "1:2ZxrWq5cZ1Fv3sVqLgK0m7u9QdXyHnTbEaJpRoCiU4w"
SAFE = {
    "KEYTURN_SECRET": SECRET,
    "KEYTURN_BASE_URL": "https://auth.example.com",
    "KEYTURN_TRUSTED_PROXIES": "1",
}
"""What production needs besides a database."""


START = (sys.executable, "-m", "keyturn.cli")
"""What starts a command."""
_TLS = httpx2.create_ssl_context()
"""Made once: to read the authorities takes 30 ms."""


class Command:
    """`keyturn` with one environment, in one directory.

    `run` calls the entry point that the installed script calls, so that a test of many commands does not start as many
    interpreters; `spawn` and `serving` are processes.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.directory = directory
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("KEYTURN_")}
        self.environment = {**inherited, "COLUMNS": "200", **environment}
        self.errors = ""
        """What `run` has found on standard error."""

    def run(self, *arguments: str, status: int = 0, stdin: str = "") -> str:
        """Run to the end in this process, expect a status, and return what was printed; of a failure, the errors."""
        output, errors = StringIO(), StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
            for name in [name for name in os.environ if name.startswith("KEYTURN_")]:
                patch.delenv(name)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            patch.chdir(self.directory)
            patch.setattr(sys, "stdin", TextIOWrapper(BytesIO(os.fsencode(stdin)), "utf-8"))
            with pytest.raises(SystemExit) as end:
                main(arguments)
        self.errors = errors.getvalue()
        assert (end.value.code or 0) == status, output.getvalue() + self.errors
        return self.errors if status and not output.getvalue() else output.getvalue()

    def json(self, *arguments: str, status: int = 0) -> Any:
        """Run with --json and return what was printed."""
        return json.loads(self.run(*arguments, "--json", status=status))

    def spawn(self, *arguments: str, status: int = 0, stdin: str = "", start: Sequence[str] = START) -> str:
        """Run to the end as a process of its own, expect a status, and return what was printed; of a failure, the errors."""
        done = subprocess.run(
            [*start, *arguments],
            env=self.environment,
            cwd=self.directory,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done.stderr if status and not done.stdout else done.stdout

    @contextmanager
    def serving(self, *arguments: str) -> Iterator[httpx2.Client]:
        """Run `keyturn serve` until the end of the block and lend a client; it has to end with status 0."""
        log = self.directory / "serve.log"
        headers = {"X-Keyturn": "1", "Origin": "https://auth.example.com"}
        with self.process("serve", "--port", "0", *arguments) as process:
            wait_until(lambda: process.poll() is not None or self._listening(log) is not None, 60, "the start")
            url = self._listening(log)
            assert url is not None, log.read_text()
            with httpx2.Client(base_url=url, headers=headers, timeout=30, verify=_TLS) as client:
                yield client
            process.terminate()
            assert process.wait(60) == 0, log.read_text()

    @contextmanager
    def process(self, *arguments: str, start: Sequence[str] = START) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command that stays, its errors in `serve.log`; at the end of the block it is gone."""
        with (self.directory / "serve.log").open("w") as output:
            process = subprocess.Popen([*start, *arguments], env=self.environment, cwd=self.directory, stderr=output)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    @staticmethod
    def _listening(log: Path) -> str | None:
        for line in log.read_text().splitlines():
            entry = json.loads(line)
            if entry["message"] == "listening":
                url: str = entry["url"]
                return url
        return None


@asynccontextmanager
async def node_of(command: Command) -> AsyncGenerator[Keyturn]:
    """Run a node in this process over a command's database, for the routes that `Browser` asks."""
    url = command.environment["KEYTURN_DATABASE_URL"]
    node = Keyturn(Settings.load(env="development", base_url=ORIGIN, secret=SECRET, database_url=url))
    async with node.lifespan():
        yield node


@pytest.fixture
def command(tmp_path: Path, database_url: str) -> Command:
    """A safe production environment over a database with tables and no row, on SQLite and on PostgreSQL."""
    return Command(tmp_path, {**SAFE, "KEYTURN_DATABASE_URL": database_url})


@pytest.fixture
def sqlite_command(tmp_path: Path, sqlite_database_url: str) -> Command:
    """As `command`, on SQLite alone: for what has nothing to do with the database."""
    return Command(tmp_path, {**SAFE, "KEYTURN_DATABASE_URL": sqlite_database_url})


@pytest.fixture
def empty_command(tmp_path: Path, empty_database_url: str) -> Command:
    """As `command`, over a database without tables; on SQLite there is no file."""
    return Command(tmp_path, {**SAFE, "KEYTURN_DATABASE_URL": empty_database_url})


@pytest.fixture
def empty_sqlite_command(tmp_path: Path) -> Command:
    """As `sqlite_command`, without a file."""
    return Command(tmp_path, {**SAFE, "KEYTURN_DATABASE_URL": sqlite_url(tmp_path)})
