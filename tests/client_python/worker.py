"""One process of those that share a token file. Started by `test_processes.py`; no test in this file.

Reads one command per line and answers each with one line of JSON:
`get` sends one request; `hammer N` sends requests from four threads or tasks until it has seen N access tokens;
`fork` starts a request, says so once its refresh is under way and a child is there, and sends one from the child. Errors are answered, never raised.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from keyturn.client import AuthError, FileTokenStore
from tests.client_python.people import KINDS, Program
from tests.services import wait_until

_AT_ONCE = 4


async def get(program: Program) -> str:
    """Send one request, and say how it went."""
    try:
        return str((await program.get()).status_code)
    except AuthError as error:
        return str(error)


async def hammer(program: Program, count: int) -> dict[str, Any]:
    """Send requests until the access token has changed often enough."""
    seen: set[str] = set()
    answers: dict[str, int] = {}

    async def caller() -> None:
        while len(seen) < count:
            answer = await get(program)
            answers[answer] = answers.get(answer, 0) + 1
            seen.add(program.auth._state.stored.access_token)

    await asyncio.gather(*(caller() for _ in range(_AT_ONCE)))
    return answers


def get_in_a_child(program: Program) -> str:
    """Fork while a refresh of this process is under way, and send one request from the child."""
    threading.Thread(target=program.client.get, args=("/api/who",)).start()
    wait_until(lambda: program.auth._flying is not None, 30, "the refresh")
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with program.kind.library.Client(base_url=program.client.base_url, auth=program.auth) as client:
                os.write(write_end, str(client.get("/api/who").status_code).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    say("forked")
    os.waitpid(child, 0)
    return os.read(read_end, 100).decode()


def say(answer: object) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def work(kind: str, url: str, path: str) -> None:
    """Answer commands until there are no more."""
    async with Program(KINDS[kind], url, store=FileTokenStore(Path(path))) as program:
        while line := await asyncio.to_thread(sys.stdin.readline):
            command, _, argument = line.strip().partition(" ")
            if command == "hammer":
                answer: object = await hammer(program, int(argument))
            elif command == "fork":
                answer = get_in_a_child(program)
            else:
                answer = await get(program)
            say(answer)


if __name__ == "__main__":
    asyncio.run(work(*sys.argv[1:]))
