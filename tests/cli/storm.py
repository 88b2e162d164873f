"""A storm of requests from many plain clients, and what became of each.

No test in this file.
"""

from __future__ import annotations

import re
import socket
import threading
from collections import Counter
from contextlib import closing

CLIENTS = 40


class Storm:
    """Clients that ask without pause, half of them on a new connection each time.

    Args:
        place: a port, or the path of a Unix socket.
        path: of the request.
    """

    def __init__(self, place: int | str, path: str = "/") -> None:
        self._place = place
        self._request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        self.outcomes: Counter[str] = Counter()
        self.stop = threading.Event()
        self._lock = threading.Lock()
        self.threads = [threading.Thread(target=self._client, args=(n % 2 == 0,), daemon=True) for n in range(CLIENTS)]

    def begin(self) -> None:
        """Let all clients loose."""
        for thread in self.threads:
            thread.start()

    def end(self) -> None:
        """Stop the clients, and expect that everything they sent was answered in full."""
        self.stop.set()
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()
        assert set(self.outcomes) <= {"full", "full, then close", "refused"}, self.outcomes
        assert self.outcomes["full, then close"] > 0, self.outcomes

    def ask_once(self) -> str:
        """Ask once, on a connection of its own."""
        with closing(self._connect()) as link:
            return self._ask(link)

    def _connect(self) -> socket.socket:
        if isinstance(self._place, int):
            return socket.create_connection(("127.0.0.1", self._place), timeout=20)
        link = socket.socket(socket.AF_UNIX)
        link.settimeout(20)
        try:
            link.connect(self._place)
        except OSError:
            link.close()
            raise
        return link

    def _client(self, keep: bool) -> None:
        while not self.stop.is_set():
            try:
                link = self._connect()
            except OSError:
                self._count("refused")
                return
            with closing(link):
                used = 0
                while not self.stop.is_set():
                    outcome = self._ask(link)
                    # A connection that was kept open without a request on it may be closed at any time.
                    if outcome == "nothing" and used:
                        outcome = "idle connection closed"
                    self._count(outcome)
                    used += 1
                    if outcome != "full" or not keep:
                        break

    def _ask(self, link: socket.socket) -> str:
        answer = b""
        try:
            link.sendall(self._request)
            while not _whole(answer):
                chunk = link.recv(65536)
                if not chunk:
                    return "cut" if answer else "nothing"
                answer += chunk
        except OSError:
            return "cut" if answer else "nothing"
        return "full, then close" if b"connection: close" in answer else "full"

    def _count(self, outcome: str) -> None:
        with self._lock:
            self.outcomes[outcome] += 1


def _whole(answer: bytes) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    return bool(found) and length is not None and len(body) >= int(length[1])
