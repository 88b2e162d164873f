"""A signing key in the database is of no use without the secret ring."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn.tokens import base64url
from keyturn.tokens.sealed_key import SealedKeyError, named_kid, open_sealed, seal, sealing_id
from keyturn.tokens.secret_ring import SecretRing
from keyturn.tokens.signing_key import SigningKey

ONE, TWO = sha256(b"one").digest(), sha256(b"two").digest()
RING = SecretRing({1: ONE})
NONCE = bytes(12)
KEY = SigningKey.generate(bytes(range(48)), created_at=1.5, publish_at=2, activate_at=3)
SEALED = seal(KEY, RING, NONCE)


@pytest.mark.parametrize("key", [KEY, replace(KEY, retire_at=4), replace(KEY, retire_at=4.25, expire_at=5)])
def test_key_sealed_and_opened(key: SigningKey) -> None:
    """The key and its whole schedule come back."""
    opened = open_sealed(seal(key, RING, NONCE), RING)
    assert opened == key
    assert opened.private_key.private_numbers() == key.private_key.private_numbers()


def test_sealed_key_of_an_earlier_version() -> None:
    """What a database holds is opened after an update; what is sealed today looks the same."""
    held = (
        "AQEAAAAAAAAAAAAAAAAyQWRuRlFuMTNQMzBHY09BcnoybnU5TUY1b2Y2a0VwTm9PSThEU1lteHFRelGf6YrgCAI1YyRLnplf"
        "i3elNnsvyVtShRDjLNU2w6gqZjG4Sl33FmEEqitNiRpFOOV0lun5QAPCoaBUOU4yV5c_ZUQqWP2tYq-y2m8aMR1sO3bRGOOnpg"
    )
    assert open_sealed(base64url.decode(held), RING) == KEY
    assert base64url.encode(SEALED) == held


def test_sealed_key_holds_no_plaintext() -> None:
    """The private scalar is not in what the database gets."""
    assert KEY.private_key.private_numbers().private_value.to_bytes(32, "big") not in SEALED


def test_sealed_key_after_a_ring_rotation() -> None:
    """A ring with a new active secret opens what the old one sealed, and says which it was."""
    rotated = SecretRing({2: TWO, 1: ONE})
    assert open_sealed(SEALED, rotated) == KEY
    assert sealing_id(SEALED) == 1
    assert sealing_id(seal(KEY, rotated, NONCE)) == 2


def test_sealed_key_under_an_unknown_secret() -> None:
    """Without the secret it does not open."""
    with pytest.raises(SealedKeyError, match="secret 1, not in the ring"):
        open_sealed(SEALED, SecretRing({2: TWO}))
    with pytest.raises(SealedKeyError, match="does not open"):
        open_sealed(SEALED, SecretRing({1: TWO}))


@given(st.integers(min_value=0, max_value=len(SEALED) - 1), st.integers(min_value=1, max_value=255))
def test_sealed_key_with_a_changed_byte(position: int, change: int) -> None:
    """Every byte counts, those of the header too."""
    changed = bytearray(SEALED)
    changed[position] ^= change
    with pytest.raises(SealedKeyError):
        open_sealed(bytes(changed), RING)


@pytest.mark.parametrize("sealed", [b"", SEALED[:-1], SEALED + b"\0", b"\2" + SEALED[1:]])
def test_sealed_key_of_another_form(sealed: bytes) -> None:
    """Another length or version is refused."""
    with pytest.raises(SealedKeyError, match="version"):
        open_sealed(sealed, RING)


def test_sealed_key_that_lies_about_its_id() -> None:
    """An id in the header that is not the key's own is refused even with the right secret."""
    liar = replace(KEY)
    object.__setattr__(liar, "kid", "A" * 43)
    with pytest.raises(SealedKeyError, match="does not belong"):
        open_sealed(seal(liar, RING, NONCE), RING)


def test_sealed_key_named() -> None:
    """The header names the key without the ring; a damaged name is another name, not a fault."""
    assert named_kid(SEALED) == KEY.kid
    assert named_kid(SEALED[:20] + b"\xff" + SEALED[21:]) != KEY.kid
    with pytest.raises(SealedKeyError, match="version"):
        named_kid(b"")


def test_nonce_of_another_length() -> None:
    """A nonce has 12 bytes."""
    with pytest.raises(ValueError, match="12 bytes"):
        seal(KEY, RING, bytes(11))
