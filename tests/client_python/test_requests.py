"""The application's requests: which get a token, what a 401 does, and how often."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import update

import keyturn.client.httpx
from keyturn.client import KeyturnAuth, MemoryTokenStore, SessionEnded
from keyturn.runtime import Keyturn
from keyturn.stores.schema import users
from tests.browser.client.site import Site
from tests.client_python.api import Api
from tests.client_python.people import ACCOUNT, PARALLEL, Program, expire, pieces_async
from tests.services import wait_until

pytestmark = pytest.mark.anyio
HOUR_OF_TOKENS = 700
"""Seconds: more than an access token lives."""


async def test_parallel_requests_with_an_expired_token_make_one_refresh(site: Site, program: Program) -> None:
    """Fifty requests at once, refused with 401: one refresh, and each that was refused succeeds at its second try."""
    before, asked = len(site.proxy.refreshes), len(site.proxy.to("/api/who"))
    site.clock.ahead += HOUR_OF_TOKENS
    answers = await program.storm()
    assert [answer.status_code for answer in answers] == [200] * PARALLEL
    assert len(site.proxy.refreshes) - before == 1
    # A thread that comes late finds the new token: it is refused nothing, and sends nothing twice.
    sent = site.proxy.to("/api/who")[asked:]
    refused = [one for one in sent if one.status == 401]
    assert refused
    assert len(sent) == PARALLEL + len(refused)


async def test_parallel_requests_of_a_new_process_make_one_refresh(
    site: Site, make_program: Callable[..., Any]
) -> None:
    """The store holds an expired token: it is not sent, one refresh is made, and no request needs a second try."""
    store = MemoryTokenStore()
    await (await make_program(store=store)).log_in()
    expire(store)
    before, asked = len(site.proxy.refreshes), len(site.proxy.to("/api/who"))
    answers = await (await make_program(store=store)).storm()
    assert [answer.status_code for answer in answers] == [200] * PARALLEL
    assert len(site.proxy.refreshes) - before == 1
    assert len(site.proxy.to("/api/who")) - asked == PARALLEL


async def test_fresh_token_of_the_store_needs_no_refresh(site: Site, make_program: Callable[..., Any]) -> None:
    """A process that starts while the token is good takes it as it is."""
    store = MemoryTokenStore()
    await (await make_program(store=store)).log_in()
    before = len(site.proxy.refreshes)
    second = await make_program(store=store)
    assert (await second.get()).json() == {"email": ACCOUNT["email"]}
    assert second.auth.user.email == ACCOUNT["email"]
    assert len(site.proxy.refreshes) == before


async def test_token_of_a_short_life_is_refreshed_once_a_life(site: Site, make_program: Callable[..., Any]) -> None:
    """A token that lives shorter than what is asked for is used all the same: no refresh for each request."""
    store = MemoryTokenStore()
    await (await make_program(store=store)).log_in()
    held = store.load()
    assert store.replace(held, held._replace(expires_in=8.0, expires_at=time.time() + 8.0))
    before = len(site.proxy.refreshes)
    program = await make_program(store=store)
    assert [answer.status_code for answer in await program.storm(5)] == [200] * 5
    assert len(site.proxy.refreshes) == before


async def test_token_kept_by_a_clock_that_was_ahead_is_not_taken_for_a_good_one(
    site: Site, make_program: Callable[..., Any]
) -> None:
    """It may have ended: who starts when the clock is set right again refreshes once, and gets a token that is good."""
    store = MemoryTokenStore()
    await (await make_program(store=store)).log_in()
    site.clock.ahead += HOUR_OF_TOKENS
    held = store.load()
    assert store.replace(held, held._replace(expires_at=held.expires_at + 86400))
    before = len(site.proxy.refreshes)
    program = await make_program(store=store)
    token = await program.run(program.auth.token)
    assert token != held.access_token
    assert (await program.get()).status_code == 200
    assert len(site.proxy.refreshes) - before == 1


async def test_api_that_refuses_every_token_is_asked_twice(site: Site, program: Program) -> None:
    """A 401 to a new token is the API's own: its answer is returned, and its next 401 starts no refresh."""
    before = len(site.proxy.refreshes)
    asked = len(site.proxy.to("/api/never"))
    assert (await program.get("/api/never")).status_code == 401
    assert len(site.proxy.to("/api/never")) - asked == 2
    assert (await program.get("/api/never")).status_code == 401
    assert len(site.proxy.to("/api/never")) - asked == 3
    assert len(site.proxy.refreshes) - before == 1
    assert (await program.get()).status_code == 200


