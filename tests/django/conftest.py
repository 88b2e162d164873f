"""Django's own test clients as the browsers of people, each at an address of their own."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from inspect import iscoroutine
from typing import Any

import pytest

from tests.django import project as project  # sets Django up, which what follows needs to be imported

# isort: split
from django.contrib.auth import get_user_model
from django.test import AsyncClient, Client

from keyturn.runtime import Keyturn
from tests.web.conftest import BROWSER, PASSWORD

_numbers = itertools.count(1)


class Person:
    """Somebody with a browser, at the project over WSGI or ASGI."""

    def __init__(self, kind: str) -> None:
        self.token = ""
        # Ours come and go in headers: Django's client knows no `__Host-` rules, and would send them a second time.
        self.cookie = ""
        number = next(_numbers)
        self.email = f"ada{number}@example.com"
        self._headers = {**BROWSER, "x-forwarded-for": f"10.1.{number >> 8}.{number & 255}"}
        self._client: Any = (Client if kind == "wsgi" else AsyncClient)(
            enforce_csrf_checks=True, raise_request_exception=False
        )

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Send a request, with what a page of ours sends, with the cookie and the token."""
        whole = {**self._headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if self.cookie:
            whole.setdefault("cookie", self.cookie)
        if self.token:
            whole.setdefault("authorization", f"Bearer {self.token}")
        content = b"" if body is None else json.dumps(body).encode()
        kind = "application/json" if content else ""
        self._client.cookies.clear()
        answer = self._client.generic(method, path, content, kind, headers=whole, secure=True)
        if iscoroutine(answer):
            answer = asyncio.run(answer)
        if "__Host-kt_refresh" in answer.cookies:
            self.cookie = f"__Host-kt_refresh={answer.cookies['__Host-kt_refresh'].value}"
        if answer.status_code < 300 and path.endswith(("login", "signup", "refresh")):
            self.token = answer.json()["access_token"]
        return answer

    def sign_up(self, **more: Any) -> Any:
        """Sign up."""
        return self.send("POST", "/auth/signup", {"email": self.email, "password": PASSWORD, **more})

    def log_in(self, password: str = PASSWORD) -> Any:
        """Log in."""
        return self.send("POST", "/auth/login", {"email": self.email, "password": password})

    @property
    def user(self) -> Any:
        """The person in the project's own table."""
        return get_user_model()._default_manager.get(email=self.email)


@pytest.fixture(scope="session")
def node() -> Iterator[Keyturn]:
    """The node of the project, which closes with this process of the tests."""
    from tests.django.urls import auth

    yield auth
    auth.threaded.close()


@pytest.fixture(params=["wsgi", "asgi"])
def stranger(request: pytest.FixtureRequest, node: Keyturn) -> Person:
    """Somebody who has not signed up, over both of Django's servers in turn."""
    return Person(request.param)


@pytest.fixture
def ada(stranger: Person) -> Person:
    """Somebody who has just signed up."""
    answer = stranger.sign_up()
    assert answer.status_code == 201, answer.content
    return stranger
