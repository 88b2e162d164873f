"""What a service knows of the server's keys, and when it may and when it must ask again.

Owns: the decision, over times that are arguments. Must not hold: HTTP (`fetching.py`), threads (`background.py`), clocks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec

from keyturn.core.errors import Unavailable
from keyturn.tokens.jwk_set import read_jwk_set

DEFAULT_MAX_AGE: Final = 300.0
"""Seconds a set counts as fresh when its answer does not say; what the server says of its own."""
LONGEST_MAX_AGE: Final = 3600.0
"""Why: a withdrawn key must not be believed for as long as a cache in between likes."""
KEEP_TIME: Final = 86400.0
"""Seconds for which keys are used while the server cannot be reached: long enough for an outage of a day, and not for ever, or
whoever cuts us off could keep a withdrawn key alive."""
_FIRST_PAUSE: Final = 1.0
_UNASKED: Final = 300.0
"""Seconds for which a set that is no more fresh is used while news is fetched beside. Why no longer: in a service that has been idle
nobody has asked meanwhile, and the first token of a night may be one of a key that was withdrawn the day before."""

_MAX_AGE: Final = re.compile(r"(?:^|[,\s])max-age=(\d{1,9})(?:$|[,\s])", re.IGNORECASE)
_NOT_KEPT: Final = re.compile(r"(?:^|[,\s])no-(?:store|cache)(?:$|[,\s=])", re.IGNORECASE)


class Reply(NamedTuple):
    """What the server answered: status 200 with a body, or 304."""

    status: int
    body: bytes = b""
    etag: str | None = None
    cache_control: str = ""
    age: str = ""


class KeysWanted(Unavailable):
    """The answer depends on keys that may be fetched now. Where nobody fetches, it is a fault like any other.

    Args:
        beside: nobody is to wait for them.
        former: the key as it was known long ago, for when the server hangs.
    """

    def __init__(self, *, beside: bool, former: ec.EllipticCurvePublicKey | None) -> None:
        super().__init__("jwks")
        self.beside: Final = beside
        self.former: Final = former


class _State(NamedTuple):
    keys: Mapping[str, ec.EllipticCurvePublicKey]
    etag: str | None
    sure_until: float
    usable_until: float
    fresh_until: float
    next_at: float
    failures: int


_NEVER: Final = float("-inf")


class KnownKeys:
    """Keys by id, as they were last fetched. All times are seconds by one monotonic clock.

    One writer at a time, any number of readers in any threads: what is known is one value that is replaced whole.

    Why `interval`: a thousand tokens with invented key ids must cost one request, not a thousand.

    Args:
        interval: seconds between two requests, at least.
    """

    __slots__ = ("_interval", "_state", "due_at")

    def __init__(self, interval: float) -> None:
        self._interval: Final = interval
        self._state = _State({}, None, _NEVER, _NEVER, _NEVER, _NEVER, 0)
        self.due_at = _NEVER
        """From then on it is worth asking, although what is known still counts."""

    @property
    def etag(self) -> str | None:
        """The entity tag of what is known, to ask for news alone."""
        return self._state.etag

    def is_known(self, now: float) -> bool:
        """Say whether there are keys to check tokens with."""
        return now < self._state.usable_until

    def may_ask(self, now: float) -> bool:
        """Say whether the last request is long enough ago."""
        return now >= self._state.next_at

    def public_key(self, kid: str, now: float) -> ec.EllipticCurvePublicKey | None:
        """Return a key; None when the server has no key with this id.

        Raises:
            KeysWanted: it is not here and may be fetched now.
            Unavailable: nobody knows, because the last request failed: a fault of the server must sign nobody out.
        """
        state = self._state
        known = now < state.usable_until
        key = state.keys.get(kid) if known else None
        if key is not None and now < state.sure_until:
            return key
        if now >= state.next_at:
            # Where a server hung the last time, invented key ids would hold every thread while others' keys are known.
            raise KeysWanted(beside=known and state.failures > 0, former=key)
        if key is not None:
            return key
        if state.failures:
            raise Unavailable("jwks", retry_after=state.next_at - now)
        return None

    def learn(self, reply: Reply, now: float) -> None:
        """Take an answer.

        Raises:
            ValueError: it holds no readable keys; what was known stays.
        """
        state = self._state
        keys, etag = (state.keys, state.etag) if reply.status == 304 else (read_jwk_set(reply.body), reply.etag)
        fresh_until, next_at = now + _freshness(reply), now + self._interval
        self._replace(_State(keys, etag, fresh_until + _UNASKED, now + KEEP_TIME, fresh_until, next_at, 0))

    def fail(self, now: float) -> None:
        """Take note of a request that failed. Without any keys the next one comes sooner, as everything waits for it."""
        state = self._state
        pause = self._interval
        if not self.is_known(now):
            pause = min(pause, _FIRST_PAUSE * 2.0 ** min(state.failures, 16))
        failures = state.failures + 1
        self._replace(state._replace(sure_until=state.usable_until, next_at=now + pause, failures=failures))

    def _replace(self, state: _State) -> None:
        self._state = state
        self.due_at = max(state.fresh_until, state.next_at)


def _freshness(reply: Reply) -> float:
    """Read for how many seconds an answer is fresh.  Spec: RFC 9111 4.2."""
    if _NOT_KEPT.search(reply.cache_control):
        return 0.0
    found = _MAX_AGE.search(reply.cache_control)
    max_age = DEFAULT_MAX_AGE if found is None else float(found[1])
    age = float(reply.age) if reply.age.isascii() and reply.age.isdigit() else 0.0
    return min(max(0.0, max_age - age), LONGEST_MAX_AGE)
