"""The section of the operating guide about users of another system, run as it stands there, against such systems."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import bcrypt

from keyturn.user_lines import MEMBERS
from tests.attacks.support import Browser
from tests.cli.conftest import SAFE, Command, node_of
from tests.docs.shell import ROOT, Shell, blocks
from tests.services import PostgresServer, find_program

OPERATING = (ROOT / "docs" / "guides" / "operating.md").read_text(encoding="utf-8")
SECTION = "Moving users in"
DUMP, IMPORT = blocks(OPERATING, SECTION, "sh")
PASSWORD = "violet otters juggle quietly"

SETTINGS = """
SECRET_KEY = "x"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "django.db"}}
PASSWORD_HASHERS = [f"mysite.hashers.{name}" for name in ("PBKDF2", "Argon2", "BCrypt", "BCryptSHA256")]
"""
HASHERS = """
from django.contrib.auth import hashers

class PBKDF2(hashers.PBKDF2PasswordHasher):
    iterations = 1000

class Argon2(hashers.Argon2PasswordHasher):
    time_cost, memory_cost, parallelism = 1, 64, 1

class BCrypt(hashers.BCryptPasswordHasher):
    rounds = 4

class BCryptSHA256(hashers.BCryptSHA256PasswordHasher):
    rounds = 4
"""
MAKE_USERS = f"""
import django
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import User
for name in ("pbkdf2_sha256", "argon2", "bcrypt", "bcrypt_sha256"):
    User.objects.create(username=name, email=name + "@example.com", password=make_password({PASSWORD!r}, hasher=name))
User.objects.create_user("closed", "closed@example.com", {PASSWORD!r}, is_active=False, first_name="Clo", last_name="Sed")
User.objects.create_user("nobody", "nobody@example.com")
User.objects.create_user("without an address")
"""


def shell_of(command: Command) -> Shell:
    """Return a shell in which `keyturn` has the environment of a command."""
    shell = Shell(command.directory)
    shell.environment.update(command.environment, PATH=shell.environment["PATH"])
    return shell


def sign_in(command: Command, *names: str, expected: int = 200) -> None:
    """See who signs in."""

    async def work() -> None:
        async with node_of(command) as node:
            for name in names:
                browser = Browser(node.asgi, email=f"{name}@example.com")
                browser.password = PASSWORD
                assert (await browser.log_in()).status == expected, name

    asyncio.run(work())


def test_users_of_django(tmp_path: Path, sqlite_database_url: str) -> None:
    """Everybody with an address comes as they were, by each hasher of Django that is understood; the file is gone after it."""
    command, directory = Command(tmp_path, {**SAFE, "KEYTURN_DATABASE_URL": sqlite_database_url}), tmp_path
    command.run("migrate")
    (directory / "mysite").mkdir()
    (directory / "mysite" / "settings.py").write_text(SETTINGS)
    (directory / "mysite" / "hashers.py").write_text(HASHERS)
    (directory / "make_users.py").write_text(MAKE_USERS)
    [script] = blocks(OPERATING, SECTION, "python")
    (directory / "dump_users.py").write_text(script)
    [dump] = re.findall(r"`(DJANGO_SETTINGS_MODULE=[^`]* > users\.jsonl)`", OPERATING)
    shell = shell_of(command)
    shell.run(dump.replace("dump_users.py > users.jsonl", "make_users.py"))
    shell.run(dump)
    told = shell.run(IMPORT).splitlines()
    assert [line for line in told if "import" in line.split()[:2]] == ["would import 6, already there 0, refused 0"]
    assert "imported 6, already there 0, refused 0" in told
    assert not (directory / "users.jsonl").exists()
    users = {user["email"]: user for user in command.json("users", "list")}
    assert users["closed@example.com"] | {"id": ""} == {
        "id": "",
        "email": "closed@example.com",
        "name": "Clo Sed",
        "disabled": True,
    }
    assert {user["id"] for user in users.values()} == set("123456")
    sign_in(command, "pbkdf2_sha256", "argon2", "bcrypt", "bcrypt_sha256")
    sign_in(command, "closed", "nobody", expected=401)


def test_users_of_supabase(tmp_path: Path, postgres: PostgresServer, postgres_url: str) -> None:
    """They are read from its table; whoever is banned or signs in by something else there does not sign in here."""
    command = Command(tmp_path, {**SAFE, "KEYTURN_DATABASE_URL": postgres_url})
    command.run("migrate")
    stored = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4, b"2a")).decode()
    database = postgres_url.rpartition("/")[2]
    postgres.execute("CREATE SCHEMA auth", database)
    postgres.execute(
        "CREATE TABLE auth.users (id uuid DEFAULT gen_random_uuid(), email varchar, encrypted_password varchar,"
        " banned_until timestamptz)",
        database,
    )
    rows = f"('ada@example.com', '{stored}'), ('bob@example.com', ''), (NULL, NULL), ('o''brien\\\"@example.com', NULL)"
    postgres.execute(f"INSERT INTO auth.users (email, encrypted_password) VALUES {rows}", database)
    banned = f"('eve@example.com', '{stored}', now() + interval '1 day'), ('al@example.com', '{stored}', now())"
    postgres.execute(f"INSERT INTO auth.users (email, encrypted_password, banned_until) VALUES {banned}", database)
    shell = shell_of(command)
    shell.environment["OLD_DATABASE_URL"] = postgres_url.replace("+asyncpg", "")
    shell.environment["PATH"] += f":{find_program('psql').parent}"
    shell.run(DUMP)
    assert len((tmp_path / "users.jsonl").read_text().splitlines()) == 5
    assert command.json("users", "import", "users.jsonl", status=1)["imported"] == 4
    assert "line 3: email: not a valid e-mail address" in command.errors
    sign_in(command, "ada", "al")
    sign_in(command, "bob", "eve", expected=401)


def test_members_and_codes() -> None:
    """The section has each member that is taken, and each code by which a line is refused."""
    section = OPERATING.partition(f"## {SECTION}")[2].partition("\n## ")[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == MEMBERS
    said = re.findall(r"`(\w+)`", section.partition("What\n  it is refused for")[2].partition("\n-")[0])
    code = (ROOT / "src" / "keyturn" / "user_lines.py").read_text(encoding="utf-8")
    assert set(said) == {*re.findall(r"\"(malformed_\w+|invalid_\w+)\"", code), "conflict"}
