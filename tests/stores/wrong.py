"""What a contract finds of something that is wrong. No test in this file."""

from __future__ import annotations

from collections.abc import Callable
from inspect import getmembers, iscoroutinefunction


async def failures(make: Callable[[], object]) -> dict[str, AssertionError]:
    """Run each test of a contract, which is made anew for it; return those that failed."""
    failed: dict[str, AssertionError] = {}
    for name, _ in getmembers(make(), iscoroutinefunction):
        if name.startswith("test_"):
            try:
                await getattr(make(), name)()
            except AssertionError as failure:
                failed[name] = failure
    return failed
