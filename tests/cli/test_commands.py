"""Every command over a real database."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Executable, text, update

from keyturn.cli.output import table
from keyturn.core.login import attempt_limits
from keyturn.core.policy import Policy
from keyturn.runtime import Keyturn
from keyturn.settings import Settings
from keyturn.stores.engine import open_engine
from keyturn.stores.redis import connect
from keyturn.stores.schema import signing_keys
from keyturn.stores.sql import SqlSessions
from keyturn.stores.throttle import RedisThrottle, SqlThrottle
from keyturn.testing import sign_in
from tests.cli.conftest import SAFE, Command
from tests.machine import Machine
from tests.services import PostgresServer, free_port

EMAIL = "ada@example.com"
PASSWORD = "violet otters juggle quietly"


def change(command: Command, statement: Executable) -> None:
    """Change a command's database behind its back."""

    async def execute() -> None:
        engine = open_engine(command.environment["KEYTURN_DATABASE_URL"])
        async with engine.transaction() as connection:
            await connection.execute(statement)
        await engine.close()

    asyncio.run(execute())


def create_user(command: Command, email: str = EMAIL) -> str:
    """Create a user and return the id."""
    return command.run("users", "create", email, "--password-stdin", stdin=f"{PASSWORD}\n").strip()


def test_migrate_makes_the_tables_and_does_nothing_when_they_are_there(empty_command: Command) -> None:
    """Before it the commands say what to do; after it they work, also after a second one."""
    assert "database_not_migrated" in empty_command.run("users", "list", status=1)
    first = empty_command.run("migrate")
    assert empty_command.run("migrate") == first
    assert empty_command.json("users", "list") == []


def test_database_of_a_newer_version_is_a_known_error(command: Command) -> None:
    """No command touches what a later version has made, and doctor does not call it safe."""
    change(command, text("UPDATE keyturn_alembic_version SET version_num = '9999'"))
    told = "database_newer: the database is at level 9999, which is unknown: upgrade Keyturn"
    for arguments in (["migrate"], ["users", "list"], ["prune"]):
        assert command.run(*arguments, status=1) == f"keyturn: {told}\n"
    assert told in command.run("serve", "--port", "0", status=1)
    assert f"UNSAFE  {told}" in command.run("doctor", status=1)
    command.environment["KEYTURN_MIGRATE"] = "off"
    assert told in command.spawn("serve", "--port", "0", status=1)


def test_database_that_was_restored_in_part_is_a_known_error(command: Command) -> None:
    """Tables without a level are what an interrupted restore leaves; the doctor does not call it empty."""
    change(command, text("DELETE FROM keyturn_alembic_version"))
    told = "database_incomplete: it has keyturn_counters, keyturn_denylist, keyturn_events and more, and no level: "
    for arguments in (["migrate"], ["serve", "--port", "0"]):
        error = command.run(*arguments, status=1)
        assert error.startswith(f"keyturn: unsafe_settings: {told}")
        assert error.count("\n") == 1
    assert f"UNSAFE  {told}" in command.run("doctor", status=1)


def test_restore_that_was_interrupted_later_is_a_known_error(sqlite_command: Command, postgres_url: str) -> None:
    """The tables have their level by then and no keys; no server starts, and the doctor says so. A slow index is a note."""
    sqlite_command.environment["KEYTURN_DATABASE_URL"] = postgres_url
    sqlite_command.run("migrate")
    change(sqlite_command, text("DROP INDEX keyturn_events_at"))
    assert sqlite_command.json("doctor")["findings"][0]["code"] == "database_index_missing"
    change(sqlite_command, text("ALTER TABLE keyturn_sessions DROP CONSTRAINT keyturn_sessions_pkey"))
    told = "database_incomplete: no index keeps keyturn_sessions (id) unique: was a restore interrupted?"
    assert told in sqlite_command.run("serve", "--port", "0", status=1)
    assert f"UNSAFE  {told}" in sqlite_command.run("doctor", status=1)


def test_tables_in_two_schemas_of_the_search_path(
    sqlite_command: Command, postgres: PostgresServer, empty_postgres_url: str
) -> None:
    """The doctor says whose are used: what is made in a schema before theirs, as for a look at a backup, would hide them."""
    sqlite_command.environment["KEYTURN_DATABASE_URL"] = empty_postgres_url
    sqlite_command.run("migrate")
    database = empty_postgres_url.rpartition("/")[2]
    postgres.execute(f'CREATE SCHEMA first; ALTER DATABASE "{database}" SET search_path TO first, public', database)
    assert sqlite_command.json("doctor")["findings"] == []
    postgres.execute("CREATE TABLE first.keyturn_events (LIKE keyturn_events INCLUDING ALL)", database)
    told = "note  database_scattered: tables of Keyturn are in the schemas first, public: of two with one name the earlier is used"
    assert told in sqlite_command.run("doctor")


def test_every_command_works_as_a_process_of_its_own(tmp_path: Path, postgres_url: str) -> None:
    """From an empty database to a deleted user, each step as the installed script runs it."""
    command = Command(tmp_path, {**SAFE, "KEYTURN_DATABASE_URL": postgres_url})
    assert command.spawn("migrate").startswith("the database is at level ")
    user_id = command.spawn("users", "create", EMAIL, "--password-stdin", stdin=f"{PASSWORD}\n").strip()
    assert command.spawn("users", "list") == f"{user_id}\t{EMAIL}\t-\tno\n"
    done = command.spawn("users", "set-password", EMAIL, "--password-stdin", stdin=f"{PASSWORD}\n")
    assert done == f"set the password of {user_id}\n"
    there = json.dumps({"email": EMAIL, "id": user_id})
    assert command.spawn("users", "import", "-", stdin=there) == "imported 0, already there 1, refused 0\n"
    assert command.spawn("users", "disable", EMAIL) == f"disabled {user_id}\n"
    assert command.spawn("sessions", "list", EMAIL) == ""
    assert "not_found" in command.spawn("sessions", "revoke", "00" * 16, status=1)
    assert " signs from " in command.spawn("keys", "rotate")
    assert "active" in command.spawn("keys", "list")
    assert command.spawn("prune") == "deleted 0 rows\n"
    assert command.spawn("heal", "--minutes", "0") == "healing has ended\n"
    assert command.spawn("doctor").startswith("safe: ")
    assert command.spawn("secret").startswith("1:")
    assert command.spawn("users", "delete", EMAIL, "--yes") == f"deleted {user_id}\n"


