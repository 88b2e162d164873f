"""What a process of `keyturn serve` serves.

Owns: the node of a process, and its log. Must not hold: options. Why apart from them: no worker has any, and to load what
reads them takes each of them as long as a twentieth of its start.
"""

from __future__ import annotations

import logging

from keyturn.cli.tools import make_node
from keyturn.observability import configure_logging
from keyturn.settings import Settings
from keyturn.web.asgi import MetricsASGI
from keyturn.workers import Served


def make() -> Served:
    """Make what one process of several serves, from its environment."""
    configure_logging()  # for what is wrong with the settings
    return serve_node(Settings.load())


def serve_node(settings: Settings) -> Served:
    """Make a node with these settings, and let it log."""
    log_to_stderr(settings)
    node = make_node(settings)
    return Served(node.asgi, node.lifespan, MetricsASGI(node.web.services.metrics))


def log_to_stderr(settings: Settings) -> None:
    """Log as the settings say."""
    configure_logging("debug" if settings.debug else settings.log_level)
    # What these say at the start and the end, `keyturn.server` and `keyturn.serving` say in one line each.
    for name in ("alembic", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.WARNING)
