"""A line of each proof for whoever runs it."""

from __future__ import annotations

import pytest

from tests.proofs.support import Report


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Report:
    """Print a line although pytest captures."""

    def say(text: str) -> None:
        with capsys.disabled():
            print(f"\n  {text}", end="", flush=True)  # noqa: T201

    return say
