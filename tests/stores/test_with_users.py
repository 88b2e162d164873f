"""Sessions read together with their users: both from one database at once, or one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from os import urandom
from threading import Thread
from typing import Any

import pytest

from keyturn.apart import Apart, Bounded, InTurn
from keyturn.core.errors import InvalidRequest, Unavailable
from keyturn.core.login import Admission, Limit, Login, admit
from keyturn.core.model import RevokeReason, Session, SessionId, User
from keyturn.core.policy import Policy
from keyturn.core.rotation import Decision, Outcome
from keyturn.ports import Admit, Attempt, Attempts, Openings, SessionsWithUsers
from keyturn.stores.attempts import PostgresAttempts
from keyturn.stores.engine import Engine
from keyturn.stores.sql import SqlSessions
from keyturn.stores.throttle import SqlThrottle
from keyturn.stores.users import SqlUsers
from keyturn.testing import CONTACT, FrozenClock, refresh_tokens, sign_in
from keyturn.testing.sessions import DEVICE_ID
from tests.stores.support import open_database

pytestmark = pytest.mark.anyio

LIFETIME = 610.0
SETTLED = 61.0
WINDOW = Limit(("account-address", "ada@example.com"), 3, 900.0)
FOREVER = Limit(("account", "ada@example.com"), 4, None)
POLICY = Policy()
ROOM = POLICY.max_sessions - 1


class Both:
    """A database with a user, and its sessions with and without the help of the directory."""

    def __init__(self, url: str, engine: Engine, *, together: bool) -> None:
        self.url = url
        self.clock = FrozenClock()
        self.users = SqlUsers(engine, denylist_lifetime=LIFETIME, clock=self.clock)
        self.sessions = SqlSessions(engine, denylist_lifetime=LIFETIME, heal_time=900.0, clock=self.clock)
        self.throttle = SqlThrottle(engine, self.clock)
        self.with_users: SessionsWithUsers = self.sessions if together else Apart(self.sessions, self.users)
        in_turn = InTurn(self.sessions, self.users, self.with_users, self.throttle)
        self.openings: Openings = self.sessions if together else in_turn
        at_once = together and engine.postgres
        self.attempts: Attempts = PostgresAttempts(engine, self.throttle) if at_once else in_turn

    async def create(self) -> User:
        user = await self.users.create("ada@example.com", "Ada", "hash-1")
        assert user is not None
        return user

    def elsewhere(self, user: User, *, delete: bool) -> None:
        """Let another node disable or delete the user, and wait for it."""

        async def change() -> None:
            async with open_database(self.url) as engine:
                users = SqlUsers(engine, denylist_lifetime=LIFETIME)
                assert await (users.delete(user.id) if delete else users.set_disabled(user.id, disabled=True))

        thread = Thread(target=lambda: asyncio.run(change()))
        thread.start()
        thread.join()


@pytest.fixture(params=["together", "apart"])
async def both(request: pytest.FixtureRequest, database_url: str) -> AsyncGenerator[Both]:
    """One user's database."""
    async with open_database(database_url) as engine:
        made = Both(database_url, engine, together=request.param == "together")
        yield made
        await made.sessions.close()


def attempt(taken: Sequence[Limit]) -> Attempt:
    """Make an attempt of which nothing is known but what it took."""
    return Attempt(None, False, taken, None)


def login(user: User, policy: Policy = POLICY) -> Admit:
    """Make what a login hands to the store."""
    opening = Login(SessionId(urandom(16)), user.id, DEVICE_ID, None, CONTACT, ("pwd",), remember=True)
    mint = refresh_tokens().minter(urandom(16))
    return lambda live, now: admit(live, opening, now, policy, mint)


async def test_user_of_a_session(both: Both) -> None:
    """The user comes with the session, as the directory has them; nobody comes with a session that is not there."""
    user = await both.create()
    holder = await sign_in(both.sessions, user.id)
    presented = await both.with_users.present_with_user(holder.session_id, holder.judge())
    assert (presented.decision.outcome, presented.user) == (Outcome.ROTATE, user)
    unknown = await both.with_users.present_with_user(SessionId(bytes(16)), holder.judge())
    assert (unknown.decision.outcome, unknown.user) == (Outcome.ENDED, None)


