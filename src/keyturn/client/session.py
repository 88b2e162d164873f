"""One sign-in of this process: who is signed in, one refresh at a time, login and logout.

Owns: the state in memory, the single flight, the requests that change who is signed in and their order. Must not hold: the
application's requests (`flow.py`), the form of answers (`reading.py`), files (`file_store.py`).

A refresh runs in a thread of its own, whoever asks for it: threads wait for it, tasks of any event loop await it, and it
goes on when all of them have gone. Between processes the store decides: what is written is what counts, and only if
nobody else has written since it was read.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import Future
from random import random
from ssl import SSLContext
from time import monotonic, time
from typing import Any, ClassVar, Final, NamedTuple
from urllib.parse import urlsplit
from weakref import WeakSet

from keyturn.client.errors import AuthError, SessionEnded, StoreFault, Unavailable, read_error
from keyturn.client.reading import DEVICE_COOKIE, REFRESH_COOKIE, read_sign_in
from keyturn.client.store import MemoryTokenStore, Stored, TokenStore, User
from keyturn.client.wire import Answer, NoAnswer, post

SPARE: Final = 10.0
"""Seconds an access token has to last to be sent."""
LOCK_LIMIT: Final = 5.0
"""Seconds to wait for the refresh of another process before making one beside it."""
CALM: Final = 5.0
"""Seconds for which an API's 401s start no refresh after it refused even a new token."""
_TRIES: Final = 3
"""How often to begin again when another process was faster."""
_LONGEST_PAUSE: Final = 60.0
_LONGEST_RETRY_AFTER: Final = 3600.0
"""What the server asks for is done, up to an hour: a slip there must not cost a day."""
_LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "::1")
_HOST: Final = re.compile(r"[a-z0-9._:%-]+")
_BASE_PATH: Final = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)+")
"""As the server's own: it begins with the slash that ends the host."""
_COOKIE_ROUTES: Final = ("/refresh", "/login", "/signup", "/logout")


class State(NamedTuple):
    """What this process knows."""

    stored: Stored = Stored()
    fault: AuthError | None = None
    """Why the last refresh brought nothing."""
    failures: int = 0
    retry_at: float = 0.0
    """No refresh before then: the cool-down after `failures` in a row."""

    def failed(self, fault: AuthError, now: float) -> State:
        """Return what is known after a refresh that brought nothing; what was known stays known."""
        if isinstance(fault, SessionEnded):
            return State(self.stored.signed_out(fault.reason), fault)
        if isinstance(fault, StoreFault) and not fault.retryable:
            return self._replace(fault=fault)
        asked = min(fault.retry_after or 0.0, _LONGEST_RETRY_AFTER)
        # Why random: what failed together must not come back together.
        pause = min(_LONGEST_PAUSE, 2.0**self.failures) * (1 + random() / 2)  # noqa: S311 - protects nothing
        return State(self.stored, fault, min(self.failures + 1, 10), now + max(asked, pause))


class SteadyClock:
    """Seconds since the Unix epoch that never go back in this process, and go on while the machine sleeps.

    The date may be wrong: when it jumps ahead that is taken for sleep, which costs one refresh.
    """

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        steady = monotonic()
        self._ahead = max(self._ahead, time() - steady)
        return steady + self._ahead


