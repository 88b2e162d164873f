"""`keyturn serve` and `keyturn demo`: the commands that stay.

Owns: sockets, workers and what is said at the start. Must not hold: how a process serves (`serving.py`), and what (`worker.py`).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from keyturn.settings import Settings

Host = Annotated[str, typer.Option(help="The address to listen on.", envvar="KEYTURN_HOST")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.", envvar="KEYTURN_PORT")]


def serve(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    database_url: Annotated[
        str | None, typer.Option(help="Others see it in the list of processes; better KEYTURN_DATABASE_URL_FILE.")
    ] = None,
    redis_url: Annotated[str | None, typer.Option(help="For throttling and revocations over several nodes.")] = None,
    uds: Annotated[
        str | None, typer.Option(help="A Unix socket to listen on, in place of an address.", envvar="KEYTURN_UDS")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes.", envvar="KEYTURN_WORKERS")] = 1,
) -> None:
    """Run the server. It refuses to start unsafe in production, and ends on SIGTERM without cutting off a request."""
    from keyturn.settings import Settings

    given = {"database_url": database_url, "redis_url": redis_url}
    settings = Settings.load(**given)
    settings.refuse_unsafe()
    if workers == 1:
        _serve_here(settings, host, port, uds)
    else:
        _supervise(settings, _environment(given), host, port, uds, workers)


def _environment(given: Mapping[str, str | None]) -> dict[str, str]:
    """Return the environment of the workers: ours, with what the command line says in its place."""
    environment = dict(os.environ)
    for name, value in given.items():
        if value is not None:
            environment[f"KEYTURN_{name.upper()}"] = value
            # A file would go before it.
            environment.pop(f"KEYTURN_{name.upper()}_FILE", None)
    # The tables are made once, before there are workers. Why: one that is started in the place of a dead one would make an
    # empty database where the file of SQLite is missing at the moment.
    environment["KEYTURN_MIGRATE"] = "off"
    return environment


def _serve_here(settings: Settings, host: str, port: int, uds: str | None) -> None:
    from keyturn.serving import Listeners, bind, bind_path, serve_here

    with bind_path(uds) if uds else bind(host, port) as listener:
        metrics = None if settings.metrics_port is None else bind(host, settings.metrics_port)
        from keyturn.cli.worker import serve_node

        served = serve_node(settings)
        serve_here(
            served.application,
            served.lifespan,
            Listeners(listener, metrics),
            metrics=served.metrics,
            on_ready=lambda: announce(listener, 1, settings.trusted_proxies),
        )


def _supervise(
    settings: Settings, environment: Mapping[str, str], host: str, port: int, uds: str | None, workers: int
) -> None:
    """Run several processes. Each counts for itself, so each has a metrics port of its own, one after the other."""
    import sys

    from keyturn.cli.tools import run
    from keyturn.cli.worker import log_to_stderr
    from keyturn.password_pool import default_threads
    from keyturn.serving import bind, bind_path
    from keyturn.workers import Supervisor

    log_to_stderr(settings)
    # Once, before there are many: what is wrong with the database is then told once as well.
    run(_try_start(settings))
    with bind_path(uds) if uds else bind(host, port) as listener:
        first = settings.metrics_port
        metrics = [] if first is None else [bind(host, first + index) for index in range(workers)]
        # Each would take the memory that is left for itself.
        threads = {} if settings.login_threads else {"KEYTURN_LOGIN_THREADS": str(default_threads(workers))}
        supervisor = Supervisor("keyturn.cli.worker:make", listener, metrics, workers, {**environment, **threads})
        sys.exit(supervisor.run(lambda: announce(listener, workers, settings.trusted_proxies)))


async def _try_start(settings: Settings) -> None:
    from keyturn.cli.tools import make_node

    node = make_node(settings)
    async with node.lifespan():
        pass


def announce(listener: socket.socket, workers: int, proxies: int) -> None:
    """Log where the server listens, and tell whoever started it."""
    import logging

    logger = logging.getLogger("keyturn.server")
    name = listener.getsockname()
    if isinstance(name, str):
        extra: dict[str, object] = {"uds": name}
        if not proxies:
            logger.warning(
                "nobody has an address here, and all share one limit of failed logins: KEYTURN_TRUSTED_PROXIES is 0"
            )
    else:
        address, port = name[:2]
        shown = f"[{address}]" if ":" in address else address
        extra = {"url": f"http://{shown}:{port}", "port": port}
    logger.info("listening", extra={**extra, "workers": workers})
    tell_service_manager()


def tell_service_manager() -> None:
    """Say that the server is ready to whoever waits for it: systemd, with `Type=notify`."""
    from contextlib import suppress

    place = os.environ.get("NOTIFY_SOCKET")
    if place:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
            # An abstract one begins with a null, which no variable may hold.
            link.sendto(b"READY=1", f"\0{place[1:]}" if place.startswith("@") else place)


def demo(
    port: Port = 8000,
    host: Annotated[str, typer.Option(help="Another address is of use inside a container only.")] = "127.0.0.1",
    directory: Annotated[
        str | None, typer.Option(help="Where the demo keeps its database; a directory of the user's when not given.")
    ] = None,
    inactivity: Annotated[
        float, typer.Option(min=1, help="Seconds after which a session ends in which nobody acts.")
    ] = 120.0,
) -> None:
    """Run a server with a web page to try it. Needs nothing else, and keeps its data between two runs."""
    from pathlib import Path

    from keyturn.demo.run import default_directory, run_demo

    chosen: Path = default_directory() if directory is None else Path(directory)
    run_demo(host, port, chosen, inactivity_timeout=inactivity)
