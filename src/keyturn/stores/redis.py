"""Redis or Valkey, where there is one: the connection, its faults, the feed of revocations.

Owns: the keys and channels of revocations in Redis, and the key of its sign of life. Must not hold: counters (`throttle.py`), anything that cannot be lost.
Only imported when a Redis URL is configured: the library takes half a second to load.

Why nothing here is believed: whoever controls this Redis can deny (revoke, throttle) but never allow: no entry of the
denylist is taken back, and sessions, users and keys are not here.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import AsyncGenerator, Callable, Collection, Generator
from contextlib import aclosing, asynccontextmanager, contextmanager
from ssl import SSLError
from typing import Any
from urllib.parse import parse_qs, urlsplit
from weakref import WeakKeyDictionary

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.connection import SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.maint_notifications import MaintNotificationsConfig

from keyturn.core.errors import Unavailable
from keyturn.ports import Clock
from keyturn.stores.revocations import LONGEST, Denied, Heard, decode, encode

ENTRIES = "keyturn:denylist"
"""Sorted set: id -> expires_at."""
CHANNEL = "keyturn:denylist:feed"
_SIGN = "{keyturn}:sign-of-life"
_SIGN_BY_SCRIPT = """
for _, each in ipairs({'DEL', 'INCR', 'DECR', 'GET', 'PTTL'}) do
  redis.call(each, KEYS[1])
end
redis.call('PEXPIRE', KEYS[1], 60000)
return KEYS[1]
"""
"""With each command that attempts are counted by (`throttle.py`)."""
_PARAMETERS = frozenset(
    {"db", "username", "password", "protocol", "client_name", "health_check_interval", "socket_keepalive"}
)
"""Of a URL, beside `ssl_…`. The library takes what changes its answers and its patience from there as well, and goes by it."""
_MALFORMED = (
    "the Redis URL is malformed: it looks like redis://user:password@host:6379/0, with `@`, `:`, `/` and `?` in the password "
    f"percent-encoded; its parameters are {', '.join(sorted(_PARAMETERS))} and those of TLS (ssl_...)"
)
_DATABASE = re.compile(r"/?[0-9]*")
_TIMEOUT = 2.0
ANSWER_TIME = 3.0
"""Seconds for a question, with waiting for a connection, making one, and asking again over another when that was dead."""
AT_ONCE = 16
"""Questions of an event loop that are under way at once, and so its connections: the rest waits for a turn."""
UNHEARD_TIME = 1.0, 3.0
"""Seconds after which, at the least and at the most, a node announces what only the database has said."""
_PAGE = 1000
"""Entries that are read or written at once: all together are more than an answer may take, and keep Redis and us busy."""
_MOST_LOADED = 1_000_000
_NEVER = float("inf")
_TURNS: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

_log = logging.getLogger(__name__)


def connect(url: str, *, retries: int = 1) -> Redis:
    """Make a client, without connecting yet. A command is tried again when its connection turns out dead.

    Why also when it leads to a replica: a failover makes one of the former master, and closes no connection to it. The way
    that a name or a proxy shows to the new master is found by connecting again, and only so.

    Raises: ValueError: the URL is malformed, has a parameter that is none of ours, or names a certificate that is none.
    """
    url = url.replace("valkey", "redis", 1) if url.startswith("valkey") else url
    try:
        parts = urlsplit(url)
        if not _taken(parts.query) or not (parts.scheme == "unix" or _DATABASE.fullmatch(parts.path)):
            raise ValueError
        redis = Redis.from_url(
            url,
            socket_timeout=_TIMEOUT,
            socket_connect_timeout=_TIMEOUT,
            retry=Retry(NoBackoff(), retries),
            retry_on_error=[ReadOnlyError, MasterDownError],
            # By such a message a server has all connections wait longer, or lead elsewhere; and while they are listened to,
            # an answer that nobody has asked for is taken for that of the next question.
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
            # Else each connection begins by telling the name of the library, which takes one right and one round trip more.
            driver_info=None,
        )
        # Connects nowhere, and takes the parameters, which no command would otherwise meet before the first login.
        first = redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    except (TypeError, ValueError, RedisError):
        # The cause quotes what it took for the port or a parameter: the rest of a password.
        raise ValueError(_MALFORMED) from None
    if isinstance(first, SSLConnection):
        redis.connection_pool.connection_class = _sharing(first)
    return redis


def _taken(query: str) -> bool:
    return all(name in _PARAMETERS or name.startswith("ssl_") for name in parse_qs(query, keep_blank_values=True))


def _sharing(first: SSLConnection) -> type[SSLConnection]:
    """Make a kind of connections that read the certificates once, and not each anew.

    Why: that takes 30 ms, in which this process does nothing else, and a flood of logins opens all connections together.
    """
    trust = first.ssl_context
    try:
        trust.get()
    except (OSError, SSLError, ValueError) as error:
        raise ValueError(f"the Redis URL has a parameter of TLS that cannot be used: {type(error).__name__}") from None

    class Sharing(SSLConnection):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.ssl_context = trust

    return Sharing


@contextmanager
def faults() -> Generator[None]:
    """Turn a fault of Redis into `Unavailable`."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise Unavailable("redis") from error


