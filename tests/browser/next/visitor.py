"""A user of the example, and a person with a browser who is one.

Owns: what they do and what they see. Must not hold: expectations of one test.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Final

import httpx2
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Response, expect

from tests.browser.client.proxy import Exchange
from tests.browser.next.application import Front
from tests.services import wait_until

PASSWORD: Final = "violet otters juggle quietly"
REFRESH: Final = "__Host-kt_refresh"
PATIENCE: Final = 20.0
RSC: Final = {"RSC": "1"}
"""What the router of Next.js sends for the data of a page instead of its document."""


def fetch(client: httpx2.Client, path: str, headers: Mapping[str, str]) -> httpx2.Response:
    """Fetch a path; Next.js 16 first sends a request for data to an address that names its headers."""
    answer = client.get(path, headers=headers)
    if "_rsc" in answer.headers.get("location", ""):
        return client.get(answer.headers["location"], headers=headers)
    return answer


def post(page: Page, path: str, body: Mapping[str, str]) -> int:
    """Send a request to the Keyturn server as a script of the page would, past its client; return the status."""
    headers = {"X-Keyturn": "1", "Content-Type": "application/json"}
    init = {"method": "POST", "headers": headers, "body": json.dumps(dict(body))}
    script = "([path, init]) => fetch(path, init).then(({ status }) => status)"
    status: int = page.evaluate(script, [path, init])
    return status


class User:
    """A user with a cookie jar and an address, but without a browser."""

    def __init__(self, front: Front, number: int) -> None:
        self.front = front
        self.name = f"Ada the {number}."
        self.email = f"ada-{number}@example.com"
        self.address = f"198.51.100.{number % 250}"
        self._jar: dict[str, str] = {}

    @property
    def credentials(self) -> dict[str, str]:
        """The body of a sign-up."""
        return {"email": self.email, "password": PASSWORD, "name": self.name}

    @property
    def cookies(self) -> dict[str, str]:
        """The jar."""
        return self._jar

    def sign_up(self) -> None:
        """Sign up past any page."""
        self._jar = dict(self._enter("signup", self.credentials).cookies)

    def log_in_elsewhere(self, device_name: str | None = None) -> httpx2.Response:
        """Log in from another device."""
        body = {"email": self.email, "password": PASSWORD, "device_name": device_name}
        return self._enter("login", body)

    def _enter(self, how: str, body: Mapping[str, str | None]) -> httpx2.Response:
        with self.client(**{"cookie": "", "x-keyturn": "1", "origin": self.front.url}) as client:
            answer = client.post(f"/auth/{how}", json=body)
        assert answer.is_success, answer.text
        return answer

    def client(self, **headers: str) -> httpx2.Client:
        """A client with this jar's cookies, as it comes through a proxy in front of Next.js."""
        own = {"cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        own["x-forwarded-for"] = self.address
        return httpx2.Client(base_url=self.front.url, headers={**own, **headers}, timeout=30)

    def payloads(self, *paths: str) -> list[httpx2.Response]:
        """Fetch the documents of these paths, and the data that the router fetches instead."""
        with self.client() as client:
            return [fetch(client, path, headers) for path in paths for headers in ({}, RSC)]


class Visitor(User):
    """A user with a browser: one jar with one page."""

    def __init__(self, context: BrowserContext, front: Front, number: int) -> None:
        super().__init__(front, number)
        self.context = context
        self.complaints: list[str] = []
        self.responses: list[Response] = []
        context.set_default_timeout(PATIENCE * 1000)
        context.set_extra_http_headers({"X-Forwarded-For": self.address})
        context.on("weberror", lambda error: self.complaints.append(error.error.message))
        context.on("console", self._console)
        context.on("response", self._response)
        self.page: Page = context.new_page()

    def _console(self, message: ConsoleMessage) -> None:
        # Chromium logs every answer from 400 on.
        if message.type in {"error", "warning"} and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    def _response(self, response: Response) -> None:
        self.responses.append(response)

    # -- what they do

    def go(self, path: str) -> Response:
        """Load a document."""
        response = self.page.goto(f"{self.front.url}{path}")
        assert response is not None
        return response

    def fill_in(self, button: str) -> None:
        """Fill in the form of the login page and press a button of it."""
        self.page.get_by_label("E-mail").fill(self.email)
        self.page.get_by_label("Password").fill(PASSWORD)
        self.page.get_by_label("Name").fill(self.name)
        self.page.get_by_role("button", name=button).click()

    def sign_up(self) -> None:
        """Sign up past the form, and look at the devices; the client of that page refreshes once."""
        self.go("/api/hello")
        assert post(self.page, "/auth/signup", self.credentials) == 201
        with self.page.expect_response("**/auth/refresh"):
            self.go("/account")
        self.sees_devices()

    def leave(self) -> None:
        """Close the browser. Not in the middle of a navigation: Chromium may then wait for ever."""
        self.page.goto("about:blank")
        self.context.close()

    def log_out(self) -> None:
        """Press the button of every page."""
        self.page.get_by_role("button", name="Log out").click()

    def mark(self) -> None:
        """Leave a mark in the document, which `marked` finds as long as no other is loaded."""
        self.page.evaluate("() => { globalThis.mark = true }")

    @property
    def marked(self) -> bool:
        """Whether the document is still the one that was marked."""
        return bool(self.page.evaluate("globalThis.mark === true"))

    # -- what they see

    def sees_devices(self) -> None:
        """Wait for the page of their devices, as theirs."""
        self.sees(f"Devices of {self.name}")
        expect(self.page.locator("#who")).to_have_text(self.name)

    def sees(self, heading: str) -> None:
        """Wait for a page."""
        expect(self.page.get_by_role("heading", level=1)).to_have_text(heading)

    def sees_login(self, return_to: str) -> None:
        """Wait for the login page, as nobody, with the way back."""
        self.page.wait_for_url(f"{self.front.url}/login?returnTo={return_to.replace('/', '%2F')}")
        self.sees("Log in")
        expect(self.page.get_by_role("banner").get_by_role("link", name="Log in")).to_be_visible()
        expect(self.page.get_by_text(self.name)).to_have_count(0)

    # -- what goes over the wire

    @property
    def documents(self) -> list[Response]:
        """The documents that were loaded so far."""
        return [one for one in self.responses if one.request.resource_type == "document"]

    @property
    def cookies(self) -> dict[str, str]:
        """The jar of the browser."""
        return {str(one.get("name")): str(one.get("value")) for one in self.context.cookies()}

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for something outside of the page."""
        wait_until(condition, PATIENCE, what)

    def asked(self, path: str) -> list[Exchange]:
        """The requests that have reached the Keyturn server for a path with this browser's cookie of now."""
        return [one for one in self.front.site.proxy.to(path) if self.cookies[REFRESH] in one.headers.get("cookie", "")]
