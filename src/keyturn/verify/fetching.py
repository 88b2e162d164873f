"""Fetching the published keys over HTTP, with the standard library alone.

Owns: which addresses may be asked, one request, its limits. Must not hold: when to ask (`keys.py`), what the keys mean
(`tokens/jwk_set.py`).
"""

from __future__ import annotations

import time
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from keyturn.tokens.jwk_set import MAX_JWK_SET_BYTES
from keyturn.verify.keys import Reply

if TYPE_CHECKING:
    from http.client import HTTPResponse

JWKS_PATH: Final = "/.well-known/jwks.json"
_CHUNK: Final = 16 * 1024


class FetchFault(Exception):
    """The keys could not be fetched; the text says why, for logs."""


class KeySource:
    """Where the keys are published.

    Why so narrow: who answers here decides which tokens are believed. So the address comes from the configuration and
    never from a token (no `jku`, no `x5u`), a redirect is refused, and plain http is for this machine alone.

    Args:
        url: of the JWK set.
        timeout: seconds from the beginning of a request to the end of its answer, where connecting takes no longer: that may
            take as long for each address of the host, and for TLS.
        allow_http: believe http from another machine, for development.

    Raises:
        ValueError: not an https URL, or one with a user, a query, a fragment, a blank or no such port.

    Spec: RFC 8725 3.10; OWASP ASVS 5.0 9.1.3, 12.2.1.
    """

    def __init__(self, url: str, *, timeout: float, allow_http: bool) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError as fault:
            raise ValueError("the address of the keys has a malformed host or port") from fault
        if port == 0 or any(map(str.isspace, url)):
            # Here, and not at each request that the first tokens wait for.
            raise ValueError("the address of the keys has a blank in it, or no port that there is")
        if parts.scheme not in {"https", "http"} or not host or parts.username is not None:
            raise ValueError("the address of the keys is an https URL")
        if parts.query or parts.fragment:
            raise ValueError("the address of the keys has no query and no fragment")
        self._local: Final = _is_loopback(host)
        if parts.scheme == "http" and not (self._local or allow_http):
            raise ValueError("keys are fetched over https: whoever could change the answer could sign in as anybody")
        self.url: Final = url
        self._timeout: Final = timeout

    def fetch(self, etag: str | None) -> Reply:
        """Ask for the keys, or for news since `etag`. Blocks; for a thread.

        Raises:
            FetchFault: no answer in time, a redirect, another status, or too much of it.
        """
        # http.client and ssl take 40 ms to load, and many processes that import us never get here.
        from http.client import HTTPException
        from urllib.request import Request

        from keyturn.verify.in_time import opener

        headers = {"Accept": "application/json", "User-Agent": "keyturn"}
        if etag is not None:
            headers["If-None-Match"] = etag
        deadline = time.monotonic() + self._timeout
        try:
            # The scheme was checked when the address was set.
            request = Request(self.url, headers=headers)  # noqa: S310
            with opener(deadline, local=self._local).open(request, timeout=self._timeout) as answer:
                return _read(answer, asked=etag is not None)
        except (OSError, HTTPException, ValueError) as fault:
            raise FetchFault(f"{type(fault).__name__}: {fault}") from fault


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _read(answer: HTTPResponse, *, asked: bool) -> Reply:
    if answer.status != 200 and not (answer.status == 304 and asked):
        raise FetchFault(f"the answer has status {answer.status}")
    chunks: list[bytes] = []
    size = 0
    # Piece by piece, as nobody knows how much a server will send.
    while answer.status == 200 and (chunk := answer.read1(_CHUNK)):
        size += len(chunk)
        if size > MAX_JWK_SET_BYTES:
            raise FetchFault("the answer is too large")
        chunks.append(chunk)
    headers = answer.headers
    return Reply(
        answer.status,
        b"".join(chunks),
        headers.get("ETag"),
        ",".join(headers.get_all("Cache-Control") or ()),
        headers.get("Age") or "",
    )
