"""The tree of refusals is the contract's, and says nothing it must not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keyturn.core import errors
from keyturn.core.model import RevokeReason

CONTRACT = {
    "invalid_request": 422,
    "unsupported_media_type": 415,
    "csrf_refused": 403,
    "invalid_credentials": 401,
    "invalid_token": 401,
    "no_session": 401,
    "session_ended": 401,
    "session_behind": 401,
    "insufficient_user_authentication": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "payload_too_large": 413,
    "throttled": 429,
    "unavailable": 503,
    "internal": 500,
}


def test_codes() -> None:
    """The codes and statuses are those of the wire contract, each once."""
    assert [(refusal.code, refusal.status) for refusal in errors.refusals()] == list(CONTRACT.items())


@pytest.mark.parametrize("refusal", list(errors.refusals()), ids=lambda r: r.code)
def test_refusal(refusal: type[errors.Refused]) -> None:
    """Each has a title, something the client does, and retries only what may help."""
    assert refusal.title
    assert refusal.client in {"show", "sign_out", "refresh", "step_up", "retry", "fix"}
    assert refusal.retryable == (refusal.client == "retry")


def test_spec_file() -> None:
    """`spec/errors.json` has the same codes and statuses."""
    text = (Path(__file__).parents[2] / "spec" / "errors.json").read_text()
    for code in CONTRACT:
        assert f'"{code}"' in text
    assert json.loads(text)


def test_default_text() -> None:
    """Without a detail the text is the title; with one, the detail; a retry is none unless said."""
    refused = errors.InvalidRequest()
    assert (str(refused), refused.detail, refused.retry_after) == (refused.title, "", None)
    assert str(errors.InvalidRequest("e-mail is missing")) == "e-mail is missing"


def test_what_refusals_carry() -> None:
    """What goes with a code is on the refusal."""
    assert errors.SessionEnded(RevokeReason.INACTIVITY).reason is RevokeReason.INACTIVITY
    assert errors.MethodNotAllowed("POST").allow == "POST"
    assert errors.Throttled(30.0).retry_after == 30.0
    assert errors.Unavailable("database").retry_after == 1.0
    assert errors.Unavailable("database").dependency == "database"


def test_reasons_for_logs() -> None:
    """Why a token is not believed and what is unavailable is for logs: it is in no text of the refusal."""
    told = (errors.InvalidToken("expired"), errors.CsrfRefused("origin"), errors.Unavailable("database"))
    for refused in told:
        assert str(refused) == refused.title
        assert refused.detail == ""
    assert told[1].reason == "origin"


def test_cookies_cleared() -> None:
    """Only the end of a session clears cookies, a fault never; not when a newer login shares the jar."""
    assert errors.SessionEnded(RevokeReason.LOGOUT).clears_cookies
    assert not errors.SessionEnded(RevokeReason.REPLACED).clears_cookies
    assert errors.NoSession().clears_cookies
    assert not errors.NoSession(clears_cookies=False).clears_cookies
    for refusal in (errors.SessionBehind, errors.Internal, errors.Unavailable, errors.Throttled, errors.InvalidToken):
        assert not refusal.clears_cookies


def test_unsafe_settings() -> None:
    """What keeps Keyturn from starting names every finding and is no answer to a request."""
    unsafe = errors.UnsafeSettings(["a", "b"])
    assert (unsafe.problems, str(unsafe)) == (("a", "b"), "a; b")
    assert isinstance(unsafe, errors.UnsafePolicy)
    assert isinstance(unsafe, errors.KeyturnError)
    assert not isinstance(unsafe, errors.Refused)
