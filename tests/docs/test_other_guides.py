"""The guides that are of no one framework: what an application gives to its node, and how the server is run."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from inspect import getsource
from pathlib import Path

import httpx2
import pytest

from keyturn.core.events import EventType
from keyturn.core.model import Principal, SessionId
from keyturn.observability import Metrics
from keyturn.ports import UserDirectory
from keyturn.testing import UserDirectoryContract
from tests.cli.conftest import SAFE, Command
from tests.docs.shell import ROOT, USER, Shell, blocks
from tests.services import PostgresServer
from tests.stores.test_user_directory_contract import DictUsers
from tests.variables import variables

GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
APPLICATION = (ROOT / "docs" / "guides" / "application.md").read_text(encoding="utf-8")
OPERATING = (ROOT / "docs" / "guides" / "operating.md").read_text(encoding="utf-8")
OF_OTHERS = {"KEYTURN_URL", "KEYTURN_API_URL"}
"""What the Next.js server reads."""
PYTEST = "python -m pytest -q -p no:cacheprovider -p no:schemathesis -p no:faker"
"""With what pyproject.toml leaves out as well."""


def test_claims_and_events_as_printed(tmp_path: Path) -> None:
    """The role that the claims name opens the route, and the sink has heard of the login."""
    (tmp_path / "app.py").write_text(blocks(APPLICATION, "Claims and events", "python")[0], encoding="utf-8")
    shell = Shell(tmp_path)
    with shell.running(blocks(APPLICATION, "Claims and events", "sh")[0]) as client:
        headers = {"X-Keyturn": "1", "Origin": f"http://127.0.0.1:{shell.port}"}
        answers = {}
        for name in ("Ada", "Bob"):
            person = {**USER, "email": f"{name}@example.com", "name": name}
            signed_up = client.post("/auth/signup", json=person, headers=headers).json()
            bearer = {"Authorization": f"Bearer {signed_up['access_token']}"}
            answers[name] = client.get("/hello", headers=bearer)
            if name == "Ada":
                assert answers[name].json() == {"hello": signed_up["user"]["id"], "team": "blue"}
                assert f"signed in: {signed_up['user']['id']} 127.0.0.1" in (tmp_path / "log").read_text()
        assert (answers["Ada"].status_code, answers["Bob"].status_code) == (200, 403)


def test_test_as_printed(tmp_path: Path) -> None:
    """The test that the guide shows passes in a directory of its own."""
    (tmp_path / "test_app.py").write_text(blocks(APPLICATION, "Tests", "python")[0], encoding="utf-8")
    assert "1 passed" in Shell(tmp_path).run(f"{PYTEST} test_app.py")


def test_test_of_a_directory_as_printed(tmp_path: Path) -> None:
    """A right directory passes it, and none of it is skipped."""
    (tmp_path / "test_users.py").write_text(blocks(APPLICATION, "Users of your own", "python")[0], encoding="utf-8")
    imports = "import asyncio\nfrom keyturn.core.model import User, UserId\nfrom keyturn.ports import Credential\n"
    source = getsource(DictUsers).replace("class DictUsers", "class Users")
    (tmp_path / "users.py").write_text(f"from __future__ import annotations\n{imports}{source}", encoding="utf-8")
    tests = [name for name in dir(UserDirectoryContract) if name.startswith("test_")]
    assert f"\n{len(tests)} passed in" in Shell(tmp_path).run(f"{PYTEST} test_users.py")


def test_principal_as_printed() -> None:
    """The principal that the guide makes for a route without a login is one, by the names of its fields."""
    [made] = re.findall(r"`ada = (Principal\(.*\))`", APPLICATION)
    ada = eval(made, {"Principal": Principal, "SessionId": SessionId})
    assert (ada.user_id, ada.scopes, ada.amr, ada.claims) == ("1", {"notes"}, ("pwd",), {"team": "blue"})
    assert ada.authenticated_at < ada.expires_at


def test_methods_of_a_directory() -> None:
    """The table has every method of the port, with its parameters."""
    rows = re.findall(r"^\| `(\w+)\((.*?)\)` \|", APPLICATION, re.MULTILINE)
    methods = {name: function for name, function in vars(UserDirectory).items() if not name.startswith("_")}
    expected = {
        name: ", ".join(function.__code__.co_varnames[1 : function.__code__.co_argcount])
        for name, function in methods.items()
    }
    assert dict(rows) == expected


def test_metrics_and_events_exist() -> None:
    """What is to be watched is counted under that name, and every event that is named is one."""
    families = {f"{family.name}_total" if family.type == "counter" else family.name for family in Metrics().collect()}
    assert set(re.findall(r"`(keyturn_\w+)`", OPERATING)) == families
    named = re.findall(r"`([a-z]+_[a-z_]+)`", OPERATING.partition("warnings are")[2])
    assert len(named) == 4
    assert set(named) <= set(EventType)


def test_ending_what_a_restore_has_brought_back_as_printed(sqlite_database_url: str, tmp_path: Path) -> None:
    """Who has signed out since the backup is signed out again; the others are not, and users it does not know do no harm."""
    command, answers = Command(tmp_path, {**SAFE, "KEYTURN_DATABASE_URL": sqlite_database_url}), {}
    with command.serving() as client:
        for name in ("ada", "bob"):
            answers[name] = client.post("/auth/signup", json={**USER, "email": f"{name}@example.com"})
        [copying] = re.findall(r'`sqlite3 keyturn\.db "(.+?)"`', OPERATING)
        with closing(sqlite3.connect(tmp_path / "keyturn.db")) as it:
            it.execute(copying.replace("copy.db", str(tmp_path / "backup.db")))
        answers["eve"] = client.post("/auth/signup", json={**USER, "email": "eve@example.com"})
        for name in ("bob", "eve"):
            assert client.post("/auth/logout", headers=cookie_of(answers[name])).status_code == 204
    (tmp_path / "serve.log").rename(tmp_path / "keyturn.log")
    (tmp_path / "backup.db").replace(tmp_path / "keyturn.db")
    assert len(command.json("sessions", "list", "bob@example.com")) == 1
    shell = Shell(tmp_path)
    shell.environment.update(command.environment, PATH=shell.environment["PATH"])
    [ending] = blocks(OPERATING, "Backups and restores", "sh")
    assert shell.run(ending) == "ended 1 session\n"
    left = {name: len(command.json("sessions", "list", f"{name}@example.com")) for name in ("ada", "bob")}
    assert left == {"ada": 1, "bob": 0}


@pytest.fixture
def limited_url(postgres: PostgresServer, postgres_url: str, tmp_path: Path) -> Iterator[str]:
    """The URL of a migrated database, for a role that has been granted what the guide grants and nothing else."""
    Command(tmp_path, {**SAFE, "KEYTURN_DATABASE_URL": postgres_url}).run("migrate")
    database = postgres_url.rpartition("/")[2]
    postgres.execute("CREATE ROLE keyturn_server LOGIN")
    [grants] = blocks(OPERATING, "The database", "sql")
    postgres.execute(grants, database)
    yield postgres_url.replace("://keyturn@", "://keyturn_server@")
    postgres.execute("DROP OWNED BY keyturn_server", database)
    postgres.execute("DROP ROLE keyturn_server")


def cookie_of(answer: httpx2.Response) -> dict[str, str]:
    """Return the header that sends an answer's refresh token back: the client keeps a Secure cookie to itself."""
    return {"Cookie": f"__Host-kt_refresh={answer.cookies['__Host-kt_refresh']}"}


