"""A real node on SQLite, reached through the plain ASGI application and through a FastAPI host alike."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from keyturn.core.model import Session, User
from keyturn.fastapi import router
from keyturn.runtime import Keyturn
from keyturn.settings import Settings
from keyturn.tokens import base64url
from tests.attacks.conftest import lighten

ORIGIN = "https://auth.test"
PARTNER = "https://app.test"
PASSWORD = "a long and winding passphrase"
SSR_KEY = os.urandom(32)
METRICS_TOKEN = "metrics-token-0123456789"
BROWSER = {"x-keyturn": "1", "origin": ORIGIN, "sec-fetch-site": "same-origin"}
_numbers = itertools.count(1)


async def _scopes(user: User, _session: Session) -> Mapping[str, object]:
    return {"scope": "notes admin"} if user.name == "admin" else {"scope": "notes"}


@pytest.fixture(scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Keyturn]:
    """A running node with every optional route switched on."""
    database = tmp_path_factory.mktemp("web") / "keyturn.db"
    settings = Settings.load(
        env="development",
        database_url=f"sqlite:///{database}",
        base_url=ORIGIN,
        allowed_origins=PARTNER,
        trusted_proxies=1,
        ssr_keys=f"next:{base64url.encode(SSR_KEY)}",
        metrics_token=METRICS_TOKEN,
    )
    keyturn = Keyturn(settings, claims=_scopes)
    lighten(keyturn)
    await keyturn.start()
    yield keyturn
    await keyturn.close()


@pytest.fixture(scope="module", params=["asgi", "fastapi"])
def application(node: Keyturn, request: pytest.FixtureRequest) -> Any:
    """The two ways to the same endpoints."""
    if request.param == "asgi":
        return node.asgi
    host = FastAPI()
    host.include_router(router(node, operations=True))
    return host


class Browser(httpx.AsyncClient):
    """A browser of one person at an address of their own; it sends what a page of ours would."""

    def __init__(self, application: Any) -> None:
        number = next(_numbers)
        self.email = f"ada{number}@example.com"
        self.token = ""
        # No exception reaches the client, as with a real server.
        transport = httpx.ASGITransport(application, raise_app_exceptions=False)
        address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        headers = {**BROWSER, "x-forwarded-for": address}
        super().__init__(transport=transport, base_url=ORIGIN, headers=headers, follow_redirects=False)

    async def sign_up(self, **more: Any) -> httpx.Response:
        """Sign up and keep the access token."""
        body = {"email": self.email, "password": PASSWORD, **more}
        return self._kept(await self.post("/auth/signup", json=body))

    async def log_in(self, **more: Any) -> httpx.Response:
        """Log in and keep the access token."""
        body = {"email": self.email, "password": PASSWORD, **more}
        return self._kept(await self.post("/auth/login", json=body))

    @property
    def bearer(self) -> dict[str, str]:
        """The header that carries the access token."""
        return {"authorization": f"Bearer {self.token}"}

    def _kept(self, answer: httpx.Response) -> httpx.Response:
        if answer.is_success:
            self.token = answer.json()["access_token"]
        return answer


@pytest.fixture
async def browser(application: Any) -> AsyncIterator[Browser]:
    """A browser that has not signed in."""
    async with Browser(application) as made:
        yield made


@pytest.fixture
async def ada(browser: Browser) -> Browser:
    """A browser that has signed up."""
    answer = await browser.sign_up()
    assert answer.status_code == 201, answer.text
    return browser


def set_cookies(answer: httpx.Response) -> dict[str, str]:
    """Return the Set-Cookie headers of an answer: name -> everything behind the value."""
    found: dict[str, str] = {}
    for header in answer.headers.get_list("set-cookie"):
        pair, _, attributes = header.partition("; ")
        found[pair.partition("=")[0]] = attributes
    return found
