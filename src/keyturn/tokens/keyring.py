"""The keys of Keyturn, in one place to import from.

Owns nothing itself: the master secrets are in `secret_ring`, the signing keys and their
schedule in `signing_key`, what the database may hold of them in `sealed_key`.
"""

from __future__ import annotations

from keyturn.tokens.sealed_key import (
    NONCE_BYTES,
    SealedKeyError,
    named_kid,
    open_sealed,
    seal,
    sealing_id,
)
from keyturn.tokens.secret_ring import SecretRing
from keyturn.tokens.signing_key import (
    KEY_ENTROPY_BYTES,
    KeyPlan,
    KeySchedule,
    Rotation,
    SigningKey,
    SigningKeyRing,
    etag,
    plan,
    thumbprint,
)

__all__ = [
    "KEY_ENTROPY_BYTES",
    "NONCE_BYTES",
    "KeyPlan",
    "KeySchedule",
    "Rotation",
    "SealedKeyError",
    "SecretRing",
    "SigningKey",
    "SigningKeyRing",
    "etag",
    "named_kid",
    "open_sealed",
    "plan",
    "seal",
    "sealing_id",
    "thumbprint",
]
