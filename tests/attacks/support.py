"""What the attacks share: a client that sends exactly the bytes it is told to, and a browser on top of it.

The client speaks ASGI itself, because an HTTP library tidies up what an attacker sends: it merges headers, drops
doubled cookies and refuses odd bytes.
"""

from __future__ import annotations

import itertools
import json as json_module
from collections.abc import Iterable
from hashlib import sha256
from typing import Any, NamedTuple

from sqlalchemy import text

from keyturn.runtime import Keyturn
from keyturn.tokens.refresh_token import RefreshTokens
from keyturn.tokens.secret_ring import SecretRing

ORIGIN = "https://auth.test"
PARTNER = "https://app.test"
PASSWORD = "a long and winding passphrase"
WRONG = "another passphrase, of no use here"
REFRESH = "__Host-kt_refresh"
DEVICE = "__Host-kt_device"
SECRET = SecretRing.generate(sha256(b"the master secret of the attacks").digest())
"""The master key ring of every node in these tests, so that a test can mint what a node would have minted."""
SAFE = (("x-keyturn", "1"), ("origin", ORIGIN), ("sec-fetch-site", "same-origin"))

Header = tuple[str | bytes, str | bytes]
_numbers = itertools.count(1)


class Answer(NamedTuple):
    """An answer as it left the application."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def json(self) -> Any:
        """Return the body's value."""
        return json_module.loads(self.body)

    @property
    def code(self) -> str:
        """The code of a refusal, with its reason where it has one; the status alone for anything else."""
        if not self.header("content-type").startswith("application/problem+json"):
            return str(self.status)
        problem = self.json()
        assert problem["status"] == self.status
        return ":".join(part for part in (problem["code"], problem.get("reason")) if part)

    def values(self, name: str) -> list[str]:
        """Return every value of a header."""
        return [value.decode("latin-1") for key, value in self.headers if key == name.encode()]

    def header(self, name: str) -> str:
        """Return the only value of a header, or an empty text."""
        values = self.values(name)
        assert len(values) <= 1, f"{name} stands there {len(values)} times"
        return values[0] if values else ""

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies that are set: name -> value; empty for one that is cleared."""
        pairs = (value.partition(";")[0].partition("=") for value in self.values("set-cookie"))
        return {name: value for name, _, value in pairs}

    def comparable(self) -> tuple[int, list[tuple[bytes, bytes]], Any]:
        """Return everything a caller sees but the request id, which differs each time."""
        headers = [(name, value) for name, value in self.headers if name != b"x-request-id"]
        body = self.json() if self.body else None
        if isinstance(body, dict):
            body.pop("request_id", None)
        return self.status, headers, body


def _bytes(value: str | bytes) -> bytes:
    return value.encode("latin-1") if isinstance(value, str) else value


async def send(
    application: Any,
    method: str,
    path: str,
    *,
    headers: Iterable[Header] = (),
    body: bytes | Iterable[bytes] = b"",
    peer: str | None = "198.51.100.1",
    query: bytes = b"",
    scheme: str = "https",
) -> Answer:
    """Send one request as ASGI messages, header by header as given."""
    chunks = [body] if isinstance(body, bytes) else list(body)
    messages = [
        {"type": "http.request", "body": chunk, "more_body": index < len(chunks) - 1}
        for index, chunk in enumerate(chunks or [b""])
    ]
    arriving = iter(messages)
    sent: list[Any] = []

    async def receive() -> Any:
        return next(arriving, {"type": "http.disconnect"})

    async def take(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": scheme,
        "path": path,
        "raw_path": path.encode("utf-8", "surrogateescape"),
        "query_string": query,
        "root_path": "",
        "headers": [(_bytes(name).lower(), _bytes(value)) for name, value in headers],
        "client": None if peer is None else (peer, 40000),
        "server": ("auth.test", 443),
    }
    await application(scope, receive, take)
    start, *rest = sent
    return Answer(start["status"], list(start["headers"]), b"".join(message["body"] for message in rest))


class Browser:
    """A browser at an address of its own; it keeps cookies, and the access token as our page would."""

    def __init__(self, application: Any, *, email: str | None = None, peer: str | None = None) -> None:
        number = next(_numbers)
        self.application = application
        self.email = email or f"ada{number}@example.com"
        self.password = PASSWORD
        self.peer = peer or f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        self.user_agent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
        self.jar: dict[str, str] = {}
        self.token = ""
        self.session_id = ""
        self.user_id = ""

    async def send(
        self,
        method: str,
        path: str,
        json: object = None,
        *,
        headers: Iterable[Header] = (),
        safe: Iterable[Header] = SAFE,
        bearer: bool = False,
        **more: Any,
    ) -> Answer:
        """Send what a page of ours would send, and keep what comes back."""
        sent: list[Header] = [("host", "auth.test"), ("user-agent", self.user_agent), *safe, *headers]
        if self.jar:
            sent.append(("cookie", "; ".join(f"{name}={value}" for name, value in self.jar.items())))
        if bearer:
            sent.append(("authorization", f"Bearer {self.token}"))
        if json is not None:
            sent.append(("content-type", "application/json"))
            more["body"] = json_module.dumps(json).encode()
        answer = await send(self.application, method, path, headers=sent, peer=self.peer, **more)
        for name, value in answer.cookies.items():
            if value:
                self.jar[name] = value
            else:
                self.jar.pop(name, None)
        if answer.status in {200, 201} and answer.body and "access_token" in (content := answer.json()):
            self.token = content["access_token"]
            self.session_id = content["session"]["id"]
            self.user_id = content["user"]["id"]
        return answer

    async def sign_up(self, **more: Any) -> Answer:
        """Sign up."""
        return await self.send("POST", "/auth/signup", {"email": self.email, "password": self.password, **more})

    async def log_in(self, **more: Any) -> Answer:
        """Log in."""
        return await self.send("POST", "/auth/login", {"email": self.email, "password": self.password, **more})

    async def refresh(self, **more: Any) -> Answer:
        """Refresh."""
        return await self.send("POST", "/auth/refresh", **more)

    async def log_out(self, **body: Any) -> Answer:
        """Log out."""
        return await self.send("POST", "/auth/logout", body or None)

    async def me(self) -> Answer:
        """Ask who the access token stands for."""
        return await self.send("GET", "/auth/me", bearer=True, safe=())

    async def sessions(self) -> list[dict[str, Any]]:
        """List the sessions."""
        answer = await self.send("GET", "/auth/sessions", bearer=True, safe=())
        assert answer.status == 200, answer.body
        listed: list[dict[str, Any]] = answer.json()["sessions"]
        return listed

    @property
    def cookie(self) -> str:
        """The refresh token."""
        return self.jar[REFRESH]

    def copy(self) -> Browser:
        """Steal everything the browser has, for use from another machine."""
        thief = Browser(self.application, email=self.email)
        thief.jar = dict(self.jar)
        thief.token, thief.session_id, thief.user_id = self.token, self.session_id, self.user_id
        thief.user_agent = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/139.0.0.0 Safari/537.36"
        return thief


def refresh_tokens() -> RefreshTokens:
    """Return what makes and reads the refresh tokens of every node in these tests."""
    ring = SecretRing.parse(SECRET)
    return RefreshTokens(ring.derive("refresh-token"), ring.active_id)


def child_of(token: str, issued_at: float, entropy: bytes) -> str:
    """Mint the child that a node would have given for a token at a time."""
    parent = refresh_tokens().read(token.encode())
    assert parent is not None
    mint = refresh_tokens().minter(entropy)
    return mint(parent.session_id, parent.generation + 1, issued_at, parent.token_hash[:8]).text


async def query(node: Keyturn, statement: str, **values: Any) -> list[Any]:
    """Run one SQL statement as somebody with access to the database would; return its rows."""
    async with node.engine.transaction() as connection:
        result = await connection.execute(text(statement), values)
        return [tuple(row) for row in result] if result.returns_rows else []
