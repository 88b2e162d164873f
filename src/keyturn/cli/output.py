"""What commands print: tables for people, JSON for programs.

Owns: the two forms, and the option that asks for the second. Must not hold: what is printed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from keyturn.cli.errors import harmless

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
"""The option of every command that has something to print."""
_LEAST_WIDTH = 7
"""Of a column, with the two blanks before it."""


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{harmless(text)}\n")


def as_json(value: object) -> None:
    """Print a value as JSON, ASCII alone."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def table(columns: Sequence[str], rows: Sequence[Mapping[str, object]], *, json_instead: bool = False) -> None:
    """Print rows: as JSON when asked, as a table on a terminal, else as lines of values separated by tabs.

    Args:
        columns: the members to show, in order; JSON has all members of a row.
    """
    if json_instead:
        as_json(list(rows))
        return
    cells = [[harmless(_text(row[column])) for column in columns] for row in rows]
    if not sys.stdout.isatty():
        for row in cells:
            sys.stdout.write("\t".join(row) + "\n")
        return
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        # Nothing is cut, and what comes first stays in one piece: an id, which another command is given.
        shown.add_column(column, overflow="fold", no_wrap=column == columns[0])
    for row in cells:
        shown.add_row(*(Text(cell) for cell in row))
    console = Console()
    first = max(cell_len(row[0]) for row in [columns, *cells])
    # Whole columns would be left out where there is less room: there the terminal breaks the lines.
    console.width = max(console.width, first + _LEAST_WIDTH * (len(columns) - 1))
    console.print(shown)


def when(at: float | None) -> str | None:
    """Write a time as ISO 8601 in UTC."""
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
