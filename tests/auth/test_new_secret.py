"""The master secret is replaced in the steps of `docs/guides/operating.md`, each of them a node that starts anew."""

from __future__ import annotations

import os

import pytest

from keyturn.runtime import Keyturn
from keyturn.tokens.secret_ring import SecretRing
from tests.attacks.conftest import lighten, settings_of
from tests.attacks.support import Browser, query

pytestmark = pytest.mark.anyio


async def test_device_that_signs_in_while_both_lines_are_there(database_url: str) -> None:
    """It is known when the old line has gone; one that did not come meanwhile is new."""
    old, new = (SecretRing.generate(os.urandom(32), key_id) for key_id in (1, 2))
    ada, grace = Browser(None), Browser(None)
    for secret in (old, f"{old}\n{new}", f"{new}\n{old}", new):
        node = Keyturn(settings_of(database_url, secret=secret))
        lighten(node)
        async with node.lifespan():
            for browser in (ada, grace):
                browser.application = node.asgi
                if secret == old:
                    assert (await browser.sign_up()).status == 201
                elif secret == new or browser is ada:
                    assert (await browser.log_in()).status == 200
            found = await query(node, "SELECT user_id FROM keyturn_events WHERE type = 'new_device'")
            assert found == ([(grace.user_id,)] if secret == new else [])
