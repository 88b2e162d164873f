"""A database with several hosts, of which one serves at a time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest
from sqlalchemy.engine import make_url

from keyturn.core.errors import Unavailable
from keyturn.stores.engine import open_engine, ping
from keyturn.stores.location import without_sqlalchemy
from keyturn.stores.poolers import connect, connect_to_one, each_host
from tests.services import PostgresServer
from tests.stores.support import PATIENCE

pytestmark = pytest.mark.anyio

_USER = "postgresql://someone:a,b%40c@"


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and says nothing, as a machine that hangs."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener.getsockname()[1]


@pytest.fixture(params=["as libpq has them", "as SQLAlchemy has them", "with the ports apart"])
def url(request: pytest.FixtureRequest, postgres_url: str, silent: int) -> str:
    """A URL with two hosts, of which the first says nothing."""
    one = make_url(postgres_url)
    spelled = {
        "as libpq has them": f"127.0.0.1:{silent},127.0.0.1:{one.port}/{one.database}?",
        "as SQLAlchemy has them": f"/{one.database}?host=127.0.0.1:{silent}&host=127.0.0.1:{one.port}&",
        "with the ports apart": f"/{one.database}?host=127.0.0.1,127.0.0.1&port={silent},{one.port}&",
    }
    return f"postgresql://{one.username}@{spelled[request.param]}target_session_attrs=read-write"


async def serves(url: str) -> None:
    """See that a server is found by the pool, by who listens, and by a service beside us, which has the URL as it was given."""
    engine = open_engine(url, connect_timeout=2.0)
    async with asyncio.timeout(PATIENCE):
        await ping(engine)
        await engine.close()
        for each in (without_sqlalchemy(url), url):
            listener = await connect(each, name="listener")
            assert await listener.execute("SELECT") == "SELECT 1"
            listener.terminate()  # type: ignore[no-untyped-call]


async def test_host_that_says_nothing(url: str) -> None:
    """The other one is found, within the time that there is for one."""
    await serves(url)


@pytest.mark.parametrize("host", ["[::1]:1", "127.0.0.1", "%2Fnowhere"])
@pytest.mark.parametrize("spelling", ["{},{}/{}", "/{2}?host={0}&host={1}"])
async def test_host_of_any_kind(postgres_url: str, spelling: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address of IPv6, a host whose port goes without saying and a directory of sockets may be beside others."""
    one = make_url(postgres_url)
    monkeypatch.setenv("PGPORT", "1")
    await serves(f"postgresql://{one.username}@{spelling.format(host, f'127.0.0.1:{one.port}', one.database)}")


async def test_port_of_all_hosts(postgres_url: str) -> None:
    """One port is that of all."""
    one = make_url(postgres_url)
    await serves(f"postgresql://{one.username}@/{one.database}?host=[::1],127.0.0.1&port={one.port}")


async def test_host_that_hangs_up(postgres_url: str) -> None:
    """A proxy whose own server is away takes a connection and ends it: the next host is asked."""
    one = make_url(postgres_url)
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        hosts = f"127.0.0.1:{port},127.0.0.1:{one.port}"
        await serves(f"postgresql://{one.username}@{hosts}/{one.database}?sslmode=disable")


async def test_host_that_took_us_is_tried_first(url: str) -> None:
    """Or each connection would wait for the one that says nothing."""
    urls = each_host(without_sqlalchemy(url))
    silent, serving = urls
    async with asyncio.timeout(PATIENCE):
        (await connect_to_one(urls, seconds=2.0)).terminate()  # type: ignore[no-untyped-call]
    assert urls == [serving, silent]


@pytest.mark.parametrize("hosts", ["127.0.0.1:{0}", "127.0.0.1:{0},127.0.0.1:{0}"])
async def test_no_host_takes_writes(postgres: PostgresServer, postgres_url: str, hosts: str) -> None:
    """As between the end of the primary and the promotion of a standby: the database is not available."""
    one = make_url(postgres_url)
    hosts = hosts.format(one.port)
    postgres.execute(f'ALTER DATABASE "{one.database}" SET default_transaction_read_only = on')
    engine = open_engine(f"postgresql://{one.username}@{hosts}/{one.database}?target_session_attrs=read-write")
    try:
        with pytest.raises(Unavailable):
            await ping(engine)
    finally:
        await engine.close()
        postgres.execute(f'ALTER DATABASE "{one.database}" RESET default_transaction_read_only')


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("one/db", ["one/db"]),
        ("one,two/db", ["/db?host=one&port=5432", "/db?host=two&port=5432"]),
        ("one:1,two:2/db?ssl=require", ["/db?ssl=require&host=one&port=1", "/db?ssl=require&host=two&port=2"]),
        ("one,two", ["/?host=one&port=5432", "/?host=two&port=5432"]),
        ("/db?host=one,two&port=5", ["/db?host=one&port=5", "/db?host=two&port=5"]),
        ("/db?host=one,two&port=5,", ["/db?host=one&port=5", "/db?host=two&port=5432"]),
        (
            "[fe80::1%25eth0]:1,[::1]/db",
            ["/db?host=%5Bfe80%3A%3A1%25eth0%5D&port=1", "/db?host=%5B%3A%3A1%5D&port=5432"],
        ),
        ("/db?host=/run/postgresql", ["/db?host=%2Frun%2Fpostgresql"]),
    ],
)
async def test_url_for_each_host(url: str, expected: list[str]) -> None:
    """User, database and parameters are those of all."""
    begin = "postgresql+asyncpg://someone:a%2Cb%40c@"
    assert each_host(without_sqlalchemy(_USER + url)) == [begin + each for each in expected]
