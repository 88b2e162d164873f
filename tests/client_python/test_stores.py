"""The token stores: what they keep, what they refuse, and that nothing is ever half written."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from keyturn.client import FileTokenStore, MemoryTokenStore, Stored, StoreFault, TokenStore, User
from keyturn.client.wire import Answer
from tests.services import wait_until

FIRST = Stored(
    server="https://auth.example.com/auth",
    refresh_token="kt_rt_first",
    device_token="kt_dv_device",
    access_token="access",
    expires_at=1795694967.9978504,
    expires_in=600,
    session_id="29743a07449219fc9d0ff7df1a012293",
    user=User("1", "ada@example.com", "Ada"),
)
SECOND = FIRST._replace(refresh_token="kt_rt_second", user=User("1", "ada@example.com"))
NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store of a test is, in a directory that does not exist yet."""
    return tmp_path / "sign-in" / "tokens.json"


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, path: Path) -> TokenStore:
    """Each store, empty."""
    return FileTokenStore(path) if request.param == "file" else MemoryTokenStore()


def fault(call: Callable[[], Any]) -> StoreFault:
    """Return what a call raises."""
    with pytest.raises(StoreFault) as caught:
        call()
    return caught.value


def test_store_keeps_what_replaces_what_it_kept(store: TokenStore) -> None:
    """Compare and set: who read something else has to read again."""
    assert store.load() == Stored()
    assert store.replace(Stored(), FIRST)
    assert not store.replace(Stored(), SECOND)
    assert store.load() == FIRST
    assert store.replace(FIRST, SECOND)
    assert store.load() == SECOND
    assert store.replace(SECOND, SECOND.signed_out("logout"))
    left = store.load()
    assert (left.refresh_token, left.access_token, left.user, left.reason) == (None, None, None, "logout")
    assert left.device_token == FIRST.device_token


def test_turn_keeps_another_thread_out_until_its_patience_ends(store: TokenStore) -> None:
    """Who waits goes on when the holder is done, or hangs for longer than the limit."""
    entered: list[str] = []
    done = threading.Event()

    def enter(name: str, limit: float) -> None:
        with store.alone(limit):
            entered.append(name)
            if name == "patient":
                done.set()

    with store.alone(30):
        impatient = threading.Thread(target=enter, args=("impatient", 0.01))
        impatient.start()
        impatient.join()
        patient = threading.Thread(target=enter, args=("patient", 30))
        patient.start()
        assert entered == ["impatient"]
        assert not done.is_set()
    patient.join()
    assert entered == ["impatient", "patient"]


@pytest.mark.parametrize(
    ("lasts", "usable"), [(10.0, False), (10.1, True), (600.0, True), (610.0, True), (610.1, False)]
)
def test_token_is_used_between_its_spare_time_and_what_clocks_are_apart(lasts: float, usable: bool) -> None:
    """One that seems to last for longer than it lives, and ten seconds more, was kept by a clock that was ahead."""
    kept = Stored(access_token="access", expires_at=1000.0 + lasts, expires_in=600.0)
    assert kept.usable(1000.0, 10.0) is usable
    assert not kept._replace(access_token=None).usable(1000.0, 10.0)


def test_repr_of_what_is_kept_shows_no_token() -> None:
    """It ends up in logs and tracebacks."""
    shown = f"{FIRST!r} {FIRST}"
    assert not {"kt_rt_first", "kt_dv_device", "access"} & set(shown.replace("'", " ").split())
    assert "redacted" in shown


def test_repr_of_an_answer_shows_no_token() -> None:
    """A crash reporter prints what the functions of a traceback have at hand."""
    answer = Answer(200, [("set-cookie", "__Host-kt_refresh=kt_rt_first")], b'{"access_token": "access"}')
    assert f"{answer!r} {answer}" == "Answer(status=200, redacted) Answer(status=200, redacted)"


def test_file_is_for_its_owner_alone(path: Path) -> None:
    """0600 in a directory that is made 0700, whatever the umask."""
    former = os.umask(0)
    try:
        assert FileTokenStore(path).replace(Stored(), FIRST)
    finally:
        os.umask(former)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
    assert not path.with_name("tokens.json.new").exists()


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604, 0o640])
def test_file_that_others_may_use_is_refused(path: Path, mode: int) -> None:
    """Whoever reads it is signed in, and whoever writes it chooses as whom."""
    store = FileTokenStore(path)
    store.replace(Stored(), FIRST)
    content = path.read_bytes()
    path.chmod(mode)
    for call in (store.load, lambda: store.replace(FIRST, SECOND)):
        refused = fault(call)
        assert (refused.code, refused.retryable) == ("store_unsafe", False)
        assert str(path) in str(refused)
    assert path.read_bytes() == content
    path.chmod(0o600)
    assert store.load() == FIRST


