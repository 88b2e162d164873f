"""Secrets must not come out by the side doors: logs, tracebacks, reprs, metrics, error answers, the documentation."""

from __future__ import annotations

import base64
import io
import json
import logging
import secrets
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from keyturn.core.errors import UnsafeSettings
from keyturn.core.model import User
from keyturn.exchange import Cookies
from keyturn.observability import JsonFormatter, redact
from keyturn.ports import Credential
from keyturn.runtime import Keyturn
from keyturn.settings import Settings
from keyturn.stores.schema import metadata
from keyturn.tokens import base64url
from keyturn.tokens.secret_ring import SecretRing
from keyturn.web import bodies
from tests.attacks.conftest import ROOT, lighten, settings_of, start_servers, stop_servers
from tests.attacks.support import DEVICE, ORIGIN, REFRESH, Browser, query, send
from tests.databases import sqlite_database

pytestmark = pytest.mark.anyio

SPOILING = "CREATE TRIGGER spoil_{table} BEFORE INSERT ON {table} BEGIN SELECT json('not JSON'); END"
"""A statement after which inserting fails, by no fault of the database or its host."""

MARK = "MARKEDmarkedMARKED"
PASSWORDS = {"password", "current_password", "new_password"}
PASSWORD = f"the {MARK} passphrase of somebody"
NEW_PASSWORD = f"another {MARK} passphrase of theirs"
METRICS_TOKEN = f"{MARK}-metrics-token"


def keys_of(name: str) -> tuple[bytes, str]:
    """Make a key and its text."""
    key = secrets.token_bytes(32)
    return key, f"{name}:{base64url.encode(key)}"


def spelled(secret: str | bytes) -> Iterator[bytes]:
    """Yield the ways in which a secret may stand in an output."""
    raw = secret.encode() if isinstance(secret, str) else secret
    yield raw
    if isinstance(secret, bytes):
        yield raw.hex().encode()
        yield base64.b64encode(raw).rstrip(b"=")
        yield base64.urlsafe_b64encode(raw).rstrip(b"=")
        yield repr(raw)[2:-1].encode()


def disclosed(output: bytes, secret_values: Mapping[str, str | bytes]) -> list[str]:
    """List what of the secrets stands in an output."""
    return [name for name, value in secret_values.items() if any(form in output for form in spelled(value))]


def test_every_secret_is_found_where_it_stands() -> None:
    """The search of these tests finds a secret in every spelling."""
    secret = bytes(range(200, 232))
    outputs = [secret, secret.hex().encode(), repr(secret).encode(), base64url.encode(secret).encode()]
    assert all(disclosed(b"x" + output + b"y", {"it": secret}) == ["it"] for output in outputs)
    assert disclosed(b"nothing", {"it": secret}) == []


