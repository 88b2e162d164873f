"""Several worker processes on one listening socket.

Owns: starting workers, replacing one that dies, ending all of them together. Must not hold: how a worker serves and
drains (`serving.py`).

A worker is told to end by its lifeline, a pipe whose other end only the supervisor holds. Why not by a signal: a service
manager sends its signal to every process of the group at once, and a worker that stops accepting before the supervisor
has turned new connections away leaves them in the queue of a socket that is about to close. A supervisor that is killed
takes its workers along for the same reason. By another pipe workers tell it that they accept connections.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from keyturn.core.errors import KeyturnError, Unavailable
from keyturn.serving import DRAIN_TIME, ASGIApplication, Lifespan, Listeners, serve_here, stop_signals, turn_away
from keyturn.wire import name_of

_logger = logging.getLogger("keyturn.workers")  # a worker is `__main__`

START_INTERVAL = 5.0
"""Seconds between two starts of a worker that keeps ending, as during an outage: starting costs a second of the processor."""
_WATCH_INTERVAL = 0.2
_TURN_AWAY_TIME = 1.0
"""Seconds in which workers, busy ones too, accept what was queued. A client that was turned away tries again after as long (TCP)."""
_STARTUP_FAILED = 3
"""The status of a worker that could not start, for a reason that is known and may pass. Any other above 0 is an exception's."""


class Served(NamedTuple):
    """What a worker serves; a worker's factory returns it."""

    application: ASGIApplication
    lifespan: Lifespan
    metrics: ASGIApplication | None = None


Factory = Callable[[], Served]


class CannotStart(KeyturnError):
    """The system starts no worker: it has no process, memory or file to spare, or may not run the interpreter."""


class Supervisor:
    """Run worker processes until a stop signal.

    Args:
        factory: `module:function`, called in each worker.
        web: the socket all workers accept from.
        metrics: one socket for each worker, or none.
        workers: how many.
        environment: of the workers; ours when None.
    """

    def __init__(
        self,
        factory: str,
        web: socket.socket,
        metrics: Sequence[socket.socket],
        workers: int,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._factory = factory
        self._web = web
        self._metrics = metrics
        self._stopping = False
        self._lifeline, self._other_end = os.pipe()
        self._ready, self._ready_end = os.pipe()
        os.set_blocking(self._ready, False)
        self._serves = False
        self._workers: list[subprocess.Popen[bytes]] = []
        self._started_at = [0.0] * workers
        self._count = workers
        self._environment = environment

    def run(self, on_ready: Callable[[], None] = lambda: None) -> int:
        """Supervise until a stop signal, or until one of the first workers cannot start, or all fail; return the exit status.

        Why only the first: a worker that replaces a dead one during an outage of the database cannot start either, and must
        not end the others, which live and wait. None is replaced before one has served.

        Workers take up to `DRAIN_TIME` to end; one that still runs a little later, or at a second SIGINT, is killed.

        Args: on_ready: called when the first worker accepts connections.
        Raises: CannotStart.
        """
        for number in stop_signals():
            signal.signal(number, self._on_signal)
        try:
            first = [self._spawn(index) for index in range(self._count)]
        except OSError as error:
            # Those that were started end with our end of their lifeline, which is this process's.
            raise CannotStart(f"no worker can be started: {error.strerror}") from error
        self._workers = first.copy()
        status = 0
        while not self._stopping:
            if self._begins_to_serve():
                on_ready()
            if self._cannot_start(first):
                _logger.error("a worker could not start")
                status = 1
                break
            self._replace_dead()
            # Not on an event: a signal that comes while one is looked at would wait for its lock, for ever.
            time.sleep(_WATCH_INTERVAL)
        turned_away = turn_away(self._web)
        if not turned_away:
            # While we hold it, the system takes connections that no worker accepts any more.
            self._web.close()
        os.close(self._other_end)
        if turned_away:
            # What had been queued is accepted. Who comes from now on is refused, and does not wait until the last worker has ended.
            time.sleep(_TURN_AWAY_TIME)
            self._web.close()
        self._join()
        return status

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._stopping and number == signal.SIGINT:
            # As one process does at a second one: what is in flight is given up.
            for worker in self._workers:
                worker.kill()
        self._stopping = True

    def _spawn(self, index: int) -> subprocess.Popen[bytes]:
        self._started_at[index] = time.monotonic()
        command = [sys.executable, *_path_as_ours(), "-m", "keyturn.workers", self._factory]
        command += ["--web", str(self._web.fileno()), "--lifeline", str(self._lifeline)]
        command += ["--ready", str(self._ready_end)]
        inherited = [self._web.fileno(), self._lifeline, self._ready_end]
        if self._metrics:
            command += ["--metrics", str(self._metrics[index].fileno())]
            inherited.append(self._metrics[index].fileno())
        # From its first moment no signal to the whole group ends it; `main` lets them pass, and takes none.
        former = signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals())
        try:
            # The command is this interpreter with our own module and numbers.
            return subprocess.Popen(command, env=self._environment, pass_fds=inherited)  # noqa: S603
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, former)

    def _begins_to_serve(self) -> bool:
        """Say, once, that a worker accepts connections; read what all of them tell, so that none waits to tell it."""
        served = self._serves
        with contextlib.suppress(BlockingIOError):
            self._serves = bool(os.read(self._ready, self._count))
        return self._serves and not served

    def _cannot_start(self, first: Sequence[subprocess.Popen[bytes]]) -> bool:
        statuses = [worker.poll() for worker in first]
        # Before any has served each end counts: by an exception, or by a signal where memory is short.
        return _STARTUP_FAILED in statuses or not (self._serves or None in statuses)

    def _replace_dead(self) -> None:
        for index, worker in enumerate(self._workers if self._serves else ()):
            if worker.poll() is not None and time.monotonic() - self._started_at[index] >= START_INTERVAL:
                _logger.error("worker %d ended with status %d; starting another", worker.pid, worker.returncode)
                try:
                    self._workers[index] = self._spawn(index)
                except OSError as error:
                    # The system has no process, memory or file to spare. The other workers must not end for it.
                    _logger.error("no worker can be started at the moment: %s", error)

    def _join(self) -> None:
        deadline = time.monotonic() + DRAIN_TIME + 10
        for worker in self._workers:
            try:
                worker.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _logger.error("worker %d does not end; it is killed", worker.pid)
                worker.kill()
                worker.wait()


