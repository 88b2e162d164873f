"""A project's own users: `ports.UserDirectory` over Django's user model.

Owns: queries on that model, and the two spellings of a password hash, Django's and Keyturn's. Must not hold: hashing
(`tokens/password.py`), what a disabled user may do (`auth.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import is_password_usable
from django.db import IntegrityError, InterfaceError, OperationalError, close_old_connections, router, transaction
from django.db.models import CharField, Q

from keyturn.core.errors import InvalidRequest, Unavailable
from keyturn.core.model import User, UserId
from keyturn.email import Email, normalise_email, with_ascii_domain
from keyturn.ports import Credential
from keyturn.stores.group_commit import Gatherer, Group
from keyturn.verify.django_users import can_be_id

_logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")

_NAME_FIELDS: Final = ("name", "full_name", "first_name")
# Django writes the name of its hasher before what argon2 and bcrypt call a hash, bcrypt's with one `$` more.
_SPELLINGS: Final = (("argon2$argon2", "$argon2"), ("bcrypt$$2", "$2"))


class DjangoUserDirectory:
    """The users of a Django project, found by e-mail address.

    - Whoever is not `is_active` is disabled: no login, and the next refresh ends the session.
    - Hashes that Django made with PBKDF2-SHA256, argon2id or bcrypt sign in, and are replaced by Keyturn's argon2id at
      the first login, in Django's spelling: Django's own login and its admin go on reading them.
    - A sign-up makes an active user whose user name is the address in lower case: its unique index decides who of two
      is first. Where the address is the user name, it is stored so.

    Every method raises `Unavailable` when the database is at fault.
    """

    def __init__(self) -> None:
        """Set up; the user model is asked for when it is first needed, for Django may not be ready yet."""
        self._reads: Final[Gatherer[UserId, User | None]] = Gatherer(self._read)

    async def get(self, user_id: UserId) -> User | None:
        """Read a user; None when deleted. Concurrent calls share one query: every refresh makes one."""
        return await self._reads.call(user_id)

    async def find(self, email: str) -> Credential | None:
        """Find a user by e-mail address, normalised here, without regard to case.

        Why an address that several users have signs in none of them: Django's own model lets people enter any address.

        Raises:
            InvalidRequest: it is not an e-mail address.
        """
        address = normalise_email(email)
        found = await _run(lambda: _holders(address))
        if len(found) > 1:
            _logger.error(
                "several users have one e-mail address; none of them can sign in", extra={"users": len(found)}
            )
        return Credential(_user(found[0]), from_django(found[0].password)) if len(found) == 1 else None

    async def create(self, email: str, name: str | None, password_hash: str) -> User | None:
        """Create an active user; None when the address is taken, decided by the unique index of the user name.

        Raises:
            InvalidRequest: the address is not one, or the model has no room for it or for the name.
            IntegrityError: the table wants more of a user than a sign-up says.
        """
        address = normalise_email(email)
        model = _model()
        fields = {field.name for field in model._meta.get_fields()}  # noqa: SLF001 - a documented API in spite of its name
        values: dict[str, object] = {model.get_email_field_name(): address.display, model.USERNAME_FIELD: address.key}
        for field, value in values.items():
            _refuse_long(model, field, str(value), "email")
        name_field = next((field for field in _NAME_FIELDS if field in fields), None)
        if name is not None and name_field is not None:
            _refuse_long(model, name_field, name, "name")
            values[name_field] = name
        if "is_active" in fields:
            values["is_active"] = True

        def insert() -> Any:
            if _holders(address):
                return None
            made = model(**values, password=to_django(password_hash))
            try:
                with transaction.atomic(using=_database()):
                    made.save(force_insert=True)
            except IntegrityError:
                # Of another column it is the project's to mend, and no address that is taken.
                if not _users().filter(**{model.USERNAME_FIELD: address.key}).exists() and not _holders(address):
                    raise
                return None
            return made

        created = await _run(insert)
        return None if created is None else _user(created)

    async def get_password_hash(self, user_id: UserId) -> str | None:
        """Read the user's password hash; None: no such user, or one without a password."""
        stored = await _run(lambda: _with_ids([user_id]).values_list("password", flat=True).first())
        return None if stored is None else from_django(stored)

    async def replace_password_hash(self, user_id: UserId, old: str, new: str) -> bool:
        """Set the hash if it still is `old`; of two changes that race, one gets False."""
        spelled = to_django(old), to_django(new)
        changed = await _run(lambda: _with_ids([user_id]).filter(password=spelled[0]).update(password=spelled[1]))
        return bool(changed)

    async def _read(self, group: Group[UserId, User | None]) -> None:
        rows = await _run(lambda: list(_with_ids(set(group.items))))
        found = {str(row.pk): _user(row) for row in rows}
        for index, user_id in enumerate(group.items):
            group.answer(index, found.get(user_id))


