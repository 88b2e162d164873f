"""What a device is called, and when a caller no longer looks like it."""

from __future__ import annotations

from typing import Any

import pytest

from keyturn.core.device import drift, label, network
from keyturn.core.policy import Drift, Policy
from tests.core.vectors import CONTACT, load, session

SESSION = session(load("refresh.json")["row"])


@pytest.mark.parametrize(
    ("browser", "system", "name"),
    [
        ("Firefox", "Windows", "Firefox on Windows"),
        ("Firefox", None, "Firefox"),
        (None, "Windows", "Windows"),
        ("", "", "Unknown device"),
        (None, None, "Unknown device"),
    ],
)
def test_label(browser: str | None, system: str | None, name: str) -> None:
    """A device is called by what is known of it."""
    assert label(browser, system) == name


@pytest.mark.parametrize(
    ("address", "reduced"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("198.51.100.254", "198.51.100.254"),
        ("2001:db8::1", "2001:0db8:0000:0000::/64"),
        ("2001:DB8:0:0:ffff:ffff:ffff:ffff", "2001:0db8:0000:0000::/64"),
        ("2001:db8:0:1::1", "2001:0db8:0000:0001::/64"),
        ("64:ff9b::203.0.113.9", "203.0.113.9"),
        ("64:ff9b:0:0:0:0:cb00:7109", "203.0.113.9"),
        ("64:ff9b:1::cb00:7109", "0064:ff9b:0001:0000::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:c000:201", "192.0.2.1"),
        ("unix", "unix"),
        ("", ""),
    ],
)
def test_network(address: str, reduced: str) -> None:
    """An IPv6 subscriber is one network however the address is written; IPv4 in IPv6 is IPv4."""
    assert network(address) == reduced


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, Drift.OFF),
        ({"user_agent": "agent/2"}, Drift.OFF),
        ({"device": "Safari on macOS"}, Drift.OFF),
        ({"user_agent": "other", "device": "Safari on macOS"}, Drift.NOTIFY),
        ({"ip": "203.0.113.9"}, Drift.REQUIRE_LOGIN),
        ({"ip": "::ffff:192.0.2.1"}, Drift.OFF),
        ({"ip": "203.0.113.9", "user_agent": "other", "device": "Safari on macOS"}, Drift.REQUIRE_LOGIN),
    ],
)
def test_drift(changes: dict[str, Any], found: Drift) -> None:
    """A new version is no new browser, another way to write an address no new network; the graver finding counts."""
    policy = Policy(user_agent_drift=Drift.NOTIFY, address_drift=Drift.REQUIRE_LOGIN)
    assert drift(SESSION, CONTACT._replace(**changes), policy) is found


@pytest.mark.parametrize("found", Drift)
def test_drift_of_one_kind(found: Drift) -> None:
    """A caller who differs in one of the two meets what the policy says of that one, whatever it is."""
    moved = CONTACT._replace(ip="203.0.113.9")
    assert drift(SESSION, moved, Policy(user_agent_drift=Drift.OFF, address_drift=found)) is found
    other = CONTACT._replace(user_agent="other", device="Safari on macOS")
    assert drift(SESSION, other, Policy(user_agent_drift=found, address_drift=Drift.OFF)) is found


def test_drift_of_which_the_user_agent_is_graver() -> None:
    """The graver of the two findings counts, whichever it is."""
    stranger = CONTACT._replace(ip="203.0.113.9", user_agent="other", device="Safari on macOS")
    policy = Policy(user_agent_drift=Drift.REQUIRE_LOGIN, address_drift=Drift.NOTIFY)
    assert drift(SESSION, stranger, policy) is Drift.REQUIRE_LOGIN
