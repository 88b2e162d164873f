"""Make any access token at all, well signed or not. For tests only."""

from __future__ import annotations

import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from keyturn.core.errors import InvalidToken
from keyturn.tokens import base64url
from keyturn.tokens.access_token import AccessTokenSigner, AccessTokenVerifier
from keyturn.tokens.signing_key import SigningKey

NOW = 1_800_000_000
ISSUER = "https://auth.example.com"
AUDIENCE = "api"
SESSION_ID = bytes(range(16))
KEY = SigningKey.generate(bytes(range(48)), created_at=0, publish_at=0, activate_at=0)
OTHER_KEY = SigningKey.generate(bytes(range(1, 49)), created_at=0, publish_at=0, activate_at=0)

HEADER: dict[str, Any] = {"alg": "ES256", "kid": KEY.kid, "typ": "at+jwt"}
PAYLOAD: dict[str, Any] = {
    "iss": ISSUER,
    "aud": AUDIENCE,
    "sub": "ada",
    "sid": SESSION_ID.hex(),
    "iat": NOW,
    "exp": NOW + 600,
    "jti": "0123456789abcdef",
    "auth_time": NOW - 5,
    "amr": ["pwd"],
}


class _Absent:
    """Its name is the same in every process, so that test ids are."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = _Absent()


def members(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with changes; the value ABSENT removes a member."""
    return {name: value for name, value in {**base, **changes}.items() if value is not ABSENT}


def segment(content: object) -> str:
    """Encode a JSON value, or bytes as they are."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode("utf-8")
    return base64url.encode(data)


def es256(signing_input: str, key: SigningKey = KEY) -> str:
    """Sign with a real key and return the third segment."""
    der = key.private_key.sign(signing_input.encode("utf-8"), ec.ECDSA(SHA256(), deterministic_signing=True))
    r, s = decode_dss_signature(der)
    return base64url.encode(r.to_bytes(32, "big") + s.to_bytes(32, "big"))


def forge(header: object = None, payload: object = None, key: SigningKey = KEY) -> str:
    """Return a token with a right signature over whatever is given."""
    head = segment(HEADER if header is None else header)
    body = segment(PAYLOAD if payload is None else payload)
    return f"{head}.{body}.{es256(f'{head}.{body}', key)}"


def with_header(**changes: object) -> str:
    """Return a well-signed token with another header."""
    return forge(header=members(HEADER, changes))


def with_claims(**changes: object) -> str:
    """Return a well-signed token with other claims."""
    return forge(payload=members(PAYLOAD, changes))


def verifier(**changes: Any) -> AccessTokenVerifier:
    """Return a verifier that knows KEY alone."""
    arguments: dict[str, Any] = {"keys": {KEY.kid: KEY.public_key}, "issuer": ISSUER, "audience": AUDIENCE, **changes}
    return AccessTokenVerifier(**arguments)


def signer(**changes: Any) -> AccessTokenSigner:
    """Return a signer of KEY."""
    return AccessTokenSigner(**{"key": KEY, "issuer": ISSUER, "audience": AUDIENCE, **changes})


def sign(by: AccessTokenSigner | None = None, **changes: Any) -> str:
    """Sign a token with ordinary fields."""
    fields: dict[str, Any] = {
        "subject": "ada",
        "session_id": SESSION_ID,
        "issued_at": NOW,
        "expires_at": NOW + 600,
        "token_id": "0123456789abcdef",
        "authenticated_at": NOW - 5,
        "amr": ("pwd",),
        **changes,
    }
    return (by or signer()).sign(**fields)


def fault_of(token: str | bytes, now: float = NOW, judge: AccessTokenVerifier | None = None) -> str:
    """Return `ok`, or the reason for which a token is refused."""
    try:
        (judge or verifier()).verify(token, now)
    except InvalidToken as refused:
        return str(refused.reason)
    return "ok"
