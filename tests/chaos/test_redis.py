"""A master and a replica of Redis behind the HAProxy of the operator's guide, while people sign in and out."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

from keyturn.runtime import Keyturn
from keyturn.stores.redis import ANSWER_TIME, connect, ping
from keyturn.stores.revocations import MemoryDenylist, open_denylist
from tests.attacks.conftest import lighten, settings_of
from tests.attacks.support import Browser
from tests.chaos.conftest import Scale, skip_without
from tests.chaos.proxies import RedisProxy
from tests.databases import sqlite_database
from tests.services import RedisServer
from tests.stores.support import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.services]

PEOPLE = 6
PATIENCE = 30.0


class Site:
    """Two nodes over one database, a service with Redis alone, and people who sign in and out at both."""

    def __init__(self, master: RedisServer, replica: RedisServer, url: str, nodes: list[Keyturn]) -> None:
        self.master, self.replica, self.url, self.nodes = master, replica, url, nodes
        self.service: MemoryDenylist = open_denylist(url)
        self.answers: Counter[tuple[str, int]] = Counter()
        self.slowest = 0.0
        self.over = False

    async def live(self, number: int) -> None:
        """Sign up, then sign in, refresh and sign out again and again, until it is over."""
        browser = Browser(self.nodes[number % 2].asgi, email=f"{number}@example.com")
        # HAProxy takes the replica for a master as well until it has looked at it twice.
        while (await browser.sign_up()).status != 201:  # noqa: ASYNC110 - HAProxy does it
            await anyio.sleep(0.2)
        while not self.over:
            for name, does in (("log in", browser.log_in), ("refresh", browser.refresh), ("log out", browser.log_out)):
                began = time.monotonic()
                status = (await does()).status
                self.slowest = max(self.slowest, time.monotonic() - began)
                self.answers[name, status] += 1
                await anyio.sleep(0.02)
                if status == 503:
                    break

    def known(self) -> set[str]:
        """Return what the nodes have revoked."""
        lists = [node.denylist for node in self.nodes]
        return {entry.id for denylist in lists if denylist is not None for entry in denylist.known()}


@pytest.fixture
async def site(chaos: bool, tmp_path: Path) -> AsyncIterator[Site]:
    """Start everything. Only `make chaos` insists on HAProxy."""
    skip_without("haproxy", chaos=chaos)
    async with AsyncExitStack() as stack:
        servers = [RedisServer(), RedisServer()]
        for server in servers:
            stack.callback(server.close)
            server.start()
        assert servers[1].command(f"REPLICAOF 127.0.0.1 {servers[0].port}") == "+OK"
        proxy = RedisProxy([server.port for server in servers])
        stack.callback(proxy.close)
        proxy.start()
        url = f"redis://127.0.0.1:{proxy.port}"
        async with connect(url) as redis:
            with anyio.fail_after(PATIENCE):
                while True:
                    try:
                        await ping(redis)
                        break
                    except Exception:  # noqa: BLE001 - HAProxy has yet to look
                        await anyio.sleep(0.2)
        nodes = [Keyturn(settings_of(sqlite_database(tmp_path), redis_url=url, denylist=True)) for _ in range(2)]
        for node in nodes:
            lighten(node)
            stack.push_async_callback(node.close)
            await node.start()
        made = Site(servers[0], servers[1], url, nodes)
        stack.push_async_callback(made.service.close)
        await made.service.start()
        yield made


@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_failover_of_redis(site: Site, scale: Scale, fault: str) -> None:
    """Sign-in waits or is 503 until it is over, and nobody waits for long; all else goes on, and no revocation is lost."""
    people = [asyncio.ensure_future(site.live(number)) for number in range(PEOPLE)]
    await anyio.sleep(scale(1, 5))
    assert site.master._process is not None
    process = site.master._process.pid
    if fault == "killed":
        site.master.kill9()
    else:
        os.kill(process, signal.SIGSTOP)
    await anyio.sleep(1.0)
    assert site.replica.command("REPLICAOF NO ONE") == "+OK"
    signed_in = site.answers["log in", 200]
    try:
        await eventually(lambda: site.answers["log in", 200] > signed_in + 10, PATIENCE)
        await anyio.sleep(scale(1, 5))
    finally:
        site.over = True
        if fault == "frozen":
            os.kill(process, signal.SIGCONT)
            # As Sentinel does: two masters would each have a part of what is announced.
            assert site.master.command(f"REPLICAOF 127.0.0.1 {site.replica.port}") == "+OK"
    await asyncio.gather(*people)
    # An attempt that has been counted is given back, and when that fails, once more.
    assert site.slowest < 3 * ANSWER_TIME + 5.0
    refused = {answer for answer in site.answers if answer[1] >= 400}
    assert refused <= {("log in", 503)}
    if fault == "frozen":
        assert refused or site.slowest > 1.0
    else:
        # HAProxy tries the dead master again for a while: with luck nobody has asked before the next one is there.
        with pytest.raises(OSError, match="refused"):
            site.master.command("PING")
    assert len(site.known()) > signed_in
    await eventually(lambda: site.known() <= {entry.id for entry in site.service.known()}, PATIENCE)
