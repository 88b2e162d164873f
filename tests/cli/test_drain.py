"""A server that is told to stop answers everything it was asked."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import httpx2
import psutil
import pytest

from keyturn.workers import START_INTERVAL
from tests.cli.conftest import Command
from tests.cli.storm import Storm
from tests.services import free_port, wait_until

ROOT = Path(__file__).parents[2]


def answers(port: int) -> bool:
    """Say whether somebody listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def connect_until_refused(port: int) -> None:
    """Connect again and again. Raises: ConnectionError: refused. TimeoutError: left waiting."""
    while True:
        socket.create_connection(("127.0.0.1", port), timeout=30).close()


@contextmanager
def running(workers: int, *before: str, more: Sequence[str] = ()) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a server, by a command that others may stand before, and lend its process and its port."""
    command = [*before, sys.executable, "-m", "tests.cli.storm_server", str(workers), *more]
    # It starts with what we ignore, and these tests may themselves run by `nohup`.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True)
    assert process.stdout is not None
    try:
        yield process, int(process.stdout.readline())
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


@contextmanager
def under_way(port: int) -> Iterator[socket.socket]:
    """Have a request under way, which ends with its connection."""
    with socket.create_connection(("127.0.0.1", port), 30) as held:
        held.sendall(b"GET /hold HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert held.recv(1)
        yield held


def drain(process: subprocess.Popen[str], port: int, held: socket.socket) -> None:
    """Tell a server to end: it refuses whoever comes while the request is under way, and ends well after it."""
    process.terminate()
    with pytest.raises(ConnectionError):
        connect_until_refused(port)
    assert process.poll() is None
    held.close()
    assert process.wait(30) == 0


@pytest.fixture(params=[1, 2], ids=["one worker", "two workers"])
def server(request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server process and its port."""
    with running(request.param) as served:
        yield served


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("whole_group", [False, True], ids=["to the process", "to the group"])
def test_no_request_is_cut_when_the_server_is_told_to_end_in_a_storm(
    server: tuple[subprocess.Popen[str], int], number: signal.Signals, whole_group: bool
) -> None:
    """Everything that was sent gets a full answer; afterwards connections are refused; the status is 0.

    SIGHUP comes to the group when its terminal is closed.
    """
    process, port = server
    storm = Storm(port)
    storm.begin()
    wait_until(lambda: storm.outcomes["full"] > 200, 30, "the storm")
    if whole_group:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    assert process.wait(30) == 0
    storm.end()


def test_connections_that_a_busy_server_has_not_accepted_yet(server: tuple[subprocess.Popen[str], int]) -> None:
    """They had come before the signal, and are answered however long it takes to get round to them."""
    process, port = server
    assert Storm(port).ask_once() == "full"
    processes = psutil.Process(process.pid).children() or [psutil.Process(process.pid)]
    with ExitStack() as stack:
        for each in processes:
            each.suspend()
        links = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 30)) for _ in range(300)]
        for link in links:
            link.sendall(b"GET /busy HTTP/1.1\r\nHost: localhost\r\n\r\n")
        process.terminate()
        for each in processes:
            each.resume()
        assert {link.recv(15) for link in links} == {b"HTTP/1.1 200 OK"}
        assert process.wait(30) == 0


def interrupt_twice(process: subprocess.Popen[str], port: int) -> None:
    """Expect that a server waits for what is under way at the first SIGINT, and ends at the second."""
    with (
        under_way(port),
        socket.create_connection(("127.0.0.1", port), 30) as idle,
    ):
        process.send_signal(signal.SIGINT)
        assert idle.recv(1) == b""  # the drain has begun
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_second_interrupt(server: tuple[subprocess.Popen[str], int]) -> None:
    """Whoever presses Ctrl-C once waits for what is under way; whoever presses it again does not."""
    interrupt_twice(*server)


def test_second_interrupt_where_there_is_no_uvloop() -> None:
    """As on Windows. A server of asyncio that is closed waits for its connections since Python 3.12."""
    with running(1, more=["plain"]) as served:
        interrupt_twice(*served)


