"""The application's requests with their access tokens: one flow without I/O, and the two ways to drive it.

Owns: which request gets a token, and what a 401 does. Must not hold: how a token is got (`session.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import Future
from typing import Any, Final

from keyturn.client.session import SPARE, Session
from keyturn.client.store import Stored, User

STREAM_SPARE: Final = 30.0
"""Seconds a token has to last for a body that cannot be sent twice."""
_OURS: Final = "keyturn_authorization"
"""Under this name a request says which Authorization it has from us, and not from the caller."""


def flow(session: Session, request: Any) -> Generator[Any, Any, None]:
    """Send a request with an access token, and once more with a new one when the API refuses it with 401.

    Yields what has to be waited for (a `Future`) and what has to be sent (the request, whose response is sent back in).

    A caller's own Authorization is left alone, and an address that is not covered gets nothing: both requests pass as they
    are. Only a 401 to a request that carried our token counts: after a redirect to another origin the HTTP library has
    taken it away. A request that was asked for as one user is not sent a second time as another.

    Raises: what `Session.obtain` raises.
    """
    # Of when the same request was sent before: it may be expired by now, or somebody else's.
    if (former := request.extensions.pop(_OURS, None)) is not None and request.headers.get("authorization") == former:
        del request.headers["authorization"]
    if "authorization" in request.headers or not session.covers(str(request.url)):
        yield request
        return
    replayable = _is_replayable(request)
    held = yield from session.obtain(SPARE if replayable else STREAM_SPARE)
    bearer = _authorize(request, held)
    response = yield request
    challenge = response.headers.get("www-authenticate", "")
    if (
        response.status_code != 401
        or response.request.headers.get("authorization") != bearer
        # Another token would be as old a login: RFC 9470 wants the person, not a refresh.
        or "insufficient_user_authentication" in challenge
        or not replayable
        or not session.may_renew(str(request.url))
    ):
        return
    new = yield from session.obtain(0, held.access_token)
    # By the id: the same person may have another name by now.
    if (new.user and new.user.id) != (held.user and held.user.id):
        return
    _authorize(request, new)
    response = yield request
    if response.status_code == 401:
        session.calm_down(str(request.url))


def _authorize(request: Any, held: Stored) -> str:
    bearer: str = f"Bearer {held.access_token}"
    request.headers["authorization"] = request.extensions[_OURS] = bearer
    return bearer


def _is_replayable(request: Any) -> bool:
    """Say whether the body is in memory. A stream, a file or a form with files may be sent once only."""
    try:
        return request.content is not None
    except RuntimeError:  # RequestNotRead, of whichever library the request is from
        return False


class Flow(Session):
    """Drives the flow for both kinds of client; the HTTP library calls these."""

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """Drive the flow in this thread."""
        steps, answer = flow(self, request), None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration:
                return
            answer = step.result() if isinstance(step, Future) else (yield step)

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        """Drive the flow in this task."""
        steps, answer = flow(self, request), None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration:
                return
            answer = (await asyncio.wrap_future(step)) if isinstance(step, Future) else (yield step)


class SyncMethods(Flow):
    """Sign in and out, and get a token, in this thread. All of these raise `AuthError`."""

    def log_in(self, email: str, password: str, *, remember: bool = False, device_name: str | None = None) -> User:
        """Sign in; whoever was signed in before is signed out.

        Args:
            remember: True: the session outlives the day, and two weeks without anybody acting.
            device_name: as the person calls this device; it stands in their list of sessions.
        """
        return self._enter("/login", _body(email, password, remember, device_name))

    def sign_up(
        self,
        email: str,
        password: str,
        *,
        name: str | None = None,
        remember: bool = False,
        device_name: str | None = None,
    ) -> User:
        """Create a user and sign them in."""
        return self._enter("/signup", {**_body(email, password, remember, device_name), "name": name})

    def log_out(self, *, everywhere: bool = False) -> None:
        """End the session, or all of the user's; when the server cannot be told, it is kept and may be ended again."""
        self._leave(everywhere)

    def forget(self) -> None:
        """Forget the session without telling the server."""
        self._forget()

    def token(self) -> str:
        """Return an access token that lasts for some seconds, for what is no HTTP request."""
        steps = self.obtain(SPARE)
        try:
            while True:
                next(steps).result()
        except StopIteration as done:
            return str(done.value.access_token)


class AsyncMethods(Flow):
    """Sign in and out, and get a token, without blocking the event loop. All of these raise `AuthError`."""

    async def log_in(
        self, email: str, password: str, *, remember: bool = False, device_name: str | None = None
    ) -> User:
        """Sign in; whoever was signed in before is signed out.

        Args: see `SyncMethods.log_in`.
        """
        return await asyncio.to_thread(self._enter, "/login", _body(email, password, remember, device_name))

    async def sign_up(
        self,
        email: str,
        password: str,
        *,
        name: str | None = None,
        remember: bool = False,
        device_name: str | None = None,
    ) -> User:
        """Create a user and sign them in."""
        body = {**_body(email, password, remember, device_name), "name": name}
        return await asyncio.to_thread(self._enter, "/signup", body)

    async def log_out(self, *, everywhere: bool = False) -> None:
        """End the session, or all of the user's; when the server cannot be told, it is kept and may be ended again."""
        await asyncio.to_thread(self._leave, everywhere)

    async def forget(self) -> None:
        """Forget the session without telling the server."""
        await asyncio.to_thread(self._forget)

    async def token(self) -> str:
        """Return an access token that lasts for some seconds, for what is no HTTP request."""
        steps = self.obtain(SPARE)
        try:
            while True:
                await asyncio.wrap_future(next(steps))
        except StopIteration as done:
            return str(done.value.access_token)


def _body(email: str, password: str, remember: bool, device_name: str | None) -> dict[str, object]:
    return {"email": email, "password": password, "remember": remember, "device_name": device_name}
