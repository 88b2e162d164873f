"""The numbers that the documents name are those of the code: whoever changes one finds the sentence that tells it."""

from __future__ import annotations

from inspect import signature
from typing import Any

import pytest

from keyturn.access import _LATE
from keyturn.arriving import ARRIVAL_TIME, CONNECTIONS_LIMIT, HEAD_LIMIT, HEADERS_LIMIT, WAITING_LIMIT
from keyturn.breaches import LIMIT
from keyturn.client.flow import STREAM_SPARE
from keyturn.client.session import LOCK_LIMIT
from keyturn.core.policy import CRASH_LOSS, DAY, HOUR, LARGEST, REQUEST_LIMIT, Policy
from keyturn.runtime import READY_TIME
from keyturn.serving import DRAIN_TIME, KEEP_ALIVE_TIME, LEAVE_TIME, UNREAD_TIME
from keyturn.sinks import BoundedSink
from keyturn.stores import connections, sqlite
from keyturn.stores.engine import open_engine
from keyturn.stores.feeds import PollingFeed
from keyturn.stores.pruning import SESSION_RETENTION
from keyturn.stores.redis import ANSWER_TIME, AT_ONCE, UNHEARD_TIME
from keyturn.stores.users import MAX_NAME
from keyturn.tokens.imported_hash import BCRYPT_MAX_BYTES
from keyturn.tokens.jws import MAX_JSON_DEPTH
from keyturn.tokens.password import OWASP
from keyturn.tokens.password_policy import MAX_LENGTH
from keyturn.user_lines import MAX_ID, MAX_LINE
from keyturn.verify import Verifier
from keyturn.verify.keys import DEFAULT_MAX_AGE, KEEP_TIME
from keyturn.web import bodies
from keyturn.web.answers import DEVICE_MAX_AGE
from keyturn.web.config import WebConfig
from keyturn.web.endpoints import JWKS_MAX_AGE
from keyturn.web.messages import MAX_BODY_BYTES
from keyturn.web.server_credential import WINDOW
from tests.docs.shell import ROOT

POLICY = Policy()


def default(function: Any, name: str) -> Any:
    """Return what a parameter is where nobody gives it."""
    return signature(function).parameters[name].default


def words(seconds: float) -> str:
    """Write a time out, as prose does."""
    known = {
        0.25: "a quarter of a second",
        0.5: "half a second",
        2: "two seconds",
        120: "two minutes",
        600: "ten minutes",
    }
    return (known | {HOUR: "an hour", DAY: "a day"}).get(seconds, f"{seconds:g} s")


def longest(shape: type[bodies.In], member: str) -> int:
    """Return the size that a member of a body may have."""
    schema = shape.model_json_schema()["properties"][member]
    (found,) = [each["maxLength"] for each in (schema, *schema.get("anyOf", ())) if "maxLength" in each]
    return int(found)


