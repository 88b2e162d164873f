"""`keyturn doctor`: what is unsafe about this configuration.

Owns: gathering the findings of the settings and of what they point to. Must not hold: the rules themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from keyturn.cli.output import Json, as_json, say, table

if TYPE_CHECKING:
    from pathlib import Path

    from keyturn.core.errors import UnsafeSettings
    from keyturn.settings import Finding, Settings
    from keyturn.stores.engine import Engine

_ELSEWHERE = ("HOST", "PORT", "UDS", "WORKERS", "URL", "API_URL")
"""Read by `keyturn serve` as options, and by a Next.js server."""


def doctor(
    json: Json = False,
    explain: Annotated[bool, typer.Option("--explain", help="Also print every number of the policy and why.")] = False,
) -> None:
    """Say what is unsafe in this configuration; exit with 1 if production would not start with it, or not sign anybody in."""
    import sys

    from keyturn.cli.tools import run
    from keyturn.core.errors import UnsafeSettings
    from keyturn.settings import Finding, Settings

    numbers: list[dict[str, object]] = []
    try:
        settings = Settings.load()
    except UnsafeSettings as fault:
        # Nothing more can be said: what is malformed is among what everything else would be judged by.
        findings = [Finding("setting_malformed", problem, fatal=True) for problem in fault.problems]
        findings += _unknown()
    else:
        findings = run(gather(settings))
        numbers = _numbers(settings) if explain else []
    unsafe = any(finding.fatal for finding in findings)
    if json:
        result: dict[str, Any] = {"safe": not unsafe, "findings": [finding._asdict() for finding in findings]}
        as_json({**result, "policy": numbers} if explain else result)
    else:
        if numbers:
            table(("name", "value", "reason", "source"), numbers)
            say("")
        for finding in findings:
            say(f"{'UNSAFE' if finding.fatal else 'note'}  {finding.code}: {finding.text}")
        say(
            "unsafe: production would not start, or not sign anybody in"
            if unsafe
            else "safe: nothing that would keep production from starting"
        )
    if unsafe:
        sys.exit(1)


async def gather(settings: Settings) -> list[Finding]:
    """List everything unsafe, judged as production judges it, also in development."""
    from keyturn.settings import Environment, Finding

    as_production = settings.model_copy(update={"env": Environment.PRODUCTION})
    found = as_production.findings()
    if not settings.production:
        text = "KEYTURN_ENV is development: a server here refuses nothing of what is listed"
        found.append(Finding("development", text, fatal=True))
    return [
        *found,
        *_addresses(settings),
        *_ports(settings),
        *_unknown(),
        *_packages(settings),
        *_memory(settings),
        *await _database(settings),
        *await _redis(settings),
    ]


def _addresses(settings: Settings) -> list[Finding]:
    """Tell when nobody would have an address of their own."""
    import os

    from keyturn.settings import Finding

    if settings.trusted_proxies:
        return []
    behind = "KEYTURN_UDS nobody has an address" if os.environ.get("KEYTURN_UDS") else "a proxy all have its address"
    text = f"KEYTURN_TRUSTED_PROXIES is 0: behind {behind}, and all share one limit of failed logins"
    return [Finding("addresses_unknown", text, fatal=False)]


def _ports(settings: Settings) -> list[Finding]:
    """Tell when a worker's metrics would be on the server's port or on none, or its ports cannot be read."""
    import os

    from keyturn.settings import Finding

    first, chosen = settings.metrics_port, os.environ.get("KEYTURN_PORT", "")
    try:
        port, workers = int(chosen or 8000), int(os.environ.get("KEYTURN_WORKERS") or 1)
    except ValueError:
        port = workers = -1
    if port not in range(65536) or workers not in range(1, 257):
        # Not fatal: an application with a node in it reads neither.
        text = "KEYTURN_PORT or KEYTURN_WORKERS is no number that `keyturn serve` starts with"
        return [Finding("setting_malformed", text, fatal=False)]
    if first is not None and first + workers > 65536:
        text = "KEYTURN_METRICS_PORT and a port for each further worker go beyond 65535"
        return [Finding("metrics_port_too_high", text, fatal=True)]
    if os.environ.get("KEYTURN_UDS") or first is None or not first <= port < first + workers:
        return []
    text = f"KEYTURN_METRICS_PORT and a port for each further worker take {port}, where the server listens"
    # Without the variable `keyturn serve --port` may say another.
    return [Finding("metrics_port_taken", text, fatal=chosen != "")]


def _unknown() -> list[Finding]:
    """Name the variables that look like settings and are none: a misspelt one would leave its default, unsaid."""
    import os
    from difflib import get_close_matches

    from keyturn.settings import FILED, PREFIX, Finding, Settings

    known = [name.upper() for name in Settings.model_fields] + [f"{name.upper()}_FILE" for name in FILED]
    known = [PREFIX + name for name in (*known, *_ELSEWHERE)]
    found: list[Finding] = []
    for name in sorted(set(os.environ).difference(known)):
        if name.startswith(PREFIX):
            guesses = [f"; is {guess} meant?" for guess in get_close_matches(name, known, 1, 0.8)]
            found.append(
                Finding("unknown_setting", f"{name} is no setting, and not read{''.join(guesses)}", fatal=False)
            )
    return found


def _packages(settings: Settings) -> list[Finding]:
    """Name what has to be installed for these settings, and is not."""
    from importlib.util import find_spec

    from keyturn.settings import Finding
    from keyturn.tokens.imported_hash import has_bcrypt

    found: list[Finding] = []
    if settings.imported_bcrypt_rounds is not None and not has_bcrypt():
        text = "KEYTURN_IMPORTED_BCRYPT_ROUNDS is set: install keyturn[bcrypt]"
        found.append(Finding("bcrypt_not_installed", text, fatal=True))
    if (settings.metrics_token or settings.metrics_port) and find_spec("prometheus_client") is None:
        text = "KEYTURN_METRICS_TOKEN or KEYTURN_METRICS_PORT is set: install keyturn[server]"
        found.append(Finding("metrics_not_installed", text, fatal=True))
    return found


def _memory(settings: Settings) -> list[Finding]:
    import os

    from keyturn.allotted import memory

    workers = os.environ.get("KEYTURN_WORKERS", "")
    return too_little_memory(memory(), max(1, int(workers)) if workers.isdecimal() else 1, settings.login_threads)


def too_little_memory(limit: float, workers: int, threads: int | None) -> list[Finding]:
    """Tell when a flood of logins would have this many workers killed, with as many threads or the default."""
    from keyturn.password_pool import HASH_MEMORY, default_threads, memory_without_hashes
    from keyturn.settings import Finding

    count = threads or default_threads(workers, limit=limit)
    needed = memory_without_hashes(workers) + workers * count * HASH_MEMORY
    if needed <= limit:
        return []
    text = (
        f"{workers} workers that hash {count} passwords at once each take about {needed // 1_000_000} MB, and this control"
        f" group may have {limit / 1_000_000:.0f}: the system would kill them. KEYTURN_WORKERS and KEYTURN_LOGIN_THREADS say how many"
    )
    # Not fatal: where this command runs may not be where the server does.
    return [Finding("memory_short", text, fatal=False)]


async def _database(settings: Settings) -> list[Finding]:
    from keyturn.cli.errors import CommandError, cause_of
    from keyturn.cli.tools import open_database
    from keyturn.core.errors import Unavailable, UnsafeSettings
    from keyturn.settings import Finding
    from keyturn.stores.engine import ping

    try:
        async with open_database(settings) as engine:
            if engine.missing and engine.file is not None:
                return _missing(engine.file, migrates=settings.migrate)
            await ping(engine)
            return [
                *_permissions(engine),
                *await _clock(engine),
                *await _level(engine, migrates=settings.migrate),
                *await _keys(engine, settings),
                *await _fitness(engine),
            ]
    except CommandError as error:
        return [Finding("database_url_malformed", str(error), fatal=True)]
    except UnsafeSettings as fault:
        return _findings_of(fault)
    except Unavailable as error:
        return [Finding("database_unavailable", f"the database does not answer{cause_of(error)}", fatal=True)]


def _findings_of(fault: UnsafeSettings) -> list[Finding]:
    from keyturn.settings import Finding

    parts = (problem.partition(": ") for problem in fault.problems)
    return [Finding(code, text, fatal=True) for code, _, text in parts]


async def _fitness(engine: Engine) -> list[Finding]:
    from keyturn.core.errors import UnsafeSettings
    from keyturn.settings import Finding
    from keyturn.stores.engine import check_durability
    from keyturn.stores.migrations import current_level, expected_level
    from keyturn.stores.rights import check_rights, may_only_read
    from keyturn.stores.whole import check_whole, missing_indexes, schemas_with_tables

    found: list[Finding] = []
    if engine.postgres and await may_only_read(engine):
        text = "PostgreSQL takes no writes: it is a standby, or the role or database has default_transaction_read_only"
        found.append(Finding("database_read_only", text, fatal=True))
    for check in (check_durability, check_rights, check_whole):
        try:
            await check(engine)
        except UnsafeSettings as fault:
            found += _findings_of(fault)
    if await current_level(engine) == expected_level() and (names := await missing_indexes(engine)):
        text = f"{', '.join(names)} is missing or INVALID: make it anew, as keyturn.stores.schema has it"
        found.append(Finding("database_index_missing", text, fatal=False))
    if engine.postgres and len(schemas := await schemas_with_tables(engine)) > 1:
        text = f"tables of Keyturn are in the schemas {', '.join(schemas)}: of two with one name the earlier is used"
        found.append(Finding("database_scattered", text, fatal=False))
    return found


def _missing(file: Path, *, migrates: bool) -> list[Finding]:
    from keyturn.settings import Finding
    from keyturn.stores.location import why_not_created

    obstacle = why_not_created(file)
    if obstacle is not None:
        return [Finding("database_unusable", f"the SQLite file cannot be made: {obstacle}", fatal=True)]
    text = f"the SQLite file {file} does not exist yet" + ("" if migrates else ": run `keyturn migrate`")
    return [Finding("database_missing", text, fatal=not migrates)]


def _permissions(engine: Engine) -> list[Finding]:
    from keyturn.settings import Finding
    from keyturn.stores.location import open_to_others

    if engine.file is None or not open_to_others(engine.file):
        return []
    text = f"others may read or write the SQLite file, which holds password hashes: chmod 600 {engine.file}"
    return [Finding("database_open_to_others", text, fatal=False)]


async def _clock(engine: Engine) -> list[Finding]:
    from keyturn.settings import Finding
    from keyturn.stores.clock import TOLERANCE, DatabaseClock

    difference = await DatabaseClock(engine).read()
    if abs(difference) <= TOLERANCE:
        return []
    text = (
        f"this machine's clock is {difference:+.1f} s from the database's, by which everything goes: services that check"
        " access tokens go by their own, so whichever is wrong has to be set"
    )
    return [Finding("clock_differs", text, fatal=False)]


async def _level(engine: Engine, *, migrates: bool) -> list[Finding]:
    from keyturn.settings import Finding
    from keyturn.stores.migrations import (
        DatabaseNewer,
        current_level,
        expected_level,
        refuse_incomplete,
        refuse_newer,
    )

    level = await current_level(engine)
    async with engine.autocommit() as connection:
        await connection.run_sync(refuse_incomplete)
    try:
        refuse_newer(level)
    except DatabaseNewer as error:
        return [Finding("database_newer", str(error), fatal=True)]
    if level == expected_level():
        return []
    found = "the database has no tables of Keyturn yet" if level is None else f"the database is at level {level}"
    text = f"{found}, this version expects level {expected_level()}: run `keyturn migrate`"
    return [Finding("database_not_migrated", text, fatal=not migrates)]


async def _keys(engine: Engine, settings: Settings) -> list[Finding]:
    """Look whether the secret opens the keys, and whether lost commits are believed at the moment."""
    from keyturn.core.errors import UnsafeSettings
    from keyturn.settings import Finding
    from keyturn.signing import SecretDoesNotFit, open_stored
    from keyturn.stores.failover import healing_until
    from keyturn.stores.migrations import current_level, expected_level
    from keyturn.stores.signing_keys import SqlSigningKeys

    try:
        ring = settings.secret_ring()
    except UnsafeSettings:
        return []
    if ring is None or await current_level(engine) != expected_level():
        return []
    found: list[Finding] = []
    sealed, now = await SqlSigningKeys(engine).load()
    try:
        if len(open_stored(sealed, ring)) < len(sealed):
            text = "KEYTURN_SECRET does not open every signing key in the database, and a server leaves those out"
            found.append(Finding("signing_key_left_out", text, fatal=False))
    except SecretDoesNotFit as error:
        found.append(Finding("secret_does_not_fit", str(error), fatal=True))
    if await healing_until(engine) > now:
        found.append(Finding("healing", "tokens newer than the database are believed at the moment", fatal=False))
    return found


async def _redis(settings: Settings) -> list[Finding]:
    from keyturn.settings import Finding

    if settings.redis_url is None:
        return []
    try:
        from keyturn.stores.redis import CHANNEL, connect, evicts, is_cluster, ping, ping_feed
    except ModuleNotFoundError:
        return [Finding("redis_not_installed", "KEYTURN_REDIS_URL is set: install keyturn[redis]", fatal=True)]
    from keyturn.cli.errors import cause_of
    from keyturn.core.errors import Unavailable

    try:
        client = connect(settings.redis_url.get_secret_value())
    except ValueError as error:
        return [Finding("redis_url_malformed", f"KEYTURN_REDIS_URL: {error}", fatal=True)]
    counts, found = False, []
    async with client:
        try:
            await ping(client)
            counts = True
            if await evicts(client):
                text = (
                    "Redis evicts keys where it lacks memory, and attempts with them: set maxmemory-policy noeviction"
                )
                found.append(Finding("redis_evicts", text, fatal=False))
            await ping_feed(client)
        except Unavailable as error:
            if is_cluster(error):
                text = f"Redis is a cluster{cause_of(error)}, which is not followed: take a server that has all keys"
                found.append(Finding("redis_cluster", text, fatal=True))
            elif counts:
                text = f"Redis passes nothing on over {CHANNEL}{cause_of(error)}: services that follow it hear of no revocation"
                found.append(Finding("redis_not_announcing", text, fatal=False))
            else:
                text = f"Redis does not answer as it should{cause_of(error)}"
                found.append(Finding("redis_unavailable", text, fatal=True))
    return found


def _numbers(settings: Settings) -> list[dict[str, object]]:
    """List the policy as it is configured, whether or not it may exist."""
    from keyturn.core.policy import Policy

    configured = settings.policy_numbers()
    explained = (each._asdict() for each in Policy().explain())
    return [{**each, "value": configured.get(each["name"], each["value"])} for each in explained]
