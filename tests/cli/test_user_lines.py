"""Lines of a file of users: whom each brings in, and why another brings in nobody."""

from __future__ import annotations

import json
import sys
from io import BytesIO

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn.email import normalise_email
from keyturn.stores.importing import NewUser
from keyturn.stores.users import MAX_NAME
from keyturn.tokens.password import PasswordHasher, PasswordProfile, why_not_checked
from keyturn.user_lines import MAX_ID, MAX_LINE, Costs, LineRefused, UserLine, numbered_lines, read_user

EMAIL = "ada@example.com"
ADDRESS = normalise_email(EMAIL)
PBKDF2 = f"pbkdf2_sha256$600000$salt${'A' * 43}="
BCRYPT = f"$2b$12$abcdefghijklmnopqrstuu{'.' * 31}"
ARGON2 = f"$argon2id$v=19$m=102400,t=2,p=8${'A' * 22}${'A' * 43}"


def line(**members: object) -> bytes:
    """Write a line as a program does."""
    return json.dumps({"email": EMAIL, **members}).encode() + b"\n"


def refusal(text: bytes) -> tuple[str, str]:
    """Read a line that brings in nobody; return the code and what is said."""
    with pytest.raises(LineRefused) as refused:
        read_user(text)
    return refused.value.code, str(refused.value)


def test_address_alone() -> None:
    """It is enough: a user without a name, a password or an id of their own. Null is as good as nothing."""
    assert read_user(line()) == UserLine(NewUser(ADDRESS), Costs())
    nothing = dict.fromkeys(("name", "password_hash", "id", "disabled"))
    assert read_user(line(**nothing)) == read_user(line(name="", disabled=False)) == read_user(line())


def test_everything_that_is_taken() -> None:
    """Each member is what it says; the address is normalised, the name and the id stay as they are."""
    members = {
        "email": " Ada@EXAMPLE.com",
        "name": "Ada \u00cb",
        "id": "auth0|5",
        "disabled": True,
        "password_hash": PBKDF2,
    }
    user = NewUser(normalise_email("Ada@example.com"), "Ada \u00cb", PBKDF2, "auth0|5", disabled=True)
    assert read_user(line(**members)) == UserLine(user, Costs(pbkdf2_iterations=600_000))
    assert read_user(json.dumps(members, ensure_ascii=False).encode()).user == user
    assert PBKDF2 not in repr(user)
    assert EMAIL not in repr(user).lower()


@pytest.mark.parametrize(
    ("stored", "costs"),
    [
        (PBKDF2, Costs(pbkdf2_iterations=600_000)),
        (BCRYPT, Costs(bcrypt_rounds=12)),
        (BCRYPT.replace("$2b$12", "$2a$04"), Costs(bcrypt_rounds=4)),
        (BCRYPT.replace("$2b$12", "$2y$16"), Costs(bcrypt_rounds=16)),
        (f"bcrypt_sha256${BCRYPT}", Costs(bcrypt_rounds=12)),
        (ARGON2, Costs(argon2=PasswordProfile(102400, 2, 8))),
    ],
)
def test_hash_that_can_be_checked(stored: str, costs: Costs) -> None:
    """It is kept as it is, and its cost is known."""
    assert read_user(line(password_hash=stored)) == UserLine(NewUser(ADDRESS, password_hash=stored), costs)


def test_costs_of_several() -> None:
    """The greatest of each kind counts."""
    many = [
        Costs(4, 9),
        Costs(argon2=PasswordProfile(64, 1)),
        Costs(12, 1),
        Costs(argon2=PasswordProfile(32, 3)),
        Costs(),
    ]
    found = Costs()
    for costs in many:
        found = found.with_(costs)
    assert found == Costs(12, 9, PasswordProfile(32, 3))


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "x",
        "!tVqbsiTC8lHCxQAHDsCVjvMhD40HMYLHmSyy1Wcv",
        "5f4dcc3b5aa765d61d8327deb882cf99",
        "scrypt:32768:8:1$salt$00",
        "$5$rounds=5000$salt$hash",
        "$argon2i$v=19$m=64,t=1,p=1$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
        "argon2" + ARGON2,
        ARGON2[:-2],
        ARGON2.replace("m=102400", "m=9999999"),
        "bcrypt$" + BCRYPT,
        BCRYPT[:-1],
        BCRYPT + " ",
        BCRYPT.replace("$12$", "$17$"),
        BCRYPT.replace("$2b$", "$2x$"),
        PBKDF2.replace("sha256", "sha1"),
        PBKDF2.replace("600000", "10000000"),
        PBKDF2.replace("salt", "sa\0lt"),
        PBKDF2.replace("salt", "sa\ud800lt"),
        PBKDF2 + "\n",
    ],
)
def test_hash_that_nobody_could_sign_in_with(stored: str) -> None:
    """It is refused and not kept, and not repeated."""
    code, text = refusal(line(password_hash=stored))
    assert (code, text.partition(":")[0]) == ("invalid_password_hash", "password_hash")
    assert not stored or stored not in text


