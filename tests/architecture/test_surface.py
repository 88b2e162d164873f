"""The public surface: what `keyturn` itself exports."""

from __future__ import annotations

import ast
import inspect

import pytest

import keyturn

SURFACE = {
    "Event",
    "EventType",
    "InvalidToken",
    "Keyturn",
    "Principal",
    "Refused",
    "Session",
    "Settings",
    "Unavailable",
    "UnsafePolicy",
    "UnsafeSettings",
    "User",
    "__version__",
}


def seen_by_type_checkers() -> dict[str, str | None]:
    """Return the modules that the file names for type checkers alone, by what is imported from each."""
    (block,) = (node for node in ast.parse(inspect.getsource(keyturn)).body if isinstance(node, ast.If))
    return {each.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for each in node.names}


def test_surface() -> None:
    """A name is added or taken away on purpose, and whoever does it changes this list."""
    assert set(keyturn.__all__) == SURFACE
    assert dir(keyturn) == sorted(SURFACE)


def test_names_that_are_imported_late() -> None:
    """Each is what type checkers take it for, and what is not on the surface is not there."""
    lately = {name: getattr(keyturn, name).__module__ for name in SURFACE - {"__version__"}}
    assert lately == seen_by_type_checkers()
    with pytest.raises(AttributeError, match="no attribute 'Policy'"):
        _ = keyturn.Policy
