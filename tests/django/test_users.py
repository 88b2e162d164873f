"""The users of a Django project as Keyturn's: who they are, their passwords, and what two of them may not share."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.django import project
from tests.django.conftest import Person

# isort: split
from asgiref.sync import sync_to_async
from django.contrib.auth import authenticate, get_user_model
from django.contrib.auth.hashers import make_password, verify_password
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import IntegrityError, connections
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from keyturn.core.errors import InvalidRequest, InvalidToken, Unavailable
from keyturn.core.model import Principal, SessionId, UserId
from keyturn.django import DjangoUserDirectory
from keyturn.django.users import _holders, from_django, to_django
from keyturn.email import normalise_email
from keyturn.testing import UserDirectoryContract
from keyturn.tokens.password import PasswordHasher, Verified
from keyturn.verify.drf import PrincipalRefused, UserAuthentication
from tests.django.accounts import Account, Employee, Member
from tests.web.conftest import PASSWORD

pytestmark = pytest.mark.usefixtures("node")

directory = DjangoUserDirectory()
HASHERS = ["pbkdf2_sha256", "argon2", "bcrypt", "bcrypt_sha256"]


@pytest.mark.anyio
class TestContract(UserDirectoryContract):
    """The users of a project are a directory."""

    async def make_directory(self) -> DjangoUserDirectory:
        await get_user_model()._default_manager.all().adelete()
        return directory

    async def disable(self, user_id: UserId) -> None:
        assert await get_user_model()._default_manager.filter(pk=user_id).aupdate(is_active=False) == 1

    async def delete(self, user_id: UserId) -> None:
        await get_user_model()._default_manager.filter(pk=user_id).adelete()


@pytest.fixture
def person(node: Any) -> Person:
    """Somebody who has no account yet."""
    return Person("wsgi")


def made_by_django(email: str, password: str) -> Any:
    """Make a user as the project's own pages do."""
    return get_user_model()._default_manager.create(email=email, username=email, password=password)


def acting_as(user_id: str) -> Principal:
    """Make what a token of somebody says."""
    return Principal(user_id, SessionId(bytes(16)), "token", frozenset(), ("pwd",), 0.0, 60.0, {})


@pytest.mark.parametrize("name", HASHERS)
def test_password_that_django_has_hashed(person: Person, name: str) -> None:
    """Whoever had an account signs in, and has a new hash from then on, which Django reads as well."""
    user = made_by_django(person.email, make_password(PASSWORD, hasher=name))
    assert user.password.startswith(f"{name}$")
    assert person.log_in("not the password at all").json()["code"] == "invalid_credentials"
    assert person.log_in().status_code == 200
    assert person.user.password.startswith("argon2$argon2id$v=19$")
    assert person.user.password != user.password
    assert person.log_in().status_code == 200
    assert authenticate(username=person.email, password=PASSWORD) == user
    assert authenticate(username=person.email, password="not the password at all") is None


def test_people_who_sign_in_to_both() -> None:
    """With our hasher neither replaces what the other has made: that would end the user's sessions with Django."""
    ours = PasswordHasher()
    others = [f"django.contrib.auth.hashers.{name}PasswordHasher" for name in ("PBKDF2", "BCryptSHA256")]
    stock = make_password(PASSWORD, hasher="argon2")
    with override_settings(PASSWORD_HASHERS=["keyturn.django.hashers.PasswordHasher", *others]):
        made = make_password(PASSWORD)
        assert ours.verify(from_django(made), PASSWORD) == Verified(ok=True, needs_rehash=False)
        assert verify_password(PASSWORD, to_django(ours.hash(PASSWORD))) == (True, False)
        assert verify_password(PASSWORD, made) == (True, False)
        assert verify_password("another", made)[0] is False
        # What was there before is replaced once, by whoever comes first.
        assert verify_password(PASSWORD, stock) == (True, True)
        assert verify_password(PASSWORD, make_password(PASSWORD, hasher="pbkdf2_sha256")) == (True, True)


def test_hash_in_both_spellings() -> None:
    """A hash goes to Django and back unchanged; what is no password is none."""
    for name in HASHERS:
        stored = make_password(PASSWORD, hasher=name)
        read = from_django(stored)
        assert read is not None
        assert to_django(read) == stored
    assert from_django(make_password(None)) is None
    assert from_django("") is None


def test_inactive_user(person: Person) -> None:
    """Whoever is not active is out at the next refresh and does not come in again."""
    assert person.sign_up().status_code == 201
    get_user_model()._default_manager.filter(email=person.email).update(is_active=False)
    answer = person.send("POST", "/auth/refresh").json()
    assert (answer["code"], answer["reason"]) == ("session_ended", "user_disabled")
    assert person.log_in().json()["code"] == "invalid_credentials"


