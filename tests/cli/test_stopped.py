"""A command that is stopped while it waits: it ends at once, says nothing, and whoever started it learns by which signal."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.cli.conftest import Command
from tests.services import wait_until

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
PATIENCE = 60.0


@contextmanager
def waiting(
    command: Command, *arguments: str, stdin: int = subprocess.PIPE, begun_by: Sequence[str] = ()
) -> Generator[subprocess.Popen[bytes]]:
    """Begin a command that nobody answers, in a session of its own; at the end of the block it is gone.

    Args: begun_by: a program that becomes the command.
    """
    with subprocess.Popen(
        [*begun_by, sys.executable, "-m", "keyturn.cli", *arguments],
        env=command.environment,
        cwd=command.directory,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ends(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Stop it, and expect that it says nothing but what it had asked. A shell shows 130 of SIGINT, and leaves the loop that the command is in."""
    process.send_signal(number)
    assert process.wait(PATIENCE) == -number
    assert process.stderr is not None
    assert process.stderr.read() in {b"", b"@example.com for good? [y/N]: "}


@SIGNALS
def test_waiting_for_a_password(sqlite_command: Command, number: signal.Signals) -> None:
    """On standard input, while the database is open."""
    sqlite_command.run("migrate")
    database = sqlite_command.environment["KEYTURN_DATABASE_URL"].rpartition("/")[2]
    with waiting(sqlite_command, "users", "create", "ada@example.com", "--password-stdin") as process:
        files = psutil.Process(process.pid).open_files
        wait_until(lambda: any(Path(file.path).name == database for file in files()), PATIENCE, "the database")
        ends(process, number)


@SIGNALS
def test_waiting_for_an_answer(sqlite_command: Command, number: signal.Signals) -> None:
    """To a question, without a database."""
    with waiting(sqlite_command, "users", "delete", "ada@example.com") as process:
        assert process.stderr is not None
        assert process.stderr.read(len("Delete ada")) == b"Delete ada"
        ends(process, number)


@pytest.mark.parametrize(
    ("line", "number"),
    [
        # What an event loop would take itself is tried with each; the other signal is the system's matter.
        *((line, signal.SIGINT) for line in ("users list", "migrate", "doctor", "keys rotate")),
        ("users list", signal.SIGTERM),
    ],
)
def test_waiting_for_a_database(sqlite_command: Command, line: str, number: signal.Signals) -> None:
    """One that takes connections, and answers nobody."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE)
        sqlite_command.environment["KEYTURN_DATABASE_URL"] = f"postgresql://a:b@127.0.0.1:{silent.getsockname()[1]}/c"
        with waiting(sqlite_command, *line.split()) as process, silent.accept()[0]:
            ends(process, number)


def test_waiting_at_a_terminal(sqlite_command: Command) -> None:
    """A password that is asked for is not shown, and the terminal shows again what is typed after it."""
    sqlite_command.run("migrate")
    terminal, keyboard = pty.openpty()
    try:
        with waiting(sqlite_command, "users", "create", "ada@example.com", stdin=keyboard) as process:
            wait_until(lambda: not _shows(keyboard), PATIENCE, "the question")
            assert process.stderr is not None
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == -signal.SIGINT
            assert b"Traceback" not in process.stderr.read()
            assert _shows(keyboard)
    finally:
        os.close(terminal)
        os.close(keyboard)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (b"sch\xf6ne Otter jonglieren\n", b"invalid_request: The password is not UTF-8\n"),
        (b"\x04", b"no_password: none was typed\n"),
    ],
    ids=["not UTF-8", "Ctrl-D"],
)
def test_typed_that_is_no_password(sqlite_command: Command, typed: bytes, told: bytes) -> None:
    """It ends the command in a line."""
    sqlite_command.environment["PYTHONIOENCODING"] = "utf-8:strict"  # as in every locale but C
    terminal, keyboard = pty.openpty()
    try:
        with waiting(sqlite_command, "users", "create", "ada@example.com", stdin=keyboard) as process:
            wait_until(lambda: not _shows(keyboard), PATIENCE, "the question")
            os.write(terminal, typed)
            assert process.wait(PATIENCE) == 1
            assert process.stderr is not None
            assert process.stderr.read().endswith(b"keyturn: " + told)
    finally:
        os.close(terminal)
        os.close(keyboard)


def test_interrupts_that_are_ignored(sqlite_command: Command) -> None:
    """Whoever starts a command in the background of a script has it ignore Ctrl-C."""
    script = ("sh", "-c", 'trap "" INT; exec "$@"', "sh")
    with waiting(sqlite_command, "users", "delete", "ada@example.com", begun_by=script) as process:
        assert process.stderr is not None
        assert process.stderr.read(len("Delete ada")) == b"Delete ada"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(b"n\n", PATIENCE)
        assert process.returncode == 1
        assert b"\nkeyturn: not_confirmed: " in errors


@SIGNALS
@pytest.mark.parametrize("arguments", [["migrate"], ["serve", "--port", "0"]], ids=" ".join)
def test_first_process_of_a_container(sqlite_command: Command, arguments: list[str], number: signal.Signals) -> None:
    """The system keeps from it what it does not take itself, so it does, and ends with the status that a shell would show."""
    # Not the first one, but told so: to be it takes rights that not everybody has.
    program = "import os, sys; os.getpid = lambda: 1; from keyturn.cli import main; main(sys.argv[1:])"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE)
        url = f"postgresql://a:b@127.0.0.1:{silent.getsockname()[1]}/c"
        environment = {**sqlite_command.environment, "KEYTURN_DATABASE_URL": url}
        command = [sys.executable, "-c", program, *arguments]
        with (
            subprocess.Popen(command, env=environment, cwd=sqlite_command.directory) as process,
            silent.accept()[0],
        ):
            process.send_signal(number)
            assert process.wait(PATIENCE) == 128 + number


def _shows(terminal: int) -> bool:
    flags: int = termios.tcgetattr(terminal)[3]
    return bool(flags & termios.ECHO)
