"""Keyturn's routes among Django's views and under its middleware, over WSGI and ASGI."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from tests.django.conftest import Person

# isort: split
from django.contrib.auth.middleware import LoginRequiredMiddleware
from django.contrib.auth.models import AnonymousUser
from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.middleware.common import CommonMiddleware
from django.test import AsyncRequestFactory
from django.urls import resolve

from keyturn.django.routes import Content
from keyturn.runtime import Keyturn
from keyturn.web.asgi import read_request
from keyturn.web.messages import ClientGone


def test_life_of_a_session(ada: Person) -> None:
    """A session's whole life goes through Django, on a user of the project."""
    assert ada.send("GET", "/auth/me").json()["user"]["email"] == ada.email
    assert ada.send("POST", "/auth/refresh").status_code == 200
    assert ada.send("POST", "/auth/refresh", {"idle_seconds": 3}).status_code == 200
    assert ada.send("GET", "/auth/sessions").json()["sessions"][0]["current"] is True
    answer = ada.send("POST", "/auth/logout")
    assert (answer.status_code, answer.content) == (204, b"")
    assert ada.send("POST", "/auth/refresh").json()["code"] == "no_session"


def test_headers_as_they_are(stranger: Person) -> None:
    """Django's middleware adds to our headers and changes none; cookies go out as they were rendered."""
    answer = stranger.sign_up()
    assert answer.headers["cache-control"] == "private, no-store"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-length"] == str(len(answer.content))
    cookies = [cookie.OutputString() for cookie in answer.cookies.values()]
    assert [cookie.partition("; ")[2] for cookie in cookies[:2]] == [
        "Path=/; Secure; HttpOnly; SameSite=Lax",
        "Path=/; Secure; SameSite=Lax",
    ]
    assert cookies[2].startswith("__Host-kt_device=")
    assert "set-cookie" not in answer.headers


def test_routes_below_a_prefix(ada: Person) -> None:
    """The routes can be included anywhere, and have the paths of the contract from there."""
    assert ada.send("POST", "/api/auth/refresh").status_code == 200
    session = ada.send("GET", "/api/auth/sessions").json()["sessions"][0]["id"]
    assert ada.send("DELETE", f"/api/auth/sessions/{session}").status_code == 204
    assert ada.send("GET", "/auth/me").status_code == 401


@pytest.mark.parametrize(("path", "status"), [("/healthz", 200), ("/readyz", 200), ("/api/healthz", 404)])
def test_operations(stranger: Person, path: str, status: int) -> None:
    """Health and readiness are there where the project asks for them."""
    assert stranger.send("GET", path).status_code == status


def test_foreign_page(ada: Person) -> None:
    """Our own CSRF check stands in the place of Django's."""
    assert ada.send("POST", "/auth/refresh", origin="https://evil.test").json()["code"] == "csrf_refused"
    assert ada.send("POST", "/auth/refresh").status_code == 200


def test_body_that_a_middleware_has_read(ada: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body is there for us although a middleware has read it before, as those that log do."""
    seen: list[bytes] = []

    def read(_middleware: object, request: HttpRequest) -> None:
        seen.append(request.body)

    monkeypatch.setattr(CommonMiddleware, "process_request", read)
    assert ada.send("POST", "/auth/refresh", {"idle_seconds": "3"}).json()["code"] == "invalid_request"
    assert json.loads(seen[0]) == {"idle_seconds": "3"}


def test_body_over_the_limit(stranger: Person) -> None:
    """A body over the limit is refused."""
    answer = stranger.send("POST", "/auth/login", {"email": " " * 20_000})
    assert answer.json()["code"] == "payload_too_large"


@pytest.mark.parametrize(("method", "path"), [("GET", "/auth/login"), ("DELETE", "/auth/login"), ("PURGE", "/auth/me")])
def test_other_methods(stranger: Person, method: str, path: str) -> None:
    """Any method gets our answer."""
    assert stranger.send(method, path).json()["code"] == "method_not_allowed"


def test_every_view_without_login(stranger: Person) -> None:
    """Django's LoginRequiredMiddleware lets the login through, and the views that check tokens."""

    def passes(path: str) -> bool:
        request: Any = HttpRequest()
        request.user = AnonymousUser()
        view = resolve(path)
        middleware = LoginRequiredMiddleware(lambda _: HttpResponse())
        return middleware.process_view(request, view.func, view.args, view.kwargs) is None

    assert [passes(path) for path in ("/auth/login", "/auth/me", "/class", "/rest/user")] == [True] * 4


@pytest.mark.parametrize("alias", ["default", "archive"])
def test_atomic_requests(stranger: Person, monkeypatch: pytest.MonkeyPatch, alias: str) -> None:
    """Django runs no async view in a transaction of the request; ours need none, in no database of the project."""
    monkeypatch.setitem(connections.settings[alias], "ATOMIC_REQUESTS", True)
    assert stranger.sign_up().status_code == 201
    assert stranger.send("POST", "/auth/refresh").status_code == 200
    assert stranger.send("GET", "/asked").json()["code"] == "forbidden"


def test_client_that_leaves(node: Keyturn) -> None:
    """Django cancels the view of a client that has left; nothing of its request is judged from then on."""
    node.threaded.start()
    frozen, thawed = threading.Event(), threading.Event()

    def freeze() -> None:
        frozen.set()
        thawed.wait()

    async def leave() -> None:
        request = AsyncRequestFactory().post("/auth/refresh")
        content = Content(request)
        message = read_request(dict(request.scope), content.receive, 10.0)
        view = asyncio.ensure_future(content.awaited(node.threaded, message, {}))
        await asyncio.sleep(0)
        view.cancel()
        with pytest.raises(asyncio.CancelledError):
            await view
        with pytest.raises(ClientGone):
            message.ensure_awaited()

    assert node.threaded._loop is not None
    node.threaded._loop.call_soon_threadsafe(freeze)
    frozen.wait()
    try:
        asyncio.run(leave())
    finally:
        thawed.set()
