"""Two nodes behind the real nginx, HAProxy, Caddy and Apache, as the operator's guide configures them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2
import pytest
from sqlalchemy.engine import make_url

from tests.chaos.cluster import HARMLESS_EVENTS
from tests.chaos.conftest import Keep, Scale, skip_without
from tests.chaos.databases import postgres_events, postgres_rows
from tests.chaos.node import Node, Pace, settings
from tests.chaos.proxies import Apache, Caddy, Haproxy, Nginx, Proxy
from tests.chaos.storm import Storm
from tests.chaos.wire import LoopThread
from tests.services import PostgresServer, free_port, wait_until

START_TIMEOUT = 60.0
_PERSON = {"email": "ada@example.com", "password": "correct horse battery staple"}
Behind = Callable[..., tuple[Proxy, list[Node]]]


@pytest.fixture(params=[Nginx, Haproxy, Caddy, Apache], ids=["nginx", "HAProxy", "Caddy", "Apache"])
def kind(request: pytest.FixtureRequest) -> type[Proxy]:
    """Each of the proxies."""
    found: type[Proxy] = request.param
    return found


@pytest.fixture
def pace(kind: type[Proxy]) -> Pace:
    """The protocol's times behind it."""
    return kind.pace


@pytest.fixture
def behind(kind: type[Proxy], chaos: bool, postgres_url: str, tmp_path: Path, pace: Pace) -> Iterator[Behind]:
    """Start a proxy and two nodes behind it, each with so many workers. Only `make chaos` insists on the program."""
    skip_without(kind.kind, chaos=chaos)
    with ExitStack() as stack:

        def behind(
            proxies: int, *, workers: tuple[int, int] = (1, 1), larger: bool = False
        ) -> tuple[Proxy, list[Node]]:
            ports = [free_port(), free_port()]
            proxy = kind([f"127.0.0.1:{port}" for port in ports], **(kind.larger if larger else {}))
            stack.callback(proxy.close)
            proxy.start()
            more = {"KEYTURN_BASE_URL": f"http://localhost:{proxy.port}", "KEYTURN_TRUSTED_PROXIES": str(proxies)}
            environment = settings(postgres_url, pace, **more)
            nodes = [
                Node(tmp_path / str(port), environment, number) for port, number in zip(ports, workers, strict=True)
            ]
            for node, port in zip(nodes, ports, strict=True):
                node.port = port
                stack.callback(node.kill9)
                node.start()
            wait_until(lambda: _status(proxy, "/auth/me") == 401, START_TIMEOUT, "an answer through the proxy")
            return proxy, nodes

        yield behind


# Not behind Caddy 2.6, which sends a request that was refused to the other node without its body.
@pytest.mark.parametrize("kind", [Nginx, Haproxy, Apache], ids=["nginx", "HAProxy", "Apache"], indirect=True)
def test_nobody_notices_that_nodes_restart_one_after_the_other(
    behind: Behind,
    postgres: PostgresServer,
    postgres_url: str,
    thread: LoopThread,
    pace: Pace,
    scale: Scale,
    keep: Keep,
) -> None:
    """No answer but those of nodes, and nobody signed out: the proxy asks the other one, and sends no refresh again."""
    proxy, nodes = behind(2, workers=(1, 2))  # each browser is a proxy too, by which it has an address of its own
    database = str(make_url(postgres_url).database)
    rows = postgres_rows(postgres, database)
    storm = Storm(thread, [proxy.port], rows, browsers=scale(15, 40), tabs=3, pace=pace, thorough=True)
    storm.start()

    @contextmanager
    def restarted() -> Iterator[None]:
        for node in nodes:
            node.process.terminate()
            assert node.exit_status() == 0
            storm.all_go_on()
            node.start()
        yield

    try:
        keep(storm.suffer(f"two nodes behind {proxy.kind} restarted in turn", scale(1, 3), restarted))
    finally:
        storm.close()
    assert set(postgres_events(postgres, database)) <= HARMLESS_EVENTS


