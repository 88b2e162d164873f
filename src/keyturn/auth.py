"""The use cases: in what order things happen.

Owns: reading clocks, drawing randomness, calling the ports, telling the sinks. Must not hold: a rule about sessions
(`core/`), HTTP (`web/`), SQL (`stores/`). Nothing here compares times or branches on the policy's numbers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from keyturn.access import TOKEN_ID_LENGTH, AccessTokens
from keyturn.core.device import network
from keyturn.core.errors import (
    Conflict,
    InvalidCredentials,
    InvalidToken,
    NoSession,
    NotFound,
    Refused,
    SessionBehind,
    SessionEnded,
)
from keyturn.core.events import Event, EventType
from keyturn.core.login import Admission, Limit, Login, admit, login_limits, signup_limits
from keyturn.core.model import Contact, PresentedToken, Principal, RevokeReason, Session, SessionId, User
from keyturn.core.policy import Policy
from keyturn.core.rotation import Decision, Outcome, decide, glance, lapsed, log_out
from keyturn.counted import allow, unjudged, wrong
from keyturn.devices import named
from keyturn.email import normalise_email
from keyturn.exchange import Cookies, SignedIn
from keyturn.ports import (
    Accounts,
    Attempt,
    Attempts,
    Clock,
    Credential,
    Entropy,
    EventSink,
    Judge,
    Listing,
    Openings,
    Passwords,
    SessionStore,
    SessionsWithUsers,
    Throttle,
    UserDirectory,
)
from keyturn.sinks import tell
from keyturn.tokens.device_token import DEVICE_ID_LENGTH, DeviceTokens
from keyturn.tokens.password_policy import PasswordPolicy
from keyturn.tokens.refresh_token import RANDOM_LENGTH, RefreshTokens

_SESSION_ID_LENGTH = 16
_MOST_SESSIONS = 8  # in the cookies of a request, whose head has room for 600: each costs a turn at the database


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    """Every use case of Keyturn over its ports.

    Args: the ports by name; `with_users` is `sessions` and `users` in one, `attempts` and `openings` with `throttle` besides; `clock` is the database's.
    """

    policy: Policy
    sessions: SessionStore
    users: UserDirectory
    with_users: SessionsWithUsers
    throttle: Throttle
    attempts: Attempts
    openings: Openings
    accounts: Accounts
    passwords: Passwords
    password_policy: PasswordPolicy
    access_tokens: AccessTokens
    refresh_tokens: RefreshTokens
    device_tokens: DeviceTokens
    sinks: Sequence[EventSink] = ()
    entropy: Entropy = field(default=os.urandom)
    clock: Clock

    async def sign_up(
        self,
        email: str,
        password: str,
        name: str | None,
        *,
        remember: bool,
        device_name: str | None,
        contact: Contact,
        cookies: Cookies,
    ) -> SignedIn:
        """Create a user and open their first session.

        Raises:
            InvalidRequest: the address or the password does not pass.
            Conflict: the address is taken. Throttled: too many sign-ups from this address. Unavailable.
        """
        address, _ = normalise_email(email)
        accepted = self.password_policy.check(password, (address, name or ""))
        browser = self.device_tokens.read(cookies.one_device), self._authentic(cookies)
        self.passwords.reserve(contact.ip)
        limits = signup_limits(network(contact.ip), self.policy)
        await allow(await self.throttle.take(limits), limits, contact, self.sinks, self.clock)
        async with unjudged(self.throttle, limits):
            password_hash = await self.passwords.hash_chosen(accepted, contact.ip)
        event = Event(EventType.SIGNED_UP, self.clock(), data={"ip": contact.ip})
        user = await self.accounts.sign_up(address, name, password_hash, event)
        if user is None:
            raise Conflict("this e-mail address is taken")
        await tell(self.sinks, event._replace(user_id=user.id))
        return (await self._open(user, remember, device_name, contact, browser))[0]

    async def log_in(
        self,
        email: str,
        password: str,
        *,
        remember: bool,
        device_name: str | None,
        contact: Contact,
        cookies: Cookies,
    ) -> SignedIn:
        """Prove a password and open a session; end the older one of the same browser.

        Raises:
            InvalidCredentials: unknown, wrong and disabled alike, after the same work. InvalidRequest: this is no e-mail address.
            Throttled. Unavailable: also when the password queue is full.

        Spec: OWASP ASVS 5.0 6.3.1, 6.3.8 (no user enumeration), 7.2.4 (a new session at each login).
        """
        # Before anything else: turning a flood away must cost next to nothing.
        self.passwords.reserve(contact.ip)
        address, account = normalise_email(email)
        # Not after the attempt is counted: a cookie that this node cannot read is no wrong password.
        device_id, former = self.device_tokens.read(cookies.one_device), self._authentic(cookies)

        def limits(known: bool) -> Sequence[Limit]:
            # The queue may have filled up since.
            self.passwords.reserve(contact.ip)
            return login_limits(account, network(contact.ip), device_id if known else None, self.policy, "logins")

        attempt = await self.attempts.begin(address, device_id, limits)
        await allow(attempt.retry_after, attempt.taken, contact, self.sinks, self.clock)
        credential = attempt.credential
        whose, password_hash = (None, None) if credential is None else (credential.user.id, credential.password_hash)
        async with unjudged(self.throttle, attempt.taken):
            verified = await self.passwords.verify(password_hash, password, contact.ip)
        if credential is None or not verified.ok or credential.user.disabled:
            raise await wrong(whose, None, contact, self.sessions, self.sinks, self.clock)
        if verified.needs_rehash and password_hash is not None:
            async with unjudged(self.throttle, attempt.taken):
                rehashed = await self.passwords.hash(password, contact.ip)
                await self.users.replace_password_hash(credential.user.id, password_hash, rehashed)
            password_hash = rehashed
        opened, found = await self._open(credential.user, remember, device_name, contact, (device_id, former), attempt)
        if found is None or found.user.disabled or not await self._proves(found, password_hash, password):
            # Why: a login that raced a password change or a disabling would leave a session that neither has ended.
            await self._revoke(credential.user.id, RevokeReason.PASSWORD_CHANGED, only=opened.session.id)
            raise InvalidCredentials
        return opened

    async def refresh(self, cookies: Cookies, contact: Contact) -> SignedIn:
        """Exchange the refresh cookie for an access token, by the rules of `core/rotation.py`.

        Raises:
            NoSession: no cookie, or none that is authentic. SessionEnded: with the reason.
            SessionBehind: the database lost commits. Unavailable: a dependency is at fault; nothing is lost.

        Spec: RFC 9700 4.14.2; OWASP ASVS 5.0 10.4.5.
        """
        token = self._presented(cookies)
        drawn = self.entropy(RANDOM_LENGTH + TOKEN_ID_LENGTH)  # one system call instead of two
        mint = self.refresh_tokens.minter(drawn[:RANDOM_LENGTH])

        def judge(session: Session | None, now: float, healing: bool) -> Decision:
            cookies.ensure_awaited()
            return decide(named(session, contact), token, now, self.policy, contact=contact, mint=mint, healing=healing)

        decision, session, user = await self._present(token.session_id, judge, contact)
        if self.sinks:
            data = {"outcome": decision.outcome, "generation": str(session.generation)}
            await tell(self.sinks, Event(EventType.REFRESHED, self.clock(), user.id, session.id, data))
        child = None if decision.child is None else decision.child.text
        return await self._signed_in(user, session, child, self.policy.access_lifetime, drawn[RANDOM_LENGTH:])

    async def render(self, cookies: Cookies, contact: Contact) -> SignedIn:
        """Give a render server a short access token for the cookie it forwards; nothing advances. Raises: as `refresh`."""
        token = self._presented(cookies)

        def judge(session: Session | None, now: float, healing: bool) -> Decision:
            cookies.ensure_awaited()
            return glance(session, token, now, self.policy, contact=contact, healing=healing)

        _, session, user = await self._present(token.session_id, judge, contact)
        return await self._signed_in(user, session, None, self.policy.ssr_lifetime, self.entropy(TOKEN_ID_LENGTH))

    async def log_out(self, cookies: Cookies, *, everywhere: bool = False) -> None:
        """End the session of the cookie, and all others of its user if asked; nothing to end is no error.

        Raises: Unavailable: the session may still live, so the cookie must not be cleared.
        """
        for token in self._authentic(cookies):
            session, now = await self.sessions.get(token.session_id) if everywhere else (None, 0.0)
            # All first: after a fault the cookie still works, to ask again. A token of an ended session ends no others: anybody may have it.
            if session is not None and not lapsed(session, now):
                await self._revoke(session.user_id, RevokeReason.LOGOUT)
            await self._end(token.session_id, RevokeReason.LOGOUT)

    def authenticate(self, token: str) -> Principal:
        """Turn an access token into a principal; no I/O. Raises: InvalidToken. Unavailable: no key was loaded yet."""
        return self.access_tokens.verify(token)

    async def authenticate_async(self, token: str) -> Principal:
        """Do as `authenticate`, which never waits; with it an Auth is a PrincipalSource."""
        return self.access_tokens.verify(token)

    async def me(self, principal: Principal) -> tuple[User, Session]:
        """Read who a principal is, and their session.

        Raises: InvalidToken: the session or the user is gone.
        """
        session = await self._live(principal)
        user = await self.users.get(principal.user_id)
        if user is None or user.disabled:
            raise InvalidToken("user_gone")
        return user, session

    async def list_sessions(self, principal: Principal) -> Listing:
        """List the principal's live sessions, newest first. Raises: InvalidToken."""
        await self._live(principal)
        return await self.sessions.list_live(principal.user_id)

    async def end_session(self, principal: Principal, session_id: SessionId) -> None:
        """End one of the principal's own sessions.

        Raises: NotFound: there is none such, or it is another user's (which must not show). InvalidToken: the one that asks has ended.
        """
        await self._live(principal)
        reason = RevokeReason.LOGOUT if session_id == principal.session_id else RevokeReason.REVOKED
        if not await self._revoke(principal.user_id, reason, only=session_id):
            raise NotFound

    async def end_other_sessions(self, principal: Principal) -> None:
        """End all the principal's sessions but the one that asks. Raises: InvalidToken: that one has ended."""
        await self._live(principal)
        await self._revoke(principal.user_id, RevokeReason.REVOKED, keep=principal.session_id)

    async def change_password(
        self, principal: Principal, current: str, new: str, cookies: Cookies, contact: Contact
    ) -> SignedIn | None:
        """Change the password, end all other sessions, and give this one a new refresh token.

        Returns: this session, refreshed; None when the browser's cookie stays as it is: it is of another session, or refused now.
        The new token is a child like any other: making it current at once would sign out a browser with a refresh in flight.

        Raises: InvalidToken. InvalidRequest: the new password does not pass. InvalidCredentials: the current one is wrong.
            Conflict: it was changed meanwhile. Throttled. Unavailable.

        Spec: OWASP ASVS 5.0 6.2.2, 6.2.3 (the current password is asked), 7.4.3 (other sessions end).
        """
        user, session = await self.me(principal)
        accepted = self.password_policy.check(new, (user.email, user.name or ""))
        account = normalise_email(user.email).key
        limits = login_limits(account, network(contact.ip), session.device_id, self.policy, "changes")
        self.passwords.reserve(contact.ip)
        await allow(await self.throttle.take(limits), limits, contact, self.sinks, self.clock)
        async with unjudged(self.throttle, limits):
            old_hash = await self.users.get_password_hash(user.id)
            verified = await self.passwords.verify(old_hash, current, contact.ip)
        if not verified.ok or old_hash is None:
            raise await wrong(user.id, session.id, contact, self.sessions, self.sinks, self.clock)
        await self.throttle.give_back(limits)
        new_hash = await self.passwords.hash_chosen(accepted, contact.ip)
        event = Event(EventType.PASSWORD_CHANGED, self.clock(), user.id, session.id, {"ip": contact.ip})
        done, ended = await self.accounts.change_password(user.id, old_hash, new_hash, session.id, event)
        await self._tell_ended(user.id, RevokeReason.PASSWORD_CHANGED, ended)
        if not done:
            raise Conflict("the password was changed meanwhile")
        await tell(self.sinks, event)
        with suppress(Refused):
            if [token.session_id for token in self._authentic(cookies)] == [session.id]:
                return await self.refresh(cookies, contact)
        return None

    async def end_user_sessions(self, user_id: str, reason: RevokeReason = RevokeReason.REVOKED) -> int:
        """End all sessions of a user, for an administrator or the application; return how many."""
        return len(await self._revoke(user_id, reason))

    # -- what the use cases share

    def _authentic(self, cookies: Cookies) -> list[PresentedToken]:
        found = [token for value in cookies.refresh if (token := self.refresh_tokens.read(value)) is not None]
        return found if len(found) < 2 else list({token.session_id: token for token in found}.values())[:_MOST_SESSIONS]

    def _presented(self, cookies: Cookies) -> PresentedToken:
        authentic = self._authentic(cookies)
        if len(cookies.refresh) != 1:
            # Why: of two cookies under one `__Host-` name at least one is planted: neither is used, and the owner's is not cleared for it.
            raise NoSession(clears_cookies=not authentic)
        if not authentic:
            raise NoSession
        return authentic[0]

    async def _present(self, session_id: SessionId, judge: Judge, contact: Contact) -> tuple[Decision, Session, User]:
        """Have a token judged; return its session, which lives, and the user, who may sign in."""
        decision, user = await self.with_users.present_with_user(session_id, judge)
        if decision.events:
            await tell(self.sinks, *decision.events)
        session = decision.session
        if session is None or not decision.outcome.accepted:
            raise await self._refusal(decision, contact)
        if user is None or user.disabled:
            await self._revoke(session.user_id, RevokeReason.USER_DISABLED)
            raise SessionEnded(RevokeReason.USER_DISABLED)
        return decision, session, user

    async def _refusal(self, decision: Decision, contact: Contact) -> Refused:
        """Say why a refresh is refused, to the sinks and to the caller."""
        session = decision.session
        if self.sinks:
            data = {"outcome": decision.outcome.value, "ip": contact.ip}
            user_id, session_id = (session.user_id, session.id) if session is not None else (None, None)
            await tell(self.sinks, Event(EventType.REFRESH_REFUSED, self.clock(), user_id, session_id, data))
        if decision.outcome is Outcome.AHEAD:
            return SessionBehind()
        return NoSession() if decision.reason is None else SessionEnded(decision.reason)

    async def _signed_in(
        self, user: User, session: Session, child: str | None, lifetime: float, drawn: bytes
    ) -> SignedIn:
        token, expires_in = await self.access_tokens.issue(user, session, lifetime=lifetime, entropy=drawn)
        return SignedIn(token, expires_in, user, session, self.clock(), child)

    async def _open(
        self,
        user: User,
        remember: bool,
        device_name: str | None,
        contact: Contact,
        browser: tuple[bytes | None, Sequence[PresentedToken]],
        attempt: Attempt | None = None,
    ) -> tuple[SignedIn, Credential | None]:
        """Open a session; return what the client gets, and the user as they are then."""
        known, former = browser
        replaced = [token.session_id for token in former]
        device_id, session_id = known or self.entropy(DEVICE_ID_LENGTH), SessionId(self.entropy(_SESSION_ID_LENGTH))
        new_device = attempt is not None and not attempt.known_device
        login = Login(session_id, user.id, device_id, device_name, contact, ("pwd",), remember, new_device)
        mint = self.refresh_tokens.minter(self.entropy(RANDOM_LENGTH))

        def admitted(live: Sequence[Session], now: float) -> Admission:
            # What ends below makes room: it must not end as `evicted`, which would clear the cookies that are set here.
            return admit([each for each in live if each.id not in replaced], login, now, self.policy, mint)

        admission, found = await self.openings.open_after_attempt(user, admitted, attempt, self.policy.max_sessions - 1)
        await tell(self.sinks, *admission.events)
        lifetime, drawn = self.policy.access_lifetime, self.entropy(TOKEN_ID_LENGTH)
        try:
            signed_in = await self._signed_in(user, admission.session, admission.token.text, lifetime, drawn)
        except Refused:
            await self._end(session_id, RevokeReason.REVOKED)  # or each try would push out one that a browser has
            raise
        # Last: when anything before fails, the browser goes on with the session that it has.
        for older in replaced:
            await self._end(older, RevokeReason.REPLACED)
        # Each time: the cookie has an end, and so has the secret that signs it.
        return signed_in._replace(device_token=self.device_tokens.issue(device_id)), found

    async def _end(self, session_id: SessionId, reason: RevokeReason) -> None:
        decision = await self.sessions.present(session_id, lambda session, now, _: log_out(session, now, reason))
        await tell(self.sinks, *decision.events)

    async def _live(self, principal: Principal) -> Session:
        """Read the principal's session; refuse when it has ended, also while its access token is not denied yet."""
        session, now = await self.sessions.get(principal.session_id)
        if session is None or session.user_id != principal.user_id or lapsed(session, now):
            raise InvalidToken("session_ended")
        return session

    async def _proves(self, found: Credential, password_hash: str | None, password: str) -> bool:
        # Another login may just have made the hash anew from the same password.
        return found.password_hash == password_hash or (await self.passwords.verify(found.password_hash, password)).ok

    async def _revoke(
        self, user_id: str, reason: RevokeReason, *, only: SessionId | None = None, keep: SessionId | None = None
    ) -> Sequence[SessionId]:
        ended = await self.sessions.revoke(user_id, reason, only=only, keep=keep)
        await self._tell_ended(user_id, reason, ended)
        return ended

    async def _tell_ended(self, user_id: str, reason: RevokeReason, ended: Sequence[SessionId]) -> None:
        now, data = self.clock(), {"reason": reason.value}
        await tell(self.sinks, *(Event(EventType.SESSION_ENDED, now, user_id, id_, data) for id_ in ended))
