"""What a request must have beyond a valid token, and what it is answered with otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from keyturn.core.errors import Forbidden, InvalidToken, Refused, StepUpRequired, Unavailable
from keyturn.verify import ANYBODY, Guard, Requirement, Verifier, refusal
from keyturn.wire import ScopeMissing, SignInTooWeak
from tests.tokens.forge import NOW, sign

pytestmark = pytest.mark.anyio


@pytest.fixture
def guard(make_verifier: Callable[..., Verifier]) -> Guard:
    """A guard over real published keys, at the time of the forged tokens."""
    return Guard(make_verifier(), clock=lambda: NOW)


def header(**fields: Any) -> list[bytes]:
    """Return the Authorization headers of a request with a valid token."""
    return [f"Bearer {sign(**fields)}".encode()]


async def test_token_alone(guard: Guard) -> None:
    """A valid token is enough where nothing is asked for."""
    assert guard.check(header()).user_id == "ada"
    assert (await guard.check_async(header(), ANYBODY)).user_id == "ada"


async def test_clock_of_the_source(make_verifier: Callable[..., Verifier]) -> None:
    """The age of a sign-in is judged by the clock that the token is judged by, unless another is given."""
    fresh, old = header(authenticated_at=NOW - 300), header(authenticated_at=NOW - 301)
    guard = Guard(make_verifier())
    assert guard.check(fresh, Requirement(max_age=300)).user_id == "ada"
    with pytest.raises(StepUpRequired):
        guard.check(old, Requirement(max_age=300))
    later = Guard(make_verifier(), clock=lambda: NOW + 1)
    with pytest.raises(StepUpRequired):
        later.check(fresh, Requirement(max_age=300))


@pytest.mark.parametrize("values", [[], [b""], [b"Bearer x"], [b"Basic YTpi"], header() * 2, [b"Bearer \xff"]])
async def test_no_token(guard: Guard, values: list[bytes]) -> None:
    """Anything but one bearer token is a 401, as the server answers it."""
    with pytest.raises(InvalidToken):
        guard.check(values)
    with pytest.raises(InvalidToken):
        await guard.check_async(values)


@pytest.mark.parametrize(
    ("requirement", "fields", "refused"),
    [
        (Requirement(scopes=("notes",)), {"scope": "notes admin"}, None),
        (Requirement(scopes=("notes", "admin")), {"scope": "notes"}, Forbidden),
        (Requirement(scopes=("note",)), {"scope": "notes"}, Forbidden),
        (Requirement(scopes=("notes",)), {}, Forbidden),
        (Requirement(max_age=300), {"authenticated_at": NOW - 300}, None),
        (Requirement(max_age=300), {"authenticated_at": NOW - 301}, StepUpRequired),
        (Requirement(max_age=0), {"authenticated_at": NOW}, None),
        (Requirement(amr=("otp",)), {"amr": ("pwd", "otp", "mfa")}, None),
        (Requirement(amr=("otp", "pwd")), {"amr": ("pwd",)}, StepUpRequired),
        (Requirement(scopes=("admin",), max_age=0), {"authenticated_at": NOW - 9}, Forbidden),
    ],
)
async def test_requirement(
    guard: Guard, requirement: Requirement, fields: dict[str, Any], refused: type[Refused] | None
) -> None:
    """Every scope, the age of the sign-in and how it was made; a missing scope is told first."""
    if refused is None:
        principal = guard.check(header(**fields), requirement)
        assert await guard.check_async(header(**fields), requirement) == principal
        guard.ensure(principal, requirement)
        return
    with pytest.raises(refused):
        guard.check(header(**fields), requirement)
    with pytest.raises(refused):
        await guard.check_async(header(**fields), requirement)


@pytest.mark.parametrize("wrong", [{"scopes": ('a"b',)}, {"scopes": ("a b",)}, {"amr": ("",)}, {"max_age": -1}])
def test_requirement_of_no_use(wrong: dict[str, Any]) -> None:
    """What could not be written into a challenge is a mistake of the program, told when it starts."""
    with pytest.raises(ValueError, match=r"neither|negative"):
        Requirement(**wrong)


@pytest.mark.parametrize("name", ["scopes", "amr"])
def test_text_instead_of_several(name: str) -> None:
    """One text where several are meant would ask for its letters."""
    with pytest.raises(TypeError):
        Requirement(**{name: "notes"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("refused", "status", "challenge", "retry_after"),
    [
        (InvalidToken("expired"), 401, 'Bearer error="invalid_token"', None),
        (ScopeMissing(("a", "b")), 403, 'Bearer error="insufficient_scope", scope="a b"', None),
        (Forbidden(), 403, None, None),
        (SignInTooWeak(300, ()), 401, 'Bearer error="insufficient_user_authentication", max_age="300"', None),
        (
            SignInTooWeak(None, ("otp", "mfa")),
            401,
            'Bearer error="insufficient_user_authentication", amr_values="otp mfa"',
            None,
        ),
        (Unavailable("jwks", retry_after=2.5), 503, None, "3"),
    ],
)
def test_refusal(refused: Refused, status: int, challenge: str | None, retry_after: str | None) -> None:
    """The answer is a problem document that says what would help, never what was wrong inside."""
    answer = refusal(refused, [b"request-1234"])
    headers = {name.decode(): value.decode() for name, value in answer.headers}
    document = json.loads(answer.body)
    assert (answer.status, document["status"], document["code"]) == (status, status, refused.code)
    assert (headers.get("www-authenticate"), headers.get("retry-after")) == (challenge, retry_after)
    assert headers["content-type"] == "application/problem+json"
    assert headers["cache-control"] == "private, no-store"
    assert document["request_id"] == headers["x-request-id"] == "request-1234"
    assert b"expired" not in answer.body
    assert b"jwks" not in answer.body


def test_reason_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Why a token was refused is in the log, under the request's id."""
    with caplog.at_level("INFO", "keyturn"):
        refusal(InvalidToken("expired"), [b"request-1234"])
        refusal(Unavailable("jwks"))
    why, fault = caplog.records
    assert (vars(why)["why"], vars(why)["request_id"]) == ("expired", "request-1234")
    assert (fault.levelname, vars(fault)["dependency"]) == ("WARNING", "jwks")