async def test_directory_that_tells_of_somebody_else(database_url: str) -> None:
    """Nobody is handed a token for another user than the session's, nor for an id that is no text; nobody is signed out."""

    class Mistaken(SqlUsers):
        async def get(self, user_id: str) -> User | None:
            return User(told, "eve@example.com")

    told: Any = ""
    async with open_database(database_url) as engine:
        sessions = SqlSessions(engine, denylist_lifetime=LIFETIME, heal_time=900.0)
        apart = Apart(sessions, Bounded(Mistaken(engine, denylist_lifetime=LIFETIME)))
        holder = await sign_in(sessions, "1")
        for told in ("2", 1, None):
            with pytest.raises(ValueError, match=rf"get\('1'\) returned the user {told!r}"):
                await apart.present_with_user(holder.session_id, holder.judge())
        told = "1"
        presented = await apart.present_with_user(holder.session_id, holder.judge())
        assert (presented.decision.outcome, presented.user) == (Outcome.ROTATE, User("1", "eve@example.com"))
        await sessions.close()


async def test_users_of_many_sessions(both: Both) -> None:
    """In one group everybody gets their own user, and a user who does not exist is None."""
    user, other = await both.create(), await both.users.create("eve@example.com", None, "hash-2")
    assert other is not None
    ids = [(user.id, user), (other.id, other), ("nobody", None)] * 5
    holders = [(await sign_in(both.sessions, user_id), expected) for user_id, expected in ids]
    answers = await asyncio.gather(
        *(both.with_users.present_with_user(holder.session_id, holder.judge()) for holder, _ in holders)
    )
    assert [answer.user for answer in answers] == [expected for _, expected in holders]


@pytest.mark.parametrize("delete", [False, True], ids=["disabled", "deleted"])
async def test_user_who_goes_while_a_confirm_is_under_way(both: Both, delete: bool) -> None:
    """Between the read and the write: the session is read again, has ended, and nothing is handed out."""
    user = await both.create()
    holder = await (await sign_in(both.sessions, user.id)).child()
    both.clock.advance(SETTLED)
    decided: list[Decision] = []
    judge = holder.judge()

    def interrupted(session: Session | None, now: float, healing: bool) -> Decision:
        decided.append(judge(session, now, healing))
        if len(decided) == 1:
            both.elsewhere(user, delete=delete)
        return decided[-1]

    presented = await both.with_users.present_with_user(holder.session_id, interrupted)
    assert [decision.outcome for decision in decided] == [Outcome.CONFIRM, Outcome.ENDED]
    assert (presented.decision.outcome, presented.decision.reason) == (Outcome.ENDED, RevokeReason.USER_DISABLED)
    assert presented.decision.child is None


async def test_user_at_the_moment_of_a_login(both: Both) -> None:
    """A login is told the user and the password hash as they are when its session is opened."""
    user = await both.create()
    first = await both.with_users.open_with_user(user, login(user))
    assert first.credential == (user, "hash-1")
    assert first.admission.session.user_id == user.id
    assert await both.users.replace_password_hash(user.id, "hash-1", "hash-2")
    assert await both.users.set_disabled(user.id, disabled=True)
    second = await both.with_users.open_with_user(user, login(user))
    assert second.credential == (user._replace(disabled=True), "hash-2")


async def test_user_who_was_deleted_before_a_login_opens(both: Both) -> None:
    """Then there is nobody to log in."""
    user = await both.create()
    assert await both.users.delete(user.id)
    assert (await both.with_users.open_with_user(user, login(user))).credential is None


async def test_attempt_of_a_login(both: Both) -> None:
    """Opening gives back what this attempt took: one of a window, all consecutive failures, and nobody else's attempts."""
    user = await both.create()
    assert [await both.throttle.take([WINDOW, FOREVER]) for _ in range(3)] == [None] * 3
    opened = await both.openings.open_after_attempt(user, login(user), attempt([FOREVER, WINDOW]), ROOM)
    assert opened.credential == (user, "hash-1")
    assert [session.id for session in (await both.sessions.list_live(user.id)).sessions] == [
        opened.admission.session.id
    ]
    assert [await both.throttle.take([WINDOW]) is None for _ in range(2)] == [True, False]
    assert [await both.throttle.take([FOREVER]) is None for _ in range(5)] == [True] * 4 + [False]