def test_process_on_sqlite_ends(sqlite_command: Command) -> None:
    """By each of the ways in which commands come to a database: its driver has threads, and they end as well."""
    assert sqlite_command.spawn("migrate").startswith("the database is at level ")
    user_id = sqlite_command.spawn("users", "create", EMAIL, "--password-stdin", stdin=f"{PASSWORD}\n").strip()
    assert "not_found" in sqlite_command.spawn("sessions", "revoke", "00" * 16, status=1)
    assert " signs from " in sqlite_command.spawn("keys", "rotate")
    assert sqlite_command.spawn("doctor").startswith("safe: ")
    assert sqlite_command.run("users", "list") == f"{user_id}\t{EMAIL}\t-\tno\n"


def test_users_are_created_listed_disabled_enabled_and_deleted(command: Command) -> None:
    """Each state shows in the list; names are what was given."""
    user_id = command.run("users", "create", EMAIL, "--name", "Ada", "--password-stdin", stdin=f"{PASSWORD}\n").strip()
    assert re.fullmatch(r"[0-9a-f]{32}", user_id)

    def listed() -> list[tuple[str, str, str | None, bool]]:
        return [(u["id"], u["email"], u["name"], u["disabled"]) for u in command.json("users", "list")]

    assert listed() == [(user_id, EMAIL, "Ada", False)]
    command.run("users", "disable", EMAIL.upper())
    assert listed() == [(user_id, EMAIL, "Ada", True)]
    command.run("users", "enable", user_id)
    assert listed() == [(user_id, EMAIL, "Ada", False)]
    assert command.run("users", "list") == f"{user_id}\t{EMAIL}\tAda\tno\n"
    command.run("users", "delete", EMAIL, "--yes")
    assert listed() == []
    assert "not_found" in command.run("users", "disable", EMAIL, status=1)


def test_users_create_refuses_what_the_sign_up_refuses(command: Command) -> None:
    """A taken address, a short password and a bad address are told by their codes, and nothing is created."""
    create_user(command)
    taken = command.run("users", "create", EMAIL.title(), "--password-stdin", stdin=f"{PASSWORD}\n", status=1)
    assert taken.startswith("keyturn: conflict: ")
    for email, password in ((EMAIL, "short\n"), ("no address", f"{PASSWORD}\n"), ("new@example.com", "")):
        refused = command.run("users", "create", email, "--password-stdin", stdin=password, status=1)
        assert refused.startswith("keyturn: invalid_request: ")
    assert "no_password" in command.run("users", "create", "new@example.com", status=1)
    assert len(command.json("users", "list")) == 1


def test_user_is_told_as_stored(command: Command) -> None:
    """The address in the form that every list and answer has; an empty name, as a script gives it, is none."""
    arguments = ("users", "create", " Ada@EXAMPLE.com", "--name", "", "--password-stdin", "--json")
    created = json.loads(command.run(*arguments, stdin=f"{PASSWORD}\n"))
    [user] = command.json("users", "list")
    assert created == {"id": user["id"], "email": user["email"]}
    assert (user["email"], user["name"]) == ("Ada@example.com", None)


@pytest.mark.parametrize("who", [os.fsdecode(b"J\xf6rg"), "a\n\x1b[2J"], ids=["not UTF-8", "control characters"])
def test_id_that_nobody_can_have(command: Command, who: str) -> None:
    """Nobody has it, which is told in one line that moves no terminal."""
    for line in ("sessions list", "sessions revoke --user", "users disable", "users unlock", "users delete --yes"):
        told = command.run(*line.split(), who, status=1)
        assert told.startswith("keyturn: not_found: there is no user ")
        assert told.removesuffix("\n").isprintable()


def test_created_user_signs_in_and_the_sessions_commands_see_and_end_it(command: Command) -> None:
    """A login through the server is listed; revoked sessions end at once, and a disabled user's too."""
    user_id = create_user(command)
    with command.serving() as client:

        def log_in() -> str:
            answer = client.post("/auth/login", json={"email": EMAIL, "password": PASSWORD})
            assert answer.status_code == 200, answer.text
            client.cookies.clear()
            session_id: str = answer.json()["session"]["id"]
            return session_id

        first, second, third = log_in(), log_in(), log_in()
        assert [s["id"] for s in command.json("sessions", "list", EMAIL)] == [third, second, first]
        assert "ended 1 session" in command.run("sessions", "revoke", second)
        assert "not_found" in command.run("sessions", "revoke", second, status=1)
        assert {s["id"] for s in command.json("sessions", "list", user_id)} == {first, third}
        assert set(command.json("sessions", "revoke", "--user", EMAIL)) == {first, third}
        log_in()
        command.run("users", "disable", EMAIL)
        assert command.json("sessions", "list", EMAIL) == []
        assert client.post("/auth/login", json={"email": EMAIL, "password": PASSWORD}).status_code == 401


