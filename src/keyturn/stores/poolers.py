"""What is between a connection and PostgreSQL: a pooler that shares out the server's connections, or none that does.

Owns: opening a connection straight through the driver, telling what it leads to. Must not hold: what follows from that
(`connections.py`, `feeds.py`). Works on the driver alone, so that a verifying service does not load SQLAlchemy.

A pooler in transaction mode lends a server's connection (a *backend*) for one transaction after the other. What belongs
to a connection is then lost, or somebody else's: notifications, prepared statements, settings, locks of a session.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qsl, urlencode

if TYPE_CHECKING:
    import asyncpg

Connect: TypeAlias = "Callable[[], Awaitable[asyncpg.Connection]]"

POOLED = (
    "database_pooled: the database URL leads through a connection pooler in transaction mode, which loses notifications"
    " and settings and mixes up prepared statements: use the direct address of the database, or the pooler in session mode"
)
"""Why a node does not work with such a database, as a finding: its code and what to do."""

# The user, who may have a comma in the password; hosts; the path; the query.
_SEVERAL_HOSTS = re.compile(r"(postgres(?:ql)?(?:\+\w+)?://(?:[^@/?#]*@)?)([^@/?#]*,[^@/?#]*)(/[^?#]*)?(?:\?(.*))?")
_WITH_PORT = re.compile(r"(\[.*\]|[^/:]*):[^:]*")
_PLACE = "host", "port"
_TIMEOUT = 5
_OTHERS = 3
"""Connections that are opened to compare. Why not one: of several poolers side by side it could reach another."""
_LOOK_TIMEOUT = 2.0
"""Seconds for a look. In session mode, where the pooler has no backend left, it would wait for minutes."""
_DIRECT = "SELECT 1"
"""What the server says to a statement that has found one row."""
# Some poolers (RDS Proxy) leave a client its backend from the first setting on, and the node's connections all begin with
# some. Its name is nobody's, so it does no harm on a backend that goes on to somebody else.
_STAY = "SET keyturn.looked = on"
_LOOK = "SELECT pg_postmaster_start_time(), pg_backend_pid()"


async def connect(url: str, *, name: str, patience: float = _TIMEOUT) -> asyncpg.Connection:
    """Open a connection that prepares nothing under a name: in transaction mode the backend would keep it for somebody else.

    Args:
        url: as `without_sqlalchemy` gives it, or with SQLAlchemy's `+asyncpg` and its name for `sslmode`.
        name: that the server shows for it.
        patience: seconds a statement may take.
    """
    return await connect_to_one(
        each_host(url),
        seconds=_TIMEOUT,
        command_timeout=patience,
        statement_cache_size=0,
        server_settings={"application_name": name},
    )


def hosts_apart(url: str) -> str:
    """Write several hosts as `?host=a,b&port=1,2`: so SQLAlchemy takes an address of IPv6, and a port that goes without saying.

    Raises: ValueError: a host or a port is none.
    """
    before, others, hosts = _parts(url)
    if not hosts:
        return url
    names, ports = map(",".join, zip(*hosts, strict=True))
    return f"{before}?{urlencode([*others, ('host', names), ('port', ports)])}"


def each_host(url: str) -> list[str]:
    """Return a URL for each host of one that is as of `connect`. Raises: ValueError: as `hosts_apart`."""
    before, others, hosts = _parts(url)
    each = (urlencode([*others, ("host", host), ("port", port)]) for host, port in hosts)
    return [f"{before}?{query}" for query in each] or [url]


def _parts(url: str) -> tuple[str, list[tuple[str, str]], list[tuple[str, str]]]:
    """Divide a URL into what is before its parameters, those but `host` and `port`, and the hosts if it has several.

    They may stand before the path, as libpq has them, or in `host`, once or repeated; ports behind them, or in `port`.
    """
    if (found := _SEVERAL_HOSTS.fullmatch(url)) is not None:
        user, several, path, query = found.groups("")
        url = f"{user}{path or '/'}?host={several}&{query}"
    before, _, query = url.partition("?")
    given = parse_qsl(query, keep_blank_values=True)
    named, ports = ([part for name, value in given if name == kind for part in value.split(",")] for kind in _PLACE)
    if len(named) < 2:
        return before, given, []
    usual = os.environ.get("PGPORT") or "5432"
    hosts: list[tuple[str, str]] = []
    for name, port in zip(named, ports if len(ports) > 1 else (ports or [usual]) * len(named), strict=True):
        host, _, own = name.rpartition(":") if _WITH_PORT.fullmatch(name) else (name, "", "")
        hosts.append((host, own or port or usual))
    if not all(host and port.isdecimal() and 0 < int(port) <= 65535 for host, port in hosts):
        raise ValueError("a host or a port is none")
    return before, [(name, value) for name, value in given if name not in _PLACE], hosts


class NoSuchServer(ConnectionError):
    """None of the servers that answer is of the kind that was asked for: the database's fault, as a server that is away."""

    sqlstate = "target_session_attrs"
    """It stands where a log has the driver's code: for this it has none."""


