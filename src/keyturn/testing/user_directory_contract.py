# ruff: noqa: S101 - these are tests
"""The contract of a directory of users, as tests: give an empty one, inherit its behaviours.

Owns: every sentence of `ports.UserDirectory` on which a node relies, as a test. Must not hold: anything that a directory may
do in its own way, such as which letters beyond a to z it folds.
"""

from __future__ import annotations

import asyncio
from unittest import SkipTest

from keyturn.core.errors import InvalidRequest
from keyturn.core.model import User, UserId
from keyturn.email import normalise_email
from keyturn.ports import Credential, UserDirectory

AT_ONCE = 20
"""Calls that race."""
LONGEST_ID = 255
LONGEST_NAME = 200
"""Characters, as on the wire."""

# A session may be older than the directory: it names its user by the id of the one before, such as the built-in one's.
_IDS_OF_NOBODY = (
    *("0", "nobody", "9" * 30, "5f2c" * 8, "7f0e9c4e-2f5b-4c57-9a51-0c7f3a8d9b10"),
    *("' OR '1'='1", '"],["', "%", "ü" * LONGEST_ID),
)


class UserDirectoryContract:
    """Inherit this in a test class and say how to make a directory.

        @pytest.mark.anyio
        class TestMyUsers(UserDirectoryContract):
            async def make_directory(self): ...
            async def disable(self, user_id): ...
            async def delete(self, user_id): ...

    The tests are coroutines: run them with anyio's or another pytest plugin, on asyncio. Addresses come as a node gives
    them: as `keyturn.email.normalise_email` shows them.
    """

    async def make_directory(self) -> UserDirectory:
        """Open a directory in which nobody is. Called once in each test."""
        raise NotImplementedError

    async def disable(self, user_id: UserId) -> None:
        """Disable a user, as the application does; without this the test of it is skipped."""
        raise SkipTest("this directory disables nobody")

    async def delete(self, user_id: UserId) -> None:
        """Delete a user, as the application does; without this the test of it is skipped."""
        raise SkipTest("this directory deletes nobody")

    # -- who is there

    async def test_user_created(self) -> None:
        """Whoever is created is read as they were told to be, with the hash that was given."""
        directory = await self.make_directory()
        user = await _created(directory, "Alice.Smith@example.com", "Alice Smith")
        assert type(user.id) is str
        assert 1 <= len(user.id) <= LONGEST_ID
        # Attempts to change the password are counted by this address, as logins are by what was typed.
        assert normalise_email(user.email).key == "alice.smith@example.com"
        await _is_there(directory, user, _hash(0))

    async def test_name_of_any_kind(self) -> None:
        """None, or one as long as the wire lets through, in any script; one that there is no room for makes no user."""
        directory = await self.make_directory()
        await _is_there(directory, await _created(directory, "nameless@example.com", None), _hash(0))
        for number, letter in enumerate("aéЖ語🦊"):
            email = f"named{number}@example.com"
            try:
                user = await _created(directory, email, letter * LONGEST_NAME)
            except InvalidRequest:
                assert await directory.find(email) == None  # noqa: E711 - the failure shows both sides
            else:
                await _is_there(directory, user, _hash(0))

    async def test_nobody(self) -> None:
        """An address or id that nobody has is no user and no hash, of whatever kind it is, and changes nothing."""
        directory = await self.make_directory()
        user = await _created(directory, "alice@example.com")
        found = [await directory.find(email) for email in ("nobody@example.com", "nobody@bücher.example")]
        assert found == [None, None]
        for user_id in _IDS_OF_NOBODY:
            if user_id == user.id:
                continue
            assert (user_id, await directory.get(user_id)) == (user_id, None)
            assert (user_id, await directory.get_password_hash(user_id)) == (user_id, None)
            assert (user_id, await directory.replace_password_hash(user_id, _hash(0), _hash(1))) == (user_id, False)
        await _is_there(directory, user, _hash(0))

    async def test_reads_at_once(self) -> None:
        """Each gets the user that was asked for, whoever else is asked for meanwhile."""
        directory = await self.make_directory()
        users = [await _created(directory, f"user{number}@example.com") for number in range(AT_ONCE)]
        read = await asyncio.gather(*(directory.get(user.id) for user in (*users, *reversed(users))))
        assert read == [*users, *reversed(users)]
        found = await asyncio.gather(*(directory.find(user.email) for user in users))
        assert [_user(each) for each in found] == users

    # -- addresses

    async def test_address_in_another_case(self) -> None:
        """It is the same address."""
        directory = await self.make_directory()
        user = await _created(directory, "Alice.Smith@example.com")
        for email in ("alice.smith@example.com", "ALICE.SMITH@example.com", "aLICE.sMITH@example.com"):
            assert (email, _user(await directory.find(email))) == (email, user)

    async def test_address_that_looks_like_another(self) -> None:
        """Letters, marks and accents are compared as they are: none stands for others, and the whole address counts."""
        directory = await self.make_directory()
        users = {email: await _created(directory, email) for email in ("bob@example.com", "zoë@example.com")}
        like_them = (
            *("%@example.com", "b%@example.com", "_ob@example.com", "b_b@example.com", "*@example.com"),
            *("b?b@example.com", "'bob'@example.com", "bob|zoë@example.com", "^bob@example.com", "zoe@example.com"),
            *("bo@example.com", "ob@example.com", "bobb@example.com", "bob@example.co", "bob@example.com.au"),
        )
        for email in like_them:
            assert (email, _user(await directory.find(email))) == (email, None)
            users[email] = await _created(directory, email)
        assert len({user.id for user in users.values()}) == len(users)
        for email, user in users.items():
            assert (email, _user(await directory.find(email))) == (email, user)

    async def test_letters_that_not_all_fold(self) -> None:
        """Two spellings are one address to `find` and to `create`, or two to both: else one user signs in as another, or nobody
        can sign in or up with the second.
        """
        directory = await self.make_directory()
        for pair in (("zoë", "ZOË"), ("RENÉ", "rené"), ("straße", "strasse"), ("GROSS", "groß")):
            first, second = (f"{local}@example.com" for local in pair)
            user = await _created(directory, first)
            found = _user(await directory.find(second))
            made = await directory.create(second, None, _hash(1))
            assert (second, found) == (second, user if made is None else None)
            assert (first, _user(await directory.find(first))) == (first, user)
            assert (second, _user(await directory.find(second))) == (second, made or user)

    async def test_address_that_is_taken(self) -> None:
        """In any case of its letters, and whoever has it keeps their name and password."""
        directory = await self.make_directory()
        user = await _created(directory, "Alice@example.com", "Alice")
        for email in ("Alice@example.com", "alice@example.com", "ALICE@example.com"):
            assert (email, await directory.create(email, "Eve", _hash(1))) == (email, None)
        await _is_there(directory, user, _hash(0))

    async def test_creates_at_once(self) -> None:
        """Of those who want one address, in whatever case, exactly one gets it."""
        directory = await self.make_directory()
        emails = ("bob@example.com", "Bob@example.com", "BOB@example.com", "boB@example.com")
        creating = [directory.create(emails[i % len(emails)], f"Bob {i}", _hash(i)) for i in range(AT_ONCE)]
        created = await asyncio.gather(*creating)
        winners = {number: user for number, user in enumerate(created) if user is not None}
        assert len(winners) == 1
        [(number, user)] = winners.items()
        await _is_there(directory, user, _hash(number))

    # -- passwords

    async def test_hash_that_is_replaced(self) -> None:
        """Only from the one that is there, only of this user, and it is read at once."""
        directory = await self.make_directory()
        user, other = [await _created(directory, f"{name}@example.com") for name in ("alice", "bob")]
        assert await directory.replace_password_hash(user.id, _hash(7), _hash(8)) == False  # noqa: E712 - as above
        await _is_there(directory, user, _hash(0))
        assert await directory.replace_password_hash(user.id, _hash(0), _hash(1)) == True  # noqa: E712
        await _is_there(directory, user, _hash(1))
        await _is_there(directory, other, _hash(0))
        assert await directory.replace_password_hash(user.id, _hash(0), _hash(2)) == False  # noqa: E712
        await _is_there(directory, user, _hash(1))

    async def test_hashes_replaced_at_once(self) -> None:
        """Of those who replace one hash, exactly one does."""
        directory = await self.make_directory()
        user = await _created(directory, "alice@example.com")
        hashes = [_hash(number) for number in range(1, AT_ONCE + 1)]
        changed = await asyncio.gather(*(directory.replace_password_hash(user.id, _hash(0), new) for new in hashes))
        assert sorted(changed) == [False] * (AT_ONCE - 1) + [True]
        await _is_there(directory, user, hashes[changed.index(True)])

    # -- who may not sign in any more

    async def test_disabled(self) -> None:
        """Whoever is disabled is read so at once, or not at all; the others are as before."""
        directory = await self.make_directory()
        user, other = [await _created(directory, f"{name}@example.com") for name in ("alice", "bob")]
        await _is_there(directory, user, _hash(0))
        await self.disable(user.id)
        for read in (await directory.get(user.id), _user(await directory.find(user.email))):
            assert read is None or (read.id, read.disabled) == (user.id, True)
        await _is_there(directory, other, _hash(0))

    async def test_deleted(self) -> None:
        """Whoever is deleted is nobody at once; the others are as before."""
        directory = await self.make_directory()
        user, other = [await _created(directory, f"{name}@example.com") for name in ("alice", "bob")]
        await _is_there(directory, user, _hash(0))
        await self.delete(user.id)
        assert [await directory.get(user.id), _user(await directory.find(user.email))] == [None, None]
        await _is_there(directory, other, _hash(0))


def _hash(number: int) -> str:
    """Make a text that looks like a password's hash; nobody signs in with it."""
    return f"$argon2id$v=19$m=19456,t=2,p=1${number:022}${number:043}"


def _user(found: Credential | None) -> User | None:
    return None if found is None else found.user


async def _created(directory: UserDirectory, email: str, name: str | None = None) -> User:
    """Create a user whose address must be free."""
    user = await directory.create(normalise_email(email).display, name, _hash(0))
    assert user is not None, f"nobody has {email} yet"
    return user


async def _is_there(directory: UserDirectory, user: User, password_hash: str) -> None:
    """Read a user by id and by address, and the hash in both ways."""
    assert await directory.get(user.id) == user
    found = await directory.find(user.email)
    assert (_user(found), None if found is None else found.password_hash) == (user, password_hash)
    assert await directory.get_password_hash(user.id) == password_hash
