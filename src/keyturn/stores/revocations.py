"""The denylist of a node: what was revoked before it expired, in memory, fed by the database or by Redis.

Owns: the set, following feeds, the text form of revocations on a channel, choosing a feed by URL. Must not hold: the feeds
themselves (`feeds.py`, `redis.py`), writing the table (`revoking.py`). Imports neither SQLAlchemy nor a driver: a service
that only verifies needs this file and a URL.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import aclosing
from heapq import heappop, heappush
from importlib.util import find_spec
from math import inf, isfinite
from typing import NamedTuple, TypeAlias

from keyturn.background import end
from keyturn.core.errors import Unavailable
from keyturn.ports import Clock


class Denied(NamedTuple):
    """An entry of the denylist, and until when it matters."""

    id: str
    """Of a session, in lower-case hex; of a signing key that leaked; or of one access token."""
    expires_at: float
    """Seconds since the Unix epoch."""


class Heard(NamedTuple):
    """What a feed says at once."""

    entries: Collection[Denied] = ()
    now: float | None = None
    """The clock of where the entries are kept, where it was read with them."""


RevocationFeed: TypeAlias = Callable[[], AsyncGenerator[Heard]]
"""Yields first everything still alive, then each revocation as it comes, and now and then the clock."""
Announce: TypeAlias = Callable[[Collection[Denied]], None]
OnLearned: TypeAlias = Callable[[Collection[str]], None]

CHANNEL = "keyturn_denylist"
"""The PostgreSQL channel that carries `encode`d revocations."""
PAYLOAD_LIMIT = 7900
"""Bytes in one message; PostgreSQL takes fewer than 8000."""
LONGEST = 86400.0
"""Seconds an entry may last. Why: what a hostile Redis announces for ever must not stay for ever."""

_log = logging.getLogger(__name__)
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_FIRST_DELAY = 0.1
_LAST_DELAY = 5.0


def encode(entries: Iterable[Denied]) -> Iterator[str]:
    """Yield messages of lines `<id> <expires_at>`, each short enough for one NOTIFY; `decode` reads them."""
    lines: list[str] = []
    size = 0
    for item, expires_at in entries:
        line = f"{item} {expires_at!r}\n"
        if lines and size + len(line) > PAYLOAD_LIMIT:
            yield "".join(lines)
            lines, size = [], 0
        lines.append(line)
        size += len(line)
    if lines:
        yield "".join(lines)


def decode(message: str | bytes) -> list[Denied]:
    """Read the lines of a message and leave out whatever is not one.

    Why: whoever controls the channel can deny a token, but must not be able to stop the reader with a bad line.
    """
    text = message.decode("ascii", "replace") if isinstance(message, bytes) else message
    return [entry for line in text.splitlines() if (entry := _entry(*line.partition(" ")[::2])) is not None]


def _entry(item: str, expires: str) -> Denied | None:
    if _ID.fullmatch(item) is None:
        return None
    try:
        expires_at = float(expires)
    except ValueError:
        return None
    return Denied(item, expires_at) if isfinite(expires_at) else None


class MemoryDenylist:
    """Hold what is revoked, follow the feeds, forget what has expired by itself.

    Entries are only ever added, and leave when the last access token they concern is dead: an outage keeps what is known,
    and no feed can take back what another said. The first feed is the authority (the database where there is one); the
    others only add.

    An entry is over when both say so: the clock that tokens are checked by, and the authority's when it was last heard. Why:
    a clock that jumps ahead and back would forget what is still needed, and so would an authority whose clock is wrong.

    Spec: OWASP ASVS 5.0 7.4.1; RFC 7009 2.1 (a revoked token is refused without delay).
    """

    def __init__(
        self,
        *feeds: RevocationFeed,
        announce: Announce | None = None,
        on_taught: Announce | None = None,
        on_learned: OnLearned | None = None,
        clock: Clock = time.time,
        start_timeout: float = 10.0,
    ) -> None:
        """Set up; nothing is followed before `start`.

        Args:
            feeds: the authority first; none: the denylist of a single process.
            announce: told what this node revokes, to tell others.
            on_taught: told what is new here from the authority.
            on_learned: told each id that is new here.
            clock: seconds since the Unix epoch, the clock that access tokens are checked by.
            start_timeout: seconds `start` waits for the first load.
        """
        self._feeds = feeds
        self._announce = announce
        self._on_taught = on_taught
        self._on_learned = on_learned
        self._clock = clock
        self._start_timeout = start_timeout
        self._told_at = inf
        """The authority's clock; without one there is the other alone."""
        self._entries: dict[str, float] = {}
        self._queue: list[tuple[float, str]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._loaded = asyncio.Event()
        self._current = False

    def __contains__(self, item: object, /) -> bool:
        """Say whether an id, as in `Denied`, is on the list."""
        return item in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entries: Collection[Denied]) -> None:
        """Take what this node has just revoked: denied here at once, and announced."""
        self._learn(entries)
        if self._announce is not None:
            self._announce(entries)

    def known(self) -> Sequence[Denied]:
        """List everything that is denied."""
        return [Denied(*entry) for entry in self._entries.items()]

    async def start(self) -> None:
        """Load what is revoked and follow the feeds until `close`; idempotent.

        Raises:
            Unavailable: the first load did not succeed in time. It is tried on: a later `start` may find it done.
        """
        if not self._feeds:
            self._current = True
            return
        if not self._tasks:
            followers = [self._follow(feed, authority=not i) for i, feed in enumerate(self._feeds)]
            self._tasks = [asyncio.create_task(each, name="keyturn denylist") for each in followers]
        try:
            async with asyncio.timeout(self._start_timeout):
                await self._loaded.wait()
        except TimeoutError as error:
            raise Unavailable("denylist") from error

    async def close(self) -> None:
        """Stop following; `start` begins anew, also on another event loop. What is known stays denied."""
        tasks, self._tasks = self._tasks, []
        await end(tasks)
        self._current = False
        self._loaded = asyncio.Event()

    def is_current(self) -> bool:
        """Say whether the authority is being followed."""
        return self._current

    def _learn(self, entries: Iterable[Denied], on_taught: Announce | None = None) -> None:
        now = min(self._clock(), self._told_at)
        longest = now + LONGEST
        learned: list[str] = []
        for item, expires_at in entries:
            until = min(expires_at, longest)
            known = self._entries.get(item)
            if until > (now if known is None else known):
                self._entries[item] = until
                heappush(self._queue, (until, item))
                if known is None:
                    learned.append(item)
        if learned and on_taught is not None:
            on_taught([Denied(item, self._entries[item]) for item in learned])
        while self._queue and self._queue[0][0] <= now:
            _, item = heappop(self._queue)
            if self._entries.get(item, now + 1) <= now:
                del self._entries[item]
        if learned and self._on_learned is not None:
            self._on_learned(learned)

    async def _follow(self, feed: RevocationFeed, *, authority: bool) -> None:
        if not authority:
            # What the authority knows is announced again to a Redis that forgot: so it is loaded first.
            await self._loaded.wait()
        delay = _FIRST_DELAY
        while True:
            try:
                async with aclosing(feed()) as batches:
                    async for heard in batches:
                        if authority and heard.now is not None:
                            self._told_at = heard.now
                        self._learn(heard.entries, self._on_taught if authority else None)
                        delay = _FIRST_DELAY
                        if authority:
                            self._current = True
                            self._loaded.set()
            except Exception as error:  # noqa: BLE001 - a follower that ends is an open door, whatever the fault
                _log.warning("a feed of revocations is at fault, following again soon: %r", error.__cause__ or error)
            finally:
                if authority:
                    self._current = False
            # Jitter, so that a thousand nodes do not come back to a restarted database at once.
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret
            delay = min(2 * delay, _LAST_DELAY)


