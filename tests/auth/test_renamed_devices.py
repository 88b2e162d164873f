"""A device that the parser of user agents calls otherwise since an update: nobody has become somebody else by that."""

from __future__ import annotations

import pytest

from keyturn.runtime import Keyturn
from keyturn.settings import Settings
from keyturn.testing import FrozenClock
from tests.attacks.support import ORIGIN, SECRET, Browser

pytestmark = pytest.mark.anyio


async def test_name_of_older_tables(database_url: str) -> None:
    """A new version of the same browser goes on, without an event, and has the new name; another browser does not."""
    clock = FrozenClock()
    settings = Settings.load(
        env="development", database_url=database_url, base_url=ORIGIN, secret=SECRET, user_agent_drift="require_login"
    )
    node = Keyturn(settings, database_clock=clock)
    async with node.lifespan():
        browser = Browser(node.asgi)
        await browser.sign_up()
        await browser.refresh()
        async with node.engine.transaction() as connection:
            await connection.exec_driver_sql("UPDATE keyturn_sessions SET device = 'Mozilla on GNU'")
        clock.advance(node.policy.settle_time + 1)
        browser.user_agent = browser.user_agent.replace("140", "141")
        assert (await browser.refresh()).status == 200
        [session] = await browser.sessions()
        assert session["device"] == "Firefox on Linux"
        async with node.engine.autocommit() as connection:
            found = await connection.exec_driver_sql("SELECT count(*) FROM keyturn_events WHERE type = 'device_drift'")
            assert found.scalar_one() == 0
        browser.user_agent = "curl/8.0"
        assert (await browser.refresh()).code == "session_ended:revoked"
