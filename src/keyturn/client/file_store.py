"""A sign-in in a file that several processes share. POSIX only: it needs `flock` and file owners.

Owns: the file, its safety and its locks. Must not hold: when a token is refreshed.

Beside `tokens.json` stand two lock files that are never removed: `.turn`, held for the length of a refresh, and `.lock`, held
for the length of a write. The kernel lets go of both when their holder dies.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

from keyturn.client.errors import StoreFault
from keyturn.client.reading import is_token
from keyturn.client.store import Stored, User

_VERSION: Final = 1
_MAX_SIZE: Final = 64 * 1024
_WRITE_LIMIT: Final = 5.0
"""Seconds to wait for another process's write, which takes milliseconds."""
_POLL_INTERVAL: Final = 0.01
_TOKENS: Final = ("refresh_token", "device_token", "access_token")
_OPEN: Final = os.O_CLOEXEC | os.O_NOFOLLOW


class FileTokenStore:
    """Keep one sign-in in a file, safely for several processes of one user.

    Why so strict: whoever reads the file is signed in, and whoever writes it chooses as whom. The file is 0600 in a
    directory that is made 0700; a file or directory that others own, may write or (the file) may read is refused with
    `store_unsafe`, and what is not ours is refused with `store_corrupt` and left as it is.

    Args:
        path: the file; its directory is made when it is first written, and must be nobody else's.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path).absolute()

    def load(self) -> Stored:
        """Return what is kept. Raises: StoreFault."""
        with self._faults():
            try:
                # Not blocking: a pipe in its place would wait for a writer.
                descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | _OPEN)
            except FileNotFoundError:
                return Stored()
            try:
                self._check(os.fstat(descriptor), 0o077, stat.S_ISREG)
                content = os.read(descriptor, _MAX_SIZE + 1)
            finally:
                os.close(descriptor)
        try:
            return _parse(content)
        except (ValueError, OverflowError, RecursionError):
            # Without its context: that holds the content.
            raise StoreFault("store_corrupt", detail=f"{self._path} is not a token store of this version") from None

    def replace(self, former: Stored, new: Stored) -> bool:
        """Keep `new` if `former` is what is kept: written beside, forced to the disk, and put in its place. Raises: StoreFault."""
        with self._faults():
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked("lock", _WRITE_LIMIT) as mine:
                if not mine:
                    raise StoreFault("store_unavailable", detail=f"{self._path} has been locked for {_WRITE_LIMIT:g} s")
                if self.load() != former:
                    return False
                content = json.dumps(_shown(new), indent=1).encode()
                if len(content) > _MAX_SIZE:
                    # It could not be read again, and be written anew by no login.
                    raise StoreFault("store_unavailable", detail=f"{self._path} would be over {_MAX_SIZE} bytes")
                self._write(content)
                return True

    @contextmanager
    def alone(self, limit: float) -> Generator[None]:
        """Keep other processes and threads out, or go on after `limit` seconds."""
        with self._faults():
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked("turn", limit):
            yield

    def _write(self, content: bytes) -> None:
        draft = self._beside("new")
        # What a killed process left; nobody else writes while we hold the lock.
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        draft.replace(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    @contextmanager
    def _locked(self, name: str, limit: float) -> Generator[bool]:
        with self._faults():
            self._check(self._path.parent.stat(), 0o022, stat.S_ISDIR)
            descriptor = os.open(self._beside(name), os.O_RDWR | os.O_CREAT | _OPEN, 0o600)
        try:
            with self._faults():
                mine = _lock(descriptor, limit)
            try:
                yield mine
            finally:
                # Explicitly: a child that was forked meanwhile has the descriptor, too, and the lock would stay with it.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)

    def _beside(self, name: str) -> Path:
        return self._path.with_name(f"{self._path.name}.{name}")

    def _check(self, found: os.stat_result, forbidden: int, is_kind: Any) -> None:
        """Refuse what others own, or have the forbidden permissions for."""
        mode = stat.S_IMODE(found.st_mode)
        if not is_kind(found.st_mode):
            raise StoreFault("store_unsafe", detail=f"{self._path}: it is no regular file")
        if found.st_uid != os.geteuid() or mode & forbidden:
            what = "its directory" if stat.S_ISDIR(found.st_mode) else "it"
            text = f"{self._path}: {what} has mode {mode:o} and owner {found.st_uid}; it must be yours alone"
            raise StoreFault("store_unsafe", detail=text)

    @contextmanager
    def _faults(self) -> Generator[None]:
        try:
            yield
        except OSError as fault:
            # A symbolic link may lead anywhere, and to somewhere else the next time.
            code = "store_unsafe" if fault.errno == errno.ELOOP else "store_unavailable"
            raise StoreFault(code, detail=f"{self._path}: {fault.strerror}") from fault


def _lock(descriptor: int, limit: float) -> bool:
    deadline = monotonic() + limit
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if monotonic() >= deadline:
                return False
            sleep(_POLL_INTERVAL)
        else:
            return True


def _shown(stored: Stored) -> dict[str, Any]:
    user = None if stored.user is None else stored.user._asdict()
    return {"version": _VERSION, **stored._asdict(), "user": user}


def _parse(content: bytes) -> Stored:
    """Read what `_shown` wrote. Raises: ValueError, OverflowError: anything else."""
    if len(content) > _MAX_SIZE:
        raise ValueError("not ours")
    document = json.loads(content)
    if (
        not isinstance(document, dict)
        or document.pop("version", None) != _VERSION
        or set(document) != set(Stored._fields)
    ):
        raise ValueError("not ours")
    user = document["user"]
    texts = [document[name] for name in ("server", "session_id", "reason")]
    if user is not None:
        if not isinstance(user, dict) or set(user) != set(User._fields):
            raise ValueError("not ours")
        texts += [user["id"], user["email"], user["name"] or ""]
        document["user"] = User(**user)
    if not all(document[name] is None or is_token(document[name]) for name in _TOKENS):
        raise ValueError("not a token")
    numbers = [document[name] for name in ("expires_at", "expires_in")]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("not a text")
    if not all(type(number) in {int, float} and isfinite(number) for number in numbers):
        raise ValueError("not a number")
    return Stored(**document)
