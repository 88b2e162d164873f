"""A thread that has given way has told the system so, and never asked for more than it had."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from keyturn.yielding import NICENESS, SLICE, yield_to_others

GET = {"x86_64": 315, "aarch64": 275, "riscv64": 275}[platform.machine()]
KERNEL = tuple(map(int, re.findall(r"\d+", platform.release())[:2]))
SLICES = round(SLICE * 1e9) if KERNEL >= (6, 12) else 0
"""Before Linux 6.12 there is nothing to be asked for, and asking does no harm."""


class Told:
    """What the system has been told about a thread."""

    def __init__(self) -> None:
        self.policy = os.sched_getscheduler(0)
        self.niceness = niceness()
        buffer = ctypes.create_string_buffer(48)
        assert ctypes.CDLL(None).syscall(GET, 0, buffer, len(buffer), 0) == 0
        self.slice: int = struct.unpack("=IIQiIQQQ", buffer.raw)[5]


def niceness() -> int:
    """Return the niceness of the calling thread."""
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


LOWER = max(NICENESS, niceness())
"""What a thread ends up with: under `nice` these tests may have given way themselves."""


def in_a_thread(before: Callable[[], object] = lambda: None) -> Told:
    """Do something in a thread of its own, let it give way, and see."""

    def run() -> Told:
        before()
        yield_to_others()
        return Told()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def test_thread_that_gives_way() -> None:
    """It has a lower priority than all others, and a slice long enough that whoever wakes up need not wait for its end."""
    before = niceness()
    told = in_a_thread()
    assert (told.policy, told.niceness) == (os.SCHED_OTHER, LOWER)
    assert told.slice == SLICES
    assert niceness() == before


def test_thread_that_has_given_way_further() -> None:
    """What whoever started us wants is kept: to take it back may not even be allowed."""
    further = min(19, LOWER + 1)
    less = lambda: os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), further)  # noqa: E731
    assert in_a_thread(less).niceness == further


def test_thread_of_another_policy() -> None:
    """It keeps it."""
    batch = lambda: os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # noqa: E731
    told = in_a_thread(batch)
    assert (told.policy, told.niceness) == (os.SCHED_BATCH, LOWER)


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> Told:
    """Let a thread give way where these functions are refused."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "no such call")

    def give_way() -> None:
        with monkeypatch.context() as patch:
            for name in names:
                patch.setattr(os, name, refuse)
            yield_to_others()

    with ThreadPoolExecutor(1, initializer=give_way) as pool:
        return pool.submit(Told).result()


@pytest.mark.parametrize("name", ["getpriority", "setpriority"])
def test_system_that_refuses_a_priority(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It is asked for the slice all the same."""
    told = without(monkeypatch, name)
    assert (told.niceness, told.slice) == (niceness(), SLICES)


def test_library_without_the_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of Alpine says that there are no such calls; the system itself is asked."""
    told = without(monkeypatch, "sched_getscheduler", "sched_setscheduler", "sched_getparam", "sched_setparam")
    assert (told.niceness, told.slice) == (LOWER, SLICES)


def test_machine_of_which_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the lower priority alone."""
    usual = in_a_thread(lambda: monkeypatch.setattr(platform, "machine", lambda: "unheard-of"))
    assert usual.niceness == LOWER
    assert usual.slice != SLICES or not SLICES
