"""Every lifetime and limit, each with its reason and its source, and the combinations that are refused.

Owns: the numbers. Must not hold: what is done with them (`rotation.py`, `login.py`, the shell).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields
from enum import StrEnum
from typing import Any, NamedTuple

from keyturn.core.errors import UnsafePolicy

HOUR = 3600.0
DAY = 24 * HOUR

REQUEST_LIMIT = 10.0
"""L: seconds after which a refresh is given up, by the client, by proxies and by render servers."""
CRASH_LOSS = 30.0
"""F: seconds of cookie writes that a crashing browser may lose (Chromium commits its jar every 30 s)."""
SETTLE_FLOOR = 3 * REQUEST_LIMIT + CRASH_LOSS
"""Seconds: L for a child's answer, L for a sibling's, F for a crash between them, L for a request that outlives it."""
LARGEST = 500_000_000
"""What any number may be at most: dates that many seconds ahead exist, and databases count thrice as many."""
LONGEST_LEEWAY = 120.0
"""Seconds by which a service that checks access tokens may let one live longer, at most."""
TAIL_FLOOR = 1.5 * REQUEST_LIMIT
"""Seconds: L for a straggler with the parent, and half of it again for clients that keep a request for longer than L."""
SHORTEST_PASSWORD = 8
"""Characters that every policy asks for, at least.  Spec: OWASP ASVS 5.0 6.2.1."""
LONGEST_MINIMUM = 64
"""Characters at most that a policy may ask for: so long a password has to be allowed.  Spec: OWASP ASVS 5.0 6.2.9."""


class Rotation(StrEnum):
    """Which rotation rule holds: confirmed, or the textbook rule for those who must have it."""

    CONFIRMED = "confirmed"
    STRICT = "strict"


class Drift(StrEnum):
    """What a changed user agent or address of a session does."""

    OFF = "off"
    NOTIFY = "notify"
    REQUIRE_LOGIN = "require_login"


def _number(default: Any, reason: str, source: str) -> Any:
    return field(default=default, metadata={"reason": reason, "source": source})


class Explained(NamedTuple):
    """One line of `Policy.explain()`."""

    name: str
    value: object
    reason: str
    source: str


class Problem(NamedTuple):
    """A combination of numbers that breaks a guarantee. `relaxable`: development may run with it; `keyturn doctor` tells."""

    code: str
    text: str
    relaxable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Hold every number of the protocol; refuse to exist with an unsafe combination.

    Why: each of these numbers stops a named failure. A silent change of one turns "no false logout, no silent thief"
    into a hope, so the inequalities are checked where the numbers meet and not where they are used.

    Args: see `Policy.explain()`, or `keyturn doctor --explain`; durations are seconds.
    Raises: UnsafePolicy: naming every broken rule, unless `relaxed` is true and all of them may be relaxed.
    Spec: OWASP ASVS 5.0 7.1.1, 7.3.1, 7.3.2 (documented and enforced inactivity and absolute lifetimes).
    """

    rotation: Rotation = _number(Rotation.CONFIRMED, "No false logout and no silent reuse at once.", "decision 0001")
    settle_time: float = _number(60.0, "No younger child confirms: racing tabs converge.", "rotation-proof.md")
    tail_time: float = _number(15.0, "A straggler may carry the parent for L after the confirm.", "rotation-proof.md")
    access_lifetime: float = _number(600.0, "How long a copied access token works at most.", "RFC 9700 2.2.2; 5-15 min")
    ssr_lifetime: float = _number(60.0, "A server-side render needs one page's worth of time.", "wire.md: ssr")
    clock_leeway: float = _number(5.0, "Verifying services' clocks differ a little.", "RFC 7519 4.1.4")
    inactivity_timeout: float = _number(HOUR, "An abandoned machine signs out.", "NIST SP 800-63B-4 2.2.3 (AAL2: 1 h)")
    remembered_inactivity_timeout: float = _number(14 * DAY, "Who is remembered comes back in 2 weeks.", "ASVS 7.3.1")
    absolute_lifetime: float = _number(DAY, "A person proves who they are daily.", "NIST SP 800-63B-4 2.2.3 (24 h)")
    remembered_absolute_lifetime: float = _number(
        30 * DAY, "No session outlives a month, however busy.", "NIST SP 800-63B-4 2.1.3 (AAL1: 30 d)"
    )
    touch_interval: float = _number(60.0, "Last-seen is worth one write a minute, not one a request.", "ours")
    max_sessions: int = _number(50, "Bounds what one account stores and lists; the oldest goes.", "ASVS 7.1.2")
    user_agent_drift: Drift = _number(Drift.NOTIFY, "Another browser with this cookie is worth an event.", "ASVS 7.5")
    address_drift: Drift = _number(Drift.OFF, "Phones change networks all day.", "ASVS 7.5")
    password_min_length: int = _number(15, "A password alone must resist guessing.", "NIST SP 800-63B-4 3.1.1.2")
    account_failures: int = _number(10, "Failures of one account before it slows down.", "ASVS 6.3.1")
    address_failures: int = _number(50, "Failures from one address before it slows down.", "ASVS 6.3.1")
    failure_window: float = _number(900.0, "Over which failures and logins are counted, in seconds.", "ASVS 6.3.1")
    hard_failures: int = _number(100, "Consecutive failures of one account, ever.", "NIST SP 800-63B-4 3.2.2")
    account_logins: int = _number(1000, "Logins of one account from one address; a flood makes 20 000.", "ASVS 2.4.1")
    signups_per_address: int = _number(20, "Sign-ups from one address per hour.", "ASVS 2.4.1")
    heal_time: float = _number(900.0, "How long after a failover lost commits are believed.", "decision 0012")
    key_rotation_period: float = _number(90 * DAY, "A signing key is replaced each quarter.", "NIST SP 800-57 1 5.3.6")
    key_publish_lead: float = _number(HOUR, "A new key is in every JWKS cache before it signs.", "ASVS 11.2.2")
    event_retention: float = _number(180 * DAY, "Security events outlive the longest investigation.", "ASVS 16.1.1")
    relaxed: bool = _number(False, "Only development: the time inequalities may be broken.", "wire.md: KEYTURN_ENV")

    def __post_init__(self) -> None:
        problems = [p for p in self.problems() if not (self.relaxed and p.relaxable)]
        if problems:
            raise UnsafePolicy([f"{p.code}: {p.text}" for p in problems])

    @property
    def strict(self) -> bool:
        return self.rotation is Rotation.STRICT

    @property
    def denylist_lifetime(self) -> float:
        """How long a revoked session stays on the denylist: until its last access token is dead everywhere.

        Why the longest one there may be: another node, or this one before a restart, may have other settings.
        """
        return HOUR + LONGEST_LEEWAY + 2 * self.clock_leeway

    def inactivity_for(self, *, remember: bool) -> float:
        return self.remembered_inactivity_timeout if remember else self.inactivity_timeout

    def absolute_for(self, *, remember: bool) -> float:
        return self.remembered_absolute_lifetime if remember else self.absolute_lifetime

    def explain(self) -> tuple[Explained, ...]:
        """List every number with its reason and its source."""
        return tuple(Explained(f.name, getattr(self, f.name), **f.metadata) for f in fields(self))

    def problems(self) -> Iterator[Problem]:
        """Yield every rule these numbers break; empty for a policy that holds the guarantees."""
        ranges = [problem for f in fields(self) if (problem := _out_of_range(f, getattr(self, f.name)))]
        yield from ranges
        if ranges:
            return
        for broken, code, text in self._inequalities():
            if broken:
                yield Problem(code, text, relaxable=code not in _NEVER_RELAXED)

    def _inequalities(self) -> Iterator[tuple[bool, str, str]]:
        if not self.strict:
            settle, tail, access = self.settle_time, self.tail_time, self.access_lifetime
            least = f"{SETTLE_FLOOR:g} s: thrice {REQUEST_LIMIT:g} s of a refresh and {CRASH_LOSS:g} s of lost cookies"
            yield (settle < SETTLE_FLOOR, "settle_too_short", f"settle_time {settle:g} s must be at least {least}")
            text = f"tail_time {tail:g} s must be at least {TAIL_FLOOR:g} s, for requests that a confirm has overtaken"
            yield (tail < TAIL_FLOOR, "tail_too_short", text)
            yield (tail >= settle, "tail_too_long", f"tail_time {tail:g} s must stay under settle_time {settle:g} s")
            text = f"access_lifetime {access:g} s must be at least 2 settle_time: a child confirms at the next refresh"
            yield (access < 2 * settle, "access_too_short", text)
        yield (self.access_lifetime > HOUR, "access_too_long", "access_lifetime over 3600 s: no verifier takes that")
        text = f"clock_leeway must be at most {LONGEST_LEEWAY:g} s"
        yield (self.clock_leeway > LONGEST_LEEWAY, "leeway_too_long", text)
        yield (self.ssr_lifetime > self.access_lifetime, "ssr_too_long", "ssr_lifetime must not exceed access_lifetime")
        yield (self.remembered_absolute_lifetime > 30 * DAY, "absolute_too_long", "no session may outlive 30 days")
        text = "a session nobody asked to remember lasts at most 24 h"
        yield (self.absolute_lifetime > DAY, "absolute_too_long", text)
        for kind, remember in (("", False), ("remembered_", True)):
            idle, life = (self.inactivity_for(remember=remember), self.absolute_for(remember=remember))
            name = f"{kind}inactivity_timeout"
            text = f"{name} {idle:g} s must not exceed the absolute lifetime {life:g} s"
            yield (idle > life, "inactivity_too_long", text)
            # A person is reported active once per refresh, and may then be a touch interval older.
            shortest = self.access_lifetime + max(self.access_lifetime, self.touch_interval)
            text = f"{name} {idle:g} s must be at least {shortest:g} s: of activity a refresh tells, and no sooner"
            yield (idle < shortest, "inactivity_too_short", text)
        text = f"password_min_length must be {SHORTEST_PASSWORD} to {LONGEST_MINIMUM}"
        yield (not SHORTEST_PASSWORD <= self.password_min_length <= LONGEST_MINIMUM, "password_min_length", text)


_NEVER_RELAXED = frozenset({"access_too_long", "leeway_too_long", "password_min_length"})
"""What no verifier would take, so that every request would be a 401; and a number that would be wrong anywhere."""
_MAY_BE_ZERO = frozenset({"settle_time", "tail_time", "clock_leeway", "touch_interval", "key_publish_lead"})


def _out_of_range(f: Field[Any], value: object) -> Problem | None:
    if isinstance(f.default, bool | StrEnum):
        kind = type(f.default)
        text = f"{f.name} = {value!r} must be a {kind.__name__}"
        return None if isinstance(value, kind) else Problem("out_of_range", text, relaxable=False)
    numbers = int if type(f.default) is int else int | float
    if isinstance(value, numbers) and 0 <= value <= LARGEST and (value or f.name in _MAY_BE_ZERO):
        return None
    text = f"{f.name} = {value!r} must be a positive {'whole ' if numbers is int else ''}number up to {LARGEST}"
    return Problem("out_of_range", text, relaxable=False)
