"""Fixtures: a site whose users are there, an API of its own, and a program of each kind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from keyturn.client import KeyturnAuth
from keyturn.core.events import EventType
from tests.browser.client.site import Site
from tests.client_python.api import Api
from tests.client_python.people import ACCOUNT, KINDS, Kind, Program, open_program
from tests.databases import sqlite_database


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with one user. Its clock is moved ahead where time has to pass; nobody's token may ever be reused."""
    with Site(sqlite_database(tmp_path_factory.mktemp("site")), {}) as made:
        KeyturnAuth(made.url).sign_up(**ACCOUNT)
        yield made
        assert made.happened(EventType.REUSE_DETECTED) == []


@pytest.fixture
def api() -> Iterator[Api]:
    """An API."""
    with Api() as made:
        yield made


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each kind of client."""
    return KINDS[request.param]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Ends what a test has opened."""
    async with AsyncExitStack() as made:
        yield made


@pytest.fixture
def make_program(site: Site, kind: Kind, stack: AsyncExitStack) -> Callable[..., Any]:
    """Make a program of the kind: `await make_program(store=...)`."""

    async def make(**options: Any) -> Program:
        return await open_program(stack, kind, site.url, **options)

    return make


@pytest.fixture
async def program(make_program: Callable[..., Any]) -> Program:
    """A program that has signed in."""
    made: Program = await make_program()
    await made.log_in()
    return made
