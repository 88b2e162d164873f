"""The budgets that keep the code small enough to read."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "keyturn"
MODULE_LINES = 400
FUNCTION_LINES = 50
CORE_LINES = 1200

Function = ast.FunctionDef | ast.AsyncFunctionDef


def modules() -> list[Path]:
    """List every Python file of the package."""
    return sorted(SOURCE.rglob("*.py"))


def line_count(module: Path) -> int:
    """Count the lines of a file, blank ones and comments included."""
    return len(module.read_text().splitlines())


def long_functions(text: str) -> Iterator[tuple[str, int]]:
    """Yield name and length of each function whose body is too long; its docstring is free."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, Function):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lines = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
            if lines > FUNCTION_LINES:
                yield node.name, lines


def test_modules_within_budget() -> None:
    """No module has more lines than a reader takes in at once."""
    assert modules(), f"no source found under {SOURCE}"
    too_long = {str(path.relative_to(SOURCE)): line_count(path) for path in modules()}
    assert {name: lines for name, lines in too_long.items() if lines > MODULE_LINES} == {}


def test_functions_within_budget() -> None:
    """No function body is longer than a screen."""
    found = {
        f"{path.relative_to(SOURCE)}:{name}": lines
        for path in modules()
        for name, lines in long_functions(path.read_text())
    }
    assert found == {}


def test_core_within_budget() -> None:
    """The pure core can be read in one sitting."""
    core = [path for path in modules() if path.is_relative_to(SOURCE / "core")]
    assert core, "keyturn.core is gone"
    assert sum(line_count(path) for path in core) < CORE_LINES


@pytest.mark.parametrize(("lines", "expected"), [(FUNCTION_LINES, []), (FUNCTION_LINES + 1, [FUNCTION_LINES + 1])])
def test_function_at_the_limit(lines: int, expected: list[int]) -> None:
    """The measure counts the body alone and says no from the first line too many."""
    text = 'def long():\n    """Free.\n\n    Free too.\n    """\n' + "    print(1)\n" * lines
    assert [length for _, length in long_functions(text)] == expected