async def connect_to_one(urls: list[str], *, seconds: float, **given: Any) -> asyncpg.Connection:
    """Connect to the first host that takes us, each with its share of the time, and have it tried first from then on.

    Why not by the driver, which knows of several hosts: it has one time for all of them, and spends it on the first one that says
    nothing, such as the machine that the others have taken over from.

    Args:
        urls: one for each host; as of `connect`. It is put in another order.
        seconds: for all of them together.
        given: to the driver.

    Raises: what the last of them did; NoSuchServer: it is not what `target_session_attrs` asks for.
    """
    import asyncpg
    from asyncpg.exceptions import CannotConnectNowError, PostgresConnectionError, TargetServerAttributeNotMatched

    order = tuple(urls)
    for url in order:
        dsn = re.sub(r"([?&])ssl=", r"\1sslmode=", re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", url))
        try:
            connection: asyncpg.Connection = await asyncpg.connect(dsn, timeout=seconds / len(order), **given)  # type: ignore[no-untyped-call]
        except (OSError, CannotConnectNowError, PostgresConnectionError):
            # The last: a proxy, whose own server is away, has ended it or says so.
            if url == order[-1]:
                raise
        except TargetServerAttributeNotMatched as error:
            if url == order[-1]:
                raise NoSuchServer from error
        else:
            urls.sort(key=lambda each: each != url)
            return connection
    raise AssertionError("a URL has a host")


async def execute_where_direct(connection: asyncpg.Connection, select: str) -> bool:
    """Execute a SELECT of one row if nothing is in between, and say whether that is so; otherwise nothing is executed.

    The pid of the handshake is the server's own only where nobody made one up, as every pooler does for its clients.
    """
    pid: int = connection.get_server_pid()  # type: ignore[no-untyped-call]
    status: str = await connection.execute(f"{select} WHERE pg_backend_pid() = {pid:d}")
    return status == _DIRECT


async def shares_backends(connection: asyncpg.Connection, another: Connect) -> bool:
    """Say whether a connection that is not direct has no backend of its own, as in transaction mode.

    That is only said where it was seen: a connection had two backends of one server, or two that were open at once had the
    same one. In session mode neither happens. Whatever goes wrong meanwhile proves nothing.

    Args:
        connection: an open one; it stays open.
        another: opens one more that leads to the same.
    """
    from asyncpg.exceptions import InterfaceError, InternalClientError, PostgresError

    backends: dict[tuple[int, str], str] = {}
    holders: dict[tuple[str, str], int] = {}
    opened = [connection]

    async def mixed(number: int) -> bool:
        server, backend = await _look(opened[number])
        mine = backends.setdefault((number, server), backend) == backend
        return not mine or holders.setdefault((server, backend), number) != number

    try:
        await connection.execute(_STAY, timeout=_LOOK_TIMEOUT)
        for number in range(1, 1 + _OTHERS):
            opened.append(await another())
            await opened[number].execute(_STAY, timeout=_LOOK_TIMEOUT)
            # In this order also a pooler is found out that hands out two backends in turn.
            for looking in (0, number, number, 0):
                if await mixed(looking):
                    return True
    except (OSError, PostgresError, InterfaceError, InternalClientError):
        return False
    finally:
        for other in opened[1:]:
            other.terminate()  # type: ignore[no-untyped-call]
    return False


async def _look(connection: asyncpg.Connection) -> tuple[str, str]:
    """Say which server and which of its backends answers a statement."""
    answer = bytearray()

    async def take(data: bytes) -> None:
        answer.extend(data)

    # A copy is one message and prepares nothing, so that one backend answers all of it, in statement mode as well.
    await connection.copy_from_query(  # type: ignore[no-untyped-call]
        _LOOK, output=take, timeout=_LOOK_TIMEOUT
    )
    server, _, backend = answer.decode().strip().partition("\t")
    return server, backend
