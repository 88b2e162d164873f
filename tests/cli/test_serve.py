"""`keyturn serve` as a process: what it refuses, what it reads, how it ends."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import pwd
import re
import socket
import ssl
import stat
import sys
from contextlib import aclosing
from math import inf
from pathlib import Path
from secrets import token_urlsafe

import httpx2
import psutil
import pytest
from redis.exceptions import ResponseError

from keyturn.cli.doctor import too_little_memory
from keyturn.core.errors import Unavailable
from keyturn.core.login import Limit
from keyturn.runtime import READY_TIME
from keyturn.serving import CannotListen, bind
from keyturn.stores.engine import open_engine
from keyturn.stores.redis import RedisFeed, connect, ping, ping_feed
from keyturn.stores.throttle import RedisThrottle
from tests.auth.corpus import Corpus, certify
from tests.cli.conftest import SAFE, SECRET, Command
from tests.cli.storm import Storm
from tests.services import PostgresServer, RedisServer, free_port, wait_until

ROOT = Path(__file__).parents[2]
METRICS_TOKEN = token_urlsafe()
UNSAFE = {
    "secret_missing": {"KEYTURN_SECRET": ""},
    "secret_weak": {"KEYTURN_SECRET": "1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},
    "base_url_missing": {"KEYTURN_BASE_URL": ""},
    "base_url_http": {"KEYTURN_BASE_URL": "http://auth.example.com"},
    "base_url_malformed": {"KEYTURN_BASE_URL": "auth.example.com"},
    "origin_malformed": {"KEYTURN_ALLOWED_ORIGINS": "*"},
    "origin_http": {"KEYTURN_ALLOWED_ORIGINS": "http://app.example.com"},
    "debug": {"KEYTURN_DEBUG": "true"},
    "policy": {"KEYTURN_SETTLE_TIME": "5"},
    "ssr_key_short": {"KEYTURN_SSR_KEYS": "web:c2hvcnQ"},
    "ssr_key_malformed": {"KEYTURN_SSR_KEYS": "no colon"},
    "metrics_token_weak": {"KEYTURN_METRICS_TOKEN": "short"},
    "base_path_malformed": {"KEYTURN_BASE_PATH": "auth"},
}


@pytest.mark.parametrize("code", UNSAFE)
def test_production_refuses_to_start_with_each_unsafe_setting(sqlite_command: Command, code: str) -> None:
    """The finding is named on standard error, the status is 1, and the doctor says the same."""
    sqlite_command.environment.update(UNSAFE[code])
    error = sqlite_command.run("serve", "--port", "0", status=1)
    assert f"keyturn: unsafe_settings: {code}: " in error
    told = sqlite_command.json("doctor", status=1)
    assert told["safe"] is False
    assert code in {finding["code"] for finding in told["findings"] if finding["fatal"]}


def test_production_refuses_a_malformed_setting_without_repeating_it(sqlite_command: Command) -> None:
    """The name is told and the value is not: it may be a secret in the wrong place."""
    sqlite_command.environment["KEYTURN_ACCESS_LIFETIME"] = SECRET
    error = sqlite_command.run("serve", "--port", "0", status=1)
    assert "KEYTURN_ACCESS_LIFETIME" in error
    assert SECRET not in error


def test_refusal_holds_for_a_process_and_for_several_workers(sqlite_command: Command) -> None:
    """Before anything listens, and before any worker starts."""
    sqlite_command.environment["KEYTURN_SECRET"] = ""
    for workers in ("1", "2"):
        error = sqlite_command.spawn("serve", "--port", "0", "--workers", workers, status=1)
        assert error.startswith("keyturn: unsafe_settings: secret_missing: ")


def test_postgresql_that_does_not_write_what_it_acknowledges_is_refused(
    postgres_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The effective setting counts: here the database's own."""
    postgres = request.getfixturevalue("postgres")
    postgres.execute(f'ALTER DATABASE "{postgres_url.rpartition("/")[2]}" SET synchronous_commit = off')
    command = Command(tmp_path, {**SAFE, "KEYTURN_DATABASE_URL": postgres_url})
    error = command.run("serve", "--port", "0", status=1)
    assert "unsafe_settings: database_not_durable: " in error
    assert "database_not_durable" in {f["code"] for f in command.json("doctor", status=1)["findings"]}