def test_bcrypt_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told from a hash that nothing understands; the others are taken."""
    monkeypatch.setitem(sys.modules, "bcrypt", None)
    assert refusal(line(password_hash=BCRYPT)) == (
        "not_installed",
        "password_hash: bcrypt is not installed: install keyturn[bcrypt]",
    )
    assert refusal(line(password_hash=BCRYPT[:-1]))[0] == "invalid_password_hash"
    assert read_user(line(password_hash=PBKDF2)).costs.pbkdf2_iterations == 600_000


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b'{"email": "ada@example.com"', "no JSON"),
        (b"ada@example.com,Ada", "no JSON"),
        (b'{"email": "ada@example.com"} {}', "no JSON"),
        (b"\0", "no JSON"),
        (b"[" * 10_000, "no JSON"),
        (b'{"a":' * 3_000, "no JSON"),
        (b'[{"email": "ada@example.com"}]', "no JSON object"),
        (b"null", "no JSON object"),
        (b'"ada@example.com"', "no JSON object"),
        (b"\xff\xfe{\0", "not UTF-8"),
        (b'{"email": "\xc4da@example.com"}', "not UTF-8"),
        (b'{"email": "ada@example.com", "email": "eve@example.com"}', "a member stands there twice"),
        (b'{"id": "1", "email": "ada@example.com", "\\u0069d": "2"}', "a member stands there twice"),
        (line(name="x" * MAX_LINE), f"over {MAX_LINE} bytes"),
        (line(name=["Ada"]), "name: has to be a text, in quotes"),
        (line(id=5), "id: has to be a text, in quotes"),
        (line(email=None) + b" ", "email: is missing"),
        (line(email=True), "email: has to be a text, in quotes"),
        (line(password_hash={}), "password_hash: has to be a text, in quotes"),
        (line(disabled=1), "disabled: has to be true or false"),
        (line(disabled="no"), "disabled: has to be true or false"),
    ],
)
def test_line_of_another_form(text: bytes, told: str) -> None:
    """What is wrong with it is said in a few words."""
    code = "invalid_email" if told == "email: is missing" else "malformed_line"
    assert refusal(text) == (code, told)


@pytest.mark.parametrize("name", ["password", "email_verified", "is_admin", "Email", "created_at"])
def test_member_that_is_not_taken(name: str) -> None:
    """It is named, and so are those that are: nothing is left out unsaid."""
    code, text = refusal(line(**{name: "violet otters"}))
    assert (code, text.partition(";")[0]) == ("malformed_line", f"{name} is no member of a user")
    assert "email, name, password_hash, id, disabled" in text
    assert "violet" not in text


@pytest.mark.parametrize("name", [BCRYPT, EMAIL, "", "\x1b[31m", "x" * 41])
def test_member_whose_name_could_be_anything(name: str) -> None:
    """A hash or an address in its place is not repeated."""
    code, text = refusal(json.dumps({name: "x"}).encode())
    assert (code, text.partition(";")[0]) == ("malformed_line", "there is no member of a user")


@pytest.mark.parametrize(
    "email", ["", "ada", "Ada <ada@example.com>", "a@b.c,d@e.f", "ada@example.com\0", "\ud800@example.com"]
)
def test_address_that_is_none(email: str) -> None:
    """It is what a sign-up refuses."""
    code, text = refusal(line(email=email))
    assert (code, text) == ("invalid_email", "email: not a valid e-mail address")
    assert refusal(line(email="x" * 400 + "@example.com")) == ("invalid_email", "email: too long")


def test_names() -> None:
    """They are what a sign-up takes."""
    assert read_user(line(name="\u00eb" * MAX_NAME)).user.name == "\u00eb" * MAX_NAME
    assert refusal(line(name="x" * (MAX_NAME + 1))) == ("invalid_name", f"name: at most {MAX_NAME} characters")
    for name in ("Ada\n", "\x1b[31mAda", "\ud800", "\0"):
        assert refusal(line(name=name)) == ("invalid_name", "name: contains control characters")


def test_ids() -> None:
    """Any printable text is one; what commands would take for somebody's address is none, unless it is their own."""
    for good in ("1", "x" * MAX_ID, "a b", "\u00eb", EMAIL, "ADA@example.com"):
        assert read_user(line(id=good)).user.id == good
    for bad in ("", "x" * (MAX_ID + 1), "a\n", "\0", "\ud800", "\u202e", "eve@example.com", "saml|ada@", "@"):
        assert refusal(line(id=bad))[0] == "invalid_id"


