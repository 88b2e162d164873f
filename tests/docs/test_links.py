"""Every relative link of every document leads to a file, and to a heading in it where it names one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.shell import ROOT

DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "spec/**/*.md", "bench/**/*.md", "client/*.md", "examples/*/*.md")
    for path in ROOT.glob(pattern)
)


def prose(path: Path) -> str:
    """Return a document without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Return the names under which the headings of a document are reached."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_of_a_document(document: Path) -> None:
    """Nobody is led to what is not there."""
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", prose(document)):
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


def test_every_kind_of_link_is_found() -> None:
    """The reader of these tests sees documents, and links to headings among theirs."""
    assert len(DOCUMENTS) > 50
    assert sum("#" in target for path in DOCUMENTS for target in re.findall(r"\]\(([^)\s]+)\)", prose(path))) > 10