def test_deleted_user(person: Person) -> None:
    """Whoever is deleted is out at the next refresh."""
    assert person.sign_up().status_code == 201
    person.user.delete()
    assert person.send("POST", "/auth/refresh").json()["reason"] == "user_disabled"


def test_sign_up(person: Person) -> None:
    """A sign-up makes an active user of the project, who has a name, no rights, and an address as it was written."""
    person.email = person.email.replace("ada", "Ada")
    answer = person.sign_up(name="Ada Lovelace").json()["user"]
    user = person.user
    assert answer == {"id": str(user.pk), "email": person.email, "name": "Ada Lovelace"}
    assert (user.username, user.get_full_name()) == (person.email.lower(), "Ada Lovelace")
    assert (user.is_active, user.is_staff, user.is_superuser) == (True, False, False)


def test_address_in_another_case(person: Person) -> None:
    """An address is one address in any case, to sign up with and to log in with."""
    assert person.sign_up().status_code == 201
    other = Person("wsgi")
    other.email = person.email.upper()
    assert other.sign_up().json()["code"] == "conflict"
    assert other.log_in().json()["user"]["id"] == str(person.user.pk)


@pytest.mark.parametrize("stored", ["xn--bcher-kva.example", "bücher.example", "XN--BCHER-KVA.example"])
def test_address_with_its_domain_in_either_spelling(person: Person, stored: str) -> None:
    """A domain is one domain in Unicode and in ASCII, as whoever made the user has written it: to sign in with, and to take."""
    local = person.email.partition("@")[0]
    user = made_by_django(f"{local}@{stored}", make_password(PASSWORD))
    for domain in ("xn--bcher-kva.example", "bücher.example", "BÜCHER.example"):
        person.email = f"{local}@{domain}"
        assert person.log_in().json()["user"]["id"] == str(user.pk)
        assert person.sign_up().json()["code"] == "conflict"


def test_address_that_two_users_have(person: Person, caplog: pytest.LogCaptureFixture) -> None:
    """An address that somebody else has entered too signs in neither, and nobody signs up with it."""
    made_by_django(person.email, make_password(PASSWORD))
    made_by_django(person.email.upper(), make_password(PASSWORD))
    assert person.log_in().json()["code"] == "invalid_credentials"
    assert "several users" in caplog.text
    assert person.sign_up().json()["code"] == "conflict"


def test_query_for_an_address(node: Any) -> None:
    """It asks for the address in one way, in any case: any other would read the whole table in spite of the guide's index."""
    with CaptureQueriesContext(connections["default"]) as asked:
        assert _holders(normalise_email("Zoë@bücher.example")) == []
    [query] = asked.captured_queries
    assert '"email" =' not in query["sql"]
    assert query["sql"].count('"email" LIKE') == 3


@pytest.mark.parametrize("stored", ["", "not an address", "ada@example.com, eve@example.com"])
def test_address_that_is_none(person: Person, stored: str) -> None:
    """What stands in the table and is no address is nobody's."""
    get_user_model()._default_manager.create(email=stored, username=f"odd {person.email} {stored}")
    assert person.log_in().json()["code"] == "invalid_credentials"


@pytest.mark.anyio
async def test_model_that_wants_more_than_a_sign_up_says(person: Person) -> None:
    """That nobody can sign up is told as it is, and not as an address that is taken."""
    with override_settings(AUTH_USER_MODEL=Employee._meta.label):
        with pytest.raises(IntegrityError, match="number"):
            await directory.create(person.email, None, "hash")
        await asyncio.to_thread(Employee._default_manager.create, email=person.email, password="hash", number=1)
        assert await directory.create(person.email.upper(), None, "hash") is None


@pytest.mark.anyio
async def test_address_that_was_taken_away(person: Person) -> None:
    """Whoever is signed in and has no address any more stays so, with an empty one in the answers: they have no room for none."""
    with override_settings(AUTH_USER_MODEL=Account._meta.label):
        made = await directory.create(person.email, None, "hash")
        assert made is not None
        await Account.objects.filter(pk=made.id).aupdate(email=None)
        assert await directory.get(made.id) == made._replace(email="")


@pytest.mark.anyio
async def test_address_or_name_too_long(person: Person) -> None:
    """What the project's model has no room for is refused, and not a fault of its database."""
    long = "a" * 60
    with pytest.raises(InvalidRequest, match="email: at most 150"):
        await directory.create(f"{long}@{long}.{long}.example.com", None, "hash")
    with pytest.raises(InvalidRequest, match="name: at most 150"):
        await directory.create(person.email, "a" * 151, "hash")


