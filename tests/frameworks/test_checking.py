"""The scenarios of a service that only checks tokens, over every framework and a real wire."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import Event
from typing import Any

import pytest

from keyturn.verify import Verifier
from tests.attacks.support import Answer, send
from tests.frameworks.adapters import Adapter, Wire
from tests.services import wait_until
from tests.verify.publisher import PATIENCE, Publisher
from tests.verify.tokens import token_of_now

pytestmark = pytest.mark.anyio


def token(*, age: int = 0, scope: str = "notes admin", amr: tuple[str, ...] = ("pwd", "otp")) -> str:
    """Return a token with everything that the routes need, unless said otherwise."""
    return token_of_now(age=age, scope=scope, amr=amr)


async def ask(application: Any, path: str, text: str | None) -> Answer:
    """Ask a route of the host with a token, or without."""
    headers = [] if text is None else [("authorization", f"Bearer {text}")]
    return await send(application, "GET", path, headers=headers)


@pytest.mark.parametrize("path", ["/notes", "/admin", "/recent", "/strong"])
async def test_valid_token(checking: Wire, path: str) -> None:
    """A token with everything that a route needs lets the request in as its user."""
    answer = await ask(checking, path, token())
    assert (answer.status, answer.json()) == (200, {"user": "ada"})


@pytest.mark.parametrize(
    ("path", "sent", "code", "challenge"),
    [
        ("/notes", lambda: None, "invalid_token", 'error="invalid_token"'),
        ("/notes", lambda: "x", "invalid_token", 'error="invalid_token"'),
        ("/notes", lambda: token()[:-2], "invalid_token", 'error="invalid_token"'),
        ("/notes", lambda: token(scope="admin"), "forbidden", 'error="insufficient_scope", scope="notes"'),
        ("/admin", lambda: token(scope="notes"), "forbidden", 'error="insufficient_scope", scope="notes admin"'),
        (
            "/recent",
            lambda: token(age=7200),
            "insufficient_user_authentication",
            'error="insufficient_user_authentication", max_age="3600"',
        ),
        (
            "/strong",
            lambda: token(amr=("pwd",)),
            "insufficient_user_authentication",
            'error="insufficient_user_authentication", max_age="300", amr_values="otp"',
        ),
    ],
)
async def test_refusal(checking: Wire, path: str, sent: Callable[[], str | None], code: str, challenge: str) -> None:
    """Everybody else is told what the route needs, in a problem document with its headers."""
    # Made only now: between the collection of all tests and this one a token's ten minutes may go by.
    answer = await ask(checking, path, sent())
    assert answer.code == code
    assert answer.status == (403 if code == "forbidden" else 401)
    assert answer.header("www-authenticate") == f"Bearer {challenge}"
    assert answer.header("cache-control") == "private, no-store"
    assert answer.header("x-request-id") == answer.json()["request_id"]


async def test_open_route(checking: Wire) -> None:
    """A route that asks for nothing stays open."""
    assert (await ask(checking, "/open", None)).json() == {"open": True}


async def test_open_route_while_keys_are_fetched(
    adapter: Adapter, publisher: Publisher, verifier_of: Callable[[Publisher], Verifier]
) -> None:
    """Whoever needs no token does not wait for the keys that somebody else's needs."""
    gate, before = Event(), len(publisher.requests)
    publisher.before = lambda: gate.wait(PATIENCE)
    try:
        with adapter.checking(verifier_of(publisher)) as port:
            waiting = [asyncio.create_task(ask(Wire(port), path, token())) for path in ("/notes", "/admin", "/strong")]
            await asyncio.to_thread(
                wait_until, lambda: len(publisher.requests) > before, PATIENCE, "the request for keys"
            )
            assert (await ask(Wire(port), "/open", None)).json() == {"open": True}
            gate.set()
            assert {answer.status for answer in await asyncio.gather(*waiting)} == {200}
    finally:
        gate.set()
        publisher.before = bool


async def test_keys_not_to_be_had(
    adapter: Adapter, publisher: Publisher, verifier_of: Callable[[Publisher], Verifier]
) -> None:
    """Without keys the answer is a fault with a time to wait, never a 401 that would sign somebody out."""
    publisher.status = 500
    try:
        with adapter.checking(verifier_of(publisher)) as port:
            answer = await ask(Wire(port), "/notes", token())
    finally:
        publisher.status = 200
    assert (answer.status, answer.code) == (503, "unavailable")
    assert answer.header("retry-after") == "1"
    assert answer.values("www-authenticate") == []
