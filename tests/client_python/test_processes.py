"""Several processes that share one token file, at the edge of the access token's life."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from keyturn.client import FileTokenStore, KeyturnAuth
from keyturn.core.events import EventType
from tests.browser.client.site import Site
from tests.client_python.people import ACCOUNT, KINDS, expire
from tests.databases import sqlite_database

ROOT = Path(__file__).parents[2]
LIFE = 1.0
"""Seconds that an access token lives."""


class Process:
    """One worker."""

    def __init__(self, kind: str, url: str, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.client_python.worker", kind, url, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.kill()
        self._process.communicate()

    def tell(self, command: str) -> None:
        """Send a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        """Wait for the answer."""
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def ask(self, command: str) -> Any:
        """Send a command and wait for the answer."""
        self.tell(command)
        return self.hear()

    def kill9(self) -> None:
        """Kill it, and wait until it is gone."""
        self._process.kill()
        self._process.wait()


class Sharing:
    """A site and processes that share one file."""

    def __init__(self, stack: ExitStack, site: Site, path: Path) -> None:
        self.site = site
        self.path = path
        self._stack = stack
        self.auth = KeyturnAuth(site.url, store=FileTokenStore(path))
        self.auth.sign_up(**ACCOUNT)

    def process(self, kind: str) -> Process:
        """Start a process."""
        return self._stack.enter_context(Process(kind, self.site.url, self.path))

    def expire(self) -> None:
        """Make the access token in the file look expired."""
        expire(FileTokenStore(self.path))


@pytest.fixture
def make_sharing(tmp_path: Path) -> Iterator[Callable[..., Sharing]]:
    """Make a site with settings, and somebody who has signed in; at the end nobody was signed out."""
    with ExitStack() as stack:
        sites: list[Site] = []

        def make(**settings: Any) -> Sharing:
            sites.append(stack.enter_context(Site(sqlite_database(tmp_path), {}, **settings)))
            return Sharing(stack, sites[-1], tmp_path / "sign-in" / "tokens.json")

        yield make
        for site in sites:
            assert site.happened(EventType.REUSE_DETECTED) == []
            assert site.happened(EventType.SESSION_ENDED) == []
            assert site.happened(EventType.REFRESH_REFUSED) == []


def test_processes_that_hammer_make_one_refresh_in_a_life(make_sharing: Callable[..., Sharing]) -> None:
    """Four processes, four callers in each, tokens of a second, through rotations, confirms and early refreshes."""
    sharing = make_sharing(access_lifetime=LIFE, settle_time=2.5, tail_time=1.0)
    site = sharing.site
    processes = [sharing.process(kind) for kind in KINDS]
    for process in processes:
        process.tell("hammer 7")
    for process in processes:
        answers = process.hear()
        assert set(answers) == {"200"}
    refreshes = site.proxy.refreshes
    assert len(refreshes) >= 6
    assert {one.status for one in refreshes} == {200}
    # Both kinds of answer: with a cookie, and without one.
    assert {one.set_cookie for one in refreshes} == {True, False}
    elapsed = refreshes[-1].at - refreshes[0].at
    # A twentieth of the life is kept in reserve, and only who waited in vain for 5 s refreshes beside another.
    assert len(refreshes) <= 1 + elapsed / (0.95 * LIFE) + elapsed / 5
    # Tokens were confirmed on the way: no cookie was used for all of it.
    assert len({one.headers["cookie"] for one in refreshes}) > 2


def test_processes_that_start_at_once_make_one_refresh(make_sharing: Callable[..., Sharing]) -> None:
    """Four processes find an expired token in the file: one asks, the others take what it got."""
    sharing = make_sharing()
    sharing.expire()
    processes = [sharing.process(kind) for kind in KINDS]
    for process in processes:
        process.tell("get")
    assert [process.hear() for process in processes] == ["200"] * 4
    assert len(sharing.site.proxy.refreshes) == 1