async def test_opening_without_an_attempt(both: Both) -> None:
    """A sign-up keeps what it took."""
    user = await both.create()
    assert [await both.throttle.take([WINDOW]) for _ in range(3)] == [None] * 3
    assert (await both.openings.open_after_attempt(user, login(user), None, ROOM)).credential == (user, "hash-1")
    assert await both.throttle.take([WINDOW]) is not None


async def test_attempts_of_logins_and_failures_at_once(both: Both) -> None:
    """Ten users log in from one address while ten attempts fail: exactly the ten failures stay counted."""
    address = Limit(("address", "192.0.2.1"), 20, 900.0)
    users = [await both.users.create(f"user-{number}@example.com", None, "hash") for number in range(10)]

    async def succeed(user: User | None) -> None:
        assert user is not None
        limits = [address, Limit(("account", user.email), 1, None)]
        assert await both.throttle.take(limits) is None
        await both.openings.open_after_attempt(user, login(user), attempt(limits), ROOM)

    async def fail(number: int) -> None:
        assert await both.throttle.take([Limit(("account", f"nobody-{number}"), 1, None), address]) is None

    await asyncio.gather(*(succeed(user) for user in users), *(fail(number) for number in range(10)))
    assert [await both.throttle.take([address]) is None for _ in range(11)] == [True] * 10 + [False]


async def test_opening_that_fails(both: Both) -> None:
    """Whatever stops an opening, no attempt is won by it."""
    user = await both.create()
    assert [await both.throttle.take([WINDOW]) for _ in range(3)] == [None] * 3

    def decline(_live: Sequence[Session], _now: float) -> Admission:
        raise LookupError("declined")

    with pytest.raises(LookupError):
        await both.openings.open_after_attempt(user, decline, attempt([WINDOW]), ROOM)
    assert (await both.sessions.list_live(user.id)).sessions == []
    taken = [await both.throttle.take([WINDOW]) is None for _ in range(2)]
    assert taken == [not isinstance(both.openings, SqlSessions), False]


async def test_beginning_of_an_attempt(both: Both) -> None:
    """The user is found in any case of the address, and the attempt is counted; of an unknown user it is counted as well."""
    user = await both.create()
    limits = [WINDOW, FOREVER]
    begun = await both.attempts.begin("Ada@Example.com", None, lambda _: limits)
    assert (begun.credential, begun.known_device, begun.retry_after) == ((user, "hash-1"), False, None)
    assert list(begun.taken) == limits
    unknown = await both.attempts.begin("eve@example.com", None, lambda _: limits)
    assert unknown._replace(seen=None) == Attempt(None, False, limits, None)
    assert [await both.throttle.take([WINDOW]) is None for _ in range(2)] == [True, False]


async def test_attempt_beyond_a_limit(both: Both) -> None:
    """It is told to wait and takes from no other limit; whom it is for does not matter."""
    await both.create()
    assert [await both.throttle.take([WINDOW]) for _ in range(3)] == [None] * 3
    for email in ("ada@example.com", "eve@example.com") * 3:
        refused = await both.attempts.begin(email, None, lambda _: [FOREVER, WINDOW])
        assert refused.retry_after is not None
        assert 890.0 < refused.retry_after <= 900.0
    assert [await both.throttle.take([FOREVER]) is None for _ in range(5)] == [True] * 4 + [False]


async def test_attempt_beyond_two_limits(both: Both) -> None:
    """The longer wait counts, and the user is found no less."""
    user = await both.create()
    one, other = Limit(("one",), 1, 10.0), Limit(("other",), 1, 500.0)
    assert await both.throttle.take([one, other]) is None
    refused = await both.attempts.begin(user.email, None, lambda _: [one, other])
    assert refused.credential == (user, "hash-1")
    assert refused.retry_after is not None
    assert refused.retry_after > 490.0


