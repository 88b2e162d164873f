"""The sealed form of a signing key: what the database may hold of it.

Owns the encryption of a private key under the secret ring. Must not decide when a key
is made or replaced (`signing_key` does) and must not store anything.
"""

from __future__ import annotations

import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyturn.tokens.secret_ring import SecretRing
from keyturn.tokens.signing_key import SigningKey

NONCE_BYTES: Final = 12

_PURPOSE: Final = "signing-key"
_VERSION: Final = 1
_KID_BYTES: Final = 43
# version, id of the secret, nonce, kid
_HEADER: Final = struct.Struct(f">BB{NONCE_BYTES}s{_KID_BYTES}s")
# private scalar, created, published, active, retired, expired; infinity where none is set
_BODY: Final = struct.Struct(">32s5d")
_TAG_BYTES: Final = 16
_NEVER: Final = float("inf")


class SealedKeyError(ValueError):
    """A sealed signing key cannot be opened; the message says why, without any key."""


def seal(signing_key: SigningKey, ring: SecretRing, nonce: bytes) -> bytes:
    """Encrypt a signing key with its schedule under the active secret of the ring.

    Why: a copy of the database must not be able to mint access tokens. The schedule is
    sealed too: who can only write to the database cannot make an old key live longer.

    Args:
        signing_key: the key; a changed schedule is sealed again with a new nonce.
        ring: the secret ring, which the database does not hold.
        nonce: 12 fresh random bytes.

    Raises:
        ValueError: the nonce has another length.

    Spec: NIST SP 800-38D (AES-GCM, 96-bit nonce); ASVS 5.0 11.3.2, 11.3.3.
    """
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce has {NONCE_BYTES} bytes")
    header = _HEADER.pack(_VERSION, ring.active_id, nonce, signing_key.kid.encode("ascii"))
    body = _BODY.pack(
        signing_key.private_key.private_numbers().private_value.to_bytes(32, "big"),
        signing_key.created_at,
        signing_key.publish_at,
        signing_key.activate_at,
        _NEVER if signing_key.retire_at is None else signing_key.retire_at,
        _NEVER if signing_key.expire_at is None else signing_key.expire_at,
    )
    key = ring.derive(_PURPOSE)[ring.active_id]
    return header + AESGCM(key).encrypt(nonce, body, header)


def sealing_id(sealed: bytes) -> int:
    """Return the id of the secret that a sealed key needs, so that old ones can be re-sealed.

    Raises:
        SealedKeyError: it is not a sealed key of this version.
    """
    if len(sealed) != _HEADER.size + _BODY.size + _TAG_BYTES or sealed[0] != _VERSION:
        raise SealedKeyError("not a sealed signing key of this version")
    return sealed[1]


def named_kid(sealed: bytes) -> str:
    """Return the id of the key, as the header names it: unproven until it is opened, good enough to store it under.

    Raises:
        SealedKeyError: it is not a sealed key of this version.
    """
    sealing_id(sealed)
    return str(_HEADER.unpack(sealed[: _HEADER.size])[3], "ascii", "replace")


def open_sealed(sealed: bytes, ring: SecretRing) -> SigningKey:
    """Decrypt a signing key and check that it is the one its header names.

    Args:
        sealed: what `seal` returned.
        ring: a ring that holds the secret it was sealed under.

    Raises:
        SealedKeyError: another format, a secret that the ring does not hold, a changed
            byte, or a key that does not belong to its id.
    """
    secret_id = sealing_id(sealed)
    header = sealed[: _HEADER.size]
    _, _, nonce, named = _HEADER.unpack(header)
    key = ring.derive(_PURPOSE).get(secret_id)
    if key is None:
        raise SealedKeyError(f"the signing key is sealed under secret {secret_id}, not in the ring")
    try:
        body = AESGCM(key).decrypt(nonce, sealed[_HEADER.size :], header)
    except InvalidTag:
        body = b""
    if not body:
        raise SealedKeyError(f"the signing key does not open with secret {secret_id}")
    scalar, created_at, publish_at, activate_at, retire_at, expire_at = _BODY.unpack(body)
    signing_key = SigningKey(
        ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP256R1()),
        created_at,
        publish_at,
        activate_at,
        None if retire_at == _NEVER else retire_at,
        None if expire_at == _NEVER else expire_at,
    )
    if signing_key.kid.encode("ascii") != named:
        raise SealedKeyError("the sealed signing key does not belong to its id")
    return signing_key