def test_server_that_may_not_migrate_makes_no_database(empty_sqlite_command: Command, tmp_path: Path) -> None:
    """SQLite would make a file that others can read; doctor says that production would not start."""
    empty_sqlite_command.environment["KEYTURN_MIGRATE"] = "off"
    error = empty_sqlite_command.run("serve", "--port", "0", status=1)
    assert error.startswith("keyturn: unsafe_settings: database_not_migrated: ")
    assert not (tmp_path / "keyturn.db").exists()
    found = {finding["code"]: finding["fatal"] for finding in empty_sqlite_command.json("doctor", status=1)["findings"]}
    assert found == {"database_missing": True}
    del empty_sqlite_command.environment["KEYTURN_MIGRATE"]
    assert not empty_sqlite_command.json("doctor")["findings"][0]["fatal"]


def test_doctor_tells_a_database_that_others_can_read(sqlite_command: Command, tmp_path: Path) -> None:
    """As it is after a copy, or when it was made by hand."""
    sqlite_command.run("migrate")
    assert sqlite_command.json("doctor")["findings"] == []
    (tmp_path / "keyturn.db").chmod(0o644)
    assert [finding["code"] for finding in sqlite_command.json("doctor")["findings"]] == ["database_open_to_others"]


def test_database_that_may_only_be_read_is_refused(sqlite_command: Command, tmp_path: Path) -> None:
    """Every sign-in would be answered with 503, for ever."""
    sqlite_command.run("migrate")
    sqlite_command.environment["KEYTURN_DATABASE_URL"] = f"sqlite:///file:{tmp_path / 'keyturn.db'}?mode=ro&uri=true"
    assert "unsafe_settings: database_read_only: " in sqlite_command.run("serve", "--port", "0", status=1)
    assert "UNSAFE  database_read_only: " in sqlite_command.run("doctor", status=1)
    assert " SQLITE_READONLY: this user may not write the file" in sqlite_command.run(
        "heal", "--minutes", "1", status=1
    )


def test_development_starts_with_what_production_refuses_and_the_doctor_still_tells(tmp_path: Path) -> None:
    """No setting but the environment's name: it runs, and the doctor says what is missing."""
    command = Command(tmp_path, {"KEYTURN_ENV": "development"})
    with command.serving() as client:
        assert client.get("/healthz").status_code == 200
    codes = {finding["code"] for finding in command.json("doctor", status=1)["findings"]}
    assert {"development", "secret_missing", "base_url_missing"} <= codes


def test_doctor_explains_every_number_with_its_reason_and_source(sqlite_command: Command) -> None:
    """A safe configuration exits with 0; --explain adds the policy."""
    assert sqlite_command.run("doctor").splitlines()[-1].startswith("safe: ")
    policy = {number["name"]: number for number in sqlite_command.json("doctor", "--explain")["policy"]}
    assert policy["settle_time"]["value"] == 60.0
    assert all(number["reason"] and number["source"] for number in policy.values())
    assert "settle_time\t60.0\t" in sqlite_command.run("doctor", "--explain")


@pytest.mark.parametrize("unsafe", [{"KEYTURN_SETTLE_TIME": "5"}, {"KEYTURN_PASSWORD_MIN_LENGTH": "100"}])
def test_doctor_explains_the_numbers_that_are_configured(sqlite_command: Command, unsafe: dict[str, str]) -> None:
    """Also where the policy is refused: whoever mends it reads what is set, not what would be by default."""
    sqlite_command.environment.update({"KEYTURN_TAIL_TIME": "20", **unsafe})
    told = sqlite_command.json("doctor", "--explain", status=1)
    assert "policy" in {finding["code"] for finding in told["findings"]}
    policy = {number["name"]: number["value"] for number in told["policy"]}
    for name, value in unsafe.items():
        assert policy[name.removeprefix("KEYTURN_").lower()] == float(value)
    assert (policy["tail_time"], policy["max_sessions"]) == (20.0, 50)


@pytest.mark.parametrize(
    ("name", "value"), [("ACCESS_LIFETIME", "abc"), ("SETTLE_TIME", "nan"), ("SECRET_FILE", "nowhere")]
)
def test_doctor_tells_a_malformed_value_in_the_form_that_was_asked_for(
    sqlite_command: Command, name: str, value: str
) -> None:
    """A script that reads JSON gets it, a misspelt name is told beside it, and no number is made up."""
    sqlite_command.environment.update({f"KEYTURN_{name}": value, "KEYTURN_ISUER": "https://auth.example.com"})
    told = sqlite_command.json("doctor", "--explain", status=1)
    assert (told["safe"], told["policy"]) == (False, [])
    assert [(finding["code"], finding["fatal"]) for finding in told["findings"]] == [
        ("setting_malformed", True),
        ("unknown_setting", False),
    ]
    assert told["findings"][0]["text"].startswith(f"KEYTURN_{name}: ")
    assert f"UNSAFE  setting_malformed: KEYTURN_{name}: " in sqlite_command.run("doctor", status=1)


