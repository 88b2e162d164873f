"""A full password queue turns people away before their attempt is counted: see decision 0009."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from keyturn.core.errors import InvalidCredentials, Unavailable
from keyturn.core.model import Contact
from keyturn.exchange import Cookies, SignedIn
from keyturn.password_pool import PasswordPool
from keyturn.ports import Credential
from keyturn.runtime import Keyturn
from keyturn.tokens.password import PasswordHasher, PasswordProfile, Verified
from tests.attacks.conftest import settings_of
from tests.attacks.support import query
from tests.auth.interrupted_users import InterruptedUsers

pytestmark = pytest.mark.anyio

EMAIL = "ada@example.com"
PASSWORD = "correct horse battery staple"
NEW_PASSWORD = "another horse, another staple"
CONTACT = Contact("203.0.113.7", "Mozilla/5.0", "Firefox on Windows")
ELSEWHERE = CONTACT._replace(ip="198.51.100.7")


class GatedHasher(PasswordHasher):
    """Verify for real, but only while the gate is open."""

    def __init__(self) -> None:
        super().__init__(PasswordProfile(memory_kib=64, passes=1))
        self.gate = threading.Event()
        self.gate.set()

    def verify(self, stored: str | None, password: str) -> Verified:
        assert self.gate.wait(30)
        return super().verify(stored, password)


class Users(InterruptedUsers):
    """The same, with a count of the look-ups."""

    asked = 0

    async def find(self, email: str) -> Credential | None:
        self.asked += 1
        return await super().find(email)


class Subject:
    """A node with room for one hash at a time, and one user."""

    def __init__(self, node: Keyturn, users: Users, hasher: GatedHasher) -> None:
        self.node = node
        self.users = users
        self.hasher = hasher

    async def sign_up(self, email: str) -> SignedIn:
        return await self.node.auth.sign_up(
            email, PASSWORD, None, remember=False, device_name=None, contact=CONTACT, cookies=Cookies()
        )

    async def log_in(self, password: str, contact: Contact = CONTACT) -> SignedIn:
        return await self.node.auth.log_in(
            EMAIL, password, remember=False, device_name=None, contact=contact, cookies=Cookies()
        )

    def make_room(self, queue_limit: int) -> PasswordPool:
        """Put another queue in the place of the one that is there."""
        self.node.passwords.close()
        self.node.passwords = PasswordPool(self.hasher, threads=1, queue_limit=queue_limit)
        self.node.auth = replace(self.node.auth, passwords=self.node.passwords)
        return self.node.passwords

    async def counted(self) -> list[Any]:
        """Read everything that is counted, and of whom."""
        return await query(self.node, "SELECT * FROM keyturn_counters ORDER BY key_hash")

    @asynccontextmanager
    async def filling(self) -> AsyncGenerator[Callable[[], Awaitable[None]]]:
        """Give what fills the queue; it is empty again afterwards."""
        pool = self.node.passwords
        async with anyio.create_task_group() as tasks:

            async def fill() -> None:
                self.hasher.gate.clear()
                tasks.start_soon(pool.verify, None, "somebody else's")
                with anyio.fail_after(30):
                    while not pool.taken:
                        await anyio.lowlevel.checkpoint()

            try:
                yield fill
            finally:
                self.hasher.gate.set()


@pytest.fixture
async def subject(database_url: str) -> AsyncGenerator[Subject]:
    """Start the node."""
    async with AsyncExitStack() as stack:
        tables = Keyturn(settings_of(database_url))
        await stack.enter_async_context(tables.lifespan())
        users, hasher = Users(tables.engine, denylist_lifetime=730.0), GatedHasher()
        node = Keyturn(settings_of(database_url), users=users)
        subject = Subject(node, users, hasher)
        subject.make_room(0)
        await stack.enter_async_context(node.lifespan())
        yield subject


async def test_queue_that_is_full(subject: Subject) -> None:
    """Nothing is counted, and at a login nobody is even looked up: turning a flood away must cost next to nothing."""
    ada = await subject.sign_up(EMAIL)
    principal = subject.node.authenticate(ada.access_token)
    asked, counted = subject.users.asked, await subject.counted()
    assert counted
    async with subject.filling() as fill:
        await fill()
        with pytest.raises(Unavailable):
            await subject.sign_up("grace@example.com")
        with pytest.raises(Unavailable):
            await subject.log_in(PASSWORD)
        with pytest.raises(Unavailable):
            await subject.node.auth.change_password(principal, PASSWORD, NEW_PASSWORD, Cookies(), CONTACT)
    assert await subject.counted() == counted
    assert subject.users.asked == asked


async def test_queue_that_fills_up_while_the_user_is_looked_up(subject: Subject) -> None:
    """Nothing is counted either, for a password that nobody has looked at."""
    await subject.sign_up(EMAIL)
    counted = await subject.counted()
    async with subject.filling() as fill:
        subject.users.then = lambda _: fill()
        with pytest.raises(Unavailable):
            await subject.log_in("a wrong guess of somebody")
    assert await subject.counted() == counted
    with pytest.raises(InvalidCredentials):
        await subject.log_in("a wrong guess of somebody")
    assert await subject.counted() != counted


async def test_queue_that_logins_from_one_address_fill(subject: Subject) -> None:
    """Whoever asks from that address is told to come back, and whoever comes from elsewhere signs in."""
    ada = await subject.sign_up(EMAIL)
    principal = subject.node.authenticate(ada.access_token)
    pool = subject.make_room(2)

    async def until_taken(count: int) -> None:
        with anyio.fail_after(30):
            while pool.taken != count:
                await anyio.lowlevel.checkpoint()

    subject.hasher.gate.clear()
    async with anyio.create_task_group() as tasks:
        try:
            for count in (1, 2):
                tasks.start_soon(subject.log_in, PASSWORD)
                await until_taken(count)
            for attempt in (
                subject.log_in(PASSWORD),
                subject.sign_up("grace@example.com"),
                subject.node.auth.change_password(principal, PASSWORD, NEW_PASSWORD, Cookies(), CONTACT),
            ):
                with pytest.raises(Unavailable):
                    await attempt
            tasks.start_soon(subject.log_in, PASSWORD, ELSEWHERE)
            await until_taken(3)
        finally:
            subject.hasher.gate.set()
    assert len((await subject.node.auth.list_sessions(principal)).sessions) == 4
