"""The pool hashes a bounded number at a time, says so when it is full, and loses no place."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from keyturn.core.errors import Unavailable
from keyturn.password_pool import TOGETHER, PasswordPool
from keyturn.tokens.password import PasswordHasher, PasswordProfile, Verified
from keyturn.tokens.password_policy import PasswordRefused

pytestmark = pytest.mark.anyio

PROFILE = PasswordProfile(memory_kib=64, passes=1)
PASSWORD = "correct horse battery"


class GatedHasher(PasswordHasher):
    """Hash for real, but only while the gate is open, and tell who has come to it."""

    def __init__(self) -> None:
        super().__init__(PROFILE)
        self.gate = threading.Event()
        self.arrived = threading.Semaphore(0)
        self.hashed: list[str] = []
        self.niceness: list[int] = []

    def hash(self, password: str, *, salt: bytes | None = None) -> str:
        """Wait at the gate, then hash."""
        self.niceness.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        self.arrived.release()
        assert self.gate.wait(30)
        self.hashed.append(str(password))
        return super().hash(password, salt=salt)

    async def arrival(self) -> None:
        """Return when a thread has come to the gate."""
        assert await anyio.to_thread.run_sync(lambda: self.arrived.acquire(timeout=30))


class StepwiseHasher(PasswordHasher):
    """Hash for real, one password for each release of the gate."""

    def __init__(self) -> None:
        super().__init__(PROFILE)
        self.gate = threading.Semaphore(0)

    def hash(self, password: str, *, salt: bytes | None = None) -> str:
        """Wait at the gate, then hash."""
        assert self.gate.acquire(timeout=30)
        return super().hash(password, salt=salt)


async def until_taken(pool: PasswordPool, count: int) -> None:
    """Return when so many places are taken."""
    with anyio.fail_after(30):
        while pool.taken != count:
            await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    ("stored", "told"),
    [
        ("scrypt:32768:8:1$salt$0123", 1),
        (PASSWORD, 1),
        (PasswordHasher(PROFILE)._dummy, 0),
        ("pbkdf2_sha256$1$salt$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", 0),
        ("", 0),
        (None, 0),
    ],
)
async def test_hash_that_is_not_understood(caplog: pytest.LogCaptureFixture, stored: str | None, told: int) -> None:
    """The log tells why a whole user table cannot sign in, and nothing of what is stored; a wrong password is no news."""
    pool = PasswordPool(PasswordHasher(PROFILE))
    assert await pool.verify(stored, "another password") == Verified(ok=False)
    assert [record.getMessage() for record in caplog.records if "not understood" in record.getMessage()] == [
        "nobody can sign in with a stored password hash: its form or its cost is not understood"
    ] * told
    pool.close()


async def test_hash_of_bcrypt_that_is_not_installed(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log names what has to be installed."""
    monkeypatch.setitem(sys.modules, "bcrypt", None)
    pool = PasswordPool(PasswordHasher(PROFILE))
    assert await pool.verify(f"$2b$04${'a' * 53}", "a password") == Verified(ok=False)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "nobody can sign in with a stored password hash: bcrypt is not installed: install keyturn[bcrypt]"
    ]
    pool.close()


async def test_password_hashed_and_verified() -> None:
    """The pool gives what the hasher gives, errors included, and frees the place."""
    pool = PasswordPool(PasswordHasher(PROFILE))
    stored = await pool.hash(PASSWORD)
    assert await pool.verify(stored, PASSWORD) == Verified(ok=True)
    assert await pool.verify(None, PASSWORD) == Verified(ok=False)
    with pytest.raises(PasswordRefused):
        await pool.hash("x" * 5000)
    await until_taken(pool, 0)
    pool.close()


async def test_queue_full() -> None:
    """Beyond the threads and the queue a caller is told at once to come back; later there is room again."""
    hasher = GatedHasher()
    pool = PasswordPool(hasher, threads=1, queue_limit=2, retry_after=7)
    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(pool.hash, f"password {number}")
        await until_taken(pool, 3)
        for _ in range(5):
            with pytest.raises(Unavailable) as refused:
                await pool.hash("one too many")
            with pytest.raises(Unavailable):
                pool.reserve()
            assert refused.value.dependency == "password_hashing"
            assert refused.value.retry_after is not None
            assert 7 <= refused.value.retry_after <= 21
        with pytest.raises(Unavailable):
            await pool.verify(None, "one too many")
        hasher.gate.set()
    await until_taken(pool, 0)
    pool.reserve()
    assert pool.taken == 0
    assert hasher.hashed == ["password 0", "password 1", "password 2"]
    assert await pool.hash("there is room again")
    pool.close()


