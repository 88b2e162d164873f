"""Signing keys: their schedule and their public form.

Owns when a key is published, signs, verifies and dies, and the JWK set. Must not store
or encrypt a key (the store and `sealed_key` do), sign a token (`access_token` does) or
read a clock.

The life of a key, on one line:

    published --(publish lead)--> signs --(rotation period)--> verifies only --> gone
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import sha256
from types import MappingProxyType
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keyturn.tokens import base64url
from keyturn.tokens.jws import ALGORITHM

KEY_ENTROPY_BYTES: Final = 48

_CURVE: Final = ec.SECP256R1()
_CURVE_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_COORDINATE_BYTES: Final = 32


def _jwk_members(public_key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    point = public_key.public_numbers()
    return {
        "crv": "P-256",
        "kty": "EC",
        "x": base64url.encode(point.x.to_bytes(_COORDINATE_BYTES, "big")),
        "y": base64url.encode(point.y.to_bytes(_COORDINATE_BYTES, "big")),
    }


def thumbprint(public_key: ec.EllipticCurvePublicKey) -> str:
    """Return the key id of a P-256 public key: its SHA-256 thumbprint, 43 characters.

    Why: an id computed from the key cannot be given to another key, and holds nothing
    that a path, a query or a log line could trip over.

    Spec: RFC 7638 section 3 (required members in lexical order, no blanks).
    """
    canonical = json.dumps(_jwk_members(public_key), separators=(",", ":"), sort_keys=True)
    return base64url.encode(sha256(canonical.encode("ascii")).digest())


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One ES256 key with its schedule. All times are seconds since the Unix epoch.

    Attributes:
        private_key: never shown by `repr`; `kid` stands for it when keys are compared.
        created_at: when it was made.
        publish_at: from then on it is in the JWK set and verifies.
        activate_at: from then on it signs.
        retire_at: from then on it signs no more; None while it has no successor.
        expire_at: from then on it does not verify; None while it has no successor.

    Raises:
        ValueError: the key is on another curve, or the times run back.
    """

    private_key: ec.EllipticCurvePrivateKey = field(repr=False, compare=False)
    created_at: float
    publish_at: float
    activate_at: float
    retire_at: float | None = None
    expire_at: float | None = None
    public_key: ec.EllipticCurvePublicKey = field(init=False, repr=False, compare=False)
    kid: str = field(init=False)

    def __post_init__(self) -> None:
        """Derive the public key and the id; refuse another curve or a schedule that runs back."""
        if not isinstance(self.private_key.curve, ec.SECP256R1):
            raise ValueError("a signing key is on the curve P-256")
        retire_at = self.activate_at if self.retire_at is None else self.retire_at
        expire_at = retire_at if self.expire_at is None else self.expire_at
        if not self.publish_at <= self.activate_at <= retire_at <= expire_at:
            raise ValueError("a key is published, signs, retires and expires in this order")
        object.__setattr__(self, "public_key", self.private_key.public_key())
        object.__setattr__(self, "kid", thumbprint(self.public_key))

    @classmethod
    def generate(cls, entropy: bytes, *, created_at: float, publish_at: float, activate_at: float) -> SigningKey:
        """Make a key from entropy; the same entropy gives the same key.

        Args:
            entropy: at least 48 bytes from the operating system's generator.

        Raises:
            ValueError: the entropy is short, or the times run back.

        Spec: FIPS 186-5 appendix A.2.1 (extra random bits, then reduce).
        """
        if len(entropy) < KEY_ENTROPY_BYTES:
            raise ValueError(f"a signing key needs {KEY_ENTROPY_BYTES} bytes of entropy")
        wide = HKDF(SHA256(), KEY_ENTROPY_BYTES, salt=None, info=b"keyturn/v1/es256").derive(entropy)
        scalar = int.from_bytes(wide, "big") % (_CURVE_ORDER - 1) + 1
        return cls(ec.derive_private_key(scalar, _CURVE), created_at, publish_at, activate_at)

    def signs(self, now: float) -> bool:
        """Tell whether the key may sign at `now`."""
        return self.activate_at <= now and (self.retire_at is None or now < self.retire_at)

    def verifies(self, now: float) -> bool:
        """Tell whether a signature of the key counts at `now`."""
        return self.publish_at <= now and (self.expire_at is None or now < self.expire_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySchedule:
    """How long keys live, in seconds; the policy has the numbers.

    Attributes:
        rotation_period: how long one key signs: long enough that nobody rotates by hand,
            short enough that the path is walked now and then.
        publish_lead: how long a key is public before it signs. At least the cache time
            of the JWK set, or services would meet tokens whose key they cannot know.
        access_lifetime: of the longest-lived access token.
        leeway: the clock difference that verifiers forgive.

    Raises:
        ValueError: a time is negative, or a key would retire before it can be replaced.
    """

    rotation_period: float
    publish_lead: float
    access_lifetime: float
    leeway: float

    def __post_init__(self) -> None:
        """Refuse a schedule in which a key would retire before it can be replaced."""
        if self.publish_lead < 0 or self.access_lifetime <= 0 or self.leeway < 0:
            raise ValueError("key schedule times must not be negative")
        if self.rotation_period <= self.publish_lead + self.access_lifetime + self.leeway:
            raise ValueError("rotation_period must exceed publish_lead + access_lifetime + leeway")


class KeyRotation(StrEnum):
    """Why keys are planned."""

    SCHEDULED = "scheduled"
    """Replace the key when its period is over."""
    FORCED = "forced"
    """Replace it now, gently: the old key verifies until its last token is dead."""
    COMPROMISED = "compromised"
    """The private key leaked: every key stops verifying at once, a new one signs."""


class SigningKeyRing:
    """An immutable set of signing keys; every question takes the time.

    Args:
        keys: in any order.

    Raises:
        ValueError: two keys have one id.
    """

    __slots__ = ("_by_kid", "keys")

    def __init__(self, keys: Iterable[SigningKey]) -> None:
        self.keys: Final = tuple(sorted(keys, key=lambda key: (key.activate_at, key.kid)))
        self._by_kid: Final = MappingProxyType({key.kid: key for key in self.keys})
        if len(self._by_kid) != len(self.keys):
            raise ValueError("two signing keys have one id")

    def signing_key(self, now: float) -> SigningKey:
        """Return the key that signs at `now`: the one activated last.

        Raises:
            LookupError: no key is active; run the plan first.
        """
        for key in reversed(self.keys):
            if key.signs(now):
                return key
        raise LookupError("no signing key is active")

    def verification_keys(self, now: float) -> dict[str, ec.EllipticCurvePublicKey]:
        """Return the public keys that count at `now`, by key id."""
        return {key.kid: key.public_key for key in self.keys if key.verifies(now)}

    def public_key(self, kid: str, now: float) -> ec.EllipticCurvePublicKey | None:
        """Return one public key if it counts at `now`; the verifier's `keys` argument."""
        key = self._by_kid.get(kid)
        return key.public_key if key is not None and key.verifies(now) else None

    def jwks(self, now: float) -> bytes:
        """Return the JWK set of the keys that count at `now`, as compact JSON.

        Spec: RFC 7517 section 5; RFC 7518 section 6.2.1 (EC members).
        """
        listed = [
            {**_jwk_members(key.public_key), "alg": ALGORITHM, "kid": key.kid, "use": "sig"}
            for key in self.keys
            if key.verifies(now)
        ]
        return json.dumps({"keys": listed}, separators=(",", ":"), sort_keys=True).encode("ascii")

    def __repr__(self) -> str:
        return f"SigningKeyRing(kids={list(self._by_kid)})"


def etag(body: bytes) -> str:
    """Return the strong entity tag of a body, quotes included (RFC 9110 section 8.8.3)."""
    return f'"{base64url.encode(sha256(body).digest()[:16])}"'


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """What to persist, in one transaction.

    Attributes:
        ring: the ring after the plan; the schedule of a key may be another one in it.
        create: those of its keys that are new.
        remove: ids of keys that are dead, and no longer in it.
    """

    ring: SigningKeyRing
    create: tuple[SigningKey, ...] = ()
    remove: tuple[str, ...] = ()


def plan(
    keys: Iterable[SigningKey],
    now: float,
    entropy: bytes,
    schedule: KeySchedule,
    rotation: KeyRotation = KeyRotation.SCHEDULED,
) -> KeyPlan:
    """Compute which keys to create, retire and remove at `now`.

    Pure: the same arguments give the same plan, so a job that lost its transaction
    simply plans again from what it reads.

    Why: a successor is published a lead before it signs, so no verifying service meets
    an unknown key; the predecessor verifies until its last token is dead, so no token
    dies early; and not longer, so that an old leaked key is worthless.

    Args:
        keys: all persisted keys.
        now: seconds, by the database's clock.
        entropy: at least 48 fresh random bytes, used only if a key is created.
        schedule: lifetimes.
        rotation: why the plan is made.

    Raises:
        ValueError: the entropy is short and a key must be created.

    Spec: ASVS 5.0 11.2.2 (key replacement), NIST SP 800-57 section 5.3 (cryptoperiods).
    """
    present = tuple(keys)
    if rotation is KeyRotation.COMPROMISED:
        fresh = _new_key(entropy, now, now)
        return KeyPlan(SigningKeyRing([fresh]), create=(fresh,), remove=_kids(present))
    living = _living(present, now, schedule)
    alive = set(_kids(living))
    dead = _kids(key for key in present if key.kid not in alive)
    if not any(key.retire_at is None for key in living) or not any(key.signs(now) for key in living):
        # Nothing to hand over from: the very first key signs at once, and so does one made after a clock was set back
        # to before all others.
        fresh = _new_key(entropy, now, now)
        return KeyPlan(SigningKeyRing([*living, fresh]), create=(fresh,), remove=dead)
    newest = max(living, key=lambda key: (key.retire_at is None, key.activate_at))
    due_at = newest.activate_at + schedule.rotation_period
    handover_at = now + schedule.publish_lead
    if newest.activate_at > now or (rotation is KeyRotation.SCHEDULED and handover_at < due_at):
        return KeyPlan(SigningKeyRing(living), remove=dead)
    fresh = _new_key(entropy, now, handover_at)
    # An old key verifies until the last token signed by it is dead.
    expire_at = handover_at + schedule.access_lifetime + schedule.leeway
    retiring = (
        replace(key, retire_at=handover_at, expire_at=expire_at) if key.retire_at is None else key for key in living
    )
    return KeyPlan(SigningKeyRing([*retiring, fresh]), create=(fresh,), remove=dead)


def _living(keys: Iterable[SigningKey], now: float, schedule: KeySchedule) -> list[SigningKey]:
    """Return the keys that are not dead, those among them without their end for which it is too far away.

    Why: nothing is planned for later than a lead from now but by a clock that is ahead. When it has been set right, a key
    from then would keep all others from being replaced until its time comes, and what it has signed would come to life.
    """
    latest = now + schedule.publish_lead + schedule.leeway
    return [
        key if key.retire_at is None or key.retire_at <= latest else replace(key, retire_at=None, expire_at=None)
        for key in keys
        if key.activate_at <= latest and (key.expire_at is None or now < key.expire_at)
    ]


def _new_key(entropy: bytes, now: float, activate_at: float) -> SigningKey:
    return SigningKey.generate(entropy, created_at=now, publish_at=now, activate_at=activate_at)


def _kids(keys: Iterable[SigningKey]) -> tuple[str, ...]:
    return tuple(key.kid for key in keys)
