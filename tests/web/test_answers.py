"""What answers hold, as values: times, countdowns and the headers that depend on the status."""

from __future__ import annotations

import json

import pytest

from keyturn.core.errors import Throttled, Unavailable
from keyturn.core.model import User
from keyturn.ports import Listing
from keyturn.web import answers
from keyturn.wire import Response, finish, problem
from tests.core.vectors import load, session

NOW = 1_000_000.0
SESSION = session(load("refresh.json")["row"])


def test_times_of_a_listed_session() -> None:
    """A session is last seen when it was, not when somebody acted, and expires at whichever end comes first."""
    for inactivity, absolute in ((NOW + 60, NOW + 30), (NOW + 30, NOW + 60)):
        one = SESSION._replace(
            last_seen_at=NOW - 1, last_active_at=NOW - 9, inactivity_expires_at=inactivity, absolute_expires_at=absolute
        )
        (listed,) = json.loads(json.dumps(answers.sessions(Listing((one,), NOW), one.id)))["sessions"]
        assert listed["last_seen_at"] == answers.rfc3339(NOW - 1)
        assert listed["expires_at"] == answers.rfc3339(NOW + 30)


def test_countdowns() -> None:
    """They are whole seconds that are left, rounded down, and never less than none."""
    one = SESSION._replace(inactivity_expires_at=NOW + 30.9, absolute_expires_at=NOW + 60.9)
    for later, expected in ((0, (30, 60)), (40, (0, 20)), (100, (0, 0))):
        shown = json.loads(f"{{{answers.identity(User('u', 'a@example.com', None), one, NOW + later)}}}")["session"]
        assert (shown["inactivity_expires_in"], shown["absolute_expires_in"]) == expected


@pytest.mark.parametrize(("seconds", "header"), [(0.0, b"1"), (0.2, b"1"), (1.0, b"1"), (1.1, b"2"), (899.5, b"900")])
def test_when_to_come_again(seconds: float, header: bytes) -> None:
    """It is a whole number of seconds, never too early and never at once."""
    for refused in (Throttled(seconds), Unavailable("database", seconds)):
        assert dict(problem(refused, "an-id-of-a-request").headers)[b"retry-after"] == header


@pytest.mark.parametrize(("status", "said"), [(200, b"0"), (204, None), (304, None), (401, b"0")])
def test_length_of_an_answer(status: int, said: bytes | None) -> None:
    """An answer that cannot have a body names no length.  Spec: RFC 9110 8.6."""
    assert dict(finish(Response(status, []), "an-id-of-a-request").headers).get(b"content-length") == said
