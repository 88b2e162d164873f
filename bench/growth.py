"""Whether a refresh costs the same after a million sessions, a session the same after its hundredth refresh, and a login
the same after very many that have ended.

`python -m bench.growth [--quick]` starts its own PostgreSQL, fills databases of two sizes, refreshes sessions at random
through the real store and the real rules (every refresh is a `confirm`), and prints ratios. The two sizes take turns,
so that a busy machine slows both alike. Owns: these measurements.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from hashlib import md5, sha256
from itertools import chain, product
from os import urandom
from pathlib import Path
from random import Random
from time import perf_counter, time
from typing import NamedTuple

from bench.figures import Figure, over_rounds, table
from keyturn.core.login import Login, admit
from keyturn.core.model import Contact, Session, SessionId, User
from keyturn.core.policy import Policy
from keyturn.core.rotation import Decision, Outcome, decide
from keyturn.ports import Admit, Judge
from keyturn.stores.engine import Engine, open_engine
from keyturn.stores.migrations import migrate
from keyturn.stores.sql import SqlSessions
from keyturn.testing import FrozenClock, refresh_tokens
from tests.services import PostgresServer, remove_leftovers, sqlite_url

GROUP = 64
LOGINS = 20
"""Logins of a round, and lists."""
SETTLED = 61.0


class Scale(NamedTuple):
    """How much is measured."""

    sizes: tuple[int, int]
    """Sessions."""
    rounds: int
    groups: int
    """Groups of a round."""
    aged: int
    """Sessions that grow old."""
    age: int
    """How often each of them is refreshed."""
    live: int
    """Sessions of all users, three each, beside one user's that have ended."""
    ended: int
    """Sessions of one user that have ended, for each of the live ones."""


FULL = Scale((10_000, 1_000_000), rounds=21, groups=30, aged=1_000, age=100, live=5_000, ended=40)
QUICK = Scale((500, 2_000), rounds=1, groups=3, aged=100, age=10, live=600, ended=1)

_POLICY = Policy()
_TOKENS = refresh_tokens()
_BROWSER = Contact(
    "192.0.2.7",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0 Safari/537.36",
    "Chrome on Windows",
    0.0,
)
"""Who all sessions belong to, and who comes back: for any other, an event would be written with the refresh."""
_FILL = f"""
INSERT INTO keyturn_sessions
SELECT decode(md5('s' || n), 'hex'), md5('u' || n / 3), {{generation}}, sha256(convert_to('t' || n, 'UTF8')),
       CASE WHEN {{generation}} > 0 THEN sha256(convert_to('p' || n, 'UTF8')) END,
       t, t, t, t, t + 1e6, t + 2e6, NULL, NULL, decode(md5('d' || n), 'hex'), NULL, '{_BROWSER.device}', '{_BROWSER.ip}',
       '{_BROWSER.user_agent}', 'pwd', t, true
FROM generate_series(1, {{count}}) n, (VALUES ({{now}}::float8)) AS clock(t);
INSERT INTO keyturn_users (id, email, email_key, name, created_at)
SELECT md5('u' || n), 'u' || n || '@example.com', 'u' || n || '@example.com', 'Ada Lovelace', {{now}}
FROM generate_series(0, {{count}} / 3) n
"""

_END_MANY = """
INSERT INTO keyturn_sessions
SELECT {random}, '{user}', s.generation, s.token_hash, s.previous_hash, s.confirmed_at, s.created_at, s.last_seen_at,
       s.last_active_at, s.inactivity_expires_at, s.absolute_expires_at, s.last_seen_at, 'logout', s.device_id, NULL,
       s.device, s.ip, s.user_agent, s.amr, s.authenticated_at, s.remember
FROM keyturn_sessions s, (SELECT 1 FROM keyturn_sessions LIMIT {times}) AS again
"""

# Leaves in each page what the last refresh there has left, which the next one clears away.
_LEAVE_A_VERSION = "UPDATE keyturn_sessions SET generation = generation WHERE (ctid::text::point)[1] = 1"


class Postgres(PostgresServer):
    """A PostgreSQL that holds both databases in memory, as one in production does, and says what statements take."""

    def _command(self) -> list[str]:
        settings = {
            "shared_buffers": "2GB",
            "shared_preload_libraries": "pg_stat_statements",
            # No checkpoint while we measure: see `fill_postgres`.
            "checkpoint_timeout": "1h",
            "max_wal_size": "16GB",
            "max_parallel_workers_per_gather": "0",
        }
        return [
            *super()._command(),
            *chain.from_iterable(("-c", f"{name}={value}") for name, value in settings.items()),
        ]


