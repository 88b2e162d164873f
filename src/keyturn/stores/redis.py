"""Redis or Valkey, where there is one: the connection, its faults, the feed of revocations.

Owns: the keys and channels of revocations in Redis, and the key of its sign of life. Must not hold: counters (`throttle.py`), anything that cannot be lost.
Only imported when a Redis URL is configured: the library takes half a second to load.

Why nothing here is believed: whoever controls this Redis can deny (revoke, throttle) but never allow: no entry of the
denylist is taken back, and sessions, users and keys are not here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Collection, Generator
from contextlib import aclosing, contextmanager
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import MasterDownError, ReadOnlyError, RedisError

from keyturn.core.errors import Unavailable
from keyturn.ports import Clock
from keyturn.stores.revocations import LONGEST, Denied, Heard, decode, encode

ENTRIES = "keyturn:denylist"
"""Sorted set: id -> expires_at."""
CHANNEL = "keyturn:denylist:feed"
_SIGN = "{keyturn}:sign-of-life"
_SIGN_BY_SCRIPT = "return redis.call('SET', KEYS[1], '', 'EX', 60)"
_MALFORMED = (
    "the Redis URL is malformed: it looks like redis://user:password@host:6379/0, with `@`, `:` and `/` in the password "
    "percent-encoded"
)
_TIMEOUT = 2.0
_MOST_LOADED = 1_000_000
_NEVER = float("inf")

_log = logging.getLogger(__name__)


def connect(url: str, *, retries: int = 1) -> Redis:
    """Make a client, without connecting yet. A command is tried again when its connection turns out dead.

    Why also when it leads to a replica: a failover makes one of the former master, and closes no connection to it. The way
    that a name or a proxy shows to the new master is found by connecting again, and only so.

    Raises: ValueError: the URL is malformed, or has a parameter that the library does not know.
    """
    url = url.replace("valkey", "redis", 1) if url.startswith("valkey") else url
    try:
        redis = Redis.from_url(
            url,
            socket_timeout=_TIMEOUT,
            socket_connect_timeout=_TIMEOUT,
            retry=Retry(NoBackoff(), retries),
            retry_on_error=[ReadOnlyError, MasterDownError],
        )
        # Connects nowhere, and takes the parameters, which no command would otherwise meet before the first login.
        redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    except (TypeError, ValueError, RedisError):
        # The cause quotes what it took for the port or a parameter: the rest of a password.
        raise ValueError(_MALFORMED) from None
    return redis


@contextmanager
def faults() -> Generator[None]:
    """Turn a fault of Redis into `Unavailable`."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise Unavailable("redis") from error


async def ping(redis: Redis) -> None:
    """Ask Redis for a sign of life, in writing: a replica, and one without memory to spare, would answer and count nobody.

    Then by a script, as attempts are counted: this user may have no right to one, or the server none to offer.

    Raises: Unavailable: it gives none.
    """
    with faults():
        # By itself, for that a replica refuses it has us connect again, whatever an old one says of a script.
        await redis.set(_SIGN, b"", ex=60)
        await redis.register_script(_SIGN_BY_SCRIPT)(keys=[_SIGN])


async def ping_channel(redis: Redis) -> None:
    """Tell those who listen nothing. Raises: Unavailable: this user may not, or Redis is at fault."""
    with faults():
        await redis.publish(CHANNEL, b"")


async def publish(redis: Redis, entries: Collection[Denied], now: float) -> None:
    """Keep revocations for late joiners and tell everyone who listens.

    Args:
        now: the database's clock. What is over by it goes, for everybody.

    Raises:
        Unavailable: Redis is at fault.
    """
    if not entries:
        return
    with faults():
        async with redis.pipeline(transaction=True) as pipe:
            pipe.execute_command("ZADD", ENTRIES, *(part for item, at in entries for part in (repr(at), item)))
            # What has expired goes; and all of it, should nobody revoke any more.
            pipe.execute_command("ZREMRANGEBYSCORE", ENTRIES, "-inf", repr(now - 60))
            pipe.execute_command("EXPIRE", ENTRIES, int(LONGEST) + 60)
            for message in encode(entries):
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
        """
        self._url = url
        self._heartbeat = heartbeat
        self._reread = reread
        self._clock = clock
        self._known: Callable[[], Collection[Denied]] | None = None
        self._redis: Redis | None = None
        self._announcing: set[asyncio.Task[None]] = set()

    def vouch(self, known: Callable[[], Collection[Denied]]) -> None:
        """Publish again, from now on, whatever of this Redis has lost."""
        self._known = known

    def announce(self, entries: Collection[Denied]) -> None:
        """Publish soon. What cannot be published now is published when the feed is followed again."""
        if self._redis is not None:
            task = asyncio.get_running_loop().create_task(self._publish(self._redis, list(entries)))
            self._announcing.add(task)
            task.add_done_callback(self._announcing.discard)

    async def __call__(self) -> AsyncGenerator[Heard]:
        """Yield what is alive, then each revocation as it comes; empty at a heartbeat. Raises at any fault."""
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

    async def _follow(self, redis: Redis, channel: PubSub) -> AsyncGenerator[Heard]:
        reread_at = _NEVER
        asked = False
        while True:
            if time.monotonic() >= reread_at:
                reread_at = time.monotonic() + self._reread
                yield await self._load(redis)
            message: Any = await channel.get_message(timeout=self._heartbeat)
            if message is None:
                if asked or reread_at == _NEVER:
                    raise ConnectionError("Redis does not answer on the channel")
                asked = True
                await channel.ping()
                yield Heard()
                continue
            asked = False
            if message["type"] == "subscribe":
                # Only now does everything arrive that is published; whatever was before is in the sorted set.
                reread_at = 0.0
            elif message["type"] == "message":
                yield Heard(decode(message["data"]))

    async def _load(self, redis: Redis) -> Heard:
        seconds, microseconds = await redis.time()
        # Also what is over: by whose clock it is, the denylist decides. There is little, as `publish` has it deleted.
        rows: list[Any] = await redis.zrange(ENTRIES, 0, _MOST_LOADED - 1, withscores=True)
        found = decode("\n".join(f"{item.decode('ascii', 'replace')} {score!r}" for item, score in rows))
        if self._known is not None:
            held = dict(found)
            lost = [entry for entry in self._known() if held.get(entry.id, 0.0) < entry.expires_at]
            await publish(redis, lost, self._clock())
        return Heard(found, seconds + microseconds / 1e6)

    async def _publish(self, redis: Redis, entries: Collection[Denied]) -> None:
        try:
            await publish(redis, entries, self._clock())
        except Unavailable as error:
            _log.warning("revocations could not be announced, they will be when Redis is back: %r", error.__cause__)