def test_large_bodies_take_no_node_out_of_service(behind: Behind) -> None:
    """They are refused by the node, whose answer passes: nginx would send nothing more to one that resets connections."""
    proxy, _ = behind(1, larger=True)
    for size in (17_000, 60_000, 900_000) * 4:
        body = b"x" * size
        headers = {"X-Keyturn": "1", "Origin": f"http://localhost:{proxy.port}", "Content-Type": "application/json"}
        answer = httpx2.post(f"http://localhost:{proxy.port}/auth/login", headers=headers, content=body, timeout=30)
        assert answer.status_code == 413
        assert answer.json()["code"] == "payload_too_large"
        assert _status(proxy, "/auth/me") == 401


def test_what_a_proxy_passes_on_and_what_it_keeps(behind: Behind) -> None:
    """Cookies and `Cache-Control` pass as they are; an address that somebody makes up does not count."""
    proxy, _ = behind(1)
    made_up = {"X-Forwarded-For": "192.0.2.1"}
    safe = {"X-Keyturn": "1", "Origin": f"http://localhost:{proxy.port}"}
    with httpx2.Client(base_url=f"http://localhost:{proxy.port}", headers={**safe, **made_up}, timeout=30) as client:
        answer = client.post("/auth/signup", json=_PERSON)
        assert answer.status_code == 201
        assert len(answer.headers.get_list("set-cookie")) == 3
        assert answer.headers["cache-control"] == "private, no-store"
        bearer = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        (session,) = client.get("/auth/sessions", headers=bearer).json()["sessions"]
        assert session["ip"] == "127.0.0.1"
        assert client.get("/.well-known/jwks.json").headers["etag"]
        assert client.get("/readyz").status_code == 404


@pytest.mark.parametrize("kind", [Nginx], ids=["nginx"], indirect=True)
def test_nodes_on_unix_sockets(kind: type[Proxy], chaos: bool, postgres_url: str, tmp_path: Path, pace: Pace) -> None:
    """As before ports: they restart one after the other unnoticed, and the proxy says whose address it is."""
    skip_without(kind.kind, chaos=chaos)
    with ExitStack() as stack:
        # nginx's workers are of another user, who may not enter the directories of tests.
        place = Path(stack.enter_context(TemporaryDirectory()))
        place.chmod(0o755)
        sockets = [place / "one.sock", place / "two.sock"]
        proxy = kind([f"unix:{path}" for path in sockets])
        stack.callback(proxy.close)
        proxy.start()
        environment = settings(postgres_url, pace, KEYTURN_BASE_URL=f"http://localhost:{proxy.port}")
        nodes = [
            Node(tmp_path / f"node-{workers}", {**environment, "KEYTURN_UDS": str(path)}, workers)
            for workers, path in enumerate(sockets, 1)
        ]
        for node, path in zip(nodes, sockets, strict=True):
            stack.callback(node.kill9)
            node.start(wait=False)
            wait_until(path.is_socket, START_TIMEOUT, "the server's socket")
        wait_until(lambda: _status(proxy, "/auth/me") == 401, START_TIMEOUT, "an answer through the proxy")
        with _asked_meanwhile(proxy) as answers:
            for node, path in zip(nodes, sockets, strict=True):
                node.process.terminate()
                assert node.exit_status() == 0
                assert not path.exists()
                node.start(wait=False)
                wait_until(path.is_socket, START_TIMEOUT, "the server's socket")
        assert set(answers) == {401}


@contextmanager
def _asked_meanwhile(proxy: Proxy) -> Iterator[list[int]]:
    """Ask a hundred times a second, and lend the list of answers, which is whole after the block."""
    answers: list[int] = []
    end = threading.Event()

    def ask() -> None:
        while not end.wait(0.01):
            answers.append(_status(proxy, "/auth/me"))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield answers
    finally:
        end.set()
        thread.join(60)


def _status(proxy: Proxy, path: str) -> int:
    with closing(HTTPConnection("localhost", proxy.port, timeout=30)) as link:
        link.request("GET", path)
        return link.getresponse().status