def test_rights_of_a_limited_role(limited_url: str, tmp_path: Path) -> None:
    """They are enough for a session from its sign-up to its logout, and for the commands."""
    command = Command(tmp_path, {**SAFE, "KEYTURN_DATABASE_URL": limited_url, "KEYTURN_MIGRATE": "off"})
    with command.serving() as client:
        assert client.post("/auth/signup", json=USER).status_code == 201
        answer = client.post("/auth/refresh", headers=cookie_of(client.post("/auth/login", json=USER)))
        assert answer.status_code == 200, answer.text
        bearer = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        password = {"current_password": USER["password"], "new_password": "quiet violets juggle otters"}
        assert client.post("/auth/password", json=password, headers=bearer).status_code == 204
        assert client.post("/auth/logout", headers=cookie_of(answer)).status_code == 204
        assert client.get("/auth/me", headers=bearer).status_code == 401
        assert client.get("/readyz").status_code == 200
    assert "permission denied" not in (tmp_path / "serve.log").read_text()
    assert command.json("doctor") == {"safe": True, "findings": []}
    commands = ("prune", "keys rotate --compromised", "heal --minutes 0", f"users unlock {USER['email']}")
    again = command.run("users", "set-password", USER["email"], "--password-stdin", stdin=f"{USER['password']}\n")
    assert again.startswith("set the password of ")
    assert command.run("users", "import", "-", stdin='{"email": "bob@example.com"}').startswith("imported 1,")
    for line in (*commands, f"users disable {USER['email']}", f"users delete {USER['email']} --yes"):
        command.run(*line.split())


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_settings_of_a_guide(guide: Path) -> None:
    """Every variable is one that is read."""
    named = set(re.findall(r"KEYTURN_[A-Z_0-9]+[A-Z0-9]", guide.read_text(encoding="utf-8")))
    assert {name.removesuffix("_FILE") for name in named} - OF_OTHERS <= variables()
