"""The contract of a directory of users, put to the test: it takes one that is right, and finds what is wrong with others."""

from __future__ import annotations

import asyncio
import re
from unittest import SkipTest

import pytest

from keyturn.core.model import User, UserId
from keyturn.ports import Credential
from keyturn.testing import UserDirectoryContract
from tests.stores.wrong import failures

pytestmark = pytest.mark.anyio


class DictUsers:
    """Users in a dictionary, as somebody may write it who has read `ports.UserDirectory` and the guide: an address is one in
    whatever case of a to z; what a database would do in between happens where it waits.
    """

    def __init__(self) -> None:
        self.rows: dict[UserId, Credential] = {}

    async def get(self, user_id: UserId) -> User | None:
        await asyncio.sleep(0)
        row = self.rows.get(user_id)
        return None if row is None else row.user

    async def find(self, email: str) -> Credential | None:
        await asyncio.sleep(0)
        return next((row for row in self.rows.values() if self.same(row.user.email, email)), None)

    def same(self, stored: str, email: str) -> bool:
        """Compare as an index on `lower(email)` does."""
        return stored.encode().lower() == email.encode().lower()

    async def create(self, email: str, name: str | None, password_hash: str) -> User | None:
        await asyncio.sleep(0)
        if any(self.taken(row.user.email, email) for row in self.rows.values()):
            return None
        return self.insert(email, name, password_hash)

    def taken(self, stored: str, email: str) -> bool:
        """Compare as `find`."""
        return self.same(stored, email)

    def insert(self, email: str, name: str | None, password_hash: str) -> User:
        user = User(str(len(self.rows) + 1), email, name)
        self.rows[user.id] = Credential(user, password_hash)
        return user

    async def get_password_hash(self, user_id: UserId) -> str | None:
        row = self.rows.get(user_id)
        return None if row is None else row.password_hash

    async def replace_password_hash(self, user_id: UserId, old: str, new: str) -> bool:
        await asyncio.sleep(0)
        row = self.rows.get(user_id)
        if row is None or row.password_hash != old:
            return False
        self.rows[user_id] = Credential(row.user, new)
        return True

    async def disable(self, user_id: UserId) -> None:
        row = self.rows[user_id]
        self.rows[user_id] = row._replace(user=row.user._replace(disabled=True))

    async def delete(self, user_id: UserId) -> None:
        del self.rows[user_id]


class Wildcards(DictUsers):
    """Finds by LIKE."""

    def same(self, stored: str, email: str) -> bool:
        pattern = re.escape(email).replace("%", ".*").replace("_", ".")
        return re.fullmatch(pattern, stored, re.IGNORECASE | re.ASCII) is not None


class TakenAsWritten(DictUsers):
    """Has a unique index on the address as it is written."""

    def taken(self, stored: str, email: str) -> bool:
        return stored == email


class FoldedWhereFound(DictUsers):
    """Finds by more letters than the index folds."""

    def same(self, stored: str, email: str) -> bool:
        return stored.casefold() == email.casefold()

    def taken(self, stored: str, email: str) -> bool:
        return super().same(stored, email)


class LookedUpFirst(DictUsers):
    """Looks whether the address is taken, and inserts afterwards."""

    async def create(self, email: str, name: str | None, password_hash: str) -> User | None:
        if await self.find(email) is not None:
            return None
        await asyncio.sleep(0)
        return self.insert(email, name, password_hash)


class Upserted(DictUsers):
    """Takes a conflict for an update."""

    async def create(self, email: str, name: str | None, password_hash: str) -> User | None:
        found = await self.find(email)
        if found is not None:
            self.rows[found.user.id] = found._replace(password_hash=password_hash)
            return None
        return self.insert(email, name, password_hash)


class ComparedFirst(DictUsers):
    """Reads the hash, compares, and writes afterwards."""

    async def replace_password_hash(self, user_id: UserId, old: str, new: str) -> bool:
        if await self.get_password_hash(user_id) != old:
            return False
        await asyncio.sleep(0)
        self.rows[user_id] = self.rows[user_id]._replace(password_hash=new)
        return True


class Remembered(DictUsers):
    """Keeps what it has read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: dict[UserId, User | None] = {}

    async def get(self, user_id: UserId) -> User | None:
        if user_id not in self.read:
            self.read[user_id] = await super().get(user_id)
        return self.read[user_id]


class ToldAsTyped(DictUsers):
    """Stores the address in lower case, and tells who has signed up of what they typed."""

    def insert(self, email: str, name: str | None, password_hash: str) -> User:
        return super().insert(email.lower(), name, password_hash)._replace(email=email)


class TestOverDictionary(UserDirectoryContract):
    """The contract of whatever directory the tests below put in the place of this one."""

    kind: type[DictUsers] = DictUsers

    async def make_directory(self) -> DictUsers:
        self.users = self.kind()
        return self.users

    async def disable(self, user_id: UserId) -> None:
        await self.users.disable(user_id)

    async def delete(self, user_id: UserId) -> None:
        await self.users.delete(user_id)


class FoldsAll(DictUsers):
    """One address in whatever case of any letter, to find and to take: as the built-in directory has it."""

    def same(self, stored: str, email: str) -> bool:
        return stored.casefold() == email.casefold()


class TestThatFoldsAll(TestOverDictionary):
    """Which letters beyond a to z are folded is the directory's to say."""

    kind = FoldsAll


class WithoutTheDisabled(DictUsers):
    """Takes whoever is disabled for nobody."""

    async def get(self, user_id: UserId) -> User | None:
        user = await super().get(user_id)
        return None if user is None or user.disabled else user

    async def find(self, email: str) -> Credential | None:
        found = await super().find(email)
        return None if found is None or found.user.disabled else found


class TestWithoutTheDisabled(TestOverDictionary):
    """To a node both are the same."""

    kind = WithoutTheDisabled


@pytest.mark.parametrize(
    ("kind", "found_by"),
    [
        (Wildcards, {"test_address_that_looks_like_another"}),
        (TakenAsWritten, {"test_address_that_is_taken", "test_creates_at_once"}),
        (FoldedWhereFound, {"test_letters_that_not_all_fold"}),
        (LookedUpFirst, {"test_creates_at_once"}),
        (Upserted, {"test_address_that_is_taken"}),
        (ComparedFirst, {"test_hashes_replaced_at_once"}),
        (Remembered, {"test_disabled", "test_deleted"}),
        (ToldAsTyped, {"test_user_created"}),
    ],
)
async def test_directory_that_is_wrong(kind: type[DictUsers], found_by: set[str]) -> None:
    """Each is found, by the test that is about it, and the failure says what was found and what was expected."""

    def over_the_wrong_one() -> TestOverDictionary:
        contract = TestOverDictionary()
        contract.kind = kind
        return contract

    failed = await failures(over_the_wrong_one)
    assert failed.keys() >= found_by
    assert all(" == " in str(failure) or "has" in str(failure) for failure in failed.values())


async def test_directory_that_says_nothing_of_disabling() -> None:
    """What it has no hook for is skipped, and does not fail."""
    contract = UserDirectoryContract()
    for hook in (contract.disable, contract.delete):
        with pytest.raises(SkipTest):
            await hook("1")
