"""Ask a corpus of breached passwords about one, without telling it which.

Owns: the question, its limits, and what a fault of the corpus means. Must not hold: other rules for passwords
(`tokens/password_policy.py`), where the corpus is (`settings.py`).

The corpus is any server of the range protocol: `GET <url>/<first 5 hex digits of the SHA-1>` answers with the rest of every
hash that begins so, one `<35 hex digits>:<count>` a line.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from hashlib import sha1
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from time import monotonic
from typing import Final
from urllib.parse import urlsplit

from keyturn.core.events import Event, EventType
from keyturn.ports import Clock
from keyturn.tokens.password_policy import PasswordFault, PasswordRefused

LIMIT: Final = 1.0
"""Seconds that a person who chooses a password waits for the corpus."""
_PREFIX_LENGTH: Final = 5
_AT_ONCE: Final = 8
"""Questions under way; beyond it the corpus is too slow to be of use."""
_MAX_ANSWER: Final = 512 * 1024
"""Bytes; ten times a padded answer of the largest corpus there is."""
_ROW: Final = re.compile(r"([0-9A-Fa-f]{35}):([0-9]{1,12})")
_HEADERS: Final = {
    # Why: without it the length of an encrypted answer tells the prefix.
    "Add-Padding": "true",
    "Accept-Encoding": "identity",
    "User-Agent": "keyturn",
}


class _CorpusFault(Exception):
    """The corpus gave no answer; the text is the word for the event."""


class BreachCheck:
    """Refuse passwords that are known from a breach.

    Why it fails open: the corpus is somebody else's service. When it is down people must still be able to sign up, with
    passwords that passed every other rule; the event `control_fault` says that the check was left out.
    Why a range: only the first 20 bits of a hash leave this server, which hundreds of passwords have in common.

    Args:
        url: of the range, `https://host/range`.
        record: is told of every fault.
        clock: for the event.
        limit: seconds, over all.

    Spec: OWASP ASVS 5.0 6.2.12; NIST SP 800-63B-4 3.1.1.2.
    """

    def __init__(
        self, url: str, *, record: Callable[[Event], Awaitable[None]], clock: Clock, limit: float = LIMIT
    ) -> None:
        self._url: Final = url.rstrip("/")
        self._record: Final = record
        self._clock: Final = clock
        self._limit = limit
        self._tls: Final = ssl.create_default_context()
        self._lock: Final = threading.Lock()
        self._asking = 0

    async def screen(self, password: str) -> None:
        """Let a password pass, or not.

        Args:
            password: in its normal form.

        Raises: PasswordRefused: it is in the corpus.
        """
        # Not for security: it is the corpus's key for a password.
        digest = sha1(password.encode(), usedforsecurity=False).hexdigest().upper()
        prefix, rest = digest[:_PREFIX_LENGTH], digest[_PREFIX_LENGTH:]
        try:
            known = rest in _parse(await self._ask(prefix))
        except _CorpusFault as fault:
            data = {"control": "breached_passwords", "fault": str(fault)}
            await self._record(Event(EventType.CONTROL_FAULT, self._clock(), data=data))
            return
        if known:
            raise PasswordRefused(PasswordFault.BREACHED)

    async def _ask(self, prefix: str) -> bytes:
        question: Future[bytes] = Future()
        # Nobody who stops waiting may cancel it: its thread goes on.
        question.set_running_or_notify_cancel()
        arguments = question, prefix, monotonic() + self._limit
        # A daemon: a process that ends must not wait for a corpus that goes on and on.
        thread = threading.Thread(target=self._answer, args=arguments, name="keyturn breaches", daemon=True)
        with self._lock:
            if self._asking >= _AT_ONCE:
                raise _CorpusFault("busy")
            try:
                thread.start()
            except RuntimeError:  # the system has no thread for it now
                raise _CorpusFault("busy") from None
            self._asking += 1
        # Counted until the thread is free, and not only until nobody waits: a name that does not resolve may take long.
        question.add_done_callback(self._over)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(question), self._limit)
        except TimeoutError:
            raise _CorpusFault("timeout") from None

    def _over(self, _question: Future[bytes]) -> None:
        with self._lock:
            self._asking -= 1

    def _answer(self, question: Future[bytes], prefix: str, deadline: float) -> None:
        try:
            question.set_result(self._fetch(prefix, deadline))
        except BaseException as fault:  # noqa: BLE001 - raised again where it is waited for
            question.set_exception(fault)

    def _fetch(self, prefix: str, deadline: float) -> bytes:
        parts = urlsplit(f"{self._url}/{prefix}")
        host = parts.hostname or ""
        link = (
            HTTPSConnection(host, parts.port, timeout=self._limit, context=self._tls)
            if parts.scheme == "https"
            else HTTPConnection(host, parts.port, timeout=self._limit)
        )
        try:
            link.request("GET", parts.path, headers=_HEADERS)
            # Closed by itself: the link knows nothing any more of an answer that ends with the connection.
            with link.getresponse() as response:
                if response.status != 200:
                    raise _CorpusFault("status")
                body = b""
                while monotonic() < deadline and len(body) <= _MAX_ANSWER:
                    piece = response.read1(_MAX_ANSWER)
                    if not piece:
                        # What is missing may be the very row.
                        if response.length:
                            raise _CorpusFault("cut_off")
                        return body
                    body += piece
        except TimeoutError:
            raise _CorpusFault("timeout") from None
        except (OSError, HTTPException, UnicodeError):  # the last: a part of the host's name is too long
            raise _CorpusFault("unreachable") from None
        finally:
            link.close()
        raise _CorpusFault("too_large" if len(body) > _MAX_ANSWER else "timeout")


def _parse(answer: bytes) -> frozenset[str]:
    """Return the rests of the hashes that are known; a row with the count 0 is padding.

    Raises: _CorpusFault: this is no answer of the range protocol. Why not leniently: an error page would pass every password
        without a word, and so would an answer that was cut off in its first row.
    """
    rows = [_ROW.fullmatch(line.strip()) for line in answer.decode("latin-1").splitlines() if line.strip()]
    if not rows or None in rows:
        raise _CorpusFault("malformed")
    return frozenset(row[1].upper() for row in rows if row is not None and int(row[2]))
