"""Published keys, read strictly: a JWK set in, P-256 public keys by id out.

Owns the form of the set as a service that checks tokens reads it; `signing_key` writes it.
Must not know where it comes from, or for how long it counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from keyturn.core.errors import InvalidToken
from keyturn.tokens import base64url
from keyturn.tokens.jws import ALGORITHM, JsonObject, decode_json_object, is_key_id

MAX_JWK_SET_BYTES: Final = 64 * 1024
"""Some three hundred keys; a server publishes two or three."""
_COORDINATE_BYTES: Final = 32


def read_jwk_set(body: bytes) -> Mapping[str, ec.EllipticCurvePublicKey]:
    """Return the ES256 keys of a JWK set by their ids.

    A key of another kind is left out: it can check no token of ours. Neither is one that is
    for something else (`use`, `key_ops`) or that shows its private half.

    Why: the key decides the algorithm here, so nothing but a point on P-256 may get in,
    and a set that two readers could read differently is refused whole.

    Args:
        body: as it was fetched.

    Raises:
        ValueError: too large, not one strict JSON object with `keys`, a key id twice, a
            coordinate that is no number of 32 bytes, a point that is not on the curve, or
            no key of ours at all.

    Spec: RFC 7517 sections 4 and 5; RFC 7518 section 6.2.1; RFC 8725 section 3.1.
    """
    if len(body) > MAX_JWK_SET_BYTES:
        raise ValueError("the JWK set is too large")
    try:
        listed = decode_json_object(body).get("keys")
    except InvalidToken:
        listed = None
    if type(listed) is not list or not all(type(item) is dict for item in listed):
        raise ValueError("not a JWK set")
    found: dict[str, ec.EllipticCurvePublicKey] = {}
    for item in filter(_is_ours, listed):
        if item["kid"] in found:
            raise ValueError("the JWK set has one key id twice")
        found[item["kid"]] = _public_key(item)
    if not found:
        raise ValueError("the JWK set has no ES256 key")
    return MappingProxyType(found)


def _is_ours(item: JsonObject) -> bool:
    return (
        (item.get("kty"), item.get("crv")) == ("EC", "P-256")
        and item.get("alg", ALGORITHM) == ALGORITHM
        and item.get("use", "sig") == "sig"
        and item.get("key_ops", ["verify"]) == ["verify"]
        and is_key_id(item.get("kid"))
        and "d" not in item
    )


def _public_key(item: JsonObject) -> ec.EllipticCurvePublicKey:
    x, y = _coordinate(item.get("x")), _coordinate(item.get("y"))
    return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()


def _coordinate(value: object) -> int:
    if type(value) is not str:
        raise ValueError("a coordinate is not text")
    number = base64url.decode(value)
    if len(number) != _COORDINATE_BYTES:
        raise ValueError(f"a coordinate has {len(number)} bytes")
    return int.from_bytes(number, "big")
