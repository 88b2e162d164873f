"""Whatever people, thieves and administrators do, one after the other: a node on SQLite and one on PostgreSQL say the same.

Logins, attempts and rotations are other statements on either, so neither is the measure of the other: a step on which they
differ is a defect of one of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from random import Random
from typing import Any

import pytest

from keyturn.core.errors import InvalidToken
from keyturn.core.model import RevokeReason
from keyturn.core.policy import DAY, HOUR
from keyturn.runtime import Keyturn
from keyturn.settings import Settings
from keyturn.testing import FrozenClock
from tests.attacks.conftest import lighten
from tests.attacks.support import DEVICE, ORIGIN, PASSWORD, REFRESH, SAFE, SECRET, WRONG, Answer, query, send

pytestmark = pytest.mark.anyio

STEPS = 250
WAITS = (0.5, 5.0, 16.0, 59.0, 61.0, 61.0, 61.0, 300.0, 900.0, HOUR, DAY, 31 * DAY)
WINDOWS = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0"
ANDROID = "Mozilla/5.0 (Linux; Android 16) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/139.0.0.0 Mobile Safari/537.36"
_SECRET = re.compile(r"eyJ[\w.-]+|kt_\w+?_[\w-]{40,}|(?<=request_id\": \")\w+")


class Side:
    """A node over one of the databases, and what has come out of it, by number."""

    def __init__(self, url: str, clock: FrozenClock) -> None:
        settings = Settings.load(
            env="development", database_url=url, base_url=ORIGIN, secret=SECRET, max_sessions=2, address_drift="notify"
        )
        self.node = Keyturn(settings, database_clock=clock)
        lighten(self.node)
        self.refresh, self.device, self.access, self.sessions, self.users = [[""] for _ in range(5)]

    def known(self) -> Sequence[int]:
        """Say how much of each kind there is."""
        return [len(each) for each in (self.refresh, self.device, self.access, self.sessions, self.users)]

    def named(self, text: str) -> str:
        """Return a text with a number for each id, and without credentials."""
        for kind, ids in (("session", self.sessions), ("user", self.users)):
            for number, id_ in enumerate(ids[1:], 1):
                text = text.replace(id_, f"{kind} {number}")
        return _SECRET.sub("credential", text)

    async def ask(self, method: str, path: str, body: object, sent: Mapping[str, Any]) -> object:
        """Send a request and say what came back."""
        pairs = [f"{REFRESH}={self.refresh[number]}" for number in sent["cookies"]]
        pairs.append(f"{DEVICE}={self.device[sent['device']]}")
        headers = [("user-agent", sent["agent"]), *SAFE, ("cookie", "; ".join(pairs))]
        headers.append(("authorization", f"Bearer {self.access[sent['access']]}"))
        if body is not None:
            headers.append(("content-type", "application/json"))
        path = path.format(session=self.sessions[sent["session"]] or "x")
        content = b"" if body is None else json.dumps(body).encode()
        answer = await send(self.node.asgi, method, path, headers=headers, body=content, peer=sent["peer"])
        return self._described(answer)

    async def end(self, kind: str, user: int) -> object:
        """Do what an administrator does."""
        users, user_id = self.node.users, self.users[user]
        if kind == "prune":
            return await self.node.upkeep.prune()
        if kind == "revoke":
            return await self.node.auth.end_user_sessions(user_id, RevokeReason.REVOKED)
        return await users.set_disabled(user_id, disabled=kind == "disable")  # type: ignore[attr-defined]

    def believed(self) -> Sequence[int]:
        """Number the access tokens that count."""
        found: list[int] = []
        for number, token in enumerate(self.access):
            try:
                self.node.authenticate(token)
            except InvalidToken:
                continue
            found.append(number)
        return found

    def _described(self, answer: Answer) -> object:
        for name, kept in ((REFRESH, self.refresh), (DEVICE, self.device)):
            if answer.cookies.get(name):
                kept.append(answer.cookies[name])
        content: Any = answer.json() if answer.body else None
        if answer.status < 400 and content and "access_token" in content:
            self.access.append(content["access_token"])
            for kept, found in ((self.sessions, content["session"]["id"]), (self.users, content["user"]["id"])):
                if found not in kept:
                    kept.append(found)
        for each in content.get("sessions", ()) if content else ():
            # Written some time soon.
            del each["last_seen_at"], each["expires_at"]
        headers = [(name, value) for name, value in answer.headers if name not in {b"x-request-id", b"content-length"}]
        return answer.status, self.named(f"{headers} {json.dumps(content)}")

    async def rows(self) -> Sequence[object]:
        """Say what is in the database."""
        await self.node.sessions.close()
        hashes = "SELECT session_hash, data FROM keyturn_events WHERE type = 'signed_in' ORDER BY id"
        numbers = {row[0]: number for number, row in enumerate(await query(self.node, hashes))}
        events = await query(self.node, "SELECT type, at, session_hash, user_id, data FROM keyturn_events ORDER BY id")
        told = sorted((kind, at, numbers.get(one), *map(str, more)) for kind, at, one, *more in events)
        # What a session that ended was last used for may have come too late to be written.
        touched = ("last_seen_at", "last_active_at", "inactivity_expires_at")
        alive = ", ".join(f"CASE WHEN revoked_at IS NULL THEN {name} END" for name in touched)
        sessions = await query(
            self.node,
            f"SELECT created_at, generation, confirmed_at, {alive}, absolute_expires_at, revoked_at, revoked_reason, ip"
            " FROM keyturn_sessions ORDER BY created_at",
        )
        counters = await query(self.node, "SELECT amount, expires_at FROM keyturn_counters ORDER BY expires_at, amount")
        denied = await query(self.node, "SELECT created_at, expires_at FROM keyturn_denylist")
        lines = [*told, *sessions, *counters, *sorted(denied)]
        return [self.named(str(line)) for line in lines if "key_rotated" not in line]


def chosen(random: Random, known: Sequence[int]) -> tuple[str, str, object, Mapping[str, Any]]:
    """Choose a request: the newest of what is known, most of the time."""
    refresh, device, access, sessions, _ = (max(0, count - 1 - int(random.expovariate(0.4))) for count in known)
    cookies = random.choices([(), (refresh,), (refresh, max(0, refresh - 1))], [3, 20, 1])[0]
    peers = ["198.51.100.1", "198.51.100.1", "203.0.113.9", "2001:db8::7"]
    sent = {"cookies": cookies, "device": device, "access": access, "session": sessions}
    sent |= {"agent": random.choice([WINDOWS, WINDOWS, ANDROID]), "peer": random.choice(peers)}
    email = random.choice(["ada@example.com", "Ada@Example.com", "grace@example.com"])
    entry = {"email": email, "password": random.choice([PASSWORD] * 3 + [WRONG]), "remember": random.random() < 0.5}
    idle = random.choice([None, {"idle_seconds": random.choice([0, 30, 600, 4000])}])
    change = {
        "current_password": random.choice([PASSWORD] * 3 + [WRONG]),
        "new_password": random.choice([PASSWORD] * 4 + [WRONG]),
    }
    requests: Sequence[tuple[float, str, str, object]] = [
        (20, "POST", "/auth/refresh", idle),
        (8, "POST", "/auth/login", entry),
        (2, "POST", "/auth/signup", entry),
        (1, "POST", "/auth/logout", random.choice([None, {"everywhere": True}])),
        (2, "GET", "/auth/me", None),
        (2, "GET", "/auth/sessions", None),
        (1, "DELETE", "/auth/sessions/{session}", None),
        (0.5, "DELETE", "/auth/sessions", None),
        (1, "POST", "/auth/password", change),
    ]
    _, method, path, body = random.choices(requests, [weight for weight, *_ in requests])[0]
    return method, path, body, sent


async def step(random: Random, clock: FrozenClock, sides: Sequence[Side]) -> Sequence[object]:
    """Do the next thing on both; return what each came to."""
    # No two sessions are as old as each other: which of them goes first is a matter of their ids.
    clock.advance(0.25)
    kind = random.choices(["wait", "request", "end"], [10, 40, 2])[0]
    if kind == "wait":
        clock.advance(random.choices(WAITS, [8] * 8 + [1] * 4)[0])
    if kind == "request":
        method, path, body, sent = chosen(random, sides[0].known())
        return [await side.ask(method, path, body, sent) for side in sides]
    if kind == "end" and len(sides[0].users) > 1:
        what = random.choices(["prune", "revoke", "disable", "enable"], [3, 1, 1, 5])[0]
        user = random.randrange(1, len(sides[0].users))
        return [await side.end(what, user) for side in sides]
    return [side.believed() for side in sides]


@pytest.fixture
async def sides(sqlite_database_url: str, postgres_url: str) -> AsyncIterator[tuple[FrozenClock, Sequence[Side]]]:
    """Both, and the time that it is on either."""
    clock = FrozenClock()
    made = [Side(url, clock) for url in (sqlite_database_url, postgres_url)]
    async with AsyncExitStack() as stack:
        for side in made:
            await stack.enter_async_context(side.node.lifespan())
        clock.advance(HOUR)
        yield clock, made


async def test_engines_say_the_same(
    sides: tuple[FrozenClock, Sequence[Side]], scale: Callable[[int, int], int]
) -> None:
    """Each answer, its cookies and headers, which tokens count then, and in the end what is in the database."""
    clock, both = sides
    for seed in range(scale(2, 60)):
        random = Random(seed)
        for number in range(STEPS):
            one, other = await step(random, clock, both)
            assert one == other, f"step {number} of seed {seed}"
    one, other = [await side.rows() for side in both]
    assert one == other
    assert max(both[0].known()) > 20