def test_file_of_somebody_else_is_refused(path: Path) -> None:
    """Planted by another user; as root we make it theirs, else the system has one that is not ours."""
    FileTokenStore(path).replace(Stored(), FIRST)
    foreign = path
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY)
    else:
        foreign = Path("/etc/hosts")
    assert fault(FileTokenStore(foreign).load).code == "store_unsafe"


def test_directory_that_others_may_write_is_refused(path: Path) -> None:
    """In it they could put another file in the place of ours."""
    path.parent.mkdir()
    path.parent.chmod(0o777)
    store = FileTokenStore(path)
    assert fault(lambda: store.replace(Stored(), FIRST)).code == "store_unsafe"
    assert list(path.parent.iterdir()) == []


def test_symbolic_link_is_refused(path: Path, tmp_path: Path) -> None:
    """It may lead to another file the next time."""
    other = tmp_path / "elsewhere" / "tokens.json"
    FileTokenStore(other).replace(Stored(), FIRST)
    path.parent.mkdir(mode=0o700)
    path.symlink_to(other)
    assert fault(FileTokenStore(path).load).code == "store_unsafe"


def test_pipe_in_the_place_of_the_file_is_refused(path: Path) -> None:
    """At once: to open one waits for somebody who writes."""
    store = FileTokenStore(path)
    store.replace(Stored(), FIRST)
    path.unlink()
    os.mkfifo(path, 0o600)
    codes: list[str] = []
    thread = threading.Thread(target=lambda: codes.append(fault(store.load).code), daemon=True)
    thread.start()
    thread.join(30)
    assert codes == ["store_unsafe"]


