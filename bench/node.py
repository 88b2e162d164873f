"""The subject: one node of Keyturn as `keyturn serve` runs it, as a process on a free port.

Owns: reading the environment into a node, and the one thing that the command line has no option for: groups switched
off, to measure what they are worth.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from keyturn.observability import configure_logging
from keyturn.runtime import Keyturn
from keyturn.serving import Listeners, bind, port_of, serve_here
from keyturn.settings import Settings
from keyturn.stores.sql import SqlSessions
from keyturn.stores.users import SqlUsers


def _nothing(_denied: object) -> None: ...


def without_groups(node: Keyturn) -> None:
    """Let the node do every presentation, and every read of a user, by itself."""
    policy = node.policy
    node.sessions = SqlSessions(
        node.engine, denylist_lifetime=policy.denylist_lifetime, heal_time=policy.heal_time, group_size=1
    )
    node.users = SqlUsers(node.engine, denylist_lifetime=policy.denylist_lifetime, on_revoked=_nothing, group_size=1)
    node.auth = replace(node.auth, sessions=node.sessions, with_users=node.sessions, users=node.users)


def main() -> None:
    """Serve what the environment says on a free port, which is printed."""
    parser = argparse.ArgumentParser(prog="python -m bench.node")
    parser.add_argument("--without-groups", action="store_true")
    options = parser.parse_args()
    settings = Settings.load()
    configure_logging(settings.log_level)
    node = Keyturn(settings)
    if options.without_groups:
        without_groups(node)
    listener = bind("127.0.0.1", 0)
    print(port_of(listener), flush=True)
    serve_here(node.asgi, node.lifespan, Listeners(listener))


if __name__ == "__main__":
    main()
