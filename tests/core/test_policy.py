"""Every number has a reason, and no combination that breaks a guarantee comes into being."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from typing import Any, cast

import pytest

from keyturn.core.errors import UnsafePolicy
from keyturn.core.policy import DAY, HOUR, SETTLE_FLOOR, TAIL_FLOOR, Drift, Policy, Rotation
from keyturn.tokens.password_policy import PasswordPolicy


def codes(**numbers: Any) -> list[str]:
    """List the problems of these numbers."""
    try:
        Policy(**numbers)
    except UnsafePolicy as error:
        return [problem.split(":")[0] for problem in error.problems]
    return []


def test_shipped_policy() -> None:
    """What is shipped breaks no rule, in either mode, and has the protocol's numbers."""
    policy = Policy()
    assert list(policy.problems()) == []
    assert list(Policy(rotation=Rotation.STRICT).problems()) == []
    assert (policy.settle_time, policy.tail_time, policy.access_lifetime) == (60.0, 15.0, 600.0)
    assert (SETTLE_FLOOR, TAIL_FLOOR) == (60.0, 15.0)
    assert policy.touch_interval == 60.0


@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ({"settle_time": 59.9}, "settle_too_short"),
        ({"tail_time": 14.9}, "tail_too_short"),
        ({"tail_time": 60.0}, "tail_too_long"),
        ({"access_lifetime": 119.0, "ssr_lifetime": 60.0}, "access_too_short"),
        ({"ssr_lifetime": 601.0}, "ssr_too_long"),
        ({"remembered_absolute_lifetime": 30 * DAY + 1}, "absolute_too_long"),
        ({"absolute_lifetime": DAY + 1}, "absolute_too_long"),
        ({"inactivity_timeout": DAY + 1}, "inactivity_too_long"),
        ({"remembered_inactivity_timeout": 30 * DAY + 1}, "inactivity_too_long"),
        ({"inactivity_timeout": 1199.0}, "inactivity_too_short"),
        ({"remembered_inactivity_timeout": 1199.0}, "inactivity_too_short"),
        ({"inactivity_timeout": 1300.0, "touch_interval": 701.0}, "inactivity_too_short"),
    ],
)
def test_broken_inequality(numbers: dict[str, Any], code: str) -> None:
    """Each rule is refused by name on its own, and may be broken only where it is said aloud."""
    assert codes(**numbers) == [code]
    relaxed = Policy(**numbers, relaxed=True)
    assert [problem.code for problem in relaxed.problems()] == [code]


@pytest.mark.parametrize(
    "numbers",
    [
        {"settle_time": 60.0, "tail_time": 15.0, "access_lifetime": 120.0},
        {"tail_time": 59.0},
        {"access_lifetime": HOUR, "inactivity_timeout": 2 * HOUR},
        {"ssr_lifetime": 600.0},
        {"inactivity_timeout": 1200.0},
        {"inactivity_timeout": 1300.0, "touch_interval": 700.0},
        {"inactivity_timeout": DAY, "remembered_inactivity_timeout": 30 * DAY},
        {"password_min_length": 8},
        {"password_min_length": 64},
        {"clock_leeway": 0.0, "touch_interval": 0, "key_publish_lead": 0},
        {"clock_leeway": 120.0},
    ],
)
def test_inequality_at_its_bound(numbers: dict[str, Any]) -> None:
    """The bounds themselves are allowed."""
    assert codes(**numbers) == []


@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ({"access_lifetime": HOUR + 1, "inactivity_timeout": 3 * HOUR}, "access_too_long"),
        ({"clock_leeway": 120.1}, "leeway_too_long"),
    ],
)
def test_what_no_verifier_would_take(numbers: dict[str, Any], code: str) -> None:
    """Refused relaxed or not: each request would be refused, or the node not start."""
    for relaxed in (False, True):
        assert codes(**numbers, relaxed=relaxed) == [code]


@pytest.mark.parametrize("length", [1, 7, 65, 1024])
def test_password_length_that_no_policy_may_have(length: int) -> None:
    """Refused relaxed or not, and by the rules for passwords as well: a node with it would not start."""
    for relaxed in (False, True):
        assert codes(password_min_length=length, relaxed=relaxed) == ["password_min_length"]
    with pytest.raises(ValueError, match="8 to 64"):
        PasswordPolicy(length)


