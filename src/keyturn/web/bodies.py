"""The JSON bodies of the contract, both ways.

Owns: members, types and sizes, which also make `spec/openapi.json`. Must not hold: rules about passwords or e-mail
addresses (`auth.py` knows them), HTTP.

Why strict: an unknown member is refused and not ignored, so that `is_admin` or `email_verified` never slips through to
anything (mass assignment), and a number is never read as text.
Spec: OWASP ASVS 5.0 2.2.1, 15.3.3.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("no NUL character is allowed")
    return text


_NoNul = AfterValidator(_without_nul)
# After the lengths, or a length is told as that of a list.
Email = Annotated[str, Field(min_length=3, max_length=320, examples=["ada@example.com"]), _NoNul]
Password = Annotated[
    str, Field(min_length=1, max_length=1024, repr=False, json_schema_extra={"format": "password"}), _NoNul
]
Name = Annotated[str, Field(min_length=1, max_length=200), _NoNul]
DeviceName = Annotated[str, Field(min_length=1, max_length=100), _NoNul]
Instant = Annotated[str, Field(json_schema_extra={"format": "date-time"}, description="RFC 3339, UTC")]
Seconds = Annotated[int, Field(ge=0, description="whole seconds from now")]
SessionHex = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]


class In(BaseModel):
    """A body that is sent to us."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class SignUp(In):
    """`POST /auth/signup`."""

    email: Email
    password: Password
    name: Name | None = None
    remember: bool = False
    device_name: DeviceName | None = None


class LogIn(In):
    """`POST /auth/login`."""

    email: Email
    password: Password
    remember: bool = Field(default=False, description="keep the session after the browser closes")
    device_name: DeviceName | None = Field(default=None, description="what the person calls this device")


class Refresh(In):
    """`POST /auth/refresh`; the body may be empty."""

    idle_seconds: float | None = Field(
        default=None,
        ge=0,
        le=1e12,
        allow_inf_nan=False,
        description="how long ago a person last acted; absent: nobody did",
    )


class LogOut(In):
    """`POST /auth/logout`; the body may be empty."""

    everywhere: bool = Field(default=False, description="end all sessions of the user")


class ChangePassword(In):
    """`POST /auth/password`."""

    current_password: Password
    new_password: Password


class Render(In):
    """`POST /auth/ssr`; the body may be empty."""

    ip: Annotated[str, Field(max_length=64), _NoNul] | None = Field(default=None, description="of the browser")
    user_agent: Annotated[str, Field(max_length=512), _NoNul] | None = Field(default=None, description="of the browser")


# -- what is answered. Each name is ours alone: a model of a host application that had the same would get another in its document.


class KeyturnUser(BaseModel):
    """A user."""

    id: str
    email: str
    name: str | None


class KeyturnSession(BaseModel):
    """The session a token belongs to."""

    id: SessionHex
    created_at: Instant
    inactivity_expires_in: Seconds
    absolute_expires_in: Seconds


class KeyturnSignedIn(BaseModel):
    """A session that was opened or refreshed."""

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: Seconds
    user: KeyturnUser
    session: KeyturnSession


class KeyturnRendered(BaseModel):
    """A short access token for one server-side render."""

    access_token: str
    expires_in: Seconds
    user: KeyturnUser
    session: KeyturnSession


class KeyturnMe(BaseModel):
    """Who the access token stands for."""

    user: KeyturnUser
    session: KeyturnSession


class KeyturnListedSession(BaseModel):
    """One session in the list of a user's own. It shows no token and no hash, ever."""

    id: SessionHex
    current: bool
    device_name: str | None
    device: str
    ip: str
    user_agent: str
    created_at: Instant
    last_seen_at: Instant
    expires_at: Instant


class KeyturnSessions(BaseModel):
    """The user's live sessions, newest first."""

    sessions: list[KeyturnListedSession]


class KeyturnProblem(BaseModel):
    """RFC 9457 problem details."""

    type: str = Field(examples=["urn:keyturn:error:invalid_request"])
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    reason: str | None = Field(default=None, description="why the session ended; only with `session_ended`")


class KeyturnJwks(BaseModel):
    """RFC 7517 JWK set."""

    keys: list[dict[str, Any]]


class KeyturnHealth(BaseModel):
    """The process runs, or everything it needs does."""

    status: Literal["ok", "ready"]
