"""Put a node together: settings in, a running Keyturn out.

Owns: composition, start, upkeep and close. Must not hold: a rule, a route, a query, an option's text.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import cached_property
from typing import TYPE_CHECKING

from keyturn.access import AccessTokens
from keyturn.apart import Apart, Bounded, InTurn
from keyturn.auth import Auth
from keyturn.background import end
from keyturn.breaches import BreachCheck
from keyturn.core.errors import UnsafeSettings
from keyturn.core.events import Event
from keyturn.core.model import Principal
from keyturn.core.policy import Policy
from keyturn.devices import describe, warm_up_soon
from keyturn.master_secret import secret_ring
from keyturn.observability import LogSink, open_metrics
from keyturn.password_pool import DEFAULT_QUEUE_LIMIT, PasswordPool, pass_all
from keyturn.ports import ClaimsHook, Clock, EventSink, Throttle, UserDirectory
from keyturn.settings import Settings
from keyturn.signing import Signing
from keyturn.sinks import BoundedSink, tell
from keyturn.stores.attempts import PostgresAttempts
from keyturn.stores.clock import DatabaseClock
from keyturn.stores.engine import check_durability, open_engine
from keyturn.stores.location import without_sqlalchemy
from keyturn.stores.pruning import SqlUpkeep
from keyturn.stores.revocations import MemoryDenylist, open_denylist
from keyturn.stores.rights import check_rights, ping_for_writing
from keyturn.stores.signing_keys import SqlSigningKeys
from keyturn.stores.sql import SqlSessions
from keyturn.stores.throttle import RedisThrottle, SqlThrottle
from keyturn.stores.users import SqlUsers
from keyturn.stores.whole import check_whole
from keyturn.tokens.device_token import DeviceTokens
from keyturn.tokens.imported_hash import ImportCosts
from keyturn.tokens.password import PasswordHasher
from keyturn.tokens.password_policy import PasswordPolicy
from keyturn.tokens.refresh_token import RefreshTokens
from keyturn.tokens.secret_ring import SecretRing
from keyturn.tokens.signing_key import KeySchedule
from keyturn.upkeep import keep_up
from keyturn.web.application import WebApplication
from keyturn.web.asgi import KeyturnASGI
from keyturn.web.endpoints import Services
from keyturn.web.hosting import lifespan_of
from keyturn.web.threaded import ThreadedNode
from keyturn.web.wsgi import KeyturnWSGI
from keyturn.wire import name_of

if TYPE_CHECKING:
    from redis.asyncio import Redis

_logger = logging.getLogger(__name__)

READY_TIME = 2.0
"""Seconds in which what a refresh needs has to answer `/readyz`: a probe does not wait as long as a statement may."""
REDIS_READY_TIME = 0.5
"""The same for Redis, which no refresh needs: many probes give up after a second."""


class Keyturn:
    """One node of Keyturn: everything wired, nothing connected before `start`.

    Args:
        settings: read from the environment when None.
        users: the application's own user table; the built-in one when None.
        sinks: receive every event.
        claims: adds claims and scopes to each access token.
        database_clock: stands in for the database's clock. Only for tests.

    Raises:
        ValueError: a setting is malformed: a number, a URL.
        UnsafeSettings, UnsafePolicy: naming every finding; production refuses to start with any of them.
        ModuleNotFoundError: the settings need an extra that is not installed.

    Attributes:
        auth: the use cases.
        users: who can sign in.
        passwords: makes the hash of a password that the application sets itself.
        clock: the database's, by which everything goes; asks nobody.
        asgi: the routes as a plain ASGI application with a lifespan of its own.
        threaded: this node on an event loop of its own, for hosts that call it from threads: Django and Flask.
        wsgi: the routes as a plain WSGI application, with whose first request this node starts.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        users: UserDirectory | None = None,
        sinks: Sequence[EventSink] = (),
        claims: ClaimsHook | None = None,
        database_clock: Clock | None = None,
    ) -> None:
        self.settings = settings = settings or Settings.load()
        settings.refuse_unsafe()
        self.policy = policy = settings.policy()
        secrets = secret_ring(settings)
        url = settings.database_url.get_secret_value()
        redis_url = None if settings.redis_url is None else settings.redis_url.get_secret_value()

        self.engine = open_engine(url)
        self._time = DatabaseClock(self.engine)
        self.clock = clock = database_clock or self._time.now
        self.redis = None if redis_url is None else _connect(redis_url)
        keys = SqlSigningKeys(self.engine, database_clock)
        self.signing = Signing(keys, secrets, schedule=_schedule(policy), on_event=self._record)
        self.denylist: MemoryDenylist | None = None
        if settings.denylist:
            self.denylist = open_denylist(
                without_sqlalchemy(url), redis_url=redis_url, on_learned=self.signing.hear, clock=clock
            )
        on_revoked = None if self.denylist is None else self.denylist.add
        self.sessions = SqlSessions(
            self.engine,
            denylist_lifetime=policy.denylist_lifetime,
            heal_time=policy.heal_time,
            on_revoked=on_revoked,
            clock=database_clock,
        )
        built_in = SqlUsers(
            self.engine, denylist_lifetime=policy.denylist_lifetime, on_revoked=on_revoked, clock=database_clock
        )
        self.users: UserDirectory = built_in if users is None else users
        self.upkeep = SqlUpkeep(self.engine, event_retention=policy.event_retention, clock=database_clock)
        self.metrics = open_metrics(wanted=bool(settings.metrics_token or settings.metrics_port))
        self._has_own_sinks = bool(sinks)
        own: list[EventSink] = [BoundedSink(sink) for sink in sinks]
        self._sinks = (*own, LogSink()) if self.metrics is None else (*own, LogSink(), self.metrics)
        self.breaches = (
            None if settings.breach_url is None else BreachCheck(settings.breach_url, record=self._record, clock=clock)
        )
        self.passwords = _password_pool(settings, pass_all if self.breaches is None else self.breaches.screen)
        throttle = SqlThrottle(self.engine, database_clock) if self.redis is None else RedisThrottle(self.redis)
        self.auth = self._auth(secrets, users, claims, throttle)
        self.threaded = ThreadedNode(self)
        self._started = False
        self._starting = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._asking: asyncio.Future[Mapping[str, bool]] | None = None
        self._late: set[asyncio.Future[bool]] = set()

    # -- what a host application uses

    @cached_property
    def services(self) -> Services:
        """What the endpoints call."""
        return Services(
            auth=self.auth,
            jwks=lambda: self.signing.jwks(self.clock()),
            ensure_started=self.signing.ensure_loaded,
            ready=self.ready,
            metrics=None if self.metrics is None else self.metrics.render,
            describe_device=describe,
        )

    @property
    def web(self) -> WebApplication:
        """The routes over HTTP values, for a framework's adapter."""
        return self._web

    @cached_property
    def _web(self) -> WebApplication:
        # A property of its own, for type checkers take a cached one for no part of a protocol.
        observe = None if self.metrics is None else self.metrics.observe
        config = self.settings.web_config()
        return WebApplication(self.services, config, observe=observe, to_the_end=self._has_own_sinks)

    @cached_property
    def asgi(self) -> KeyturnASGI:
        """The routes as a plain ASGI application, which starts and closes this node with its lifespan."""
        return KeyturnASGI(self.web, startup=[self.start], shutdown=[self.close])

    @cached_property
    def wsgi(self) -> KeyturnWSGI:
        """The routes as a plain WSGI application, with whose first request this node starts."""
        return KeyturnWSGI(self.threaded)

    def lifespan(self, app: object = None) -> AbstractAsyncContextManager[None]:
        """Run the node around a host application: `FastAPI(lifespan=keyturn.lifespan)`."""
        return lifespan_of(self)(app)

    def authenticate(self, token: str) -> Principal:
        """Turn an access token into a principal; no I/O. Raises: InvalidToken. Unavailable: it was not started."""
        return self.auth.authenticate(token)

    async def authenticate_async(self, token: str) -> Principal:
        """Do as `authenticate`, for code that takes a Verifier as well."""
        return await self.auth.authenticate_async(token)

    # -- start, ready, close

    async def start(self) -> None:
        """Migrate, check that the database is durable, load the signing keys, follow the denylist, begin the upkeep.

        Raises:
            UnsafeSettings: the database cannot be made, is not durable, whole or ours to write, or is of an earlier version.
            DatabaseNewer: a later version has migrated the database.
            SecretDoesNotFit: the signing keys in it are sealed under another secret.
            Unavailable: a dependency is at fault.
        """
        self.engine.home.enter()
        async with self._starting:
            if not self._started:
                await self._start()
                self._started = True

    async def _start(self) -> None:
        from keyturn.stores.migrations import migrate, why_not_migrated

        if self.settings.migrate:
            await migrate(self.engine)
        elif obstacle := await why_not_migrated(self.engine):
            raise UnsafeSettings([f"database_not_migrated: {obstacle}"])
        await check_durability(self.engine)
        await check_rights(self.engine)
        await check_whole(self.engine)
        await ping_for_writing(self.engine)  # before the feed, which a standby keeps waiting without a word of why
        jobs = (self.sessions.failover.check, self._time.follow, self.signing.refresh)
        for job in jobs:
            await job()
        if self.denylist is not None:
            await self.denylist.start()
        self.passwords.open()
        self._tasks = [
            asyncio.create_task(keep_up(*jobs, due=self.signing.leak), name="keyturn upkeep"),
            # By itself: very many rows take long, and what may have leaked meanwhile must not sign on.
            asyncio.create_task(keep_up(self.upkeep.prune), name="keyturn pruning"),
            asyncio.create_task(warm_up_soon(), name="keyturn warm-up"),
        ]

    async def ready(self) -> Mapping[str, bool]:
        """Ask everything this node needs; each name says whether it is in order.

        Why those who come meanwhile get the same answer: anybody may ask, and the database must not be kept busy by it.
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._ask_everything())
        return await asyncio.shield(self._asking)

    async def _ask_everything(self) -> Mapping[str, bool]:
        from keyturn.stores.migrations import has_reached

        async def database() -> bool:
            await ping_for_writing(self.engine)
            return True

        async def migrated() -> bool:
            return await has_reached(self.engine)

        async def signing() -> bool:
            self.signing.signing_key(self.clock())
            return not self.signing.lacking

        async def denylist() -> bool:
            return self.denylist is None or self.denylist.is_current()

        async def redis() -> bool:
            if self.redis is not None:
                from keyturn.stores.redis import ping as ping_redis

                await ping_redis(self.redis)
            return True

        async def ask(check: Callable[[], Awaitable[bool]]) -> bool:
            try:
                return await check()
            except Exception as fault:  # noqa: BLE001 - whatever a check raises, it says "not ready"
                _logger.warning("not ready", extra={"check": check.__name__, "fault": name_of(fault)})
                return False

        checks = (database, migrated, signing, denylist, redis)
        probes = {check.__name__: asyncio.ensure_future(ask(check)) for check in checks}
        _, late = await asyncio.wait(probes.values(), timeout=REDIS_READY_TIME)
        if late - {probes["redis"]}:
            _, late = await asyncio.wait(late, timeout=READY_TIME - REDIS_READY_TIME)
        answers = {name: probe not in late and probe.result() for name, probe in probes.items()}
        # Not waited for: to let go of a connection that hangs takes seconds as well.
        self._late.update(late)
        for probe in late:
            probe.add_done_callback(self._late.discard)
            probe.cancel()
        if self.metrics is not None:
            self.metrics.checked(answers)
        return answers

    async def close(self) -> None:
        """Finish what is pending and let everything go; safe to call twice and after a failed start.

        `start` may follow, also on another event loop: an application's tests start and close it again and again.
        """
        self.engine.home.enter()
        self._started, self._starting, self._asking = False, asyncio.Lock(), None
        await self.web.finish()
        tasks, self._tasks = self._tasks, []
        await end(tasks)
        self.signing.close()
        self.passwords.close()
        await self.sessions.close()
        if self.denylist is not None:
            await self.denylist.close()
        if self.redis is not None:
            await self.redis.aclose()
        await self.engine.close()

    # -- wiring

    def _auth(
        self, secrets: SecretRing, users: UserDirectory | None, claims: ClaimsHook | None, throttle: Throttle
    ) -> Auth:
        asked = self.users if users is None else Bounded(users)
        with_users = self.sessions if users is None else Apart(self.sessions, asked)
        in_turn = InTurn(self.sessions, asked, with_users, throttle)
        together = users is None and self.redis is None
        at_once = users is None and self.engine.postgres
        return Auth(
            policy=self.policy,
            sessions=self.sessions,
            users=asked,
            with_users=with_users,
            throttle=throttle,
            attempts=PostgresAttempts(self.engine, throttle)
            if at_once and isinstance(throttle, SqlThrottle)
            else in_turn,
            openings=self.sessions if together else in_turn,
            accounts=self.users if users is None and isinstance(self.users, SqlUsers) else in_turn,
            passwords=self.passwords,
            password_policy=PasswordPolicy(self.policy.password_min_length, ("keyturn",)),
            access_tokens=self._access_tokens(claims),
            refresh_tokens=RefreshTokens(
                secrets.derive("refresh-token"), secrets.active_id, lambda: self.signing.lacking
            ),
            device_tokens=DeviceTokens(secrets.derive("device-token"), secrets.active_id),
            sinks=self._sinks,
            clock=self.clock,
        )

    def _access_tokens(self, claims: ClaimsHook | None) -> AccessTokens:
        return AccessTokens(
            self.signing,
            issuer=self.settings.issuer_or_default,
            audience=self.settings.audience_or_default,
            policy=self.policy,
            denylist=self.denylist,
            claims=claims,
            clock=self.clock,
        )

    async def _record(self, event: Event) -> None:
        await self.sessions.record(event)
        await tell(self._sinks, event)


def _password_pool(settings: Settings, screen: Callable[[str], Awaitable[None]]) -> PasswordPool:
    imports = ImportCosts(settings.imported_bcrypt_rounds or 0, settings.imported_pbkdf2_iterations)
    hasher = PasswordHasher(imports=imports)
    limit = settings.login_queue or DEFAULT_QUEUE_LIMIT
    return PasswordPool(hasher, threads=settings.login_threads, queue_limit=limit, screen=screen)


def _connect(redis_url: str) -> Redis:
    try:
        from keyturn.stores.redis import connect
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("KEYTURN_REDIS_URL is set: install keyturn[redis]", name="redis") from error
    return connect(redis_url)


def _schedule(policy: Policy) -> KeySchedule:
    return KeySchedule(
        rotation_period=policy.key_rotation_period,
        publish_lead=policy.key_publish_lead,
        access_lifetime=policy.access_lifetime,
        leeway=policy.clock_leeway,
    )
