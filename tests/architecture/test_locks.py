"""The lock files: hashes for everything, addresses for nothing, and in step with what they lock."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements"
SKIPPED = {".git", ".venv", "node_modules", "__pycache__", "build", "dist"}
# Put together here so that this file does not hold what it looks for.
REGISTRY = re.compile(
    "|".join([r"\bpypi\.(?=org)org", r"python[h]osted\.org", r"registry\.np[m]js", r"registry\.ya[r]npkg"])
    + r"|(?:--|\b)(?:extra-)?index[-_]ur[l]|--find-link[s]",
    re.IGNORECASE,
)
ADDRESS = re.compile(r"://|\bgit\+|\s@\s|^-")
ALLOWED_OPTION = re.compile(r"--no-emit-(?:index-ur[l]|find-link[s])")


def files() -> Iterator[Path]:
    """Yield every file of the tree but those that commands make."""
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in SKIPPED and not name.endswith("_cache")]
        yield from (Path(folder) / name for name in names)


def locked(name: str) -> dict[str, list[str]]:
    """Read a lock: package name to its versions (one for each set of markers)."""
    versions: dict[str, list[str]] = {}
    for line in (REQUIREMENTS / name).read_text().splitlines():
        if match := re.match(r"([a-z0-9._-]+)==(\S+)", line):
            versions.setdefault(canonicalize_name(match[1]), []).append(match[2])
    return versions


def wanted(extras: frozenset[str] | None, *names: str) -> list[Requirement]:
    """Read what pyproject.toml, with these extras (None: with all), and these .in files ask for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts: list[str] = [*project["dependencies"]]
    for extra, asked in project["optional-dependencies"].items():
        if extras is None or extra in extras:
            texts += [text for text in asked if not text.startswith(f"{project['name']}[")]
    for name in names:
        lines = (REQUIREMENTS / name).read_text().splitlines()
        texts += [line for line in lines if line and not line.startswith("#")]
    return [Requirement(text) for text in texts]


@pytest.mark.parametrize("lock", ["run.txt", "dev.txt", "lowest.txt"])
def test_lock_has_no_address(lock: str) -> None:
    """A lock names packages and hashes, never where they come from."""
    text = (REQUIREMENTS / lock).read_text()
    assert [line for line in text.splitlines() if ADDRESS.search(line)] == []


@pytest.mark.parametrize("lock", ["run.txt", "dev.txt", "lowest.txt"])
def test_lock_has_a_hash_for_each_package(lock: str) -> None:
    """Nothing is installed that no hash covers."""
    entries = re.split(r"\n(?=\S)", (REQUIREMENTS / lock).read_text().strip())
    assert len(entries) > 10
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize(
    ("lock", "extras", "sources"),
    [
        ("run.txt", frozenset({"embedded", "server", "fastapi", "redis"}), ("run.in",)),
        ("dev.txt", None, ("run.in", "dev.in")),
        ("lowest.txt", None, ()),
    ],
)
def test_lock_in_step_with_its_sources(lock: str, extras: frozenset[str] | None, sources: tuple[str, ...]) -> None:
    """Whoever changes a dependency also runs `make lock`."""
    versions = locked(lock)
    missing = [
        str(requirement)
        for requirement in wanted(extras, *sources)
        if not any(
            requirement.specifier.contains(version, prereleases=True)
            for version in versions.get(canonicalize_name(requirement.name), [])
        )
    ]
    assert missing == []


def test_locks_agree() -> None:
    """What is tested is what is run: both locks hold the same versions."""
    run, dev = locked("run.txt"), locked("dev.txt")
    assert {name: (versions, dev.get(name)) for name, versions in run.items() if dev.get(name) != versions} == {}


def test_lowest_versions_are_those_that_are_allowed() -> None:
    """`make lowest` tests each lower bound, but for those that FastAPI raises."""
    versions, raised = locked("lowest.txt"), {"starlette"}
    bounds = {
        canonicalize_name(requirement.name): {Version(each.version) for each in requirement.specifier}
        for requirement in wanted(None)
        if requirement.name not in raised
    }
    assert {name: {Version(version) for version in versions[name]} for name in bounds} == bounds


def test_tree_names_no_registry() -> None:
    """No file says where packages come from: that is the business of whoever installs."""
    found: list[str] = []
    for path in files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        if REGISTRY.search(ALLOWED_OPTION.sub("", text)):
            found.append(str(path.relative_to(ROOT)))
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "https://" + "pypi." + "org/simple",
        "--" + "index-" + "url x",
        "files." + "python" + "hosted.org",
        "INDEX_" + "URL",
    ],
)
def test_registry_pattern_on_a_bad_line(text: str) -> None:
    """The pattern finds what it is there to find."""
    assert REGISTRY.search(ALLOWED_OPTION.sub("", text))
