"""What of the machine this process may use: cores, and memory.

Owns: reading the affinity and the control groups of Linux, both versions. Must not hold: what is done with it (`password_pool.py`).

Why: in a container that has one core of sixty-four the system still tells all of them, and how much memory the machine has.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from math import ceil, inf
from pathlib import Path, PurePosixPath
from typing import Final

_MEMBERSHIP: Final = Path("/proc/self/cgroup")
_MOUNTED: Final = Path("/sys/fs/cgroup")


def cores(processes: int = 1, *, membership: Path = _MEMBERSHIP, mounted: Path = _MOUNTED) -> int:
    """Count the cores that each of so many processes may use, with a share of one for a whole.

    They share a quota: what one of them takes beyond it stops all of them for the rest of a tenth of a second. Without one,
    whatever runs gives way to the others.
    """
    count = len(os.sched_getaffinity(0)) if sys.platform.startswith("linux") else os.cpu_count() or 1
    shares = [inf]
    for group, version in _groups("cpu", membership, mounted):
        try:
            if version == 1:
                quota, period = (int((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
            else:
                quota, period = map(int, (group / "cpu.max").read_text().split())
        except (OSError, ValueError):  # "max"
            continue
        if quota > 0 and period > 0:  # -1 is none
            shares.append(quota / period)
    return max(1, ceil(min(count, min(shares) / processes)))


def memory(*, membership: Path = _MEMBERSHIP, mounted: Path = _MOUNTED) -> float:
    """Return how many bytes this process and all that share its control groups may have; infinity where nobody says."""
    limits = [inf]
    for group, version in _groups("memory", membership, mounted):
        for name in ("memory.limit_in_bytes",) if version == 1 else ("memory.max", "memory.high"):
            try:
                limits.append(int((group / name).read_text()))
            except (OSError, ValueError):  # "max"
                continue
    return min(limits)


def _groups(controller: str, membership: Path, mounted: Path) -> Iterator[tuple[Path, int]]:
    """Find the directories of the groups that limit us, each with its version.

    A group is limited by all above it. Where a container sees its own group as the root, with the path it has outside, only that
    root is there.
    """
    try:
        lines = membership.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        names, _, path = line.partition(":")[2].partition(":")
        if names and controller not in names.split(","):
            continue
        version, top = (1, mounted / controller) if names else (2, mounted)
        group = PurePosixPath(path.lstrip("/"))
        for each in (group, *group.parents):
            yield top / each, version
