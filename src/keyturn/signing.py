"""The access-token signing keys of this node, in memory, kept in step with the store all nodes share.

Owns: loading, the first key, running the key schedule, re-sealing under a new secret, hearing that a key has leaked.
Must not hold: when a key lives (`tokens.signing_key.plan`), encryption (`tokens.sealed_key`), SQL (`stores`), tasks.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec

from keyturn.core.errors import KeyturnError, Unavailable
from keyturn.core.events import Event, EventType
from keyturn.ports import SigningKeyStore
from keyturn.tokens.sealed_key import NONCE_BYTES, SealedKeyError, named_kid, open_sealed, seal, sealing_id
from keyturn.tokens.secret_ring import SecretRing
from keyturn.tokens.signing_key import (
    KEY_ENTROPY_BYTES,
    KeyRotation,
    KeySchedule,
    SigningKey,
    SigningKeyRing,
    etag,
    plan,
)

_log = logging.getLogger(__name__)

OnEvent = Callable[[Event], Awaitable[None]]


class SecretDoesNotFit(KeyturnError):
    """There are signing keys in the database, and this node's secrets open none of them: its operator has to act."""


class JwkSet(NamedTuple):
    """The published keys: compact JSON, and its strong entity tag with quotes."""

    body: bytes
    etag: str


class _View(NamedTuple):
    """What follows from the ring until the next key appears or dies."""

    keys: Mapping[str, ec.EllipticCurvePublicKey]
    jwks: JwkSet
    since: float
    until: float


class NodeNotStarted(Exception):
    """No key was ever loaded. The log of a 503 shows this name, and whoever forgot the lifespan knows what to do."""


class _Stored(NamedTuple):
    sealed: tuple[bytes, ...]
    opened: Mapping[bytes, SigningKey]

    def closed(self) -> dict[str, bytes]:
        """Return what did not open but has the form of a sealed key, by the id it names."""
        found: dict[str, bytes] = {}
        for each in self.sealed:
            if each not in self.opened:
                with suppress(SealedKeyError):
                    found[named_kid(each)] = each
        return found


class _Planned(NamedTuple):
    ring: SigningKeyRing
    sealed: Sequence[bytes]
    created: Sequence[SigningKey]
    leaked: Collection[str]
    now: float
    """The database's clock when it was planned."""
    changes_anything: bool