def test_sessions_of_everybody_are_ended(command: Command) -> None:
    """After a restore or a leak: all at once, of users that are elsewhere too; who signs in afterwards is left alone."""
    create_user(command)

    async def open_sessions() -> set[str]:
        engine = open_engine(command.environment["KEYTURN_DATABASE_URL"])
        sessions = SqlSessions(engine, denylist_lifetime=1.0, heal_time=1.0, on_revoked=lambda _: None)
        holders = [await sign_in(sessions, user_id=user_id) for user_id in ("42", "42", "43")]
        await sessions.close()
        await engine.close()
        return {holder.session_id.hex() for holder in holders}

    with command.serving() as client:
        answer = client.post("/auth/login", json={"email": EMAIL, "password": PASSWORD})
        others = asyncio.run(open_sessions())
        assert set(command.json("sessions", "revoke", "--everybody")) == {answer.json()["session"]["id"], *others}
        assert command.json("sessions", "list", EMAIL) == []
        assert client.post("/auth/login", json={"email": EMAIL, "password": PASSWORD}).status_code == 200
        assert len(command.json("sessions", "list", EMAIL)) == 1
        assert "ended 1 session" in command.run("sessions", "revoke", "--everybody")
        assert command.json("sessions", "revoke", "--everybody") == []


def test_sessions_revoke_needs_one_session_or_a_user(sqlite_command: Command) -> None:
    """Wrong usage ends with 2 before anything is looked at."""
    sqlite_command.run("sessions", "revoke", status=2)
    sqlite_command.run("sessions", "revoke", "00" * 16, "--user", EMAIL, status=2)
    sqlite_command.run("sessions", "revoke", "--everybody", "--user", EMAIL, status=2)
    sqlite_command.run("sessions", "revoke", "not an id", status=2)


def test_keys_rotate_adds_a_key_that_is_published_before_it_signs(command: Command) -> None:
    """The list shows the old one active and the new one published; a compromised one is replaced at once."""
    first = command.json("keys", "rotate")
    listed = command.json("keys", "list")
    assert first["kid"] in {key["kid"] for key in listed}
    assert sorted(key["state"] for key in listed) == ["active", "published"]
    at_once = command.json("keys", "rotate", "--compromised")
    assert at_once["state"] == "active"
    active = [key["kid"] for key in command.json("keys", "list") if key["state"] == "active"]
    assert active == [at_once["kid"]]


