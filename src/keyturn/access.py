"""Access tokens for live sessions: issue one, and turn one back into a principal.

Owns: the lifetime of a token, the claims hook, the warm cache. Must not hold: the format (`tokens/access_token.py`),
when keys change (`signing.py`), refresh tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from keyturn.background import answer_within
from keyturn.core.errors import Unavailable
from keyturn.core.model import Principal, Session, User
from keyturn.core.policy import REQUEST_LIMIT, Policy
from keyturn.ports import ClaimsHook, Clock, Denylist
from keyturn.tokens import base64url
from keyturn.tokens.access_token import AccessTokenSigner, AccessTokenVerifier
from keyturn.tokens.signing_key import SigningKey
from keyturn.tokens.verified_cache import VerifiedTokenCache

_logger = logging.getLogger(__name__)
TOKEN_ID_LENGTH = 12
"""Bytes of entropy in the id of an access token."""

_LATE = 120.0
"""Seconds by which this node may be behind the database's clock that has stamped a sign-in."""


class SigningKeys(Protocol):
    """The signing keys this node knows, in memory."""

    def signing_key(self, now: float) -> SigningKey: ...

    def public_key(self, kid: str, now: float) -> ec.EllipticCurvePublicKey | None: ...


class AccessTokens:
    """Issue and verify access tokens.

    Args:
        signing: the keys; nothing here does I/O.
        issuer: `iss`, an https URL in production.
        audience: `aud`.
        policy: lifetimes and leeway.
        denylist: what was revoked before it expired; None where that is switched off.
        claims: the application's hook.
        clock: the database's, as this node tells it without asking.

    Why not this machine's: its tokens are judged by other nodes, and by services, each by its own clock with leeway. All
    nodes have the database's, so one whose date is wrong gives no token that is over already, or not valid yet.
    """

    patience = REQUEST_LIMIT
    """Seconds the hook may take."""

    def __init__(
        self,
        signing: SigningKeys,
        *,
        issuer: str,
        audience: str,
        policy: Policy,
        denylist: Denylist | None,
        claims: ClaimsHook | None,
        clock: Clock,
    ) -> None:
        self._signing = signing
        self._issuer = issuer
        self._audience = audience
        self._claims = claims
        self._clock = clock
        self._signer: AccessTokenSigner | None = None
        verifier = AccessTokenVerifier(signing.public_key, issuer, audience, leeway=policy.clock_leeway)
        self._cache = VerifiedTokenCache(verifier, revoked=frozenset() if denylist is None else denylist)

    async def issue(self, user: User, session: Session, *, lifetime: float, entropy: bytes) -> tuple[str, int]:
        """Sign an access token for a session; return it with its lifetime in whole seconds.

        It never outlives the session's absolute lifetime by more than a second.

        Args:
            lifetime: seconds.
            entropy: `TOKEN_ID_LENGTH` fresh bytes.

        Raises:
            Unavailable: the application's claims hook failed or hangs; the refresh token is unharmed.
        """
        now = self._clock()
        expires_in = max(1, int(min(lifetime, session.absolute_expires_at - now)))
        # One that is yet to come was stamped by a clock that was ahead. Nobody knows how old it is: as old as can be,
        # or a step-up would find it new until that time comes.
        signed_in = min(session.authenticated_at, now) if session.authenticated_at <= now + _LATE else 0.0

        def sign(scope: str | None = None, extra: Mapping[str, object] | None = None) -> str:
            return self._signer_at(now).sign(
                subject=user.id,
                session_id=session.id,
                issued_at=now,
                expires_at=int(now) + expires_in,
                token_id=base64url.encode(entropy),
                authenticated_at=signed_in,
                amr=session.amr,
                scope=scope,
                extra=extra,
            )

        if self._claims is None:
            return sign(), expires_in
        try:
            extra = dict(await answer_within(self.patience, self._claims(user, session), "claims hook"))
            return sign(_scope(extra.pop("scope", None)), extra), expires_in
        except Exception as fault:
            # The hook is the application's code: whatever it raises or returns is a fault of ours to the client, and
            # no sign-out.
            _logger.exception("claims hook failed")
            raise Unavailable("claims hook") from fault

    def verify(self, token: str) -> Principal:
        """Turn an access token into the principal it stands for.

        Raises:
            InvalidToken: for every token that must not be believed, revoked ones included.
            Unavailable: this node has loaded no key yet.
        """
        return self._cache.authenticate(token, self._clock())

    def _signer_at(self, now: float) -> AccessTokenSigner:
        key = self._signing.signing_key(now)
        if self._signer is None or self._signer.kid != key.kid:
            self._signer = AccessTokenSigner(key, self._issuer, self._audience)
        return self._signer


def _scope(value: object) -> str | None:
    """Read what a hook gave as `scope`: a text, or several scopes in a sequence.

    Why no blank in one of several: a hook may make one of what users wrote, who would give themselves another with it.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        scopes = sorted(map(str, value))
        if any(each.split() != [each] for each in scopes):
            raise ValueError("a scope in a list is empty or has a blank in it")
        return " ".join(scopes)
    raise TypeError("scope is a text or a list of texts")
