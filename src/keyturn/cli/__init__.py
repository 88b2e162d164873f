"""The command line: `keyturn`.

Owns: the entry point and how errors are told. Must not hold: commands (`commands.py` and its neighbours).

Every module here imports what it needs inside its functions: `keyturn --help` must not wait for a database driver.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 a known error (its code and text on standard error), 2 wrong usage.

    With --json each error is an object in a line, `{"code": ..., "text": ...}`, else `keyturn: code: text`.
    Ctrl-C and SIGTERM end it by the signal, which a shell shows as 130 and 143.

    Args:
        arguments: without the program's name; those of the process when None.
    """
    with _ended_by_interrupts(), _uncollected():
        _run(arguments)


def _run(arguments: Sequence[str] | None) -> None:
    from keyturn.cli.errors import problems_of, tell

    # Whatever goes wrong, also before the arguments are understood.
    as_json = "--json" in (sys.argv if arguments is None else arguments)
    _open_standard_streams()
    if isinstance(sys.stdout, TextIOWrapper):
        # Names come from strangers, and not every terminal has letters for them.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            from keyturn.cli.commands import app

            app(args=None if arguments is None else list(arguments), prog_name="keyturn")
        finally:
            # What waits to be written meets its fault here, and not at the end of the interpreter, which ignores it aloud.
            if isinstance(sys.stdout, TextIOWrapper):
                sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output (`| head`) has seen enough.
        _drop_output()
        sys.exit(1)
    except Exception as error:
        problems = problems_of(error)
        if problems is None:
            raise
        if isinstance(error, OSError):
            _drop_output()
        for problem in problems:
            tell(problem, as_json=as_json)
        sys.exit(1)


@contextmanager
def _ended_by_interrupts() -> Generator[None]:
    """Let Ctrl-C end the process at once, as SIGTERM does, unless whoever started it has that ignored.

    Why no exception: whatever waits for a person or a database would tell of it by a traceback of its own, and a shell would go
    on with its loop. Nothing is half done by it: what is not committed is undone. Servers take the signal while they serve.
    """
    if os.getpid() == 1:
        # A container's first process: the system keeps from it what it does not take itself.
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda taken, _: os._exit(128 + taken))
        yield
        return
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def _uncollected() -> Generator[None]:
    """Keep the collector of unreachable cycles from running until a command works (`tools.run`, `serving.py`).

    Modules leave it nothing to find, and it would look through them all again and again while they are loaded: a tenth of
    the time that a command takes to begin (measured).
    """
    restore = gc.enable if gc.isenabled() else gc.disable
    gc.disable()
    try:
        yield
    finally:
        restore()


def _drop_output() -> None:
    """Lead what is not written yet to nowhere: the end of the interpreter would try it again."""
    if isinstance(sys.stdout, TextIOWrapper):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_standard_streams() -> None:
    """Lead to nowhere what was closed of the standard streams when this process was started.

    Why: else a socket or a file of ours gets the number, and with it what is meant for people; and libuv ends a process that
    closes such a socket, while it drains.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free: this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # by the workers too
            name, mode = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))[number]
            # The interpreter has None in its place.
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