def from_django(stored: str) -> str | None:
    """Return a hash as Keyturn reads it; None: there is no password."""
    if not stored or not is_password_usable(stored):
        return None
    for theirs, ours in _SPELLINGS:
        if stored.startswith(theirs):
            return ours + stored.removeprefix(theirs)
    return stored


def to_django(password_hash: str) -> str:
    """Return a hash as Django reads it; the inverse of `from_django`."""
    for theirs, ours in _SPELLINGS:
        if password_hash.startswith(ours):
            return theirs + password_hash.removeprefix(ours)
    return password_hash


# -- the user model, whichever a project has: only what all of them share is asked of it


def _model() -> Any:
    return get_user_model()


def _users() -> Any:
    """Return the query for all users, where they are written. Why not where they are read: a replica lacks whoever has just signed up."""
    return _model()._default_manager.using(_database())  # noqa: SLF001 - Django's documented way to any model's manager


def _database() -> str:
    return router.db_for_write(_model())


def _with_ids(ids: Iterable[UserId]) -> Any:
    """Return the query for the users who have one of these ids; an id that the model cannot have is nobody's."""
    model = _model()
    return _users().filter(pk__in=[one for one in ids if can_be_id(model, one)])


def _holders(address: Email) -> list[Any]:
    """Read the users who have an address, compared as everywhere in Keyturn and not as a database folds case."""
    model = _model()
    field, username = model.get_email_field_name(), model.USERNAME_FIELD
    # All in the same way: one index is for all of them.
    spellings = {address.display, address.key, with_ascii_domain(address)}
    wanted = Q(*((f"{field}__iexact", each) for each in sorted(spellings)), _connector=Q.OR)
    if username != field and isinstance(model._meta.get_field(username), CharField):  # noqa: SLF001 - as above
        # Where a sign-up has put the key: the database may fold fewer letters than it does.
        wanted |= Q(**{username: address.key})
    candidates = _users().filter(wanted)
    return [user for user in candidates if _key(getattr(user, field)) == address.key]


def _key(stored: str) -> str | None:
    try:
        return normalise_email(stored).key
    except InvalidRequest:
        return None


def _user(row: Any) -> User:
    full_name = row.get_full_name() if hasattr(row, "get_full_name") else None
    email = getattr(row, row.get_email_field_name()) or ""  # the column may take NULL, also of who has signed in
    return User(str(row.pk), email, full_name or None, disabled=not row.is_active)


def _refuse_long(model: Any, field: str, value: str, member: str) -> None:
    """Refuse what the column has no room for, before the database takes it for a fault."""
    longest = model._meta.get_field(field).max_length  # noqa: SLF001 - as above
    if longest is not None and len(value) > longest:
        raise InvalidRequest(f"{member}: at most {longest} characters")


async def _run(work: Callable[[], _Result]) -> _Result:
    """Do work with Django's database on a thread, as Django does around a request.

    Why on another thread as well: what claims and sinks ask by Django's async queries is asked there, around which Django
    sees no request. A connection that a restart of the database has broken would stay in use there for ever.

    Raises: Unavailable: the database is at fault.
    """

    def on_thread() -> _Result:
        close_old_connections()
        try:
            return work()
        except (OperationalError, InterfaceError) as fault:
            raise Unavailable("users") from fault
        finally:
            close_old_connections()

    await sync_to_async(close_old_connections)()
    return await asyncio.to_thread(on_thread)
