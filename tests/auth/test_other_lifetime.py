"""Nodes that give access tokens of other lifetimes: what one has ended, no token brings back."""

from __future__ import annotations

import pytest

from keyturn.core.errors import InvalidToken
from keyturn.core.policy import HOUR
from keyturn.runtime import Keyturn
from keyturn.settings import Settings
from keyturn.stores.pruning import SqlUpkeep
from keyturn.testing import FrozenClock
from tests.attacks.support import SECRET
from tests.auth.test_leaked_key import sign_up

pytestmark = pytest.mark.anyio


async def test_shorter_lifetime(database_url: str) -> None:
    """A session that a node with shorter tokens ends stays ended for the long one that another gave out before."""
    clock = FrozenClock()

    def node(access_lifetime: float) -> Keyturn:
        settings = Settings.load(
            env="development", database_url=database_url, secret=SECRET, access_lifetime=access_lifetime
        )
        return Keyturn(settings, database_clock=clock)

    before = node(HOUR)
    async with before.lifespan():
        token = await sign_up(before, "ada@example.com")
        user_id = before.authenticate(token).user_id
    after = node(300.0)
    async with after.lifespan():
        assert await after.auth.end_user_sessions(user_id) == 1
        clock.advance(HOUR - 1.0)
        await SqlUpkeep(after.engine, event_retention=1e9, clock=clock).prune()
        # Another starts: all it knows is in the database.
        again = node(300.0)
        async with again.lifespan():
            for each in (after, again):
                with pytest.raises(InvalidToken):
                    each.authenticate(token)
