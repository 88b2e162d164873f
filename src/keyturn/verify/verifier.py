"""Checking access tokens in a service that is not the auth server.

Owns: composition and the two ways to wait, blocking and not. Must not hold: what makes a token valid (`tokens/`), when
keys are fetched (`keys.py`), what a request needs beyond a valid token (`guard.py`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from math import inf
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from keyturn.core.errors import Unavailable
from keyturn.core.model import Principal
from keyturn.ports import Clock, MonotonicClock
from keyturn.tokens.access_token import AccessTokenVerifier
from keyturn.tokens.verified_cache import VerifiedTokenCache
from keyturn.verify.background import FollowedDenylist, Pending, SingleFlight, Waits
from keyturn.verify.fetching import JWKS_PATH, FetchFault, KeySource
from keyturn.verify.keys import KeysWanted, KnownKeys

_logger = logging.getLogger(__name__)

_WAITS: Final = 2
"""How often a judgement waits at most: once for keys, once for revocations."""


class Verifier:
    """Turn access tokens into principals, by the server's published keys.

    Keys are fetched when the first token needs them, kept as long as the server's answer says, then fetched anew beside
    the requests. An unknown key id makes one request per interval at most, and a server that cannot be reached ends
    nobody's work: known keys go on for a day. A token of a key that is not known is then a fault (503), and never a 401.

    One for a process, made once: it is safe in any thread and in any event loop of asyncio's.

    Args:
        issuer: the server's `KEYTURN_ISSUER`, by default its base URL: the exact `iss` of its tokens.
        audience: the server's `KEYTURN_AUDIENCE`, one or several of which one must be in `aud`; the issuer when None.
        jwks_url: where the keys are published; below the issuer when None.
        revocations: the URL of the server's database or Redis, to refuse what was revoked before it expired; needs
            the driver (`asyncpg`, `redis`, `aiosqlite`). None: a token counts until it expires.
        leeway: seconds of clock difference to forgive.
        refetch_interval: seconds between two requests for keys, at least.
        timeout: seconds for such a request, and as many again, at most, for each way to connect: see `KeySource`.
        allow_http: fetch keys over http from another machine; only for development.
        clock: seconds since the Unix epoch. monotonic: seconds, never set back.

    Raises: ValueError: an address that is not https, or another argument that is of no use.

    Spec: RFC 9068 4; RFC 8725 3; OWASP ASVS 5.0 9.1.1-9.2.4.
    """

    def __init__(
        self,
        issuer: str,
        audience: str | Iterable[str] | None = None,
        *,
        jwks_url: str | None = None,
        revocations: str | None = None,
        leeway: float = 10.0,
        refetch_interval: float = 10.0,
        timeout: float = 3.0,
        allow_http: bool = False,
        clock: Clock = time.time,
        monotonic: MonotonicClock = time.monotonic,
    ) -> None:
        if not (0 < refetch_interval < inf and 0 < timeout < inf):
            raise ValueError("intervals and timeouts are positive")
        url = issuer.rstrip("/") + JWKS_PATH if jwks_url is None else jwks_url
        self._source: Final = KeySource(url, timeout=timeout, allow_http=allow_http)
        self.clock: Final = clock
        self._monotonic: Final = monotonic
        self._keys: Final = KnownKeys(refetch_interval)
        self._fetching: Final = SingleFlight(self._fetch, name="keyturn keys", dependency="jwks", patience=2 * timeout)
        self._denylist: Final = (
            None if revocations is None else FollowedDenylist(revocations, patience=2 * timeout, clock=clock)
        )
        judge = AccessTokenVerifier(self._key_of, issuer, issuer if audience is None else audience, leeway=leeway)
        revoked = frozenset[str]() if self._denylist is None else self._denylist
        self._cache: Final = VerifiedTokenCache(judge, revoked=revoked)

    def authenticate(self, token: str) -> Principal:
        """Turn an access token into a principal. Blocks only while keys or revocations are loaded.

        Raises:
            InvalidToken: for every token that must not be believed, revoked ones included.
            Unavailable: nobody can tell: the server has not answered yet.
        """
        # Not a `for`: to begin one takes a tenth of the check of a token that was seen before.
        waited = 0
        while True:
            try:
                return self._judge(token)
            except Waits as waits:
                if waited == _WAITS:
                    raise
                pending = waits.begin()
            pending.wait()
            waited += 1

    async def authenticate_async(self, token: str) -> Principal:
        """Do as `authenticate`; what has to be loaded never blocks the event loop."""
        waited = 0
        while True:
            try:
                return self._judge(token)
            except Waits as waits:
                if waited == _WAITS:
                    raise
                pending = waits.begin()
            await pending.wait_async()
            waited += 1

    def load(self) -> bool:
        """Load keys and revocations before the first token comes; say whether they are here.

        Optional, and no harm when the server is down: whatever is missing is loaded when it is needed. In a program
        that forks its workers, each follows revocations by itself.
        """
        for pending in self._begin():
            pending.wait()
        return self.is_ready()

    async def load_async(self) -> bool:
        """Do as `load` without blocking the event loop."""
        for pending in self._begin():
            await pending.wait_async()
        return self.is_ready()

    def is_ready(self) -> bool:
        """Say whether tokens can be checked now, for a readiness probe; if not, begin to load what is missing.

        Why begin: until it says so no token may come, which would.
        """
        ready = self._keys.is_known(self._monotonic()) and (self._denylist is None or self._denylist.is_loaded)
        if not ready:
            self._begin()
        return ready

    def close(self) -> None:
        """Stop following revocations; the next token that is checked, or a probe, would begin anew."""
        if self._denylist is not None:
            self._denylist.close()

    def _begin(self) -> list[Pending]:
        wanted = [] if self._keys.is_known(self._monotonic()) else [self._fetching.begin]
        begun: list[Pending] = []
        for begin in wanted if self._denylist is None else [*wanted, self._denylist.begin]:
            with suppress(Unavailable):  # whatever cannot begin now does when it is needed
                begun.append(begin())
        return begun

    def _judge(self, token: str) -> Principal:
        principal = self._cache.authenticate(token, self.clock())
        if self._monotonic() >= self._keys.due_at:
            with suppress(Unavailable):  # nobody waits for it
                self._fetching.begin()
        return principal

    def _key_of(self, kid: str, _now: float) -> ec.EllipticCurvePublicKey | None:
        try:
            return self._keys.public_key(kid, self._monotonic())
        except KeysWanted as wanted:
            beside, former = wanted.beside, wanted.former
        if former is not None and self._is_in_vain():
            return former
        if not beside:
            raise Waits("jwks", self._fetching.begin)
        self._fetching.begin()
        raise Unavailable("jwks")

    def _is_in_vain(self) -> bool:
        """Say whether nobody is to wait for the keys now: the server hangs, or there is no thread to ask it in."""
        try:
            return self._fetching.begin().is_given_up()
        except Unavailable:
            return True

    def _fetch(self) -> None:
        # Whoever was a moment too late to join finds it done.
        if not self._keys.may_ask(self._monotonic()):
            return
        try:
            reply = self._source.fetch(self._keys.etag)
            self._keys.learn(reply, self._monotonic())
            return
        except (FetchFault, ValueError) as fault:
            _logger.warning("the keys could not be fetched from %s: %s", self._source.url, fault)
        except Exception:
            # Whatever it was, the next request has to wait its time: or every token would make one.
            _logger.exception("the keys could not be fetched from %s", self._source.url)
        self._keys.fail(self._monotonic())
