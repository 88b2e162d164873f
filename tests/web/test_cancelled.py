"""Hosts that cancel a request in the middle, or end a node: what the database has committed, the application's sinks are told."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from keyturn.core.events import Event, EventType
from keyturn.core.model import Session, User
from keyturn.runtime import Keyturn
from keyturn.testing import FrozenClock
from tests.attacks.conftest import lighten, settings_of
from tests.attacks.support import Browser, query
from tests.databases import sqlite_database

pytestmark = pytest.mark.anyio


class Mail:
    """A sink that takes its time, as one that writes mails does."""

    def __init__(self) -> None:
        self.told: Counter[str] = Counter()

    async def emit(self, event: Event) -> None:
        """Take an event."""
        await asyncio.sleep(0.001)
        if event.kept:
            self.told[event.type.value] += 1


async def test_sinks_are_told_of_what_was_committed(database_url: str) -> None:
    """Wherever a logout everywhere is cancelled, the sink has heard in the end what the database's log has."""
    mail = Mail()
    node = Keyturn(settings_of(database_url), sinks=[mail])
    lighten(node)
    async with node.lifespan():
        for milliseconds in range(12):
            one = Browser(node.asgi)
            other = Browser(node.asgi, email=one.email)
            await one.sign_up()
            await other.log_in()
            leaving = asyncio.ensure_future(one.log_out(everywhere=True))
            await asyncio.sleep(milliseconds / 1000)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
        # What was cancelled goes on, and the node's end waits for it.
        await node.close()
        async with node.engine.autocommit() as connection:
            logged = await connection.exec_driver_sql("SELECT type FROM keyturn_events")
            assert mail.told == Counter(row[0] for row in logged)
    assert mail.told["session_ended"] >= 2


async def test_end_of_a_node_whose_sink_takes_its_time(tmp_path: Path) -> None:
    """A request that its host has cancelled is waited for, and its sink is told."""
    entered, told = asyncio.Event(), list[EventType]()

    class Slow:
        async def emit(self, event: Event) -> None:
            if event.type is EventType.SIGNED_UP:
                entered.set()
                await asyncio.sleep(0.1)
            told.append(event.type)

    node = Keyturn(settings_of(sqlite_database(tmp_path)), sinks=[Slow()])
    lighten(node)
    async with node.lifespan():
        asked = asyncio.ensure_future(Browser(node.asgi).sign_up())
        await entered.wait()
        asked.cancel()
        await node.close()
        assert told[-2:] == [EventType.SIGNED_UP, EventType.SIGNED_IN]


async def test_last_seen_times_at_the_end_of_a_node(tmp_path: Path) -> None:
    """Those that wait to be written are written with it."""
    clock = FrozenClock()
    node = Keyturn(settings_of(sqlite_database(tmp_path)), database_clock=clock)
    lighten(node)
    async with node.lifespan():
        ada = Browser(node.asgi)
        await ada.sign_up()
        clock.advance(120.0)
        assert (await ada.refresh()).status == 200
    assert await query(node, "SELECT last_seen_at FROM keyturn_sessions") == [(clock.now,)]
    await node.close()


async def test_sink_that_hangs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The end of the node waits for it no longer than for a database that hangs, and says what has been given up."""
    entered = asyncio.Event()

    class Hanging:
        async def emit(self, event: Event) -> None:
            if event.type is EventType.SIGNED_IN:
                entered.set()
                await asyncio.Event().wait()

    node = Keyturn(settings_of(sqlite_database(tmp_path)), sinks=[Hanging()])
    lighten(node)
    async with node.lifespan():
        asked = asyncio.ensure_future(Browser(node.asgi).sign_up())
        await entered.wait()
        await node.web.finish(patience=0.01)
        with pytest.raises(asyncio.CancelledError):
            await asked
    [told] = [message for message in caplog.messages if "do not end" in message]
    assert "a sink, a claims hook or the user directory" in told


async def test_cancellation_that_is_nobodys(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A sink or a hook that awaits what somebody else has cancelled fails like any other: nobody has cancelled the request."""

    async def give_up() -> None:
        cancelled = asyncio.get_running_loop().create_future()
        cancelled.cancel()
        await cancelled

    class Broken:
        async def emit(self, event: Event) -> None:
            await give_up()

    async def claims(user: User, session: Session) -> dict[str, object]:
        if user.name == "Eve":
            await give_up()
        return {}

    node = Keyturn(settings_of(sqlite_database(tmp_path)), sinks=[Broken()], claims=claims)
    lighten(node)
    async with node.lifespan():
        assert (await Browser(node.asgi).sign_up()).status == 201
        assert "event sink failed" in caplog.messages
        assert (await Browser(node.asgi).sign_up(name="Eve")).code == "unavailable"
        assert "claims hook failed" in caplog.messages