class Subject:
    """A filled database and its store."""

    def __init__(self, engine: Engine, count: int, now: float) -> None:
        self.engine = engine
        self.count = count
        self.clock = FrozenClock(now)
        self.store = SqlSessions(engine, denylist_lifetime=610.0, heal_time=900.0, clock=self.clock)

    async def refresh(self, numbers: Sequence[int]) -> None:
        """Refresh the sessions with these numbers, at once."""
        calls = (self.store.present(session_id(number), ripe_judge()) for number in numbers)
        for decision in await asyncio.gather(*calls):
            if decision.outcome is not Outcome.CONFIRM:
                raise RuntimeError(f"not a confirm: {decision.outcome}")

    async def refresh_at_random(self, random: Random, count: int) -> float:
        """Do one round of so many groups; return the seconds of a refresh, all included."""
        groups = [random.sample(range(1, self.count + 1), GROUP) for _ in range(count)]
        started = perf_counter()
        for numbers in groups:
            self.clock.advance(SETTLED)
            await self.refresh(numbers)
        return (perf_counter() - started) / count / GROUP

    async def close(self) -> None:
        """Close the store and its connections."""
        await self.store.close()
        await self.engine.close()


def session_id(number: int) -> SessionId:
    """Name the session with a number."""
    return SessionId(md5(f"s{number}".encode(), usedforsecurity=False).digest())


def ripe_judge() -> Judge:
    """Present a child of whatever token is current, as settled as it must be to confirm."""
    mint = _TOKENS.minter(urandom(16))

    def judge(session: Session | None, now: float, healing: bool) -> Decision:
        if session is None:
            raise RuntimeError("the database was not filled")
        child = mint(session.id, session.generation + 1, now - SETTLED, session.fingerprint)
        presented = _TOKENS.read(child.text.encode())
        if presented is None:
            raise RuntimeError("a token of our own is not authentic")
        return decide(session, presented, now, _POLICY, contact=_BROWSER, mint=mint, healing=healing)

    return judge


async def fill_postgres(server: PostgresServer, count: int, generation: int = 1) -> Subject:
    """Make a database with so many sessions, in memory, as it is some time after a checkpoint.

    Args: generation: 0 for sessions that are new; one that was refreshed has a previous hash besides.

    The first change of a page after a checkpoint writes the whole page to the log. A small table is past that at once
    and a large one after a while; freezing changes every page once, so that both are.
    """
    name, now = f"growth_{count}", time()
    server.create_database(name)
    # One connection: only what a backend has seen itself costs it no page fault, and only it can say what it has done.
    engine = open_engine(server.url(name), pool_size=1)
    await migrate(engine)
    server.execute(_FILL.format(count=count, now=now, generation=generation), name)
    server.execute("CREATE EXTENSION pg_stat_statements", name)
    server.execute("CHECKPOINT", name)
    server.execute("VACUUM (FREEZE, ANALYZE) keyturn_sessions, keyturn_users", name)
    return Subject(engine, count, now)


async def fill_sqlite(directory: Path, count: int, generation: int = 1) -> Subject:
    """Make a file with so many sessions. Args: generation: as for PostgreSQL; pages are split as they were by growing rows."""
    place, now = directory / str(count), time()
    place.mkdir()
    engine = open_engine(sqlite_url(place))
    await migrate(engine)
    connection = sqlite3.connect(place / "keyturn.db")
    with connection:
        connection.executemany(f"INSERT INTO keyturn_sessions VALUES ({', '.join('?' * 21)})", sqlite_rows(count, now))
        if generation:
            connection.execute("UPDATE keyturn_sessions SET generation = ?, previous_hash = token_hash", (generation,))
        connection.executemany(f"INSERT INTO keyturn_users VALUES ({', '.join('?' * 8)})", sqlite_users(count, now))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return Subject(engine, count, now)


def sqlite_rows(count: int, now: float) -> Iterator[tuple[object, ...]]:
    """Write the same sessions as `_FILL`."""
    for n in range(1, count + 1):
        user = md5(f"u{n // 3}".encode(), usedforsecurity=False).hexdigest()
        device = md5(f"d{n}".encode(), usedforsecurity=False).digest()
        token_hash = sha256(f"t{n}".encode()).digest()
        times = (now, now, now, now, now + 1e6, now + 2e6)
        who = (device, None, _BROWSER.device, _BROWSER.ip, _BROWSER.user_agent, "pwd", now, True)
        yield (session_id(n), user, 0, token_hash, None, *times, None, None, *who)