@pytest.mark.parametrize(
    ("ports", "told"),
    [
        ({"KEYTURN_METRICS_PORT": "9000", "KEYTURN_PORT": "9000"}, [True]),
        ({"KEYTURN_METRICS_PORT": "8999", "KEYTURN_PORT": "9000", "KEYTURN_WORKERS": "2"}, [True]),
        ({"KEYTURN_METRICS_PORT": "8999", "KEYTURN_PORT": "9000"}, []),
        ({"KEYTURN_METRICS_PORT": "9001", "KEYTURN_PORT": "9000", "KEYTURN_WORKERS": "2"}, []),
        ({"KEYTURN_METRICS_PORT": "8000"}, [False]),
        ({"KEYTURN_METRICS_PORT": "8000", "KEYTURN_PORT": "", "KEYTURN_WORKERS": ""}, [False]),
        ({"KEYTURN_METRICS_PORT": "9000", "KEYTURN_PORT": "tcp://10.0.0.1:9000"}, []),
        ({"KEYTURN_PORT": "9000"}, []),
    ],
)
def test_doctor_tells_a_metrics_port_that_is_the_servers(
    sqlite_command: Command, ports: dict[str, str], told: list[bool]
) -> None:
    """Each worker has one of its own. Where no port is set the option of `serve` may still say another."""
    sqlite_command.environment.update(ports)
    findings = sqlite_command.json("doctor", status=1 if True in told else 0)["findings"]
    assert [finding["fatal"] for finding in findings if finding["code"] == "metrics_port_taken"] == told


def test_doctor_tells_metrics_ports_that_there_are_not(sqlite_command: Command) -> None:
    """Each further worker takes the next one, also where the server listens on a path; `serve` refuses what the last would take."""
    ports = {"KEYTURN_METRICS_PORT": "65534", "KEYTURN_UDS": "keyturn.sock"}
    sqlite_command.environment.update(ports | {"KEYTURN_WORKERS": "2"})
    assert sqlite_command.json("doctor")["safe"]
    sqlite_command.environment["KEYTURN_WORKERS"] = "3"
    assert "UNSAFE  metrics_port_too_high: " in sqlite_command.run("doctor", status=1)
    assert "cannot_listen: 127.0.0.1 port 65536: there is no such port" in sqlite_command.spawn("serve", status=1)


def test_doctor_tells_that_nobody_has_an_address_of_their_own(sqlite_command: Command) -> None:
    """A production is behind a proxy, which ends TLS: whoever guesses passwords there would lock everybody out of new devices."""
    assert sqlite_command.json("doctor")["findings"] == []
    sqlite_command.environment["KEYTURN_TRUSTED_PROXIES"] = "0"
    assert "note  addresses_unknown: KEYTURN_TRUSTED_PROXIES is 0: behind a proxy" in sqlite_command.run("doctor")


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "tcp://10.0.0.1:9000"), ("PORT", "65536"), ("WORKERS", "many"), ("WORKERS", "0"), ("WORKERS", "257")],
)
def test_doctor_tells_a_number_that_is_none(sqlite_command: Command, name: str, value: str) -> None:
    """As Kubernetes sets the first for a service that is called keyturn. What `serve` reads alone keeps no application."""
    sqlite_command.environment[f"KEYTURN_{name}"] = value
    assert "note  setting_malformed: KEYTURN_PORT or KEYTURN_WORKERS is no number" in sqlite_command.run("doctor")
    assert name.lower() in sqlite_command.run("serve", status=2).lower()


@pytest.mark.parametrize(
    ("limit", "workers", "threads", "short"),
    [
        (128e6, 1, None, False),
        (128e6, 1, 2, True),
        (512e6, 2, None, False),
        (512e6, 2, 8, True),
        (256e6, 2, None, True),
        (inf, 256, 256, False),
    ],
)
def test_doctor_tells_a_limit_of_memory_that_is_too_low(
    limit: float, workers: int, threads: int | None, short: bool
) -> None:
    """Hashes that all run at once would have the process killed. The default is as many as fit, and one at least."""
    assert [finding.code for finding in too_little_memory(limit, workers, threads)] == ["memory_short"] * short


