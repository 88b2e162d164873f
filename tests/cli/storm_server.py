"""`python -m tests.cli.storm_server workers [unfiltered] [plain]`: serve the storm application and print the port.

`unfiltered` keeps a filter off the socket, as newer kernels do for whoever has not CAP_NET_ADMIN; `plain` has one worker run on
Python's own event loop, as where there is no uvloop.
"""

from __future__ import annotations

import socket
import sys

from keyturn.serving import Listeners, bind, port_of, serve_here
from keyturn.workers import Supervisor
from tests.cli.storm_application import application, lifespan

_SO_LOCK_FILTER = 44

if __name__ == "__main__":
    workers = int(sys.argv[1])
    listener = bind("127.0.0.1", 0)
    if "unfiltered" in sys.argv:
        listener.setsockopt(socket.SOL_SOCKET, _SO_LOCK_FILTER, 1)
    sys.stdout.write(f"{port_of(listener)}\n")
    sys.stdout.flush()
    if "plain" in sys.argv:
        sys.modules["uvloop"] = None  # type: ignore[assignment]
    if workers == 1:
        serve_here(application, lifespan, Listeners(listener))
    else:
        sys.exit(Supervisor("tests.cli.storm_application:make", listener, (), workers).run())
