"""What the tests of the WSGI side share: a node that is not started, and requests as a WSGI server makes them.

No test in this file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from io import BytesIO
from typing import Any, NamedTuple
from wsgiref.types import WSGIApplication
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

from keyturn.core.events import Event, EventType
from keyturn.runtime import Keyturn
from keyturn.settings import Settings
from keyturn.tokens.secret_ring import SecretRing
from tests.web.conftest import BROWSER, ORIGIN, PASSWORD


class Outcomes:
    """Notes what each refresh came to."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def emit(self, event: Event) -> None:
        """Take an event."""
        if event.type in {EventType.REFRESHED, EventType.REFRESH_REFUSED}:
            self.seen.append(event.data["outcome"])


def new_node(url: str, *, trusted_proxies: int = 0, **more: Any) -> Keyturn:
    """Make a node that nothing has started."""
    secret = SecretRing.generate(os.urandom(32))
    return Keyturn(
        Settings.load(
            env="development", database_url=url, base_url=ORIGIN, secret=secret, trusted_proxies=trusted_proxies
        ),
        **more,
    )


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        """Return every value of a header."""
        return [value for other, value in self.headers if other.lower() == name]

    @property
    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)

    @property
    def cookie(self) -> str:
        """The pair of the refresh cookie, as a browser sends it back."""
        return next(pair.partition(";")[0] for pair in self.all("set-cookie") if pair.startswith("__Host-kt_refresh"))


def call(
    application: WSGIApplication,
    method: str = "POST",
    path: str = "/auth/login",
    *,
    body: bytes = b"",
    json_body: object = None,
    headers: dict[str, str] | None = None,
    **environ: Any,
) -> Answer:
    """Send one request, under the eyes of the standard library's validator of PEP 3333.

    Args:
        headers: in place of what a page of ours sends.
        environ: what else is in the environment, or is different.
    """
    whole: dict[str, Any] = {}
    setup_testing_defaults(whole)
    content = body if json_body is None else json.dumps(json_body).encode()
    whole |= {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": "", "wsgi.input": BytesIO(content)}
    if content:
        whole |= {"CONTENT_LENGTH": str(len(content)), "CONTENT_TYPE": "application/json"}
    for name, value in (BROWSER if headers is None else headers).items():
        whole[f"HTTP_{name.upper().replace('-', '_')}"] = value
    whole |= environ
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Any:
        started.append((status, headers))
        return lambda _: None

    result = validator(application)({key: value for key, value in whole.items() if value is not None}, start_response)
    try:
        content = b"".join(result)
    finally:
        close = getattr(result, "close", None)
        if close is not None:
            close()
    [(status, sent)] = started
    return Answer(int(status.partition(" ")[0]), sent, content)


def sign_up(application: WSGIApplication, email: str) -> Answer:
    """Sign up."""
    answer = call(application, path="/auth/signup", json_body={"email": email, "password": PASSWORD})
    assert answer.status == 201, answer
    return answer
