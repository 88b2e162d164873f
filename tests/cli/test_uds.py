"""`keyturn serve` on a Unix socket: whose it is, who is behind it, how it ends."""

from __future__ import annotations

import json
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from keyturn.serving import CannotListen, bind_path, turn_away
from tests.cli.conftest import Command
from tests.cli.storm import Storm
from tests.services import wait_until

PERSON = {"email": "ada@example.com", "password": "violet otters juggle quietly"}


@contextmanager
def listening(command: Command, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], Path, httpx2.Client]]:
    """Serve on a Unix socket, and lend the process, the path and a client."""
    path = command.directory / "keyturn.sock"
    headers = {"X-Keyturn": "1", "Origin": "https://auth.example.com"}
    with (
        command.process("serve", "--uds", path.name, *arguments) as process,
        httpx2.Client(
            transport=httpx2.HTTPTransport(uds=str(path)), base_url="http://localhost", headers=headers, timeout=30
        ) as client,
    ):
        wait_until(lambda: process.poll() is not None or "listening" in logged(command), 60, "the start")
        assert process.poll() is None, (command.directory / "serve.log").read_text()
        yield process, path, client


def logged(command: Command) -> dict[str, dict[str, object]]:
    """Return what the server has logged, by its messages."""
    lines = (command.directory / "serve.log").read_text().splitlines()
    return {line["message"]: line for line in map(json.loads, lines)}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_server_on_a_unix_socket(sqlite_command: Command, workers: str) -> None:
    """It answers, says where it listens, and takes its file away when it ends; a second one does not take its place."""
    with listening(sqlite_command, "--workers", workers) as (process, path, client):
        assert client.get("/readyz").status_code == 200
        assert client.post("/auth/signup", json=PERSON).status_code == 201
        assert logged(sqlite_command)["listening"]["uds"] == path.name
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        assert "keyturn.sock: Address already in use" in sqlite_command.run("serve", "--uds", path.name, status=1)
        assert client.get("/readyz").status_code == 200
        process.terminate()
        assert process.wait(60) == 0
        assert not path.exists()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_no_request_is_cut_when_it_is_told_to_end_in_a_storm(sqlite_command: Command, workers: str) -> None:
    """Who comes after the signal is refused, and whoever was let in before it gets an answer."""
    with listening(sqlite_command, "--workers", workers) as (process, path, _):
        storm = Storm(str(path), "/healthz")
        storm.begin()
        wait_until(lambda: storm.outcomes["full"] > 200, 30, "the storm")
        process.terminate()
        assert process.wait(30) == 0
        storm.end()


def test_server_that_takes_over_while_the_other_one_drains(sqlite_command: Command, tmp_path: Path) -> None:
    """It may make its file as soon as the drain has begun, and keeps it when the other has ended."""
    with listening(sqlite_command) as (process, path, _), socket.socket(socket.AF_UNIX) as held:
        held.connect(str(path))
        held.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
        process.terminate()
        wait_until(lambda: not path.exists(), 30, "the drain")
        with bind_path(str(path)):
            held.sendall(b"\r\n")
            assert process.wait(60) == 0
            assert path.is_socket()


def test_file_that_another_server_has_put_in_its_place_stays(tmp_path: Path) -> None:
    """Somebody deleted the file of a server that ran, and started a second one."""
    path = tmp_path / "socket"
    with bind_path(str(path)) as first:
        path.unlink()
        with bind_path(str(path)) as second:
            assert turn_away(first)
            assert path.is_socket()
            assert turn_away(second)
            assert not path.exists()


def test_file_of_a_server_that_was_killed_is_replaced(sqlite_command: Command) -> None:
    """Nobody listens there any more."""
    with listening(sqlite_command) as (process, path, _):
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert path.is_socket()
    with listening(sqlite_command) as (_, _, client):
        assert client.get("/healthz").status_code == 200


def test_start_that_fails_leaves_no_file(sqlite_command: Command) -> None:
    """A proxy is refused either way; whoever looks sees that there is no server."""
    sqlite_command.environment["KEYTURN_DATABASE_URL"] = "postgresql://nobody@127.0.0.1:1/none"
    assert "unavailable" in sqlite_command.run("serve", "--uds", "keyturn.sock", status=1)
    assert not (sqlite_command.directory / "keyturn.sock").exists()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_metrics_port_that_is_taken_leaves_no_file(sqlite_command: Command, workers: str) -> None:
    """One that is found out after the file was made."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        sqlite_command.environment["KEYTURN_METRICS_PORT"] = str(other.getsockname()[1])
        arguments = ("--uds", "keyturn.sock", "--workers", workers)
        assert "cannot_listen" in sqlite_command.run("serve", *arguments, status=1)
    assert not (sqlite_command.directory / "keyturn.sock").exists()


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    """A file of somebody, a link to nowhere, a directory that is not there, and more than the system takes."""
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("somebody's")
    link.symlink_to(tmp_path / "nothing")
    for path, why in (
        (file, "Address already in use"),
        (link, "Address already in use"),
        (tmp_path / "none" / "socket", "No such file or directory"),
        (tmp_path / ("a" * 200), "AF_UNIX path too long"),
    ):
        with pytest.raises(CannotListen, match=f"{path.name}: {why}"):
            bind_path(str(path))
    assert file.read_text() == "somebody's"


@pytest.mark.parametrize(("proxies", "address"), [("0", ""), ("2", "198.51.100.1")])
def test_address_behind_a_unix_socket(sqlite_command: Command, proxies: str, address: str) -> None:
    """Only as many hops count as there are proxies of ours; without any there is none, which the log and the doctor say."""
    sqlite_command.environment["KEYTURN_TRUSTED_PROXIES"] = proxies
    with listening(sqlite_command) as (_, _, client):
        headers = {"X-Forwarded-For": "203.0.113.5, 198.51.100.1, 192.0.2.7"}
        assert client.post("/auth/login", json=PERSON, headers=headers).status_code == 401
        assert logged(sqlite_command)["refused: invalid_credentials"]["ip"] == address
        assert any("nobody has an address" in message for message in logged(sqlite_command)) == (proxies == "0")
    sqlite_command.environment["KEYTURN_UDS"] = "keyturn.sock"
    codes = [finding["code"] for finding in sqlite_command.json("doctor")["findings"]]
    assert codes == ["addresses_unknown"] * (proxies == "0")