class Signing:
    """Hold the keys: every question about them is answered from memory; `refresh` is the only I/O.

    Why: a node that loses its database goes on signing and verifying with what it has, and an unknown key id in a forged
    token must not become a query for each request.

    Attributes:
        lacking: ids of secrets under which others seal all keys, and which this node does not have: it could not start now.
    """

    def __init__(
        self,
        store: SigningKeyStore,
        secrets: SecretRing,
        *,
        schedule: KeySchedule,
        on_event: OnEvent | None = None,
    ) -> None:
        """Set up; nothing is loaded before the first `refresh`.

        Args:
            store: the sealed keys all nodes share.
            secrets: opens and seals them; the database does not hold it.
            schedule: how long keys live.
            on_event: takes `KEY_ROTATED` when this node has made a new key.
        """
        self._store = store
        self._secrets = secrets
        self._schedule = schedule
        self._on_event = on_event
        self._ring = SigningKeyRing(())
        self._view: _View | None = None
        self._lock = asyncio.Lock()
        self._leaked = asyncio.Event()
        self._leaked_kids: set[str] = set()
        self._leak_delay = 0.0
        self.lacking: frozenset[int] = frozenset()

    @property
    def ring(self) -> SigningKeyRing:
        """Every key this node knows, for listings."""
        return self._ring

    def ensure_loaded(self) -> None:
        """Raise `Unavailable` before the keys were loaded, as the start of a node does."""
        # A ring that was loaded has a key: where there was none, the schedule has made one.
        if not self._ring.keys:
            raise Unavailable("signing_keys") from NodeNotStarted("its lifespan was not entered")

    def signing_key(self, now: float) -> SigningKey:
        """Return the key that signs at `now`.

        Raises:
            Unavailable: no key was ever loaded, or none is active then.
        """
        self.ensure_loaded()
        try:
            return self._ring.signing_key(now)
        except LookupError as error:
            raise Unavailable("signing_keys") from error

    def verification_keys(self, now: float) -> Mapping[str, ec.EllipticCurvePublicKey]:
        """Return the public keys that count at `now`, by key id. No I/O; do not change it.

        Raises: Unavailable: no key was ever loaded.
        """
        return self._seen_at(now).keys

    def public_key(self, kid: str, now: float) -> ec.EllipticCurvePublicKey | None:
        """Return one public key if it counts at `now`; the verifier's `keys` argument. No I/O.

        Raises: Unavailable: no key was ever loaded: whether there is such a key is not known, and nobody is signed out.
        """
        key = self._ring.public_key(kid, now)
        if key is None:
            self.ensure_loaded()
        return key

    def jwks(self, now: float) -> JwkSet:
        """Return the JWK set to publish at `now` with its entity tag. No I/O.

        Raises: Unavailable: no key was ever loaded. Why: caches and services would keep an empty set for minutes.
        """
        return self._seen_at(now).jwks

    async def refresh(self) -> None:
        """Load the keys and run the schedule: at start, and from then on with each upkeep, about once a minute.

        The schedule goes by the database's clock: a node whose own is months ahead would replace everybody's keys. Several
        nodes may do this at once: each change is planned and made while nobody else can, so the others find it made. A
        change of the active secret re-seals every key.

        Raises:
            Unavailable: the store is at fault. What was known before is kept.
            SecretDoesNotFit: none of the stored keys opens with this node's secrets. What was known before is kept.
        """
        async with self._lock:
            sealed, now = await self._store.load()
            try:
                made = self._plan(KeyRotation.SCHEDULED, sealed, now)
            except SecretDoesNotFit:
                self.lacking = _sealing_ids(sealed).difference(self._secrets.ids)
                raise
            self.lacking = frozenset()
            if made.changes_anything:
                # Not what was just planned: its time may have passed before the lock was had.
                await self._change(KeyRotation.SCHEDULED)
            else:
                self._adopt(made.ring.keys)

    async def rotate(self, *, compromised: bool = False) -> SigningKey:
        """Replace the signing key ahead of its schedule and return the new one.

        Args:
            compromised: the private key leaked. Every token signed until now dies at once; otherwise none does.

        Raises:
            Unavailable, SecretDoesNotFit: as `refresh`.
        """
        async with self._lock:
            await self._change(KeyRotation.COMPROMISED if compromised else KeyRotation.FORCED)
        return self._ring.keys[-1]

    def hear(self, revoked: Collection[str]) -> None:
        """Take word of ids that were revoked; among them may be that of a key which leaked, and which still signs here."""
        self._leaked_kids.update(key.kid for key in self._ring.keys if key.kid in revoked)
        if self._leaked_kids:
            self._leaked.set()

    async def leak(self) -> None:
        """Return when a key that is known here has leaked, so that `refresh` is due; again each second until it is gone."""
        await self._leaked.wait()
        await asyncio.sleep(self._leak_delay)
        self._leak_delay = 1.0

    def close(self) -> None:
        """Let go of the event loop, once nobody waits here any more; what is known stays. The next may be another."""
        self._lock, self._leaked = asyncio.Lock(), asyncio.Event()
        self._leaked_kids.clear()

    async def _change(self, rotation: KeyRotation) -> None:
        made: list[_Planned] = []

        def plan_anew(sealed: Sequence[bytes], now: float) -> tuple[Sequence[bytes], Collection[str]]:
            made[:] = [self._plan(rotation, sealed, now)]
            return made[0].sealed, made[0].leaked

        await self._store.change(plan_anew)
        (done,) = made
        self._adopt(done.ring.keys)
        for key in done.created:
            await self._announce(key, rotation, done.now)

    def _plan(self, rotation: KeyRotation, sealed: Sequence[bytes], now: float) -> _Planned:
        stored = _Stored(tuple(sealed), open_stored(sealed, self._secrets))
        compromised = rotation is KeyRotation.COMPROMISED
        # A key that nothing hands over to signs at once, everywhere: it starts a little in the past, as nodes tell the time a
        # little differently.
        alone = not any(key.signs(now) for key in stored.opened.values())
        start = now - self._schedule.leeway if compromised or alone else now
        planned = plan(stored.opened.values(), start, os.urandom(KEY_ENTROPY_BYTES), self._schedule, rotation)
        # What does not open here may open elsewhere: it stays, unless every key must die.
        closed = {} if compromised else stored.closed()
        taken = {key.kid for key in planned.ring.keys}
        kept = [each for kid, each in closed.items() if kid not in taken]
        leaked = {*planned.remove, *stored.closed()} if compromised else set[str]()
        resealed = (*kept, *self._seal(stored.opened, planned.ring.keys))
        changes_anything = sorted(resealed) != sorted(stored.sealed)
        return _Planned(planned.ring, resealed, planned.create, leaked, now, changes_anything)

    def _seal(self, opened: Mapping[bytes, SigningKey], keys: Sequence[SigningKey]) -> Iterator[bytes]:
        """Yield the keys sealed; one that has not changed is not sealed again, unless the active secret has."""
        by_kid = {key.kid: each for each, key in opened.items()}
        for key in keys:
            each = by_kid.get(key.kid)
            if each is None or not _same(opened[each], key) or sealing_id(each) != self._secrets.active_id:
                each = seal(key, self._secrets, os.urandom(NONCE_BYTES))
            yield each

    def _adopt(self, keys: Iterable[SigningKey]) -> None:
        self._ring = SigningKeyRing(keys)
        self._view = None
        # Word of a leak may have come after these keys were read.
        self._leaked_kids.intersection_update(key.kid for key in self._ring.keys)
        if not self._leaked_kids:
            self._leaked.clear()
            self._leak_delay = 0.0

    async def _announce(self, key: SigningKey, rotation: KeyRotation, now: float) -> None:
        begins = datetime.fromtimestamp(key.activate_at, UTC).isoformat(timespec="seconds")
        _log.info("new signing key %s (%s), signs from %s", key.kid, rotation, begins)
        if self._on_event is not None:
            data = {"kid": key.kid, "rotation": rotation.value, "activate_at": f"{key.activate_at:.3f}"}
            try:
                await self._on_event(Event(EventType.KEY_ROTATED, now, data=data))
            except Exception:  # noqa: BLE001 - the key is made and in use, whoever hears of it
                _log.exception("on_event failed")

    def _seen_at(self, now: float) -> _View:
        view = self._view
        if view is None or not view.since <= now < view.until:
            self.ensure_loaded()
            turns = [at for key in self._ring.keys for at in (key.publish_at, key.expire_at) if at is not None]
            body = self._ring.jwks(now)
            view = self._view = _View(
                self._ring.verification_keys(now),
                JwkSet(body, etag(body)),
                since=max((at for at in turns if at <= now), default=float("-inf")),
                until=min((at for at in turns if at > now), default=float("inf")),
            )
        return view


