"""What goes wrong between a program and the server: nothing is lost, and every error says what it is."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from time import time
from typing import Any

import anyio
import pytest

from keyturn.client import (
    AuthError,
    KeyturnAuth,
    MemoryTokenStore,
    Refused,
    SessionEnded,
    Stored,
    StoreFault,
    Unavailable,
    User,
)
from keyturn.client.errors import read_error
from keyturn.client.reading import read_sign_in
from keyturn.client.session import State
from keyturn.client.wire import Answer
from keyturn.core.events import EventType
from tests.browser.client.site import Site
from tests.client_python.api import Api
from tests.client_python.people import ACCOUNT, Kind, Program, expire, open_program
from tests.services import free_port
from tests.verify.conftest import no_threads

pytestmark = pytest.mark.anyio
# Seconds: longer than any machine takes for fifty requests.
COOL_DOWN = 600.0
CONTRACT = json.loads((Path(__file__).parents[2] / "spec" / "errors.json").read_text())["errors"]


@pytest.fixture
def store() -> MemoryTokenStore:
    """What the program of a test keeps."""
    return MemoryTokenStore()


@pytest.fixture
async def expired(site: Site, make_program: Callable[..., Any], store: MemoryTokenStore) -> Program:
    """A program that has just started, and whose store holds an expired token."""
    await (await make_program(store=store)).log_in()
    expire(store)
    made: Program = await make_program(store=store)
    return made


def test_no_thread_to_refresh_in(site: Site, store: MemoryTokenStore) -> None:
    """Where the system gives no thread it is a fault like any other: with a code, and nothing is lost by it."""
    KeyturnAuth(site.url, store=store).log_in(ACCOUNT["email"], ACCOUNT["password"])
    expire(store)
    auth = KeyturnAuth(site.url, store=store)
    with no_threads():
        for _ in range(2):
            with pytest.raises(Unavailable) as caught:
                auth.token()
            assert (caught.value.code, caught.value.retryable) == ("network", True)
            assert "thread" in str(caught.value)
    assert KeyturnAuth(site.url, store=store).token()


def _signed_in(auth: KeyturnAuth) -> Stored:
    user = User("1", "ada@example.com")
    return Stored(auth._base, "newer", None, "access", time() + 600, 600, "session", user, "")


def test_session_that_ends_while_somebody_signs_in_anew(
    store: MemoryTokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has, before the answer came: the end is of the former session, and the new one stays."""
    auth = KeyturnAuth("http://localhost:1", store=store)
    store.replace(Stored(), Stored(auth._base, "former"))

    def end(_path: str, _body: object, held: Stored) -> Stored:
        store.replace(held, _signed_in(auth))
        raise SessionEnded("session_ended", reason="replaced")

    monkeypatch.setattr(auth, "_ask", end)
    assert auth.token() == "access"
    assert store.load().refresh_token == "newer"


