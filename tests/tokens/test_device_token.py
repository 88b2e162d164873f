"""A device cookie is believed byte for byte, under a key of the ring, or not at all."""

from __future__ import annotations

import hmac

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keyturn.tokens import base64url
from keyturn.tokens.device_token import DEVICE_ID_LENGTH, PREFIX, DeviceTokens

KEYS = {1: bytes(range(32)), 2: b"\x02" * 32}
TOKENS = DeviceTokens(KEYS, 1)
DEVICE_ID = bytes(range(DEVICE_ID_LENGTH))
GOOD = TOKENS.issue(DEVICE_ID)
RAW = base64url.decode(GOOD.removeprefix(PREFIX))


def written(raw: bytes) -> bytes:
    """Return the cookie's text for these bytes."""
    return (PREFIX + base64url.encode(raw)).encode()


@given(st.binary(min_size=DEVICE_ID_LENGTH, max_size=DEVICE_ID_LENGTH), st.sampled_from([1, 2]))
def test_round_trip(device_id: bytes, active: int) -> None:
    """What is issued is read back, under whichever key of the ring it was signed."""
    text = DeviceTokens(KEYS, active).issue(device_id)
    assert text.startswith(PREFIX)
    assert TOKENS.read(text.encode()) == device_id


def laid_out(version: int) -> bytes:
    """Return the bytes of the good cookie by the description of its format, signed well, whatever its version."""
    body = bytes((version, 1, *range(16)))
    return body + hmac.digest(KEYS[1], body, "sha256")[:16]


def test_layout() -> None:
    """It is that of the description: a release that lays it out otherwise makes a stranger of every device."""
    assert laid_out(1) == RAW
    assert TOKENS.read(written(laid_out(2))) is None


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_one_byte_changed(place: int, change: int) -> None:
    """A cookie that differs in one byte, whatever it becomes, is none."""
    mutated = bytearray(GOOD.encode())
    mutated[place] ^= change
    assert TOKENS.read(bytes(mutated)) is None


@given(st.binary(max_size=100))
@example(b"")
@example(PREFIX.encode())
@example(PREFIX.encode() + b"=" * 46)
@example(PREFIX.encode() + "ü".encode())
def test_any_bytes(text: bytes) -> None:
    """Garbage is refused and never makes the reader fail."""
    assert TOKENS.read(text) is None


@pytest.mark.parametrize(
    "raw", [RAW[:-1], RAW + b"\0", b"\x02" + RAW[1:], RAW[:1] + b"\x03" + RAW[2:], RAW[:1] + b"\x02" + RAW[2:]]
)
def test_another_length_version_or_key(raw: bytes) -> None:
    """Each part of it counts, also the id of a key that is in the ring but has not signed it."""
    assert TOKENS.read(written(RAW)) == DEVICE_ID
    assert TOKENS.read(written(raw)) is None


def test_key_that_has_left_the_ring() -> None:
    """A device of a former secret is a new device."""
    assert DeviceTokens({2: KEYS[2]}, 2).read(GOOD.encode()) is None