@pytest.mark.parametrize("arguments", [["doctor"], ["migrate"], ["serve", "--port", "0"]])
def test_database_url_without_a_user_where_nobody_has_a_name(
    sqlite_command: Command, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """As in a container under a number that no user has: the driver would ask for its name."""

    def nobody(number: int) -> pwd.struct_passwd:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
        sqlite_command.environment.pop(name, None)
    sqlite_command.environment["KEYTURN_DATABASE_URL"] = "postgresql://127.0.0.1:1/none"
    assert "the database URL names no user" in sqlite_command.run(*arguments, status=1)
    sqlite_command.environment["PGUSER"] = "ada"
    assert "names no user" not in sqlite_command.run(*arguments, status=1)


@pytest.mark.parametrize("before", ["nothing", "migrated", "served"])
def test_doctor_tells_a_postgresql_that_takes_no_writes(
    postgres: PostgresServer, empty_postgres_url: str, tmp_path: Path, before: str
) -> None:
    """Production would not start, with tables or without, nor where a start has nothing to write: the doctor says why, and so
    does the start."""
    command = Command(tmp_path, {**SAFE, "KEYTURN_DATABASE_URL": empty_postgres_url})
    if before == "migrated":
        command.run("migrate")
    elif before == "served":
        with command.serving() as client:
            assert client.get("/readyz").status_code == 200
    postgres.execute(
        f'ALTER DATABASE "{empty_postgres_url.rpartition("/")[2]}" SET default_transaction_read_only TO on'
    )
    assert "UNSAFE  database_read_only: " in command.run("doctor", status=1)
    assert "25006: it takes no writes" in command.run("serve", "--port", "0", status=1)
    asking = Command(
        tmp_path, {**SAFE, "KEYTURN_DATABASE_URL": f"{empty_postgres_url}?target_session_attrs=read-write"}
    )
    why = "NoSuchServer target_session_attrs: no server is of the kind that this asks for"
    assert f"UNSAFE  database_unavailable: the database does not answer ({why}" in asking.run("doctor", status=1)


def test_statement_timeout_of_a_role(postgres: PostgresServer, postgres_url: str, tmp_path: Path) -> None:
    """The doctor says what ends statements, where one takes too long."""
    command = Command(tmp_path, {**SAFE, "KEYTURN_DATABASE_URL": postgres_url})
    command.run("migrate")
    postgres.execute(f"ALTER DATABASE \"{postgres_url.rpartition('/')[2]}\" SET statement_timeout TO '200ms'")

    async def doctor() -> str:
        engine = open_engine(postgres_url)
        try:
            async with engine.transaction() as connection:
                await connection.exec_driver_sql("LOCK TABLE keyturn_meta")
                return await asyncio.to_thread(command.run, "doctor", status=1)
        finally:
            await engine.close()

    why = "57014: PostgreSQL ended a statement: has this role or database a statement_timeout"
    assert why in asyncio.run(doctor())


def redis_in_order(client: httpx2.Client) -> bool:
    """Return what the last probe has found of Redis, which does not turn it."""
    assert client.get("/readyz").json() == {"status": "ready"}
    metrics = client.get("/metrics", headers={"Authorization": f"Bearer {METRICS_TOKEN}"}).text
    return 'keyturn_in_order{check="redis"} 1.0' in metrics


def test_redis_that_takes_no_writes(sqlite_command: Command, redis_server: RedisServer, redis_url: str) -> None:
    """It answers, but nobody can sign in: the metrics and the doctor say so. The server stays ready, for refreshes go on."""
    sqlite_command.environment |= {"KEYTURN_REDIS_URL": redis_url, "KEYTURN_METRICS_TOKEN": METRICS_TOKEN}
    with sqlite_command.serving() as client:

        def in_order() -> bool:
            return redis_in_order(client)

        for refusing, again, why in (
            ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "ReadOnlyError: this Redis is a replica"),
            ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", "OutOfMemoryError: Redis may have no more memory"),
            (
                "CONFIG SET min-replicas-to-write 1",
                "CONFIG SET min-replicas-to-write 0",
                "ResponseError NOREPLICAS: fewer replicas follow this Redis",
            ),
        ):
            wait_until(in_order, 30, "a Redis that is in order")
            assert redis_server.command(refusing) == "+OK"
            try:
                assert not in_order(), why
                told = sqlite_command.run("doctor", status=1)
                assert f"redis_unavailable: Redis does not answer as it should ({why}" in told
            finally:
                assert redis_server.command(again) == "+OK"
        wait_until(in_order, 30, "a Redis that is in order")
        assert redis_server.command("CLIENT PAUSE 5000 ALL") == "+OK"
        client.timeout = httpx2.Timeout(READY_TIME - 0.5)  # a balancer's probe has a second
        assert not in_order()