@pytest.mark.parametrize("name", [f.name for f in fields(Policy)])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), 500_000_001, "60", None])
def test_value_out_of_range(name: str, value: Any) -> None:
    """What is no positive number, or one that no date or database has, or no member where one is asked for, is refused, relaxed or not."""
    assert codes(**{name: value}) == ["out_of_range"]
    if name != "relaxed":
        assert codes(**{name: value}, relaxed=True) == ["out_of_range"]


@pytest.mark.parametrize("name", ["rotation", "address_drift"])
def test_name_of_a_member(name: str) -> None:
    """A member's bare name is refused by name: taken silently, it would be neither of the modes."""
    with pytest.raises(UnsafePolicy, match=f"{name} = 'strict' must be a (Rotation|Drift)"):
        Policy(**cast("dict[str, Any]", {name: "strict"}))


@pytest.mark.parametrize("name", [f.name for f in fields(Policy) if type(f.default) is int])
def test_half_of_a_whole(name: str) -> None:
    """Nobody has half a session, and no database counts half an attempt."""
    assert codes(**{name: 10.5}) == codes(**{name: 10.0}) == ["out_of_range"]
    assert codes(**{name: 10}) == []


@pytest.mark.parametrize("name", ["access_lifetime", "max_sessions", "hard_failures"])
def test_zero(name: str) -> None:
    """Zero is no lifetime and no cap."""
    assert "out_of_range" in codes(**{name: 0})
    assert "out_of_range" in codes(**{name: 0}, relaxed=True)


def test_strict_mode_without_the_protocol() -> None:
    """In strict mode the settle time and the tail mean nothing, so nothing is asked of them."""
    assert codes(rotation=Rotation.STRICT, settle_time=0.0, tail_time=0.0) == []


def test_all_problems_at_once() -> None:
    """Start-up names everything that is wrong, not the first thing."""
    assert codes(settle_time=10.0, tail_time=1.0, password_min_length=4) == [
        "settle_too_short",
        "tail_too_short",
        "password_min_length",
    ]


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ({"tail_time": 5.0}, "tail_time 5 s must be at least 15 s, for requests that a confirm has overtaken"),
        (
            {"access_lifetime": 100.0},
            "access_lifetime 100 s must be at least 2 settle_time: a child confirms at the next refresh",
        ),
        ({"access_lifetime": 3601.0, "inactivity_timeout": DAY}, "access_lifetime over 3600 s: no verifier takes that"),
        (
            {"inactivity_timeout": 700.0},
            "inactivity_timeout 700 s must be at least 1200 s: of activity a refresh tells, and no sooner",
        ),
    ],
)
def test_reasons(numbers: dict[str, Any], text: str) -> None:
    """Whoever is refused a number is told why, and which one will do."""
    with pytest.raises(UnsafePolicy, match=text):
        Policy(**numbers)


def test_explained() -> None:
    """Every number says why it is what it is and who says so."""
    lines = Policy(tail_time=20.0).explain()
    assert [line.name for line in lines] == [f.name for f in fields(Policy)]
    assert all(line.reason.endswith(".") and line.source for line in lines)
    assert next(line for line in lines if line.name == "tail_time").value == 20.0


def test_frozen() -> None:
    """A policy does not change after it was checked."""
    with pytest.raises(FrozenInstanceError):
        Policy().settle_time = 0.0  # type: ignore[misc]


def test_denylist_lifetime() -> None:
    """A revoked session is remembered until the longest access token that any policy allows is dead on the slowest clock and
    the most lenient service.
    """
    assert Policy().denylist_lifetime == 3600.0 + 120.0 + 10.0
    assert Policy(access_lifetime=300.0, ssr_lifetime=300.0, clock_leeway=10.0).denylist_lifetime == 3740.0


def test_remembered_or_not() -> None:
    """Remembered sessions have deadlines of their own."""
    policy = Policy()
    assert (policy.inactivity_for(remember=False), policy.inactivity_for(remember=True)) == (HOUR, 14 * DAY)
    assert (policy.absolute_for(remember=False), policy.absolute_for(remember=True)) == (DAY, 30 * DAY)
    assert policy.address_drift is Drift.OFF