async def test_api_that_refuses_every_token_takes_no_refresh_from_another(
    site: Site, api: Api, make_program: Callable[..., Any]
) -> None:
    """What is wrong with one API says nothing about the tokens at the next one."""
    program = await make_program(origins=[site.url, api.url])
    await program.log_in()
    before = len(site.proxy.refreshes)
    assert (await program.get("/api/never")).status_code == 401
    assert len(site.proxy.refreshes) - before == 1
    api.refused = {f"Bearer {site.proxy.to('/api/never')[-1].bearer}"}
    assert (await program.get(api.url)).status_code == 200
    assert len(site.proxy.refreshes) - before == 2
    assert (await program.get("/api/never")).status_code == 401
    assert len(site.proxy.refreshes) - before == 2


async def test_challenge_for_a_newer_login_makes_no_refresh(
    site: Site, api: Api, make_program: Callable[..., Any]
) -> None:
    """Step-up wants the person: another token of the same login would be refused again."""
    program = await make_program(origins=[api.url])
    await program.log_in()
    api.refuses_all, api.challenge = True, 'Bearer error="insufficient_user_authentication", max_age=60'
    before = len(site.proxy.refreshes)
    assert (await program.get(api.url)).status_code == 401
    assert len(api.sent) == 1
    assert len(site.proxy.refreshes) == before


async def test_body_in_memory_is_sent_again_as_it_was(api: Api, make_program: Callable[..., Any]) -> None:
    """The second try has the same body and another token."""
    program = await make_program(origins=[api.url])
    await program.log_in()
    api.refused = {f"Bearer {await program.run(program.auth.token)}"}
    answer = await program.run(program.client.post, f"{api.url}/notes", json={"text": "hello"})
    assert answer.status_code == 200
    first, second = api.sent
    assert first.body == second.body != b""
    assert first.authorization in api.refused
    assert second.authorization not in api.refused


async def test_streamed_body_is_never_sent_twice(site: Site, api: Api, make_program: Callable[..., Any]) -> None:
    """Its 401 is returned, and costs no refresh."""
    program = await make_program(origins=[api.url])
    await program.log_in()
    api.refuses_all = True
    before = len(site.proxy.refreshes)
    assert (await program.stream(f"{api.url}/upload", b"once")).status_code == 401
    assert [one.body for one in api.sent] == [b"once"]
    assert len(site.proxy.refreshes) == before


async def test_streamed_body_goes_out_with_a_token_that_lasts(
    site: Site, api: Api, make_program: Callable[..., Any]
) -> None:
    """A token with 20 s left does for a request that can be repeated, and is renewed before a stream."""
    store = MemoryTokenStore()
    await (await make_program(store=store)).log_in()
    held = store.load()
    assert store.replace(held, held._replace(expires_at=held.expires_at - held.expires_in + 20))
    program = await make_program(store=store, origins=[api.url])
    before = len(site.proxy.refreshes)
    await program.get(f"{api.url}/notes")
    assert len(site.proxy.refreshes) == before
    await program.stream(f"{api.url}/upload", b"once")
    assert len(site.proxy.refreshes) - before == 1
    assert api.sent[0].authorization != api.sent[1].authorization == f"Bearer {store.load().access_token}"


async def test_no_token_goes_to_another_origin(site: Site, api: Api, program: Program) -> None:
    """Only the server's own origin gets tokens unless others are named; the port counts. Cookies go nowhere else."""
    assert (await program.get(f"{api.url}/notes")).status_code == 200
    [one] = api.sent
    assert one.authorization is None
    assert one.cookie is None
    asked = len(site.proxy.to("/api/who"))
    await program.get()
    assert "cookie" not in site.proxy.to("/api/who")[asked].headers
    assert len(program.client.cookies) == 0


async def test_named_origins_take_the_place_of_the_servers(
    site: Site, api: Api, make_program: Callable[..., Any]
) -> None:
    """Where others are named, the server's own origin gets tokens only if it is among them."""
    program = await make_program(origins=[api.url])
    await program.log_in()
    await program.get(f"{api.url}/notes")
    assert api.sent[0].authorization is not None
    asked = len(site.proxy.to("/api/who"))
    assert (await program.get()).status_code == 401
    assert "authorization" not in site.proxy.to("/api/who")[asked].headers


