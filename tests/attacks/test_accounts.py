"""Attacks on accounts: who exists, guessing, locking out, and what sign-up and login are made to swallow."""

from __future__ import annotations

import base64
import io
import json
import logging
import sys
import unicodedata
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import argon2.low_level
import pytest
from sqlalchemy import event

from keyturn.core.model import Session, User
from keyturn.observability import JsonFormatter
from keyturn.password_pool import PasswordPool
from keyturn.runtime import Keyturn
from keyturn.stores.lanes import PostgresLane, SqliteLanes, Statement
from keyturn.stores.users import SqlUsers
from keyturn.testing import FrozenClock
from keyturn.tokens.password import PasswordHasher, PasswordProfile
from keyturn.tokens.password_policy import PasswordPolicy
from keyturn.web.application import WebApplication
from keyturn.web.asgi import KeyturnASGI
from tests.attacks.conftest import lighten, settings_of, with_passwords
from tests.attacks.support import DEVICE, PASSWORD, WRONG, Answer, Browser, query
from tests.databases import sqlite_database

pytestmark = pytest.mark.anyio

ACCOUNT_FAILURES = 10
ADDRESS_FAILURES = 50
HARD_FAILURES = 100
ODD_SALT = "$2b$04$abcdefghijklmnopqrstuv" + "." * 31
"""An imported bcrypt hash whose salt ends in bits that no byte uses."""


@contextmanager
def hashing() -> Iterator[list[tuple[int, int]]]:
    """Collect the cost (memory, passes) of every argon2 computation of this process."""
    module: Any = import_module("argon2._password_hasher")

    done: list[tuple[int, int]] = []
    real_hash, real_verify = module.hash_secret, module.verify_secret

    def counted_hash(*args: Any, **more: Any) -> bytes:
        done.append((more["memory_cost"], more["time_cost"]))
        made: bytes = real_hash(*args, **more)
        return made

    def counted_verify(stored: bytes, *args: Any, **more: Any) -> bool:
        found = argon2.extract_parameters(stored.decode())
        done.append((found.memory_cost, found.time_cost))
        matches: bool = real_verify(stored, *args, **more)
        return matches

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "hash_secret", counted_hash)
        patch.setattr(module, "verify_secret", counted_verify)
        yield done


def work(done: list[tuple[int, int]]) -> int:
    """Return the whole cost of argon2 computations: memory times passes, which is what their time goes by."""
    return sum(memory * passes for memory, passes in done)


@contextmanager
def asking(node: Keyturn) -> Iterator[list[str]]:
    """Collect every statement for which the caller waits, on either way to the database; not what the node does besides."""
    asked: list[str] = []
    ours = ContextVar("ours", default=False)

    def note(text: str) -> None:
        if ours.get():
            asked.append(text)

    def counted(send: Callable[[Any, Statement], Awaitable[Any]]) -> Callable[[Any, Statement], Awaitable[Any]]:
        def sends(lane: Any, statement: Statement) -> Awaitable[Any]:
            note(statement[0])
            return send(lane, statement)

        return sends

    def before(_connection: Any, _cursor: Any, text: str, *_: Any) -> None:
        note(text)

    event.listen(node.engine.sqlalchemy.sync_engine, "before_cursor_execute", before)
    token = ours.set(True)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PostgresLane, "fetch", counted(PostgresLane.fetch))
            patch.setattr(SqliteLanes, "fetch", counted(SqliteLanes.fetch))
            patch.setattr(SqliteLanes, "change", counted(SqliteLanes.change))
            yield asked
    finally:
        ours.reset(token)
        event.remove(node.engine.sqlalchemy.sync_engine, "before_cursor_execute", before)