class Session:
    """One sign-in at one server.

    Args:
        base_url: where the server is reached, as its own `KEYTURN_BASE_URL`: `https://auth.example.com`.
        base_path: where its routes are.
        store: keeps the sign-in; in memory when None.
        origins: where access tokens go, `scheme://host[:port]`, and nowhere else; the server's own when None.
        verify: the authorities that TLS trusts; those of the HTTP library when None.
        proxy: through which the server is reached; the environment's when None, or none where the server is on this machine.
        insecure: True: plain http to another machine is allowed, where everybody on the way reads the tokens.

    Raises: ValueError: an address or the path is not of its form, or plain http.
    """

    library: ClassVar[Any]

    def __init__(
        self,
        base_url: str,
        *,
        base_path: str = "/auth",
        store: TokenStore | None = None,
        origins: Iterable[str] | None = None,
        verify: SSLContext | None = None,
        proxy: str | None = None,
        insecure: bool = False,
    ) -> None:
        self._origin = origin_of(base_url)
        if (path := urlsplit(base_url).path.rstrip("/")) != "":
            # Dropped without a word, the routes would be looked for beside it.
            raise ValueError(f"{path!r} is no part of the server's address: give it as base_path")
        if _BASE_PATH.fullmatch(base_path) is None:
            raise ValueError(f"{base_path!r} is not a path such as /auth, without a slash at its end")
        self._base = self._origin + base_path
        self._local = urlsplit(base_url).hostname in _LOCAL_HOSTS
        self._cookie_routes = frozenset(self._base + path for path in _COOKIE_ROUTES)
        self._origins = frozenset([self._origin] if origins is None else map(origin_of, origins))
        for origin in {self._origin, *self._origins}:
            host = urlsplit(origin).hostname or ""
            if _HOST.fullmatch(host) is None:
                # Requests are compared with it, and carry it, as they are sent.
                raise ValueError(f"{origin!r}: write the host as it is sent, such as https://xn--bcher-kva.example")
            if not insecure and origin.startswith("http://") and host not in _LOCAL_HOSTS:
                raise ValueError(f"{origin} is not https: everybody on the way would read the tokens (see `insecure`)")
        self._store: TokenStore = MemoryTokenStore() if store is None else store
        self._verify: SSLContext | None = verify
        self._proxy = proxy
        self._clock = SteadyClock()
        self._acted_at: float | None = None
        # What of it the server knows.
        self._told_at: float | None = None
        self._calm_until: dict[str, float] = {}
        self._state = State()
        self.start_over()
        _sessions.add(self)

    def start_over(self) -> None:
        """Let nothing be under way, in a process that was forked: what another thread does or holds stayed behind."""
        self._guard = threading.Lock()
        self._flying: Future[None] | None = None

    @property
    def user(self) -> User | None:
        """Who the access token in memory stands for; None before the first request or login."""
        return self._state.stored.user

    def acted(self) -> None:
        """Note that a person acts now: the next refresh tells the server.

        Why: a refresh is no person. A session in which nobody acts ends after the inactivity timeout, however often a
        program refreshes it. A login counts by itself.
        """
        self._acted_at = self._clock()

    # -- for the application's requests

    def covers(self, url: str) -> bool:
        """Say whether an access token may go there.

        The cookie's own routes get none: there it is of no use, and a refresh for their 401 would never end.
        """
        try:
            origin = origin_of(url)
        except ValueError:  # no HTTP: a WebSocket, or what a transport of the application's has an address for
            return False
        return origin in self._origins and origin + urlsplit(url).path not in self._cookie_routes

    def obtain(self, spare: float, rejected: str | None = None) -> Generator[Future[None], object, Stored]:
        """Get an access token that is not `rejected` and lasts for `spare` seconds; yields what has to be waited for.

        Raises: SessionEnded; Unavailable, Refused, StoreFault: there is no such token, and none can be had now.
        """
        for _ in range(_TRIES):
            state = self._state
            if self._has(state, spare, rejected):
                return state.stored
            if self._clock() < state.retry_at:
                break
            yield self._flight(state)
            if self._state.fault is not None:
                break
        state = self._state
        if self._has(state, 0, rejected):
            return state.stored
        raise Unavailable("network") if state.fault is None else state.fault.anew()

    def _has(self, state: State, spare: float, rejected: str | None) -> bool:
        return state.stored.access_token != rejected and state.stored.usable(self._clock(), spare)

    def may_renew(self, url: str) -> bool:
        """Say whether a 401 of the API at this address may start a refresh."""
        return self._clock() >= self._calm_until.get(origin_of(url), 0.0)

    def calm_down(self, url: str) -> None:
        """Note that the API at this address, which is one of those that get tokens, refused even a new one."""
        self._calm_until[origin_of(url)] = self._clock() + CALM

    # -- one refresh at a time

    def _flight(self, seen: State) -> Future[None]:
        """Join the refresh that is under way, or begin one, unless something has changed since `seen`."""
        with self._guard:
            if self._flying is not None:
                return self._flying
            flight: Future[None] = Future()
            # Nobody who stops waiting may cancel it for the others.
            flight.set_running_or_notify_cancel()
            if self._state is not seen:
                flight.set_result(None)
                return flight
            # A daemon, for a program that ends must not wait for it: to be killed is to lose an answer, no more.
            thread = threading.Thread(target=self._fly, args=(flight, seen), name="keyturn refresh", daemon=True)
            try:
                thread.start()
            except RuntimeError as fault:  # the system has no thread for it now
                self._state = seen.failed(Unavailable("network", detail=str(fault)), self._clock())
                flight.set_result(None)
                return flight
            self._flying = flight
            return flight

    def _fly(self, flight: Future[None], seen: State) -> None:
        state, defect = seen, None
        try:
            state = State(self._renewed(seen.stored.access_token))
        except AuthError as fault:
            state = seen.failed(fault, self._clock())
        except BaseException as fault:  # noqa: BLE001 - raised again where it is waited for
            defect = fault
        with self._guard:
            # A login or logout that came between is newer.
            if self._state is seen:
                self._state = state
            self._flying = None
        if defect is None:
            flight.set_result(None)
        else:
            flight.set_exception(defect)

    def _renewed(self, stale: str | None) -> Stored:
        """Adopt what another process has got, or refresh. Raises: AuthError.

        Why a refresh, too, when a person has acted here: only this process can tell the server, and where another one is always
        the first to refresh, it never would.
        """
        with self._store.alone(LOCK_LIMIT):
            for _ in range(_TRIES):
                held, acted_at = self._load(), self._acted_at
                if held.refresh_token is None:
                    raise SessionEnded("no_session", reason=held.reason)
                found = held.access_token != stale and held.usable(self._clock(), SPARE)
                if found and acted_at == self._told_at:
                    return held
                activity = {} if acted_at is None else {"idle_seconds": round(self._clock() - acted_at)}
                try:
                    new = self._ask("/refresh", activity, held)
                except SessionEnded as ended:
                    # Only if it is still this session that is kept: another process may have signed in anew.
                    if self._store.replace(held, held.signed_out(ended.reason)):
                        raise
                    continue
                except AuthError:
                    if found:
                        return held
                    raise
                self._told_at = acted_at
                if self._store.replace(held, new):
                    return new
        raise Unavailable("session_changed")

    # -- login and logout

    def _enter(self, path: str, body: Mapping[str, object]) -> User:
        """Sign in and keep it; whoever was signed in before is signed out. Raises: AuthError."""
        with self._store.alone(LOCK_LIMIT):
            held = self._load()
            new = self._ask(path, {name: value for name, value in body.items() if value is not None}, held)
            # The newest login counts, whatever another process has written meanwhile.
            while not self._store.replace(self._store.load(), new):
                pass
        self._adopt(new)
        self.acted()
        self._told_at = self._acted_at
        user = new.user
        assert user is not None  # noqa: S101 - read_sign_in gives none without
        return user

    def _leave(self, everywhere: bool) -> None:
        """End the session at the server, then forget it. Raises: AuthError: it is kept, so that this may be called again."""
        with self._store.alone(LOCK_LIMIT):
            held = self._load()
            while held.refresh_token is not None:
                self._post("/logout", {"everywhere": everywhere}, held)
                if self._store.replace(held, held.signed_out("logout")):
                    break
                held = self._load()
        self._adopt(held.signed_out("logout"))

    def _forget(self) -> None:
        """Forget the session without telling the server, where it lives on until it expires."""
        held = self._load()
        while not self._store.replace(held, held.signed_out("logout")):
            held = self._load()
        self._adopt(held.signed_out("logout"))

    def _adopt(self, stored: Stored) -> None:
        with self._guard:
            self._state = State(stored)

    # -- requests

    def _load(self) -> Stored:
        """Load what is kept. Raises: StoreFault: it is another server's."""
        held = self._store.load()
        if held.server not in {"", self._base}:
            # Why: tokens of one server are not shown to another because a setting was changed.
            raise StoreFault("store_foreign", detail=f"the store holds tokens of {held.server}, not of {self._base}")
        return held

    def _ask(self, path: str, body: Mapping[str, object], held: Stored) -> Stored:
        at = self._clock()
        return read_sign_in(self._post(path, body, held), held, self._base, at)

    def _post(self, path: str, body: Mapping[str, object], held: Stored) -> Answer:
        """Send what is kept with a request. Raises: AuthError: it was not answered with success."""
        headers = {
            "Accept": "application/json",
            # No proxy's compressed answer, whose size would not be known before.
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            # The server's three locks against foreign pages ask this of every client.
            "Origin": self._origin,
            "User-Agent": "keyturn-python",
            "X-Keyturn": "1",
        }
        cookies = ((REFRESH_COOKIE, held.refresh_token), (DEVICE_COOKIE, held.device_token))
        if cookie := "; ".join(f"{name}={value}" for name, value in cookies if value is not None):
            headers["Cookie"] = cookie
        # Made once: to read the authorities takes a tenth of a second.
        if self._verify is None:
            self._verify = self.library.create_ssl_context()
        # No proxy leads to this machine: with plain http it would read the password.
        options = {"verify": self._verify, "proxy": self._proxy, "trust_env": not self._local}
        try:
            answer = post(self.library, self._base + path, headers, json.dumps(body).encode(), options)
        except NoAnswer as fault:
            raise Unavailable(fault.code, detail=fault.detail) from fault
        if not 200 <= answer.status < 300:
            raise read_error(answer)
        return answer


_sessions: Final = WeakSet[Session]()


def _start_all_over() -> None:
    for session in tuple(_sessions):
        session.start_over()


# When it is forked, and not when it is next used: who waited there for a lock of a thread that is gone would wait for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_all_over)


def origin_of(url: str) -> str:
    """Return `scheme://host[:port]` in lower case, with the port only where it is not the scheme's own.

    Raises: ValueError: this is no http or https URL.
    """
    parts = urlsplit(url)
    scheme, host, port = parts.scheme.lower(), parts.hostname, parts.port
    if scheme not in {"http", "https"} or not host:
        raise ValueError(f"{url.rpartition('@')[2]!r} is not an address such as https://auth.example.com")
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}" + ("" if port in {None, 443 if scheme == "https" else 80} else f":{port}")