def test_login_counts_that_is_answered_after_another(store: MemoryTokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process has written meanwhile is older than its answer."""
    auth = KeyturnAuth("http://localhost:1", store=store)

    def answer(_path: str, _body: object, held: Stored) -> Stored:
        assert store.replace(held, Stored(auth._base, "another"))
        return _signed_in(auth)

    monkeypatch.setattr(auth, "_ask", answer)
    assert auth.log_in(**ACCOUNT).id == "1"
    assert store.load().refresh_token == "newer"


@pytest.mark.parametrize(("asked", "pause"), [(None, 1), (600.0, 600), (1e9, 3600)])
def test_pause_that_the_server_asks_for_is_made(asked: float | None, pause: float) -> None:
    """Up to an hour; without its word it is a second, and half of one more at random."""
    state = State().failed(Unavailable("unavailable", 503, retry_after=asked), 0.0)
    assert pause <= state.retry_at <= max(pause, 1.5)


def test_refresh_that_fails_after_a_logout_brings_nobody_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was known when it began is old by then: its token still lasts, and would be sent."""
    auth, over = KeyturnAuth("http://localhost:1"), threading.Event()

    def fail(_stale: str | None) -> Stored:
        over.wait(30)
        raise Unavailable("network")

    monkeypatch.setattr(auth, "_renewed", fail)
    auth._adopt(Stored(access_token="access", user=User("1", "ada@example.com")))
    flight = auth._flight(auth._state)
    auth.forget()
    over.set()
    flight.result(30)
    assert (auth.user, auth._state.stored.access_token) == (None, None)


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_lost_answer_is_asked_for_again_with_the_same_cookie(
    site: Site, expired: Program, store: MemoryTokenStore, make_program: Callable[..., Any], moment: str
) -> None:
    """Cut off before the server had the request, or when it had answered with a cookie that nobody received."""
    former, before = store.load(), len(site.proxy.refreshes)
    site.proxy.drop("/auth/refresh", "before" if moment == "before" else "after")
    with pytest.raises(Unavailable) as caught:
        await expired.get()
    assert (caught.value.code, caught.value.status, caught.value.retryable) == ("network", 0, True)
    assert store.load() == former
    # A process that starts now knows of no cool-down.
    assert (await (await make_program(store=store)).get()).status_code == 200
    lost, found = site.proxy.refreshes[before:]
    assert (lost.status, found.status) == (None if moment == "before" else 200, 200)
    assert lost.headers["cookie"] == found.headers["cookie"]
    assert store.load().refresh_token != former.refresh_token


async def test_unavailable_server_is_asked_once_in_a_cool_down(site: Site, expired: Program) -> None:
    """A 503 is a typed error for each of fifty requests and one refresh; when it is over, all is well."""
    before = len(site.proxy.refreshes)
    site.proxy.fault("/auth/refresh", status=503, retry_after=COOL_DOWN)
    errors: list[AuthError] = []

    async def one() -> None:
        try:
            await expired.get()
        except AuthError as error:
            errors.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(one)
    assert {(type(error), error.code, error.status, error.retry_after) for error in errors} == {
        (Unavailable, "unexpected_answer", 503, COOL_DOWN)
    }
    # An error is raised anew for everybody and never shared.
    assert len({id(error) for error in errors}) == len(errors) == 50
    assert len(site.proxy.refreshes) - before == 1
    # To the client a machine that slept and a date put ahead are the same: the cool-down is over.
    expired.auth._clock._ahead += COOL_DOWN
    assert (await expired.get()).status_code == 200
    assert len(site.proxy.refreshes) - before == 2


async def test_full_disk_is_no_refresh_for_each_request(
    site: Site, expired: Program, store: MemoryTokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be kept is asked for again after a cool-down only: all requests fail, and the server must not pay for it."""
    before = len(site.proxy.refreshes)

    def refuse(_former: Stored, _new: Stored) -> bool:
        raise StoreFault("store_unavailable", detail="No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(store, "replace", refuse)
        for _ in range(10):
            with pytest.raises(StoreFault, match="No space"):
                await expired.get()
    assert len(site.proxy.refreshes) - before == 1
    expired.auth._clock._ahead += COOL_DOWN
    assert (await expired.get()).status_code == 200


async def test_fault_before_the_token_ends_is_no_fault(
    site: Site, make_program: Callable[..., Any], store: MemoryTokenStore
) -> None:
    """A refresh that is due soon fails: the token that still lasts is sent."""
    await (await make_program(store=store)).log_in()
    held = store.load()
    assert store.replace(held, held._replace(expires_at=held.expires_at - held.expires_in + 20))
    program = await make_program(store=store)
    assert (await program.get()).status_code == 200
    site.proxy.fault("/auth/refresh", status=503)
    # A stream wants 30 s.
    assert (await program.stream("/note", b"once")).status_code == 204


async def test_gateway_that_answers_401_signs_nobody_out(site: Site, expired: Program, store: MemoryTokenStore) -> None:
    """Only the server's own codes end a session."""
    former = store.load()
    site.proxy.fault("/auth/refresh", status=401)
    with pytest.raises(Refused) as caught:
        await expired.get()
    assert (caught.value.code, caught.value.status) == ("unexpected_answer", 401)
    assert store.load() == former


async def test_answer_without_a_token_is_none(site: Site, expired: Program, store: MemoryTokenStore) -> None:
    """A page with status 200 changes nothing."""
    former = store.load()
    site.proxy.fault("/auth/refresh", status=200)
    with pytest.raises(Unavailable) as caught:
        await expired.get()
    assert caught.value.code == "unexpected_answer"
    assert store.load() == former


@pytest.mark.parametrize("lifetime", ["1" + "0" * 400, "1e400", "-1", "true", '"600"', "null"])
def test_answer_with_a_lifetime_that_is_none(lifetime: str) -> None:
    """It is an answer that does not count, like any other, and nothing that the token file could not hold."""
    body = f'{{"access_token": "a", "expires_in": {lifetime}, "user": {{"id": "1", "email": "a@b.c"}}, "session": {{"id": "0"}}}}'
    with pytest.raises(Unavailable) as caught:
        read_sign_in(Answer(200, [], body.encode()), Stored(refresh_token="kt_rt_token"), "https://auth.test", 0.0)
    assert caught.value.code == "unexpected_answer"


def test_name_of_the_device_that_is_no_token_is_not_kept() -> None:
    """It opens nothing, so the sign-in counts without it; a file that held it could not be read again."""
    body = b'{"access_token": "a", "expires_in": 600, "user": {"id": "1", "email": "a@b.c"}, "session": {"id": "0"}}'
    answer = Answer(200, [("set-cookie", '__Host-kt_device="a b"; Secure')], body)
    kept = read_sign_in(answer, Stored(refresh_token="kt_rt_token"), "https://auth.test", 0.0)
    assert (kept.refresh_token, kept.device_token) == ("kt_rt_token", None)


async def test_request_that_comes_to_be_sent_too_late_is_not(
    site: Site,
    expired: Program,
    make_program: Callable[..., Any],
    store: MemoryTokenStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that was stopped, or had no network, carries a cookie that others have gone on from: it would be reuse."""
    stopped, goes_on = threading.Event(), threading.Event()
    connect = socket.create_connection

    def stop(*args: Any, **more: Any) -> socket.socket:
        if threading.current_thread().name == "keyturn refresh" and not stopped.is_set():
            stopped.set()
            goes_on.wait(60)
        return connect(*args, **more)

    monkeypatch.setattr(socket, "create_connection", stop)
    monkeypatch.setattr("keyturn.client.session.LOCK_LIMIT", 0.1)
    monkeypatch.setattr("keyturn.client.wire.LIMIT", 3.0)
    other = await make_program(store=store)
    late = asyncio.create_task(expired.get())
    await asyncio.to_thread(stopped.wait, 60)
    began = asyncio.get_running_loop().time()
    for _ in range(3):
        assert (await other.get()).status_code == 200
        site.clock.ahead += 700
        expire(store)
    await asyncio.sleep(began + 3.0 - asyncio.get_running_loop().time())
    before = len(site.proxy.refreshes)
    goes_on.set()
    with pytest.raises(Unavailable) as caught:
        await late
    assert caught.value.code == "timeout"
    assert len(site.proxy.refreshes) == before
    assert (await other.get()).status_code == 200


@pytest.mark.parametrize(
    "sent", [b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 102 Processing\r\n\r\n"], ids=["head", "interim"]
)
async def test_answer_that_never_ends(
    kind: Kind, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """A server that sends something now and then is listened to no longer than any other."""
    monkeypatch.setattr("keyturn.client.wire.LIMIT", 0.5)

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        while not writer.is_closing():
            await asyncio.sleep(0.05)
            writer.write(sent if sent.endswith(b"\n") else b"x")
            with suppress(ConnectionError):
                await writer.drain()

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
        program = await open_program(stack, kind, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with anyio.fail_after(10):
            with pytest.raises(Unavailable) as caught:
                await program.log_in()
        assert caught.value.code == "timeout"


async def test_redirect_of_the_server_is_not_followed(api: Api, kind: Kind, stack: AsyncExitStack) -> None:
    """Neither a password nor a cookie is sent to an address that an answer names."""
    with Api() as stranger:
        api.leads_to = f"{stranger.url}/caught"
        program = await open_program(stack, kind, api.url)
        with pytest.raises(Refused) as caught:
            await program.log_in()
        assert (caught.value.code, caught.value.status) == ("unexpected_answer", 307)
        assert stranger.sent == []


async def test_proxy_of_the_environment_reads_no_password_for_this_machine(
    site: Site, api: Api, kind: Kind, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain http is allowed to a server here because nobody is on the way; elsewhere the environment's proxy counts."""
    monkeypatch.setenv("http_proxy", api.url)
    monkeypatch.setenv("HTTP_PROXY", api.url)
    await (await open_program(stack, kind, site.url)).log_in()
    assert api.sent == []
    with pytest.raises(AuthError):
        await (await open_program(stack, kind, "http://auth.internal", insecure=True)).log_in()
    assert len(api.sent) == 1


async def test_server_that_is_not_there_is_a_typed_error(kind: Kind, stack: AsyncExitStack) -> None:
    """Nobody listens: `network`, from a login; its text says what the system met."""
    program = await open_program(stack, kind, f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Unavailable) as caught:
        await program.log_in()
    assert caught.value.code == "network"
    assert "refused" in str(caught.value)


async def test_fault_of_tls_is_told_from_a_server_that_is_away(
    api: Api, kind: Kind, stack: AsyncExitStack, store: MemoryTokenStore
) -> None:
    """Somebody has to act, so the text says it: of a login, of a request, and of one in the cool-down after it."""
    url = api.url.replace("http://", "https://")
    held = Stored(server=f"{url}/auth", refresh_token="kt_rt_token", user=User("1", "ada@example.com"))
    assert store.replace(Stored(), held)
    program = await open_program(stack, kind, url, store=store)
    for call in (program.log_in, program.get, program.get):
        with pytest.raises(Unavailable, match=r"^network: ConnectError: .*SSL") as caught:
            await call()
        assert caught.value.retryable


async def test_answer_that_is_no_http_is_not_repeated(kind: Kind, stack: AsyncExitStack) -> None:
    """The HTTP library's error quotes the line that it could not read, which may be a cookie."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(b"HTTP/1.1 200 OK\r\nSet-Cookie: __Host-kt_refresh=kt_rt_token\x00\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        program = await open_program(stack, kind, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(Unavailable) as caught:
            await program.log_in()
    assert str(caught.value) == "network: RemoteProtocolError"


async def test_wrong_password_is_refused_with_the_servers_code(site: Site, make_program: Callable[..., Any]) -> None:
    """The error has the code, the status and the id by which the server's log knows the request."""
    program = await make_program()
    with pytest.raises(Refused) as caught:
        await program.run(program.auth.log_in, ACCOUNT["email"], "not the right passphrase")
    error = caught.value
    assert (error.code, error.status, error.retryable) == ("invalid_credentials", 401, False)
    assert error.request_id
    assert ACCOUNT["email"] not in str(error)
    with pytest.raises(Refused) as caught:
        await program.run(program.auth.sign_up, **ACCOUNT)
    assert caught.value.code == "conflict"


async def test_foreign_origin_is_refused_and_said_so(site: Site, kind: Kind, stack: AsyncExitStack) -> None:
    """A base URL that the server does not know as its own: `csrf_refused`, a fault of the configuration."""
    program = await open_program(stack, kind, site.url.replace("localhost", "127.0.0.1"))
    with pytest.raises(Refused) as caught:
        await program.log_in()
    assert caught.value.code == "csrf_refused"


async def test_logout_ends_the_session_at_the_server(site: Site, program: Program) -> None:
    """Afterwards nothing is sent, its access token is dead, and a second logout does no harm."""
    token = await program.run(program.auth.token)
    await program.run(program.auth.log_out)
    await program.run(program.auth.log_out)
    with pytest.raises(SessionEnded) as caught:
        await program.get()
    assert caught.value.reason == "logout"
    answer = await program.run(program.client.get, "/api/who", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 401
    await program.log_in()
    assert (await program.get()).status_code == 200


async def test_logout_that_the_server_did_not_hear_may_be_repeated(
    site: Site, make_program: Callable[..., Any], store: MemoryTokenStore
) -> None:
    """The session is kept until the server has ended it; `forget` drops it all the same."""
    program = await make_program(store=store)
    await program.log_in()
    site.proxy.drop("/auth/logout", "before", times=1)
    with pytest.raises(Unavailable):
        await program.run(program.auth.log_out)
    assert (await program.get()).status_code == 200
    await program.run(program.auth.log_out, everywhere=True)
    assert store.load().refresh_token is None
    await program.log_in()
    await program.run(program.auth.forget)
    with pytest.raises(SessionEnded):
        await program.get()


async def test_ended_session_says_why_and_leaves_the_store(
    site: Site, make_program: Callable[..., Any], store: MemoryTokenStore
) -> None:
    """Another device ends it: each process is told the reason once it asks, and the tokens are gone."""
    program, second, other = [await make_program(store=store), await make_program(store=store), await make_program()]
    await program.log_in()
    await second.get()
    await other.log_in()
    assert (await other.run(other.client.delete, f"/auth/sessions/{store.load().session_id}")).status_code == 204
    for one in (program, second):
        with pytest.raises(SessionEnded) as caught:
            await one.get()
        assert caught.value.reason == "revoked"
    kept = store.load()
    assert (kept.refresh_token, kept.access_token, kept.user) == (None, None, None)
    assert (await other.get()).status_code == 200


async def test_device_is_known_again_at_the_next_login(
    site: Site, make_program: Callable[..., Any], store: MemoryTokenStore
) -> None:
    """The device cookie outlives the session, so the next login is none from a new device."""
    program = await make_program(store=store)
    await program.log_in()
    await program.run(program.auth.log_out)
    before = len(site.happened(EventType.NEW_DEVICE))
    await program.log_in()
    assert len(site.happened(EventType.NEW_DEVICE)) == before


async def test_second_login_ends_the_first_session(
    site: Site, make_program: Callable[..., Any], store: MemoryTokenStore
) -> None:
    """One store has one session; the server does not keep what nobody holds."""
    program = await make_program(store=store)
    await program.log_in()
    first = store.load().session_id
    await program.log_in()
    listed = (await program.get("/auth/sessions")).json()["sessions"]
    assert store.load().session_id != first
    assert first not in {one["id"] for one in listed}


async def test_activity_is_told_and_a_refresh_is_none(
    site: Site, make_program: Callable[..., Any], store: MemoryTokenStore
) -> None:
    """A program that nobody has acted in says nothing; after `acted` it says how long ago."""
    await (await make_program(store=store)).log_in()
    program = await make_program(store=store)
    expire(store)
    await program.get()
    assert site.proxy.refreshes[-1].json == {}
    program.auth.acted()
    site.clock.ahead += 700
    await program.get()
    assert 0 <= site.proxy.refreshes[-1].json["idle_seconds"] < 60


async def test_activity_that_cannot_be_told_keeps_nobody_from_a_token_that_is_there(
    site: Site, make_program: Callable[..., Any], store: MemoryTokenStore
) -> None:
    """Another process has got a token: it is taken when the server does not answer, and the activity is told with the next one."""
    await (await make_program(store=store)).log_in()
    program = await make_program(store=store)
    program.auth.acted()
    site.proxy.fault("/auth/refresh", status=503)
    held = store.load()
    assert (await program.get()).status_code == 200
    assert store.load() == held
    site.clock.ahead += 700
    expire(store)
    await program.get()
    assert 0 <= site.proxy.refreshes[-1].json["idle_seconds"] < 60


async def test_tokens_of_one_server_are_not_shown_to_another(
    make_program: Callable[..., Any], store: MemoryTokenStore, kind: Kind, stack: AsyncExitStack
) -> None:
    """A changed base URL over an old store is refused before anything is sent."""
    await (await make_program(store=store)).log_in()
    held = store.load()
    with Api() as stranger:
        program = await open_program(stack, kind, stranger.url, store=store)
        for call in (program.get, program.log_in):
            with pytest.raises(StoreFault) as caught:
                await call()
            assert caught.value.code == "store_foreign"
        assert stranger.sent == []
    assert store.load() == held


@pytest.mark.parametrize("error", CONTRACT, ids=[error["code"] for error in CONTRACT])
def test_error_of_the_contract_is_read_as_it_is_meant(error: dict[str, Any]) -> None:
    """Who is signed out, and what may be tried again, is as `spec/errors.json` says."""
    reasons = error.get("reasons", [None])
    for reason in reasons:
        body = json.dumps({"code": error["code"], "detail": "why", "reason": reason, "request_id": "0123abcd"})
        found = read_error(Answer(error["status"], [("retry-after", "7")], body.encode()))
        assert (found.code, found.status, found.request_id) == (error["code"], error["status"], "0123abcd")
        assert found.retry_after == 7.0
        assert found.retryable == error["retryable"]
        assert isinstance(found, SessionEnded) == (error["client"] == "sign_out")
        assert found.reason == ("" if error["client"] != "sign_out" else reason or "expired")
        assert str(found.anew()) == str(found)


@pytest.mark.parametrize(
    "url",
    [
        "auth.example.com",
        "ftp://auth.example.com",
        "http://auth.example.com",
        "https://",
        "https://b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example",
        "https://auth example.com",
        "https://auth.example.com ",
    ],
)
def test_address_that_is_not_safe_is_refused(url: str) -> None:
    """No scheme, another one, plain http to another machine, or a host as no request writes it."""
    with pytest.raises(ValueError, match="https"):
        KeyturnAuth(url)


@pytest.mark.parametrize("base_path", ["auth", ".example.org/auth", ":8000/auth", "@example.org/auth", "/auth/", "/"])
def test_base_path_that_is_no_path_is_refused(base_path: str) -> None:
    """Without its slash it would lead to another host, which would be told the password."""
    with pytest.raises(ValueError, match="/auth"):
        KeyturnAuth("https://auth.example.com", base_path=base_path)


def test_path_in_the_address_of_the_server_is_refused() -> None:
    """It was dropped, and a program met somebody else's answer; a slash at the end says nothing."""
    with pytest.raises(ValueError, match=r"'/login/auth' is no part .* base_path"):
        KeyturnAuth("https://auth.example.com/login/auth")
    assert KeyturnAuth("https://auth.example.com/").covers("https://auth.example.com/api")


def test_plain_http_to_another_machine_has_a_loud_switch() -> None:
    """Inside a network that protects its traffic otherwise."""
    assert KeyturnAuth("http://auth.internal:8000", insecure=True).covers("http://auth.internal:8000/api")
