"""An application's own user table behind the `UserDirectory` port, as small as one can be."""

from __future__ import annotations

from threading import Lock
from uuid import uuid4

from keyturn.core.model import User, UserId
from keyturn.ports import Credential


class OwnUsers:
    """Users in a dict; a lock makes what must be exact so, whichever threads a framework calls from."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._rows: dict[UserId, Credential] = {}

    def disable(self, user_id: UserId) -> None:
        """Do what the application's administrator would."""
        with self._lock:
            row = self._rows[user_id]
            self._rows[user_id] = row._replace(user=row.user._replace(disabled=True))

    async def get(self, user_id: UserId) -> User | None:
        """Read a user."""
        row = self._rows.get(user_id)
        return None if row is None else row.user

    async def find(self, email: str) -> Credential | None:
        """Find a user by address."""
        with self._lock:
            return next((row for row in self._rows.values() if row.user.email.lower() == email.lower()), None)

    async def create(self, email: str, name: str | None, password_hash: str) -> User | None:
        """Create a user; None when the address is taken."""
        with self._lock:
            if any(row.user.email.lower() == email.lower() for row in self._rows.values()):
                return None
            user = User(id=f"own-{uuid4().hex}", email=email, name=name)
            self._rows[user.id] = Credential(user, password_hash)
            return user

    async def get_password_hash(self, user_id: UserId) -> str | None:
        """Read a password hash."""
        row = self._rows.get(user_id)
        return None if row is None else row.password_hash

    async def replace_password_hash(self, user_id: UserId, old: str, new: str) -> bool:
        """Set a password hash if it still is what it was."""
        with self._lock:
            row = self._rows.get(user_id)
            if row is None or row.password_hash != old:
                return False
            self._rows[user_id] = row._replace(password_hash=new)
            return True