def test_file_is_read_line_by_line() -> None:
    """Blank lines count and say nothing; the mark at the beginning, other ends of lines and a missing last one do no harm."""
    text = b"\xef\xbb\xbf{1}\r\n\n  \t\r\n{4}\n{5}"
    assert list(numbered_lines(BytesIO(text))) == [(1, b"{1}\r\n"), (4, b"{4}\n"), (5, b"{5}")]
    assert len(list(numbered_lines(BytesIO(b" " * MAX_LINE + b"{}")))) == 1
    assert list(numbered_lines(BytesIO(b""))) == list(numbered_lines(BytesIO(b"\xef\xbb\xbf"))) == []


@pytest.mark.parametrize("excess", [-1, 0, 1, 2, MAX_LINE, 10 * MAX_LINE + 7])
@pytest.mark.parametrize("end", [b"", b"\n", b"\n{}\n"])
def test_line_of_any_length(excess: int, end: bytes) -> None:
    """Never is more of one kept than the longest may have, and the next line is the next line."""
    long = b"x" * (MAX_LINE + excess)
    expected = [(1, (long + end[:1])[: MAX_LINE + 1]), (2, b"{}\n")]
    assert list(numbered_lines(BytesIO(long + end))) == expected[: 2 if len(end) > 1 else 1]


@given(st.binary(max_size=80) | st.lists(st.sampled_from([b"x", b"\n", b"\r", b" ", b"x" * MAX_LINE])).map(b"".join))
def test_every_line_of_any_file(text: bytes) -> None:
    """They are the lines of the file, whatever is in it, each as far as the longest may go."""
    if not text.startswith(b"\xef\xbb\xbf"):
        pieces = [piece + b"\n" for piece in text.split(b"\n")]
        pieces[-1] = pieces[-1][:-1]
        expected = [(number, each[: MAX_LINE + 1]) for number, each in enumerate(pieces, 1) if each.strip()]
        assert list(numbered_lines(BytesIO(text))) == expected


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
VALUES = ANY_JSON | st.sampled_from([EMAIL, PBKDF2, BCRYPT, ARGON2, "", "Ada", "5"])
OBJECTS = st.dictionaries(st.sampled_from("email name password_hash id disabled x".split()), VALUES)


@given(OBJECTS.map(lambda members: json.dumps(members).encode()) | st.binary(max_size=60))
def test_any_line(text: bytes) -> None:
    """It brings in somebody who can be stored, and who can sign in if they have a password; or it is refused by a code."""
    try:
        user, _ = read_user(text)
    except LineRefused as error:
        refused = error
    else:
        can_be_kept(user)
        return
    assert refused.code in {"malformed_line", "invalid_email", "invalid_name", "invalid_id", "invalid_password_hash"}
    assert str(refused).isprintable()


def can_be_kept(user: NewUser) -> None:
    """See that every database takes a user, and that whoever has a password can sign in with it."""
    assert normalise_email(user.email.display) == user.email
    assert user.password_hash is None or why_not_checked(user.password_hash) is None
    for kept in (user.name, user.password_hash, user.id):
        assert b"\0" not in (kept or "").encode()


def test_hashes_that_libraries_make() -> None:
    """Theirs and ours are taken."""
    ours = PasswordHasher(PasswordProfile(64, 1)).hash("violet otters")
    for stored in (ours, *(bcrypt.hashpw(bytes([n]), bcrypt.gensalt(4)).decode() for n in range(1, 40))):
        assert read_user(line(password_hash=stored)).user.password_hash == stored