SAID = {
    "spec/wire.md": [
        f"of at most {MAX_BODY_BYTES // 1024} KiB with `Content-Type",
        f"nesting deeper than {MAX_JSON_DEPTH},",
        f"a body that takes longer than {WebConfig().body_timeout:g} s to arrive",
        f"holds more than {HEAD_LIMIT // 1024} KiB, or {HEADERS_LIMIT} headers, beside its body",
        f"Beyond {CONNECTIONS_LIMIT:,} connections of a process".replace(",", " "),
        f"is not complete {ARRIVAL_TIME:g} s after its first byte",
        f"more than {WAITING_LIMIT} requests wait",
        f"takes nothing of an answer for {UNREAD_TIME:g} s",
        f"`Max-Age` {DEVICE_MAX_AGE // 86400} days",
        f"the token lasts {POLICY.ssr_lifetime:g} s",
        f"`Cache-Control: public, max-age={JWKS_MAX_AGE}`",
        f"give a refresh up after {REQUEST_LIMIT:g} s",
        f"`email` at most {longest(bodies.SignUp, 'email')} characters, `name` {longest(bodies.SignUp, 'name')}, "
        f"`device_name` {longest(bodies.LogIn, 'device_name')}, `ip` {longest(bodies.Render, 'ip')}, "
        f"`user_agent` {longest(bodies.Render, 'user_agent')}.",
        f"at least {POLICY.password_min_length} characters (`KEYTURN_PASSWORD_MIN_LENGTH`), at most {MAX_LENGTH},",
        f"the database's may differ by {WINDOW} s",
        f"| `KEYTURN_ACCOUNT_LOGINS` | {POLICY.account_logins} | of one account from one address (IPv6: /64) in "
        f"{POLICY.failure_window / 60:g} minutes,",
        f"for at most {LIMIT:g} s; when it is at fault",
        f"{OWASP.memory_kib // 1024} MiB each",
        f"{HOUR:g} at most, in development too",
        f"no number of the policy may be over {LARGEST}.",
    ],
    "docs/guides/operating.md": [
        f"a local disk, and SQLite {sqlite.OLDEST} or newer",
        f"- PostgreSQL {connections.OLDEST} or newer;",
        f"has {POLICY.account_logins} logins in {POLICY.failure_window / 60:g} minutes, then 429;",
        f"gives a request up after {REQUEST_LIMIT:g} s",
        f"less than {KEEP_ALIVE_TIME:g} s, which is\n  when the server closes them",
        f"have up to {DRAIN_TIME:g} s",
        f"hash takes {OWASP.memory_kib // 1024} MiB",
        f"up to {default(open_engine, 'pool_size')} connections and one more that listens: "
        f"{default(open_engine, 'pool_size') + 1} for each worker",
        f"sessions {words(SESSION_RETENTION)} after their absolute end, "
        f"events after {POLICY.event_retention / DAY:g} days",
        f"the longest inactivity timeout ({POLICY.remembered_inactivity_timeout / DAY:g} days",
        f"a day ({POLICY.remembered_absolute_lifetime / DAY + 1:g} days)",
        f"replaced every {POLICY.key_rotation_period / DAY:g} days",
        f"published {words(POLICY.key_publish_lead)} before it signs",
        f"healed for {POLICY.heal_time / 60:g} minutes",
        f"A question to it takes {ANSWER_TIME:g} s at most",
        f"Each worker has up to {AT_ONCE} connections to count",
        f"a counter\n  after {POLICY.failure_window / 60:g} minutes",
        f"services with Redis alone within {UNHEARD_TIME[1]:g} s",
        f"in UTF-8 and of {MAX_LINE // 1024} KiB at most",
        f"| `name` | up to {MAX_NAME} characters |",
        f"| `id` | up to {MAX_ID} characters,",
        f"or for {POLICY.event_retention / DAY:g} days by the event",
        f"a password of more than {BCRYPT_MAX_BYTES} bytes",
    ],
    "docs/guides/application.md": [
        f"within one access lifetime ({POLICY.access_lifetime / 60:g} minutes)",
        f"takes more than {REQUEST_LIMIT:g} s, the answer is 503",
        f"has not answered after {REQUEST_LIMIT:g} s",
        f"it has taken more than {BoundedSink.patience:g} s",
    ],
    "docs/guides/verify.md": [
        f"({DEFAULT_MAX_AGE / 60:g} minutes), then fetched anew",
        f"one request in {default(Verifier, 'refetch_interval'):g} s at most",
        f"known keys go on for {words(KEEP_TIME)};",
        f"`leeway` ({default(Verifier, 'leeway'):g} s)",
    ],
    "docs/guides/python-client.md": [
        f"waited {LOCK_LIMIT:g} s for the lock",
        f"has to last for {STREAM_SPARE:g} s",
    ],
    "docs/guides/wsgi.md": [
        f"a body over {MAX_BODY_BYTES // 1024} KiB or {WebConfig().body_timeout:g} s",
        f"older than {REQUEST_LIMIT:g} s is not judged",
    ],
    "docs/explanation/faults.md": [
        f"is free after {default(open_engine, 'command_timeout') / 2:g} s",
        f"that has waited {default(open_engine, 'command_timeout'):g} s for others",
        f"503 within {words(READY_TIME)} when",
        f"believes them for {POLICY.heal_time / 60:g} minutes",
    ],
    "docs/explanation/security.md": [
        f"with {POLICY.clock_leeway:g} s of leeway",
        f"one session for {words(POLICY.access_lifetime)},",
        f"up to {words(default(PollingFeed, 'interval'))} over SQLite",
    ],
    "docs/explanation/rotation-proof.md": [
        f"**L = {REQUEST_LIMIT:g} s.**",
        f"**F = {CRASH_LOSS:g} s.**",
        f"(beyond {words(_LATE)})",
    ],
    "docs/decisions/0014-drain.md": [f"closed after {words(LEAVE_TIME)},"],
}
"""What each document says, in its own words."""


@pytest.mark.parametrize(("document", "text"), [(name, text) for name, texts in SAID.items() for text in texts])
def test_number_of_a_document(document: str, text: str) -> None:
    """It is the code's."""
    assert text in (ROOT / document).read_text(encoding="utf-8")
