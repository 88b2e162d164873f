"""The files of the page: what `make demo` has built, in memory, each with its strict headers.

Owns: where the files lie, their types, how long they may be kept. Must not hold: routes of the server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath
from typing import Final, NamedTuple

from keyturn.core.errors import KeyturnError

HEADERS: Final = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
        b"form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
FRESH: Final = (b"cache-control", b"private, no-store")
# The names of these files hold a hash of what is in them.
_FOR_EVER: Final = (b"cache-control", b"public, max-age=31536000, immutable")
_TYPES: Final = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
_INDEX: Final = "index.html"


class PageNotBuilt(KeyturnError):
    """This checkout, or the one this was installed from, has no page yet; a published package has one."""


class File(NamedTuple):
    """One file of the page."""

    body: bytes
    kind: bytes
    caching: tuple[bytes, bytes]


def read_page(directory: Traversable | None = None) -> Mapping[str, File]:
    """Read the page.

    Args:
        directory: where it was built to; the package's own when None.

    Returns:
        The files by the path they are served at.

    Raises:
        PageNotBuilt: saying how to build it.
    """
    static = files("keyturn.demo") / "static" if directory is None else directory
    if not (static / _INDEX).is_file():
        raise PageNotBuilt(
            "the page of the demo has not been built; `make demo` builds it (needs Node 20.19 or newer) and runs it"
        )
    return {"/" if path == f"/{_INDEX}" else path: _read(path, file) for path, file in _walk(static, "")}


def _walk(directory: Traversable, path: str) -> Iterator[tuple[str, Traversable]]:
    for entry in directory.iterdir():
        name = f"{path}/{entry.name}"
        if entry.is_dir():
            yield from _walk(entry, name)
        elif PurePosixPath(name).suffix in _TYPES:
            yield name, entry


def _read(path: str, file: Traversable) -> File:
    caching = _FOR_EVER if path.startswith("/assets/") else FRESH
    return File(file.read_bytes(), _TYPES[PurePosixPath(path).suffix], caching)