def sqlite_users(count: int, now: float) -> Iterator[tuple[object, ...]]:
    """Write the same users as `_FILL`, each of whom has three sessions."""
    for n in range(count // 3 + 1):
        email = f"u{n}@example.com"
        yield (
            md5(f"u{n}".encode(), usedforsecurity=False).hexdigest(),
            email,
            email,
            "Ada Lovelace",
            None,
            None,
            None,
            now,
        )


async def visit_all_pages(subject: Subject) -> None:
    """Let the one backend that the store uses see every page, and leave a dead version there, as one has that has been at
    work for a while.

    A process pays for the first sight of a page of shared memory (a page fault), however long it has been in there; and
    whoever comes to a page clears away the version that the refresh before has left there.
    """
    async with subject.engine.autocommit() as connection:
        await connection.exec_driver_sql("SELECT sum(length(user_agent)) FROM keyturn_sessions")
        await connection.exec_driver_sql("SET enable_seqscan = off")
        await connection.exec_driver_sql("SELECT sum(length(email)) FROM keyturn_users")
        await connection.exec_driver_sql("SELECT count(*) FROM keyturn_sessions WHERE id >= ''")
        await connection.exec_driver_sql("SELECT count(*) FROM keyturn_users WHERE id >= ''")
        await connection.exec_driver_sql("RESET enable_seqscan")
        await connection.exec_driver_sql(_LEAVE_A_VERSION)


async def server_times(subject: Subject) -> tuple[float, float]:
    """Return the milliseconds PostgreSQL was at work for this database, commits included, and in its executor alone."""
    async with subject.engine.autocommit() as connection:
        await connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
        found = await connection.exec_driver_sql(
            "SELECT active_time, (SELECT sum(total_exec_time) FROM pg_stat_statements WHERE dbid = datid AND calls > 1 "
            "AND query LIKE '%keyturn_sessions%') AS executor FROM pg_stat_database WHERE datname = current_database()"
        )
        row = found.mappings().one()
        return float(row["active_time"]), float(row["executor"] or 0.0)


async def postgres_growth(server: PostgresServer, scale: Scale) -> list[Figure]:
    """Compare the time inside PostgreSQL, and all included, between the sizes."""
    random = Random(1)
    subjects = [await fill_postgres(server, count) for count in scale.sizes]
    active: list[list[float]] = [[], []]
    executor: list[list[float]] = [[], []]
    whole: list[list[float]] = [[], []]
    for round_ in range(scale.rounds + 2):
        for index, subject in enumerate(subjects):
            if round_ == 0:
                await visit_all_pages(subject)
            before = await server_times(subject)
            seconds = await subject.refresh_at_random(random, scale.groups)
            after = await server_times(subject)
            if round_ >= 2:  # the first two warm up
                whole[index].append(seconds * 1e6)
                active[index].append((after[0] - before[0]) / scale.groups / GROUP * 1e3)
                executor[index].append((after[1] - before[1]) / scale.groups / GROUP * 1e3)
    for subject in subjects:
        await subject.close()
    return [
        *compared("PostgreSQL, database time", scale.sizes, active, most=1.2),
        # Without the commit, which waits for the disk, what is left grows with the misses of the processor's caches.
        *compared("PostgreSQL, its executor alone", scale.sizes, executor),
        *compared("PostgreSQL, all", scale.sizes, whole),
    ]


async def sqlite_growth(directory: Path, scale: Scale) -> list[Figure]:
    """Compare the time of a refresh, all included (SQLite works in this process), between the sizes."""
    random = Random(1)
    subjects = [await fill_sqlite(directory, count) for count in scale.sizes]
    whole: list[list[float]] = [[], []]
    for round_ in range(scale.rounds + 2):
        for index, subject in enumerate(subjects):
            seconds = await subject.refresh_at_random(random, scale.groups)
            if round_ >= 2:
                whole[index].append(seconds * 1e6)
    for subject in subjects:
        await subject.close()
    return compared("SQLite, all", scale.sizes, whole, most=1.2)


def compared(
    name: str,
    sizes: Sequence[int],
    found: Sequence[Sequence[float]],
    most: float | None = None,
    kind: str = "sessions",
) -> list[Figure]:
    """Make figures of both sizes, and of their ratio round by round."""
    ratios = [large / small for small, large in zip(*found, strict=True)]
    return [
        *(over_rounds(f"{name}, {size:,} {kind}", times, "us") for size, times in zip(sizes, found, strict=True)),
        over_rounds(f"{name}, ratio", ratios, most=most),
    ]


async def postgres_ageing(server: PostgresServer, scale: Scale) -> list[Figure]:
    """Refresh every session many times; compare its bytes early and late, and count the updates in place."""
    subject, age = await fill_postgres(server, scale.aged, generation=0), scale.age
    name = f"growth_{scale.aged}"
    sizes: list[int] = []
    for rounds in (0, age // 10, age - age // 10):
        await refresh_all(subject, rounds)
        sizes.append(int(server.execute("SELECT pg_total_relation_size('keyturn_sessions')", name)))
    await subject.close()  # a backend that ends reports its statistics
    hot = "SELECT n_tup_hot_upd::float8 / n_tup_upd FROM pg_stat_user_tables WHERE relname = 'keyturn_sessions'"
    in_place = Figure("PostgreSQL, heap-only updates", float(server.execute(hot, name)), least=0.95)
    return [*aged("PostgreSQL", scale, sizes), in_place]


async def sqlite_ageing(directory: Path, scale: Scale) -> list[Figure]:
    """Refresh every session many times; compare its bytes early and late."""
    subject, age = await fill_sqlite(directory, scale.aged, generation=0), scale.age
    sizes: list[int] = []
    for rounds in (0, age // 10, age - age // 10):
        await refresh_all(subject, rounds)
        async with subject.engine.autocommit() as connection:
            pages = (await connection.exec_driver_sql("PRAGMA page_count")).scalar_one()
            sizes.append(pages * (await connection.exec_driver_sql("PRAGMA page_size")).scalar_one())
    await subject.close()
    return aged("SQLite", scale, sizes)


def aged(name: str, scale: Scale, sizes: Sequence[int]) -> list[Figure]:
    """Make figures of the sizes when new, after a tenth of the refreshes and after all of them.

    A new row has no previous hash, and pages that were filled in order make room once; from then on nothing may grow.
    """
    age, (new, early, late) = scale.age, (size / scale.aged for size in sizes)
    return [
        Figure(f"{name}, bytes of a session, new", new, "B"),
        Figure(f"{name}, bytes of a session, {age // 10} refreshes later", early, "B"),
        Figure(f"{name}, bytes of a session, {age} refreshes later", late, "B"),
        Figure(f"{name}, bytes, {age} against {age // 10} refreshes", late / early, most=1.05),
    ]


async def ended_growth(name: str, subject: Subject, scale: Scale) -> list[Figure]:
    """Compare a login and a list of a user who has very many ended sessions with those of one who has none."""
    calm, busy = (User(md5(f"u{n}".encode(), usedforsecurity=False).hexdigest(), "", None) for n in (1, 2))
    random = "decode(md5(random()::text), 'hex')" if subject.engine.postgres else "randomblob(16)"
    async with subject.engine.transaction() as connection:
        await connection.exec_driver_sql(_END_MANY.format(random=random, user=busy.id, times=scale.ended))
    acts: dict[str, Callable[[User], Awaitable[object]]] = {
        "login": lambda user: subject.store.open_with_user(user, cramped(user)),
        "list": lambda user: subject.store.list_live(user.id),
    }
    found: dict[str, list[list[float]]] = {what: [[], []] for what in acts}
    for round_ in range(scale.rounds + 2):
        for (what, act), (index, user) in product(acts.items(), enumerate((calm, busy))):
            started = perf_counter()
            for _ in range(LOGINS):
                await act(user)
            if round_ >= 2:
                found[what][index].append((perf_counter() - started) / LOGINS * 1e6)
    await subject.close()
    sizes, kind = (0, subject.count * scale.ended), "ended sessions"
    return list(chain.from_iterable(compared(f"{name}, {what}", sizes, found[what], 1.2, kind) for what in acts))


def cramped(user: User) -> Admit:
    """Admit a login of a user who may have three sessions."""
    login = Login(SessionId(urandom(16)), user.id, urandom(16), None, _BROWSER, ("pwd",), remember=True)
    policy, mint = Policy(max_sessions=3), _TOKENS.minter(urandom(16))
    return lambda live, now: admit(live, login, now, policy, mint)


async def refresh_all(subject: Subject, rounds: int) -> None:
    """Refresh every session so many times, in an order of chance, as browsers do."""
    random = Random(2)
    for _ in range(rounds):
        subject.clock.advance(SETTLED)
        numbers = random.sample(range(1, subject.count + 1), subject.count)
        for first in range(0, subject.count, GROUP):
            await subject.refresh(numbers[first : first + GROUP])


async def measure(*, quick: bool = False) -> list[Figure]:
    """Measure everything, on services of this run."""
    remove_leftovers()
    scale = QUICK if quick else FULL
    found: list[Figure] = []
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = Postgres()
        stack.callback(server.close)
        await asyncio.to_thread(server.start)
        found += await postgres_ageing(server, scale)
        found += await postgres_growth(server, scale)
        found += await ended_growth("PostgreSQL", await fill_postgres(server, scale.live), scale)
        found += await sqlite_ageing(directory, scale)
        found += await sqlite_growth(directory, scale)
        found += await ended_growth("SQLite", await fill_sqlite(directory, scale.live), scale)
    return found


if __name__ == "__main__":
    print(table(asyncio.run(measure(quick="--quick" in sys.argv[1:]))))