def open_denylist(
    url: str,
    *,
    redis_url: str | None = None,
    listen: bool = True,
    interval: float = 0.25,
    on_learned: OnLearned | None = None,
    clock: Clock = time.time,
) -> MemoryDenylist:
    """Make the denylist of a node from the URL of what it follows; `start` it before use.

    Args:
        url: of the database (`postgresql…`, `sqlite…`), or of Redis (`redis…`) for a service that has no database.
        redis_url: where a node with a database announces its revocations too, for services with Redis alone.
        listen: False: the table is polled, as it is anyway where a pooler is seen to lose LISTEN.
        interval: seconds between two polls.
        on_learned, clock: as for `MemoryDenylist`.

    Raises:
        ValueError: another kind of URL. ModuleNotFoundError: its driver is not installed.
    """
    from keyturn.stores.feeds import PollingFeed, PostgresFeed

    scheme = url.partition(":")[0].partition("+")[0]
    if scheme in {"redis", "rediss", "unix", "valkey", "valkeys"}:
        from keyturn.stores.redis import RedisFeed

        return MemoryDenylist(RedisFeed(url, clock=clock), on_learned=on_learned, clock=clock)
    if scheme not in {"postgresql", "postgres", "sqlite"}:
        raise ValueError(f"no revocations to follow at a URL of kind {scheme!r}")
    driver = "aiosqlite" if scheme == "sqlite" else "asyncpg"
    if find_spec(driver) is None:
        # The feed would take it for a database that is away, and try again for ever.
        raise ModuleNotFoundError(f"No module named {driver!r}: revocations are followed by it", name=driver)
    listening = listen and scheme != "sqlite"
    feed: RevocationFeed = PostgresFeed(url) if listening else PollingFeed(url, interval=interval)
    if redis_url is None:
        return MemoryDenylist(feed, on_learned=on_learned, clock=clock)
    from keyturn.stores.redis import RedisFeed

    redis_feed = RedisFeed(redis_url, clock=clock)
    denylist = MemoryDenylist(
        feed,
        redis_feed,
        announce=redis_feed.announce,
        on_taught=redis_feed.expect,
        on_learned=on_learned,
        clock=clock,
    )
    redis_feed.vouch(denylist.known)
    return denylist
