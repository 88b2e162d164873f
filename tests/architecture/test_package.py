"""What is published: the files of the wheel and of the sdist."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "keyturn"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory in which wheel and sdist were built, as every installer builds them."""
    directory = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(directory)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return directory


def in_tree() -> set[str]:
    """Return every file of the package, by its path below `src`."""
    files = (path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*") if path.is_file())
    return {path.as_posix() for path in files if "__pycache__" not in path.parts}


def test_wheel(built: Path) -> None:
    """It is the package whole, with its types and data, and its licence; and nothing beside it."""
    with ZipFile(next(built.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    about = {name for name in names if ".dist-info/" in name}
    assert names - about == in_tree()
    assert {"keyturn/py.typed", "keyturn/stores/migrations/env.py", "keyturn/tokens/common_passwords.txt.gz"} <= names
    assert any(name.endswith("/licenses/LICENSE") for name in about)


def test_sdist(built: Path) -> None:
    """It is the package, its contract and its documents, each from the root and not from a folder of the same name."""
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    top = {name.partition("/")[0] for name in names}
    texts = {path.name for path in ROOT.glob("*.md")}
    assert top == {"src", "spec", "docs", "LICENSE", "pyproject.toml", "PKG-INFO", ".gitignore"} | texts
    assert {name.removeprefix("src/") for name in names if name.startswith("src/")} == in_tree()
