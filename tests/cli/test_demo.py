"""`keyturn demo` as a process, without a browser."""

from __future__ import annotations

import os
import pwd
import re
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from keyturn.demo.page import PageNotBuilt, read_page
from keyturn.demo.run import settings_of
from tests.cli.conftest import SECRET, Command
from tests.services import wait_until

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0
"""Seconds that a visitor waits for what takes milliseconds, on a machine that may stand still for some."""
USER = {"email": "ada@example.com", "password": "violet otters juggle quietly"}


@contextmanager
def demo(directory: Path, **environment: str) -> Iterator[str]:
    """Run a demo and give its URL; a signal ends it with status 0."""
    command = [sys.executable, "-m", "keyturn.cli", "demo", "--port", "0", "--directory", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environment) as process:
        assert process.stdout is not None
        try:
            yield next(m[0] for line in process.stdout if (m := re.search(r"http://localhost:\d+", line)))
        finally:
            process.terminate()
            assert process.wait(30) == 0


@pytest.fixture(scope="module")
def demo_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a demo for whoever only asks it something, as somebody of their own."""
    with demo(tmp_path_factory.mktemp("demo") / "demo") as url:
        yield url


@contextmanager
def visitor(url: str) -> Iterator[httpx2.Client]:
    """Open the page, as a browser does first. Cookies travel by hand: the client sends no Secure cookie over http."""
    with httpx2.Client(base_url=url, headers={"X-Keyturn": "1", "Origin": url}, timeout=PATIENCE) as client:
        client.headers["Cookie"] = cookies_of(client.get("/"))
        yield client


def cookies_of(answer: httpx2.Response) -> str:
    """Return what a browser would send back."""
    return "; ".join(value.partition(";")[0] for value in answer.headers.get_list("set-cookie"))


def decisions(client: httpx2.Client) -> list[dict[str, object]]:
    """List what the page would show."""
    rows: list[dict[str, object]] = client.get("/demo/decisions").json()["decisions"]
    return rows


def test_decisions_show_to_the_browser_they_were_made_for_alone(demo_url: str) -> None:
    """Another visitor, and one without the viewer's cookie, see nothing of them, and nothing in them is a credential."""
    with (
        visitor(demo_url) as one,
        visitor(demo_url) as other,
        httpx2.Client(base_url=demo_url, timeout=PATIENCE) as bare,
    ):
        answer = one.post("/auth/signup", json=USER)
        assert answer.status_code == 201
        assert [row["event"] for row in decisions(one)] == ["signed_up", "signed_in"]
        assert decisions(other) == []
        assert decisions(bare) == []
        assert "kt_rt_" not in one.get("/demo/decisions").text
        last = decisions(one)[-1]["number"]
        assert one.get(f"/demo/decisions?after={last}").json()["decisions"] == []


def test_page_of_a_development_server(demo_url: str) -> None:
    """It asks for decisions before anything else, and is shown what is decided from then on."""
    with httpx2.Client(base_url=demo_url, headers={"X-Keyturn": "1", "Origin": demo_url}, timeout=PATIENCE) as client:
        client.headers["Cookie"] = cookies_of(client.get("/demo/decisions"))
        assert client.post("/auth/signup", json=USER | {"email": "dev@example.com"}).status_code == 201
        assert [row["event"] for row in decisions(client)] == ["signed_up", "signed_in"]
        assert "set-cookie" not in client.get("/demo/decisions").headers


def test_thief_needs_a_cookie_to_copy_and_the_custom_header(demo_url: str) -> None:
    """Another site's form cannot start one; with the owner's cookie it is accepted and shows as the thief's."""
    with visitor(demo_url) as client:
        assert client.post("/demo/thief").status_code == 409
        client.headers["Cookie"] += "; " + cookies_of(
            client.post("/auth/signup", json=USER | {"email": "eve@example.com"})
        )
        assert client.post("/demo/thief", headers={"X-Keyturn": "0"}).status_code == 409
        assert client.post("/demo/thief").status_code == 202
        wait_until(lambda: any(row["who"] == "thief" for row in decisions(client)), PATIENCE, "the thief")


def test_data_are_private_and_outlive_a_restart(tmp_path: Path) -> None:
    """The same secret and database serve the next run; nobody else may read them. The directory may have any name."""
    directory = tmp_path / "demo #1?%41"
    with demo(directory) as url, visitor(url) as client:
        assert client.post("/auth/signup", json=USER).status_code == 201
    with demo(directory) as url, visitor(url) as client:
        assert client.post("/auth/login", json=USER).status_code == 200
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert modes["secret"] == 0o600
    assert modes["keyturn.db"] == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_page_that_stays_open_over_a_restart_is_shown_what_is_decided_after_it(tmp_path: Path) -> None:
    """It asks for what comes after the last number it has seen."""
    with demo(tmp_path) as url, visitor(url) as client:
        assert client.post("/auth/signup", json=USER).status_code == 201
        viewer, seen = client.headers["Cookie"], decisions(client)[-1]["number"]
    with demo(tmp_path) as url, visitor(url) as client:
        client.headers["Cookie"] = viewer
        assert client.post("/auth/login", json=USER).status_code == 200
        later = client.get(f"/demo/decisions?after={seen}").json()["decisions"]
    assert "signed_in" in [row["event"] for row in later]


