"""Real services for the tests: PostgreSQL and Redis on free ports, in directories of their own.

Nothing here touches a service of the machine. A server lives in a temporary directory whose name
carries the process id of the test run that made it, so that the next run can remove what a killed
run left behind. No test and no fixture in this file. `python -m tests.services` says whether the
programs are there, and others that it is given the names of.
"""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import psutil
from psycopg.pq import ConnStatus, ExecStatus, PGconn

PREFIX = "keyturn-test-"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SHELLS = ("chromium-headless-shell", *BROWSERS)
"""Chromium without windows, where the system has it: 0.6 of the processor time, and no page cache."""
FIREFOXES = ("firefox-esr", "firefox")
WEBKIT = "WebKitWebDriver"
DISPLAY = "Xvfb"
PROGRAMS = {"webkit2gtk-driver": WEBKIT, "xvfb": DISPLAY}
"""What a package of Debian is wanted for, where the program has another name."""
START_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0
START_ATTEMPTS = 5
INSTALL_HINT = (
    "on Debian or Ubuntu: apt-get install postgresql redis-server chromium curl, and pgbouncer, nginx, haproxy, caddy, "
    "apache2 and faketime for `make chaos`, firefox-esr, webkit2gtk-driver, xvfb and faketime for `make prove` "
    "(no running service is needed, only the programs)"
)


class ServiceError(Exception):
    """A service of the tests is missing or did not start; the message says what to do."""


def find_program(*names: str) -> Path:
    """Return the first of these programs that exists, looking where Debian hides PostgreSQL and PgBouncer too.

    Raises:
        ServiceError: none of them is installed.
    """
    for name in names:
        versions = Path("/usr/lib/postgresql").glob(f"*/bin/{name}")
        newest = sorted(versions, key=lambda path: int(path.parts[-3]), reverse=True)
        if newest:
            return newest[0]
        found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
        if found:
            return Path(found)
    raise ServiceError(f"{' or '.join(names)} is not installed; {INSTALL_HINT}")


