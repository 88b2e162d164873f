"""What each route takes and answers, as documentation: it feeds OpenAPI and the contract tests.

Owns: summaries, bodies, and the refusals that are part of a route's contract. Must not hold: behaviour.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from pydantic import BaseModel

from keyturn.core import errors
from keyturn.core.errors import Refused
from keyturn.web import bodies


class Documented(NamedTuple):
    """One route's contract."""

    summary: str
    status: int
    answer: type[BaseModel] | None
    refusals: tuple[type[Refused], ...]
    body: type[BaseModel] | None = None
    body_required: bool = False


_BODY: Final = (errors.InvalidRequest, errors.UnsupportedMediaType, errors.PayloadTooLarge)
_ALWAYS: Final = (errors.Internal,)
_STORE: Final = (errors.Unavailable, *_ALWAYS)
_COOKIE: Final = (errors.CsrfRefused, *_BODY, *_STORE)
_SESSION: Final = (errors.NoSession, errors.SessionEnded, errors.SessionBehind)
_TOKEN: Final = (errors.InvalidToken, *_STORE)

DOCUMENTED: Final[Mapping[str, Documented]] = {
    "sign_up": Documented(
        "Create a user and sign them in",
        201,
        bodies.KeyturnSignedIn,
        (errors.Conflict, errors.NotFound, errors.Throttled, *_COOKIE),
        bodies.SignUp,
        body_required=True,
    ),
    "log_in": Documented(
        "Sign in with a password",
        200,
        bodies.KeyturnSignedIn,
        (errors.InvalidCredentials, errors.Throttled, *_COOKIE),
        bodies.LogIn,
        body_required=True,
    ),
    "refresh": Documented(
        "Exchange the refresh cookie for an access token",
        200,
        bodies.KeyturnSignedIn,
        (*_SESSION, *_COOKIE),
        bodies.Refresh,
    ),
    "log_out": Documented("End the session of the refresh cookie", 204, None, _COOKIE, bodies.LogOut),
    "me": Documented("Who the access token stands for", 200, bodies.KeyturnMe, _TOKEN),
    "list_sessions": Documented("The user's live sessions", 200, bodies.KeyturnSessions, _TOKEN),
    "end_session": Documented("End one of the user's sessions", 204, None, (errors.NotFound, *_TOKEN)),
    "end_other_sessions": Documented("End all of the user's sessions but this one", 204, None, _TOKEN),
    "change_password": Documented(
        "Change the password and end all other sessions",
        204,
        None,
        (errors.InvalidCredentials, errors.Conflict, errors.Throttled, *_BODY, *_TOKEN),
        bodies.ChangePassword,
        body_required=True,
    ),
    "render": Documented(
        "Give a render server a short access token for the cookie it forwards",
        200,
        bodies.KeyturnRendered,
        (errors.Forbidden, errors.NotFound, *_SESSION, *_BODY, *_STORE),
        bodies.Render,
    ),
    "jwks": Documented("The public signing keys", 200, bodies.KeyturnJwks, _STORE),
    "healthz": Documented("Whether the process runs", 200, bodies.KeyturnHealth, _ALWAYS),
    "readyz": Documented("Whether everything the node needs is in order", 200, bodies.KeyturnHealth, _STORE),
    "metrics": Documented(
        "Everything counted, for Prometheus",
        200,
        None,
        (errors.InvalidToken, errors.NotFound, *_ALWAYS),
    ),
}
"""Route name -> its contract. `method_not_allowed` and an unknown path's `not_found` go without saying."""
