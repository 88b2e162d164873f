"""What a request must have beyond a valid token, judged once for every framework.

Owns: reading the token from raw header values, scopes, step-up, the finished answer of a refusal. Must not hold: a
framework (one file each), what makes a token valid (`verifier.py`).
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from keyturn.core.errors import InvalidToken, Refused
from keyturn.core.model import Principal
from keyturn.ports import Clock, PrincipalSource
from keyturn.wire import Response, ScopeMissing, SignInTooWeak, bearer, finish, log_refusal, problem, request_id

_logger = logging.getLogger(__name__)

POLICY_VIOLATION: Final = 1008
"""The code with which a WebSocket is closed whose opening is refused.  Spec: RFC 6455 7.4.1."""
_SCOPE: Final = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+")
"""Spec: RFC 6749 3.3; nothing that could end the quoted text in a challenge."""


def _never_read(cls: type[Principal], *_: object) -> Mapping[str, object]:
    return {"type": "is-instance", "cls": cls}


# Why: FastAPI sees no dependency in `CurrentPrincipal | None`, nor django-ninja in any Principal, but a part of the body: by what
# pydantic makes of a named tuple, whoever calls would write there who they are.
setattr(Principal, "__get_pydantic_core_schema__", classmethod(_never_read))  # noqa: B010 - to type checkers there is none


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a route asks of the principal.

    Attributes:
        scopes: every one must be granted.
        max_age: seconds since the person last gave a factor, at most; None when that does not matter.
        amr: every one must be among the methods of that sign-in, RFC 8176 values such as `otp` or `mfa`.

    Raises: ValueError: something in it is no scope, no method or no age. TypeError: a text where several are meant.
    """

    scopes: Sequence[str] = ()
    max_age: int | None = None
    amr: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Refuse what could not be written into a challenge."""
        if isinstance(self.scopes, str) or isinstance(self.amr, str):
            # Its letters would be asked for.
            raise TypeError("scopes and amr are several texts, not one")
        object.__setattr__(self, "scopes", tuple(self.scopes))
        object.__setattr__(self, "amr", tuple(self.amr))
        for name in (*self.scopes, *self.amr):
            if _SCOPE.fullmatch(name) is None:
                raise ValueError(f"{name!r} is neither a scope nor a method of authentication")
        if self.max_age is not None and self.max_age < 0:
            raise ValueError("max_age is not negative")

    def ensure(self, principal: Principal, now: float) -> None:
        """Let a principal pass, or raise.

        Scopes come first: signing in again does not help who may not do it at all.

        Args:
            now: seconds since the Unix epoch.

        Raises:
            Forbidden: a scope is missing. StepUpRequired: the sign-in is too old, or was made in another way.

        Spec: RFC 6750 3.1; RFC 9470 3; OWASP ASVS 5.0 7.5.3, 8.2.1, 8.3.1.
        """
        if self.scopes and not principal.scopes.issuperset(self.scopes):
            raise ScopeMissing(self.scopes)
        too_old = self.max_age is not None and now - principal.authenticated_at > self.max_age
        if too_old or (self.amr and not set(self.amr).issubset(principal.amr)):
            raise SignInTooWeak(self.max_age, self.amr)


ANYBODY: Final = Requirement()
"""A valid token and nothing more."""


class Identified(NamedTuple):
    """Who a request acts as, or why nobody: what a middleware leaves for the routes, which ask for what they need."""

    guard: Guard
    principal: Principal | None
    refused: Refused | None = None

    def demand(self, requirement: Requirement = ANYBODY) -> Principal:
        """Return the principal.

        Why it raises: a route that forgets to look at the result must not run for nobody (Next.js CVE-2025-29927).

        Raises: InvalidToken, Forbidden, StepUpRequired, Unavailable.
        """
        if self.principal is None:
            raise self.refused or InvalidToken("authorization_header")
        self.guard.ensure(self.principal, requirement)
        return self.principal


class Guard:
    """Find out who a request acts as, and whether that is enough.

    Args:
        source: a Verifier, or the Keyturn node of this process.
        clock: seconds since the Unix epoch; when None the one that the source judges tokens by, if it tells.
    """

    __slots__ = ("_clock", "_source")

    def __init__(self, source: PrincipalSource, *, clock: Clock | None = None) -> None:
        self._source: Final = source
        # Of a node it is the database's: the age of a sign-in is judged by the clock that has stamped it.
        own: Clock = getattr(source, "clock", time.time)
        self._clock: Final = clock or own

    def check(self, authorization: Sequence[bytes], requirement: Requirement = ANYBODY) -> Principal:
        """Return who the request acts as.

        Args:
            authorization: every Authorization header, as it came.
            requirement: what the route asks for.

        Raises:
            InvalidToken, Forbidden, StepUpRequired, Unavailable: make the answer of it with `refusal`.
        """
        principal = self._source.authenticate(bearer(authorization))
        if requirement is not ANYBODY:
            requirement.ensure(principal, self._clock())
        return principal

    def check_async(
        self, authorization: Sequence[bytes], requirement: Requirement = ANYBODY
    ) -> Coroutine[object, object, Principal]:
        """Do as `check` without blocking the event loop."""
        # Most routes ask for nothing: then the source's own coroutine is the whole way.
        found = self._source.authenticate_async(bearer(authorization))
        return found if requirement is ANYBODY else self._ensured(found, requirement)

    async def _ensured(self, found: Awaitable[Principal], requirement: Requirement) -> Principal:
        principal = await found
        requirement.ensure(principal, self._clock())
        return principal

    def identify(self, authorization: Sequence[bytes]) -> Identified:
        """Find out who a request acts as, and refuse nobody yet."""
        try:
            return Identified(self, self.check(authorization))
        except Refused as refused:
            return Identified(self, None, refused)

    async def identify_async(self, authorization: Sequence[bytes]) -> Identified:
        """Do as `identify` without blocking the event loop."""
        try:
            return Identified(self, await self.check_async(authorization))
        except Refused as refused:
            return Identified(self, None, refused)

    def recognise(self, left: object) -> Identified | None:
        """Return what was left with a request, if this guard has left it there.

        Why: a WSGI environment may have been another application's before, and what that believed is not believed here.
        """
        return left if isinstance(left, Identified) and left.guard is self else None

    def ensure(self, principal: Principal, requirement: Requirement) -> None:
        """Ask more of a principal that is known already. Raises: Forbidden, StepUpRequired."""
        requirement.ensure(principal, self._clock())


def refusal(refused: Refused, request_ids: Sequence[bytes] = ()) -> Response:
    """Return the finished answer of a refusal, and log why.

    Args:
        refused: what was raised.
        request_ids: every X-Request-ID header of the request.

    Spec: RFC 9457; RFC 6750 3.
    """
    identity = request_id(request_ids)
    log_refusal(_logger, refused, identity)
    return finish(problem(refused, identity), identity)