async def kinds_of_refusal(node: Keyturn, device: str | None) -> dict[str, Callable[[], Awaitable[Answer]]]:
    """Set up every kind of account that a login can fail on; each is then asked with one wrong password.

    Args: device: a device cookie of somebody else, which whoever asks has.
    """
    old = PasswordHasher(PasswordProfile(8 * 1024, 1)).hash(PASSWORD)
    application = with_passwords(node, PasswordPool(PasswordHasher()))
    changes = {
        "wrong password": None,
        "disabled": "UPDATE keyturn_users SET disabled_at = 1 WHERE id = :id",
        "no password": "UPDATE keyturn_users SET password_hash = NULL WHERE id = :id",
        "old hash": "UPDATE keyturn_users SET password_hash = :old WHERE id = :id",
        "hash of unknown form": "UPDATE keyturn_users SET password_hash = '$unknown$x' WHERE id = :id",
        "odd salt": f"UPDATE keyturn_users SET password_hash = '{ODD_SALT}' WHERE id = :id",
    }
    asked: dict[str, Browser] = {}
    for name, statement in changes.items():
        owner = Browser(application)
        assert (await owner.sign_up()).status == 201
        if statement is not None:
            values = {"id": owner.user_id, "old": old}
            await query(node, statement, **{k: v for k, v in values.items() if f":{k}" in statement})
        guesser = Browser(application, email=owner.email)
        # The owner's right password too where the account must not be told from one that is not there.
        guesser.password = PASSWORD if name == "disabled" else WRONG
        asked[name] = guesser
    asked["unknown"] = Browser(application)
    asked["unknown"].password = WRONG
    for guesser in asked.values():
        guesser.jar = {} if device is None else {DEVICE: device}
    return {name: guesser.log_in for name, guesser in asked.items()}


@pytest.mark.parametrize("with_device", [False, True], ids=["no device", "device"])
async def test_enumeration_by_status_body_headers_and_time(node: Keyturn, eve: Browser, with_device: bool) -> None:
    """Unknown, wrong, disabled, without a password, old or odd hash: one status, one body, one set of headers, one cost.

    The cost is counted and not measured: argon2 computations and statements to the database.
    """
    answers: dict[str, Any] = {}
    costs: dict[str, int] = {}
    statements: dict[str, list[str]] = {}
    for name, ask in (await kinds_of_refusal(node, eve.jar[DEVICE] if with_device else None)).items():
        with hashing() as done, asking(node) as statements[name]:
            answer = await ask()
        assert answer.code == "invalid_credentials", name
        answers[name] = answer.comparable()
        costs[name] = work(done)
    reference = answers["unknown"]
    assert all(answer == reference for answer in answers.values())
    # Not by the count alone: statements that differ take different times.
    assert all(asked == statements["unknown"] for asked in statements.values()), statements
    assert len(statements["unknown"]) > 1
    # An old hash is topped up to the profile's cost, give or take the smallest step.
    assert max(costs.values()) - min(costs.values()) <= costs["unknown"] * 0.01, costs
    assert costs["unknown"] > 0


async def test_enumeration_by_rate_limit(node: Keyturn) -> None:
    """A known and an unknown account slow down after the same number of failures, with the same answer."""
    owner = Browser(node.asgi)
    assert (await owner.sign_up()).status == 201
    seen: dict[str, list[Any]] = {}
    for name, email in (("known", owner.email), ("unknown", "nobody-limit@example.com")):
        guesser = Browser(node.asgi, email=email)
        guesser.password = WRONG
        answers = [await guesser.log_in() for _ in range(ACCOUNT_FAILURES + 2)]
        seen[name] = [answer.comparable() for answer in answers]
        assert [answer.code for answer in answers] == ["invalid_credentials"] * ACCOUNT_FAILURES + ["throttled"] * 2
    assert seen["known"] == seen["unknown"]


async def test_right_password_is_refused_while_throttled(node: Keyturn, ada: Browser) -> None:
    """Over the limit the right password gets the same 429, so guessing on tells nothing."""
    guesser = Browser(node.asgi, email=ada.email)
    guesser.password = WRONG
    for _ in range(ACCOUNT_FAILURES):
        await guesser.log_in()
    wrong = await guesser.log_in()
    guesser.password = PASSWORD
    right = await guesser.log_in()
    assert right.code == "throttled"
    assert right.comparable() == wrong.comparable()
    assert int(right.header("retry-after")) > 0


async def test_lock_out_of_a_victim(node: Keyturn, ada: Browser) -> None:
    """However much others guess, from however many addresses, the owner gets in on a device they know.

    And there they can change the password.
    """
    for number in range(HARD_FAILURES):
        guesser = Browser(node.asgi, email=ada.email)
        guesser.password = WRONG if number % 2 else WRONG + "!"
        await guesser.log_in()
    elsewhere = Browser(node.asgi, email=ada.email)
    assert (await elsewhere.log_in()).code == "throttled"
    assert (await ada.log_out()).status == 204
    assert DEVICE in ada.jar
    assert (await ada.log_in()).status == 200
    change = {"current_password": PASSWORD, "new_password": "a passphrase that nobody guesses"}
    assert (await ada.send("POST", "/auth/password", change, bearer=True)).status == 204