def test_redis_with_a_user_of_few_rights(sqlite_command: Command, redis_server: RedisServer, redis_url: str) -> None:
    """Nobody could sign in where attempts are not counted, and no service would hear where nothing is announced."""
    no_scripts = "~* &* -@scripting"
    refused = (
        "UNSAFE  redis_unavailable: Redis does not answer as it should (NoPermissionError: this user of Redis lacks"
    )
    deaf = {
        "~* resetchannels": "note  redis_not_announcing: Redis passes nothing on over keyturn:denylist:feed (NoPerm",
        "~* &* -zscan": "note  redis_not_announcing: ",
        "~{keyturn}:* &*": "note  redis_not_announcing: ",
    }

    def may(rights: str) -> None:
        assert redis_server.command(f"ACL SETUSER few reset on >secret +@all {rights}") == "+OK"

    may(no_scripts)
    sqlite_command.environment["KEYTURN_REDIS_URL"] = redis_url.replace("redis://", "redis://few:another@")
    assert "(AuthenticationError: Redis refuses the user or the password" in sqlite_command.run("doctor", status=1)
    try:
        sqlite_command.environment["KEYTURN_REDIS_URL"] = redis_url.replace("redis://", "redis://few:secret@")
        sqlite_command.environment["KEYTURN_METRICS_TOKEN"] = METRICS_TOKEN
        with sqlite_command.serving() as client:
            assert not redis_in_order(client)
            assert refused in sqlite_command.run("doctor", status=1)
            may("~* &* -incr")
            refused_to_script = (
                "(ResponseError: Redis refuses a command or a script: is it as new, and has this user the rights"
            )
            assert refused_to_script in sqlite_command.run("doctor", status=1)
            assert not redis_in_order(client)
            for lacking, finding in deaf.items():
                may(lacking)
                wait_until(lambda: redis_in_order(client), 30, f"a Redis that is in order: {lacking}")
                assert finding in sqlite_command.run("doctor"), lacking
    finally:
        assert redis_server.command("ACL DELUSER few") == ":1"


def _rights(guide: str, user: str) -> list[str]:
    """Read the rights of a user in the guide."""
    line = re.search(rf"^ACL SETUSER {user} ([^`]+?)(?=^ACL|^```)", guide, re.MULTILINE)
    assert line is not None
    return line[1].split()


def test_redis_with_a_user_of_the_guide(sqlite_command: Command, redis_server: RedisServer, redis_url: str) -> None:
    """The rights of a server in the operator's guide are what it takes, and each is needed; those of a service are among them."""
    guide = (ROOT / "docs" / "guides" / "operating.md").read_text()
    rights, service = _rights(guide, "keyturn"), _rights(guide, "service")
    url = redis_url.replace("redis://", "redis://few:password@").replace("/0", "/1")
    sqlite_command.environment["KEYTURN_REDIS_URL"] = url
    commands = [right for right in rights if right.startswith("+")]
    try:
        assert redis_server.command(f"ACL SETUSER few {' '.join(rights)}") == "+OK"
        assert "  redis_" not in sqlite_command.run("doctor")
        assert asyncio.run(_all_that_is_asked(url, node=True)) is None
        for right in commands:
            lacking = " ".join(each for each in rights if each != right)
            redis_server.flush()
            assert redis_server.command("SCRIPT FLUSH") == "+OK"
            assert redis_server.command(f"ACL SETUSER few reset {lacking}") == "+OK"
            fault = asyncio.run(_all_that_is_asked(url, node=True))
            assert isinstance(fault, ResponseError), right
        assert redis_server.command(f"ACL SETUSER few reset {' '.join(service)}") == "+OK"
        assert asyncio.run(_all_that_is_asked(url, node=False)) is None
        assert {right for right in service if right.startswith("+")} < set(commands)
    finally:
        assert redis_server.command("ACL DELUSER few") == ":1"


async def _all_that_is_asked(url: str, *, node: bool) -> BaseException | None:
    """Count, give back, announce and follow, as a node does, or only follow; return the fault."""
    limits = [Limit(("right",), 3, 60.0), Limit(("rights",), 3, None)]
    try:
        async with connect(url) as redis:
            if node:
                throttle = RedisThrottle(redis)
                await ping(redis)
                await throttle.take(limits)
                await throttle.take(limits)
                await throttle.give_back(limits)
                await throttle.give_back(limits)
                await ping_feed(redis)
            async with aclosing(RedisFeed(url, heartbeat=0.05)()) as batches:
                for _ in range(3):
                    await anext(batches)
    except Unavailable as fault:
        return fault.__cause__
    return None


