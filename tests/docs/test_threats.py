"""`spec/threats.md` names files and tests that exist, every attack that is tested, and every requirement of the list."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "spec" / "threats.md").read_text(encoding="utf-8")
HEADER = re.compile(r"\| (threat|incident|requirement) \| mechanism \| file \| test \|")
NAMED_TEST = re.compile(r"`([a-z_/]+\.py)::(test_\w+)`")
REQUIREMENT = re.compile(r"\b(\d{1,2}\.\d{1,2}\.\d{1,2})\b")
REQUIREMENTS = """
3.3.1 3.3.2 3.3.3 3.3.4 3.3.5 3.4.2 3.4.4 3.4.5 3.4.6 3.5.1 3.5.2 3.5.3 3.5.8 3.7.2 4.1.1 4.1.2 4.1.3 4.1.4 4.2.5
6.2.1 6.2.2 6.2.3 6.2.4 6.2.5 6.2.6 6.2.7 6.2.8 6.2.9 6.2.10 6.2.11 6.2.12 6.3.1 6.3.2 6.3.4 6.3.5 6.3.7 6.3.8
6.4.1 6.4.2 6.4.3 6.4.6 6.5.1 6.5.2 6.5.3 6.5.4 6.5.5 6.5.6 6.5.8 6.6.2 6.6.3 6.7.2 6.8.1 6.8.2 6.8.4
7.2.1 7.2.2 7.2.3 7.2.4 7.3.1 7.3.2 7.4.1 7.4.2 7.4.3 7.4.4 7.4.5 7.5.1 7.5.2 7.5.3 7.6.1 7.6.2
8.2.1 8.2.2 8.2.3 8.3.1 8.3.2 9.1.1 9.1.2 9.1.3 9.2.1 9.2.2 9.2.3 9.2.4 10.4.5 10.4.8 10.4.9
11.2.2 11.2.3 11.2.4 11.2.5 11.3.1 11.3.2 11.3.3 11.3.4 11.3.5 11.4.1 11.4.2 11.4.3 11.4.4 11.5.1 11.6.1
13.1.3 13.3.4 13.4.2 13.4.5 14.2.1 14.2.2 14.2.5 14.3.1 14.3.2 14.3.3 15.3.3 15.3.4 15.3.5 15.3.6 15.3.7
15.4.1 15.4.2 15.4.3 15.4.4 16.2.1 16.2.2 16.2.3 16.2.4 16.2.5 16.3.1 16.3.2 16.3.3 16.3.4 16.4.1
16.5.1 16.5.2 16.5.3 16.5.4
"""
"""The requirements of OWASP ASVS 5.0 that concern a library such as this one."""


class Row(NamedTuple):
    """One threat."""

    threat: str
    mechanism: str
    files: tuple[str, ...]
    tests: tuple[tuple[str, str], ...]


def rows() -> list[Row]:
    """Read the rows of every table that maps something to a test."""
    found: list[Row] = []
    inside = False
    for line in TEXT.splitlines():
        if HEADER.fullmatch(line):
            inside = True
        elif not line.startswith("|"):
            inside = False
        elif inside and not line.startswith("|---"):
            threat, mechanism, files, tests = (cell.strip() for cell in line.strip("|").split(" | "))
            named = tuple((match[1], match[2]) for match in NAMED_TEST.finditer(tests))
            assert NAMED_TEST.sub("", tests).strip() == "", f"not a test: {tests}"
            found.append(Row(threat, mechanism, tuple(re.findall(r"`([^`]+)`", files)), named))
    return found


@cache
def defined_in(path: Path) -> frozenset[str]:
    """List the tests that a file defines, in classes too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(function.name for function in functions if function.name.startswith("test_"))


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.threat[:40])
def test_row_names_files_and_tests_that_exist(row: Row) -> None:
    """Every row has a mechanism, the file it is in, and at least one test."""
    assert row.threat
    assert row.mechanism
    assert row.files
    assert row.tests
    for name in row.files:
        assert (ROOT / "src" / "keyturn" / name).is_file(), name
    for name, test in row.tests:
        path = ROOT / "tests" / name
        assert path.is_file(), name
        assert test in defined_in(path), f"{name}::{test}"


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "attacks").glob("test_*.py")), ids=lambda path: path.stem)
def test_every_attack_stands_in_a_row(path: Path) -> None:
    """An attack that is tested is a threat that is listed."""
    named = {test for row in rows() for name, test in row.tests if name == f"attacks/{path.name}"}
    assert defined_in(path) - named == set()


def test_every_requirement_is_met_or_said_not_to_be() -> None:
    """Each requirement of the list stands in exactly one of the two tables."""
    asvs, _, later = TEXT.partition("## OWASP ASVS 5.0")[2].partition("## Not in this version")
    met = [number for line in asvs.splitlines() for number in REQUIREMENT.findall(line.partition(" | ")[0])]
    missing = REQUIREMENT.findall(later)
    assert sorted(met + missing) == sorted(REQUIREMENTS.split())


def test_table_is_as_long_as_it_looks() -> None:
    """The reader of these tests sees every row."""
    assert len(rows()) > 100
    assert len(rows()) == sum("::test_" in line for line in TEXT.splitlines())
