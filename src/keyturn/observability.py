"""What operators see: structured logs and Prometheus metrics.

Owns: the JSON log format, redaction, the sinks for the log and for metrics, the metric names. Must not hold: what is logged where.

Why redaction although nobody logs a credential: an exception's text is written by whoever raised it, and a database
driver or a proxy quotes what it was given. Session ids are hashed: they name a session to whoever can end it.
Spec: OWASP ASVS 5.0 16.2.1-16.2.5 (what a line holds, one format, no credential), 16.4.1 (no forged lines).
"""

from __future__ import annotations

import json
import logging
import re
import select
import sys
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Final, TextIO

from keyturn.core.events import Event, EventType

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

_EVENTS: Final = logging.getLogger("keyturn.events")
_REDACTED: Final = "[redacted]"

_CREDENTIALS: Final = re.compile(
    r"kt_[a-z]+_[A-Za-z0-9_-]{16,}"  # our tokens
    # JWTs, also such as were cut off: one that had to be whole would be looked for to the end from each `eyJ`.
    r"|eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,2}"
    r"|(?:\$(?:argon2[a-z]*|2[aby])|pbkdf2[a-z0-9_]{0,32})\$[^\s'\"]+"  # password hashes; Django's begin without a `$`
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"  # user and password in a URL
    r"|(?i:(?<=bearer )|(?<=keyturn-hmac )).+"
)
_SIGNS: Final = ("kt_", "eyj", "$", "://", "bearer ", "keyturn-hmac ")
"""Every credential has one of these in it, in lower case: the pattern takes ten times as long to find nothing."""
_SECRET_NAME: Final = re.compile(r"password|secret|cookie|authorization|access_token|refresh_token", re.IGNORECASE)
_encode: Final = json.JSONEncoder(default=str).encode
_OWN_ATTRIBUTES: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds."""
PATIENCE: Final = 1.0
"""Seconds in which a slow reader of the log has to make room."""
_ALARMING: Final = frozenset(
    {EventType.REUSE_DETECTED, EventType.DATABASE_BEHIND, EventType.CONTROL_FAULT, EventType.DEVICE_DRIFT}
)


def redact(text: str) -> str:
    """Replace everything that looks like a credential."""
    lower = text.lower()
    return _CREDENTIALS.sub(_REDACTED, text) if any(sign in lower for sign in _SIGNS) else text


class JsonFormatter(logging.Formatter):
    """Write each record as one line of ASCII JSON.

    Why ASCII: a line break, an ANSI sequence, a bidirectional mark or a homoglyph in a user agent arrives escaped, so no
    caller can write a log line or move a terminal's cursor.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Render a record with its extra members."""
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        for name, value in vars(record).items():
            if name not in _OWN_ATTRIBUTES:
                line[name] = _clean(name, value)
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))
        return _encode(line)


@lru_cache(maxsize=256)
def _names_a_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def _clean(name: str, value: object) -> object:
    if _names_a_secret(name):
        return _REDACTED
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): _clean(str(key), item) for key, item in value.items()}
    return redact(str(value))


class _Output(logging.StreamHandler[TextIO]):
    """Writes each line at once, waits a moment for a reader that is slow, and drops and counts what one that stalls has no room for.

    Why: to write to a full pipe waits, and with it every request, probe and signal. Lines longer than a page may still.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._dropped = 0
        self._poll = None
        with suppress(AttributeError, OSError, ValueError):  # Windows has no poll, and a stream in memory no file
            poll = select.poll()
            poll.register(stream.fileno(), select.POLLOUT)
            self._poll = poll

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, if there is room."""
        # One that has stalled is waited for again only when it has read on.
        if self._poll is not None and not self._poll.poll(0 if self._dropped else PATIENCE * 1000):
            self._dropped += 1
            return
        if self._dropped:
            lost, self._dropped = self._dropped, 0
            members = {"name": __name__, "levelno": logging.ERROR, "levelname": "ERROR", "dropped": lost}
            super().emit(logging.makeLogRecord({**members, "msg": "nobody read the log: lines were dropped"}))
        super().emit(record)


def configure_logging(level: str = "info", *, stream: TextIO | None = None) -> None:
    """Send every log of this process, uvicorn's too, as JSON lines to one stream.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        stream: standard error when None.
    """
    output = _Output(stream or sys.stderr)
    output.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [output]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    # One line a request says less than the events do, and costs as much as the request.
    logging.getLogger("uvicorn.access").disabled = True
    # SQLAlchemy writes statements at info, and this driver their parameters at debug: session ids are among them.
    for name in ("sqlalchemy", "aiosqlite"):
        logging.getLogger(name).setLevel(logging.WARNING)


