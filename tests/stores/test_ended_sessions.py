"""What is asked by user costs the same however many sessions of theirs have ended, whatever the planner believes.

The work is counted by the database and not timed: rows and index entries that PostgreSQL looked at, steps that SQLite took.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from os import urandom
from typing import Any

import pytest
from sqlalchemy import func, insert, select, update

from keyturn.apart import InTurn
from keyturn.core.login import Limit, Login, admit
from keyturn.core.model import RevokeReason, SessionId, User, UserId
from keyturn.core.policy import Policy
from keyturn.core.rotation import Outcome
from keyturn.ports import Admit, Attempts
from keyturn.stores import revoking
from keyturn.stores.attempts import PostgresAttempts
from keyturn.stores.engine import Engine, open_engine
from keyturn.stores.migrations import migrate
from keyturn.stores.schema import sessions
from keyturn.stores.session_rows import values_of
from keyturn.stores.sql import SqlSessions
from keyturn.stores.throttle import SqlThrottle
from keyturn.stores.users import SqlUsers
from keyturn.testing import CONTACT, FrozenClock, refresh_tokens, sign_in
from keyturn.testing.sessions import DEVICE_ID

pytestmark = pytest.mark.anyio

ENDED = 4000
OTHERS = 1000
"""So many that the sessions of all users that are live are not few beside one user's that have ended."""
FEW = 10
BROWSERS = 24
TIMES = 8
"""PostgreSQL plans a statement for its parameters five times, and may then plan it for any."""
POLICY = Policy(max_sessions=3)
LIMIT = Limit(("account", "ada@example.com"), 1000, 900.0)
SETTLED = 61.0
_LOOKED_AT = (
    "SELECT sum(t.seq_tup_read) + (SELECT sum(i.idx_tup_read) FROM pg_stat_user_indexes i WHERE i.relname = t.relname) "
    "FROM pg_stat_user_tables t WHERE t.relname = 'keyturn_sessions' GROUP BY t.relname"
)
_STEPS = 50


@dataclass
class Site:
    """A user with many ended sessions, among others."""

    engine: Engine
    user: User
    clock: FrozenClock
    sessions: SqlSessions
    users: SqlUsers
    attempts: Attempts
    steps: list[None]
    """One for each `_STEPS` that SQLite has taken."""

    async def work(self) -> int:
        """Return how much the database has done so far."""
        if not self.engine.postgres:
            return len(self.steps) * _STEPS
        async with self.engine.autocommit() as connection:
            await connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
            return int((await connection.exec_driver_sql(_LOOKED_AT)).scalar_one())

    async def most(self, act: Callable[[], Awaitable[object]]) -> int:
        """Do something several times; return the most that it took."""
        taken: list[int] = []
        for _ in range(TIMES):
            before = await self.work()
            await act()
            taken.append(await self.work() - before)
        return max(taken)

    async def analyze(self) -> None:
        """Have the planner look at the tables as they are now."""
        async with self.engine.transaction() as connection:
            await connection.exec_driver_sql("ANALYZE")

    def admit(self) -> Admit:
        """Admit a login of the user."""
        login = Login(SessionId(urandom(16)), self.user.id, DEVICE_ID, None, CONTACT, ("pwd",), remember=True)
        mint = refresh_tokens().minter(urandom(16))
        return lambda live, now: admit(live, login, now, POLICY, mint)

    async def enter(self, device_id: bytes | None) -> None:
        """Log in as the routes do, with a device cookie or without."""
        attempt = await self.attempts.begin("ada@example.com", device_id, lambda _: [LIMIT])
        await self.sessions.open_after_attempt(self.user, self.admit(), attempt, POLICY.max_sessions - 1)

    async def leave_and_enter(self) -> None:
        """Log in when nobody has to be evicted."""
        await self.sessions.revoke(self.user.id, RevokeReason.LOGOUT)
        await self.enter(None)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Count what SQLite does, on all connections."""
    connect, counted = sqlite3.connect, list[None]()

    def counting(*args: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **options)
        connection.set_progress_handler(lambda: counted.append(None), _STEPS)
        return connection

    monkeypatch.setattr(sqlite3, "connect", counting)
    return counted


@pytest.fixture
async def empty(database_url: str, steps: list[None]) -> AsyncGenerator[Site]:
    """A database with one connection, so that it can say what was done."""
    engine = open_engine(database_url, pool_size=1)
    await migrate(engine)
    clock = FrozenClock()
    users = SqlUsers(engine, denylist_lifetime=610.0, clock=clock)
    store = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0, clock=clock)
    throttle = SqlThrottle(engine, clock)
    user = await users.create("ada@example.com", "Ada", "hash")
    assert user is not None
    apart = InTurn(store, users, store, throttle)
    attempts = PostgresAttempts(engine, throttle) if engine.postgres else apart
    yield Site(engine, user, clock, store, users, attempts, steps)
    await store.close()
    await engine.close()


@pytest.fixture(params=[OTHERS, 0], ids=["among others", "alone"])
async def site(request: pytest.FixtureRequest, empty: Site) -> Site:
    """The same with the user's ended sessions in it, and perhaps with those of others."""
    await fill(empty.engine, empty.sessions, empty.user.id, request.param)
    return empty


