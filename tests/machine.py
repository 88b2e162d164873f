"""A machine whose date is wrong, and one that has no memory or no room to spare."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Machine:
    """Tell the date of a machine.

    Args: wrong: by how many seconds; tests may change it.
    """

    def __init__(self, wrong: float) -> None:
        self.wrong = wrong
        self._true = time.time

    def __call__(self) -> float:
        return self._true() + self.wrong

    @contextmanager
    def here(self) -> Iterator[None]:
        """Be this machine for the length of a block; a node that is made in it keeps its clock."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "time", self)
            yield


@contextmanager
def little_memory() -> Iterator[None]:
    """Leave this process, on Linux, a quarter of a GiB more than it has taken."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + (256 << 20), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def no_room() -> Iterator[None]:
    """Let this process write nothing beyond the first page of a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
