"""The public surface: what `keyturn` itself exports."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys

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


NODES = [
    "from keyturn import Keyturn",
    "from keyturn import Settings",
    *(
        f"import keyturn.{name}"
        for name in ("fastapi", "starlette", "litestar", "flask", "django", "web.asgi", "web.wsgi")
    ),
]
PACKAGES = ("argon2", "email_validator", "pydantic_settings", "sqlalchemy")
# What is None there is not installed.
PROGRAM = f"""
import sys

for package in {PACKAGES}:
    sys.modules[package] = None
    for statement in {NODES}:
        try:
            exec(statement)
        except ModuleNotFoundError as error:
            told = (error.name, str(error)) == (package, f"No module named {{package!r}}: install keyturn[embedded]")
            print(f"{{statement}}: {{error}}" if not told else "told")
        else:
            print(f"{{statement}} needs no {{package}}")
    del sys.modules[package]
"""


def test_extra_that_is_missing() -> None:
    """Where a framework's extra is installed without `embedded`, whoever asks for a node is told that name."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert set(done.stdout.splitlines()) == {"told"}