def test_doctor_tells_a_redis_that_evicts(sqlite_command: Command, redis_server: RedisServer, redis_url: str) -> None:
    """Attempts would be forgotten with the keys; without a limit of memory nothing is evicted, whatever the policy."""
    sqlite_command.environment["KEYTURN_REDIS_URL"] = redis_url
    try:
        assert redis_server.command("CONFIG SET maxmemory-policy volatile-lru") == "+OK"
        assert "redis_evicts" not in sqlite_command.run("doctor")
        assert redis_server.command("CONFIG SET maxmemory 1gb") == "+OK"
        assert "note  redis_evicts: " in sqlite_command.run("doctor")
    finally:
        assert redis_server.command("CONFIG SET maxmemory 0") == "+OK"
        assert redis_server.command("CONFIG SET maxmemory-policy noeviction") == "+OK"


def test_doctor_tells_a_cluster(sqlite_command: Command, tmp_path: Path) -> None:
    """It would send every question on to another server."""
    server = _Cluster()
    try:
        server.start()
        sqlite_command.environment["KEYTURN_REDIS_URL"] = server.url
        assert "UNSAFE  redis_cluster: Redis is a cluster (" in sqlite_command.run("doctor", status=1)
    finally:
        server.close()


class _Cluster(RedisServer):
    """A server of a cluster, which has none of the keys."""

    def _command(self) -> list[str]:
        return [*super()._command(), "--cluster-enabled", "yes", "--cluster-port", str(free_port())]


def test_doctor_names_what_does_not_answer(sqlite_command: Command) -> None:
    """A database and a Redis that are down are findings, without the password in their URLs."""
    sqlite_command.environment["KEYTURN_DATABASE_URL"] = "postgresql://keyturn:hunter2@127.0.0.1:1/keyturn"
    sqlite_command.environment["KEYTURN_REDIS_URL"] = "redis://:hunter2@127.0.0.1:1/0"
    text = sqlite_command.run("doctor", status=1)
    assert "UNSAFE  database_unavailable: " in text
    assert "UNSAFE  redis_unavailable: " in text
    assert "hunter2" not in text


def test_at_sign_in_a_password(sqlite_command: Command) -> None:
    """It makes the rest of the password a part of the host, which nobody has; the fault says where to look, and no password."""
    sqlite_command.environment["KEYTURN_DATABASE_URL"] = "postgresql://keyturn:hunter2@there@127.0.0.1/keyturn"
    for command in (("users", "list"), ("doctor",)):
        text = sqlite_command.run(*command, status=1)
        assert (
            "(gaierror: no host has this name: are `@`, `:` and `/` of a password in the URL percent-encoded?)" in text
        )
        assert "hunter2" not in text