def test_reader_who_has_seen_enough(sqlite_command: Command) -> None:
    """`| head` ends a command with 1 and without a word, also where all its output still waits to be written."""
    read, write = os.pipe()
    os.close(read)
    environment = {name: value for name, value in sqlite_command.environment.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "keyturn.cli", "secret"]
    done = subprocess.run(command, env=environment, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("arguments", [("secret",), ("--help",)])
@pytest.mark.parametrize("buffered", [True, False])
def test_output_that_has_no_room(sqlite_command: Command, arguments: tuple[str, ...], *, buffered: bool) -> None:
    """A full disk under the output is told in one line, whether it is met while a command prints or at its end."""
    environment = {name: value for name, value in sqlite_command.environment.items() if name != "PYTHONUNBUFFERED"}
    environment |= {} if buffered else {"PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "keyturn.cli", *arguments]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, env=environment, stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (1, b"keyturn: cannot_write: No space left on device\n")


def test_started_without_standard_streams(sqlite_command: Command) -> None:
    """A command that prints does so into nothing, and one that reads a password finds none."""
    start = ["sh", "-c", 'exec "$@" <&- >&-', "sh", sys.executable, "-m", "keyturn.cli"]

    def run(*arguments: str) -> tuple[int, bytes]:
        environment = sqlite_command.environment
        done = subprocess.run([*start, *arguments], env=environment, stderr=subprocess.PIPE, check=False)
        return done.returncode, done.stderr.partition(b": The")[0]

    assert run("migrate") == (0, b"")
    assert run("users", "create", EMAIL, "--password-stdin") == (1, b"keyturn: invalid_request")


def test_name_that_the_terminal_has_no_letters_for(sqlite_command: Command) -> None:
    """It is escaped, as control characters are."""
    sqlite_command.run("migrate")
    name = ("--name", "\N{LATIN CAPITAL LETTER L WITH STROKE}ukasz")
    sqlite_command.run("users", "create", EMAIL, "--password-stdin", *name, stdin=f"{PASSWORD}\n")
    sqlite_command.environment["PYTHONIOENCODING"] = "iso-8859-1"
    assert f"\t{EMAIL}\t\\u0141ukasz\tno\n" in sqlite_command.spawn("users", "list")


@pytest.mark.parametrize("arguments", [(), ("--compromised",)])
def test_keys_rotate_makes_no_database(empty_sqlite_command: Command, arguments: tuple[str, ...]) -> None:
    """Of a mistyped URL it must not become a new database whose keys are rotated, while the real one keeps the leaked key."""
    assert "database_not_migrated" in empty_sqlite_command.run("keys", "rotate", *arguments, status=1)
    assert not list(empty_sqlite_command.directory.glob("*.db"))


def test_keys_rotate_with_a_malformed_setting(command: Command) -> None:
    """It is named in a line."""
    command.environment["KEYTURN_REDIS_URL"] = "garbage"
    assert "invalid_settings" in command.run("keys", "rotate", status=1)


def test_keys_are_listed_with_the_secret_that_development_keeps(empty_sqlite_command: Command, tmp_path: Path) -> None:
    """It lies beside the file of SQLite, where a rotation finds it as well."""
    empty_sqlite_command.environment |= {"KEYTURN_ENV": "development", "KEYTURN_SECRET": ""}
    empty_sqlite_command.run("migrate")
    kid = empty_sqlite_command.json("keys", "rotate")["kid"]
    assert (tmp_path / "keyturn.db.secret").exists()
    assert kid in {key["kid"] for key in empty_sqlite_command.json("keys", "list")}
    empty_sqlite_command.environment["KEYTURN_ENV"] = "production"
    assert "secret_missing" in empty_sqlite_command.run("keys", "list", status=1)


def test_secret_of_development_that_cannot_be_read(sqlite_command: Command, tmp_path: Path) -> None:
    """What is told names its file, be that another user's, a directory, or what an interrupted copy has left."""
    sqlite_command.environment |= {"KEYTURN_ENV": "development", "KEYTURN_SECRET": ""}
    sqlite_command.run("migrate")
    secret = tmp_path / "keyturn.db.secret"
    secret.mkdir()
    error = sqlite_command.run("keys", "list", status=1)
    assert error == f"keyturn: unsafe_settings: secret_unreadable: {secret}: Is a directory\n"
    secret.rmdir()
    for content in (b"", b"\xff", b"1:short"):
        secret.write_bytes(content)
        error = sqlite_command.run("keys", "list", status=1)
        assert error.startswith(f"keyturn: unsafe_settings: secret_malformed: {secret}: ")


def test_another_secret_is_a_known_error_of_every_command_that_opens_the_keys(command: Command) -> None:
    """All say it in the same line, which is not that of an outage, and none overwrites a key."""
    first = command.json("keys", "rotate")
    right = command.environment["KEYTURN_SECRET"]
    command.environment["KEYTURN_SECRET"] = command.run("secret", "--id", "2").strip()
    said = command.run("keys", "list", status=1)
    assert said.startswith("keyturn: secret_does_not_fit: KEYTURN_SECRET opens no signing key in this database (")
    assert said.count("\n") == 1
    rotations = (["keys", "rotate"], ["keys", "rotate", "--compromised"])
    for arguments in (*rotations, ["serve", "--port", "0"]):
        assert command.run(*arguments, status=1) == said
    assert command.spawn("serve", "--port", "0", "--workers", "2", status=1) == said
    assert said.replace("keyturn:", "UNSAFE ") in command.run("doctor", status=1)
    command.environment["KEYTURN_SECRET"] = right
    assert first["kid"] in {key["kid"] for key in command.json("keys", "list")}


def test_signing_key_that_does_not_open_beside_others_is_left_out(command: Command) -> None:
    """As one row that was changed: the list and a server go on without it, and doctor tells."""
    first = command.json("keys", "rotate")
    change(command, update(signing_keys).where(signing_keys.c.kid == first["kid"]).values(sealed=b"garbage"))
    [left] = command.json("keys", "list")
    assert left["kid"] != first["kid"]
    result = command.json("doctor")
    assert result["safe"] is True
    assert [finding["code"] for finding in result["findings"]] == ["signing_key_left_out"]
    with command.serving() as client:
        assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize("days", [-200, 200])
def test_keys_on_a_machine_with_a_wrong_date(command: Command, days: int) -> None:
    """Its date changes nothing: neither what is done with the keys, nor what is told of them."""
    first = command.json("keys", "rotate", "--compromised")
    before = command.json("keys", "list")
    with Machine(days * 86400.0).here():
        assert command.json("keys", "list") == before
        second = command.json("keys", "rotate")
    listed = command.json("keys", "list")
    assert [(key["kid"], key["state"]) for key in listed] == [(first["kid"], "active"), (second["kid"], "published")]
    assert listed[1] == second


@pytest.mark.parametrize(("seconds", "told"), [(0, []), (60, ["+60.0 s"]), (-86400, ["-86400.0 s"])])
def test_doctor_on_a_machine_with_a_wrong_date(command: Command, seconds: int, told: list[str]) -> None:
    """It says by how much, as one of the two clocks has to be set; a server starts all the same."""
    with Machine(seconds).here():
        result = command.json("doctor")
    assert result["safe"] is True
    assert [finding["code"] for finding in result["findings"]] == ["clock_differs"] * len(told)
    assert re.findall(r"[+-][0-9]+\.[0-9] s", "".join(each["text"] for each in result["findings"])) == told


def test_prune_says_how_many_rows_it_deleted(command: Command) -> None:
    """An empty database has nothing to prune."""
    assert command.json("prune") == {"rows": 0}


def test_heal_shows_in_the_doctor_until_it_is_ended(command: Command) -> None:
    """The operator's switch goes on for some minutes, a day at most, as the guide says after a restore, and off with 0."""
    command.run("heal", "--minutes", "1441", status=2)
    assert command.json("doctor")["findings"] == []
    command.run("heal", "--minutes", "1440")
    assert "healing" in {f["code"] for f in command.json("doctor")["findings"]}
    command.run("heal", "--minutes", "0")
    assert command.json("doctor")["findings"] == []


@pytest.mark.parametrize("enabled", [True, False])
def test_collector_of_who_calls_a_command(sqlite_command: Command, *, enabled: bool) -> None:
    """It is off while a command is loaded, and on while it works: afterwards it is as before."""
    try:
        (gc.enable if enabled else gc.disable)()
        sqlite_command.run("migrate")
        assert gc.isenabled() == enabled
    finally:
        gc.enable()


def test_secret_prints_a_line_that_production_takes(sqlite_command: Command) -> None:
    """Two calls differ; the line with another id can stand in one ring with the first."""
    first, second = sqlite_command.run("secret"), sqlite_command.run("secret", "--id", "2")
    assert first != second
    assert second.startswith("2:")
    sqlite_command.environment["KEYTURN_SECRET"] = second + first
    assert sqlite_command.json("doctor")["safe"] is True


def test_database_that_is_down_is_a_known_error(sqlite_command: Command) -> None:
    """No traceback, no password from the URL: a code on standard error and status 1."""
    sqlite_command.environment["KEYTURN_DATABASE_URL"] = "postgresql://keyturn:hunter2@127.0.0.1:1/keyturn"
    for arguments in (["migrate"], ["users", "list"], ["serve", "--port", "0"], ["prune"]):
        error = sqlite_command.run(*arguments, status=1)
        assert "keyturn: unavailable: " in error
        assert "hunter2" not in error
    sqlite_command.environment["KEYTURN_DATABASE_URL"] = "mysql://keyturn:hunter2@127.0.0.1/keyturn"
    error = sqlite_command.run("migrate", status=1)
    assert error.startswith("keyturn: invalid_settings: ")
    assert "hunter2" not in error


@pytest.mark.parametrize(
    "url", ["postgresql://user:p@ss:sEcrEt@127.0.0.1/db", "postgresql://127.0.0.1/db?options=sEcrEt"]
)
def test_database_url_that_cannot_be_used_is_a_known_error(sqlite_command: Command, url: str) -> None:
    """Every command says so in one line, without what stands in the URL."""
    sqlite_command.environment["KEYTURN_DATABASE_URL"] = url
    for arguments in (["migrate"], ["users", "list"], ["serve", "--port", "0"]):
        error = sqlite_command.run(*arguments, status=1)
        assert error.startswith("keyturn: invalid_settings: ")
        assert error.count("\n") == 1
        assert "sEcrEt" not in error
    told = sqlite_command.run("doctor", status=1)
    assert "UNSAFE  database_url_malformed: " in told
    assert "sEcrEt" not in told


def test_bcrypt_that_is_not_installed(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who counts on imported hashes learns at the start what is missing, and not at the first login."""
    monkeypatch.setitem(sys.modules, "bcrypt", None)
    command.environment["KEYTURN_IMPORTED_BCRYPT_ROUNDS"] = "12"
    error = command.run("serve", "--port", "0", status=1)
    assert error == "keyturn: not_installed: bcrypt: install keyturn[bcrypt]\n"
    assert "UNSAFE  bcrypt_not_installed: " in command.run("doctor", status=1)


def test_redis_that_is_not_installed(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that asks Redis itself says what is missing in a line, and so does the doctor."""
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    monkeypatch.delitem(sys.modules, "keyturn.stores.redis", raising=False)
    command.environment["KEYTURN_REDIS_URL"] = "redis://127.0.0.1:1"
    error = command.run("users", "unlock", EMAIL, status=1)
    assert error == "keyturn: not_installed: redis: install keyturn[redis]\n"
    assert "UNSAFE  redis_not_installed: " in command.run("doctor", status=1)


@pytest.mark.parametrize(
    ("module", "line"), [("typer", "--version"), ("pydantic_settings", "users list"), ("uvicorn", "serve --port 0")]
)
def test_what_the_command_line_needs_is_not_installed(sqlite_command: Command, module: str, line: str) -> None:
    """All of it, or what another package has not brought along, as FastAPI does typer: each command says what to install."""
    program = f"import sys; sys.modules[{module!r}] = None; from keyturn.cli import main; main()"
    told = sqlite_command.spawn(*line.split(), status=1, start=(sys.executable, "-c", program))
    assert told == f"keyturn: not_installed: {module}: install keyturn[server]\n"


@pytest.mark.parametrize("name", ["TOKEN", "PORT"])
def test_metrics_that_cannot_be_counted(command: Command, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Who wants figures learns at the start what is missing, and not by a 404; without that wish nothing is needed."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert "prometheus" not in command.run("doctor")
    value = str(free_port()) if name == "PORT" else "a3J9x0Qm7LpZ2vB8nT5y"
    command.environment[f"KEYTURN_METRICS_{name}"] = value
    error = command.run("serve", "--port", "0", status=1)
    assert error == "keyturn: not_installed: prometheus_client: install keyturn[server]\n"
    assert "UNSAFE  metrics_not_installed: " in command.run("doctor", status=1)


@pytest.mark.parametrize(
    ("module", "setting", "value", "extra"),
    [
        ("redis.asyncio", "redis_url", "redis://127.0.0.1:1", r"keyturn\[redis\]"),
        ("prometheus_client", "metrics_token", "a3J9x0Qm7LpZ2vB8nT5y", "prometheus-client"),
    ],
)
def test_application_without_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, setting: str, value: str, extra: str
) -> None:
    """Whose setting needs one that is not there is told which setting, and what to install."""
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "keyturn.stores.redis", raising=False)
    database = f"sqlite:///{tmp_path}/keyturn.db"
    settings = Settings.load(env="development", database_url=database, **{setting: value})
    with pytest.raises(ModuleNotFoundError, match=f"KEYTURN_{setting.upper()}.* install {extra}"):
        Keyturn(settings)


@pytest.mark.parametrize(
    "url", ["redis://user:sEcrEt/x@127.0.0.1:6379", "redis://:sEcrEt@127.0.0.1/0?nothing=1", "http://:sEcrEt@127.0.0.1"]
)
def test_redis_url_that_cannot_be_used_is_a_known_error(command: Command, url: str) -> None:
    """As that of a database: one line, without what stands in it."""
    command.environment["KEYTURN_REDIS_URL"] = url
    for arguments in (["users", "unlock", EMAIL], ["keys", "rotate"], ["serve", "--port", "0"]):
        error = command.run(*arguments, status=1)
        assert error.startswith("keyturn: invalid_settings: ")
        assert "the Redis URL is malformed" in error
        assert error.count("\n") == 1
        assert "sEcrEt" not in error
    told = command.run("doctor", status=1)
    assert "UNSAFE  redis_url_malformed: " in told
    assert "sEcrEt" not in told


def test_sqlite_file_of_another_directory_is_named(tmp_path: Path) -> None:
    """A relative path is another file for whoever stands elsewhere: commands and doctor say which one they miss."""
    command = Command(tmp_path, {**SAFE, "KEYTURN_DATABASE_URL": "sqlite:///keyturn.db"})
    told = f"the SQLite file {tmp_path / 'keyturn.db'} does not exist"
    assert told in command.run("users", "list", status=1)
    assert told in command.run("doctor")


def test_sqlite_file_that_cannot_be_made_is_a_known_error(sqlite_command: Command, tmp_path: Path) -> None:
    """One line with the file and the system's reason, in development also for the secret beside it; doctor says unsafe."""
    sqlite_command.environment["KEYTURN_DATABASE_URL"] = f"sqlite:///{tmp_path / 'nowhere' / 'keyturn.db'}"
    for arguments in (["migrate"], ["serve", "--port", "0"]):
        error = sqlite_command.run(*arguments, status=1)
        assert error.startswith(
            f"keyturn: unsafe_settings: database_unusable: {tmp_path / 'nowhere' / 'keyturn.db'}: No "
        )
        assert error.count("\n") == 1
    assert "UNSAFE  database_unusable: " in sqlite_command.run("doctor", status=1)
    sqlite_command.environment |= {"KEYTURN_ENV": "development", "KEYTURN_SECRET": ""}
    error = sqlite_command.run("serve", "--port", "0", status=1)
    assert error.startswith("keyturn: unsafe_settings: secret_unwritable: ")


def test_disk_without_room(sqlite_command: Command) -> None:
    """What is wrong is named, and nothing of the batch is there."""
    users = "".join(json.dumps({"email": f"user-{number}@example.com"}) + "\n" for number in range(3000))
    # In units of 512 bytes: the file as it is, and a little.
    start = ["sh", "-c", 'ulimit -f 220 && exec "$0" -m keyturn.cli "$@"', sys.executable]
    told = sqlite_command.spawn("users", "import", "-", status=1, stdin=users, start=start)
    assert ": is the disk of the file full" in told
    assert sqlite_command.run("users", "list") == ""


@pytest.mark.parametrize("name", ["loop", "n" * 300])
def test_sqlite_file_that_cannot_be_seen_is_a_known_error(sqlite_command: Command, tmp_path: Path, name: str) -> None:
    """As in a directory of somebody else: nobody is told that it is not there yet, and nobody meets a traceback."""
    (tmp_path / "loop").symlink_to("loop")
    sqlite_command.environment["KEYTURN_DATABASE_URL"] = f"sqlite:///{tmp_path / name}"
    for arguments in (["doctor"], ["users", "list"]):
        assert " SQLITE_CANTOPEN: the file cannot be opened" in sqlite_command.run(*arguments, status=1)


def test_sqlite_file_behind_a_link_that_leads_nowhere(empty_sqlite_command: Command, tmp_path: Path) -> None:
    """The doctor looks where it would be made, not at where the link is."""
    (tmp_path / "keyturn.db").symlink_to(tmp_path / "nowhere" / "keyturn.db")
    assert f"{tmp_path / 'nowhere'} is not a directory" in empty_sqlite_command.run("doctor", status=1)
    (tmp_path / "nowhere").mkdir()
    assert "database_missing" in empty_sqlite_command.run("doctor")
    empty_sqlite_command.run("migrate")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("doctor", "begins at the working directory, which is gone"),
        ("users list", "begins at the working directory, which is gone"),
        ("serve --port 0", "begins at the working directory, which is gone"),
        ("serve --uds keyturn.sock", "cannot_listen: keyturn.sock: No such file or directory"),
    ],
)
def test_working_directory_that_is_gone(sqlite_command: Command, tmp_path: Path, arguments: str, told: str) -> None:
    """A path that begins there is none: no traceback of many lines, but one that says so."""
    (tmp_path / "gone").mkdir()
    sqlite_command.environment["KEYTURN_DATABASE_URL"] = "sqlite:///keyturn.db"
    start = ["sh", "-c", 'cd gone && rmdir ../gone && exec "$0" -m keyturn.cli "$@"', sys.executable]
    assert told in sqlite_command.spawn(*arguments.split(), status=1, start=start)


