"""A file of users, line by line: what each line has to be, and whom it brings in.

Owns: the form of the lines (JSON Lines), what is taken of them, and which are refused. Pure, but for reading the file that it is
given. Must not hold: databases (`stores/importing.py`), what is printed (`cli/importing.py`).

Why strict: whoever is taken with a hash that nobody can check, or without what stood under a name that we do not know, looks
brought in and is not. Nothing that is refused is repeated: a hash may stand anywhere in such a file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

from keyturn.core.errors import InvalidRequest, KeyturnError
from keyturn.email import Email, normalise_email
from keyturn.stores.importing import NewUser
from keyturn.stores.users import storable_name
from keyturn.tokens.imported_hash import BcryptHash, Pbkdf2Hash, is_bcrypt, parse_imported_hash
from keyturn.tokens.jws import DoubledMember, only_once
from keyturn.tokens.password import PasswordProfile, profile_of, why_not_checked

MAX_LINE: Final = 16 * 1024
"""Bytes, with the end of the line: as large as the body of a sign-up may be."""
MAX_ID: Final = 255
"""Characters, as of the ids of an application's own users."""

MEMBERS: Final = ("email", "name", "password_hash", "id", "disabled")
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_NAME: Final = re.compile(r"[A-Za-z_]\w{0,39}", re.ASCII)


class LineRefused(KeyturnError):
    """A line brings in nobody.

    Args:
        code: stable, for scripts.
        text: for people; repeats nothing of the line but the names of members.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Costs(NamedTuple):
    """What hashes of elsewhere cost to check, at most."""

    bcrypt_rounds: int = 0
    pbkdf2_iterations: int = 0
    argon2: PasswordProfile | None = None
    """Of argon2id, the one of most work."""

    def with_(self, other: Costs) -> Costs:
        """Return the greater of each."""
        return Costs(
            max(self.bcrypt_rounds, other.bcrypt_rounds),
            max(self.pbkdf2_iterations, other.pbkdf2_iterations),
            max(self.argon2, other.argon2, key=_work),
        )


class UserLine(NamedTuple):
    """What a good line says."""

    user: NewUser
    costs: Costs


class Lines(Protocol):
    """A file of bytes."""

    def readline(self, size: int, /) -> bytes: ...


def numbered_lines(file: Lines) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, with their numbers from 1; of one that is too long, the beginning, which is refused.

    Raises: OSError: the file cannot be read.
    """
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        rest = line
        while len(rest) > MAX_LINE and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE + 1)
        if number == 1:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if line.strip() or len(line) > MAX_LINE:
            yield number, line


def read_user(line: bytes) -> UserLine:
    """Read a line.

    Raises: LineRefused: `malformed_line`, `invalid_email`, `invalid_name`, `invalid_id`, or `invalid_password_hash` for one that
        nobody can sign in with; `not_installed` where only what checks it is missing.
    """
    members = _members(line)
    email = _email(_text(members, "email"))
    password_hash = _text(members, "password_hash")
    costs = Costs() if password_hash is None else _costs(password_hash)
    disabled = members.get("disabled")
    if disabled is not None and type(disabled) is not bool:
        raise LineRefused("malformed_line", "disabled: has to be true or false")
    user = NewUser(
        email, _name(_text(members, "name")), password_hash, _id(_text(members, "id"), email), bool(disabled)
    )
    return UserLine(user, costs)


def _members(line: bytes) -> dict[str, object]:
    if len(line) > MAX_LINE:
        raise LineRefused("malformed_line", f"over {MAX_LINE} bytes")
    try:
        value: object = json.loads(line.decode("utf-8"), object_pairs_hook=only_once)
    except UnicodeDecodeError:
        raise LineRefused("malformed_line", "not UTF-8") from None
    except DoubledMember:
        raise LineRefused("malformed_line", "a member stands there twice") from None
    except (ValueError, RecursionError):
        raise LineRefused("malformed_line", "no JSON") from None
    if type(value) is not dict:
        raise LineRefused("malformed_line", "no JSON object")
    for name in value.keys() - set(MEMBERS):
        # What could be anything is not repeated.
        named = f"{name} is" if _NAME.fullmatch(name) else "there is"
        raise LineRefused("malformed_line", f"{named} no member of a user; these are: {', '.join(MEMBERS)}")
    return value


def _text(members: dict[str, object], name: str) -> str | None:
    value = members.get(name)
    if value is None or type(value) is str:
        return value
    raise LineRefused("malformed_line", f"{name}: has to be a text, in quotes")


def _email(text: str | None) -> Email:
    if text is None:
        raise LineRefused("invalid_email", "email: is missing")
    try:
        return normalise_email(text)
    except InvalidRequest as error:
        raise LineRefused("invalid_email", error.detail) from None


def _name(text: str | None) -> str | None:
    try:
        # Many systems have an empty text for a person without one, which a sign-up cannot have.
        return storable_name(text) or None
    except InvalidRequest as error:
        raise LineRefused("invalid_name", error.detail) from None


def _id(text: str | None, email: Email) -> str | None:
    if text is None:
        return None
    if not 1 <= len(text) <= MAX_ID or not text.isprintable():
        raise LineRefused("invalid_id", f"id: has to be 1 to {MAX_ID} printable characters")
    # Commands take what has an @ in it for an address: it must not be somebody else's.
    if "@" in text and _key_of(text) != email.key:
        raise LineRefused("invalid_id", "id: has an @ in it and is not the user's own address")
    return text


def _key_of(text: str) -> str | None:
    try:
        return normalise_email(text).key
    except InvalidRequest:
        return None


def _costs(stored: str) -> Costs:
    # The salt of PBKDF2 may be any text, and no database takes every one.
    why = why_not_checked(stored) if stored.isprintable() else "its form is not understood"
    if why is not None:
        code = "not_installed" if is_bcrypt(stored) else "invalid_password_hash"
        raise LineRefused(code, f"password_hash: {why}")
    imported = parse_imported_hash(stored)
    if isinstance(imported, BcryptHash):
        return Costs(bcrypt_rounds=imported.rounds)
    if isinstance(imported, Pbkdf2Hash):
        return Costs(pbkdf2_iterations=imported.iterations)
    return Costs(argon2=profile_of(stored))


def _work(profile: PasswordProfile | None) -> int:
    return 0 if profile is None else profile.memory_kib * profile.passes