def test_write_is_on_the_disk_when_it_is_said_to_be(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First the draft, and once that is in its place the directory: after a power cut it is the former file or this one."""
    forced: list[tuple[bool, bool]] = []
    fsync = os.fsync

    def force(descriptor: int) -> None:
        forced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", force)
    assert FileTokenStore(path).replace(Stored(), FIRST)
    assert forced == [(False, False), (True, True)]


def test_directory_in_the_place_of_the_file_is_refused(path: Path) -> None:
    """Nothing but a regular file is read."""
    path.mkdir(parents=True, mode=0o700)
    refused = fault(FileTokenStore(path).load)
    assert refused.code == "store_unsafe"
    assert str(refused).endswith("it is no regular file")


_GOOD = (
    '{"version": 1, "server": "", "refresh_token": null, "device_token": null, "access_token": null, "expires_at": 0, '
    '"expires_in": 0, "session_id": "", "user": null, "reason": "never"}'
)
_BROKEN = {
    "empty": "",
    "cut off": _GOOD[:40],
    "no JSON": "tokens",
    "a list": "[]",
    "another version": _GOOD.replace('"version": 1', '"version": 2'),
    "no version": _GOOD.replace('"version": 1, ', ""),
    "a member less": _GOOD.replace('"session_id": "", ', ""),
    "a member more": _GOOD.replace("}", ', "more": 1}'),
    "a number for a token": _GOOD.replace('"refresh_token": null', '"refresh_token": 1'),
    "a number for a name": _GOOD.replace('"user": null', '"user": {"id": "1", "email": "a@b", "name": 7}'),
    "half a user": _GOOD.replace('"user": null', '"user": {"id": "1"}'),
    "a list for a user": _GOOD.replace('"user": null', '"user": []'),
    "a text for a time": _GOOD.replace('"expires_at": 0', '"expires_at": "soon"'),
    "no finite time": _GOOD.replace('"expires_at": 0', '"expires_at": Infinity'),
    "a number beyond all": _GOOD.replace('"expires_in": 0', '"expires_in": 1' + "0" * 400),
    "a token that ends its header": _GOOD.replace('"access_token": null', '"access_token": "a\\r\\nX: b"'),
    "a token that ends its cookie": _GOOD.replace('"refresh_token": null', '"refresh_token": "a; b=c"'),
    "half a character": _GOOD.replace('"device_token": null', '"device_token": "\\ud800"'),
    "too deep": "[" * 30_000,
    "too long": _GOOD + " " * 70_000 + "x",
    "not UTF-8": "\udcff",
}


@pytest.mark.parametrize("content", _BROKEN.values(), ids=_BROKEN)
def test_file_that_is_not_ours_is_refused_and_left_alone(path: Path, content: str) -> None:
    """`store_corrupt`; nothing is lost that somebody may want to repair, and the error shows none of it."""
    path.parent.mkdir(mode=0o700)
    path.touch(mode=0o600)
    path.write_bytes(content.encode(errors="surrogateescape"))
    store = FileTokenStore(path)
    for call in (store.load, lambda: store.replace(Stored(), FIRST)):
        refused = fault(call)
        assert (refused.code, refused.retryable, refused.__suppress_context__) == ("store_corrupt", False, True)
    assert path.read_bytes() == content.encode(errors="surrogateescape")


def test_the_good_form_of_the_broken_ones_is_read(path: Path) -> None:
    """What the test before breaks is good to begin with."""
    path.parent.mkdir(mode=0o700)
    path.touch(mode=0o600)
    path.write_text(_GOOD)
    assert FileTokenStore(path).load() == Stored()


def test_file_system_without_locks_is_a_fault_of_the_store(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some that are not local have none: it is said as every fault of the store, and nothing is left open."""
    store = FileTokenStore(path)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    def enter() -> None:
        with store.alone(1):
            raise AssertionError

    monkeypatch.setattr(fcntl, "flock", refuse)
    before = psutil.Process().num_fds()
    for call in (enter, lambda: store.replace(Stored(), FIRST)):
        assert fault(call).code == "store_unavailable"
    assert psutil.Process().num_fds() == before


def test_full_disk_loses_nothing(path: Path) -> None:
    """The write fails: the former tokens are still there, and the error says that it may work later."""
    store = FileTokenStore(path)
    store.replace(Stored(), FIRST)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        refused = fault(lambda: store.replace(FIRST, SECOND))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (refused.code, refused.retryable) == ("store_unavailable", True)
    assert store.load() == FIRST
    assert store.replace(FIRST, SECOND)


def test_what_could_not_be_read_again_is_not_written(path: Path) -> None:
    """An answer may be as long as a file, and each letter of a name takes six in it: the former sign-in stays."""
    store = FileTokenStore(path)
    store.replace(Stored(), FIRST)
    long = SECOND._replace(user=User("1", "a@b", "字" * 12_000))
    assert fault(lambda: store.replace(FIRST, long)).code == "store_unavailable"
    assert store.load() == FIRST


def test_draft_of_a_killed_process_is_no_obstacle(path: Path) -> None:
    """Whatever a crash has left is overwritten by the next write."""
    store = FileTokenStore(path)
    store.replace(Stored(), FIRST)
    path.with_name("tokens.json.new").write_text("half a")
    assert store.replace(FIRST, SECOND)
    assert store.load() == SECOND


_COUNT = """
import sys
from keyturn.client import FileTokenStore, Stored
store = FileTokenStore(sys.argv[1])
for _ in range(int(sys.argv[2])):
    while not store.replace(held := store.load(), held._replace(expires_in=held.expires_in + 1)):
        pass
"""


def test_processes_that_write_at_once_lose_no_write(path: Path) -> None:
    """Four processes count together in one file: every step of each is there."""
    counters = [subprocess.Popen([sys.executable, "-c", _COUNT, str(path), "25"]) for _ in range(4)]
    assert [one.wait(60) for one in counters] == [0] * 4
    assert FileTokenStore(path).load().expires_in == 100


def test_process_that_is_killed_while_it_writes_leaves_a_whole_file(path: Path) -> None:
    """Whatever moment the SIGKILL hits: what is read is the last or the one before, and the locks are free."""
    store = FileTokenStore(path)
    for _ in range(5):
        at_first = store.load().expires_in
        counter = subprocess.Popen([sys.executable, "-c", _COUNT, str(path), "1000000"])
        wait_until(lambda seen=at_first: store.load().expires_in > seen, 30, "a write")  # type: ignore[misc]
        counter.send_signal(signal.SIGKILL)
        counter.wait()
        held = store.load()
        assert store.replace(held, held)


_FORK_IN_TURN = """
import os, sys, time
from keyturn.client import FileTokenStore

store = FileTokenStore(sys.argv[1])
with store.alone(5):
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
with store._locked("turn", 0) as mine:
    print(mine)
os.kill(child, 9)
"""


def test_turn_ends_although_a_child_was_forked_in_it(path: Path) -> None:
    """The child has the descriptor of the lock, too, and would hold up every refresh for as long as it lives."""
    command = [sys.executable, "-c", _FORK_IN_TURN, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("True\n", "")
