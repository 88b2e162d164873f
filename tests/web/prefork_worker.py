"""A prefork server in small: loads the application, forks workers, and each answers one request.

Started by `test_threaded.py` as `python -m tests.web.prefork_worker DATABASE_URL WHEN`, where WHEN says whether the node
was started `before` the fork or not (`after`). Prints what each worker came to. No test in this file.
"""

from __future__ import annotations

import os
import sys
import threading

from tests.web.wsgi import call, new_node, sign_up

WORKERS = 2


def work(url: str, when: str) -> None:
    """Fork, answer, and end as a worker does."""
    node = new_node(url)
    application = node.wsgi
    if when == "before":
        assert call(application, "GET", "/healthz").status == 200
    else:
        assert [thread.name for thread in threading.enumerate()] == ["MainThread"]
    workers: list[int] = []
    for number in range(WORKERS):
        pid = os.fork()
        if pid == 0:
            try:
                said = str(sign_up(application, f"worker{number}@example.com").status)
            except RuntimeError as fault:
                said = str(fault)
            sys.stdout.write(f"{said}\n")
            # As a worker ends: through the interpreter's own way out, which closes the node.
            sys.exit()
        workers.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in workers] == [0] * WORKERS


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2])