def other_clock() -> dict[str, str]:
    """Return the variables that give a program, and all that it starts, another time of day; what it waits for takes as long as ever.

    Which one it is, one more says: `FAKETIME`, or `FAKETIME_TIMESTAMP_FILE`. Why not by `faketime` itself: the program would be
    its child.

    Raises: ServiceError: it is not installed.
    """
    library = next(find_program("faketime").parents[1].glob("lib/*/faketime/libfaketime.so.1"))
    return {"LD_PRELOAD": str(library), "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], timeout: float, what: str) -> None:
    """Poll a condition until it holds.

    Args:
        condition: asked every 10 ms.
        timeout: seconds.
        what: names the awaited thing in the error.

    Raises:
        ServiceError: it did not hold in time.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise ServiceError(f"{what} did not happen within {timeout:.0f} s")
        time.sleep(0.01)


def kill_tree(process: psutil.Process) -> None:
    """SIGKILL a process and all its descendants and wait until none of them is left.

    The parent is frozen first, so that it can neither start another child nor clean up.
    """
    try:
        process.send_signal(signal.SIGSTOP)
        victims = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for victim in victims:
        try:
            victim.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(victims, timeout=STOP_TIMEOUT)


@contextmanager
def frozen(processes: Sequence[psutil.Process]) -> Iterator[None]:
    """Stop processes for the block, the first of them first. One that is about to end may be gone before it is stopped, or after."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in reversed(processes):
            with suppress(psutil.NoSuchProcess):
                process.resume()


def remove_leftovers() -> None:
    """Stop the servers and remove the directories of test runs that no longer live.

    Only directories that we or our service account own count, and only a process that works in
    such a directory is killed: a process id may have been given to somebody else since.
    """
    for directory in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        owner = directory.name.removeprefix(PREFIX).partition("-")[0]
        try:
            foreign = directory.lstat().st_uid not in {os.geteuid(), service_account()[0]}
        except (FileNotFoundError, ServiceError):
            continue
        if foreign or not owner.isdigit() or psutil.pid_exists(int(owner)):
            continue
        for process in psutil.process_iter(["cwd"]):
            if process.info["cwd"] in {str(directory), str(directory / "data")}:
                kill_tree(process)
        shutil.rmtree(directory, ignore_errors=True)


def service_account() -> tuple[int, int]:
    """Return the user and group id a server runs under: ours, or `postgres` when we are root.

    Raises:
        ServiceError: we are root and there is no such user. PostgreSQL refuses to run as root.
    """
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    try:
        entry = pwd.getpwnam("postgres")
    except KeyError as error:
        raise ServiceError(f"root needs the user postgres; {INSTALL_HINT}") from error
    return entry.pw_uid, entry.pw_gid


class Server(ABC):
    """A server process of the tests, on one port of 127.0.0.1 for its whole life.

    The port stays the same over kills and restarts, so a URL handed out remains good.
    """

    kind: str

    def __init__(self) -> None:
        self.uid, self.gid = service_account()
        self.port = 0
        self.directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-{self.kind}-"))
        os.chown(self.directory, self.uid, self.gid)
        self.data = self.directory / "data"
        self.log = self.directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)

    @abstractmethod
    def _prepare(self) -> None:
        """Create what the first start needs."""

    @abstractmethod
    def _command(self) -> list[str]:
        """Return the command line of the server in the foreground."""

    def _ready(self) -> bool:
        """Say whether the running process takes connections."""
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return self.running

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and return when it takes connections; do nothing if it runs.

        Raises:
            ServiceError: it did not come up; the message holds the end of its log.
        """
        if self.running:
            return
        first = self.port == 0
        if first:
            self._prepare()
        for attempt in range(START_ATTEMPTS):
            # Between finding a free port and using it, somebody else may take it.
            if first:
                self.port = free_port()
            self._spawn()
            wait_until(lambda: self._ready() or not self.running, START_TIMEOUT, "the start")
            if self.running:
                return
            if not first or attempt == START_ATTEMPTS - 1:
                break
        tail = self.log.read_text(errors="replace")[-2000:]
        raise ServiceError(f"{self.kind} did not start:\n{tail}")

    def stop(self) -> None:
        """Stop the server at once but cleanly: open connections end, no data is lost."""
        self._end(signal.SIGINT)

    def kill9(self) -> None:
        """Kill the server and all its children with SIGKILL, as a power cut of it would."""
        if self._process is not None and self.running:
            kill_tree(psutil.Process(self._process.pid))
            self._process.wait()
        self._process = None

    def restart(self) -> None:
        """Stop the server if it runs, then start it on the same port and data."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop the server and remove its directory; more than once does no harm."""
        if self.directory.exists():
            self.stop()
            shutil.rmtree(self.directory, ignore_errors=True)
        atexit.unregister(self.close)

    def _spawn(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,
                user=self.uid if os.geteuid() == 0 else None,
                group=self.gid if os.geteuid() == 0 else None,
            )

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None and self.running:
            self._process.send_signal(number)
            try:
                self._process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self.kill9()
        self._process = None