async def fill(engine: Engine, store: SqlSessions, ended: str = "", others: int = 0) -> None:
    """Give one user sessions that have ended, all of one device, and each of so many others one that has not."""
    template, now = await store.get((await sign_in(store, "somebody")).session_id)
    assert template is not None
    dead = template._replace(user_id=ended, revoked_at=now, revoked_reason=RevokeReason.LOGOUT)
    rows = [dead] * ENDED if ended else []
    rows += [template._replace(user_id=f"user-{number}", device_id=urandom(16)) for number in range(others)]
    async with engine.transaction() as connection:
        values = [values_of(row._replace(id=SessionId(urandom(16)))) for row in rows]
        await connection.execute(insert(sessions), values)


@pytest.mark.parametrize("statistics", [False, True], ids=["no statistics", "statistics"])
async def test_work_does_not_grow_with_ended_sessions(site: Site, statistics: bool) -> None:
    """Neither that of a login, on either of its ways, nor that of listing and ending, nor that of looking for a device."""
    if statistics:
        await site.analyze()
    store, user = site.sessions, site.user
    acts: dict[str, Callable[[], Awaitable[object]]] = {
        "list": lambda: store.list_live(user.id),
        "unknown device": lambda: store.knows_device(user.id, urandom(16)),
        "known device": lambda: store.knows_device(user.id, DEVICE_ID),
        "login": lambda: site.enter(None),
        "login on an unknown device": lambda: site.enter(urandom(16)),
        "login of a known user": lambda: store.open_with_user(user, site.admit()),
        "login of another directory's user": lambda: store.open(user.id, site.admit()),
        "log out everywhere and log in": site.leave_and_enter,
        "log out elsewhere": lambda: store.revoke(user.id, RevokeReason.LOGOUT, keep=SessionId(b"k" * 16)),
        "disable": lambda: site.users.set_disabled(user.id, disabled=True),
    }
    taken = {name: await site.most(act) for name, act in acts.items()}
    # A row takes SQLite several steps, and a login on its own hundreds.
    assert {name: work for name, work in taken.items() if work > ENDED // 2} == {}


async def test_password_change_of_a_user_with_very_many_sessions(empty: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It changes no more rows than it has time for: those that are live, and then the newest."""
    monkeypatch.setattr(revoking, "FORGOTTEN", 10)
    await fill(empty.engine, empty.sessions, empty.user.id)
    live = await sign_in(empty.sessions, empty.user.id, device_id=b"live")
    async with empty.engine.transaction() as connection:
        await connection.execute(update(sessions).where(sessions.c.id == live.session_id).values(created_at=0.0))
        newest = (
            select(sessions.c.id).where(sessions.c.device_id == DEVICE_ID, sessions.c.user_id == empty.user.id).limit(9)
        )
        later = update(sessions).where(sessions.c.id.in_(newest)).values(created_at=sessions.c.created_at + 1.0)
        await connection.execute(later)
    ended = await empty.sessions.revoke(empty.user.id, RevokeReason.PASSWORD_CHANGED)
    assert ended == [live.session_id]
    assert await empty.sessions.knows_device(empty.user.id, b"live") is False
    async with empty.engine.autocommit() as connection:
        left = select(func.count(), func.max(sessions.c.created_at) - func.min(sessions.c.created_at))
        theirs = left.where(sessions.c.user_id == empty.user.id, sessions.c.device_id == DEVICE_ID)
        assert tuple((await connection.execute(theirs)).one()) == (ENDED - 9, 0.0)


async def test_password_change_does_not_look_at_those_of_others(empty: Site) -> None:
    """Whatever the planner believes of how many there are."""
    await fill(empty.engine, empty.sessions, others=FEW)
    await empty.analyze()
    await empty.engine.close()
    await fill(empty.engine, empty.sessions, others=ENDED)

    async def change() -> None:
        await sign_in(empty.sessions, empty.user.id)
        await empty.sessions.revoke(empty.user.id, RevokeReason.PASSWORD_CHANGED)

    assert await empty.most(change) < ENDED // 2


@pytest.mark.parametrize("live", [False, True], ids=["ended sessions", "live sessions"])
async def test_many_sessions_of_a_user_among_many_who_have_one_each(postgres_url: str, live: bool) -> None:
    """PostgreSQL expects one of theirs as well, and yet does not go through all of them again for each."""
    engine = open_engine(postgres_url, pool_size=1)
    store = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0, clock=FrozenClock())
    await fill(engine, store, others=ENDED)
    async with engine.transaction() as connection:
        await connection.exec_driver_sql("ANALYZE")
    await fill(engine, store, "ada")
    if live:
        async with engine.transaction() as connection:
            await connection.execute(update(sessions).values(revoked_at=None, revoked_reason=None))

    async def looked_at() -> int:
        async with engine.autocommit() as connection:
            await connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
            counted = "SELECT heap_blks_hit + heap_blks_read FROM pg_statio_user_tables WHERE relname = $1"
            return int((await connection.exec_driver_sql(counted, ("keyturn_sessions",))).scalar_one())

    before = await looked_at()
    ended = await store.revoke(UserId("ada"), RevokeReason.LOGOUT if live else RevokeReason.PASSWORD_CHANGED)
    assert len(ended) == (ENDED if live else 0)
    assert await looked_at() - before < 50 * ENDED
    await store.close()
    await engine.close()


@pytest.mark.parametrize("ended", [ENDED, 0], ids=["ended sessions", "few sessions"])
async def test_refresh_finds_its_session_whatever_the_planner_has_seen(empty: Site, ended: int) -> None:
    """It does not go through those of all users, of which it knows nothing."""
    await fill(empty.engine, empty.sessions, empty.user.id if ended else "", others=0 if ended else FEW)
    await empty.analyze()
    await empty.engine.close()  # SQLite's connections read once what the planner knows
    await fill(empty.engine, empty.sessions, others=ENDED)
    # So many that to go through an index looks cheaper than to look at a place for each.
    browsers = [await (await sign_in(empty.sessions, f"user-{number}")).child() for number in range(BROWSERS)]

    async def refresh() -> None:
        empty.clock.advance(SETTLED)
        decisions = await asyncio.gather(*(browser.refresh() for browser in browsers))
        assert {decision.outcome for decision in decisions} == {Outcome.CONFIRM}

    # SQLite counts steps: some for each row that it looks at, some hundred for each that it writes.
    assert await empty.most(refresh) < (ENDED // 8 if empty.engine.postgres else 400 * BROWSERS)


async def test_refreshes_leave_the_indexes_alone(empty_postgres_url: str) -> None:
    """Also one that writes whether the session has ended, as each from another address does: it has not."""
    engine = open_engine(empty_postgres_url, pool_size=1)
    await migrate(engine)
    clock = FrozenClock()
    store = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0, clock=clock)
    browser = await sign_in(store)
    for number in range(10):
        clock.advance(SETTLED)
        await browser.refresh(CONTACT._replace(ip=f"192.0.2.{number}"))
    async with engine.autocommit() as connection:
        await connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
        counted = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'keyturn_sessions'"
        found = (await connection.exec_driver_sql(counted)).mappings().one()
    assert found["n_tup_hot_upd"] == found["n_tup_upd"] >= 9
    await store.close()
    await engine.close()
