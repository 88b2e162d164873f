"""What of a machine a process may use: control groups as files, of both versions and as containers show them."""

from __future__ import annotations

import os
import sys
from math import ceil, inf
from pathlib import Path

import pytest

from keyturn.allotted import cores, memory
from keyturn.password_pool import HASH_MEMORY, PROCESS_MEMORY, default_threads

ALL = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
GIB = 2**30


class Groups:
    """Control groups as files: which this process is in, and what they say."""

    def __init__(self, directory: Path) -> None:
        self.membership = directory / "cgroup"
        self.mounted = directory / "mounted"

    def write(self, membership: str, files: dict[str, str]) -> Groups:
        self.membership.write_text(membership)
        for name, content in files.items():
            path = self.mounted / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")
        return self

    @property
    def cores(self) -> int:
        return cores(membership=self.membership, mounted=self.mounted)

    @property
    def memory(self) -> float:
        return memory(membership=self.membership, mounted=self.mounted)


@pytest.fixture
def groups(tmp_path: Path) -> Groups:
    """Groups of nobody yet."""
    return Groups(tmp_path)


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        ("0::/\n", {"cpu.max": "50000 100000"}),  # a container with a view of its own
        ("0::/\n", {"cpu.max": "100000 100000"}),
        ("0::/a.slice/b.service\n", {"a.slice/b.service/cpu.max": "20000 100000"}),
        ("0::/a.slice/b.service\n", {"a.slice/b.service/cpu.max": "max 100000", "a.slice/cpu.max": "70000 100000"}),
        ("0::/a/b\n", {"a/b/cpu.max": "900000 100000", "a/cpu.max": "100000 100000"}),
        ("3:memory:/x\n2:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}),
        # Docker on version 1: the path of the outside, of which the inside shows the last part as the root.
        ("2:cpu,cpuacct:/docker/6f\n", {"cpu/cpu.cfs_quota_us": "99000", "cpu/cpu.cfs_period_us": "100000"}),
        ("2:cpu:/a/b\n", {"cpu/a/cpu.cfs_quota_us": "1000", "cpu/a/cpu.cfs_period_us": "1000"}),
        # Both versions, as systemd mounts them by default on older systems.
        ("0::/a\n2:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "1000", "cpu/a/cpu.cfs_period_us": "1000"}),
    ],
)
def test_quota_of_a_core_or_less(groups: Groups, membership: str, files: dict[str, str]) -> None:
    """Whichever group has it, and whichever version: the least of them counts."""
    assert groups.write(membership, files).cores == 1


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        ("0::/\n", {}),
        ("0::/\n", {"cpu.max": "max 100000"}),
        ("0::/\n", {"cpu.max": "9900000 100000"}),
        ("0::/\n", {"cpu.max": ""}),
        ("0::/\n", {"cpu.max": "100 0"}),
        ("0::/../../elsewhere\n", {}),
        ("nothing like it\n", {}),
        ("2:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}),
        ("2:cpu:/\n", {"cpu/cpu.cfs_quota_us": "50000"}),
        ("2:cpuset:/a\n", {"cpu/a/cpu.cfs_quota_us": "1000", "cpu/a/cpu.cfs_period_us": "1000"}),
    ],
)
def test_no_quota(groups: Groups, membership: str, files: dict[str, str]) -> None:
    """Where nobody limits, or nobody can tell by how much, all cores of the affinity count."""
    assert groups.write(membership, files).cores == ALL
    assert groups.write(membership, files).memory == inf


def test_share_of_a_core_counts_as_a_whole_one(groups: Groups) -> None:
    """A core and a half is two, for the half would be nobody's."""
    assert groups.write("0::/\n", {"cpu.max": "150000 100000"}).cores == min(2, ALL)


def test_quota_is_shared_by_several_processes(groups: Groups) -> None:
    """The cores of the affinity are not: there what hashes gives way."""
    for quota, each in ((f"{ALL}00000", ceil(ALL / 4)), ("max", ALL)):
        groups.write("0::/\n", {"cpu.max": f"{quota} 100000"})
        assert cores(4, membership=groups.membership, mounted=groups.mounted) == each


def test_system_without_control_groups(groups: Groups) -> None:
    """As on another system than Linux, or without /proc."""
    assert groups.cores == ALL
    assert groups.memory == inf


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        ("0::/\n", {"memory.max": "1000000", "memory.high": "max"}),
        ("0::/\n", {"memory.max": "max", "memory.high": "1000000"}),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "1000000"}),
        ("4:memory:/docker/6f\n", {"memory/memory.limit_in_bytes": "1000000"}),
        ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": "1000000", "memory/memory.limit_in_bytes": "9" * 18}),
    ],
)
def test_memory(groups: Groups, membership: str, files: dict[str, str]) -> None:
    """The least of what all groups above allow."""
    assert groups.write(membership, files).memory == 1_000_000


@pytest.mark.parametrize("limit", [0.125 * GIB, 0.25 * GIB, 0.5 * GIB, GIB, 4 * GIB, inf])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_hashes_fit_into_the_memory(limit: float, processes: int) -> None:
    """On sixty-four cores too, wherever one hash of each process does; the least is one."""
    threads = default_threads(processes, most=64, limit=limit)
    base = (processes + (processes > 1)) * PROCESS_MEMORY
    assert 1 <= threads <= 64
    assert threads == 1 or base + processes * threads * HASH_MEMORY < limit
    assert limit < inf or threads == 64


def test_default_of_half_a_gibibyte() -> None:
    """Half of what the process leaves of it."""
    assert default_threads(1, most=64, limit=GIB / 2) == 10
    assert default_threads(1, most=2, limit=GIB / 2) == 2
