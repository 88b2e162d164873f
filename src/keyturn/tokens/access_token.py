"""Access tokens: short-lived ES256 JWTs that a service checks without asking anyone.

Owns the claims, the signer and the verifier. Must not know where keys come from, what
time it is, or which sessions are revoked (`verified_cache` asks for that).

`client_id`, which RFC 9068 section 2.2 requires, is read and never written: Keyturn signs
its own first-party users in and has no OAuth clients.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA256

from keyturn.core.errors import InvalidToken
from keyturn.core.model import Principal, SessionId
from keyturn.core.policy import LONGEST_LEEWAY
from keyturn.tokens import base64url
from keyturn.tokens.jws import (
    ALGORITHM,
    MAX_TOKEN_BYTES,
    TOKEN_TYPE,
    JsonObject,
    ParsedToken,
    TokenFault,
    decode_json_object,
    parse_compact,
    payload_claims,
)
from keyturn.tokens.signing_key import SigningKey

PublicKeys = Mapping[str, ec.EllipticCurvePublicKey] | Callable[[str, float], ec.EllipticCurvePublicKey | None]
"""Public keys by id, or a function of id and time such as `SigningKeyRing.public_key`."""

OWN_CLAIMS: Final = frozenset(
    ("iss", "aud", "sub", "sid", "iat", "exp", "nbf", "jti", "auth_time", "amr", "scope", "client_id")
)
RESERVED_CLAIMS: Final = OWN_CLAIMS | frozenset(("acr", "act", "azp", "cnf", "may_act", "nonce"))
"""What an application may not set: our claims, and those that say who acts or who holds the token.

