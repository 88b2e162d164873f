"""Start and stop what is measured: databases, servers, the load, each a process of its own.

Owns: processes, environments, sessions put straight into the database. Must not hold: what is measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

import psutil
from sqlalchemy import func, insert, select

from keyturn.core.login import Login, admit
from keyturn.core.model import Contact, SessionId
from keyturn.runtime import Keyturn
from keyturn.settings import Settings
from keyturn.stores.schema import sessions, users
from keyturn.stores.session_rows import values_of
from keyturn.tokens.refresh_token import RANDOM_LENGTH
from keyturn.tokens.secret_ring import SecretRing
from tests.services import PostgresServer, remove_leftovers, sqlite_url, wait_until

ROOT: Final = Path(__file__).parents[1]
PASSWORD: Final = "correct horse battery staple"
_AGE: Final = 100.0
"""Seconds since the tokens that are put into the database were issued: more than any settle time here."""
_BATCH: Final = 2000
_CONTACT: Final = Contact(
    "127.0.0.1",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Firefox on Windows",
)


def environment(database_url: str, **more: str) -> dict[str, str]:
    """Return the settings of a node under measurement: production's, but for the settle time.

    A token is ripe after 1 s instead of 60 s, so that a run of seconds can do what otherwise takes hours.
    """
    return {
        "KEYTURN_ENV": "development",
        "KEYTURN_DATABASE_URL": database_url,
        "KEYTURN_SECRET": SecretRing.generate(os.urandom(32)),
        "KEYTURN_BASE_URL": "https://auth.example.com",
        "KEYTURN_SETTLE_TIME": "1",
        "KEYTURN_TAIL_TIME": "0.5",
        **more,
    }


class Server:
    """A server process on a free port.

    Args:
        command: what starts it; it prints its port, and answers at `/healthz`.

    Attributes:
        port: where it listens.
    """

    def __init__(self, *command: str, variables: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **(variables or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if "BENCH_LOG" not in os.environ else None,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.strip().isdigit():
            raise RuntimeError(f"{' '.join(command)} did not start; BENCH_LOG=1 shows why")
        self.port = int(line)
        wait_until(self._answers, 30, "the start of a server")
        self._measured = psutil.Process(self._process.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    def cpu_seconds(self) -> float:
        """Return the processor time the server has used so far, with the processes it has started."""
        times = [each.cpu_times() for each in (self._measured, *self._measured.children(recursive=True))]
        return float(sum(each.user + each.system for each in times))

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError("a server did not start; BENCH_LOG=1 shows why")
        try:
            urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=30).close()
        except (ConnectionError, URLError):
            return False
        return True

    def close(self) -> None:
        """Let it end by itself, as an operator would."""
        self._process.terminate()
        self._process.wait(90)


class Load:
    """The process that makes requests."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.load"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def load(self, name: str, lines: Sequence[bytes]) -> None:
        """Give it jars, or logins, under a name."""
        with tempfile.NamedTemporaryFile(prefix="keyturn-bench-") as file:
            file.write(b"\n".join(lines))
            file.flush()
            self._command({"load": name, "file": file.name})

    def run(self, *groups: dict[str, Any], seconds: float, warm_up: float) -> list[dict[str, Any]]:
        """Run groups of connections at once; return what each saw."""
        results: list[dict[str, Any]] = self._command({"run": groups, "seconds": seconds, "warm_up": warm_up})
        return results

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def _command(self, command: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


class Bench:
    """Everything of one run; ends all of it at the end of a `with`."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Bench:
        remove_leftovers()
        self.directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="keyturn-bench-")))
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def postgres(self) -> str:
        """Start a PostgreSQL that writes to the disk before it acknowledges; return the URL of an empty database."""
        server = PostgresServer()
        self._stack.callback(server.close)
        server.start()
        server.create_database("bench")
        return server.url("bench")

    def sqlite(self) -> str:
        """Return the URL of a new file."""
        return sqlite_url(self.directory)

    def bare(self, *, under: Sequence[str] = ()) -> Server:
        """Start the baseline. Args: under: a program that runs Python, with its options."""
        return self.server(*under, sys.executable, "-m", "bench.bare")

    def node(self, variables: dict[str, str], *, groups: bool = True, under: Sequence[str] = ()) -> Server:
        """Start a node of Keyturn. Args: under: as for `bare`."""
        options = () if groups else ("--without-groups",)
        return self.server(*under, sys.executable, "-m", "bench.node", *options, variables=variables)

    def load(self) -> Load:
        """Start the load."""
        load = Load()
        self._stack.callback(load.close)
        return load

    def server(self, *command: str, variables: dict[str, str] | None = None) -> Server:
        """Start any server. Args: as for `Server`."""
        server = Server(*command, variables=variables)
        self._stack.callback(server.close)
        return server


@contextmanager
def _settings(variables: dict[str, str]) -> Iterator[Settings]:
    """Read settings from these variables alone."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield Settings.load()
    finally:
        os.environ.clear()
        os.environ.update(before)


class Seeded(NamedTuple):
    """What was put into a database."""

    tokens: list[bytes]
    """A ripe child of each session's current token."""
    logins: list[bytes]
    """A login body of each user."""


async def seed(variables: dict[str, str], count: int) -> Seeded:
    """Migrate a database and put users with one session each into it; they differ from those already there."""
    with _settings(variables) as settings:
        node = Keyturn(settings)
    await node.start()
    try:
        password_hash = await node.passwords.hash(PASSWORD)
        async with node.engine.autocommit() as connection:
            now = await node.engine.read_now(connection) - _AGE
        seeded = Seeded([], [])
        for start in range(0, count, _BATCH):
            rows = [_user(node, now, seeded, password_hash) for _ in range(start, min(count, start + _BATCH))]
            async with node.engine.transaction() as connection:
                await connection.execute(insert(users), [user for user, _ in rows])
                await connection.execute(insert(sessions), [session for _, session in rows])
        return seeded
    finally:
        await node.close()


def _user(node: Keyturn, now: float, seeded: Seeded, password_hash: str) -> tuple[dict[str, Any], dict[str, object]]:
    user_id = os.urandom(16).hex()
    email = f"{user_id}@example.com"
    login = Login(SessionId(os.urandom(16)), user_id, os.urandom(16), None, _CONTACT, ("pwd",), remember=False)
    tokens = node.auth.refresh_tokens
    admission = admit([], login, now, node.policy, tokens.minter(os.urandom(RANDOM_LENGTH)))
    child = tokens.minter(os.urandom(RANDOM_LENGTH))(login.session_id, 1, now, admission.session.fingerprint)
    seeded.tokens.append(child.text.encode())
    seeded.logins.append(json.dumps({"email": email, "password": PASSWORD}).encode())
    user = {
        "id": user_id,
        "email": email,
        "email_key": email,
        "name": "Ada Lovelace",
        "password_hash": password_hash,
        "created_at": now,
    }
    return user, values_of(admission.session)


async def confirmed(variables: dict[str, str]) -> int:
    """Return how many tokens were ever confirmed in a database: every confirm adds one to a session's generation."""
    with _settings(variables) as settings:
        node = Keyturn(settings)
    try:
        async with node.engine.autocommit() as connection:
            return int((await connection.execute(select(func.sum(sessions.c.generation)))).scalar_one())
    finally:
        await node.close()