async def test_attempt_with_a_device(both: Both) -> None:
    """What counts depends on whether this user has had a session on it; of an unknown user nobody has."""
    user, other = await both.create(), await both.users.create("eve@example.com", None, "hash-2")
    assert other is not None
    await sign_in(both.sessions, user.id, device_id=DEVICE_ID)

    async def begin(email: str, device_id: bytes) -> tuple[bool, User | None, tuple[str, ...]]:
        limits = {known: [Limit((str(known), email), 9, 900.0)] for known in (True, False)}
        begun = await both.attempts.begin(email, device_id, limits.__getitem__)
        assert begun.retry_after is None
        return begun.known_device, begun.credential and begun.credential.user, begun.taken[0].key

    assert await begin(user.email, DEVICE_ID) == (True, user, ("True", user.email))
    assert await begin(user.email, bytes(16)) == (False, user, ("False", user.email))
    assert await begin(other.email, DEVICE_ID) == (False, other, ("False", other.email))
    assert await begin("nobody@example.com", DEVICE_ID) == (False, None, ("False", "nobody@example.com"))
    only = Limit(("device",), 1, 900.0)
    waits = [(await both.attempts.begin(user.email, DEVICE_ID, lambda _: [only])).retry_after for _ in range(2)]
    assert [wait is None for wait in waits] == [True, False]


@pytest.mark.parametrize("device_id", [None, DEVICE_ID], ids=["no device", "device"])
async def test_attempt_that_is_not_made(both: Both, device_id: bytes | None) -> None:
    """What is turned away before it counts is not counted; nor is what is no address."""
    await both.create()

    def full(_known: bool) -> Sequence[Limit]:
        raise Unavailable("password_queue")

    with pytest.raises(Unavailable):
        await both.attempts.begin("ada@example.com", device_id, full)
    with pytest.raises(InvalidRequest):
        await both.attempts.begin("ada", device_id, lambda _: [WINDOW])
    assert [await both.throttle.take([WINDOW]) is None for _ in range(4)] == [True] * 3 + [False]


async def test_fifty_attempts_at_once(both: Both) -> None:
    """On a limit of ten exactly ten are let through, and each of them finds its user."""
    user = await both.create()
    limit = Limit(("race",), 10, 900.0)

    def limits(own: int, _known: bool) -> list[Limit]:
        return [limit, Limit((f"own-{own}",), 1, 900.0)]

    begun = await asyncio.gather(*(both.attempts.begin(user.email, None, partial(limits, own)) for own in range(50)))
    assert [each.retry_after for each in begun].count(None) == 10
    assert {each.credential for each in begun if each.retry_after is None} == {(user, "hash-1")}


async def test_login_from_its_attempt_on(both: Both) -> None:
    """Several in a row: each gives back its own attempt, sees the time that has passed, and the cap holds."""
    user, policy = await both.create(), Policy(max_sessions=2)
    for evicted in (0, 0, 1, 1):
        begun = await both.attempts.begin(user.email, None, lambda _: [WINDOW, FOREVER])
        both.clock.advance(1.0)
        opened = await both.openings.open_after_attempt(user, login(user, policy), begun, policy.max_sessions - 1)
        assert opened.credential == (user, "hash-1")
        assert opened.admission.session.created_at == both.clock.now
        assert len(opened.admission.evicted) == evicted
    assert len((await both.sessions.list_live(user.id)).sessions) == 2
    assert [await both.throttle.take([WINDOW]) is None for _ in range(4)] == [True] * 3 + [False]


async def test_user_who_changes_after_the_attempt(both: Both) -> None:
    """While the password is checked: the login is told what holds when its session is opened."""
    user = await both.create()
    begun = await both.attempts.begin(user.email, None, lambda _: [WINDOW])
    assert await both.users.replace_password_hash(user.id, "hash-1", "hash-2")
    opened = await both.openings.open_after_attempt(user, login(user), begun, ROOM)
    assert opened.credential == (user, "hash-2")
    begun = await both.attempts.begin(user.email, None, lambda _: [WINDOW])
    assert await both.users.set_disabled(user.id, disabled=True)
    opened = await both.openings.open_after_attempt(user, login(user), begun, ROOM)
    assert opened.credential == (user._replace(disabled=True), "hash-2")
    begun = await both.attempts.begin(user.email, None, lambda _: [WINDOW])
    assert await both.users.delete(user.id)
    assert (await both.openings.open_after_attempt(user, login(user), begun, ROOM)).credential is None
