"""Every benchmark still runs; how quick anything is, is not judged here."""

from __future__ import annotations

from math import isfinite

import pytest

from bench.__main__ import BENCHMARKS
from bench.figures import Figure, over_rounds, table
from tests.services import ServiceError, find_program


# Each starts its own services, so they belong to the tests that need some. Under valgrind everything takes fifty times as
# long, so that one begins before the others.
@pytest.mark.services
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.waits) if name == "instructions" else name for name in BENCHMARKS]
)
def test_quick_run(name: str) -> None:
    """Figures come out, and the benchmark's own checks (every answer good, every confirm in the database) pass.

    Only `make bench` insists on valgrind, which some systems do not have.
    """
    if name == "instructions":
        try:
            find_program("valgrind")
        except ServiceError as missing:
            pytest.skip(str(missing))
    figures = BENCHMARKS[name](True)
    assert figures
    assert all(isfinite(figure.value) for figure in figures)
    assert len({figure.name for figure in figures}) == len(figures)


def test_figure_against_its_bounds() -> None:
    """A figure is within its bounds, outside them, or has none; the spread is over the rounds."""
    assert Figure("x", 0.5, least=0.5).reached is True
    assert Figure("x", 0.49, least=0.5).reached is False
    assert Figure("x", 3.01, most=3.0).reached is False
    assert Figure("x", 3.0).reached is None
    assert over_rounds("x", [3.0, 1.0, 2.0]) == Figure("x", 2.0, spread=(1.0, 3.0))
    assert "MISSED" in table([Figure("x", 1.0, least=2.0)])
