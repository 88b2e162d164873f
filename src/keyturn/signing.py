"""The access-token signing keys of this node, in memory, kept in step with the store all nodes share.

Owns: loading, the first key, running the key schedule, re-sealing under a new secret, hearing that a key has leaked.
Must not hold: when a key lives (`tokens.signing_key.plan`), encryption (`tokens.sealed_key`), SQL (`stores`), tasks.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec

from keyturn.core.errors import KeyturnError, Unavailable
from keyturn.core.events import Event, EventType
from keyturn.ports import Entropy, SigningKeyStore, WallClock
from keyturn.tokens.keyring import (
    KEY_ENTROPY_BYTES,
    NONCE_BYTES,
    KeySchedule,
    Rotation,
    SealedKeyError,
    SecretRing,
    SigningKey,
    SigningKeyRing,
    etag,
    named_kid,
    open_sealed,
    plan,
    seal,
    sealing_id,
)

_log = logging.getLogger(__name__)

ATTEMPTS = 10
"""How often a change is planned anew when other nodes change the keys at the same moment. One of them always wins."""

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


class Signing:
    """Hold the keys: every question about them is answered from memory; `refresh` is the only I/O.

    Why: a node that loses its database goes on signing and verifying with what it has, and an unknown key id in a forged
    token must not become a query for each request.
    """

    def __init__(
        self,
        store: SigningKeyStore,
        secrets: SecretRing,
        *,
        schedule: KeySchedule | None = None,
        on_event: OnEvent | None = None,
        entropy: Entropy = os.urandom,
        clock: WallClock = time.time,
    ) -> None:
        """Set up; nothing is loaded before the first `refresh`.

        Args:
            store: the sealed keys all nodes share.
            secrets: opens and seals them; the database does not hold it.
            schedule: how long keys live; the defaults of `KeySchedule` when None.
            on_event: takes `KEY_ROTATED` when this node has made a new key.
        """
        self._store = store
        self._secrets = secrets
        self._schedule = schedule or KeySchedule()
        self._on_event = on_event
        self._entropy = entropy
        self._clock = clock
        self._ring = SigningKeyRing(())
        self._view: _View | None = None
        self._lock = asyncio.Lock()
        self._leaked = asyncio.Event()
        self._leak_delay = 0.0

    @property
    def ring(self) -> SigningKeyRing:
        """Every key this node knows, for listings."""
        return self._ring

    def signing_key(self, now: float) -> SigningKey:
        """Return the key that signs at `now`.

        Raises:
            Unavailable: no key was ever loaded, or none is active by this node's clock.
        """
        try:
            return self._ring.signing_key(now)
        except LookupError as error:
            raise Unavailable("signing_keys") from error

    def verification_keys(self, now: float) -> Mapping[str, ec.EllipticCurvePublicKey]:
        """Return the public keys that count at `now`, by key id. No I/O; do not change it."""
        return self._seen_at(now).keys

    def public_key(self, kid: str, now: float) -> ec.EllipticCurvePublicKey | None:
        """Return one public key if it counts at `now`; the verifier's `keys` argument. No I/O."""
        return self._ring.public_key(kid, now)

    def jwks(self, now: float) -> JwkSet:
        """Return the JWK set to publish at `now` with its entity tag. No I/O."""
        return self._seen_at(now).jwks

    async def refresh(self, now: float | None = None) -> None:
        """Load the keys and run the schedule: at start, and from then on every few minutes.

        Several nodes may do this at once: each change is a compare-and-set of the whole ring, and the loser adopts what
        the winner made. A change of the active secret re-seals every key.

        Args:
            now: seconds by this node's wall clock; read when None.

        Raises:
            Unavailable: the store is at fault. What was known before is kept.
            SecretDoesNotFit: none of the stored keys opens with this node's secrets. What was known before is kept.
        """
        await self._apply(Rotation.SCHEDULED, self._clock() if now is None else now)

    async def rotate(self, now: float | None = None, *, compromised: bool = False) -> SigningKey:
        """Replace the signing key ahead of its schedule and return the new one.

        Args:
            compromised: the private key leaked. Every token signed until now dies at once; otherwise none does.

        Raises:
            Unavailable, SecretDoesNotFit: as `refresh`.
        """
        rotation = Rotation.COMPROMISED if compromised else Rotation.FORCED
        await self._apply(rotation, self._clock() if now is None else now)
        return self._ring.keys[-1]

    def hear(self, revoked: Collection[str]) -> None:
        """Take word of ids that were revoked; among them may be that of a key which leaked, and which still signs here."""
        if any(key.kid in revoked for key in self._ring.keys):
            self._leaked.set()

    async def leak(self) -> None:
        """Return when a key that is known here has leaked, so that `refresh` is due; again each second until it is gone."""
        await self._leaked.wait()
        await asyncio.sleep(self._leak_delay)
        self._leak_delay = 1.0

    async def _apply(self, rotation: Rotation, now: float) -> None:
        async with self._lock:
            for _ in range(ATTEMPTS):
                stored = await self._read()
                # A first key signs at once, everywhere: it starts a little in the past, for nodes with slower clocks.
                at_once = rotation is Rotation.COMPROMISED or not stored.sealed
                start = now - self._schedule.leeway if at_once else now
                planned = plan(
                    stored.opened.values(), start, self._entropy(KEY_ENTROPY_BYTES), self._schedule, rotation
                )
                # What does not open here may open elsewhere: it stays, unless every key must die.
                closed = {} if rotation is Rotation.COMPROMISED else stored.closed()
                taken = {key.kid for key in planned.ring.keys}
                kept = [each for kid, each in closed.items() if kid not in taken]
                sealed = (*kept, *self._seal(stored.opened, planned.ring.keys))
                leaked = {*planned.remove, *stored.closed()} if rotation is Rotation.COMPROMISED else ()
                changed = sorted(sealed) != sorted(stored.sealed)
                if changed and not await self._store.replace(stored.sealed, sealed, leaked):
                    continue
                self._adopt(planned.ring.keys)
                for key in planned.create:
                    await self._announce(key, rotation, now)
                return
        raise Unavailable("signing_keys")

    async def _read(self) -> _Stored:
        sealed = tuple(await self._store.load())
        return _Stored(sealed, open_stored(sealed, self._secrets))

    def _seal(self, opened: Mapping[bytes, SigningKey], keys: Sequence[SigningKey]) -> Iterator[bytes]:
        """Yield the keys sealed; one that has not changed is not sealed again, unless the active secret has."""
        by_kid = {key.kid: each for each, key in opened.items()}
        for key in keys:
            each = by_kid.get(key.kid)
            if each is None or not _same(opened[each], key) or sealing_id(each) != self._secrets.active_id:
                each = seal(key, self._secrets, self._entropy(NONCE_BYTES))
            yield each

    def _adopt(self, keys: Iterable[SigningKey]) -> None:
        self._ring = SigningKeyRing(keys)
        self._view = None
        self._leaked.clear()
        self._leak_delay = 0.0

    async def _announce(self, key: SigningKey, rotation: Rotation, now: float) -> None:
        _log.info("new signing key %s (%s), signs from %.0f", key.kid, rotation, key.activate_at)
        if self._on_event is not None:
            data = {"kid": key.kid, "rotation": rotation.value, "activate_at": f"{key.activate_at:.3f}"}
            try:
                await self._on_event(Event(EventType.KEY_ROTATED, now, data=data))
            except Exception:  # noqa: BLE001 - the key is made and in use, whoever hears of it
                _log.exception("on_event failed")

    def _seen_at(self, now: float) -> _View:
        view = self._view
        if view is None or not view.since <= now < view.until:
            turns = [at for key in self._ring.keys for at in (key.publish_at, key.expire_at) if at is not None]
            body = self._ring.jwks(now)
            view = self._view = _View(
                self._ring.verification_keys(now),
                JwkSet(body, etag(body)),
                since=max((at for at in turns if at <= now), default=float("-inf")),
                until=min((at for at in turns if at > now), default=float("inf")),
            )
        return view


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