class LogSink:
    """An event sink that writes every event to the log of this process."""

    async def emit(self, event: Event) -> None:
        """Write one event. A refresh is everyday and goes to debug; what needs a look is a warning."""
        level = logging.INFO
        if event.type in _ALARMING:
            level = logging.WARNING
        elif event.type is EventType.REFRESHED:
            level = logging.DEBUG
        if _EVENTS.isEnabledFor(level):
            extra = {
                "event": event.type.value,
                "user": event.user_id,
                "session": event.session_hash,
                "data": event.data,
            }
            # What `Logger.log` does, without looking through the stack for the line that is always this one.
            record = _EVENTS.makeRecord(_EVENTS.name, level, __file__, _LINE, event.type.value, (), None, "emit", extra)
            _EVENTS.handle(record)


_LINE: Final = LogSink.emit.__code__.co_firstlineno


class Metrics:
    """Counters and times in Prometheus' format; also an event sink.

    Labels come from closed lists only: a label that a caller chooses is memory that a caller chooses.

    Counted in plain dictionaries by the event loop alone, and turned into Prometheus' metrics when somebody looks: its own
    counters take a lock each, which a refresh would pay five times.
    """

    def __init__(self) -> None:
        """Make a registry of its own, so that two in one process do not collide."""
        from prometheus_client import CollectorRegistry
        from prometheus_client.process_collector import ProcessCollector

        self.registry: Final[CollectorRegistry] = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests: Final[dict[tuple[str, int], int]] = {}
        self._seconds: Final[dict[str, _Times]] = {}
        self._events: Final[dict[str, int]] = {}
        self._refreshes: Final[dict[str, int]] = {}
        self._in_order: Final[dict[str, bool]] = {}
        self.registry.register(self)

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Count one answer."""
        key = (route, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        times = self._seconds.get(route)
        if times is None:
            times = self._seconds[route] = _Times()
        times.counts[bisect_left(_BUCKETS, seconds)] += 1
        times.total += seconds

    async def emit(self, event: Event) -> None:
        """Count one event."""
        kind = event.type
        self._events[kind] = self._events.get(kind, 0) + 1
        outcome = event.data.get("outcome")
        if outcome is not None:
            self._refreshes[outcome] = self._refreshes.get(outcome, 0) + 1

    def checked(self, checks: Mapping[str, bool]) -> None:
        """Keep what a readiness check found."""
        self._in_order.update(checks)

    def render(self) -> bytes:
        """Return everything in the text format."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Turn what was counted into Prometheus' metrics; the registry calls this."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        requests = CounterMetricFamily("keyturn_requests", "Requests answered.", labels=["route", "status"])
        for (route, status), count in self._requests.copy().items():
            requests.add_metric([route, str(status)], count)
        seconds = HistogramMetricFamily(
            "keyturn_request_seconds", "Time from the routed request to its answer.", labels=["route"]
        )
        for route, times in self._seconds.copy().items():
            seconds.add_metric([route], times.buckets(), times.total)
        events = CounterMetricFamily("keyturn_events", "Events by type.", labels=["type"])
        for kind, count in self._events.copy().items():
            events.add_metric([kind], count)
        refreshes = CounterMetricFamily(
            "keyturn_refreshes", "Refreshes by what the token turned out to be.", labels=["outcome"]
        )
        for outcome, count in self._refreshes.copy().items():
            refreshes.add_metric([outcome], count)
        in_order = GaugeMetricFamily(
            "keyturn_in_order", "What the last readiness check found: 1 in order, 0 not.", labels=["check"]
        )
        for check, good in self._in_order.copy().items():
            in_order.add_metric([check], int(good))
        yield from (requests, seconds, events, refreshes, in_order)


def open_metrics(*, wanted: bool) -> Metrics | None:
    """Return what counts; None in an embedding without the `server` extra, which counts nothing.

    Raises: ModuleNotFoundError: it cannot count, and somebody wants figures.
    """
    try:
        return Metrics()
    except ModuleNotFoundError as error:
        if wanted:
            text = "KEYTURN_METRICS_TOKEN or KEYTURN_METRICS_PORT is set: install prometheus-client"
            raise ModuleNotFoundError(text, name=error.name) from error
        return None


class _Times:
    """Times of one route, counted by bucket."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(_BUCKETS) + 1)
        self.total = 0.0

    def buckets(self) -> list[tuple[str, float]]:
        """Return each upper bound with how many were at most that."""
        bounds = [*map(str, _BUCKETS), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self.counts)), strict=True))
