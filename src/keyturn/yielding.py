"""A thread that computes for milliseconds gives way to all others, of this process and of every other one.

Owns: what Linux is told about such a thread. Must not hold: what it computes (`password_pool.py`).

Why two things. A lower priority counts among the threads of one process only, where the system puts each session in a group
of its own (`sched_autogroup_enabled`, the default): to a PostgreSQL on the same machine it is nothing. And whoever wakes up,
as PostgreSQL does when its disk has answered, waits until the thread that runs has had its slice (EEVDF, Linux 6.6), unless that
thread has asked for longer slices than the one that wakes up (Linux 6.12): `bench/README.md` has the figures.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
from contextlib import suppress
from struct import Struct
from typing import Final

NICENESS: Final = 10
SLICE: Final = 0.005
"""Seconds; the system's own slice is at most 0.003. Longer ones gain nothing more, and before Linux 6.17 others might wait for their end."""
_CALLS: Final = {"x86_64": (315, 314), "aarch64": (275, 274), "riscv64": (275, 274)}
"""The numbers of `sched_getattr` and `sched_setattr`: Python has no function for them, nor the C library before glibc 2.41."""
_ATTRIBUTES: Final = Struct("=IIQiIQQQ")
"""`struct sched_attr`, version 0: size, policy, flags, nice, priority, runtime, deadline, period."""


def yield_to_others() -> None:
    """Let the calling thread give way. Without Linux, or where it is refused, it stays as it is: that costs latency alone."""
    if sys.platform != "linux":
        return
    with suppress(OSError):
        thread = threading.get_native_id()
        # Never up: whoever started us with less has said so, and may not allow it.
        os.setpriority(os.PRIO_PROCESS, thread, max(NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))
    with suppress(OSError, ImportError, AttributeError):
        _ask_for_slices()


def _ask_for_slices() -> None:
    numbers = _CALLS.get(platform.machine())
    if numbers is None or sys.maxsize < 2**32:
        return
    import ctypes

    get, put = map(ctypes.c_long, numbers)
    call = ctypes.CDLL(None).syscall
    buffer = ctypes.create_string_buffer(_ATTRIBUTES.size)
    this, none = ctypes.c_int(0), ctypes.c_uint(0)
    if call(get, this, buffer, ctypes.c_uint(len(buffer)), none) != 0:
        return
    _, policy, flags, niceness, priority, _, _, _ = _ATTRIBUTES.unpack(buffer.raw)
    # Who has been given another policy has other rules.
    if policy == os.SCHED_OTHER:
        attributes = (_ATTRIBUTES.size, policy, flags, niceness, priority, round(SLICE * 1e9), 0, 0)
        call(put, this, ctypes.c_char_p(_ATTRIBUTES.pack(*attributes)), none)
