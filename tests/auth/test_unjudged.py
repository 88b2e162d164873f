"""Attempts that were counted and ended in a fault before anybody judged the password: see decision 0009."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace

import anyio
import anyio.lowlevel
import pytest

from keyturn.core.errors import InvalidCredentials, Refused, Throttled, Unavailable
from keyturn.core.model import Contact
from keyturn.exchange import Cookies, SignedIn
from keyturn.password_pool import PasswordPool
from keyturn.runtime import Keyturn
from keyturn.stores.engine import open_engine
from keyturn.tokens.password import PasswordHasher, PasswordProfile, Verified
from tests.attacks.conftest import settings_of
from tests.attacks.support import query
from tests.auth.interrupted_users import InterruptedUsers
from tests.machine import little_memory

pytestmark = pytest.mark.anyio

EMAIL = "ada@example.com"
PASSWORD = "correct horse battery staple"
NEW_PASSWORD = "another horse, another staple"
WRONG = "a wrong guess of somebody"
CONTACT = Contact("203.0.113.7", "Mozilla/5.0", "Firefox on Windows")
PROFILE = PasswordProfile(memory_kib=64, passes=1)
HUGE = f"m={1024 * 1024},"

_KEEP_NO_HASH = {
    False: (
        "CREATE TRIGGER fault BEFORE UPDATE OF password_hash ON keyturn_users BEGIN INSERT INTO gone VALUES (1); END",
    ),
    True: (
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE SQLSTATE '58030'; END $$",
        "CREATE TRIGGER fault BEFORE UPDATE OF password_hash ON keyturn_users FOR EACH ROW EXECUTE FUNCTION fail()",
    ),
}
"""For SQLite and for PostgreSQL: nobody's hash can be replaced."""
_OPEN_NO_SESSION = {
    where: tuple(
        each.replace("UPDATE OF password_hash ON keyturn_users", "INSERT ON keyturn_sessions") for each in statements
    )
    for where, statements in _KEEP_NO_HASH.items()
}
"""The same for sessions."""


class GatedHasher(PasswordHasher):
    """Verify for real, but only while the gate is open."""

    def __init__(self, profile: PasswordProfile = PROFILE) -> None:
        super().__init__(profile)
        self.gate = threading.Event()
        self.gate.set()

    def verify(self, stored: str | None, password: str) -> Verified:
        assert self.gate.wait(30)
        return super().verify(stored, password)


class Subject:
    """A node with one user, whose password hash may want more memory than there is."""

    def __init__(self, node: Keyturn) -> None:
        self.node = node
        self.use(GatedHasher())

    def use(self, hasher: GatedHasher) -> None:
        """Hash with this from now on."""
        self.node.passwords.close()
        self.hasher = hasher
        self.node.passwords = PasswordPool(hasher, threads=1)
        self.node.auth = replace(self.node.auth, passwords=self.node.passwords)

    async def sign_up(self, email: str = EMAIL) -> SignedIn:
        return await self.node.auth.sign_up(
            email, PASSWORD, None, remember=False, device_name=None, contact=CONTACT, cookies=Cookies()
        )

    async def log_in(self, password: str) -> SignedIn:
        return await self.node.auth.log_in(
            EMAIL, password, remember=False, device_name=None, contact=CONTACT, cookies=Cookies()
        )

    async def want_memory(self, wanted: bool = True) -> None:
        """Have the user's hash want a GiB, or what it wanted before."""
        before, after = (f"m={PROFILE.memory_kib},", HUGE) if wanted else (HUGE, f"m={PROFILE.memory_kib},")
        await query(
            self.node,
            "UPDATE keyturn_users SET password_hash = replace(password_hash, :before, :after)",
            before=before,
            after=after,
        )

    async def guesses_left(self) -> int:
        """Guess until the throttle says stop, and count."""
        for guess in range(200):
            try:
                await self.log_in(WRONG)
            except InvalidCredentials:
                continue
            except Throttled:
                return guess
        raise AssertionError("nobody has counted")


SERVICES = pytest.mark.services
KINDS = [
    ("sqlite_database_url", "database"),
    pytest.param(("postgres_url", "database"), marks=SERVICES),
    pytest.param(("sqlite_database_url", "redis"), marks=SERVICES),
    pytest.param(("postgres_url", "directory"), marks=SERVICES),
]


@pytest.fixture(params=KINDS, ids="-".join)
async def subject(request: pytest.FixtureRequest) -> AsyncGenerator[Subject]:
    """Start a node that counts in its database, in Redis, or beside an application's own users."""
    database, kind = request.param
    url = request.getfixturevalue(database)
    redis_url = request.getfixturevalue("redis_url") if kind == "redis" else None
    engine = open_engine(url)
    users = InterruptedUsers(engine, denylist_lifetime=730.0) if kind == "directory" else None
    node = Keyturn(settings_of(url, redis_url=redis_url), users=users)
    async with node.lifespan():
        yield Subject(node)
    await engine.close()


async def refused(attempt: Callable[[], Awaitable[object]]) -> None:
    """Try a password ever again, to no avail: there is no memory to judge it."""
    with little_memory():
        for _ in range(12):
            with pytest.raises(Unavailable) as fault:
                await attempt()
            assert fault.value.dependency == "password_hashing"