def test_process_that_is_killed_in_a_refresh_leaves_the_others_signed_in(
    make_sharing: Callable[..., Sharing],
) -> None:
    """SIGKILL while the answer is on its way: the lock is free at once, and the cookie on the disk is still good."""
    sharing = make_sharing()
    proxy = sharing.site.proxy
    victim, *others = (sharing.process(kind) for kind in ("httpx", "httpx2", "httpx2-async"))
    # They have started when they have answered.
    assert [process.ask("get") for process in (victim, *others)] == ["200"] * 3
    sharing.site.clock.ahead += 700
    held = proxy.hold("/auth/refresh", "after")
    victim.tell("get")
    held.wait()
    for process in others:
        process.tell("get")
    victim.kill9()
    assert [process.hear() for process in others] == ["200"] * 2
    held.release()
    lost, found = proxy.refreshes
    assert lost.headers["cookie"] == found.headers["cookie"]
    # And on: what the others hold is confirmed, and the lost cookie is nobody's.
    sharing.site.clock.ahead += 700
    assert [process.ask("get") for process in others] == ["200"] * 2
    assert len(proxy.refreshes) == 3


def test_process_that_hangs_in_a_refresh_holds_up_nobody_for_ever(make_sharing: Callable[..., Sharing]) -> None:
    """The lock is not given back: another process refreshes beside it, and both go on."""
    sharing = make_sharing()
    proxy = sharing.site.proxy
    slow, quick = sharing.process("httpx"), sharing.process("httpx2-async")
    assert [process.ask("get") for process in (slow, quick)] == ["200"] * 2
    sharing.site.clock.ahead += 700
    held = proxy.hold("/auth/refresh", "after")
    slow.tell("get")
    held.wait()
    assert quick.ask("get") == "200"
    kept = FileTokenStore(sharing.path).load()
    held.release()
    assert slow.hear() == "200"
    # The late answer was dropped for what the other had written meanwhile.
    assert FileTokenStore(sharing.path).load() == kept
    for _ in range(2):
        sharing.site.clock.ahead += 700
        assert [process.ask("get") for process in (slow, quick)] == ["200"] * 2


def test_login_and_logout_of_one_process_reach_the_others(make_sharing: Callable[..., Sharing]) -> None:
    """Who finds its token dead looks into the file: signed out there, and signed in again there."""
    sharing = make_sharing()
    process = sharing.process("httpx2")
    assert process.ask("get") == "200"
    # No `session_ended` by a fault: this one is asked for, and its event is taken out.
    sharing.auth.log_out()
    sharing.site.events.clear()
    assert process.ask("get") == "no_session: logout"
    sharing.auth.log_in(**ACCOUNT)
    assert process.ask("get") == "200"


def test_child_of_a_fork_refreshes_by_itself(make_sharing: Callable[..., Sharing]) -> None:
    """It does not wait for the refresh of the parent's thread, which it has not got, and finds the same file."""
    sharing = make_sharing()
    process = sharing.process("httpx")
    assert process.ask("get") == "200"
    sharing.site.clock.ahead += 700
    held = sharing.site.proxy.hold("/auth/refresh", "after")
    assert process.ask("fork") == "forked"
    held.release()
    assert process.hear() == "200"
    assert process.ask("get") == "200"
    assert len(sharing.site.proxy.refreshes) == 1


_FORK = """
import os, signal
from keyturn.client import KeyturnAuth

auth = KeyturnAuth("http://localhost:1")
with auth._guard:
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        auth.forget()
        os._exit(0)
print(os.waitpid(child, 0)[1])
"""


def test_child_of_a_fork_waits_for_no_lock_of_its_parent() -> None:
    """What another thread holds at that moment, nobody lets go in the child: its first login or logout would hang for ever."""
    done = subprocess.run([sys.executable, "-c", _FORK], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_person_who_acts_where_another_process_refreshes_stays_signed_in(make_sharing: Callable[..., Sharing]) -> None:
    """A program that runs all day is always the first to refresh; of who acts in another one the server hears all the same."""
    sharing = make_sharing()
    site, person = sharing.site, sharing.auth
    daemon = KeyturnAuth(site.url, store=FileTokenStore(sharing.path))
    clock: Any = site.clock
    person._clock = daemon._clock = clock
    with (
        httpx2.Client(base_url=site.url, auth=daemon) as first,
        httpx2.Client(base_url=site.url, auth=person) as second,
    ):
        for _ in range(45):
            clock.ahead += 120
            assert first.get("/api/who").status_code == 200
            person.acted()
            assert second.get("/api/who").status_code == 200
    refreshes = site.proxy.refreshes
    told = [one for one in refreshes if one.json]
    # Once in the life of a token by each: 90 minutes of 10.
    assert 7 <= len(told) <= 9
    assert len(refreshes) <= 18
