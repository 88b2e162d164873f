"""A corpus of breached passwords: a real HTTP server of the range protocol that misbehaves as told. No test in this file."""

from __future__ import annotations

import ssl
import threading
from datetime import UTC, datetime, timedelta
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

OTHERS: Final = ("0" * 35 + ":3", "F" * 35 + ":17")
PADDING: Final = "A" * 35 + ":0"


def digest(password: str) -> str:
    """Return the SHA-1 as the corpus writes it."""
    return sha1(password.encode(), usedforsecurity=False).hexdigest().upper()


def certify(directory: Path) -> Path:
    """Make a certificate for 127.0.0.1 that nobody else has signed, in one file with its key."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    address = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    signed = made.add_extension(address, critical=True).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = directory / "corpus.pem"
    path.write_bytes(private + signed.public_bytes(pem))
    return path


class Corpus:
    """One corpus on a port of its own. Args: tls: its certificate; None: it speaks plain HTTP."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[str] = []
        """The last part of each path."""
        self.headers: list[dict[str, str]] = []
        self.known: dict[str, int] = {}
        """Password -> count."""
        self.status = 200
        self.body: bytes | None = None
        """Answered in the place of what is known."""
        self.length: int | None = None
        """Said to be the length of the body."""
        self.free = threading.Event()
        self.free.set()
        """Cleared: nothing is answered until it is set."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._answerer())
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}/range"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Corpus:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.free.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def range(self, prefix: str) -> bytes:
        """Write what is known under a prefix, with padding."""
        found = [(digest(password), count) for password, count in self.known.items()]
        rows = [f"{whole[5:]}:{count}" for whole, count in found if whole.startswith(prefix)]
        return "\r\n".join([*OTHERS, *rows, PADDING]).encode()

    def _answerer(self) -> type[BaseHTTPRequestHandler]:
        corpus = self

        class Answerer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path, _, prefix = self.path.rpartition("/")
                corpus.asked.append(prefix)
                corpus.headers.append({name.lower(): value for name, value in self.headers.items()})
                corpus.free.wait()
                body = corpus.body if corpus.body is not None else corpus.range(prefix)
                self.send_response(corpus.status if path == "/range" else 404)
                self.send_header("Content-Length", str(corpus.length or len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: object) -> None:
                """Keep quiet."""

            def finish(self) -> None:
                """Do not mind who has gone."""
                try:
                    super().finish()
                except OSError:
                    return

        return Answerer
