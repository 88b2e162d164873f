"""Sessions and refresh tokens for tests, through the real rules and the real token format.

Owns: building them in one line. Must not hold: rules of its own.
"""

from __future__ import annotations

from os import urandom

from keyturn.core.login import Login, admit
from keyturn.core.model import Contact, PresentedToken, Session, SessionId, UserId
from keyturn.core.policy import Policy
from keyturn.core.rotation import Decision, decide
from keyturn.ports import Judge, SessionStore
from keyturn.tokens.refresh_token import RANDOM_LENGTH, RefreshTokens

CONTACT = Contact("192.0.2.7", "Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Firefox/150.0", "Firefox on Linux", 0.0)
"""A caller whose user acted just now."""
DEVICE_ID = b"device-number-01"


def refresh_tokens() -> RefreshTokens:
    """Make a token ring with a key of tests; the same each time, so that several processes understand each other."""
    return RefreshTokens({1: b"a key for tests, and only tests "}, 1)


class Holder:
    """Somebody who holds a refresh token: a browser, a tab, a thief.

    Args:
        store: where it is presented.
        token: the text of the token; `refresh` replaces it by the child that an answer brings.
        policy: the numbers.
        tokens: the ring.
    """

    def __init__(
        self, store: SessionStore, token: str, policy: Policy | None = None, tokens: RefreshTokens | None = None
    ) -> None:
        self.store = store
        self.token = token
        self.policy = policy or Policy()
        self.tokens = tokens or refresh_tokens()

    @property
    def presented(self) -> PresentedToken:
        """What the token says."""
        presented = self.tokens.read(self.token.encode())
        if presented is None:
            raise ValueError("not an authentic refresh token")
        return presented

    @property
    def session_id(self) -> SessionId:
        return self.presented.session_id

    def copy(self, store: SessionStore | None = None) -> Holder:
        """Make another holder of the same token, perhaps at another node."""
        return Holder(store or self.store, self.token, self.policy, self.tokens)

    def judge(self, contact: Contact = CONTACT) -> Judge:
        """Make the judge that a refresh hands to the store."""
        presented, mint = self.presented, self.tokens.minter(urandom(RANDOM_LENGTH))

        def judge(session: Session | None, now: float, healing: bool) -> Decision:
            return decide(session, presented, now, self.policy, contact=contact, mint=mint, healing=healing)

        return judge

    async def refresh(self, contact: Contact = CONTACT) -> Decision:
        """Present the token and keep the child, as a browser does with Set-Cookie."""
        decision = await self.store.present(self.session_id, self.judge(contact))
        if decision.child is not None:
            self.token = decision.child.text
        return decision

    async def child(self) -> Holder:
        """Refresh, and return a holder of the child beside this one, who keeps the parent."""
        other = self.copy()
        await other.refresh()
        return other


async def sign_in(
    store: SessionStore,
    user_id: UserId = "user-1",
    *,
    policy: Policy | None = None,
    device_id: bytes = DEVICE_ID,
    device_name: str | None = None,
    contact: Contact = CONTACT,
    amr: tuple[str, ...] = ("pwd",),
    remember: bool = True,
) -> Holder:
    """Open a session and return the holder of its first token."""
    policy = policy or Policy()
    tokens = refresh_tokens()
    login = Login(SessionId(urandom(16)), user_id, device_id, device_name, contact, amr, remember)
    mint = tokens.minter(urandom(RANDOM_LENGTH))
    admission = await store.open(user_id, lambda live, now: admit(live, login, now, policy, mint))
    return Holder(store, admission.token.text, policy, tokens)
