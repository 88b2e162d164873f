"""What the shell needs from the outside, as small protocols with their semantics in the comments.

Owns: the contracts. Must not hold: implementations (`stores/`, `keyturn.testing` has the conformance kit).

Every method that touches a database, Redis or another service raises `Unavailable` when that is at fault, and nothing
else: a fault must never look like an answer. A port is a few methods; an optional capability is another port.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from keyturn.core.events import Event
from keyturn.core.login import Admission, Limit
from keyturn.core.model import Principal, RevokeReason, Session, SessionId, User, UserId
from keyturn.core.rotation import Decision
from keyturn.core.secret import redacted

Judge = Callable[[Session | None, float, bool], Decision]
"""(session as read, database's now, healing) -> decision. It changes nothing: the store may call it again after the row has
moved. What it raises, as when nobody waits for the answer any more, fails this presentation alone, which then writes nothing."""

Admit = Callable[[Sequence[Session], float], Admission]
"""(the user's live sessions, database's now) -> admission. May be called again, as `Judge`."""

PlanKeys = Callable[[Sequence[bytes], float], tuple[Sequence[bytes], Collection[str]]]
"""(every sealed key, database's now) -> (every sealed key from then on, ids of keys that leaked). May be called again."""

ChooseLimits = Callable[[bool], Sequence[Limit]]
"""(the user has had a session on this device) -> what the attempt counts against, at least one limit."""


class Listing(NamedTuple):
    """A user's live sessions, and the database's clock when they were read."""

    sessions: Sequence[Session]
    now: float


class SessionStore(Protocol):
    """Sessions, durable and atomic. `keyturn.testing.StoreContract` is this contract as tests."""

    async def present(self, session_id: SessionId, judge: Judge) -> Decision:
        """Read the session and the clock, judge, and make the decision true before returning it.

        - `Write.SWAP`: a conditional update on (id, token_hash as read, not revoked); when it hits no row, read and
          judge again. Committed, with the decision's kept events, before this returns. When the decision ends the
          session, its denylist entry is written in the same transaction.
        - `Write.TOUCH`: last-seen, last-active and the inactivity deadline move forward, never back, some time soon;
          the answer does not wait for it. Nothing else of the session changes, for it may have moved or ended meanwhile.
        - `Write.NOTHING`: no write; kept events still are.
        - N concurrent presentations behave as some order of N single ones, also across processes.
        - `healing` is true while lost commits are to be believed: the operator said so, or a failover was seen less
          than the healing time ago. It is looked up afresh when a judge answers `ahead`.
        """
        ...

    async def open(self, user_id: UserId, admit: Admit) -> Admission:
        """Admit a login under a lock on the user: insert the session, end the evicted ones, keep the events.

        When one of the evicted has ended meanwhile, as by a refresh, which takes no such lock, read and admit again.
        """
        ...

    async def get(self, session_id: SessionId) -> tuple[Session | None, float]:
        """Read one session, ended or not, and the database's clock."""
        ...

    async def list_live(self, user_id: UserId) -> Listing:
        """List the user's sessions that are neither revoked nor past a deadline, newest first."""
        ...

    async def revoke(
        self, user_id: UserId, reason: RevokeReason, *, only: SessionId | None = None, keep: SessionId | None = None
    ) -> Sequence[SessionId]:
        """End the user's live sessions (`only` one, or all but `keep`), with events and denylist entries; return them.

        A refresh that races this either commits first and is then revoked, or finds the session ended: no survivor.
        What is past its inactivity deadline ends too, for `INACTIVITY`, and is not returned. What is past its absolute end stays.
        For `PASSWORD_CHANGED` the user's devices are unknown from then on, but for that of `keep`; with `only`, that one's alone.
        """
        ...

    async def knows_device(self, user_id: UserId, device_id: bytes) -> bool:
        """Say whether this user has ever had a session (that is not pruned yet) on this device."""
        ...

    async def record(self, *events: Event) -> None:
        """Keep events that belong to no session write."""
        ...


class Presented(NamedTuple):
    """A decision that has become true, and the session's user."""

    decision: Decision
    user: User | None
    """None: deleted, or there is no such session."""


class SessionsWithUsers(Protocol):
    """Sessions, each with its user: a store that has both in one database reads them at once, `apart.Apart` does it for others."""

    def present_with_user(self, session_id: SessionId, judge: Judge) -> Awaitable[Presented]:
        """Do as `SessionStore.present`, and read the user no earlier than the session; only of an accepted one it counts.

        In one database both are read by one statement. There, disabling or deleting a user ends their sessions in the same
        transaction: the swap of a decision that was made before it hits no row, and both are read again.
        """
        ...

    async def open_with_user(self, user: User, admit: Admit) -> Opened:
        """Do as `SessionStore.open`, and read the user again: after it, or under its lock on the user.

        What ends a user's sessions because the user has changed does that after the change, or together with it: so a change
        that was too late to be read here ends the session that is opened here. In one database the lock may be the user's
        row: a session is opened only while that is the one that was read.
        """
        ...


class Attempt(NamedTuple):
    """What is known of a login before its password is checked."""

    credential: Credential | None
    """None: there is no such user, or the attempt is refused and nobody was looked for."""
    known_device: bool
    """The user has had a session on the device."""
    taken: Sequence[Limit]
    """What the attempt counts against."""
    retry_after: float | None
    """As `Throttle.take` says: None when the attempt was counted, else the seconds until a retry makes sense."""
    seen: object | None = None
    """What the store remembers of it for the opening."""


class Attempts(Protocol):
    """Attempts at logging in, counted and prepared: a store that has users, sessions and counters in one database does that in
    one or two statements, `apart.InTurn` does it for others.
    """

    def begin(self, email: str, device_id: bytes | None, limits: ChooseLimits) -> Awaitable[Attempt]:
        """Find the user as `UserDirectory.find`, the device as `SessionStore.knows_device`, and do `Throttle.take` of the limits.

        Unknown users cost the same work. What `limits` raises is raised before anything is counted.

        Args: device_id: of an authentic device cookie, or None.
        """
        ...


class Openings(Protocol):
    """Sessions opened after an attempt: a store that has sessions, users and counters in one database does all of it at once,
    `apart.InTurn` does it for others.
    """

    def open_after_attempt(self, user: User, admit: Admit, attempt: Attempt | None, room: int) -> Awaitable[Opened]:
        """Do as `SessionsWithUsers.open_with_user`, and as `Throttle.give_back` for what the attempt took.

        The attempt is given back before the session can be seen, or with it. When the opening fails it is given back whole, or
        may stay counted: that is one attempt less, never one more.

        Args:
            attempt: of this login, as `Attempts.begin` returned it; None: there is nothing to give back.
            room: live sessions at most with which `admit` evicts none; up to there it answers as if there were none.
        """
        ...


class Credential(NamedTuple):
    """A user and the hash of their password; None: this user cannot sign in with one."""

    user: User
    password_hash: str | None

    def __repr__(self) -> str:
        """Show nothing of it."""
        return redacted(self)


class Opened(NamedTuple):
    """A login that was admitted, and the user at that moment; None: deleted."""

    admission: Admission
    credential: Credential | None


class UserDirectory(Protocol):
    """Who can sign in. The application may bring its own user table; `stores.users.SqlUsers` is the default.

    `keyturn.testing.UserDirectoryContract` is this contract as tests.
    """

    async def get(self, user_id: UserId) -> User | None:
        """Read a user; None when deleted. Called at every refresh, so that a disabled user is out at once."""
        ...

    async def find(self, email: str) -> Credential | None:
        """Find a user by normalised e-mail address, without regard to case."""
        ...

    async def create(self, email: str, name: str | None, password_hash: str) -> User | None:
        """Create a user; None when the address is taken, exact under concurrency."""
        ...

    async def get_password_hash(self, user_id: UserId) -> str | None:
        """Read the user's password hash, for a password change."""
        ...

    async def replace_password_hash(self, user_id: UserId, old: str, new: str) -> bool:
        """Set the hash if it still is `old` (compare-and-set); False when it is not."""
        ...


class PasswordChanged(NamedTuple):
    """Whether the hash was still the old one, and the sessions that ended."""

    done: bool
    ended: Sequence[SessionId]


class Accounts(Protocol):
    """Accounts made and changed together with what belongs to that: a store that has users, sessions and events in one database
    does it in one transaction, `apart.InTurn` does it for others.
    """

    async def sign_up(self, email: str, name: str | None, password_hash: str, event: Event) -> User | None:
        """Do as `UserDirectory.create`, and record the event of the user that is created, whom it does not name yet."""
        ...

    async def change_password(
        self, user_id: UserId, old: str, new: str, keep: SessionId, event: Event
    ) -> PasswordChanged:
        """Set the hash if it still is `old`, end the user's sessions but `keep`, record the event.

        Whatever fails, no other session outlives the change, since by then nobody can ask again.
        """
        ...


class Throttle(Protocol):
    """Counters of attempts, exact under concurrency across all nodes."""

    async def take(self, limits: Sequence[Limit]) -> float | None:
        """Take one from every limit, or from none; return None, or the seconds until a retry makes sense.

        Why first and not after the failure: fifty parallel guesses must count as fifty before any is answered.
        """
        ...

    async def give_back(self, limits: Sequence[Limit], *, proven: bool = True) -> None:
        """Undo one `take`; after a success (`proven`) a limit without a window (consecutive failures) is reset to zero, and
        one that counts successes (`kept`) stays as it is.
        """
        ...


class Verified(Protocol):
    """What a password check found."""

    @property
    def ok(self) -> bool: ...

    @property
    def needs_rehash(self) -> bool:
        """True when the hash was made with older parameters or by another scheme."""
        ...


class Passwords(Protocol):
    """Hashing off the event loop, a bounded number at a time, in which no address keeps others waiting for long.

    `address` is that of whoever asks; empty where nobody knows it.
    """

    def reserve(self, address: str = "") -> None:
        """Raise `Unavailable` when the queue is full.

        Why before the attempt is counted: an attempt that was never made must not count against its account.
        """
        ...

    async def hash(self, password: str, address: str = "") -> str: ...

    async def hash_chosen(self, password: str, address: str = "") -> str:
        """Hash a password that somebody chooses now, unless it is known from a breach.

        Raises: PasswordRefused: it is. Nobody is asked about a password that is only checked.
        """
        ...

    async def verify(self, stored: str | None, password: str, address: str = "") -> Verified:
        """Check a password; without a hash (unknown user) do the same work and say no."""
        ...


class Denylist(Protocol):
    """Sessions and access tokens that were revoked before they expired, and signing keys that leaked; in memory, told by feeds."""

    def __contains__(self, item: object, /) -> bool:
        """Say whether the id of a session (lower-case hex), a token or a signing key is on the list. No I/O: at every request."""
        ...

    async def start(self) -> None:
        """Load what is revoked and follow the feed until `close`; idempotent."""
        ...

    async def close(self) -> None: ...

    def is_current(self) -> bool:
        """Say whether the feed is being followed; False is a fault for `/readyz` and metrics, never an open door."""
        ...


class PrincipalSource(Protocol):
    """Who a request acts as, by its access token: a node in this process (`Keyturn`), or a `Verifier` beside one.

    What every integration of a framework takes. Both methods raise InvalidToken for a token that must not be believed,
    and Unavailable where nobody can tell.
    """

    def authenticate(self, token: str) -> Principal:
        """Turn an access token into a principal. Safe in any thread; a Verifier blocks while it fetches keys."""
        ...

    async def authenticate_async(self, token: str) -> Principal:
        """Do as `authenticate` without ever blocking the event loop."""
        ...


class SigningKeyStore(Protocol):
    """Access-token signing keys, sealed under the secret ring, shared by all nodes."""

    async def load(self) -> tuple[Sequence[bytes], float]:
        """Read every sealed key, and the database's clock."""
        ...

    async def change(self, plan: PlanKeys) -> None:
        """Do as `load` while nobody else may write, set the whole ring to what `plan` says, deny tokens of leaked keys."""
        ...


class EventSink(Protocol):
    """Where events go in the process: the application subscribes with one of these."""

    async def emit(self, event: Event) -> None:
        """Take an event. Must be quick; what it raises is logged and changes no answer."""
        ...


ClaimsHook = Callable[[User, Session], Awaitable[Mapping[str, object]]]
"""Adds claims to an access token, at login and at every refresh, so that a changed role arrives within one access
lifetime. The member `scope` (a text with blanks between scopes, or a list of scopes without blanks) sets the scopes; registered
claims may not be overridden. What users wrote belongs in a list: there a blank in it is an error."""

DescribeDevice = Callable[[str], str]
"""User-Agent header -> `Firefox on Windows`."""

Entropy = Callable[[int], bytes]
"""n -> n random bytes from the operating system."""

Clock = Callable[[], float]
"""Seconds since the Unix epoch without asking anybody; on a node they are the database's (`stores.clock`)."""

MonotonicClock = Callable[[], float]
"""Seconds since some moment in the past, by a clock that nobody sets."""

__all__ = [
    "Accounts",
    "Admit",
    "Attempt",
    "Attempts",
    "ChooseLimits",
    "ClaimsHook",
    "Clock",
    "Credential",
    "Denylist",
    "DescribeDevice",
    "Entropy",
    "EventSink",
    "Judge",
    "Listing",
    "MonotonicClock",
    "Opened",
    "Openings",
    "PasswordChanged",
    "Passwords",
    "PlanKeys",
    "Presented",
    "PrincipalSource",
    "SessionStore",
    "SessionsWithUsers",
    "SigningKeyStore",
    "Throttle",
    "UserDirectory",
    "Verified",
]