@pytest.mark.skipif(sys.platform != "linux", reason="there is no filter elsewhere, and no way to lock one")
@pytest.mark.parametrize("workers", [1, 2])
def test_nobody_is_left_waiting_where_the_system_has_no_filter(workers: int) -> None:
    """A connection that comes during the drain is refused: no worker would accept it."""
    with (
        running(workers, more=["unfiltered"]) as (process, port),
        under_way(port) as held,
    ):
        process.terminate()
        wait_until(lambda: not answers(port), 30, "a refusal")
        assert process.poll() is None
        held.close()
        assert process.wait(30) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_nobody_is_left_waiting_for_the_last_request_of_a_drain(workers: int) -> None:
    """A proxy that connects meanwhile is refused after a moment, and asks the next node: also where there is a filter."""
    with (
        running(workers) as (process, port),
        under_way(port) as held,
    ):
        drain(process, port, held)


def test_a_worker_that_is_killed_is_replaced_and_the_others_go_on(
    server: tuple[subprocess.Popen[str], int], request: pytest.FixtureRequest
) -> None:
    """With several workers, one that dies is started anew; a server of one process simply ends."""
    process, port = server
    storm = Storm(port)
    assert storm.ask_once() == "full"
    if "one worker" in request.node.name:
        process.kill()
        assert process.wait(10) == -signal.SIGKILL
        return
    first = {child.pid for child in psutil.Process(process.pid).children()}
    os.kill(min(first), signal.SIGKILL)

    def replaced() -> bool:
        return len({c.pid for c in psutil.Process(process.pid).children()} - first) == 1

    wait_until(replaced, 20, "the replacement")
    assert storm.ask_once() == "full"
    process.terminate()
    assert process.wait(30) == 0


def test_process_that_has_no_file_to_spare() -> None:
    """It drains all the same, and does not reset what is under way."""
    with (
        running(1) as (process, port),
        under_way(port) as held,
    ):
        opened = {int(each.name) for each in Path(f"/proc/{process.pid}/fd").iterdir()}
        free = min(set(range(len(opened) + 1)) - opened)
        _, most = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (free, most))
        drain(process, port, held)


def workers_of(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> set[int]:
    """Return the processes of a server's workers."""
    return {child.pid for child in psutil.Process(process.pid).children()}


def test_interrupt_of_all_while_workers_start(sqlite_command: Command) -> None:
    """As Ctrl-C does: no worker dies of it, and each of them ends as its supervisor says, without a traceback."""
    with sqlite_command.process("serve", "--port", "0", "--workers", "2") as process:
        wait_until(lambda: len(workers_of(process)) == 2, 60, "the start")
        for each in [*workers_of(process), process.pid]:
            os.kill(each, signal.SIGINT)
        assert process.wait(60) == 0
    log = (sqlite_command.directory / "serve.log").read_text()
    assert "Traceback" not in log
    assert log.count('"drained"') == 2


def test_worker_that_cannot_be_replaced_at_the_moment(sqlite_command: Command) -> None:
    """The others go on, and it is replaced once the system has a process, memory and files to spare again."""
    log = sqlite_command.directory / "serve.log"
    with sqlite_command.process("serve", "--port", "0", "--workers", "2") as process:
        wait_until(lambda: len(workers_of(process)) == 2, 60, "the start")
        killed, other = workers_of(process)
        files, most = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (3, most))
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: "no worker can be started" in log.read_text(), 20, "a try to replace it")
        assert workers_of(process) == {other}
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (files, most))
        wait_until(lambda: len(workers_of(process)) == 2, 20, "the replacement")
        assert other in workers_of(process)
        process.terminate()
        assert process.wait(30) == 0


def script(command: Command) -> list[str]:
    """Return the command as it is installed: unlike `python -m` it finds no module in the working directory."""
    code = f"import sys; sys.path[:0] = {sys.path!r}; from keyturn.cli import main; main()"
    (command.directory / "script").mkdir()
    path = command.directory / "script" / "keyturn"
    path.write_text(code)
    return [sys.executable, str(path)]


def test_workers_take_no_module_of_the_working_directory(sqlite_command: Command) -> None:
    """Whoever may write there would have them run it (CWE-427); and a `secrets.py` of an operator is no module of Python's."""
    (sqlite_command.directory / "secrets.py").write_text("raise SystemExit('not this one')")
    port = free_port()
    arguments = ("serve", "--port", str(port), "--workers", "2")
    with (
        sqlite_command.process(*arguments, start=script(sqlite_command)) as process,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
    ):
        wait_until(lambda: process.poll() is not None or answers(port), 60, "the start")
        assert client.get("/readyz").status_code == 200
        process.terminate()
        assert process.wait(60) == 0