async def test_login_without_memory(subject: Subject) -> None:
    """Whoever was right each time is not throttled, and guesses that were judged still count: each, and none of them twice."""
    await subject.sign_up()
    with pytest.raises(InvalidCredentials):
        await subject.log_in(WRONG)
    await subject.want_memory()
    await refused(lambda: subject.log_in(PASSWORD))
    await refused(lambda: subject.log_in(WRONG))
    await subject.want_memory(False)
    assert await subject.guesses_left() == subject.node.policy.account_failures - 1


async def test_failures_in_a_row_without_memory(subject: Subject) -> None:
    """What counts the failures of an account in a row is not begun anew, as after a success: a fault proves no password."""
    await subject.sign_up()
    subject.node.auth = replace(subject.node.auth, policy=replace(subject.node.policy, hard_failures=3))
    for _ in range(2):
        with pytest.raises(InvalidCredentials):
            await subject.log_in(WRONG)
    await subject.want_memory()
    await refused(lambda: subject.log_in(PASSWORD))
    await subject.want_memory(False)
    assert await subject.guesses_left() == 1


async def test_password_change_without_memory(subject: Subject) -> None:
    """The same where the current password is asked."""
    ada = await subject.sign_up()
    principal, auth = subject.node.authenticate(ada.access_token), subject.node.auth
    await subject.want_memory()
    await refused(lambda: auth.change_password(principal, PASSWORD, NEW_PASSWORD, Cookies(), CONTACT))
    await subject.want_memory(False)
    await auth.change_password(principal, PASSWORD, NEW_PASSWORD, Cookies(), CONTACT)


async def test_sign_up_without_memory(subject: Subject) -> None:
    """The same for those who come from one address: nobody has signed up."""
    subject.use(GatedHasher(PasswordProfile(memory_kib=1024 * 1024, passes=1)))
    await refused(subject.sign_up)
    subject.use(GatedHasher())
    for number in range(subject.node.policy.signups_per_address):
        await subject.sign_up(f"ada{number}@example.com")
    with pytest.raises(Throttled):
        await subject.sign_up()


async def test_right_password_whose_new_hash_cannot_be_kept(subject: Subject) -> None:
    """A right password counts against nobody either, where the fault comes after it."""
    await subject.sign_up()
    subject.use(GatedHasher(PasswordProfile(memory_kib=128, passes=1)))
    for statement in _KEEP_NO_HASH[subject.node.engine.postgres]:
        await query(subject.node, statement)
    for _ in range(12):
        with pytest.raises(Unavailable):
            await subject.log_in(PASSWORD)
    assert await subject.guesses_left() == subject.node.policy.account_failures


async def test_right_password_whose_session_cannot_be_opened(subject: Subject) -> None:
    """The same, where the database takes counters and no session: it has no room for another page, or a trigger refuses."""
    await subject.sign_up()
    for statement in _OPEN_NO_SESSION[subject.node.engine.postgres]:
        await query(subject.node, statement)
    for _ in range(12):
        with pytest.raises(Unavailable):
            await subject.log_in(PASSWORD)
    assert await subject.guesses_left() == subject.node.policy.account_failures


@pytest.mark.parametrize("fault", ["no memory", "no session", "no new hash"])
async def test_faults_are_no_logins(subject: Subject, fault: str) -> None:
    """Logins of an account are limited, and a right password whose login ends in a fault is none."""
    await subject.sign_up()
    policy = replace(subject.node.policy, account_logins=1, account_failures=1)
    subject.node.auth = replace(subject.node.auth, policy=policy)
    if fault == "no memory":
        await subject.want_memory()
        await refused(lambda: subject.log_in(PASSWORD))
        await subject.want_memory(False)
        for _ in range(policy.account_logins + 2 * policy.account_failures):
            await subject.log_in(PASSWORD)
        with pytest.raises(Throttled):
            await subject.log_in(PASSWORD)
        return
    if fault == "no new hash":
        subject.use(GatedHasher(PasswordProfile(memory_kib=128, passes=1)))
    for statement in (_OPEN_NO_SESSION if fault == "no session" else _KEEP_NO_HASH)[subject.node.engine.postgres]:
        await query(subject.node, statement)
    for _ in range(12):
        with pytest.raises(Unavailable):
            await subject.log_in(PASSWORD)


async def test_wrong_password_whose_refusal_cannot_be_recorded(subject: Subject) -> None:
    """A guess that was judged counts, be the answer what it may."""
    await subject.sign_up()
    await query(subject.node, "ALTER TABLE keyturn_events RENAME TO gone")
    for _ in range(subject.node.policy.account_failures):
        with pytest.raises(Unavailable):
            await subject.log_in(WRONG)
    with pytest.raises(Throttled):
        await subject.log_in(WRONG)


@pytest.mark.parametrize("subject", KINDS[:2], ids=["sqlite", "postgresql"], indirect=True)
async def test_attempt_that_cannot_be_given_back(subject: Subject) -> None:
    """The fault that came first is told."""
    await subject.sign_up()
    await subject.want_memory()
    told: list[Refused] = []

    async def log_in() -> None:
        with pytest.raises(Unavailable) as fault:
            await subject.log_in(PASSWORD)
        told.append(fault.value)

    subject.hasher.gate.clear()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(log_in)
        with anyio.fail_after(30):
            while not subject.node.passwords.taken:
                await anyio.lowlevel.checkpoint()
        await query(subject.node, "ALTER TABLE keyturn_counters RENAME TO gone")
        with little_memory():
            subject.hasher.gate.set()
            with anyio.fail_after(30):
                while not told:
                    await anyio.lowlevel.checkpoint()
    (fault,) = told
    assert isinstance(fault, Unavailable)
    assert fault.dependency == "password_hashing"
