"""One node on a machine whose date is wrong, or jumps: nobody notices, neither its own users nor those of other nodes."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import NamedTuple

import pytest

from keyturn.core.errors import StepUpRequired
from keyturn.runtime import Keyturn
from keyturn.stores.redis import ENTRIES, connect
from keyturn.stores.revocations import open_denylist
from keyturn.verify.guard import Requirement
from keyturn.web.server_credential import Signed, authorization
from tests.attacks.conftest import SSR_KEY, SSR_KEYS, lighten, settings_of
from tests.attacks.support import REFRESH, Browser, query
from tests.machine import Machine
from tests.stores.support import eventually

pytestmark = pytest.mark.anyio

HOUR = 3600.0
DAY = 24 * HOUR
WRONG = [-200 * DAY, -HOUR, HOUR, 200 * DAY]


class Nodes(NamedTuple):
    """Two running nodes over one database, and the machine of the second."""

    right: Keyturn
    wrong: Keyturn
    machine: Machine


@pytest.fixture
async def nodes(request: pytest.FixtureRequest, database_url: str) -> AsyncGenerator[Nodes]:
    """Start a node whose machine has the right date, rotate its key, then start one whose machine has not."""
    async with AsyncExitStack() as stack:
        right = node(database_url)
        await stack.enter_async_context(right.lifespan())
        # So that there are two keys: one that signs and is to retire, and one that does not sign yet.
        await right.signing.rotate()
        machine = Machine(request.param)
        with machine.here():
            wrong = node(database_url)
        await stack.enter_async_context(wrong.lifespan())
        yield Nodes(right, wrong, machine)


def node(database_url: str, **more: object) -> Keyturn:
    """Make a node."""
    made = Keyturn(settings_of(database_url, ssr_keys=SSR_KEYS, **more))
    lighten(made)
    return made


async def signed_up(at: Keyturn) -> Browser:
    """Return a browser that has signed up at a node, and wants to be remembered."""
    browser = Browser(at.asgi)
    assert (await browser.sign_up(remember=True)).status == 201
    return browser


def kids(of: Keyturn) -> list[str]:
    """List the keys a node knows."""
    return [key.kid for key in of.signing.ring.keys]


@pytest.mark.parametrize("nodes", WRONG, indirect=True)
async def test_signing_keys(nodes: Nodes) -> None:
    """It replaces no key, forgets none, signs with the one whose time it is, and publishes the same set."""
    right, wrong, _ = nodes
    before = kids(right)
    await wrong.signing.refresh()
    await right.signing.refresh()
    assert kids(wrong) == kids(right) == before
    assert len(before) == 2
    assert wrong.signing.signing_key(wrong.clock()).kid == before[0]
    assert wrong.services.jwks() == right.services.jwks()
    assert all((await wrong.ready()).values())


@pytest.mark.parametrize("nodes", WRONG, indirect=True)
async def test_rotation_that_is_asked_for_there(nodes: Nodes) -> None:
    """`keys rotate` on that machine gives a key that is published now and signs an hour later, as anywhere."""
    right, wrong, _ = nodes
    new = await wrong.signing.rotate(compromised=True)
    await right.signing.refresh()
    assert kids(right) == [new.kid]
    assert right.signing.signing_key(right.clock()).kid == new.kid
    later = await wrong.signing.rotate()
    assert later.activate_at - right.clock() == pytest.approx(HOUR, abs=60)


@pytest.mark.parametrize("nodes", WRONG, indirect=True)
async def test_access_tokens(nodes: Nodes) -> None:
    """Each node believes the tokens of the other, from the first moment on."""
    right, wrong, _ = nodes
    for issuer, other in ((right, wrong), (wrong, right)):
        browser = await signed_up(issuer)
        assert browser.token
        assert (await browser.me()).status == 200
        browser.application = other.asgi
        assert (await browser.me()).status == 200
        assert (await browser.refresh()).status == 200
        browser.application = issuer.asgi
        assert (await browser.me()).status == 200


@pytest.mark.parametrize("nodes", WRONG, indirect=True)
async def test_cookies_and_countdowns(nodes: Nodes) -> None:
    """A browser is told how long its session has, not that it is over, and its cookie lasts as long."""
    browser = Browser(nodes.wrong.asgi)
    answer = await browser.sign_up(remember=True)
    session = answer.json()["session"]
    assert session["absolute_expires_in"] == pytest.approx(30 * DAY, abs=60)
    assert session["inactivity_expires_in"] == pytest.approx(14 * DAY, abs=60)
    ages = [re.search(r"Max-Age=(\d+)", each) for each in answer.values("set-cookie") if "kt_device" not in each]
    assert [int(age[1]) for age in ages if age] == [pytest.approx(30 * DAY, abs=60)] * 2
    me = (await browser.me()).json()["session"]
    assert me["absolute_expires_in"] == pytest.approx(30 * DAY, abs=60)


@pytest.mark.parametrize("nodes", WRONG, indirect=True)
async def test_render_server(nodes: Nodes) -> None:
    """A render server whose clock is right gets its token there."""
    browser = await signed_up(nodes.wrong)
    signed = Signed("/auth/ssr", browser.cookie.encode(), b"")
    headers = [
        ("authorization", authorization("next", SSR_KEY, int(time.time()), signed)),
        ("cookie", f"{REFRESH}={browser.cookie}"),
    ]
    render_server = Browser(nodes.wrong.asgi)
    answer = await render_server.send("POST", "/auth/ssr", headers=headers, safe=())
    assert answer.status == 200, answer.body
    browser.application, browser.token = nodes.right.asgi, answer.json()["access_token"]
    assert (await browser.me()).status == 200


@pytest.mark.parametrize("nodes", [0.0], indirect=True)
@pytest.mark.parametrize("jump", [DAY, 200 * DAY, -DAY])
async def test_date_that_jumps_and_is_set_right(nodes: Nodes, jump: float) -> None:
    """Meanwhile and afterwards tokens count, and what was revoked before, or is revoked meanwhile, is refused."""
    right, wrong, machine = nodes
    before, meanwhile, alive = [await signed_up(right) for _ in range(3)]
    denylist = wrong.denylist
    assert denylist is not None

    async def revoke(browser: Browser) -> Browser:
        copy = browser.copy()
        copy.application = wrong.asgi
        assert (await browser.log_out()).status == 204
        await eventually(lambda: browser.session_id in denylist)
        return copy

    copies = [await revoke(before)]
    machine.wrong = jump
    copies.append(await revoke(meanwhile))
    alive.application = wrong.asgi
    for wrong_by in (jump, 0.0):
        machine.wrong = wrong_by
        assert all(each.session_id in denylist for each in copies)
        assert [(await each.me()).code for each in copies] == ["invalid_token"] * 2
        assert (await alive.me()).status == 200


async def test_database_that_is_set_back(database_url: str) -> None:
    """A session that was opened by its wrong date goes on: its access tokens do not say that the login is yet to come."""
    at = node(database_url)
    async with at.lifespan():
        browser = await signed_up(at)
        await query(at, f"UPDATE keyturn_sessions SET authenticated_at = authenticated_at + {HOUR}")
        assert (await browser.refresh()).status == 200
        assert (await browser.me()).status == 200


@pytest.mark.parametrize(("ahead", "fresh"), [(60.0, True), (HOUR, False)])
async def test_sign_in_by_a_database_that_is_set_back(database_url: str, ahead: float, fresh: bool) -> None:
    """Nobody knows how old it is, so it is old to a route that asks for a recent one, and not new until that time comes."""
    at = node(database_url)
    async with at.lifespan():
        browser = await signed_up(at)
        await query(at, f"UPDATE keyturn_sessions SET authenticated_at = authenticated_at + {ahead}")
        assert (await browser.refresh()).status == 200
        principal = at.authenticate(browser.token)
        if fresh:
            Requirement(max_age=300).ensure(principal, at.clock())
            return
        with pytest.raises(StepUpRequired):
            Requirement(max_age=300).ensure(principal, at.clock())
        assert (await browser.log_in()).status == 200
        Requirement(max_age=300).ensure(at.authenticate(browser.token), at.clock())


@pytest.mark.parametrize("wrong", [200 * DAY, -200 * DAY])
async def test_redis(sqlite_database_url: str, redis_url: str, wrong: float) -> None:
    """A node with a wrong date takes nothing out of Redis that services which come later have to know."""
    right = node(sqlite_database_url, redis_url=redis_url)
    with Machine(wrong).here():
        other = node(sqlite_database_url, redis_url=redis_url)
    service = open_denylist(redis_url)
    await service.start()
    async with connect(redis_url) as redis, right.lifespan(), other.lifespan():
        ended: list[str] = []
        for each in (right, other):
            browser = await signed_up(each)
            assert (await browser.log_out()).status == 204
            ended.append(browser.session_id)
            await eventually(lambda: ended[-1] in service)
            assert [await redis.zscore(ENTRIES, session_id) is not None for session_id in ended] == [True] * len(ended)
    await service.close()
