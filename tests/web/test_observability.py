"""Logs and metrics: one line per entry, no credential, no forged line."""

from __future__ import annotations

import io
import json
import logging
import os
import select
from collections.abc import Callable, Iterator
from hashlib import sha256

import pytest

from keyturn import observability
from keyturn.core.events import Event, EventType
from keyturn.core.model import SessionId
from keyturn.devices import describe, warm_up
from keyturn.observability import JsonFormatter, LogSink, Metrics, configure_logging, redact

SESSION = SessionId(bytes(range(16)))
REFRESH_TOKEN = "kt_rt_" + "Ab-_" * 22
JWT = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
Write = Callable[..., str]


@pytest.fixture
def write() -> Iterator[Write]:
    """Log one entry and return the line."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("keyturn.test_observability")
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    logger.handlers[:] = [handler]

    def one(message: str, *args: object, exc_info: bool = False, **extra: object) -> str:
        logger.warning(message, *args, exc_info=exc_info, extra=extra)
        return stream.getvalue()

    yield one
    logger.handlers.clear()
    logger.propagate = True


def test_entry_is_one_json_line(write: Write) -> None:
    """Each entry says when, how grave, where from and what."""
    line = write("refused", code="no_session", status=401, empty=None)
    assert line.count("\n") == 1
    entry = json.loads(line)
    assert entry.keys() == {"at", "level", "logger", "message", "code", "status", "empty"}
    assert (entry["level"], entry["code"], entry["status"]) == ("warning", "no_session", 401)
    assert entry["at"].endswith("+00:00")


@pytest.mark.parametrize("evil", ["\r\n", "\n", "\x1b[2J", "\x7f", "\x85", "\u2028", "\u202e", "\x00", "\x9b31m", "é"])
def test_entry_with_control_characters(write: Write, evil: str) -> None:
    """No caller writes a line of their own, or to a terminal; what they sent can still be read."""
    line = write(f"a{evil}b %s", f"c{evil}d", user_agent=f"e{evil}f", data={"ip": evil})
    assert line.isascii()
    assert line.rstrip("\n").isprintable()
    assert line.count("\n") == 1
    assert json.loads(line)["user_agent"] == f"e{evil}f"


@pytest.mark.parametrize(
    "secret",
    [
        REFRESH_TOKEN,
        JWT,
        JWT.rpartition(".")[0],
        "pbkdf2_sha256$600000$c2FsdA$aGFzaA=",
        "$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA",
        "$2y$10$c2FsdHNhbHRzYWx0c2FsdA.aGFzaGhhc2g",
        "postgresql://keyturn:hunter2@db/keyturn",
        "redis://:hunter2@cache/0",
        "Authorization: Bearer opaque-token-value",
        "authorization: BEARER opaque-token-value",
        "Authorization: Keyturn-HMAC opaque-token-value",
    ],
)
def test_entry_with_a_credential(write: Write, secret: str) -> None:
    """A credential is redacted wherever it slipped in: message, argument, member, nested, exception."""
    try:
        raise ValueError(secret)
    except ValueError:
        line = write(f"x {secret} %s", secret, why=secret, data={"a": {"b": secret}}, exc_info=True)
    core = secret.rpartition(" ")[2].partition("@")[0].rpartition(":")[2]
    assert core[-8:] not in line
    assert "ValueError" in json.loads(line)["exception"]
    assert line.count("[redacted]") >= 4


@pytest.mark.parametrize(
    "name", ["password", "new_password", "Cookie", "authorization", "client_secret", "access_token", "refresh_token"]
)
def test_entry_with_a_telling_name(write: Write, name: str) -> None:
    """A member with the name of a credential is redacted whatever it looks like."""
    assert "innocent" not in write("x", **{name: "innocent"})
    assert "innocent" not in write("x", data={name: "innocent"})


def test_redaction_leaves_the_rest() -> None:
    """What is no credential stays readable."""
    for text in ("GET https://auth.example.com/auth/me", "session_ended", "a@example.com", "kt_hint=1", "eyJ"):
        assert redact(text) == text


def test_session_is_named_by_a_hash() -> None:
    """A log names a session so that entries can be joined, and the name ends no session."""
    name = Event(EventType.REFRESHED, 1.0, "user", SESSION).session_hash
    assert name == Event(EventType.SESSION_ENDED, 2.0, "user", SessionId(bytes(SESSION))).session_hash
    assert name is not None
    assert name != SESSION.hex()
    assert Event(EventType.CSRF_REFUSED, 1.0).session_hash is None


@pytest.mark.anyio
@pytest.mark.parametrize("kind", EventType)
async def test_every_event_is_logged(caplog: pytest.LogCaptureFixture, kind: EventType) -> None:
    """Every event has its entry, with the session's hash and never its id."""
    with caplog.at_level(logging.DEBUG, logger="keyturn.events"):
        await LogSink().emit(Event(kind, 1.0, "user", SESSION, {"ip": "203.0.113.5"}))
    (record,) = caplog.records
    line = JsonFormatter().format(record)
    entry = json.loads(line)
    assert (entry["event"], entry["user"], entry["session"]) == (kind.value, "user", sha256(SESSION).hexdigest()[:32])
    assert entry["data"] == {"ip": "203.0.113.5"}
    assert SESSION.hex() not in line
    assert (entry["level"] == "warning") == (
        kind in {"reuse_detected", "database_behind", "control_fault", "device_drift"}
    )