def test_path_of_sqlite_that_is_not_utf8(sqlite_command: Command) -> None:
    """It is refused wherever it is read: `migrate` made the file, and then no server started on it."""
    sqlite_command.environment["KEYTURN_DATABASE_URL"] = os.fsdecode(b"sqlite:///keyturn-\xff.db")
    for arguments in (["migrate"], ["serve", "--port", "0"]):
        error = sqlite_command.run(*arguments, status=1)
        assert error.startswith("keyturn: invalid_settings: ")
        assert "the database URL is malformed" in error
    assert "UNSAFE  database_url_malformed: " in sqlite_command.run("doctor", status=1)


@pytest.mark.parametrize("at", ["@.db.internal/keyturn", "@db.internal,.db.internal/keyturn", "@/keyturn?host=a..b"])
def test_database_url_of_a_host_whose_variable_is_not_set(sqlite_command: Command, at: str) -> None:
    """One line, without what stands in it."""
    sqlite_command.environment["KEYTURN_DATABASE_URL"] = f"postgresql://keyturn:sEcrEt{at}"
    for arguments in (["migrate"], ["serve", "--port", "0"], ["doctor"]):
        error = sqlite_command.run(*arguments, status=1)
        assert "the database URL is malformed: a part of the host's name is empty or too long" in error
        assert "Traceback" not in error
        assert "sEcrEt" not in error