def _path_as_ours() -> Sequence[str]:
    """Return the options with which a worker looks for modules where we do.

    Why: `-m` alone has it look in the working directory before all others, where a `secrets.py` of whoever may write there
    would be run.
    """
    try:
        return () if Path.cwd() in [Path(each).absolute() for each in sys.path] else ("-P",)
    except OSError:  # the directory is gone
        return ("-P",)


def main(arguments: Sequence[str] | None = None) -> None:
    """Be one worker: serve what the factory makes, on the sockets of the supervisor."""
    gc.disable()  # until it serves, as in the command line
    parser = argparse.ArgumentParser(prog="python -m keyturn.workers")
    parser.add_argument("factory")
    parser.add_argument("--web", type=int, required=True)
    parser.add_argument("--metrics", type=int)
    parser.add_argument("--lifeline", type=int, required=True)
    parser.add_argument("--ready", type=int, required=True)
    options = parser.parse_args(arguments)
    for number in stop_signals():
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, stop_signals())
    metrics = None if options.metrics is None else socket.socket(fileno=options.metrics)
    listeners = Listeners(socket.socket(fileno=options.web), metrics)
    module, _, name = options.factory.partition(":")
    factory: Factory = getattr(import_module(module), name)

    def tell() -> None:
        with contextlib.suppress(BrokenPipeError):  # the supervisor has gone
            os.write(options.ready, b"1")

    try:
        served = factory()
        serve_here(
            served.application,
            served.lifespan,
            listeners,
            metrics=served.metrics,
            lifeline=options.lifeline,
            on_ready=tell,
        )
    except Unavailable as fault:
        # Its text is for callers, and does not say what is away.
        named = {"dependency": fault.dependency, "fault": name_of(fault)}
        _logger.error("the worker does not start: %(dependency)s (%(fault)s)", named, extra=named)
        sys.exit(_STARTUP_FAILED)
    except KeyturnError as error:
        _logger.error("the worker does not start: %s", error)
        sys.exit(_STARTUP_FAILED)


if __name__ == "__main__":
    main()
