"""A machine whose date is wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

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