def test_doctor_says_what_is_wrong_with_the_way(sqlite_command: Command, tmp_path: Path) -> None:
    """Of a Redis too, whose library has one name for a server that is down and for one that nobody vouches for."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certify(tmp_path))
    sqlite_command.environment["KEYTURN_REDIS_URL"] = f"redis://127.0.0.1:{free_port()}"
    assert "(ConnectionRefusedError)" in sqlite_command.run("doctor", status=1)
    with Corpus(tls) as server:
        sqlite_command.environment["KEYTURN_REDIS_URL"] = f"rediss://127.0.0.1:{server.port}"
        text = sqlite_command.run("doctor", status=1)
    assert "(SSLCertVerificationError CERTIFICATE_VERIFY_FAILED: self-signed certificate)" in text


def test_doctor_says_that_a_database_has_no_tls(
    sqlite_command: Command, postgres: PostgresServer, postgres_url: str
) -> None:
    """A URL of a hosting provider asks for it; and whatever else listens there, in the place of Redis too, ends the connection."""
    meaning = "(ConnectionError: the server ended the connection, or has no TLS: "
    sqlite_command.environment["KEYTURN_REDIS_URL"] = f"redis://127.0.0.1:{postgres.port}"
    assert meaning in sqlite_command.run("doctor", status=1)
    sqlite_command.environment["KEYTURN_DATABASE_URL"] = f"{postgres_url}?sslmode=require"
    assert meaning in sqlite_command.run("users", "list", status=1)


def test_secrets_are_read_from_files(tmp_path: Path, sqlite_database_url: str) -> None:
    """`_FILE` variants of the secret and the database URL; a missing file is named."""
    for name, content in (("secret", f"{SECRET}\n"), ("database_url", sqlite_database_url)):
        (tmp_path / name).write_text(content)
    files = {
        "KEYTURN_SECRET_FILE": str(tmp_path / "secret"),
        "KEYTURN_DATABASE_URL_FILE": str(tmp_path / "database_url"),
    }
    command = Command(tmp_path, {"KEYTURN_BASE_URL": "https://auth.example.com", **files})
    with command.serving() as client:
        assert client.get("/readyz").status_code == 200
    assert (tmp_path / "keyturn.db").exists()
    command.environment["KEYTURN_SECRET_FILE"] = str(tmp_path / "nowhere")
    error = command.run("serve", "--port", "0", status=1)
    assert str(tmp_path / "nowhere") in error


@pytest.mark.parametrize(
    ("name", "value"), [("SECRET", SECRET), ("DATABASE_URL", "postgresql://keyturn:hunter2@127.0.0.1/keyturn")]
)
def test_credential_in_the_place_of_a_file_is_not_repeated(sqlite_command: Command, name: str, value: str) -> None:
    """Neither by the server nor by the doctor."""
    sqlite_command.environment[f"KEYTURN_{name}_FILE"] = value
    for arguments in (("serve", "--port", "0"), ("doctor",)):
        told = sqlite_command.run(*arguments, status=1)
        assert f"KEYTURN_{name}_FILE: No such file" in told
        assert value not in told


def test_database_url_option_goes_before_the_environment(sqlite_command: Command, tmp_path: Path) -> None:
    """Also before a file that the environment names, and in every worker."""
    (tmp_path / "url").write_text("sqlite:///wrong.db")
    sqlite_command.environment["KEYTURN_DATABASE_URL_FILE"] = str(tmp_path / "url")
    right = f"sqlite:///{tmp_path / 'right.db'}"
    with sqlite_command.serving("--database-url", right, "--workers", "2") as client:
        wait_until(lambda: client.get("/readyz").status_code == 200, 30, "a ready worker")
    assert (tmp_path / "right.db").exists()
    assert not (tmp_path / "wrong.db").exists()
    assert stat.S_IMODE((tmp_path / "right.db").stat().st_mode) == 0o600


def test_usual_parameters_of_a_database_url_do_no_harm(tmp_path: Path, postgres_url: str) -> None:
    """What hosting providers put there, libpq's alone included: the node is ready, its denylist too."""
    usual = "?sslmode=prefer&connect_timeout=10&application_name=app&channel_binding=prefer"
    command = Command(tmp_path, {**SAFE, "KEYTURN_DATABASE_URL": postgres_url + usual})
    with command.serving() as client:
        wait_until(lambda: client.get("/readyz").status_code == 200, 30, "a ready node")


def test_redis_url_option_reaches_the_node(sqlite_command: Command, redis_url: str) -> None:
    """A Redis that answers is part of being ready; a malformed URL is a known error."""
    with sqlite_command.serving("--redis-url", redis_url) as client:
        assert client.get("/readyz").status_code == 200
    error = sqlite_command.run("serve", "--port", "0", "--redis-url", "http://:hunter2@localhost", status=1)
    assert error.startswith("keyturn: invalid_settings: ")
    assert "hunter2" not in error


@pytest.mark.parametrize(("workers", "abstract"), [("1", True), ("2", False)])
def test_service_manager_is_told_when_it_is_ready(
    sqlite_command: Command, tmp_path: Path, workers: str, abstract: bool
) -> None:
    """With `Type=notify` a service manager waits for it, and would end a server that never says so."""
    name = f"keyturn-{tmp_path.name}-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}" if abstract else name)
        manager.settimeout(60)
        sqlite_command.environment["NOTIFY_SOCKET"] = f"@{name}" if abstract else name
        with sqlite_command.serving("--workers", workers) as client:
            assert manager.recv(100) == b"READY=1"
            assert client.get("/readyz").status_code == 200


def test_metrics_are_on_a_port_of_their_own(sqlite_command: Command) -> None:
    """They count what the main port answers, which has them for a token only, and keep the rules for every route."""
    port = free_port()
    sqlite_command.environment["KEYTURN_METRICS_PORT"] = str(port)
    with (
        sqlite_command.serving() as client,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as metrics,
    ):
        main = client.get("/healthz")
        assert main.status_code == 200
        assert client.get("/metrics").status_code == 404
        shown = metrics.get("/metrics")
        assert 'keyturn_requests_total{route="healthz",status="200"} 1.0' in shown.text
        head = metrics.head("/metrics")
        assert (head.status_code, head.content) == (200, b"")
        assert (
            head.headers["content-type"] == shown.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        )
        assert int(head.headers["content-length"]) > 0
        other = metrics.post("/metrics")
        assert (other.status_code, other.json()["code"]) == (405, "method_not_allowed")
        assert other.headers["allow"] == metrics.options("/metrics").headers["allow"] == "GET, HEAD, OPTIONS"
        nothing = metrics.get("/healthz", headers={"x-request-id": "asked-by-us"})
        assert (nothing.status_code, nothing.json()["code"]) == (404, "not_found")
        assert nothing.headers["x-request-id"] == "asked-by-us"
        for answer in (shown, head, other, nothing):
            assert answer.headers.keys() >= main.headers.keys()
            assert answer.headers["cache-control"] == main.headers["cache-control"]