@asynccontextmanager
async def answering() -> AsyncGenerator[None]:
    """Ask one question, when it is its turn; turn whatever comes of it but an answer into `Unavailable`, a late one too.

    Why whatever: where something else listens than Redis, the library raises what its parser stumbles over, a TypeError for one.
    """
    turns = _TURNS.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE))
    try:
        async with asyncio.timeout(ANSWER_TIME):
            # Less than the whole time: turns come free when others are given up, which is when the time of those who came with
            # them ends too. Their questions would be cancelled as they are sent, and Python 3.11 loses such a cancellation.
            async with asyncio.timeout(_TIMEOUT):
                await turns.acquire()
            try:
                yield
            finally:
                turns.release()
    except Exception as error:
        raise Unavailable("redis") from error


async def ping(redis: Redis) -> None:
    """Ask Redis for a sign of life, in writing: a replica, and one without memory to spare, would answer and count nobody.

    Then by a script, as attempts are counted: this user may have no right to one, or the server none to offer.

    Raises: Unavailable: it gives none.
    """
    async with answering():
        # By itself: that a replica refuses this has the library connect again (see `connect`). Of a script an old one says it in
        # other words, which the library does not know.
        await redis.set(_SIGN, b"", ex=60)
    async with answering():
        if await redis.register_script(_SIGN_BY_SCRIPT)(keys=[_SIGN]) != _SIGN.encode():
            raise ValueError("no answer of the script")


async def ping_feed(redis: Redis) -> None:
    """Tell those who listen of what has long been over, and read what there is, as a node and a service do.

    Raises: Unavailable: this user may not, or Redis is at fault.
    """
    await publish(redis, [Denied("sign-of-life", -120.0)], 0.0)
    async with answering():
        await redis.time()
        await redis.zscan(ENTRIES, count=1)
        async with redis.pubsub() as channel:
            await channel.subscribe(CHANNEL)
            await channel.get_message(timeout=_TIMEOUT)


async def evicts(redis: Redis) -> bool:
    """Say whether Redis takes keys away to have memory for others; no, where this user may not ask.

    Raises: Unavailable: Redis is at fault.
    """
    async with answering():
        try:
            memory = await redis.info("memory")
        except ResponseError:
            return False
    return bool(memory.get("maxmemory")) and memory.get("maxmemory_policy") != "noeviction"


def is_cluster(fault: Unavailable) -> bool:
    """Say whether it is one because a part of a cluster was asked, which sends on to another."""
    return isinstance(fault.__cause__, MovedError | AskError | ClusterDownError)


async def publish(redis: Redis, entries: Collection[Denied], now: float) -> None:
    """Keep revocations for late joiners and tell everyone who listens.

    Args:
        now: the database's clock. What is over by it goes, for everybody.

    Raises:
        Unavailable: Redis is at fault.
    """
    listed = list(entries)
    for start in range(0, len(listed), _PAGE):
        page = listed[start : start + _PAGE]
        async with answering(), redis.pipeline(transaction=True) as pipe:
            pipe.execute_command("ZADD", ENTRIES, *(part for item, at in page for part in (repr(at), item)))
            # What has expired goes; and all of it, should nobody revoke any more.
            pipe.execute_command("ZREMRANGEBYSCORE", ENTRIES, "-inf", repr(now - 60))
            pipe.execute_command("EXPIRE", ENTRIES, int(LONGEST) + 60)
            for message in encode(page):
                pipe.execute_command("PUBLISH", CHANNEL, message)
            await pipe.execute()


