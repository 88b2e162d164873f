"""Published keys are read strictly, or not at all."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import pytest

from keyturn.tokens import base64url
from keyturn.tokens.jwk_set import MAX_JWK_SET_BYTES, read_jwk_set
from keyturn.tokens.signing_key import SigningKey, SigningKeyRing
from tests.tokens.forge import ABSENT, KEY, NOW, OTHER_KEY, members

OURS: dict[str, Any] = json.loads(SigningKeyRing([KEY]).jwks(NOW))["keys"][0]


def listed(*keys: object) -> bytes:
    """Write a JWK set."""
    return json.dumps({"keys": keys}).encode()


def test_what_the_server_publishes() -> None:
    """Every key of a ring is read back as it is."""
    found = read_jwk_set(SigningKeyRing([KEY, OTHER_KEY]).jwks(NOW))
    assert {kid: key.public_numbers() for kid, key in found.items()} == {
        key.kid: key.public_key.public_numbers() for key in (KEY, OTHER_KEY)
    }


def test_bare_key() -> None:
    """What a key is for need not be said."""
    bare = members(OURS, {"alg": ABSENT, "use": ABSENT})
    assert set(read_jwk_set(listed(bare))) == {KEY.kid}


@pytest.mark.parametrize(
    "change",
    [
        {"kty": "RSA"},
        {"kty": "oct", "k": "AAAA"},
        {"crv": "P-384"},
        {"alg": "HS256"},
        {"alg": None},
        {"use": "enc"},
        {"key_ops": ["sign"]},
        {"key_ops": ["sign", "verify"]},
        {"key_ops": "verify"},
        {"kid": ABSENT},
        {"kid": "../../etc/passwd"},
        {"kid": 1},
        {"d": "AAAA"},
    ],
    ids=repr,
)
def test_key_that_is_not_ours(change: dict[str, Any]) -> None:
    """A key of another kind or for another use is left out; the others count."""
    other = members(OURS, {"kid": "other", **change})
    assert set(read_jwk_set(listed(other, OURS))) == {KEY.kid}
    with pytest.raises(ValueError, match="no ES256 key"):
        read_jwk_set(listed(other))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"keys":{}}',
        b'{"keys":[1]}',
        b'{"keys":[[]]}',
        b'{"keys":[],"keys":[]}',
        b"[" * 100_000,
        b"\xff",
        listed(OURS, OURS),
        listed(members(OURS, {"x": ABSENT})),
        listed(members(OURS, {"x": 1})),
        listed(members(OURS, {"x": OURS["x"] + "="})),
        listed(members(OURS, {"x": base64url.encode(bytes(31))})),
        listed(members(OURS, {"x": base64url.encode(bytes(32))})),
        listed(OURS) + b" " * MAX_JWK_SET_BYTES,
    ],
    ids=lambda body: repr(body[:30]),
)
def test_set_that_is_refused(body: bytes) -> None:
    """What two readers could read differently, or is no key at all, is refused whole."""
    with pytest.raises(ValueError):
        read_jwk_set(body)


def test_coordinate_without_its_leading_zero() -> None:
    """It has all its bytes, also those that say nothing: 31 would be another text for the same key.  Spec: RFC 7518 6.2.1.2."""
    made = (
        SigningKey.generate(number.to_bytes(2, "big") * 24, created_at=0, publish_at=0, activate_at=0)
        for number in count()
    )
    key = next(each for each in made if each.public_key.public_numbers().x < 2**248)
    whole = json.loads(SigningKeyRing([key]).jwks(0))["keys"][0]
    assert list(read_jwk_set(listed(whole))) == [key.kid]
    short = base64url.encode(base64url.decode(whole["x"])[1:])
    with pytest.raises(ValueError, match="31 bytes"):
        read_jwk_set(listed({**whole, "x": short}))
