"""`keyturn users import`: people who have signed in elsewhere sign in here, and the operator hears of everybody who cannot."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from hashlib import pbkdf2_hmac, sha256
from pathlib import Path
from threading import Event, Thread
from typing import Any

import bcrypt
import pytest
from argon2 import PasswordHasher
from sqlalchemy import text

from keyturn.cli import importing
from keyturn.stores.engine import open_engine
from tests.attacks.support import Browser, query
from tests.cli.conftest import Command, node_of
from tests.services import wait_until

PASSWORD = "violet otters juggle quietly"
FILE = "users.jsonl"
PBKDF2 = f"pbkdf2_sha256$1000$salt${b64encode(pbkdf2_hmac('sha256', PASSWORD.encode(), b'salt', 1000)).decode()}"
BCRYPT = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
DIGESTED = bcrypt.hashpw(sha256(PASSWORD.encode()).hexdigest().encode(), bcrypt.gensalt(5)).decode()
ARGON2 = PasswordHasher(time_cost=1, memory_cost=64, parallelism=2).hash(PASSWORD)
HASHES = {
    "argon2": ARGON2,
    "pbkdf2": PBKDF2,
    "bcrypt": BCRYPT,
    "old-bcrypt": BCRYPT.replace("$2b$", "$2a$"),
    "php-bcrypt": BCRYPT.replace("$2b$", "$2y$"),
    "django-bcrypt": f"bcrypt_sha256${DIGESTED}",
}

Members = Mapping[str, object]


def user(who: str, /, **members: object) -> dict[str, object]:
    """Make a user of the file."""
    return {"email": f"{who}@example.com", **members}


def write(command: Command, users: Iterable[Members | str]) -> None:
    """Write a file of users; a text is a line as it is."""
    lines = (each if isinstance(each, str) else json.dumps(each) for each in users)
    (command.directory / FILE).write_text("".join(f"{line}\n" for line in lines))


def bring_in(command: Command, *users: Members | str, status: int = 0, options: tuple[str, ...] = ()) -> Any:
    """Import users; return the counts, and the codes of the notes."""
    write(command, users)
    told = command.json("users", "import", FILE, *options, status=status)
    return {**told, "notes": [note["code"] for note in told["notes"]]}


def counts(imported: int = 0, already_there: int = 0, refused: int = 0) -> Members:
    """Return the counts of an import."""
    return {"imported": imported, "already_there": already_there, "refused": refused}


def listed(command: Command) -> dict[str, tuple[str, str | None, bool]]:
    """List the users: id, name, whether disabled, by address."""
    return {u["email"]: (u["id"], u["name"], u["disabled"]) for u in command.json("users", "list", "--limit", "10000")}


def test_people_sign_in_with_the_passwords_that_they_had(command: Command) -> None:
    """Whatever system has hashed them; ids stay, the hash is ours from then on, and the operator is told what to set."""
    file = [user(name, id=f"old|{name}", password_hash=stored) for name, stored in HASHES.items()]
    others = [user("nobody"), user("closed", password_hash=PBKDF2, disabled=True, name="Clo Sed")]
    told = bring_in(command, *file, *others)
    notes = ["imported_bcrypt", "imported_pbkdf2"]
    assert told == {"dry_run": False, **counts(8), "without_password": 1, "notes": notes}

    async def sign_in() -> None:
        async with node_of(command) as node:
            for name in HASHES:
                browser = Browser(node.asgi, email=f"{name}@example.com")
                browser.password = PASSWORD.title()
                assert (await browser.log_in()).code == "invalid_credentials"
                browser.password = PASSWORD
                assert (await browser.log_in()).status == 200
                assert (browser.user_id, (await browser.me()).status) == (f"old|{name}", 200)
                ((stored,),) = await query(
                    node, "SELECT password_hash FROM keyturn_users WHERE id = :id", id=f"old|{name}"
                )
                assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
                assert (await browser.log_in()).status == 200
            for name in ("nobody", "closed"):
                browser = Browser(node.asgi, email=f"{name}@example.com")
                browser.password = PASSWORD
                assert (await browser.log_in()).code == "invalid_credentials"

    asyncio.run(sign_in())
    there = listed(command)
    assert there["closed@example.com"][1:] == ("Clo Sed", True)
    again = bring_in(command, *file, *others)
    assert again == {"dry_run": False, **counts(already_there=8), "without_password": 0, "notes": notes}
    assert listed(command) == there


BAD: dict[str, tuple[str, Members | str]] = {
    "line 2: no JSON": ("malformed_line", '{"email": "a@example.com"'),
    "line 4: a member stands there twice": ("malformed_line", '{"email": "a@example.com", "email": "b@example.com"}'),
    "line 5: plan is no member of a user; these are: email, name, password_hash, id, disabled": (
        "malformed_line",
        user("a", plan="gold"),
    ),
    "line 6: id: has to be a text, in quotes": ("malformed_line", user("a", id=6)),
    "line 7: over 16384 bytes": ("malformed_line", user("a", name="x" * 20_000)),
    "line 8: email: not a valid e-mail address": ("invalid_email", {"email": "nobody"}),
    "line 9: name: at most 200 characters": ("invalid_name", user("a", name="x" * 201)),
    "line 10: id: has to be 1 to 255 printable characters": ("invalid_id", user("a", id="x" * 256)),
    "line 11: password_hash: its form or its cost is not understood": (
        "invalid_password_hash",
        user("a", password_hash="scrypt:32768:8:1$Zm9v$c2VjcmV0"),
    ),
    "line 12: the same address as in line 1": ("conflict", user("GOOD")),
    "line 13: the same id as in line 1": ("conflict", user("other", id="1")),
    "line 14: another user has this address, and was left alone": ("conflict", user("eve", id="14")),
    "line 15: another user has this id, and was left alone": ("conflict", user("fay", id="theirs")),
}
"""What is told of lines that bring in nobody, by the number that they have below."""


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_lines_that_bring_in_nobody(command: Command, options: tuple[str, ...]) -> None:
    """Each is named with its number and a code, nothing of it is repeated, and the others are brought in all the same."""
    assert bring_in(command, user("eve", id="theirs", password_hash=BCRYPT))["imported"] == 1
    [second, *others] = [line for _, line in BAD.values()]
    file = [user("good", id="1", password_hash=PBKDF2), second, user("fine"), *others]
    told = bring_in(command, *file, status=1, options=options)
    expected = counts(2, 0, len(BAD))
    assert {name: told[name] for name in expected} == expected
    objects = [{"code": code, "text": said, "line": int(said.split()[1][:-1])} for said, (code, _) in BAD.items()]
    errors = [json.loads(each) for each in command.errors.splitlines()]
    assert sorted(errors, key=lambda each: each["line"]) == objects
    there = listed(command)
    assert set(there) == {"eve@example.com"} | (set() if options else {"good@example.com", "fine@example.com"})
    assert there["eve@example.com"][0] == "theirs"
    output = command.run("users", "import", FILE, *options, status=1)
    done = "would import 2, already there 0" if options else "imported 0, already there 2"
    assert output.startswith(
        f"{done}, refused {len(BAD)}\nnote  imported_pbkdf2: set KEYTURN_IMPORTED_PBKDF2_ITERATIONS=1000 "
    )
    assert sorted(command.errors.splitlines()) == sorted(f"keyturn: {code}: {said}" for said, (code, _) in BAD.items())
    for secret in (BCRYPT, PBKDF2, "c2VjcmV0", "xxxx", "gold"):
        assert secret not in output + command.errors


def test_file_that_comes_again(command: Command) -> None:
    """Nothing of who is there is changed, whatever they and the file have done since; who is new is brought in."""
    file = [user("ada", password_hash=BCRYPT, name="Ada"), user("bob", id="2", password_hash=BCRYPT)]
    assert bring_in(command, *file)["imported"] == 2
    before = listed(command)
    command.run("users", "set-password", "ada@example.com", "--password-stdin", stdin="quiet violets juggle otters\n")
    command.run("users", "set-password", "bob@example.com", "--password-stdin", stdin="quiet violets juggle otters\n")
    changed = [{**each, "name": "Another", "disabled": True, "password_hash": PBKDF2} for each in file]
    assert bring_in(command, *changed, user("carl"))["already_there"] == 2
    assert {**before, "carl@example.com": listed(command)["carl@example.com"]} == listed(command)

    async def sign_in() -> None:
        async with node_of(command) as node:
            for email in ("ada@example.com", "bob@example.com"):
                browser = Browser(node.asgi, email=email)
                browser.password = PASSWORD
                assert (await browser.log_in()).code == "invalid_credentials"
                browser.password = "quiet violets juggle otters"
                assert (await browser.log_in()).status == 200

    asyncio.run(sign_in())


class Feeding:
    """A file that is written while it is read: a named pipe."""

    def __init__(self, command: Command, steps: Callable[[Feeding], None]) -> None:
        self.command = command
        os.mkfifo(command.directory / FILE)
        self.thread = Thread(target=self._feed, args=(steps,))
        self.thread.start()

    def _feed(self, steps: Callable[[Feeding], None]) -> None:
        with (self.command.directory / FILE).open("w") as self.file:
            steps(self)

    def write(self, *users: Members) -> None:
        self.file.write("".join(f"{json.dumps(each)}\n" for each in users))
        self.file.flush()

    def imported(self, count: int) -> None:
        """Wait until so many users are there."""
        wait_until(lambda: self.execute("SELECT count(*) FROM keyturn_users") == count, 60, "the import")

    def execute(self, statement: str) -> Any:
        """Run a statement behind the back of the command; return what a query finds."""

        async def work() -> Any:
            engine = open_engine(self.command.environment["KEYTURN_DATABASE_URL"])
            try:
                async with engine.transaction() as connection:
                    found = await connection.execute(text(statement))
                    return found.scalar() if found.returns_rows else None
            finally:
                await engine.close()

        return asyncio.run(work())


def test_fault_of_the_database_on_the_way(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with the usual code and says how far it came; the same file again brings in the rest, and nobody twice."""
    monkeypatch.setattr(importing, "BATCH", 2)
    file = [user(f"user{number}", password_hash=BCRYPT) for number in range(7)]

    def steps(feeding: Feeding) -> None:
        feeding.write(*file[:4])
        feeding.imported(4)
        feeding.execute("ALTER TABLE keyturn_users RENAME TO keyturn_gone")
        feeding.write(*file[4:])

    feeding = Feeding(command, steps)
    told = command.run("users", "import", FILE, status=1)
    feeding.thread.join()
    assert told.startswith("keyturn: unavailable: database does not answer as it should (")
    assert told.endswith("; imported so far: up to line 4, 4 users. Run it again for the rest\n")
    feeding.execute("ALTER TABLE keyturn_gone RENAME TO keyturn_users")
    (command.directory / FILE).unlink()
    again = bring_in(command, *file)
    assert {name: again[name] for name in counts()} == counts(3, 4)
    assert len(listed(command)) == feeding.execute("SELECT count(*) FROM keyturn_events") == 7


