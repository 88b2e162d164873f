"""Fifty requests at once against three processes of `keyturn serve`: what may happen once happens once."""

from __future__ import annotations

import itertools
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest

from tests.attacks.conftest import Server
from tests.attacks.support import ORIGIN, PASSWORD, REFRESH, WRONG, child_of, refresh_tokens

pytestmark = pytest.mark.anyio

PRESENTATIONS = 50
_numbers = itertools.count(1)


class Cluster:
    """The three processes, asked in turn."""

    def __init__(self, servers: list[Server]) -> None:
        self.clients = [httpx.AsyncClient(base_url=server.origin, timeout=60) for server in servers]
        self.turn = itertools.cycle(self.clients)

    async def post(self, path: str, json: object = None, *, refresh: str = "", bearer: str = "", ip: str = "") -> Any:
        """Ask the next process."""
        headers = {"x-keyturn": "1", "origin": ORIGIN, "x-forwarded-for": ip or f"10.1.{next(_numbers) % 250}.1"}
        if refresh:
            headers["cookie"] = f"{REFRESH}={refresh}"
        if bearer:
            headers["authorization"] = f"Bearer {bearer}"
        client = next(self.turn)
        answer = (
            await client.post(path, json=json, headers=headers) if json else await client.post(path, headers=headers)
        )
        # The jar of the client would add what others have set.
        client.cookies.clear()
        return answer

    async def me(self, bearer: str) -> list[str]:
        """Ask every process who an access token stands for."""
        headers = {"authorization": f"Bearer {bearer}"}
        return [code(await client.get("/auth/me", headers=headers)) for client in self.clients]

    async def sign_up(self) -> tuple[str, str, dict[str, Any]]:
        """Create a user; return their address, refresh token and the answer."""
        email = f"racer{next(_numbers)}@example.com"
        answer = await self.post("/auth/signup", {"email": email, "password": PASSWORD})
        assert answer.status_code == 201, answer.text
        return email, token_of(answer), answer.json()

    async def at_once(self, asked: list[Any]) -> list[Any]:
        """Send requests at once; return the answers in the order of the requests."""
        answers: list[Any] = [None] * len(asked)

        async def ask(index: int, arguments: dict[str, Any]) -> None:
            answers[index] = await self.post(**arguments)

        async with anyio.create_task_group() as tasks:
            for index, arguments in enumerate(asked):
                tasks.start_soon(ask, index, arguments)
        return answers


@pytest.fixture
async def cluster(servers: list[Server]) -> AsyncIterator[Cluster]:
    """The three processes."""
    made = Cluster(servers)
    yield made
    for client in made.clients:
        await client.aclose()


def code(answer: httpx.Response) -> str:
    """Return the status of a success, or the code of a refusal with its reason."""
    if answer.is_success:
        return str(answer.status_code)
    problem = answer.json()
    return ":".join(part for part in (problem["code"], problem.get("reason")) if part)


def token_of(answer: httpx.Response) -> str:
    """Return the refresh token that an answer sets, or an empty text."""
    for value in answer.headers.get_list("set-cookie"):
        name, _, rest = value.partition("=")
        if name == REFRESH:
            return rest.partition(";")[0]
    return ""


def settled_child(token: str) -> str:
    """Mint the child that a node would have given two minutes ago."""
    return child_of(token, time.time() - 120, secrets.token_bytes(16))


def generation(token: str) -> int:
    """Read the generation that a token says."""
    presented = refresh_tokens().read(token.encode())
    assert presented is not None
    return presented.generation


async def test_fifty_presentations_of_one_token_confirm_it_once(cluster: Cluster) -> None:
    """All fifty are answered, with children of one and the same generation: the session advanced by one."""
    _, first, _ = await cluster.sign_up()
    child = settled_child(first)
    answers = await cluster.at_once([{"path": "/auth/refresh", "refresh": child}] * PRESENTATIONS)
    assert Counter(map(code, answers)) == {"200": PRESENTATIONS}
    tokens = {token_of(answer) for answer in answers}
    assert len(tokens) == PRESENTATIONS
    assert {generation(token) for token in tokens} == {2}
    assert code(await cluster.post("/auth/refresh", refresh=child)) == "200"


