"""A cache of verified access tokens, and the denylist check that no cache may skip.

Owns the warm path of checking an access token. Must not verify anything itself and must
not know how the denylist is fed.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final, NamedTuple, final

from keyturn.core.errors import InvalidToken
from keyturn.core.model import Principal
from keyturn.tokens.access_token import AccessClaims, AccessTokenVerifier
from keyturn.tokens.jws import TokenFault

DEFAULT_LIMIT: Final = 10_000


class _Known(NamedTuple):
    """A valid token, and who it stands for: made once, as nothing in it can change."""

    claims: AccessClaims
    principal: Principal


@final
class VerifiedTokenCache:
    """Verify each token text once, and check expiry, key and denylist every time.

    Why: a client sends the same token for minutes and the signature check is most of the
    cost. Only valid tokens are kept, so garbage cannot push good ones out. Whether it has
    expired, was revoked, or its key was withdrawn (a leak) is never cached.

    Threads may share it without a lock: each step is one operation on a dict, and what
    they can lose to each other is a cached token, never a check.

    Two generations bound it: when the young one is full it becomes the old one and the
    former old one is dropped. Dropping costs nothing and what is in use moves back.

    Args:
        verifier: judges a token that is not in the cache.
        revoked: the denylist: holds the `sid` (hex) or `jti` of what was revoked, and the
            `kid` of a key that leaked. Read on every call, so the live set itself belongs here.
        limit: the most tokens kept, at least 2; about 2 KB each.

    Raises:
        ValueError: the limit is below 2.

    Spec: ASVS 5.0 7.4.1 (a revoked session's tokens are refused).
    """

    __slots__ = ("_half", "_key_of", "_leeway", "_old", "_revoked", "_verifier", "_young")

    def __init__(
        self,
        verifier: AccessTokenVerifier,
        *,
        revoked: Container[str] = frozenset(),
        limit: int = DEFAULT_LIMIT,
    ) -> None:
        if limit < 2:
            raise ValueError("a cache holds at least 2 tokens")
        self._verifier: Final = verifier
        # At hand: a call more is a tenth of the whole check of a token that was seen before.
        self._key_of: Final = verifier.key_of
        self._leeway: Final = verifier.leeway
        self._revoked: Final = revoked
        self._half: Final = limit // 2
        self._young: dict[str, _Known] = {}
        self._old: dict[str, _Known] = {}

    def verify(self, token: str, now: float) -> AccessClaims:
        """Return the claims of a valid token that is not on the denylist.

        Args:
            token: the text after `Bearer `.
            now: seconds since the epoch.

        Raises:
            InvalidToken: as `AccessTokenVerifier.verify`, or `revoked`.
        """
        return self._known(token, now).claims

    def authenticate(self, token: str, now: float) -> Principal:
        """Do as `verify`, and return who the token stands for."""
        return self._known(token, now).principal

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def _known(self, token: str, now: float) -> _Known:
        known = self._young.get(token) or self._admit(token, now)
        claims = known.claims
        if now >= claims.expires_at + self._leeway or self._key_of(claims.kid, now) is None:
            # Judged anew, which names the reason.
            self._young.pop(token, None)
            known = self._judge(token, now)
        revoked = self._revoked
        if claims.sid in revoked or claims.token_id in revoked or claims.kid in revoked:
            raise InvalidToken(TokenFault.REVOKED)
        return known

    def _admit(self, token: str, now: float) -> _Known:
        known = self._old.pop(token, None) or self._judge(token, now)
        if len(self._young) >= self._half:
            self._old = self._young
            self._young = {}
        self._young[token] = known
        return known

    def _judge(self, token: str, now: float) -> _Known:
        claims = self._verifier.verify(token, now)
        return _Known(claims, claims.principal)