def test_server_that_the_system_starts_no_worker_for(sqlite_command: Command) -> None:
    """As where a limit of processes is reached: one line, and no traceback."""
    code = "import sys; sys.executable = '/nowhere'; from keyturn.cli import main; main(sys.argv[1:])"
    told = sqlite_command.spawn("serve", "--port", "0", "--workers", "2", status=1, start=(sys.executable, "-c", code))
    assert "\nkeyturn: cannot_start: no worker can be started: No such file or directory\n" in told


_ONE_AFTER_THE_OTHER = f"""
    try: os.mkdir('failed')
    except FileExistsError: time.sleep({START_INTERVAL + 1})
    sys.exit(1)"""


@pytest.mark.parametrize(
    "fault",
    ["raise ImportError('broken')", "os.kill(os.getpid(), 9)", _ONE_AFTER_THE_OTHER],
    ids=["error", "signal", "one later than another"],
)
def test_server_whose_workers_all_fail_at_the_start(sqlite_command: Command, fault: str) -> None:
    """It ends with status 1, so that who started it hears of it, has never said that it is ready, and starts no others for ever."""
    (sqlite_command.directory / "secrets.py").write_text(
        f"import os, sys, time\nif 'keyturn.workers' in sys.orig_argv: {fault}\nfrom random import *"
    )
    # By `-m` the working directory is where modules are looked for.
    with sqlite_command.process("serve", "--port", "0", "--workers", "2") as process:
        assert process.wait(60) == 1
    log = (sqlite_command.directory / "serve.log").read_text()
    assert "a worker could not start" in log
    assert "starting another" not in log
    assert '"listening"' not in log


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none", "database (ConnectionRefusedError)"),
        ("SECRET_FILE", "nowhere", "KEYTURN_SECRET_FILE: No such file or directory"),
    ],
)
def test_worker_that_does_not_start_says_why(sqlite_command: Command, name: str, value: str, told: str) -> None:
    """As one in the place of a dead one, when the database is away or a file is gone: in a line of the log, by the name of whoever says it."""
    sqlite_command.environment[f"KEYTURN_{name}"] = value
    with socket.create_server(("127.0.0.1", 0)) as web, socket.socketpair()[0] as lifeline:
        numbers = (web.fileno(), lifeline.fileno())
        command = [sys.executable, "-m", "keyturn.workers", "keyturn.cli.worker:make"]
        done = subprocess.run(
            [*command, "--web", str(numbers[0]), "--lifeline", str(numbers[1]), "--ready", str(numbers[1])],
            env=sqlite_command.environment,
            cwd=sqlite_command.directory,
            pass_fds=numbers,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 3
    (line,) = map(json.loads, done.stderr.splitlines())
    assert (line["logger"], line["level"]) == ("keyturn.workers", "error")
    assert line["message"] == f"the worker does not start: {told}"


def test_server_whose_first_workers_have_failed_one_after_the_other() -> None:
    """Each has been replaced, so it serves on."""
    with running(2) as (process, port):
        assert Storm(port).ask_once() == "full"
        first = workers_of(process)
        while first & workers_of(process):
            wait_until(lambda: len(workers_of(process)) == 2, 30, "two workers")
            before = workers_of(process)
            with socket.create_connection(("127.0.0.1", port), 30) as link, suppress(ConnectionError):
                link.sendall(b"GET /fail HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert link.recv(1) == b""
            wait_until(lambda: workers_of(process) != before, 30, "the failure")  # noqa: B023 - called at once
        wait_until(lambda: len(workers_of(process)) == 2, 30, "two workers")
        assert Storm(port).ask_once() == "full"
        process.terminate()
        assert process.wait(30) == 0


def test_workers_that_are_all_killed_at_once_later() -> None:
    """As by a system that is short of memory: they are replaced."""
    with running(2) as (process, port):
        assert Storm(port).ask_once() == "full"
        first = workers_of(process)
        begun = max(psutil.Process(worker).create_time() for worker in first)
        wait_until(lambda: time.time() > begun + START_INTERVAL + 1, 30, "the time of the start to be over")
        process.send_signal(signal.SIGSTOP)
        for worker in first:
            os.kill(worker, signal.SIGKILL)
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: len(workers_of(process) - first) == 2, 30, "the replacements")
        assert Storm(port).ask_once() == "full"
        process.terminate()
        assert process.wait(30) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_server_that_was_started_to_outlive_its_terminal(workers: int) -> None:
    """By `nohup`, which has SIGHUP ignored: it serves on, and still ends when told to."""
    with running(workers, "nohup") as (process, port):
        storm = Storm(port)
        assert storm.ask_once() == "full"
        os.killpg(process.pid, signal.SIGHUP)
        storm.begin()
        wait_until(lambda: storm.outcomes["full"] > 200, 30, "the storm")
        process.terminate()
        assert process.wait(30) == 0
        storm.end()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_server_that_is_started_without_standard_streams(sqlite_command: Command, workers: str) -> None:
    """As a supervisor may start it: no socket or file of its own gets their numbers, and it drains as ever."""
    port = free_port()
    serve = [sys.executable, "-m", "keyturn.cli", "serve", "--port", str(port), "--workers", workers]
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *serve]
    with (
        subprocess.Popen(command, env=sqlite_command.environment, cwd=sqlite_command.directory) as process,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
    ):
        try:
            wait_until(lambda: process.poll() is not None or answers(port), 60, "the start")
            wait_until(lambda: client.get("/readyz").status_code == 200, 30, "a ready server")
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_reader_of_the_log_that_stops_reading(sqlite_command: Command, workers: str) -> None:
    """The server goes on without it, ends when it is told to, and says how many lines are missing once they are read again."""
    port = free_port()
    serve = [sys.executable, "-m", "keyturn.cli", "serve", "--port", str(port), "--workers", workers]
    process = subprocess.Popen(
        serve, env=sqlite_command.environment, cwd=sqlite_command.directory, stderr=subprocess.PIPE
    )
    headers = {"X-Keyturn": "1", "Origin": "https://evil.example.com"}
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30) as client:
            wait_until(lambda: process.poll() is not None or answers(port), 60, "the start")
            fill = partial(client.post, "/auth/login", json={})
            for _ in range(300):  # far more than the 64 KiB of a pipe
                assert fill().status_code == 403
            assert client.get("/readyz").status_code == 200
            assert process.stderr is not None
            with process.stderr:
                os.read(process.stderr.fileno(), 1 << 20)
                for _ in range(20):
                    assert fill().status_code == 403
                log = os.read(process.stderr.fileno(), 1 << 20).decode()
                for _ in range(300):
                    assert fill().status_code == 403
                process.terminate()
                assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    (said, *_) = (json.loads(line) for line in log.splitlines() if "dropped" in line)
    assert said["message"] == "nobody read the log: lines were dropped"
    assert said["level"] == "error"
    assert said["dropped"] > 10