async def drive(url: str, secret_values: dict[str, str | bytes]) -> list[bytes]:
    """Call every route with good, bad and broken input; collect the answers that must not hold a secret."""
    answers: list[bytes] = []
    headers = {"x-keyturn": "1", "origin": ORIGIN, "authorization": f"Keyturn-HMAC {MARK}"}
    # What the browser is given is kept by hand: to the client, http is no place for a Secure cookie.
    jar: dict[str, str] = {}
    bearer = ""
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client:

        async def ask(method: str, path: str, json: object = None, **more: str) -> httpx.Response:
            client.cookies.clear()
            more |= {"cookie": "; ".join(f"{name}={value}" for name, value in jar.items())}
            if bearer and "authorization" not in more:
                more["authorization"] = f"Bearer {bearer}"
            answer = await client.request(method, path, json=json, headers=more)
            for header in answer.headers.get_list("set-cookie"):
                name, _, rest = header.partition("=")
                jar[name] = rest.partition(";")[0] or jar.get(name, "")
            for name, value in jar.items():
                if len(value) > 16:
                    secret_values[f"{name} {value[-6:]}"] = value
            return answer

        email = f"marked{secrets.token_hex(4)}@example.com"
        account = {"email": email, "password": PASSWORD}
        for path in ("/auth/signup", "/auth/signup", "/auth/login", "/auth/refresh"):
            answer = await ask("POST", path, account if path != "/auth/refresh" else None)
            if answer.is_success:
                bearer = answer.json()["access_token"]
                secret_values[f"access token {bearer[-6:]}"] = bearer
        wrong: list[tuple[str, str, object]] = [
            ("POST", "/auth/login", {**account, "password": NEW_PASSWORD}),
            ("POST", "/auth/login", {**account, "extra": MARK}),
            ("POST", "/auth/login", {"email": f"{MARK}@", "password": PASSWORD}),
            ("POST", "/auth/login", {"email": [PASSWORD], "password": {"$ne": PASSWORD}}),
            ("POST", "/auth/login", {"email": email, "password": PASSWORD + "\0"}),
            ("POST", "/auth/signup", {"email": f"x{email}", "password": MARK}),
            ("POST", "/auth/password", {"current_password": NEW_PASSWORD, "new_password": PASSWORD}),
            ("POST", "/auth/password", {"current_password": PASSWORD, "new_password": MARK}),
            ("POST", "/auth/password", {"current_password": PASSWORD, "new_password": NEW_PASSWORD}),
            ("POST", "/auth/ssr", {"ip": MARK * 20}),
            ("GET", "/auth/me", None),
            ("GET", "/auth/sessions", None),
            ("DELETE", f"/auth/sessions/{MARK}", None),
            ("DELETE", "/auth/sessions", None),
            ("GET", "/healthz", None),
            ("GET", "/readyz", None),
            ("GET", f"/nothing/{MARK}", None),
            ("GET", "/.well-known/jwks.json", None),
            ("POST", "/auth/refresh", {"idle_seconds": MARK}),
            ("POST", "/auth/refresh", None),
            ("POST", "/auth/logout", {"everywhere": True}),
            ("POST", "/auth/refresh", None),
            ("GET", "/auth/me", None),
        ]
        for method, path, json in wrong:
            answer = await ask(method, path, json)
            answers.append(answer.content if "access_token" not in answer.text else b"")
        answers += [
            (await ask("GET", "/auth/me", authorization=f"Bearer {bearer}x")).content,
            (await ask("GET", "/metrics", authorization=f"Bearer {METRICS_TOKEN}")).content,
            (await ask("GET", "/metrics", authorization=f"Basic {METRICS_TOKEN}")).content,
        ]
        assert b"keyturn_requests" in answers[-2]
    return answers


@pytest.mark.parametrize("broken", [False, True], ids=["in order", "statements that fail"])
async def test_no_secret_in_the_output_of_a_server(tmp_path: Path, broken: bool) -> None:
    """Every route of a server that logs at `debug`: no secret in a log, an error, a traceback or the metrics.

    The second time statements fail as only a mistake of ours would have them fail, so that errors come with their parameters.
    """
    master, master_text = keys_of("1")
    ssr, ssr_text = keys_of("next")
    url = sqlite_database(tmp_path)
    servers = start_servers(
        url,
        tmp_path,
        1,
        KEYTURN_SECRET=master_text,
        KEYTURN_SSR_KEYS=ssr_text,
        KEYTURN_METRICS_TOKEN=METRICS_TOKEN,
        KEYTURN_LOG_LEVEL="debug",
    )
    secret_values: dict[str, str | bytes] = {"marked": MARK, "master": master, "ssr key": ssr}
    try:
        answers = await drive(servers[0].origin, secret_values)
        for path in (tmp_path / "keyturn.db",):
            assert path.exists()
        if broken:
            for table in ("keyturn_users", "keyturn_events"):
                await _spoil(url, table)
            answers += await drive(servers[0].origin, secret_values)
        hashes = await _stored(url)
    finally:
        stop_servers(servers)
    output = servers[0].log.read_bytes()
    assert b'"event": "signed_up"' in output
    assert (b"Traceback" in output) == broken
    assert len(secret_values) > 8
    assert disclosed(output, secret_values | hashes) == []
    # People may see the ids of their own sessions; nothing else.
    shown = {name: value for name, value in hashes.items() if not name.startswith("session")}
    assert disclosed(b"\n".join(answers), secret_values | shown) == []
    assert all(line.startswith(b"{") for line in output.splitlines() if line)


async def _spoil(url: str, table: str) -> None:
    keyturn = Keyturn(settings_of(url))
    await query(keyturn, SPOILING.format(table=table))
    await keyturn.close()


async def _stored(url: str) -> dict[str, str | bytes]:
    """Return what the tables hold that no log may: hashes of passwords, of tokens, and session ids."""
    keyturn = Keyturn(settings_of(url))
    found: dict[str, str | bytes] = {}
    for id_, token_hash, device_id in await query(keyturn, "SELECT id, token_hash, device_id FROM keyturn_sessions"):
        found |= {f"session {id_.hex()}": id_, f"hash {id_.hex()}": token_hash, f"device {id_.hex()}": device_id}
    await keyturn.close()
    assert found
    return found