async def test_redirect_to_another_origin_gets_no_token(site: Site, api: Api, make_program: Callable[..., Any]) -> None:
    """The library takes the token away, and a 401 from over there neither brings it back nor starts a refresh."""
    with Api() as stranger:
        api.leads_to, stranger.refuses_all = f"{stranger.url}/caught", True
        program = await make_program(origins=[api.url])
        await program.log_in()
        before = len(site.proxy.refreshes)
        assert (await program.get(f"{api.url}/notes")).status_code == 401
        assert [one.authorization is None for one in api.sent] == [False]
        assert [one.authorization for one in stranger.sent] == [None]
        assert len(site.proxy.refreshes) == before


async def test_address_that_is_no_http_gets_no_token_and_passes(api: Api, make_program: Callable[..., Any]) -> None:
    """The opening of a WebSocket goes through the same client: whose address it is, the auth does not judge."""
    program = await make_program(origins=[api.url])
    await program.log_in()
    assert (await program.get(api.url.replace("http", "ws") + "/notes")).status_code == 200
    assert [one.authorization for one in api.sent] == [None]


async def test_authorization_of_the_caller_is_left_alone(
    site: Site, api: Api, make_program: Callable[..., Any]
) -> None:
    """It is sent as it is, also when it is refused."""
    program = await make_program(origins=[api.url])
    await program.log_in()
    api.refuses_all = True
    before = len(site.proxy.refreshes)
    answer = await program.run(program.client.get, f"{api.url}/notes", headers={"Authorization": "Basic eDp5"})
    assert answer.status_code == 401
    assert [one.authorization for one in api.sent] == ["Basic eDp5"]
    assert len(site.proxy.refreshes) == before


async def test_request_that_is_sent_again_is_sent_with_the_token_of_then(
    site: Site, api: Api, make_program: Callable[..., Any]
) -> None:
    """What it carries from the first time is ours and not the caller's: it may be expired, and nobody is signed in by it later."""
    store = MemoryTokenStore()
    program = await make_program(store=store, origins=[api.url])
    await program.log_in()
    request = program.client.build_request("GET", f"{api.url}/notes")
    assert (await program.run(program.client.send, request)).status_code == 200
    api.refused = {f"Bearer {store.load().access_token}"}
    assert (await program.run(program.client.send, request)).status_code == 200
    await program.log_in()
    assert (await program.run(program.client.send, request)).status_code == 200
    assert api.sent[-1].authorization == f"Bearer {store.load().access_token}"
    await program.run(program.auth.log_out)
    with pytest.raises(SessionEnded):
        await program.run(program.client.send, request)
    request.headers["authorization"] = "Basic eDp5"
    assert (await program.run(program.client.send, request)).status_code == 200
    assert api.sent[-1].authorization == "Basic eDp5"


async def test_routes_of_the_cookie_get_no_token(site: Site, program: Program) -> None:
    """A refresh for the 401 of a login would be of no use, and one for the 401 of a refresh would never end."""
    before = len(site.proxy.refreshes)
    answer = await program.run(program.client.post, "/auth/refresh", headers={"X-Keyturn": "1", "Origin": site.url})
    assert answer.json()["code"] == "no_session"
    [sent] = site.proxy.refreshes[before:]
    assert sent.bearer is None
    assert (await program.get("/auth/me")).json()["user"]["email"] == ACCOUNT["email"]


async def test_request_without_a_sign_in_is_not_sent(site: Site, make_program: Callable[..., Any]) -> None:
    """Who never signed in is told so before anything is sent."""
    asked = len(site.proxy.exchanges)
    with pytest.raises(SessionEnded) as caught:
        await (await make_program()).get()
    assert (caught.value.code, caught.value.reason) == ("no_session", "never")
    assert len(site.proxy.exchanges) == asked


async def test_request_asked_for_as_one_user_is_not_repeated_as_another(
    site: Site, api: Api, make_program: Callable[..., Any]
) -> None:
    """Another process signs somebody else in between a request and its 401: the 401 is returned."""
    store = MemoryTokenStore()
    program = await make_program(store=store, origins=[api.url])
    await program.log_in()
    api.refused = {f"Bearer {store.load().access_token}"}
    other = await make_program(store=store)
    body = {**ACCOUNT, "email": f"{program.kind.library.__name__}{program.kind.tasks}@example.com"}
    await other.run(other.auth.sign_up, **body)
    assert (await program.get(f"{api.url}/notes")).status_code == 401
    assert len(api.sent) == 1
    assert (await program.get(f"{api.url}/notes")).status_code == 200
    assert api.sent[1].authorization == f"Bearer {store.load().access_token}"