def test_environment_of_a_real_server_does_not_change_the_demo(tmp_path: Path) -> None:
    """Neither its database nor its closed sign-up; the demo stays in its directory."""
    real = {"KEYTURN_DATABASE_URL": f"sqlite:///{tmp_path / 'real.db'}", "KEYTURN_SIGNUP": "closed"}
    with demo(tmp_path / "demo", **real) as url, visitor(url) as client:
        assert client.post("/auth/signup", json=USER).status_code == 201
    assert not (tmp_path / "real.db").exists()


@pytest.mark.parametrize(("port", "shown"), [(80, ""), (8000, ":8000"), (8080, ":8080")])
def test_origins_of_the_demo_are_as_browsers_send_them(tmp_path: Path, port: int, shown: str) -> None:
    """The port of http, which they leave out, included."""
    config = settings_of(tmp_path, SECRET, f"http://localhost:{port}", port, {}).web_config()
    assert config.trusted_origins == {f"http://localhost{shown}", f"http://127.0.0.1{shown}"}


def test_page_and_its_files_have_a_strict_policy(demo_url: str) -> None:
    """No inline script or style, nothing from another host; what is named by a hash is kept, the page is not."""
    with httpx2.Client(base_url=demo_url, timeout=PATIENCE) as client:
        page = client.get("/")
        assert page.headers["cache-control"] == "private, no-store"
        assert not re.search(r"<style|<script(?![^>]* src=)|\son\w+=|https?:", page.text)
        files = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert {Path(path).suffix for path in files} == {".js", ".css", ".svg"}
        for path in files:
            answer = client.get(path)
            assert answer.status_code == 200
            assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
            assert re.fullmatch(r"/assets/\w+-[\w-]{8}\.\w+", path)
        for answer in (page, client.get(files[0])):
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
            assert "unsafe-" not in policy
        assert client.get("/assets/../secret").status_code == 404


def test_page_that_was_not_built_is_a_known_error(tmp_path: Path) -> None:
    """The error says which command builds it."""
    with pytest.raises(PageNotBuilt, match="make demo"):
        read_page(tmp_path)


def test_wheel_brings_the_page(tmp_path: Path) -> None:
    """Who installs the package needs no Node: the built files are in it, though not in git."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        static = "keyturn/demo/static"
        paths = {name.removeprefix(static) for name in wheel.namelist() if name.startswith(f"{static}/")}
    assert {"/" if path == "/index.html" else path for path in paths} == set(read_page())


def test_notes_open_to_an_access_token_and_to_nothing_else(demo_url: str) -> None:
    """Without one 401; with one the user's own notes; another user has none of them."""
    with visitor(demo_url) as client:
        assert client.get("/demo/notes").status_code == 401
        mine, other = (
            {"Authorization": f"Bearer {client.post('/auth/signup', json=user).json()['access_token']}"}
            for user in (USER | {"email": f"{name}@example.com"} for name in ("bob", "carol"))
        )
        assert client.post("/demo/notes", json={"text": "water the otters"}, headers=mine).status_code == 201
        assert client.post("/demo/notes", json={"text": ""}, headers=mine).status_code == 422
        assert client.put("/demo/notes", headers=mine).status_code == 405
        assert [note["text"] for note in client.get("/demo/notes", headers=mine).json()["notes"]] == [
            "water the otters"
        ]
        assert client.get("/demo/notes", headers=other).json()["notes"] == []


def test_refused_token_stays_refused_and_others_do_not(demo_url: str) -> None:
    """The token that asked for it gets 401, counted; the next one of the same session is taken."""
    with visitor(demo_url) as client:
        answer = client.post("/auth/signup", json=USER | {"email": "dan@example.com"})
        first = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        assert client.post("/demo/notes/refuse", headers=first).status_code == 204
        assert [client.get("/demo/notes", headers=first).status_code for _ in range(3)] == [401, 401, 401]
        client.headers["Cookie"] += "; " + cookies_of(answer)
        token = client.post("/auth/refresh").json()["access_token"]
        assert client.get("/demo/notes", headers={"Authorization": f"Bearer {token}"}).json()["refused"] == 3


def test_directory_that_cannot_be_made_is_a_known_error(sqlite_command: Command, tmp_path: Path) -> None:
    """A file stands where the directory should be."""
    (tmp_path / "file").touch()
    error = sqlite_command.run("demo", "--port", "0", "--directory", str(tmp_path / "file" / "demo"), status=1)
    assert error.startswith("keyturn: cannot_keep_data: ")


@pytest.mark.parametrize("damaged", [b"", b"1:short", b"\xff"], ids=["empty", "another form", "not ASCII"])
def test_secret_that_is_damaged_is_a_known_error(sqlite_command: Command, tmp_path: Path, damaged: bytes) -> None:
    """As an empty one after a crash: by its path, for nobody has set it, and with how to start anew."""
    (tmp_path / "secret").write_bytes(damaged)
    error = sqlite_command.run("demo", "--port", "0", "--directory", str(tmp_path), status=1)
    assert error.startswith(f"keyturn: cannot_keep_data: {tmp_path / 'secret'}: ")
    assert error.endswith(": delete it and keyturn.db* beside it to start anew\n")


def test_user_without_a_home_is_told_where_else_to_keep_the_data(
    sqlite_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container under a number that no user has."""

    def nobody(number: int) -> pwd.struct_passwd:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
        sqlite_command.environment.pop(name, None)
    error = sqlite_command.run("demo", "--port", "0", status=1)
    assert error.startswith("keyturn: cannot_keep_data: this user has no home directory: choose a directory")