async def test_results_together() -> None:
    """While others wait, results are handed over a few at a time; the last ones do not wait for more."""
    hasher = StepwiseHasher()
    pool = PasswordPool(hasher, threads=1)
    count = TOGETHER + 2
    answered: list[int] = []

    async def one(number: int) -> None:
        await pool.hash(f"password {number}")
        answered.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(one, number)
        await until_taken(pool, count)
        for done, expected in enumerate([0] * (TOGETHER - 1) + [TOGETHER, TOGETHER, count], 1):
            hasher.gate.release()
            await until_taken(pool, count - done)
            with anyio.fail_after(30):
                while len(answered) < expected:
                    await anyio.lowlevel.checkpoint()
            assert len(answered) == expected
    assert answered == list(range(count))
    pool.close()


async def test_errors_together() -> None:
    """Of results that are handed over together each caller gets their own, also when one of them is an error."""
    hasher = GatedHasher()
    pool = PasswordPool(hasher, threads=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pool.hash, "runs")
        await hasher.arrival()
        refused = asyncio.create_task(pool.hash("x" * 5000))
        verified = asyncio.create_task(pool.verify(None, "no such user"))
        await until_taken(pool, 3)
        hasher.gate.set()
    with pytest.raises(PasswordRefused):
        await refused
    assert await verified == Verified(ok=False)
    pool.close()


async def test_waiting_caller_cancelled() -> None:
    """Who leaves the queue frees the place at once, and nothing is hashed for them."""
    hasher = GatedHasher()
    pool = PasswordPool(hasher, threads=1, queue_limit=1)
    running = asyncio.create_task(pool.hash("runs"))
    await hasher.arrival()
    waiting = asyncio.create_task(pool.hash("waits"))
    await until_taken(pool, 2)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert pool.taken == 1
    next_one = asyncio.create_task(pool.hash("takes the place"))
    await until_taken(pool, 2)
    hasher.gate.set()
    await asyncio.gather(running, next_one)
    assert hasher.hashed == ["runs", "takes the place"]
    pool.close()


async def test_networks_take_turns() -> None:
    """Whoever comes after a flood from another network waits for one hash of it; addresses of one network share its turns."""
    hasher = GatedHasher()
    pool = PasswordPool(hasher, threads=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pool.hash, "runs", "192.0.2.1")
        await hasher.arrival()
        asked = [(f"flood {number}", "192.0.2.1") for number in range(4)]
        asked += [("first", "2001:db8::1"), ("second", "2001:db8::2"), ("nobody knows whose", "")]
        for count, (password, address) in enumerate(asked, 2):
            tasks.start_soon(pool.hash, password, address)
            await until_taken(pool, count)
        hasher.gate.set()
    turns = ["flood 0", "first", "nobody knows whose", "flood 1", "second", "flood 2", "flood 3"]
    assert hasher.hashed == ["runs", *turns]
    pool.close()


async def test_network_that_floods_the_queue() -> None:
    """It gets as many places as it leaves, and others get theirs; who leaves the queue makes room for the next one."""
    hasher = GatedHasher()
    pool = PasswordPool(hasher, threads=1, queue_limit=8)
    asked = [asyncio.create_task(pool.hash("runs", "192.0.2.1"))]
    await hasher.arrival()

    async def ask(address: str) -> None:
        asked.append(asyncio.create_task(pool.hash("waits", address)))
        await until_taken(pool, len(asked))

    async def is_refused(address: str) -> None:
        with pytest.raises(Unavailable):
            pool.reserve(address)
        with pytest.raises(Unavailable):
            await pool.hash("one too many", address)

    for _ in range(4):
        await ask("192.0.2.1")
    await is_refused("192.0.2.1")
    asked.pop().cancel()
    await until_taken(pool, len(asked))
    await ask("192.0.2.1")
    for _ in range(2):
        await ask("198.51.100.1")
    await is_refused("198.51.100.1")
    for address in ("203.0.113.1", ""):
        await ask(address)
    await is_refused("")
    hasher.gate.set()
    assert len(await asyncio.gather(*asked)) == 9
    assert await pool.hash("there is room again", "192.0.2.1")
    pool.close()


async def test_running_caller_cancelled() -> None:
    """Who goes away while the hash runs keeps the place until the core is free, and no longer."""
    hasher = GatedHasher()
    pool = PasswordPool(hasher, threads=1, queue_limit=0)
    running = asyncio.create_task(pool.hash("runs"))
    await hasher.arrival()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert pool.taken == 1
    with pytest.raises(Unavailable):
        await pool.hash("no core for it")
    hasher.gate.set()
    await until_taken(pool, 0)
    assert await pool.hash("has the core")
    pool.close()


async def test_event_loops_of_many_threads() -> None:
    """Each gets the hashes that it has asked for, and no place is lost: a view of Flask has a loop of its own."""
    pool, hasher = PasswordPool(PasswordHasher(PROFILE), threads=2), PasswordHasher(PROFILE)

    def view(number: int) -> None:
        password = f"{PASSWORD} {number}"
        assert hasher.verify(asyncio.run(pool.hash(password)), password).ok

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for number in range(32):
                tasks.start_soon(anyio.to_thread.run_sync, view, number)
    assert pool.taken == 0
    pool.close()