END_CONNECTIONS = """
SELECT count(pg_terminate_backend(pid, 30000)) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
AS_NEW = """
SELECT datacl IS NULL AND datconnlimit = -1
    AND NOT EXISTS (SELECT FROM pg_db_role_setting WHERE setdatabase = database.oid)
    AND NOT EXISTS (SELECT FROM pg_shdepend WHERE dbid = database.oid)
    AND NOT EXISTS (SELECT FROM pg_default_acl)
    AND (SELECT count(*) FROM pg_extension) = 1
    AND (SELECT count(*) FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_') = 4
FROM pg_database AS database WHERE datname = current_database()
"""
"""Says whether tests have left no more in a database than a schema."""
_EMPTY = f"""{END_CONNECTIONS};
DROP SCHEMA public CASCADE;
CREATE SCHEMA public AUTHORIZATION pg_database_owner;
GRANT USAGE ON SCHEMA public TO PUBLIC;
{AS_NEW}
"""


class PostgresServer(Server):
    """A PostgreSQL with the durability of production: fsync and synchronous_commit are on."""

    kind = "postgresql"
    user = "keyturn"

    def url(self, database: str) -> str:
        """Return the SQLAlchemy URL of a database of this server."""
        return f"postgresql+asyncpg://{self.user}@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str) -> None:
        """Create an empty database."""
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')

    def empty_database(self, name: str) -> None:
        """Make a database what it was when it was created, and end every connection to it.

        Why not a new one: that takes twenty times as long, as all its pages are written and a checkpoint is waited for.
        """
        try:
            as_new = self.execute(_EMPTY, name) == "t"
        except ServiceError:
            as_new = False
        if not as_new:
            self.drop_database(name)
            self.create_database(name)

    def drop_database(self, name: str) -> None:
        """Remove a database and end every connection to it."""
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def relations(self, database: str) -> str:
        """Return what stands in a database's schema `public`, a line each."""
        return self.execute("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace", database)

    def execute(self, statement: str, database: str = "postgres") -> str:
        """Run SQL statements and return the rows of the last one as text: a line each, with `|` between the values.

        Raises:
            ServiceError: PostgreSQL refused it.
        """
        connection = PGconn.connect(f"host=127.0.0.1 port={self.port} user={self.user} dbname={database}".encode())
        try:
            if connection.status != ConnStatus.OK:
                raise ServiceError(connection.get_error_message().strip())
            result = connection.exec_(statement.encode())
            if result.status not in {ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK}:
                raise ServiceError(result.get_error_message().strip())
            rows = (
                [result.get_value(row, column) or b"" for column in range(result.nfields)]
                for row in range(result.ntuples)
            )
            return b"\n".join(b"|".join(row) for row in rows).decode()
        finally:
            connection.finish()

    def _prepare(self) -> None:
        self._as_account("cp", "-a", str(_new_data()), str(self.data))

    def _as_account(self, *command: str) -> None:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.directory,
            user=self.uid if os.geteuid() == 0 else None,
            group=self.gid if os.geteuid() == 0 else None,
        )
        if done.returncode != 0:
            raise ServiceError(f"{command[0]} failed: {done.stderr.strip()}")

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "64MB",
            "fsync": "on",
            "synchronous_commit": "on",
        }
        command = [str(find_program("postgres")), "-D", str(self.data), "-p", str(self.port)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        return command

    def _ready(self) -> bool:
        # The postmaster writes its state into its pid file. A killed one leaves the file behind,
        # so the pid in it has to be the one we started.
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        alive = self._process is not None and lines[:1] == [str(self._process.pid)]
        return alive and len(lines) > 7 and lines[7].strip() == "ready"


class _NewPostgres(PostgresServer):
    """Never started: its data are what the others begin with."""

    def _prepare(self) -> None:
        command = [str(find_program("initdb")), "--no-sync", "-D", str(self.data)]
        self._as_account(*command, "-A", "trust", "-U", self.user, "-E", "UTF8", "--locale=C")


@cache
def _new_data() -> Path:
    """Make the data of a new PostgreSQL, once in a process: a copy takes a tenth of the time."""
    new = _NewPostgres()
    new._prepare()
    return new.data


class RedisServer(Server):
    """A Redis or Valkey that writes every command to disk before it answers."""

    kind = "redis"

    @property
    def url(self) -> str:
        """The URL of database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def flush(self) -> None:
        """Remove all keys of all databases."""
        answer = self.command("FLUSHALL")
        if answer != "+OK":
            raise ServiceError(f"FLUSHALL answered {answer!r}")

    def command(self, line: str) -> str:
        """Send one inline command and return the first line of the answer as it came."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=STOP_TIMEOUT) as link:
            link.sendall(f"{line}\r\n".encode())
            return link.makefile("rb").readline().decode().rstrip("\r\n")

    def _prepare(self) -> None:
        self.data.mkdir()
        os.chown(self.data, self.uid, self.gid)

    def _command(self) -> list[str]:
        command = [str(find_program("redis-server", "valkey-server")), "--port", str(self.port)]
        command += ["--bind", "127.0.0.1", "--dir", str(self.data), "--save", ""]
        return [*command, "--appendonly", "yes", "--appendfsync", "always"]

    def _ready(self) -> bool:
        # A stranger on our port would answer too, but then our process ends: see start().
        try:
            return self.command("PING") == "+PONG" and self.running
        except OSError:
            return False


def sqlite_url(directory: Path) -> str:
    """Return the SQLAlchemy URL of a database file in a directory; the file need not exist."""
    return f"sqlite+aiosqlite:///{directory / 'keyturn.db'}"


def main(more: Sequence[str] = ()) -> int:
    """Check that every program is installed; print what is missing and return 1 if one is not."""
    try:
        programs = (("initdb",), ("postgres",), ("psql",), ("redis-server", "valkey-server"), BROWSERS, ("curl",))
        for names in (*programs, *((PROGRAMS.get(name, name),) for name in more)):
            find_program(*names)
        service_account()
    except ServiceError as error:
        sys.stderr.write(f"The tests need {', '.join(('PostgreSQL', 'Redis', 'Chromium', 'curl', *more))}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
