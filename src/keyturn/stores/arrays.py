"""Many rows as the parameters of one statement of PostgreSQL: an array for each column.

Owns: how rows become arrays, and arrays rows. Must not hold: any table's columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def unnest(types: Iterable[str], after: int = 0) -> str:
    """Turn arrays into rows, in SQL. Args: after: how many parameters of the statement come before them."""
    return f"unnest({', '.join(f'${number}::{kind}[]' for number, kind in enumerate(types, after + 1))})"


def columns_of(rows: Iterable[Sequence[object]], count: int) -> list[list[object]]:
    """Turn rows into so many columns, which are empty when there are no rows."""
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(count)]
