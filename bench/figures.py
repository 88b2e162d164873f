"""What a benchmark finds: figures, and what each has to reach.

Owns: the value and its table. Must not hold: any measurement.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple


class Figure(NamedTuple):
    """One line of the table."""

    name: str
    value: float
    unit: str = ""
    least: float | None = None
    most: float | None = None
    spread: tuple[float, float] | None = None
    """The smallest and the largest of several rounds."""
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the figure is within its bound; None when it has none."""
        if self.least is None and self.most is None:
            return None
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)


def over_rounds(
    name: str,
    values: Sequence[float],
    unit: str = "",
    *,
    least: float | None = None,
    most: float | None = None,
    note: str = "",
) -> Figure:
    """Make a figure of the median over rounds, with its spread."""
    return Figure(name, median(values), unit, least, most, (min(values), max(values)), note)


def table(figures: Iterable[Figure]) -> str:
    """Write figures as lines."""
    return "\n".join(_line(figure) for figure in figures)


def _line(figure: Figure) -> str:
    number = f"{figure.value:10.3f}" if abs(figure.value) < 100 else f"{figure.value:10.0f}"
    spread = "" if figure.spread is None else f"[{figure.spread[0]:.3g} .. {figure.spread[1]:.3g}]"
    bounds = [f">= {figure.least:g}"] if figure.least is not None else []
    bounds += [f"<= {figure.most:g}"] if figure.most is not None else []
    verdict = {None: "", True: "reached", False: "MISSED"}[figure.reached]
    return (
        f"{figure.name:54} {number} {figure.unit:4} {spread:20} {' '.join(bounds):9} {verdict:8} {figure.note}".rstrip()
    )