def test_cause_of_a_fault_of_the_database_is_named(
    sqlite_command: Command, tmp_path: Path, postgres: PostgresServer, empty_postgres_url: str
) -> None:
    """By the driver's code, which tells a corrupt file from one that cannot be opened, and no address."""
    (tmp_path / "keyturn.db").write_text("no database, but long enough to be taken for one" * 100)
    meaning = "(DatabaseError SQLITE_NOTADB: the file is no database of SQLite)"
    assert meaning in sqlite_command.run("users", "list", status=1)
    assert f"UNSAFE  database_unavailable: the database does not answer {meaning}" in (
        sqlite_command.run("doctor", status=1)
    )
    (tmp_path / "keyturn.db").unlink()
    (tmp_path / "keyturn.db").mkdir()
    assert " SQLITE_CANTOPEN: the file cannot be opened" in sqlite_command.run("users", "list", status=1)
    sqlite_command.environment["KEYTURN_DATABASE_URL"] = f"{empty_postgres_url}_nowhere"
    assert " 3D000: there is no such database" in sqlite_command.run("users", "list", status=1)
    postgres.execute(f'ALTER DATABASE "{empty_postgres_url.rpartition("/")[2]}" SET search_path TO nowhere')
    sqlite_command.environment["KEYTURN_DATABASE_URL"] = empty_postgres_url
    assert " 3F000: no schema of the role's search_path exists" in sqlite_command.run("migrate", status=1)


