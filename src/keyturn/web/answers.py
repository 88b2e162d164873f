"""What the endpoints answer with: JSON, problem documents, cookies and the headers that are on everything.

Owns: how values become bytes. Must not hold: decisions, or anything about the request but its id.
"""

from __future__ import annotations

import json
from datetime import date, timedelta
from functools import lru_cache
from typing import Final

from keyturn.core import cookie
from keyturn.core.cookie import SameSite
from keyturn.core.model import Session, SessionId, User
from keyturn.exchange import SignedIn
from keyturn.ports import Listing
from keyturn.wire import ERROR_TYPE as ERROR_TYPE
from keyturn.wire import JSON_TYPE as JSON_TYPE
from keyturn.wire import Header, Response, encode_json
from keyturn.wire import finish as finish
from keyturn.wire import problem as problem

DEVICE_MAX_AGE: Final = 400 * 24 * 3600
"""The longest a browser keeps a cookie.  Spec: RFC 6265bis 5.5."""

_EPOCH: Final = date(1970, 1, 1)
_TWO: Final = tuple(f"{number:02}" for number in range(60))
_THREE: Final = tuple(f"{number:03}" for number in range(1000))
_HINT: Final = "1"
encode_text: Final = json.encoder.encode_basestring_ascii


def ok(value: object, *cookies: Header, status: int = 200) -> Response:
    """Answer with JSON."""
    return Response(status, [JSON_TYPE, *cookies], encode_json(value).encode("ascii"))


def nothing(*cookies: Header) -> Response:
    """Answer that it is done."""
    return Response(204, list(cookies))


# -- cookies


def refresh_cookies(token: str, session: Session, now: float, same_site: SameSite) -> list[Header]:
    """Render the refresh cookie and the readable hint that there is one.

    Max-Age stands there only when the person asked to be remembered, and reaches to the absolute end: a cookie that
    outlives its session only makes a useless request.
    """
    max_age = max(0, int(session.absolute_expires_at - now)) if session.remember else None
    return [
        (b"set-cookie", cookie.render(cookie.REFRESH, token, max_age=max_age, same_site=same_site)),
        _hint_cookie(max_age, same_site),
    ]


@lru_cache(maxsize=256)
def _hint_cookie(max_age: int | None, same_site: SameSite) -> Header:
    return (b"set-cookie", cookie.render(cookie.HINT, _HINT, max_age=max_age, http_only=False, same_site=same_site))


def cleared_cookies(same_site: SameSite) -> list[Header]:
    """Render the removal of the refresh cookie and the hint; the device cookie stays with the device."""
    return [
        (b"set-cookie", cookie.clear(cookie.REFRESH, same_site=same_site)),
        (b"set-cookie", cookie.clear(cookie.HINT, http_only=False, same_site=same_site)),
    ]


def device_cookie(token: str, same_site: SameSite) -> Header:
    """Render the long-lived cookie by which a device is known again; it signs nobody in."""
    return (b"set-cookie", cookie.render(cookie.DEVICE, token, max_age=DEVICE_MAX_AGE, same_site=same_site))


# -- values


def signed_in(result: SignedIn, same_site: SameSite, *, status: int = 200) -> Response:
    """Answer with a new access token, and with cookies where there are new ones."""
    headers: list[Header] = [JSON_TYPE]
    if result.refresh_token is not None:
        headers += refresh_cookies(result.refresh_token, result.session, result.now, same_site)
    if result.device_token is not None:
        headers.append(device_cookie(result.device_token, same_site))
    about = identity(result.user, result.session, result.now)
    body = (
        f'{{"access_token":"{result.access_token}","token_type":"Bearer","expires_in":{result.expires_in:d},{about}}}'
    )
    return Response(status, headers, body.encode("ascii"))


def rendered(result: SignedIn) -> Response:
    """Answer a render server: no cookie, ever."""
    about = identity(result.user, result.session, result.now)
    body = f'{{"access_token":"{result.access_token}","expires_in":{result.expires_in:d},{about}}}'
    return Response(200, [JSON_TYPE], body.encode("ascii"))


def me(user: User, session: Session, now: float) -> Response:
    """Answer with who the access token stands for."""
    return Response(200, [JSON_TYPE], f"{{{identity(user, session, now)}}}".encode("ascii"))


def identity(user: User, session: Session, now: float) -> str:
    """Write the members `user` and `session`.

    Why by hand: they are in the answer that is sent all day, and a JSON encoder takes three times as long.
    """
    name = "null" if user.name is None else encode_text(user.name)
    inactivity = max(0, int(session.inactivity_expires_at - now))
    absolute = max(0, int(session.absolute_expires_at - now))
    return (
        f'"user":{{"id":{encode_text(user.id)},"email":{encode_text(user.email)},"name":{name}}},'
        f'"session":{{"id":"{session.id.hex()}","created_at":"{rfc3339(session.created_at)}",'
        f'"inactivity_expires_in":{inactivity},"absolute_expires_in":{absolute}}}'
    )


def sessions(listing: Listing, current: SessionId) -> dict[str, object]:
    """Show a user's sessions to themselves."""
    return {
        "sessions": [
            {
                "id": one.id.hex(),
                "current": one.id == current,
                "device_name": one.device_name,
                "device": one.device,
                "ip": one.ip,
                "user_agent": one.user_agent,
                "created_at": rfc3339(one.created_at),
                "last_seen_at": rfc3339(one.last_seen_at),
                "expires_at": rfc3339(min(one.inactivity_expires_at, one.absolute_expires_at)),
            }
            for one in listing.sessions
        ]
    }


def rfc3339(at: float) -> str:
    """Write a time as RFC 3339 in UTC, to the millisecond."""
    # By hand, for it is in the answer that is sent all day: no cache holds the times of all sessions, but one does their days.
    seconds, rest = divmod(round(at * 1e6) // 1000, 1000)
    minutes = seconds // 60
    hour, minute, second = minutes // 60 % 24, minutes % 60, seconds % 60
    return f"{_day(minutes // 1440)}T{_TWO[hour]}:{_TWO[minute]}:{_TWO[second]}.{_THREE[rest]}Z"


@lru_cache(maxsize=1024)
def _day(since_epoch: int) -> str:
    return (_EPOCH + timedelta(days=since_epoch)).isoformat()