async def test_hard_cap_of_consecutive_failures(node: Keyturn, clock: FrozenClock) -> None:
    """After a hundred failures no stranger may guess on, not even days later from fresh addresses, nor the right one."""
    owner = Browser(node.asgi)
    assert (await owner.sign_up()).status == 201
    codes = []
    for number in range(HARD_FAILURES + 2):
        if number % 25 == 24:
            clock.advance(3600)
        guesser = Browser(node.asgi, email=owner.email)
        guesser.password = WRONG
        codes.append((await guesser.log_in()).code)
    assert codes == ["invalid_credentials"] * HARD_FAILURES + ["throttled"] * 2
    clock.advance(86400)
    assert (await Browser(node.asgi, email=owner.email).log_in()).code == "throttled"


async def test_spraying_from_one_address(node: Keyturn) -> None:
    """One password against many accounts: the address is stopped although no account is near its limit."""
    sprayer = Browser(node.asgi)
    sprayer.password = WRONG
    codes = []
    for number in range(ADDRESS_FAILURES + 2):
        sprayer.email = f"sprayed-{number}@example.com"
        codes.append((await sprayer.log_in()).code)
    assert codes == ["invalid_credentials"] * ADDRESS_FAILURES + ["throttled"] * 2


async def test_success_of_one_account_does_not_reset_anothers_counter(node: Keyturn, ada: Browser) -> None:
    """An attacker who signs in to an account of their own in between buys no further guess at the victim's."""
    attacker = Browser(node.asgi)
    assert (await attacker.sign_up()).status == 201
    codes = []
    for _ in range(ACCOUNT_FAILURES + 2):
        guesser = Browser(node.asgi, email=ada.email, peer=attacker.peer)
        guesser.password = WRONG
        codes.append((await guesser.log_in()).code)
        own = Browser(node.asgi, email=attacker.email, peer=attacker.peer)
        assert (await own.log_in()).status == 200
    assert codes == ["invalid_credentials"] * ACCOUNT_FAILURES + ["throttled"] * 2


async def test_made_up_device_is_no_known_device(node: Keyturn, ada: Browser, eve: Browser) -> None:
    """Neither an invented device cookie nor one of another account gives further guesses."""
    guesser = Browser(node.asgi, email=ada.email)
    guesser.password = WRONG
    codes = []
    for number in range(ACCOUNT_FAILURES + 2):
        guesser.jar = {DEVICE: eve.jar[DEVICE] if number % 2 else "kt_dv_" + "A" * 46}
        codes.append((await guesser.log_in()).code)
    assert codes == ["invalid_credentials"] * ACCOUNT_FAILURES + ["throttled"] * 2
    # Nor does the right one beside another: one of the two is planted.
    guesser.password = ada.password
    doubled = ("cookie", f"{DEVICE}={ada.jar[DEVICE]}; {DEVICE}={eve.jar[DEVICE]}")
    guesser.jar = {}
    body = {"email": guesser.email, "password": guesser.password}
    assert (await guesser.send("POST", "/auth/login", body, headers=[doubled])).code == "throttled"
    guesser.jar = {DEVICE: ada.jar[DEVICE]}
    assert (await guesser.log_in()).status == 200


async def test_stolen_device_cookie_is_throttled_by_itself(node: Keyturn, ada: Browser) -> None:
    """Who has stolen the device cookie has ten guesses, and does not lock anybody else out with them."""
    thief = Browser(node.asgi, email=ada.email)
    thief.jar, thief.password = {DEVICE: ada.jar[DEVICE]}, WRONG
    codes = [(await thief.log_in()).code for _ in range(ACCOUNT_FAILURES + 1)]
    assert codes == ["invalid_credentials"] * ACCOUNT_FAILURES + ["throttled"]
    assert (await Browser(node.asgi, email=ada.email).log_in()).status == 200


async def test_devices_of_somebody_who_knew_the_password(node: Keyturn, ada: Browser) -> None:
    """They guess at the next one as strangers do, however many devices they made; the device that changed it is still known."""
    former = [Browser(node.asgi, email=ada.email, peer="203.0.113.77") for _ in range(3)]
    for each in former:
        assert (await each.log_in()).status == 200
    # A session that had ended before makes no difference.
    assert (await former[0].log_out()).status == 204
    change = {"current_password": PASSWORD, "new_password": "a passphrase that nobody guesses"}
    assert (await ada.send("POST", "/auth/password", change, bearer=True)).status == 204
    codes = [(await former[number % 3].log_in()).code for number in range(ACCOUNT_FAILURES + 3)]
    assert codes == ["invalid_credentials"] * ACCOUNT_FAILURES + ["throttled"] * 3
    ada.peer, ada.password = former[0].peer, change["new_password"]
    assert (await ada.log_out()).status == 204
    assert (await ada.log_in()).status == 200