async def test_two_siblings_presented_fifty_times_leave_no_survivor(cluster: Cluster) -> None:
    """One sibling is confirmed, the other is reuse: afterwards no token of the session opens anything anywhere."""
    _, first, content = await cluster.sign_up()
    siblings = [settled_child(first), settled_child(first)]
    asked = [{"path": "/auth/refresh", "refresh": sibling} for sibling in siblings] * (PRESENTATIONS // 2)
    answers = await cluster.at_once(asked)
    counted = Counter(map(code, answers))
    assert set(counted) <= {"200", "session_ended:reuse_detected"}
    assert counted["session_ended:reuse_detected"] >= PRESENTATIONS // 2
    winners = {index % 2 for index, answer in enumerate(answers) if answer.is_success}
    assert len(winners) <= 1
    children = [token_of(answer) for answer in answers if answer.is_success]
    for token in [first, *siblings, *filter(None, children)][:8]:
        assert code(await cluster.post("/auth/refresh", refresh=token)) == "session_ended:reuse_detected"
    assert set(await wait_for_denial(cluster, content["access_token"])) == {"invalid_token"}


async def wait_for_denial(cluster: Cluster, token: str) -> list[str]:
    """Wait until every process refuses an access token: each learns of a revocation from the database."""
    found = ["200"]
    with anyio.move_on_after(20):
        while "200" in found:
            found = await cluster.me(token)
    return found


async def test_fifty_presentations_of_an_old_token_are_all_refused(cluster: Cluster) -> None:
    """A token two generations old opens nothing at any process, and the owner's ends with it."""
    _, first, _ = await cluster.sign_up()
    second = settled_child(first)
    third = token_of(await cluster.post("/auth/refresh", refresh=second))
    older = child_of(second, time.time() - 120, secrets.token_bytes(16))
    assert code(await cluster.post("/auth/refresh", refresh=older)) == "200"
    answers = await cluster.at_once([{"path": "/auth/refresh", "refresh": first}] * PRESENTATIONS)
    assert Counter(map(code, answers)) == {"session_ended:reuse_detected": PRESENTATIONS}
    assert code(await cluster.post("/auth/refresh", refresh=third)) == "session_ended:reuse_detected"


async def test_log_out_everywhere_racing_refreshes_on_other_processes(cluster: Cluster) -> None:
    """Whatever the order, nothing of the user works afterwards on any process, access tokens included."""
    email, first, content = await cluster.sign_up()
    others = [
        await cluster.post("/auth/login", {"email": email, "password": PASSWORD}, ip="10.9.9.9") for _ in range(3)
    ]
    asked: list[Any] = [
        {"path": "/auth/refresh", "refresh": settled_child(token_of(other))} for other in others for _ in range(8)
    ]
    asked.insert(6, {"path": "/auth/logout", "json": {"everywhere": True}, "refresh": first})
    answers = await cluster.at_once(asked)
    assert code(answers[6]) == "204"
    handed_out = {token_of(answer) for answer in answers if answer.is_success} - {""}
    for token in sorted(handed_out)[:12]:
        assert code(await cluster.post("/auth/refresh", refresh=token)).startswith("session_ended:")
    bearers = [
        content["access_token"],
        *(answer.json()["access_token"] for answer in answers if answer.status_code == 200),
    ]
    for bearer in bearers:
        assert set(await wait_for_denial(cluster, bearer)) == {"invalid_token"}


async def test_fifty_parallel_guesses_count_as_fifty(cluster: Cluster) -> None:
    """Ten guesses are answered and not one more: the counter is taken from before the password is looked at."""
    email, _, _ = await cluster.sign_up()
    guess = {"path": "/auth/login", "json": {"email": email, "password": WRONG}, "ip": "10.7.7.7"}
    answers = await cluster.at_once([guess] * PRESENTATIONS)
    counted = Counter(map(code, answers))
    assert counted == {"invalid_credentials": 10, "throttled": PRESENTATIONS - 10}


async def test_sign_ups_racing_over_three_processes(cluster: Cluster) -> None:
    """Of twelve sign-ups for one address in different case, one wins."""
    spellings = ["Many@Example.com", "many@example.com", "MANY@EXAMPLE.COM"]
    asked = [{"path": "/auth/signup", "json": {"email": email, "password": PASSWORD}} for email in spellings * 4]
    assert Counter(map(code, await cluster.at_once(asked))) == {"201": 1, "conflict": 11}


async def test_password_changes_racing_over_three_processes(cluster: Cluster) -> None:
    """Of eight changes that all know the current password, one wins, and only its password works."""
    email, _, content = await cluster.sign_up()
    wanted = [f"the passphrase of change number {number}" for number in range(8)]
    asked = [
        {
            "path": "/auth/password",
            "json": {"current_password": PASSWORD, "new_password": new},
            "bearer": content["access_token"],
            "ip": "10.8.8.8",
        }
        for new in wanted
    ]
    answers = await cluster.at_once(asked)
    counted = Counter(map(code, answers))
    assert counted["204"] == 1
    assert set(counted) <= {"204", "conflict", "invalid_credentials"}
    winner = wanted[[code(answer) for answer in answers].index("204")]
    works = [
        new
        for new in (PASSWORD, *wanted)
        if code(await cluster.post("/auth/login", {"email": email, "password": new})) == "200"
    ]
    assert works == [winner]


async def test_parallel_log_ins_with_one_old_cookie_end_it_once(cluster: Cluster) -> None:
    """Logging in many times at once over one cookie opens as many sessions and ends the old one."""
    email, first, _ = await cluster.sign_up()
    asked = [{"path": "/auth/login", "json": {"email": email, "password": PASSWORD}, "refresh": first}] * 8
    assert Counter(map(code, await cluster.at_once(asked))) == {"200": 8}
    assert code(await cluster.post("/auth/refresh", refresh=first)) == "session_ended:logout"


async def test_fifty_log_outs_of_one_session(cluster: Cluster) -> None:
    """All are 204, and the session has ended."""
    _, first, _ = await cluster.sign_up()
    asked = [{"path": "/auth/logout", "refresh": first}] * PRESENTATIONS
    assert Counter(map(code, await cluster.at_once(asked))) == {"204": PRESENTATIONS}
    assert code(await cluster.post("/auth/refresh", refresh=first)) == "session_ended:logout"