_ANYWHERE = """
import os, signal, sys
from keyturn.serving import bind
from keyturn.workers import Supervisor

# Stands in for the interpreter: ends with its lifeline, and takes no time to start.
sys.executable = sys.argv[1]


def end_at(number):
    passed = None

    def follow(frame, event, _):
        nonlocal passed
        if frame.f_code is Supervisor._replace_dead.__code__ and passed is None:
            passed = 0
        if passed is not None and event == "line":
            passed += 1
            if passed == number:
                os.kill(os.getpid(), signal.SIGTERM)
        return follow

    signal.alarm(60)
    supervisor = Supervisor("none:none", bind("127.0.0.1", 0), (), 1)
    sys.settrace(follow)
    os._exit(supervisor.run())


begun = [os.fork() or end_at(number) for number in range(1, 121)]
print({os.waitpid(each, 0)[1] for each in begun})
"""


def test_signal_that_comes_at_any_moment_of_a_supervisor(tmp_path: Path) -> None:
    """It comes between any two lines of Python, also those of the standard library that hold a lock."""
    worker = tmp_path / "worker"
    worker.write_text('#!/bin/sh\nwhile [ "$1" != --lifeline ]; do shift; done\nexec cat "/dev/fd/$2"\n')
    worker.chmod(0o700)
    command = [sys.executable, "-c", _ANYWHERE, str(worker)]
    assert subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout == "{0}\n"