def test_sign_up_on_the_way(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who takes an address of the file while it is read keeps it, and the operator hears of it."""
    monkeypatch.setattr(importing, "BATCH", 2)

    async def sign_up(email: str) -> None:
        async with node_of(command) as node:
            assert (await Browser(node.asgi, email=email).sign_up()).status == 201

    def steps(feeding: Feeding) -> None:
        feeding.write(user("ada"), user("bob"))
        feeding.imported(2)
        asyncio.run(sign_up("Carl@example.com"))
        feeding.write(user("carl", password_hash=BCRYPT), user("dan"))

    # Settings of the command stand in this process's environment meanwhile.
    feeding = Feeding(command, steps)
    told = command.json("users", "import", FILE, status=1)
    feeding.thread.join()
    assert {name: told[name] for name in counts()} == counts(3, 0, 1)
    assert json.loads(command.errors) == {
        "code": "conflict",
        "text": "line 3: another user has this address, and was left alone",
        "line": 3,
    }


def test_import_beside_a_server(sqlite_command: Command) -> None:
    """On SQLite both write to one file: people go on signing in meanwhile, and whoever has been brought in does as well."""
    sqlite_command.run("users", "create", "ada@example.com", "--password-stdin", stdin=f"{PASSWORD}\n")
    write(sqlite_command, (user(f"user{number}", password_hash=PBKDF2) for number in range(1500)))
    with sqlite_command.serving() as client:
        statuses: list[int] = []
        done = Event()

        def log_in(email: str = "ada@example.com") -> int:
            return client.post("/auth/login", json={"email": email, "password": PASSWORD}).status_code

        def go_on() -> None:
            while not done.is_set():
                statuses.append(log_in())

        thread = Thread(target=go_on)
        thread.start()
        wait_until(lambda: statuses != [], 60, "a login")
        assert sqlite_command.run("users", "import", FILE).startswith("imported 1500,")
        done.set()
        thread.join()
        assert set(statuses) == {200}
        assert log_in("user1499@example.com") == 200
    assert len(listed(sqlite_command)) == 1501


def test_what_the_operator_has_to_set(sqlite_command: Command) -> None:
    """The greatest cost in the file, unless it is set; and hashes that are dearer than ours are told."""
    dear = ARGON2.replace("m=64,t=1", "m=102400,t=2")
    file = [
        user("ada", password_hash=BCRYPT),
        user("bob", password_hash=f"bcrypt_sha256${DIGESTED}"),
        user("carl", password_hash=PBKDF2.replace("$1000$", "$870000$")),
        user("dan", password_hash=PBKDF2),
        user("eve", password_hash=dear),
        user("fay", password_hash=ARGON2),
    ]
    write(sqlite_command, file)
    notes = {note["code"]: note["text"] for note in sqlite_command.json("users", "import", FILE)["notes"]}
    assert list(notes) == ["imported_bcrypt", "imported_pbkdf2", "imported_argon2id"]
    assert "set KEYTURN_IMPORTED_BCRYPT_ROUNDS=5 " in notes["imported_bcrypt"]
    assert "set KEYTURN_IMPORTED_PBKDF2_ITERATIONS=870000 " in notes["imported_pbkdf2"]
    assert "with 100 MiB and 2 passes" in notes["imported_argon2id"]
    sqlite_command.environment |= {
        "KEYTURN_IMPORTED_BCRYPT_ROUNDS": "5",
        "KEYTURN_IMPORTED_PBKDF2_ITERATIONS": "870000",
    }
    assert bring_in(sqlite_command, *file)["notes"] == ["imported_argon2id"]
    assert bring_in(sqlite_command, user("gil", password_hash=ARGON2))["notes"] == []


def test_bcrypt_that_is_not_installed(sqlite_command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends at the first such line: nobody is brought in whose password nothing here can check."""
    monkeypatch.setitem(sys.modules, "bcrypt", None)
    write(sqlite_command, [user("ada", password_hash=PBKDF2), user("bob", password_hash=BCRYPT)])
    for options in ((), ("--dry-run",)):
        told = sqlite_command.run("users", "import", FILE, *options, status=1)
        assert told.startswith(
            "keyturn: not_installed: line 2: password_hash: bcrypt is not installed: install keyturn[bcrypt]"
        )
    assert listed(sqlite_command) == {}


def test_standard_input(sqlite_command: Command) -> None:
    """Its name is `-`; nothing in it is nobody."""
    assert sqlite_command.run("users", "import", "-") == "imported 0, already there 0, refused 0\n"
    line = json.dumps(user("ada", name="\u00cbda"), ensure_ascii=False)
    assert sqlite_command.run("users", "import", "-", stdin=line) == "imported 1, already there 0, refused 0\n"
    assert listed(sqlite_command)["ada@example.com"][1] == "\u00cbda"


def test_file_that_cannot_be_read(sqlite_command: Command, tmp_path: Path) -> None:
    """It is named, in a line."""
    for path, why in (("nowhere", "No such file or directory"), (str(tmp_path), "Is a directory")):
        assert sqlite_command.run("users", "import", path, status=1) == f"keyturn: cannot_read: {path}: {why}\n"
    told = sqlite_command.run("users", "import", "/proc/self/mem", status=1)
    assert told == "keyturn: cannot_read: Input/output error; imported so far: nobody. Run it again for the rest\n"
    write(sqlite_command, [user("ada")])
    (tmp_path / "keyturn.db").unlink(missing_ok=True)
    sqlite_command.environment["KEYTURN_DATABASE_URL"] = f"sqlite:///{tmp_path}/other.db"
    assert "database_not_migrated" in sqlite_command.run("users", "import", FILE, status=1)
    assert not (tmp_path / "other.db").exists()