def _sealing_ids(sealed: Iterable[bytes]) -> frozenset[int]:
    found: set[int] = set()
    for each in sealed:
        with suppress(SealedKeyError):
            found.add(sealing_id(each))
    return frozenset(found)


def open_stored(sealed: Iterable[bytes], secrets: SecretRing) -> dict[bytes, SigningKey]:
    """Open stored keys, by their sealed form; one that does not open is logged and left out.

    Raises:
        SecretDoesNotFit: none opens. To make a new key instead would end every session of the nodes with the right secret.
    """
    opened: dict[bytes, SigningKey] = {}
    closed: list[str] = []
    for each in sealed:
        try:
            opened[each] = open_sealed(each, secrets)
        except SealedKeyError as error:
            closed.append(str(error))
    if closed and not opened:
        why = ", ".join(dict.fromkeys(closed))
        raise SecretDoesNotFit(
            f"KEYTURN_SECRET opens no signing key in this database ({why}): put the line that sealed them below the"
            " first one, or is it the database of another deployment?"
        )
    for why in closed:
        _log.error("a stored signing key is left out: %s", why)
    return opened


def _same(one: SigningKey, other: SigningKey) -> bool:
    return (one.kid, one.publish_at, one.activate_at, one.retire_at, one.expire_at) == (
        other.kid,
        other.publish_at,
        other.activate_at,
        other.retire_at,
        other.expire_at,
    )