async def test_pool_closed() -> None:
    """Closing ends the running hash in order, and tells those who wait and who come to come back."""
    hasher = GatedHasher()
    pool = PasswordPool(hasher, threads=1, queue_limit=1)
    running = asyncio.create_task(pool.hash("runs"))
    await hasher.arrival()
    waiting = asyncio.create_task(pool.hash("waits"))
    await until_taken(pool, 2)
    closing = asyncio.create_task(anyio.to_thread.run_sync(pool.close))
    with pytest.raises(Unavailable):
        await waiting
    with pytest.raises(Unavailable):
        await pool.hash("comes too late")
    hasher.gate.set()
    assert (await running).startswith("$argon2id$")
    await closing
    assert hasher.hashed == ["runs"]


async def test_pool_opened_again() -> None:
    """A pool that was closed takes work again when told to; one that was not goes on with its threads."""
    others = set(threading.enumerate())
    pool = PasswordPool(PasswordHasher(PROFILE), threads=1, queue_limit=0)
    pool.close()
    with pytest.raises(Unavailable):
        await pool.hash(PASSWORD)
    for _ in range(2):
        pool.open()
        assert await pool.hash(PASSWORD)
        threads = set(threading.enumerate()) - others
        assert len([thread for thread in threads if thread.name.startswith("keyturn-password")]) == 1
    pool.close()


async def test_system_without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system starts no thread the caller is told to come back, and the place is free for the next one."""
    pool = PasswordPool(PasswordHasher(PROFILE), threads=1, queue_limit=0)

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(3):
            with pytest.raises(Unavailable):
                await pool.hash(PASSWORD)
    assert pool.taken == 0
    assert await pool.hash(PASSWORD)
    pool.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process may use all cores")
async def test_one_thread_for_each_core_that_may_be_used() -> None:
    """A process that is kept to one core hashes once at a time, however many the machine has."""
    hasher, cores = GatedHasher(), os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        pool = PasswordPool(hasher, queue_limit=0)
    finally:
        os.sched_setaffinity(0, cores)
    async with anyio.create_task_group() as group:
        group.start_soon(pool.hash, PASSWORD)
        await hasher.arrival()
        try:
            with pytest.raises(Unavailable):
                pool.reserve()
        finally:
            hasher.gate.set()
    pool.close()


async def test_threads_yield() -> None:
    """The hashing threads have a lower priority than the event loop, unless that has given way already."""
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    hasher = GatedHasher()
    hasher.gate.set()
    pool = PasswordPool(hasher, threads=1)
    await pool.hash(PASSWORD)
    assert hasher.niceness == [max(10, before)]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before
    pool.close()


@pytest.mark.parametrize(("threads", "queue_limit"), [(0, 1), (1, -1)])
async def test_pool_without_room(threads: int, queue_limit: int) -> None:
    """A pool that could never hash is a mistake."""
    with pytest.raises(ValueError, match="at least one thread"):
        PasswordPool(PasswordHasher(PROFILE), threads=threads, queue_limit=queue_limit)


WITHOUT_MEMORY = """
import asyncio, resource
from pathlib import Path
from keyturn.core.errors import Unavailable
from keyturn.password_pool import PasswordPool
from keyturn.tokens.password import PasswordHasher, PasswordProfile

def allow(more):
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY if more is None else taken + more, resource.RLIM_INFINITY))

async def main():
    # More than the C library keeps back for the next time.
    pool = PasswordPool(PasswordHasher(PasswordProfile(memory_kib=131072, passes=1)), threads=1)
    stored = await pool.hash("correct horse battery")
    allow(16 << 20)
    for work in (pool.verify(stored, "correct horse battery"), pool.verify(None, "x"), pool.hash("correct horse battery")):
        try:
            print(await work)
        except Unavailable as fault:
            print(fault.dependency, type(fault.__cause__).__name__)
    allow(None)
    print((await pool.verify(stored, "correct horse battery")).ok, pool.taken)
    pool.close()

asyncio.run(main())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux how much memory is taken")
@pytest.mark.parametrize("busy", [False, True])
def test_forked_process(busy: bool) -> None:
    """It has none of its parent's threads, be they idle or at work, and none of the places are taken there."""
    hasher = GatedHasher()
    pool = PasswordPool(hasher, threads=1, queue_limit=0)

    def make() -> None:
        asyncio.run(pool.hash(PASSWORD))

    parent = threading.Thread(target=make)
    if not busy:
        hasher.gate.set()
    parent.start()
    assert hasher.arrived.acquire(timeout=30)
    if not busy:
        parent.join(30)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        status = 1
        try:
            hasher.gate = threading.Event()  # of the former its parent may hold the lock
            hasher.gate.set()
            make()
            status = 0
        finally:
            os._exit(status)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        hasher.gate.set()
        parent.join(30)
        pool.close()


def test_no_memory_for_a_hash() -> None:
    """It is a fault, and never a wrong password; the pool goes on when there is memory again."""
    done = subprocess.run([sys.executable, "-c", WITHOUT_MEMORY], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["password_hashing MemoryError"] * 3 + ["True 0"], done.stderr
