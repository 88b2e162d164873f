"""The core does what `spec/vectors` says, row by row."""

from __future__ import annotations

from typing import Any

import pytest

from keyturn.core.cookie import read, render
from keyturn.core.csrf import CsrfRequest, verdict
from keyturn.core.model import SessionId
from keyturn.core.policy import Policy, Rotation
from keyturn.core.rotation import Outcome, decide
from keyturn.tokens.refresh_token import RefreshTokens
from tests.core.vectors import CONTACT, fingerprint, load, minter, presented, session

REFRESH = load("refresh.json")
COOKIE = load("cookie.json")
CSRF = load("csrf.json")


def cases(rows: list[dict[str, Any]]) -> Any:
    """Parametrise a test by the vectors of a list; their names are the tests' names."""
    names = [row["name"] for row in rows]
    assert len(set(names)) == len(names), "two vectors of one name"
    return pytest.mark.parametrize("case", rows, ids=names)


def test_outcomes_closed() -> None:
    """The vectors know every outcome, and each occurs."""
    assert REFRESH["outcomes"] == [outcome.value for outcome in Outcome]
    assert {case["expect"]["outcome"] for case in REFRESH["decisions"]} == set(REFRESH["outcomes"])


@cases(REFRESH["decisions"])
def test_decision(case: dict[str, Any]) -> None:
    """Row and token in; outcome, changes of the row, cookie, reason and events out; nothing else changes."""
    numbers = REFRESH["policies"][case["policy"]]
    policy = Policy(**numbers | {"rotation": Rotation(numbers["rotation"])})
    row = None if case["row"] is None else REFRESH["row"] | case["row"]
    before = None if row is None else session(row)
    made: list[tuple[int, bytes]] = []
    contact = CONTACT._replace(idle_seconds=case["idle_seconds"])
    decision = decide(
        before,
        presented(case["token"]),
        case["now"],
        policy,
        contact=contact,
        mint=minter(made),
        healing=case["healing"],
    )
    expected = case["expect"]
    assert decision.outcome == expected["outcome"]
    assert decision.write.name.lower() == expected["write"]
    assert decision.session == (None if row is None else session(row | expected["changes"]))
    assert decision.reason == expected["reason"]
    assert [event.type for event in decision.events] == expected["events"]
    assert (decision.child is not None) == expected["cookie"]
    assert decision.outcome.accepted == (expected["outcome"] in {"rotate", "early", "confirm", "tail"})
    if expected["cookie"]:
        # A child of the token that is current by now. In strict mode that is the child itself, of the one presented.
        after = REFRESH["row"] | case["row"] | expected["changes"]
        name, generation = after["current"], after["generation"]
        if policy.strict:
            name, generation = case["token"]["name"], case["token"]["generation"]
        assert made == [(generation + 1, fingerprint(name))]


@cases(REFRESH["minted"])
def test_token_minted(case: dict[str, Any]) -> None:
    """The same fields under the same key are the same text."""
    keys = {int(key): bytes.fromhex(text) for key, text in REFRESH["keys"].items()}
    tokens = RefreshTokens(keys, case["active_key"])
    mint = tokens.minter(bytes.fromhex(case["random"]))
    session_id, parent = (bytes.fromhex(case[field]) for field in ("session_id", "parent_fingerprint"))
    made = mint(SessionId(session_id), case["generation"], case["now"], parent)
    assert made.text == case["token"]
    assert made.token_hash.hex() == case["token_hash"]


@cases(REFRESH["read"])
def test_token_read(case: dict[str, Any]) -> None:
    """A token is authentic byte for byte or it is nothing."""
    keys = {int(key): bytes.fromhex(text) for key, text in REFRESH["keys"].items()}
    found = RefreshTokens(keys, 1).read(case["token"].encode())
    assert ("invalid" if found is None else "authentic") == case["outcome"]


@cases(COOKIE["read"])
def test_cookie_read(case: dict[str, Any]) -> None:
    """Every value of exactly this name, and of no look-alike."""
    headers = [header.encode() for header in case["headers"]]
    assert read(headers, COOKIE["cookie"].encode()) == [value.encode() for value in case["values"]]


@cases(COOKIE["rendered"])
def test_cookie_rendered(case: dict[str, Any]) -> None:
    """Our cookies carry the attributes that bind them to this host, to TLS and to the site."""
    options = {key: case[key] for key in ("max_age", "http_only", "same_site")}
    assert render(case["cookie"].encode(), case["value"], **options).decode() == case["set_cookie"]


@cases(CSRF["requests"])
def test_csrf_verdict(case: dict[str, Any]) -> None:
    """Custom header, Fetch Metadata and Origin: a request passes all of the locks that it meets."""
    request = CsrfRequest(case["header"], case["sec_fetch_site"], case["origin"], case["origin_present"])
    judged = verdict(request, frozenset(CSRF["trusted_origins"]))
    assert judged.allowed == (case["outcome"] == "allowed")
    assert bool(judged.why) != judged.allowed