def test_sqlite_that_is_too_old(empty_sqlite_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command says so, before there is a file: the SQLite of RHEL 9, of which Python says no word."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    for arguments in (["migrate"], ["users", "list"], ["serve", "--port", "0"]):
        error = empty_sqlite_command.run(*arguments, status=1)
        assert error.startswith("keyturn: unsafe_settings: database_too_old: ")
        assert error.count("\n") == 1
    assert "UNSAFE  database_too_old: " in empty_sqlite_command.run("doctor", status=1)
    assert list(tmp_path.iterdir()) == []


def test_user_whom_a_table_of_the_application_refers_to(command: Command) -> None:
    """Nobody is deleted, and a line says why."""
    create_user(command)
    change(command, text("CREATE TABLE own (user_id text REFERENCES keyturn_users (id))"))
    change(command, text("INSERT INTO own SELECT id FROM keyturn_users"))
    error = command.run("users", "delete", EMAIL, "--yes", status=1)
    assert "a table of the application refers to what is to be deleted" in error
    assert EMAIL in command.run("users", "list")


def test_table_that_is_published_without_a_replica_identity(sqlite_command: Command, postgres_url: str) -> None:
    """PostgreSQL refuses each change of it with the code by which a database takes no connections: both are said."""
    sqlite_command.environment["KEYTURN_DATABASE_URL"] = postgres_url
    create_user(sqlite_command)
    change(sqlite_command, text("ALTER TABLE keyturn_users REPLICA IDENTITY NOTHING"))
    change(sqlite_command, text("CREATE PUBLICATION own FOR TABLE keyturn_users"))
    error = sqlite_command.run("users", "disable", EMAIL, status=1)
    assert " 55000: the database takes no connections at the moment, or publishes a table of Keyturn " in error


def test_role_without_rights_is_a_known_error(
    sqlite_command: Command, postgres: PostgresServer, empty_postgres_url: str
) -> None:
    """Whether it may not make the tables or not read them; `doctor` has it among its findings."""
    postgres.execute("CREATE ROLE powerless LOGIN")
    own = sqlite_command.environment | {"KEYTURN_DATABASE_URL": empty_postgres_url}
    sqlite_command.environment = own | {
        "KEYTURN_DATABASE_URL": empty_postgres_url.replace(f"{postgres.user}@", "powerless@")
    }
    try:
        for prepared in (False, True):
            if prepared:
                sqlite_command.environment, powerless = own, sqlite_command.environment
                sqlite_command.run("migrate")
                sqlite_command.environment = powerless
            error = sqlite_command.run(*(["users", "list"] if prepared else ["migrate"]), status=1)
            assert error.startswith("keyturn: database_forbidden: ")
            assert error.count("\n") == 1
        assert " 42501: this role lacks a right" in sqlite_command.run("doctor", status=1)
    finally:
        postgres.execute("DROP ROLE powerless")


def test_errors_for_programs(command: Command) -> None:
    """With --json an error is an object a line on standard error, with the code that its text begins with, and no output."""

    def problems(*arguments: str, stdin: str = "", status: int = 1) -> list[dict[str, str]]:
        lines = command.run(*arguments, "--json", stdin=stdin, status=status).splitlines()
        told = command.run(*arguments, stdin=stdin, status=status).splitlines()
        found = [json.loads(line) for line in lines]
        assert told == [f"keyturn: {problem['code']}: {problem['text']}" for problem in found]
        return found

    create_user(command)
    taken = problems("users", "create", EMAIL, "--password-stdin", stdin=f"{PASSWORD}\n")
    assert taken == [{"code": "conflict", "text": "this e-mail address is taken"}]
    assert [each["code"] for each in problems("sessions", "list", "nobody")] == ["not_found"]
    assert [each["code"] for each in problems("sessions", "list", "n\u00f6body")] == ["not_found"]
    command.environment |= {"KEYTURN_SETTLE_TIME": "never", "KEYTURN_ACCESS_LIFETIME": "never"}
    assert [each["code"] for each in problems("keys", "rotate")] == ["unsafe_settings"] * 2


def test_help_and_usage_errors_name_the_commands(empty_sqlite_command: Command, tmp_path: Path) -> None:
    """Help lists every command; an unknown one ends with 2; nothing is created on the way."""
    text = empty_sqlite_command.run("--help")
    for name in "demo serve migrate keys users sessions prune doctor secret heal".split():
        assert re.search(rf"^  {name} ", text, re.MULTILINE)
    assert "No such command" in empty_sqlite_command.run("destroy", status=2)
    assert "--password" not in empty_sqlite_command.run("users", "create", "--help").replace("--password-stdin", "")
    assert empty_sqlite_command.run("--version").strip()
    assert list(tmp_path.iterdir()) == []


def test_output_of_a_list_cannot_move_the_terminal(command: Command) -> None:
    """A device name with an escape sequence is printed escaped."""
    create_user(command)
    with command.serving() as client:
        body = {"email": EMAIL, "password": PASSWORD, "device_name": "my \u202ephone"}
        assert client.post("/auth/login", json=body).status_code in {200, 422}
    assert "\u202e" not in command.run("sessions", "list", EMAIL)


@pytest.mark.parametrize("said", ["", "n\n", "perhaps\n", "\udcff\n"], ids=["nothing", "no", "neither", "no letter"])
def test_deleting_that_nobody_has_confirmed(command: Command, said: str) -> None:
    """A script that forgets `--yes` is told so, with a code as in every error, and the user stays."""
    create_user(command)
    told = command.run("users", "delete", EMAIL, stdin=said, status=1)
    assert told.splitlines()[-1] == "keyturn: not_confirmed: nobody is deleted: answer y, or say --yes in a script"
    assert EMAIL in command.run("users", "list")
    assert command.run("users", "delete", EMAIL, stdin="y\n").startswith("deleted ")


@pytest.mark.parametrize("columns", ["80", "40", "1"])
def test_ids_are_whole_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: str
) -> None:
    """They are what another command is given: an id that is cut to fit is of no use. Nothing else is cut or left out either."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", columns)
    for size in (32, 43, 255):
        row = {"id": "a1" * 128, "at": "2026-11-29T10:22:48+00:00", "ip": "2001:db8::1234", "user_agent": "q" * 40}
        row["id"] = row["id"][:size]
        table(tuple(row), [row])
        shown = capsys.readouterr().out
        assert row["id"] in shown.split()
        assert "\u2026" not in shown
        assert shown.count("q") == 40


async def _fail_often(url: str, redis_url: str | None, often: int) -> float | None:
    """Count so many wrong passwords from as many addresses; return what the next one is told to wait, on a new device."""
    engine = open_engine(url)
    redis = None if redis_url is None else connect(redis_url)
    try:
        throttle = SqlThrottle(engine) if redis is None else RedisThrottle(redis)
        waits = None
        for number in range(often + 1):
            waits = await throttle.take(attempt_limits(EMAIL, f"192.0.{number}.0", None, Policy()))
        return waits
    finally:
        if redis is not None:
            await redis.aclose()
        await engine.close()


@pytest.mark.parametrize("with_redis", [False, True], ids=["database", "redis"])
def test_user_who_is_locked_out(command: Command, redis_url: str, with_redis: bool) -> None:
    """A hundred wrong passwords in a row keep new devices out until the operator lets them in again."""
    command.run("users", "create", EMAIL, "--password-stdin", stdin=PASSWORD)
    if with_redis:
        command.environment["KEYTURN_REDIS_URL"] = redis_url
    url = command.environment["KEYTURN_DATABASE_URL"]
    often = Policy().hard_failures
    assert asyncio.run(_fail_often(url, redis_url if with_redis else None, often)) is not None
    assert command.run("users", "unlock", EMAIL).startswith("unlocked ")
    assert asyncio.run(_fail_often(url, redis_url if with_redis else None, 0)) is None
    assert "not_found" in command.run("users", "unlock", "nobody", status=1)


def test_user_of_another_directory(command: Command) -> None:
    """Who is in the application's own table alone is unlocked by the address, and their sessions by the id."""
    url = command.environment["KEYTURN_DATABASE_URL"]
    assert asyncio.run(_fail_often(url, None, Policy().hard_failures)) is not None
    assert command.run("users", "unlock", EMAIL).startswith(f"unlocked the address {EMAIL}, which no user ")
    assert asyncio.run(_fail_often(url, None, 0)) is None

    async def open_session() -> str:
        engine = open_engine(url)
        sessions = SqlSessions(engine, denylist_lifetime=1.0, heal_time=1.0, on_revoked=lambda _: None)
        holder = await sign_in(sessions, user_id="42")
        await sessions.close()
        await engine.close()
        return holder.session_id.hex()

    session_id = asyncio.run(open_session())
    assert [each["id"] for each in command.json("sessions", "list", "42")] == [session_id]
    assert command.json("sessions", "revoke", "--user", "42") == [session_id]
    told = command.run("sessions", "list", "42", status=1)
    assert "not_found: there is no user 42 here, and nobody with this id is signed in" in told


def test_misspelt_setting_is_named(sqlite_command: Command) -> None:
    """Nothing reads it, so its default holds; the doctor says so, and what may be meant."""
    sqlite_command.environment |= {"KEYTURN_ISUER": "x", "KEYTURN_WORKERS": "2", "KEYTURN_LOG_LEVEL": "info"}
    text = sqlite_command.run("doctor")
    assert "note  unknown_setting: KEYTURN_ISUER is no setting, and not read; is KEYTURN_ISSUER meant?\n" in text
    assert text.count("unknown_setting") == 1


def test_names_that_nobody_has(command: Command) -> None:
    """The command line takes no more than the contract, and says so in a line."""
    refused = command.run("users", "create", EMAIL, "--name", "x" * 201, "--password-stdin", stdin=PASSWORD, status=1)
    assert "name: at most 200 characters" in refused
    assert "invalid_request" in command.run("users", "list", "--after", "\udcff", status=1)