@pytest.mark.anyio
async def test_model_in_which_nobody_is_ever_inactive(person: Person) -> None:
    """A model without the column, whose users are active by Django's own default, has them all, in REST framework too."""
    made = await asyncio.to_thread(Employee.objects.create, email=person.email, number=1)
    with override_settings(AUTH_USER_MODEL=Employee._meta.label):
        found = await directory.get(str(made.pk))
        assert found is not None
        assert not found.disabled
        assert await asyncio.to_thread(UserAuthentication().user_of, acting_as(str(made.pk))) == made


@pytest.mark.anyio
@pytest.mark.parametrize("model", [User, Account, Member])
@pytest.mark.parametrize(
    "odd", ["", "1.5", "7f0e9c", "5f2c" * 9, str(2**63), str(-(2**70)), pytest.param("9" * 5000, id="long")]
)
async def test_id_that_the_model_cannot_have(person: Person, model: type[Any], odd: str) -> None:
    """An id of another kind, or a number that no database holds, is nobody's, and disturbs none that is read with it."""
    names = {"email": person.email, model.USERNAME_FIELD: person.email}
    made = await asyncio.to_thread(model._default_manager.create, **names, password="hash")
    with override_settings(AUTH_USER_MODEL=model._meta.label):
        found = await asyncio.gather(*map(directory.get, [odd, str(made.pk), odd]))
        assert [user and user.email for user in found] == [None, person.email, None]
        assert await directory.get_password_hash(odd) is None
        assert not await directory.replace_password_hash(odd, "hash", "other")
        assert await directory.replace_password_hash(str(made.pk), "hash", "other")
        assert await asyncio.to_thread(UserAuthentication().user_of, acting_as(str(made.pk))) == made
        with pytest.raises(InvalidToken) as refused:
            await asyncio.to_thread(UserAuthentication().user_of, acting_as(odd))
        assert refused.value.reason == "user_gone"


@pytest.mark.anyio
async def test_database_that_is_gone(person: Person) -> None:
    """A fault of the project's database is a fault, never a wrong password."""
    database = project.DIRECTORY / "django.db"
    aside = project.DIRECTORY / "aside.db"
    connections.close_all()
    database.rename(aside)
    database.mkdir()
    try:
        with pytest.raises(Unavailable):
            await directory.find(person.email)
    finally:
        database.rmdir()
        aside.rename(database)
    assert await directory.find(person.email) is None


class Routed:
    """A router of a project with several databases. Args: reads, writes: the names of those that have the users."""

    def __init__(self, reads: str, writes: str) -> None:
        self._reads, self._writes = reads, writes

    def db_for_read(self, _model: type[Any], **_hints: object) -> str:
        """Say where users are read."""
        return self._reads

    def db_for_write(self, _model: type[Any], **_hints: object) -> str:
        """Say where users are written."""
        return self._writes


def test_replica_that_lags(person: Person) -> None:
    """Whoever has just signed up stays signed in, and signs in, where a replica that is read has nobody yet, in REST framework too."""
    call_command("migrate", database="archive", verbosity=0)
    with override_settings(DATABASE_ROUTERS=[Routed("archive", "default")]):
        user = person.sign_up().json()["user"]
        assert UserAuthentication().user_of(acting_as(user["id"])).email == person.email
        assert person.send("POST", "/auth/refresh").status_code == 200
        assert person.log_in().status_code == 200


@pytest.mark.anyio
async def test_users_in_a_database_of_their_own(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's default database may be none, as Django allows where the others have names."""

    def make_table() -> None:
        with connections["archive"].schema_editor() as editor:
            editor.create_model(Account)

    await asyncio.to_thread(make_table)
    nothing = {**connections.settings["default"], "ENGINE": "django.db.backends.dummy"}
    monkeypatch.setitem(connections.settings, "default", nothing)
    routers = [Routed("archive", "archive")]
    with override_settings(AUTH_USER_MODEL=Account._meta.label, DATABASE_ROUTERS=routers):
        made = await directory.create(person.email, None, "hash")
        assert made is not None
        assert await directory.get(made.id) == made
        assert await directory.create(person.email, None, "hash") is None


@pytest.mark.anyio
async def test_connection_of_a_hook_that_broke(person: Person) -> None:
    """What claims and sinks read by Django's async queries, outside of any request, does so again after a restart of the database."""
    users = get_user_model()._default_manager

    def cut() -> None:
        connections["default"].ensure_connection()
        connections["default"].connection.close()

    await sync_to_async(cut)()
    assert await directory.find(person.email) is None
    assert not await users.filter(email=person.email).aexists()
    await sync_to_async(cut)()
    assert await directory.get("0") is None
    assert not await users.filter(email=person.email).aexists()


def test_wait_that_rest_framework_is_told() -> None:
    """It is what our own answer says: the whole seconds after which a retry makes sense, and never too few."""
    waits = [PrincipalRefused(Unavailable("keys", seconds)).wait for seconds in (0.2, 1.0, 1.4)]
    assert waits == [1, 1, 2]
