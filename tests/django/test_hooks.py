"""Claims and sinks that ask the project's own tables by Django's async queries, wherever a request stands meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from tests.django import project as project  # sets Django up, which what follows needs to be imported

# isort: split
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import include, path

from keyturn import upkeep
from keyturn.core.events import Event, EventType
from keyturn.core.model import Session, User
from keyturn.django import DjangoUserDirectory, urls
from keyturn.runtime import Keyturn
from keyturn.testing import FrozenClock
from tests.attacks.conftest import lighten
from tests.databases import sqlite_database
from tests.services import wait_until
from tests.web.conftest import BROWSER, ORIGIN, PASSWORD
from tests.web.wsgi import call, new_node

PATIENCE = 20.0
QUARTER = 91 * 86400.0
ADA = {"email": "ada-of-the-hooks@example.com", "password": PASSWORD}


async def ask(user: User, _session: Session) -> Mapping[str, object]:
    """Answer the claims with what is in the project's table."""
    found = await get_user_model()._default_manager.aget(pk=user.id)
    return {"address": found.get_username()}


class Asking:
    """A sink that asks at each event, and notes what it had an answer for; then its connection breaks, as in a restart."""

    def __init__(self) -> None:
        self.heard: list[EventType] = []

    async def emit(self, event: Event) -> None:
        """Take an event."""
        await get_user_model()._default_manager.filter(pk=0).aexists()
        self.heard.append(event.type)
        if event.type is EventType.KEY_ROTATED:
            await sync_to_async(lose_connection)()


def lose_connection() -> None:
    """Have the connection of this thread broken, and Django not know it."""
    connections["default"].connection.close()


@pytest.fixture
def sink() -> Asking:
    """A sink."""
    return Asking()


@pytest.fixture
def clock() -> FrozenClock:
    """The database's clock."""
    return FrozenClock()


@pytest.fixture
def node(tmp_path: Path, sink: Asking, clock: FrozenClock) -> Iterator[Keyturn]:
    """A node of which a project has the routes, and a view that ends the sessions of a user; with ada signed up in neither."""
    url, users = sqlite_database(tmp_path), DjangoUserDirectory()
    made = new_node(url, users=users, sinks=[sink], claims=ask, database_clock=clock)
    lighten(made)

    def end(_request: HttpRequest) -> HttpResponse:
        user = get_user_model()._default_manager.get(email=ADA["email"])
        return HttpResponse(str(made.threaded.end_user_sessions(str(user.pk))))

    routes = (path("", include(urls(made))), path("end", end))
    with override_settings(ROOT_URLCONF=routes, MIDDLEWARE=[f"{__name__}.plain"]):
        yield made
    made.threaded.close()
    get_user_model()._default_manager.filter(email=ADA["email"]).delete()


def plain(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """A middleware that is not async, as most of other people's are."""

    def middleware(request: HttpRequest) -> HttpResponse:
        return get_response(request)

    return middleware


def over_asgi(url: str) -> tuple[int, str]:
    """Send a request to the project over ASGI, and give up where it hangs."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(cast("Any", ASGIHandler()))
        async with asyncio.timeout(PATIENCE), httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
            return await client.post(url, json=ADA, headers=BROWSER)

    answer = asyncio.run(send())
    return answer.status_code, answer.text


def over_wsgi(url: str) -> tuple[int, str]:
    """Send a request to the project over WSGI."""
    answer = call(WSGIHandler(), path=url, json_body=ADA)
    return answer.status, answer.body.decode()


OVER = pytest.mark.parametrize("send", [over_asgi, over_wsgi])


@OVER
def test_request_that_waits(node: Keyturn, sink: Asking, send: Callable[[str], tuple[int, str]]) -> None:
    """The routes below a sync middleware, and a sync view that ends sessions, wait for hooks whose queries do not wait for them."""
    assert send("/auth/signup")[0] == 201
    assert send("/end") == (200, "1")
    assert sink.heard[-1] is EventType.SESSION_ENDED


@OVER
def test_upkeep_that_outlives_the_first_request(
    node: Keyturn,
    sink: Asking,
    clock: FrozenClock,
    send: Callable[[str], tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it tells a sink is asked when that request is over, and once more when the connection has broken and somebody came."""
    monkeypatch.setattr(upkeep, "UPKEEP_INTERVAL", 0.05)
    assert send("/auth/signup")[0] == 201

    def has_heard(times: int) -> Callable[[], bool]:
        return lambda: sink.heard.count(EventType.KEY_ROTATED) == times

    for number in range(2):
        clock.advance(QUARTER)
        wait_until(has_heard(number + 2), PATIENCE, "the new key")
        assert send("/auth/login")[0] == 200
