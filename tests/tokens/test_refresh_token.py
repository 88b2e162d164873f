"""A refresh token is believed byte for byte, under a key of the ring, or not at all."""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode, urlsafe_b64decode, urlsafe_b64encode

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from keyturn.core.errors import Unavailable
from keyturn.core.model import SessionId
from keyturn.tokens.refresh_token import PREFIX, RANDOM_LENGTH, RefreshTokens

KEYS = {1: bytes(range(32)), 2: b"\x02" * 32}
TOKENS = RefreshTokens(KEYS, 1)
SESSION_ID = SessionId(bytes(range(16)))
GOOD = TOKENS.minter(bytes(range(RANDOM_LENGTH)))(SESSION_ID, 3, 1_000_000.0, b"parentfp").text.encode()
ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@given(
    st.binary(min_size=16, max_size=16),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.binary(min_size=8, max_size=8),
    st.binary(min_size=16, max_size=16),
    st.sampled_from([1, 2]),
)
def test_round_trip(session_id: bytes, generation: int, now: int, parent: bytes, entropy: bytes, active: int) -> None:
    """What is minted is read back, under whichever key of the ring it was signed."""
    made = RefreshTokens(KEYS, active).minter(entropy)(SessionId(session_id), generation, float(now), parent)
    read = TOKENS.read(made.text.encode())
    assert read is not None
    assert read == (session_id, generation, now, parent, made.token_hash)
    assert made.text.startswith(PREFIX)
    assert len(made.text) == len(GOOD)


def laid_out(version: int, key_id: int) -> bytes:
    """Write the good token by the description of its format, signed well, whatever its version and the id of its key."""
    numbers = (3).to_bytes(4) + (1_000_000).to_bytes(4)
    body = bytes((version, key_id)) + SESSION_ID + numbers + b"parentfp" + bytes(range(16))
    raw = body + hmac.digest(KEYS[1], body, "sha256")[:16]
    return b"kt_rt_" + urlsafe_b64encode(raw).rstrip(b"=")


def test_layout() -> None:
    """It is that of the description, byte for byte: a release that lays tokens out otherwise signs everybody out."""
    assert laid_out(1, 1) == GOOD


def test_another_version() -> None:
    """One that is well signed is still no token, also where the key is one that others have."""
    assert TOKENS.read(laid_out(2, 1)) is None
    assert RefreshTokens({7: KEYS[1]}, 7, lambda: {1}).read(laid_out(2, 1)) is None


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_one_byte_changed(place: int, change: int) -> None:
    """A token that differs in one byte, whatever it becomes, is no token."""
    mutated = bytearray(GOOD)
    mutated[place] ^= change
    assert TOKENS.read(bytes(mutated)) is None


@given(st.binary(max_size=200))
@example(b"")
@example(PREFIX.encode() + b"A" * 88)
@example(PREFIX.encode() + b"A" * 86 + b"==")
@example(PREFIX.encode() + b"A" * 87 + b"=")
@example(PREFIX.encode() + b"=" * 88)
def test_any_bytes(text: bytes) -> None:
    """Garbage is refused and never makes the reader fail."""
    assert TOKENS.read(text) is None


@given(st.lists(st.sampled_from(ALPHABET), min_size=88, max_size=88))
def test_any_text_of_the_right_form(letters: list[int]) -> None:
    """A text of the right length and alphabet is still no token without a key."""
    assert TOKENS.read(PREFIX.encode() + bytes(letters)) is None


@given(st.integers(0, len(GOOD)), st.sampled_from([b" ", b"\n", b"\t", b"\r", b"=", b"\x00", b"-"]))
def test_something_inserted(place: int, extra: bytes) -> None:
    """Blanks, line breaks and pads that a lenient decoder skips make it no token."""
    assert TOKENS.read(GOOD[:place] + extra + GOOD[place:]) is None


@given(st.binary(min_size=16, max_size=16))
def test_other_spellings_of_the_same_bytes(entropy: bytes) -> None:
    """The same bytes in the standard alphabet, or padded, are no token: one token has one text."""
    text = TOKENS.minter(entropy)(SESSION_ID, 3, 1_000_000.0, b"parentfp").text.encode()
    raw = urlsafe_b64decode(text[len(PREFIX) :])
    standard = PREFIX.encode() + b64encode(raw)
    assert b64decode(standard[len(PREFIX) :]) == raw
    assert (TOKENS.read(standard) is not None) == (standard == text)
    for pad in (b"=", b"=="):
        assert TOKENS.read(text + pad) is None
        assert TOKENS.read(text[: -len(pad)] + pad) is None


def test_every_last_letter() -> None:
    """No other last letter means the same: 66 bytes leave no bit of the text unused."""
    assert [letter for letter in ALPHABET if TOKENS.read(GOOD[:-1] + bytes([letter]))] == [GOOD[-1]]


@given(st.floats(1e9, 2**32 - 2, allow_nan=False))
def test_time_rounded_up(now: float) -> None:
    """A token never says that it is older than it is, and is off by less than a second."""
    made = TOKENS.minter(bytes(16))(SESSION_ID, 0, now, bytes(8))
    read = TOKENS.read(made.text.encode())
    assert read is not None
    assert 0 <= read.issued_at - now < 1


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_unique_children(one: bytes, other: bytes) -> None:
    """Two children of one parent in one moment are different tokens."""
    assume(one != other)
    first, second = (TOKENS.minter(entropy)(SESSION_ID, 4, 1_000_000.0, b"parentfp") for entropy in (one, other))
    assert first.text != second.text
    assert first.token_hash != second.token_hash


def test_keys_of_the_ring() -> None:
    """A retired key still verifies; a key that has left the ring does not, nor one of the same id."""
    old = RefreshTokens({1: KEYS[1]}, 1).minter(bytes(16))(SESSION_ID, 0, 1.0, bytes(8)).text.encode()
    assert RefreshTokens(KEYS, 2).read(old) is not None
    assert RefreshTokens({2: KEYS[2]}, 2).read(old) is None
    assert RefreshTokens({1: bytes(32)}, 1).read(old) is None


def test_key_that_others_have() -> None:
    """What is under it may be authentic: that is a fault and no verdict. What is under another one is none of it."""
    old = RefreshTokens({1: KEYS[1]}, 1).minter(bytes(16))(SESSION_ID, 0, 1.0, bytes(8)).text.encode()
    with pytest.raises(Unavailable):
        RefreshTokens({2: KEYS[2]}, 2, lacking=lambda: {1}).read(old)
    assert RefreshTokens({2: KEYS[2]}, 2, lacking=lambda: {3}).read(old) is None
    assert RefreshTokens(KEYS, 2, lacking=lambda: {1}).read(old) is not None


def test_ring_changed_by_its_owner() -> None:
    """The ring is copied: what is done to the mapping afterwards changes nothing."""
    keys = dict(KEYS)
    tokens = RefreshTokens(keys, 1)
    keys.clear()
    assert tokens.read(GOOD) is not None


def test_active_key_missing() -> None:
    """A ring without the key that signs is refused at once."""
    with pytest.raises(KeyError):
        RefreshTokens(KEYS, 3)


def test_hash_column_presented() -> None:
    """What the database holds, the hash, is no token in any spelling: a copy of the database does not log in."""
    read = TOKENS.read(GOOD)
    assert read is not None
    for text in (read.token_hash, read.token_hash.hex().encode(), PREFIX.encode() + b64encode(read.token_hash * 2)):
        assert TOKENS.read(text) is None
        assert TOKENS.read(PREFIX.encode() + text) is None