class RedisFeed:
    """Follow what others publish. A late joiner reads the sorted set; whoever has a database also mends it.

    A node with a database vouches for what it knows: whatever the sorted set lacks, or has with an earlier end, because Redis
    restarted empty or an announcement was lost, is published again. So a verifying service with Redis alone gets it too.
    """

    def __init__(self, url: str, *, heartbeat: float = 5.0, reread: float = 30.0, clock: Clock = time.time) -> None:
        """Set up.

        Args:
            url: of Redis.
            heartbeat: seconds of silence after which the connection is tried.
            reread: seconds between two readings of the sorted set.
            clock: of a node with a database, the database's.

        Raises:
            ValueError: as `connect`. Said here, for in `__call__` it would be taken for one more fault of Redis.
        """
        _ = connect(url)
        self._url = url
        self._heartbeat = heartbeat
        self._reread = reread
        self._clock = clock
        self._known: Callable[[], Collection[Denied]] | None = None
        self._redis: Redis | None = None
        self._reread_at = _NEVER
        self._pending: list[Denied] = []
        self._announcing: asyncio.Task[None] | None = None
        self._expected: dict[str, Denied] = {}
        self._expiry: asyncio.TimerHandle | None = None

    def vouch(self, known: Callable[[], Collection[Denied]]) -> None:
        """Publish again, from now on, whatever of this Redis has lost."""
        self._known = known

    def announce(self, entries: Collection[Denied]) -> None:
        """Publish soon, whatever has come together. What cannot be published now is when Redis is read the next time."""
        if self._redis is not None:
            self._pending += entries
            if self._announcing is None or self._announcing.done():
                self._announcing = asyncio.get_running_loop().create_task(self._publish(self._redis))

    def expect(self, entries: Collection[Denied]) -> None:
        """Hear of what the database says from whoever revoked it, or announce it soon: a command and a node without Redis do not."""
        if self._redis is not None:
            self._expected |= {entry.id: entry for entry in entries}
            if self._expiry is None:
                # Not all nodes at once: the others hear of it from the first.
                patience = random.uniform(*UNHEARD_TIME)  # noqa: S311 - not a secret
                self._expiry = asyncio.get_running_loop().call_later(patience, self._announce_expected)

    def _announce_expected(self) -> None:
        expected, self._expected, self._expiry = self._expected, {}, None
        self.announce(expected.values())

    async def __call__(self) -> AsyncGenerator[Heard]:
        """Yield what is alive, then each revocation as it comes; empty at a heartbeat. Raises at any fault."""
        self._pending.clear()
        with faults():
            # No retries for the channel: a connection that is quietly made anew has missed messages.
            subscriber = connect(self._url, retries=0)
            async with connect(self._url) as redis, subscriber, subscriber.pubsub() as channel:
                await channel.subscribe(CHANNEL)
                self._redis = redis
                try:
                    async with aclosing(self._follow(redis, channel)) as batches:
                        async for batch in batches:
                            yield batch
                finally:
                    self._redis = None
                    self._expected.clear()
                    if self._expiry is not None:
                        # Of this event loop, and the next time may be on another.
                        self._expiry.cancel()
                        self._expiry = None

    async def _follow(self, redis: Redis, channel: PubSub) -> AsyncGenerator[Heard]:
        self._reread_at = _NEVER
        asked = False
        while True:
            if time.monotonic() >= self._reread_at:
                self._reread_at = time.monotonic() + self._reread
                yield await self._load(redis)
            message: Any = await channel.get_message(timeout=self._heartbeat)
            if message is None:
                if asked or self._reread_at == _NEVER:
                    raise ConnectionError("Redis does not answer on the channel")
                asked = True
                await channel.ping()
                yield Heard()
                continue
            asked = False
            if message["type"] == "subscribe":
                # Only now does everything arrive that is published; whatever was before is in the sorted set.
                self._reread_at = 0.0
            elif message["type"] == "message":
                entries = decode(message["data"])
                for entry in entries:
                    self._expected.pop(entry.id, None)
                yield Heard(entries)

    async def _load(self, redis: Redis) -> Heard:
        seconds, microseconds = await redis.time()
        # Also what is over: by whose clock it is, the denylist decides. There is little, as `publish` has it deleted.
        found = await _kept(redis)
        if self._known is not None:
            held = dict(found)
            self._expected.clear()
            lost = [entry for entry in self._known() if held.get(entry.id, 0.0) < entry.expires_at]
            await publish(redis, lost, self._clock())
        return Heard(found, seconds + microseconds / 1e6)

    async def _publish(self, redis: Redis) -> None:
        while self._pending and self._redis is redis:
            entries, self._pending = self._pending, []
            try:
                await publish(redis, entries, self._clock())
            except Unavailable as error:
                # Then it is among what the sorted set lacks.
                self._reread_at = min(self._reread_at, 0.0)
                _log.warning("revocations could not be announced, they will be when Redis is back: %r", error.__cause__)


async def _kept(redis: Redis) -> list[Denied]:
    """Read the sorted set, page by page: what is in it all the time is in one of them."""
    found: list[Denied] = []
    cursor = 0
    while len(found) < _MOST_LOADED:
        page: Any = await redis.zscan(ENTRIES, cursor, count=_PAGE)
        cursor, rows = page
        found += decode("\n".join(f"{item.decode('ascii', 'replace')} {score!r}" for item, score in rows))
        if cursor == 0:
            break
    return found