def test_logging_of_a_process() -> None:
    """All loggers of the process write the same form to one stream; afterwards everything is as before.

    Not those that write a line for each request, or statements with session ids among their parameters.
    """
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    stream = io.StringIO()
    # A command that another test has run in this process may have set them, and SQLAlchemy sets its own.
    for name in ("uvicorn.error", "sqlalchemy", "aiosqlite"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    try:
        configure_logging("info", stream=stream)
        logging.getLogger("uvicorn.error").info("started")
        logging.getLogger("somebody.else").info("hello")
        logging.getLogger("keyturn").debug("not shown")
        configure_logging("debug", stream=stream)
        logging.getLogger("uvicorn.access").info("not shown")
        logging.getLogger("aiosqlite").debug("not shown")
        logging.getLogger("sqlalchemy.engine.Engine").info("not shown")
    finally:
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        logging.getLogger("uvicorn.access").disabled = False
    messages = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert messages == ["started", "hello"]


def test_reader_of_the_log_that_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for once, and what was dropped is told once, when it reads on."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    reader, writer = os.pipe()
    monkeypatch.setattr(observability, "PATIENCE", 0.01)
    with os.fdopen(reader, "rb", buffering=0) as pipe, os.fdopen(writer, "w", encoding="ascii") as stream:
        try:
            configure_logging("info", stream=stream)
            written = 0
            while select.select([], [stream], [], 0)[1]:
                root.info("%01000d", written)
                written += 1
            root.info("the first that is dropped")
            with monkeypatch.context() as unasked:
                unasked.setattr(observability, "PATIENCE", None)
                root.info("the second")
            assert len(pipe.read(1 << 20).splitlines()) == written
            root.info("one")
            root.info("two")
        finally:
            root.handlers[:] = before[0]
            root.setLevel(before[1])
            logging.getLogger("uvicorn.access").disabled = False
        dropped, *others = map(json.loads, pipe.read(1 << 20).splitlines())
    assert (dropped["level"], dropped["dropped"]) == ("error", 2)
    assert [entry["message"] for entry in others] == ["one", "two"]


# -- metrics


@pytest.mark.anyio
async def test_metrics_counted() -> None:
    """Answers, events, refreshes and checks are counted under closed lists of labels."""
    metrics = Metrics()
    metrics.observe("refresh", 200, 0.0005)
    metrics.observe("refresh", 200, 0.0025)
    await metrics.emit(Event(EventType.REFRESHED, 1.0, "user", SESSION, {"outcome": "confirm", "generation": "7"}))
    metrics.checked({"database": True, "denylist": False})
    text = metrics.render().decode()
    for line in (
        'keyturn_requests_total{route="refresh",status="200"} 2.0',
        'keyturn_request_seconds_bucket{le="0.001",route="refresh"} 1.0',
        'keyturn_request_seconds_bucket{le="0.0025",route="refresh"} 2.0',
        'keyturn_request_seconds_count{route="refresh"} 2.0',
        'keyturn_request_seconds_sum{route="refresh"} 0.003',
        'keyturn_events_total{type="refreshed"} 1.0',
        'keyturn_refreshes_total{outcome="confirm"} 1.0',
        'keyturn_in_order{check="denylist"} 0.0',
    ):
        assert line in text.splitlines()
    assert "user" not in text.replace("process_cpu_seconds_total Total user", "")
    assert SESSION.hex() not in text


def test_two_metrics_in_one_process() -> None:
    """Two nodes in one process count apart."""
    one, other = Metrics(), Metrics()
    one.observe("me", 200, 0.1)
    assert b'route="me"' not in other.render()


# -- devices


@pytest.mark.parametrize(
    ("user_agent", "name"),
    [
        ("Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Windows"),
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) "
            "Version/18.4 Safari/605.1.15",
            "Safari on Mac OS X",
        ),
        ("", "Unknown device"),
        ("\x00", "Unknown device"),
        ("x" * 512, "Unknown device"),
        ("((((" * 100, "Unknown device"),
    ],
)
def test_device_described(user_agent: str, name: str) -> None:
    """A user agent has a name for people, and none that is odd breaks anything."""
    warm_up()
    assert describe(user_agent) == name


def test_devices_without_end() -> None:
    """Callers choose the header; what is remembered of it is bounded all the same."""
    for number in range(5000):
        describe(f"agent/{number}")
    assert describe.cache_info().currsize <= 4096