async def test_request_of_somebody_who_has_a_new_name_is_repeated(
    site: Site, api: Api, make_program: Callable[..., Any]
) -> None:
    """The person is the same, whatever the server calls them by now."""
    program = await make_program(origins=[api.url])
    await program.log_in()
    api.refused = {f"Bearer {await program.run(program.auth.token)}"}

    async def rename(node: Keyturn) -> None:
        async with node.engine.transaction() as connection:
            renamed = update(users).where(users.c.id == program.auth.user.id)
            await connection.execute(renamed.values(name=str(uuid4())))

    await asyncio.to_thread(site.call, rename)
    assert (await program.get(f"{api.url}/notes")).status_code == 200
    assert len(api.sent) == 2


async def test_one_auth_serves_threads_and_event_loops_with_one_refresh(site: Site, stack: AsyncExitStack) -> None:
    """Two event loops and a pool of threads share an auth: one refresh for all of them."""
    auth = keyturn.client.httpx.KeyturnAuth(site.url)
    await asyncio.to_thread(auth.log_in, **ACCOUNT)
    site.clock.ahead += HOUR_OF_TOKENS
    before = len(site.proxy.refreshes)
    statuses: list[int] = []

    async def tasks() -> None:
        async with httpx.AsyncClient(base_url=site.url, auth=auth, timeout=60) as client:
            statuses.extend(
                one.status_code for one in await asyncio.gather(*(client.get("/api/who") for _ in range(15)))
            )

    def blocking() -> None:
        with httpx.Client(base_url=site.url, auth=auth, timeout=60) as client:
            statuses.append(client.get("/api/who").status_code)

    threads = [threading.Thread(target=asyncio.run, args=(tasks(),)) for _ in range(2)]
    threads += [threading.Thread(target=blocking) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert statuses == [200] * 40
    assert len(site.proxy.refreshes) - before == 1


async def test_task_that_is_cancelled_leaves_the_refresh_to_the_others(site: Site, stack: AsyncExitStack) -> None:
    """The refresh is nobody's own: who stops waiting does not stop it."""
    auth = keyturn.client.httpx.AsyncKeyturnAuth(site.url)
    await auth.log_in(**ACCOUNT)
    client = await stack.enter_async_context(httpx.AsyncClient(base_url=site.url, auth=auth, timeout=60))
    site.clock.ahead += HOUR_OF_TOKENS
    before = len(site.proxy.refreshes)
    held = site.proxy.hold("/auth/refresh", "before")
    first, second = (asyncio.create_task(client.get("/api/who")) for _ in range(2))
    await asyncio.to_thread(held.wait)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await asyncio.to_thread(held.release)
    assert (await second).status_code == 200
    assert len(site.proxy.refreshes) - before == 1


async def test_login_that_is_cancelled_is_kept_all_the_same(site: Site) -> None:
    """It goes on in its thread, as the guide says: a session at the server that nobody holds would be worse."""
    auth = keyturn.client.httpx.AsyncKeyturnAuth(site.url)
    held = site.proxy.hold("/auth/login", "before")
    login = asyncio.create_task(auth.log_in(**ACCOUNT))
    await asyncio.to_thread(held.wait)
    login.cancel()
    with pytest.raises(asyncio.CancelledError):
        await login
    await asyncio.to_thread(held.release)
    await asyncio.to_thread(wait_until, lambda: auth.user is not None, 30, "the end of the login")
    assert await auth.token()


async def test_class_for_both_libraries_serves_the_clients_of_either(site: Site) -> None:
    """`keyturn.client.KeyturnAuth` is taken by httpx and by httpx2."""
    import httpx2

    auth = KeyturnAuth(site.url)
    await asyncio.to_thread(auth.log_in, **ACCOUNT)
    for library in (httpx, httpx2):
        async with library.AsyncClient(base_url=site.url, auth=auth) as client:
            assert (await client.get("/api/who")).status_code == 200
            # A stream is one, whichever library made the request.
            answer = await client.post("/note", content=pieces_async(b"once"), headers={"Content-Length": "4"})
            assert answer.status_code == 204


async def test_log_of_the_library_shows_no_cookie(
    site: Site, make_program: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A program logs at DEBUG: its own requests are there, but no answer that brings a cookie, nor what goes to get one."""
    caplog.set_level(logging.DEBUG)
    store = MemoryTokenStore()
    program = await make_program(store=store)
    await program.log_in()
    secrets = set(map(str, store.load()[1:4]))
    site.clock.ahead += HOUR_OF_TOKENS
    expire(store)
    await (await make_program(store=store)).get()
    secrets |= set(map(str, store.load()[1:4]))
    assert len(secrets) == 5
    await program.run(program.auth.log_out)
    assert "receive_response_headers.complete" in caplog.text
    assert [secret for secret in secrets if secret in caplog.text] == []
