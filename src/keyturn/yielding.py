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
_SET: Final = {"x86_64": 314, "aarch64": 274, "riscv64": 274}
"""The number of `sched_setattr` by architecture: Python has no function for it, and the C library only from glibc 2.41 on."""
_ATTRIBUTES: Final = Struct("=IIQiIQQQ")
"""`struct sched_attr`, version 0: size, policy, flags, nice, priority, runtime, deadline, period."""


def yield_to_others() -> None:
    """Let the calling thread give way. Without Linux, or where it is refused, it stays as it is: that costs latency alone."""
    if sys.platform != "linux":
        return
    thread = threading.get_native_id()
    # Never up: whoever started us with less has said so, and may not allow it.
    niceness = max(NICENESS, os.getpriority(os.PRIO_PROCESS, thread))
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, niceness)
    number = _SET.get(platform.machine())
    if number is None or sys.maxsize < 2**32 or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    with suppress(ImportError, OSError, AttributeError):
        import ctypes

        attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, 0, niceness, 0, round(SLICE * 1e9), 0, 0)
        ctypes.CDLL(None).syscall(ctypes.c_long(number), ctypes.c_int(0), ctypes.c_char_p(attributes), ctypes.c_uint(0))