def test_port_that_is_taken_is_a_known_error(sqlite_command: Command) -> None:
    """The address and the system's reason, no traceback."""
    with sqlite_command.serving() as client:
        port = str(client.base_url.port)
        for arguments in (["serve"], ["demo", "--directory", str(sqlite_command.directory / "demo")]):
            error = sqlite_command.run(*arguments, "--port", port, status=1)
            assert error.startswith("keyturn: cannot_listen: 127.0.0.1 port ")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends such a connection")
def test_client_that_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection ends by itself, whoever waits to write to it: a few hundred would take all there may be, for good."""
    monkeypatch.setattr("keyturn.serving.UNREAD_TIME", 0.5)
    with bind("127.0.0.1", 0) as listener, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        client.connect(listener.getsockname())
        accepted, _ = listener.accept()
        with accepted:
            accepted.settimeout(60)
            # More than all buffers on the way hold.
            with pytest.raises(OSError, match=os.strerror(errno.ETIMEDOUT)):
                accepted.sendall(bytes(1 << 26))


def test_address_that_cannot_be_is_a_known_error() -> None:
    """A port past the last, as the metrics of a second worker may have it, of which the resolver makes any free one; no name."""
    with pytest.raises(CannotListen, match=r"127\.0\.0\.1 port 65536: "):
        bind("127.0.0.1", 65536)
    with pytest.raises(CannotListen, match=r"no\.\.name: "):
        bind("no..name", 0)


def test_answers_do_not_name_the_server_and_logs_are_json(sqlite_command: Command) -> None:
    """No Server header; every line of the log is an object with a level."""
    with sqlite_command.serving() as client:
        assert "server" not in client.get("/healthz").headers
    lines = [json.loads(line) for line in (sqlite_command.directory / "serve.log").read_text().splitlines()]
    assert [line["message"] for line in lines if line["logger"].startswith("keyturn.serv")] == [
        "listening",
        "draining",
        "drained",
    ]
    assert all(line["level"] for line in lines)


def test_debug_logs_each_refresh_in_development(sqlite_command: Command) -> None:
    """A refresh is everyday, so it is not among the lines of another level."""
    sqlite_command.environment.update(KEYTURN_ENV="development", KEYTURN_DEBUG="true")
    user = {"email": "ada@example.com", "password": "correct horse battery"}
    with sqlite_command.serving() as client:
        signed_up = client.post("/auth/signup", json=user)
        sent_back = "; ".join(each.partition(";")[0] for each in signed_up.headers.get_list("set-cookie"))
        assert client.post("/auth/refresh", headers={"Cookie": sent_back}).status_code == 200
    lines = [json.loads(line) for line in (sqlite_command.directory / "serve.log").read_text().splitlines()]
    assert "refreshed" in {line.get("event") for line in lines}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_server_that_is_terminated_in_a_storm_cuts_off_no_request(sqlite_command: Command, workers: str) -> None:
    """The real server over its real database: everything sent is answered, then connections are refused."""
    with sqlite_command.serving("--workers", workers) as client:
        wait_until(lambda: client.get("/readyz").status_code == 200, 30, "a ready worker")
        storm = Storm(client.base_url.port or 0, "/readyz")
        storm.begin()
        wait_until(lambda: storm.outcomes["full"] > 100, 60, "the storm")
    storm.end()


def test_workers_end_when_their_supervisor_is_killed(sqlite_command: Command) -> None:
    """No orphan goes on serving."""
    command = ["serve", "--port", "0", "--workers", "2"]
    with sqlite_command.process(*command) as process:
        wait_until(lambda: len(psutil.Process(process.pid).children()) == 2, 60, "two workers")
        workers = psutil.Process(process.pid).children()
        process.kill()
        gone, alive = psutil.wait_procs(workers, timeout=60)
        for worker in alive:
            os.kill(worker.pid, 9)
        assert len(gone) == 2
