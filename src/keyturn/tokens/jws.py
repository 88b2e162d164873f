"""The strict form of a compact JWS: everything that can be refused before a key is used.

Owns the outer form of an access token (size, segments, base64url, UTF-8, JSON, header
members). Must not know keys, times or claims: `access_token` judges those.

The order is from cheap to dear, so that garbage costs next to nothing.
"""

from __future__ import annotations

import json
import re
from enum import StrEnum
from functools import lru_cache
from math import isfinite
from typing import Any, Final, NamedTuple, TypeGuard

from keyturn.core.errors import InvalidToken
from keyturn.tokens import base64url

MAX_TOKEN_BYTES: Final = 8192
MAX_JSON_DEPTH: Final = 16
MAX_KID_LENGTH: Final = 64
SIGNATURE_BYTES: Final = 64
"""r and s, 32 bytes each.  Spec: RFC 7518 section 3.4."""

TOKEN_TYPE: Final = "at+jwt"
ALGORITHM: Final = "ES256"

JsonObject = dict[str, Any]


class TokenFault(StrEnum):
    """Why an access token was refused: for logs and metrics, never for the caller."""

    SIZE = "size"
    SEGMENTS = "segments"
    ENCODING = "encoding"
    JSON = "json"
    HEADER = "header"
    TYPE = "type"
    ALGORITHM = "algorithm"
    KEY = "key"
    SIGNATURE = "signature"
    CLAIMS = "claims"
    ISSUER = "issuer"
    AUDIENCE = "audience"
    NOT_YET_VALID = "not_yet_valid"
    EXPIRED = "expired"
    REVOKED = "revoked"


class ParsedToken(NamedTuple):
    """A token of the right form, of which nothing is verified yet.

    Attributes:
        kid: the key id of the header.
        signing_input: what the signature covers.
        signature: 64 bytes.
        payload: the undecoded second segment; `payload_claims` reads it.
    """

    kid: str
    signing_input: bytes
    signature: bytes
    payload: str

    def __repr__(self) -> str:
        """Show nothing: what is not verified yet is a credential all the same."""
        return "ParsedToken(redacted)"


_COMPACT: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_KID: Final = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_KID_LENGTH}}}")
_HEADER_MEMBERS: Final = frozenset({"alg", "kid", "typ"})
# A string that does not end reaches to the end. One that had to end would be looked for again from each quote after it: a
# tenth of a second for 8 KiB of escaped quotes, of anybody.
_JSON_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)


class DoubledMember(ValueError):
    """A member of a JSON object stands there twice."""


def only_once(pairs: list[tuple[str, Any]]) -> JsonObject:
    """Make an object of its members, as the parser's `object_pairs_hook`.

    Why: two readers may pick different ones of two equal members.

    Raises: DoubledMember.
    Spec: RFC 7515 section 4 ("Header Parameter names MUST be unique"), RFC 8259 section 4.
    """
    members = dict(pairs)
    if len(members) != len(pairs):
        raise DoubledMember
    return members


def _no_constant(_text: str) -> float:
    raise ValueError("NaN and Infinity are not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError("a number beyond every float")
    return value


_DECODE: Final = json.JSONDecoder(object_pairs_hook=only_once, parse_constant=_no_constant, parse_float=_finite).decode


def decode_json_object(data: bytes) -> JsonObject:
    """Read one JSON object strictly.

    Why: what two parsers read differently is a way around the one that checks. Depth is
    bounded before the parser recurses, so nesting cannot exhaust the stack.

    Args:
        data: UTF-8, of a length that the caller has bounded.

    Raises:
        InvalidToken: not strict UTF-8, not an object, a doubled member, NaN, Infinity,
            a lone surrogate, or nested deeper than `MAX_JSON_DEPTH`.

    Spec: RFC 8259; RFC 8725 section 3.7 (UTF-8 only).
    """
    value: object = None
    try:
        text = data.decode("utf-8")
        if not _too_deep(text):
            value = _DECODE(text)
            if "\\u" in text:
                # An escape can spell half a surrogate pair, which is no text at all.
                json.dumps(value, ensure_ascii=False).encode("utf-8")
    except ValueError:
        value = None
    # Outside the except clause: the parser's error holds the whole text.
    if type(value) is not dict:
        raise InvalidToken(TokenFault.JSON)
    return value


def _too_deep(text: str) -> bool:
    if text.count("[") + text.count("{") <= MAX_JSON_DEPTH:
        return False
    depth = 0
    for character in _JSON_STRING.sub("", text):
        if character in "[{":
            depth += 1
            if depth > MAX_JSON_DEPTH:
                return True
        elif character in "]}":
            depth -= 1
    return False


def parse_compact(token: str | bytes) -> ParsedToken:
    """Check the form of a compact JWS and its header; verify nothing.

    Why: every attack on a JWT library starts with a form that the issuer never sends.
    This issuer sends exactly one form, so everything else is refused unread: the
    algorithm is a constant here, and a header can carry no key and no place to fetch one.

    `typ` must be exactly `at+jwt`. RFC 9068 also allows `application/at+jwt`; our
    signer never writes it, and one spelling is easier to reason about than two.

    Args:
        token: the text after `Bearer `.

    Returns:
        the parts, unverified.

    Raises:
        InvalidToken: with a `TokenFault` as its reason.

    Spec: RFC 7515 sections 3.1 and 5.2, RFC 8725 sections 3.1 and 3.11, RFC 9068 section 4.
    """
    if len(token) > MAX_TOKEN_BYTES:
        raise InvalidToken(TokenFault.SIZE)
    text = token.decode("latin-1") if isinstance(token, bytes) else token
    match = _COMPACT.fullmatch(text)
    if match is None:
        raise InvalidToken(TokenFault.SEGMENTS)
    head, payload, tail = match.groups()
    kid = _kid_of_header(head)
    signature = _decode_segment(tail)
    if len(signature) != SIGNATURE_BYTES:
        raise InvalidToken(TokenFault.SIGNATURE)
    return ParsedToken(kid, text[: match.end(2)].encode("ascii"), signature, payload)


def payload_claims(parsed: ParsedToken) -> JsonObject:
    """Read the payload of a token whose signature has been verified.

    Raises:
        InvalidToken: the payload is not canonical base64url or not a strict JSON object.
    """
    return decode_json_object(_decode_segment(parsed.payload))


def _decode_segment(segment: str) -> bytes:
    try:
        return base64url.decode_alphabetic(segment)
    except ValueError:
        pass
    raise InvalidToken(TokenFault.ENCODING)


# One key has one header text, so this remembers a handful. A refusal is an exception and
# is never remembered.
@lru_cache(maxsize=64)
def _kid_of_header(segment: str) -> str:
    header = decode_json_object(_decode_segment(segment))
    # "crit", "b64", "jwk", "jku", "x5u", "x5c", "zip" and all we do not know.
    # Spec: RFC 7515 section 4.1.11: an extension not understood makes the JWS invalid.
    if not header.keys() <= _HEADER_MEMBERS:
        raise InvalidToken(TokenFault.HEADER)
    if header.get("typ") != TOKEN_TYPE:
        raise InvalidToken(TokenFault.TYPE)
    if header.get("alg") != ALGORITHM:
        raise InvalidToken(TokenFault.ALGORITHM)
    kid = header.get("kid")
    if not is_key_id(kid):
        raise InvalidToken(TokenFault.KEY)
    return kid


def is_key_id(value: object) -> TypeGuard[str]:
    """Say whether a value has the form of a key id: nothing that a path, a query or a log line could trip over."""
    return isinstance(value, str) and _KID.fullmatch(value) is not None