`roles`, `groups` and `entitlements` (RFC 9068 section 2.2.3.1) are the application's own.
"""

_ECDSA: Final = ec.ECDSA(SHA256())
_ENCODE: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_SESSION_ID: Final = re.compile(r"[0-9a-f]{32}")
_LATEST: Final = 2**53
_MAX_TEXT: Final = 2048


class _ReadOnly(dict[str, Any]):
    """Claims as they are in JSON, which nobody changes: they are cached and shared between requests.

    Why no MappingProxyType: a route returns what it is told, and JSON does not know that, nor do `pickle` and `copy`.
    """

    __slots__ = ()

    def _refuse(self: object, *_: object, **_named: object) -> NoReturn:
        raise TypeError("claims are read-only")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type[_ReadOnly], tuple[dict[str, Any]]]:
        return _ReadOnly, (dict(self),)


_NONE: Final = _ReadOnly()


class AccessClaims(NamedTuple):
    """The verified content of an access token. Times are whole seconds since the epoch.

    Attributes:
        sid: the session id as on the wire; `session_id` is the same in bytes.
        kid: the key that signed it.
        amr: how the user authenticated (RFC 8176 values).
        scope: space-separated scopes as on the wire, or None.
        extra: the application's own claims, read-only.
    """

    issuer: str
    audience: tuple[str, ...]
    subject: str
    sid: str
    issued_at: int
    expires_at: int
    token_id: str
    authenticated_at: int
    amr: tuple[str, ...]
    scope: str | None
    client_id: str | None
    extra: Mapping[str, Any]
    kid: str

    @property
    def session_id(self) -> bytes:
        """The session id as bytes."""
        return bytes.fromhex(self.sid)

    @property
    def scopes(self) -> frozenset[str]:
        """The scopes as a set."""
        return frozenset((self.scope or "").split())

    @property
    def principal(self) -> Principal:
        """Who a request with this token acts as."""
        return Principal(
            self.subject,
            SessionId(self.session_id),
            self.token_id,
            self.scopes,
            self.amr,
            self.authenticated_at,
            self.expires_at,
            self.extra,
        )


class AccessTokenSigner:
    """Sign access tokens with one key; the header is encoded once.

    Args:
        key: the active signing key; make a new signer when `SigningKeyRing.signing_key`
            returns another one.
        issuer: `iss`.
        audience: `aud`, one or several.
    """

    __slots__ = ("_audience", "_head", "_issuer", "_private_key", "kid")

    def __init__(
        self,
        key: SigningKey,
        issuer: str,
        audience: str | Sequence[str],
    ) -> None:
        self.kid: Final = key.kid
        self._private_key: Final = key.private_key
        self._issuer: Final = issuer
        self._audience: Final = audience if isinstance(audience, str) else list(audience)
        header = _ENCODE({"alg": ALGORITHM, "kid": key.kid, "typ": TOKEN_TYPE})
        self._head: Final = base64url.encode(header.encode("ascii")) + "."

    def sign(
        self,
        *,
        subject: str,
        session_id: bytes,
        issued_at: float,
        expires_at: float,
        token_id: str,
        authenticated_at: float,
        amr: Sequence[str],
        scope: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """Return a signed access token. Fractions of a second are cut off.

        Why: application claims come from a hook that may pass on what users wrote; they
        must not replace the subject, the audience or the lifetime.

        Args:
            subject: the user id.
            session_id: 16 bytes.
            issued_at: seconds, by the database's clock.
            expires_at: seconds.
            token_id: `jti`, unguessable, from fresh entropy.
            authenticated_at: when the user last gave a factor, in seconds.
            amr: RFC 8176 values such as `["pwd"]`.
            scope: space-separated; no claim when None or empty.
            extra: the application's own claims.

        Raises:
            ValueError: an extra claim has a reserved name, or the scope or the claims are such
                that no verifier would read them (no text, not JSON, too deep, too large).

        Spec: RFC 9068 section 2.2, RFC 7515 section 5.1.
        """
        payload: dict[str, object] = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": subject,
            "sid": session_id.hex(),
            "iat": int(issued_at),
            "exp": int(expires_at),
            "jti": token_id,
            "auth_time": int(authenticated_at),
            "amr": list(amr),
        }
        if scope:
            payload["scope"] = _readable(scope)
        if extra:
            _add_extra(payload, extra)
        signing_input = self._head + base64url.encode(_ENCODE(payload).encode("ascii"))
        der = self._private_key.sign(signing_input.encode("ascii"), _ECDSA)
        r, s = decode_dss_signature(der)
        token = f"{signing_input}.{base64url.encode(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"
        if len(token) > MAX_TOKEN_BYTES:
            raise ValueError(f"the claims make an access token over {MAX_TOKEN_BYTES} bytes")
        return token


def _readable(scope: str) -> str:
    if len(scope) > _MAX_TEXT or any("\ud800" <= character <= "\udfff" for character in scope):
        raise ValueError(f"a scope is text of at most {_MAX_TEXT} characters")
    return scope


def _add_extra(payload: dict[str, object], extra: Mapping[str, Any]) -> None:
    taken = RESERVED_CLAIMS & extra.keys()
    if taken:
        raise ValueError(f"these claims are not the application's to set: {sorted(taken)}")
    payload.update(extra)
    try:
        decode_json_object(_ENCODE(dict(extra)).encode("ascii"))
    except (TypeError, RecursionError, InvalidToken) as fault:
        raise ValueError("extra claims must be plain JSON with text keys, not deep") from fault


class AccessTokenVerifier:
    """Verify access tokens of one issuer for one service.

    Args:
        keys: public keys by id, or a function of id and time.
        issuer: the exact `iss`.
        audience: the service's own name, or several of which one must be in `aud`.
        leeway: seconds of clock difference to forgive, in every time comparison.
        max_lifetime: the longest `exp - iat` believed, in seconds.

    Raises:
        ValueError: no issuer or no audience, a leeway that is negative or over 120 seconds, or no positive lifetime.
    """

    __slots__ = ("_audience", "_issuer", "_max_lifetime", "key_of", "leeway")

    def __init__(
        self,
        keys: PublicKeys,
        issuer: str,
        audience: str | Iterable[str],
        *,
        leeway: float = 10.0,
        max_lifetime: float = 3600.0,
    ) -> None:
        accepted = frozenset([audience] if isinstance(audience, str) else audience)
        if not issuer or not accepted or not all(accepted):
            raise ValueError("an issuer and an audience must be named")
        if not 0 <= leeway <= LONGEST_LEEWAY or not max_lifetime > 0:
            raise ValueError(f"leeway is 0 to {LONGEST_LEEWAY:g} seconds and max_lifetime is positive")
        self.key_of: Final = keys if callable(keys) else _timeless(keys)
        self._issuer: Final = issuer
        self._audience: Final = accepted
        self.leeway: Final = leeway
        self._max_lifetime: Final = max_lifetime

    def verify(self, token: str | bytes, now: float) -> AccessClaims:
        """Return the claims of a valid token; raise for every other.

        Why: a result that would be a hole when ignored is raised, not returned.

        Args:
            token: the text after `Bearer `.
            now: seconds since the epoch.

        Raises:
            InvalidToken: its `reason` is a `TokenFault`, for logs only.

        Spec: RFC 9068 section 4, RFC 8725 section 3, ASVS 5.0 9.1.1-9.2.4.
        """
        parsed = parse_compact(token)
        public_key = self.key_of(parsed.kid, now)
        # No key means no: never another key, never the token's own (Authlib CVE-2026-27962).
        if public_key is None:
            raise InvalidToken(TokenFault.KEY)
        if not _signed_by(public_key, parsed):
            raise InvalidToken(TokenFault.SIGNATURE)
        payload = payload_claims(parsed)
        claims = _typed_claims(payload, parsed.kid)
        self._judge(claims, now)
        # "MUST NOT be accepted for processing" before nbf (RFC 7519 4.1.5)
        if "nbf" in payload and now < _seconds(payload["nbf"]) - self.leeway:
            raise InvalidToken(TokenFault.NOT_YET_VALID)
        return claims

    def _judge(self, claims: AccessClaims, now: float) -> None:
        if claims.issuer != self._issuer:
            raise InvalidToken(TokenFault.ISSUER)
        if self._audience.isdisjoint(claims.audience):
            raise InvalidToken(TokenFault.AUDIENCE)
        # "the current date/time MUST be before the expiration date/time" (RFC 7519 4.1.4)
        if now >= claims.expires_at + self.leeway:
            raise InvalidToken(TokenFault.EXPIRED)
        if now < claims.issued_at - self.leeway:
            raise InvalidToken(TokenFault.NOT_YET_VALID)
        lifetime = claims.expires_at - claims.issued_at
        if not 0 < lifetime <= self._max_lifetime:
            raise InvalidToken(TokenFault.CLAIMS)
        if claims.authenticated_at > claims.issued_at + self.leeway:
            raise InvalidToken(TokenFault.CLAIMS)


def _timeless(
    keys: Mapping[str, ec.EllipticCurvePublicKey],
) -> Callable[[str, float], ec.EllipticCurvePublicKey | None]:
    return lambda kid, _now: keys.get(kid)


def _signed_by(public_key: ec.EllipticCurvePublicKey, parsed: ParsedToken) -> bool:
    r = int.from_bytes(parsed.signature[:32], "big")
    s = int.from_bytes(parsed.signature[32:], "big")
    try:
        public_key.verify(encode_dss_signature(r, s), parsed.signing_input, _ECDSA)
    except InvalidSignature:
        return False
    return True


def _typed_claims(payload: JsonObject, kid: str) -> AccessClaims:
    sid = payload.get("sid")
    if type(sid) is not str or _SESSION_ID.fullmatch(sid) is None:
        raise InvalidToken(TokenFault.CLAIMS)
    audience = payload.get("aud")
    return AccessClaims(
        issuer=_text(payload.get("iss")),
        audience=(_text(audience),) if type(audience) is str else _texts(audience),
        subject=_text(payload.get("sub")),
        sid=sid,
        issued_at=_seconds(payload.get("iat")),
        expires_at=_seconds(payload.get("exp")),
        token_id=_text(payload.get("jti")),
        authenticated_at=_seconds(payload.get("auth_time")),
        amr=_texts(payload.get("amr")),
        # null is a value too: a claim that is present has its type.
        scope=_text(payload["scope"]) if "scope" in payload else None,
        client_id=_text(payload["client_id"]) if "client_id" in payload else None,
        extra=_NONE if payload.keys() <= OWN_CLAIMS else _extra(payload),
        kid=kid,
    )


def _extra(payload: JsonObject) -> Mapping[str, Any]:
    return _ReadOnly({name: _frozen(value) for name, value in payload.items() if name not in OWN_CLAIMS})


# Exact types, so that True is no number and 1e3 no time.


def _seconds(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _LATEST:
        raise InvalidToken(TokenFault.CLAIMS)
    return value


def _text(value: object) -> str:
    if type(value) is not str or not 0 < len(value) <= _MAX_TEXT:
        raise InvalidToken(TokenFault.CLAIMS)
    return value


def _texts(value: object) -> tuple[str, ...]:
    if type(value) is not list or not value:
        raise InvalidToken(TokenFault.CLAIMS)
    return tuple([_text(item) for item in value])


def _frozen(value: object) -> object:
    if isinstance(value, dict):
        return _ReadOnly({name: _frozen(item) for name, item in value.items()})
    if isinstance(value, list):
        return tuple([_frozen(item) for item in value])
    return value