async def test_what_an_application_raises_is_redacted(tmp_path: Path) -> None:
    """An application's own user table that fails with everything it knows in its message: the log shows none of it."""
    leaked = {
        "hash": "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21l$" + "A" * 43,
        "refresh": "kt_rt_" + "A" * 88,
        "jwt": "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0." + "A" * 86,
        "database": "hunter2hunter2",
    }

    class Leaky:
        async def get(self, user_id: str) -> User | None:
            raise RuntimeError(user_id)

        async def find(self, email: str) -> Credential | None:
            message = f"{email} {leaked['hash']} Cookie: {REFRESH}={leaked['refresh']}; Bearer {leaked['jwt']}"
            raise RuntimeError(f"{message}\nDSN postgresql://app:{leaked['database']}@db/app")

        async def create(self, email: str, name: str | None, password_hash: str) -> User | None:
            raise RuntimeError(password_hash)

        async def get_password_hash(self, user_id: str) -> str | None:
            raise RuntimeError(user_id)

        async def replace_password_hash(self, user_id: str, old: str, new: str) -> bool:
            raise RuntimeError(old, new)

    stream = io.StringIO()
    output = logging.StreamHandler(stream)
    output.setFormatter(JsonFormatter())
    keyturn = Keyturn(settings_of(sqlite_database(tmp_path)), users=Leaky())
    lighten(keyturn)
    async with keyturn.lifespan():
        logging.getLogger().addHandler(output)
        try:
            browser = Browser(keyturn.asgi)
            browser.password = PASSWORD
            answers = [await browser.log_in(), await browser.sign_up()]
        finally:
            logging.getLogger().removeHandler(output)
    for answer in answers:
        assert (answer.status, answer.code) == (500, "internal")
        assert b"RuntimeError" not in answer.body
    written = stream.getvalue()
    assert "RuntimeError" in written
    assert disclosed(written.encode(), {**leaked, "password": MARK, "made": "$argon2id$v=19$m=64"}) == []