async def test_guessing_the_current_password_is_throttled(ada: Browser) -> None:
    """A stolen access token is no unlimited oracle for the password."""
    body = {"current_password": WRONG, "new_password": "yet another long passphrase"}
    answers = [await ada.send("POST", "/auth/password", body, bearer=True) for _ in range(ACCOUNT_FAILURES + 1)]
    assert [answer.code for answer in answers] == ["invalid_credentials"] * ACCOUNT_FAILURES + ["throttled"]


async def test_right_current_password_counts_against_nobody(ada: Browser) -> None:
    """Who changes their password often, and knows it each time, is not taken for somebody who guesses."""
    codes: list[str] = []
    for number in range(ACCOUNT_FAILURES + 1):
        new = f"passphrase of {number} long words"
        body = {"current_password": ada.password, "new_password": new}
        codes.append((await ada.send("POST", "/auth/password", body, bearer=True)).code)
        ada.password = new
    assert codes == ["204"] * (ACCOUNT_FAILURES + 1)


@pytest.mark.parametrize("size", [1025, 4097, 15_000, 1_000_000])
async def test_huge_password(bob: Browser, size: int) -> None:
    """A password beyond the limit costs no hash and is never cut: refused, the largest before it is parsed."""
    with hashing() as done:
        answer = await Browser(bob.application).send(
            "POST", "/auth/signup", {"email": "huge@example.com", "password": "x1" * (size // 2 + 1)}
        )
    assert answer.code == ("payload_too_large" if size > 16_000 else "invalid_request")
    assert done == []
    bob_again = Browser(bob.application, email=bob.email)
    bob_again.password = PASSWORD + "x" * (size - len(PASSWORD))
    assert (await bob_again.log_in()).code == answer.code


async def test_long_passwords_count_to_their_last_character(node: Keyturn) -> None:
    """Two passwords that differ after 72 bytes are two passwords (Okta 2024)."""
    browser = Browser(node.asgi)
    browser.password = "correct horse battery staple " * 4 + "first ending"
    assert (await browser.sign_up()).status == 201
    other = Browser(node.asgi, email=browser.email)
    for ending in ("other ending", "first endin", "first ending "):
        other.password = "correct horse battery staple " * 4 + ending
        assert (await other.log_in()).code == "invalid_credentials"
    other.password = browser.password
    assert (await other.log_in()).status == 200


ADDRESSES: list[Any] = [
    ["a@example.com"],
    ["victim@example.com", "evil@example.com"],
    {"address": "a@example.com"},
    {"$ne": None},
    None,
    True,
    1,
    "",
    "a",
    "a@",
    "@example.com",
    "a@example.com,b@example.com",
    "a@example.com;b@example.com",
    "a@example.com b@example.com",
    "a@example.com\r\nBcc: b@example.com",
    "a@example.com\nb@example.com",
    "a@exa\r\nmple.com",
    "a@example.com\0",
    "\0a@example.com",
    "Ada <a@example.com>",
    '"Ada" <a@example.com>',
    "<a@example.com>",
    "a@example.com (comment)",
    "mailto:a@example.com",
    "<script>alert(1)</script>@example.com",
    '"><img src=x onerror=alert(1)>@example.com',
    "a@[127.0.0.1]",
    "a@localhost",
    "a@example",
    "a@b@example.com",
    "a@exam ple.com",
    "a@-example.com",
    "a@example..com",
    "a.@example.com",
    "a@example.com\u202e",
    "a\u200b@example.com",
    "a@" + "x" * 300 + ".com",
    "a" * 10_000 + "@example.com",
    "\ud800@example.com",
]


@pytest.mark.parametrize("path", ["/auth/signup", "/auth/login"])
async def test_address_that_is_none(sqlite_node: Keyturn, path: str) -> None:
    """An array, an object, two addresses, a display name, line breaks, markup: 422, and nothing is repeated."""
    with hashing() as done:
        for address in ADDRESSES:
            browser = Browser(sqlite_node.asgi)
            answer = await browser.send("POST", path, {"email": address, "password": PASSWORD})
            assert answer.code == "invalid_request", address
            for part in ("victim", "evil", "script", "onerror", "Bcc"):
                assert part.encode() not in answer.body
    assert done == []
    assert (
        await query(sqlite_node, "SELECT id FROM keyturn_users WHERE email LIKE '%script%' OR email LIKE '%,%'") == []
    )


@pytest.mark.parametrize("overwrites", [False, True])
async def test_sign_up_where_the_directory_creates_whoever_is_there(tmp_path: Path, *, overwrites: bool) -> None:
    """A table of the application's whose `create` is a `get_or_create`, or overwrites: the address is taken all the same.

    Whoever signed up with the address of somebody would be signed in as them.
    """

    class Careless(SqlUsers):
        async def create(self, email: str, name: str | None, password_hash: str) -> User | None:
            there = await self.find(email)
            if there is None:
                return await super().create(email, name, password_hash)
            if overwrites:
                assert there.password_hash is not None
                await self.replace_password_hash(there.user.id, there.password_hash, password_hash)
            return there.user

    settings = settings_of(sqlite_database(tmp_path))
    home = Keyturn(settings)
    node = Keyturn(settings, users=Careless(home.engine, denylist_lifetime=home.policy.denylist_lifetime))
    lighten(node)
    async with home.lifespan(), node.lifespan():
        ada = Browser(node.asgi)
        assert (await ada.sign_up()).status == 201
        eve = Browser(node.asgi, email=ada.email.upper())
        eve.password = WRONG
        answer = await eve.sign_up()
        assert (answer.code, answer.cookies) == ("conflict", {})
        assert [session["current"] for session in await ada.sessions()] == [True]
        assert (await ada.log_in()).status == 200


async def test_two_sign_ups_racing_in_different_case(node: Keyturn) -> None:
    """Of ten sign-ups at once for one address in different spellings, one wins and there is one account."""
    spellings = ["Race@Example.com", "race@example.com", "RACE@EXAMPLE.COM", " race@example.com", "rAcE@eXaMpLe.CoM"]
    answers: list[Answer] = []

    async def sign_up(email: str) -> None:
        answers.append(await Browser(node.asgi, email=email).sign_up())

    async with anyio.create_task_group() as tasks:
        for email in spellings * 2:
            tasks.start_soon(sign_up, email)
    assert sorted(answer.code for answer in answers) == ["201"] + ["conflict"] * 9
    assert len(await query(node, "SELECT id FROM keyturn_users WHERE email_key = 'race@example.com'")) == 1


async def test_address_is_normalised_before_it_is_compared(node: Keyturn) -> None:
    """One address in two Unicode spellings is one account, and one counter (Auth.js GHSA-7rqj-j65f-68wh)."""
    composed = "jos\u00e9@example.com"
    decomposed = unicodedata.normalize("NFD", composed)
    assert composed != decomposed
    owner = Browser(node.asgi, email=composed)
    assert (await owner.sign_up()).status == 201
    assert (await Browser(node.asgi, email=decomposed).sign_up()).code == "conflict"
    guesser = Browser(node.asgi)
    guesser.password = WRONG
    codes = []
    for number in range(ACCOUNT_FAILURES + 1):
        guesser.email = (composed, decomposed, composed.upper(), f" {composed}")[number % 4]
        codes.append((await guesser.log_in()).code)
    assert codes == ["invalid_credentials"] * ACCOUNT_FAILURES + ["throttled"]
    assert (await Browser(node.asgi, email=decomposed.upper()).log_in()).status == 200


async def test_look_alike_addresses_are_two_accounts(node: Keyturn) -> None:
    """A Cyrillic letter is no Latin one: whoever registers the look-alike gets nothing of the other."""
    latin, cyrillic = Browser(node.asgi, email="alike@example.com"), Browser(node.asgi, email="\u0430like@example.com")
    assert (await latin.sign_up()).status == 201
    assert (await cyrillic.sign_up()).status == 201
    assert latin.user_id != cyrillic.user_id


async def test_password_is_normalised_before_it_is_hashed(node: Keyturn) -> None:
    """The same letters from another keyboard are the same password."""
    browser = Browser(node.asgi)
    browser.password = "n\u00e9 d'une longue phrase de passe"
    assert (await browser.sign_up()).status == 201
    other = Browser(node.asgi, email=browser.email)
    other.password = unicodedata.normalize("NFD", browser.password)
    assert (await other.log_in()).status == 200


@pytest.mark.parametrize(
    "member",
    [
        {"is_admin": True},
        {"email_verified": True},
        {"email_verified_at": 1},
        {"id": "0" * 32},
        {"user_id": "0" * 32},
        {"disabled": False},
        {"role": "admin"},
        {"scope": "admin"},
        {"scopes": ["admin"]},
        {"password_hash": "x"},
        {"session_id": "0" * 32},
        {"device_id": "0" * 32},
        {"ip": "127.0.0.1"},
        {"__proto__": {"is_admin": True}},
        {"constructor": {"prototype": {"is_admin": True}}},
    ],
    ids=lambda member: next(iter(member)),
)
async def test_mass_assignment(bob: Browser, member: dict[str, Any]) -> None:
    """A member that is not in the contract is refused, and its name is not repeated."""
    bodies = {
        "/auth/signup": {"email": "mass@example.com", "password": PASSWORD},
        "/auth/login": {"email": bob.email, "password": PASSWORD},
        "/auth/logout": {},
        "/auth/refresh": {},
        "/auth/password": {"current_password": PASSWORD, "new_password": "some other passphrase"},
    }
    for path, body in bodies.items():
        answer = await bob.send("POST", path, {**body, **member}, bearer=True)
        assert answer.code == "invalid_request", path
        assert answer.json()["detail"] == "an unknown member"
    assert (await bob.me()).status == 200


async def test_token_carries_no_privilege_that_nobody_gave(bob: Browser) -> None:
    """A new user's access token has no scope and no claim beyond its own."""
    principal = bob.token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(principal + "=="))
    assert set(claims) == {"iss", "aud", "sub", "sid", "iat", "exp", "jti", "auth_time", "amr"}


@pytest.mark.parametrize("blank", [" ", "\u2003"])
async def test_scope_made_of_what_a_user_wrote(tmp_path: Path, clock: FrozenClock, blank: str) -> None:
    """A blank in one scope of a list makes no second scope of it: no token is signed."""

    async def claims(user: User, _session: Session) -> dict[str, object]:
        return {"scope": [f"team:{user.name}", "notes"]}

    node = Keyturn(settings_of(sqlite_database(tmp_path)), claims=claims, database_clock=clock)
    lighten(node)
    async with node.lifespan():
        honest = Browser(node.asgi)
        assert (await honest.sign_up(name="blue")).status == 201
        assert node.authenticate(honest.token).scopes == {"team:blue", "notes"}
        answer = await Browser(node.asgi).sign_up(name=f"blue{blank}admin")
    assert answer.code == "unavailable"


async def test_stored_markup_and_control_characters(node: Keyturn) -> None:
    """Markup in a user agent, a device's name or a person's name comes back as JSON text only, never as a page.

    Control characters are gone before anything is stored, and a log line stays one line of ASCII.
    """
    markup = "<script>alert(document.cookie)</script>"
    browser = Browser(node.asgi)
    browser.user_agent = f"Mozilla/5.0 {markup} \x1b[2J\x07\x9b31m\u00ad"
    stream = io.StringIO()
    output = logging.StreamHandler(stream)
    output.setFormatter(JsonFormatter())
    logging.getLogger().addHandler(output)
    events = logging.getLogger("keyturn.events")
    level = events.level
    events.setLevel(logging.DEBUG)
    try:
        assert (await browser.sign_up(name=markup)).status == 201
        assert (await browser.log_in(device_name=markup)).status == 200
    finally:
        logging.getLogger().removeHandler(output)
        events.setLevel(level)
    answer = await browser.send("GET", "/auth/sessions", bearer=True)
    assert answer.header("content-type") == "application/json"
    assert answer.header("x-content-type-options") == "nosniff"
    session = answer.json()["sessions"][0]
    assert session["device_name"] == markup
    assert session["user_agent"].isprintable()
    assert markup in session["user_agent"]
    lines = stream.getvalue().splitlines()
    assert lines
    assert all(line.isascii() and line.isprintable() for line in lines)
    assert any("signed_in" in line for line in lines)
    assert all(json.loads(line)["message"] for line in lines)


async def test_names_that_no_database_takes(node: Keyturn) -> None:
    """NUL, control characters and half surrogates in names are 422, on every database."""
    for name in ("a\0b", "a\x1b[31m", "\ud800", "a\nb"):
        answer = await Browser(node.asgi).sign_up(name=name)
        assert answer.code == "invalid_request", repr(name)
    for name in ("a\0b", "\ud800"):
        answer = await Browser(node.asgi).sign_up(device_name=name)
        assert answer.code == "invalid_request", repr(name)


@pytest.mark.parametrize("peer", ["192.0.2.200", "2001:db8:0:9::{n:x}"])
async def test_sign_ups_from_one_address_are_bounded(node: Keyturn, peer: str) -> None:
    """One address cannot fill the table of users, nor one network of somebody who has IPv6."""
    codes = [(await Browser(node.asgi, peer=peer.format(n=n)).sign_up()).code for n in range(22)]
    assert codes == ["201"] * 20 + ["throttled"] * 2


async def test_sessions_of_one_account_are_bounded(ada: Browser, clock: FrozenClock) -> None:
    """One account cannot fill the table of sessions: the oldest goes, with its reason."""
    clock.advance(1)
    others = [Browser(ada.application, email=ada.email) for _ in range(50)]
    for other in others:
        assert (await other.log_in()).status == 200
    assert len(await others[0].sessions()) == 50
    assert (await ada.refresh()).code == "session_ended:evicted"


def limited(node: Keyturn, logins: int) -> KeyturnASGI:
    """Return the same node's routes under a policy of so many logins of one account from one address."""
    services = replace(node.services, auth=replace(node.auth, policy=replace(node.policy, account_logins=logins)))
    return KeyturnASGI(WebApplication(services, node.settings.web_config()))


async def test_logins_of_one_account_from_one_address_are_bounded(
    node: Keyturn, ada: Browser, clock: FrozenClock
) -> None:
    """Who knows a password makes no sessions without end: over the limit nobody there learns whether theirs is right, on a
    known device or not, for no hash is made. All others get in, and so does everybody when the window is over.
    """
    application, known = limited(node, 3), {DEVICE: ada.jar[DEVICE]}

    def browser(device: bool, **more: str) -> Browser:
        made = Browser(application, **{"email": ada.email, "peer": ada.peer, **more})
        made.jar = dict(known) if device else {}
        return made

    for number in range(3 + 2 * ACCOUNT_FAILURES):
        assert (await browser(number % 2 == 0).log_in()).status == 200
    with hashing() as done:
        answers: list[Answer] = []
        for device in (False, True):
            for password in (PASSWORD, WRONG):
                refused = browser(device)
                refused.password = password
                answers.append(await refused.log_in())
    assert done == []
    assert {answer.code for answer in answers} == {"throttled"}
    assert all(answer.comparable() == answers[0].comparable() for answer in answers)
    assert 0 < int(answers[0].header("retry-after")) <= node.policy.failure_window
    # The owner elsewhere, a neighbour at the same address, and who is signed in there.
    assert (await browser(False, peer="203.0.113.99").log_in()).status == 200
    neighbour = Browser(application, peer=ada.peer)
    assert (await neighbour.sign_up()).status == 201
    assert (await neighbour.log_in()).status == 200
    ada.application = application
    assert (await ada.refresh()).status == 200
    change = {"current_password": PASSWORD, "new_password": "a passphrase that nobody floods with"}
    assert (await ada.send("POST", "/auth/password", change, bearer=True)).status == 204
    clock.advance(node.policy.failure_window)
    again = browser(False)
    again.password = change["new_password"]
    assert (await again.log_in()).status == 200


async def test_password_changes_of_one_account_from_one_address_are_bounded(
    node: Keyturn, ada: Browser, clock: FrozenClock
) -> None:
    """Who knows a password has no hashes made, and no events kept, without end by changing it: two of one, one of the other each.

    Logins have a counter of their own: with it full the password can still be changed, and the other way round.
    """
    ada.application = limited(node, 3)

    async def change(browser: Browser = ada) -> str:
        body = {"current_password": browser.password, "new_password": PASSWORD}
        return (await browser.send("POST", "/auth/password", body, bearer=True)).code

    assert {await change() for _ in range(3 + 2 * ACCOUNT_FAILURES)} == {"204"}
    with hashing() as done:
        assert await change() == "throttled"
        ada.password = WRONG
        assert await change() == "throttled"
    assert done == []
    ada.password = PASSWORD
    assert (await ada.refresh()).status == 200
    assert (await ada.log_in()).status == 200
    elsewhere = Browser(ada.application, email=ada.email)
    assert (await elsewhere.log_in()).status == 200
    assert await change(elsewhere) == "204"
    clock.advance(node.policy.failure_window)
    assert (await ada.log_in()).status == 200
    assert await change() == "204"


async def test_guesses_beside_an_owner_take_none_of_their_logins(
    node: Keyturn, ada: Browser, clock: FrozenClock
) -> None:
    """Whoever does not know the password, at the owner's own address, cannot use their logins up, whenever they guess."""
    application, half = limited(node, 3), node.policy.failure_window / 2
    owner = Browser(application, email=ada.email, peer=ada.peer)
    owner.jar = {DEVICE: ada.jar[DEVICE]}

    async def guess() -> str:
        guesser = Browser(application, email=ada.email, peer=ada.peer)
        guesser.password = WRONG
        return (await guesser.log_in()).code

    # Two windows of failures fall into the one of logins that begins in the middle.
    assert (await owner.log_in()).status == 200
    clock.advance(half)
    assert await guess() == "invalid_credentials"
    clock.advance(half)
    assert (await owner.log_in()).status == 200
    codes = [await guess() for _ in range(ACCOUNT_FAILURES)]
    clock.advance(half)
    codes += [await guess() for _ in range(ACCOUNT_FAILURES + 1)]
    guesses = Counter(codes)
    assert guesses == {"invalid_credentials": 2 * ACCOUNT_FAILURES - 1, "throttled": 2}
    assert [(await owner.log_in()).status for _ in range(4)] == [200, 200, 200, 429]


async def test_log_in_again_in_an_account_that_is_full(ada: Browser, clock: FrozenClock) -> None:
    """A browser that signs in anew makes room by the session that it gives up: nobody is signed out for it, least of all it
    itself, by the answer to a refresh that is still under way.
    """
    clock.advance(1)
    others = [Browser(ada.application, email=ada.email) for _ in range(49)]
    for other in others:
        assert (await other.log_in()).status == 200
    before = ada.copy()
    for again in (others[-1], ada):
        assert (await again.log_in()).status == 200
    late = await before.refresh()
    assert (late.code, late.cookies) == ("session_ended:logout", {})
    assert {each["id"] for each in await ada.sessions()} == {each.session_id for each in (ada, *others)}


def test_password_that_is_long_to_judge() -> None:
    """One of 1 024 letters that become three each is judged in as few steps as any: all requests wait meanwhile."""
    steps: Counter[str] = Counter()

    def count(frame: FrameType, kind: str, _: object) -> Any:
        # A character each, which is done in no time. Since Python 3.12 a list is made by the function around it, and counts.
        steps[kind] += frame.f_code.co_name != "<genexpr>"
        return count

    policy = PasswordPolicy(15)
    policy.check("a list is loaded for it")
    before = sys.gettrace()
    sys.settrace(count)
    try:
        policy.check("\u0390" * 1020 + "b\U0001f600xx")
    finally:
        sys.settrace(before)
    assert 20 < steps["line"] < 2000


@pytest.mark.parametrize(
    "password", ["password", "correcthorsebatterystaple", "aaaaaaaaaaaaaaaaaaaa", "keyturnkeyturnkeyturn", "x" * 14]
)
async def test_guessable_password_is_not_taken(bob: Browser, password: str) -> None:
    """Short, common, repeated and site-named passwords are refused at sign-up and at a change."""
    browser = Browser(bob.application)
    browser.password = password
    answer = await browser.sign_up()
    if password != "correcthorsebatterystaple":
        assert answer.code == "invalid_request"
    change = {"current_password": PASSWORD, "new_password": password if answer.status != 201 else "x" * 8}
    assert (await bob.send("POST", "/auth/password", change, bearer=True)).code == "invalid_request"


async def test_password_made_of_the_users_own_words_is_not_taken(bob: Browser) -> None:
    """Neither of their address nor of their name, at sign-up and at a change."""
    browser, name = Browser(bob.application, email="countess.lovelace@example.com"), "Augusta King-Noel"
    made = ["lovelace-countess-1815", "king-noel-augusta-1815"]
    for browser.password in made:
        assert (await browser.sign_up(name=name)).code == "invalid_request"
    browser.password = PASSWORD
    assert (await browser.sign_up(name=name)).status == 201
    for password in made:
        change = {"current_password": PASSWORD, "new_password": password}
        assert (await browser.send("POST", "/auth/password", change, bearer=True)).code == "invalid_request"
