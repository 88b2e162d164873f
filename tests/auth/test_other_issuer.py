"""Nodes that give access tokens of other issuers or audiences, as while they are restarted one after the other."""

from __future__ import annotations

import pytest

from keyturn.runtime import Keyturn
from tests.attacks.conftest import lighten, settings_of
from tests.attacks.support import Browser

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("changed", [{"issuer": "https://new.test"}, {"audience": "notes"}])
async def test_other_name(database_url: str, changed: dict[str, str]) -> None:
    """Each refuses the other's access tokens, as the guide says, and takes the cookie all the same: nobody is signed out."""
    nodes = [Keyturn(settings_of(database_url, **more)) for more in ({}, changed)]
    for node in nodes:
        lighten(node)
    async with nodes[0].lifespan(), nodes[1].lifespan():
        browser = Browser(nodes[0].asgi)
        assert (await browser.sign_up()).status == 201
        for node in (nodes[1], nodes[0]):
            browser.application = node.asgi
            assert (await browser.me()).code == "invalid_token"
            assert (await browser.refresh()).status == 200
            assert (await browser.me()).status == 200