@pytest.mark.parametrize(
    "sign", ["eyJ", "eyJa.", "kt_", "kt_a_", "$argon2", "$2a$", "pbkdf2", "://", "://a:", "bearer"]
)
def test_text_that_takes_long_to_redact(sign: str) -> None:
    """What a caller has an application raise holds up no log, and with it the event loop, however often a credential seems to begin in it."""
    text = sign * (100_000 // len(sign))
    began = time.process_time()
    redact(text)
    assert time.process_time() - began < 1.0


async def test_errors_of_the_database_carry_no_parameters(tmp_path: Path) -> None:
    """The text of a failing statement's error holds none of its values, whoever logs it in whatever way."""
    keyturn = Keyturn(settings_of(sqlite_database(tmp_path)))
    lighten(keyturn)
    async with keyturn.lifespan():
        await query(keyturn, SPOILING.format(table="keyturn_users"))
        with pytest.raises(Exception, match="malformed JSON") as failed:
            await keyturn.users.create("ada@example.com", MARK, f"$argon2id${MARK}")
        assert MARK not in "".join(traceback.format_exception(failed.value))


async def test_repr_of_a_running_node(node: Keyturn, ada: Browser) -> None:
    """Nothing that a debugger, a crash reporter or a careless log line prints of a node shows a secret."""
    settings = node.settings
    assert settings.secret is not None
    assert settings.ssr_keys is not None
    secret_values: dict[str, str | bytes] = {
        "master": base64url.decode(settings.secret.get_secret_value().partition(":")[2]),
        "ssr": base64url.decode(settings.ssr_keys.get_secret_value().partition(":")[2]),
        "metrics": "metrics-token-0123456789",
        "derived": SecretRing.parse(settings.secret.get_secret_value()).derive("refresh-token")[1],
        "device key": next(iter(node.auth.device_tokens._keys.values())),
        "database": settings.database_url.get_secret_value(),
    }
    shown: list[str] = []
    seen: set[int] = set()

    def walk(value: object, depth: int) -> None:
        if id(value) in seen or depth > 5:
            return
        seen.add(id(value))
        if type(value).__module__.startswith("keyturn"):
            shown.append(repr(value))
        slots = [getattr(value, name, None) for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        for inner in (*slots, *getattr(value, "__dict__", {}).values()):
            if type(inner).__module__.startswith("keyturn"):
                walk(inner, depth + 1)
            elif isinstance(inner, list | tuple | set | frozenset):
                for item in inner:
                    walk(item, depth + 1)

    walk(node, 0)
    walk(node.web, 0)
    assert len(shown) > 20
    assert disclosed("\n".join(shown).encode(), secret_values) == []


async def test_repr_of_what_passes_through(node: Keyturn, ada: Browser) -> None:
    """Requests, bodies, cookies, results and users do not show their secrets when they are printed."""
    decision_holders: list[object] = [
        bodies.SignUp(email="a@example.com", password=PASSWORD),
        bodies.LogIn(email="a@example.com", password=PASSWORD),
        bodies.ChangePassword(current_password=PASSWORD, new_password=NEW_PASSWORD),
        Cookies((ada.cookie.encode(),), (ada.jar[DEVICE].encode(),)),
        Credential(User("1", "a@example.com"), f"$argon2id${MARK}"),
        node.settings,
        node.settings.web_config(),
    ]
    async with _refreshed(node, ada) as result:
        decision_holders.append(result)
        secret_values: dict[str, str | bytes] = {
            "marked": MARK,
            "access": result.access_token,
            "refresh": result.refresh_token or MARK,
            "cookie": ada.cookie,
            "device": ada.jar[DEVICE],
        }
    for holder in decision_holders:
        assert disclosed((repr(holder) + str(holder)).encode(), secret_values) == [], type(holder)


class _refreshed:  # noqa: N801 - used like a function
    """The result of one refresh."""

    def __init__(self, node: Keyturn, browser: Browser) -> None:
        self.node, self.browser = node, browser

    async def __aenter__(self) -> Any:
        from keyturn.core.model import Contact

        contact = Contact("192.0.2.1", "", "")
        return await self.node.auth.refresh(Cookies((self.browser.cookie.encode(),)), contact)

    async def __aexit__(self, *_: object) -> None:
        return None


def test_settings_that_are_wrong_are_not_repeated() -> None:
    """What is wrong with a secret setting is said without showing it."""
    wrong = {
        "secret": [f"1:{MARK}", MARK, f"999:{MARK}", f"1:{base64url.encode(b'x' * 32)}"],
        "database_url": [f"mysql://u:{MARK}@h/d", f"{MARK}"],
        "redis_url": [
            f"redis://u:{MARK}/x@h:6379",
            f"redis://:p@h/0?db={MARK}",
            f"rediss://h/0?ssl_cert_reqs={MARK}",
            f"{MARK}",
        ],
        "ssr_keys": [f"a:{MARK}!", MARK, f"{MARK}:next", f"{MARK}:next!"],
        "metrics_token": [f"{MARK} \n"],
    }
    for name, values in wrong.items():
        for value in values:
            with pytest.raises((UnsafeSettings, ValueError)) as refused:
                Keyturn(
                    Settings.load(
                        **{
                            "env": "production",
                            "base_url": ORIGIN,
                            "secret": keys_of("1")[1],
                            "database_url": "sqlite:///x.db",
                            name: value,
                        }
                    )
                )
            assert MARK not in "".join(traceback.format_exception(refused.value)), name


def test_openapi_and_error_list_hold_no_secret() -> None:
    """No example, default or description looks like a credential; passwords are marked as such."""
    for name in ("openapi.json", "errors.json"):
        # The form of a server credential is explained, with dots for its values.
        text = (ROOT / "spec" / name).read_text().replace("Keyturn-HMAC key=..., time=..., signature=...", "")
        assert redact(text) == text
    document = json.loads((ROOT / "spec" / "openapi.json").read_text())

    def members(value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield key, inner
                yield from members(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from members(inner)

    found = [inner for key, inner in members(document) if key in PASSWORDS]
    assert len(found) >= 4
    assert all(inner.get("format") == "password" and "example" not in str(inner) for inner in found)


async def test_metrics_have_labels_from_closed_lists_only(sqlite_node: Keyturn) -> None:
    """No path, address, user agent or account that a caller chooses becomes a label."""
    await send(sqlite_node.asgi, "GET", f"/{MARK}", headers=[("user-agent", MARK), ("x-request-id", MARK)])
    await send(sqlite_node.asgi, MARK, "/auth/me", headers=[("host", MARK)])
    guesser = Browser(sqlite_node.asgi, email=f"{MARK}@example.com")
    await guesser.log_in()
    assert sqlite_node.metrics is not None
    assert MARK.lower().encode() not in sqlite_node.metrics.render().lower()


def test_no_column_is_made_for_a_plaintext_secret() -> None:
    """The columns whose name speaks of a token or a password say that they hold a hash."""
    names = [column.name for table in metadata.sorted_tables for column in table.columns]
    assert all(name.endswith("_hash") for name in names if "password" in name or "token" in name)
