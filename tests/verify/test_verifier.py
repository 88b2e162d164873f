"""A Verifier over HTTP: which tokens it believes, how often it asks, and what it does when nobody answers."""

from __future__ import annotations

import asyncio
import gc
import http.client
import os
import ssl
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from keyturn.core.errors import InvalidToken, Unavailable
from keyturn.testing import FrozenClock
from keyturn.tokens import base64url
from keyturn.verify import Verifier
from keyturn.verify.background import Waits
from keyturn.verify.fetching import FetchFault, KeySource
from keyturn.verify.keys import KEEP_TIME, Reply
from tests.auth.corpus import certify
from tests.services import wait_until
from tests.tokens.forge import KEY, NOW, OTHER_KEY, SESSION_ID, forge, sign, signer, with_claims, with_header
from tests.verify.conftest import no_threads
from tests.verify.publisher import PATIENCE, Publisher, key_set, publishing

pytestmark = pytest.mark.anyio

Make = Callable[..., Verifier]


def outcome(verifier: Verifier, token: str) -> str:
    """Return the user, or the code of the refusal."""
    try:
        return verifier.authenticate(token).user_id
    except (InvalidToken, Unavailable) as refused:
        return refused.code


async def outcome_async(verifier: Verifier, token: str) -> str:
    """Do as `outcome` in an event loop."""
    try:
        return (await verifier.authenticate_async(token)).user_id
    except (InvalidToken, Unavailable) as refused:
        return refused.code


def unknown(number: int) -> str:
    """Return a token that names a key nobody has."""
    return with_header(kid=f"unknown-{number}")


async def test_principal(verifier: Verifier) -> None:
    """A valid token becomes a principal, in either way of asking."""
    token = sign(scope="notes admin", extra={"team": "blue"})
    principal = verifier.authenticate(token)
    assert (principal.user_id, principal.session_id) == ("ada", SESSION_ID)
    assert principal.scopes == {"notes", "admin"}
    assert principal.claims == {"team": "blue"}
    assert await verifier.authenticate_async(token) == principal


async def test_keys_are_fetched_once(verifier: Verifier, publisher: Publisher) -> None:
    """Keys are fetched when the first token needs them, and not again for the next ones."""
    assert publisher.requests == []
    for number in range(20):
        assert outcome(verifier, sign(token_id=str(number))) == "ada"
        assert await outcome_async(verifier, sign(token_id=f"a{number}")) == "ada"
    assert publisher.requests == [None]


@pytest.mark.parametrize("many", [1000])
async def test_unknown_key_ids(verifier: Verifier, publisher: Publisher, monotonic: FrozenClock, many: int) -> None:
    """A thousand tokens with invented key ids make one request in an interval, whoever asks."""
    assert outcome(verifier, sign()) == "ada"
    monotonic.advance(60)
    assert {outcome(verifier, unknown(number)) for number in range(many)} == {"invalid_token"}
    assert {await outcome_async(verifier, unknown(number)) for number in range(many)} == {"invalid_token"}
    assert len(publisher.requests) == 2


def test_unknown_key_ids_in_threads(make_verifier: Make, publisher: Publisher) -> None:
    """Threads that want keys at the same moment wait for one fetch."""
    verifier = make_verifier()
    gate = Event()
    publisher.before = lambda: gate.wait(PATIENCE)
    with ThreadPoolExecutor(16) as threads:
        waiting = [threads.submit(outcome, verifier, sign(token_id=str(number))) for number in range(16)]
        wait_until(lambda: len(publisher.requests) == 1, PATIENCE, "the first request")
        gate.set()
        assert {each.result(PATIENCE) for each in waiting} == {"ada"}
    assert len(publisher.requests) == 1


def test_too_late_to_join(verifier: Verifier, publisher: Publisher) -> None:
    """Whoever found no keys a moment before they came does not ask for them again."""
    with pytest.raises(Waits) as waits:
        verifier._judge(sign())
    assert outcome(verifier, sign()) == "ada"
    waits.value.begin().wait()
    assert len(publisher.requests) == 1


async def test_event_loop_while_keys_are_fetched(verifier: Verifier, publisher: Publisher) -> None:
    """The event loop goes on while keys are fetched, and who gives up takes nothing from the others."""
    gate = Event()
    publisher.before = lambda: gate.wait(PATIENCE)
    waiting = [asyncio.create_task(outcome_async(verifier, sign())) for _ in range(50)]
    await asyncio.to_thread(wait_until, lambda: bool(publisher.requests), PATIENCE, "the request")
    waiting[0].cancel()
    gate.set()
    assert await asyncio.gather(*waiting[1:]) == ["ada"] * 49
    assert waiting[0].cancelled()
    assert len(publisher.requests) == 1


def test_new_key(verifier: Verifier, publisher: Publisher, monotonic: FrozenClock) -> None:
    """A key that was published after the last fetch is found as soon as a token names it and the interval is over."""
    token = sign(signer(key=OTHER_KEY))
    assert outcome(verifier, sign()) == "ada"
    publisher.body = key_set(KEY, OTHER_KEY)
    assert outcome(verifier, token) == "invalid_token"
    monotonic.advance(10)
    assert outcome(verifier, token) == "ada"


def test_withdrawn_key(verifier: Verifier, publisher: Publisher, monotonic: FrozenClock) -> None:
    """A key that is published no more counts no more once the set is stale, for cached tokens too."""
    token = sign()
    assert outcome(verifier, token) == "ada"
    publisher.body = key_set(OTHER_KEY)
    monotonic.advance(301)
    assert outcome(verifier, token) == "ada"  # it is fetched beside the requests
    wait_until(lambda: outcome(verifier, token) == "invalid_token", PATIENCE, "the news")


async def test_withdrawn_key_in_a_service_that_was_idle(
    verifier: Verifier, publisher: Publisher, monotonic: FrozenClock
) -> None:
    """Where nobody has asked for long, no token is believed before somebody has, whether it was seen before or not."""
    seen = sign()
    assert outcome(verifier, seen) == "ada"
    monotonic.advance(600)
    assert outcome(verifier, seen) == "ada"  # the server says that nothing has changed
    assert len(publisher.requests) == 2
    publisher.body = key_set(OTHER_KEY)
    monotonic.advance(600)
    assert await outcome_async(verifier, seen) == "invalid_token"
    assert outcome(verifier, sign(subject="bob")) == "invalid_token"
    assert len(publisher.requests) == 3


async def test_idle_service_whose_server_hangs(
    verifier: Verifier, monotonic: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits as long as anybody does, and from then on known keys go on; where there is no thread to ask in, at once."""
    assert outcome(verifier, sign()) == "ada"
    monotonic.advance(600)
    with no_threads():
        assert outcome(verifier, sign()) == "ada"
    monkeypatch.setattr(verifier._fetching, "_patience", 0.2)  # now, for the server that answers may take longer
    gate = Event()
    asked: list[str | None] = []

    def hang(_source: KeySource, etag: str | None) -> Reply:
        asked.append(etag)
        gate.wait(PATIENCE)
        raise FetchFault("too late")

    monkeypatch.setattr(KeySource, "fetch", hang)
    try:
        assert outcome(verifier, sign()) == "ada"
        began = time.monotonic()
        assert await outcome_async(verifier, sign()) == "ada"
        assert outcome(verifier, unknown(1)) == "unavailable"
        assert time.monotonic() - began < PATIENCE / 2
    finally:
        gate.set()
    assert len(asked) == 1


def test_stale_set_that_has_not_changed(verifier: Verifier, publisher: Publisher, monotonic: FrozenClock) -> None:
    """A stale set is asked for by its ETag, and a 304 makes it fresh again."""
    assert outcome(verifier, sign()) == "ada"
    monotonic.advance(301)
    assert outcome(verifier, sign()) == "ada"
    wait_until(lambda: len(publisher.requests) == 2, PATIENCE, "the second request")
    wait_until(lambda: verifier._keys.due_at > 600, PATIENCE, "the 304")
    assert publisher.requests[1] is not None
    assert outcome(verifier, sign()) == "ada"
    assert len(publisher.requests) == 2


def test_freshness_of_an_answer(verifier: Verifier, publisher: Publisher) -> None:
    """How long a set is fresh may stand in several headers, and a cache in between says how much of it is over."""
    publisher.headers = [("Cache-Control", "public"), ("Cache-Control", "max-age=60"), ("Age", "20")]
    assert outcome(verifier, sign()) == "ada"
    assert verifier._keys.due_at == 40.0


def test_server_down_with_known_keys(verifier: Verifier, publisher: Publisher, monotonic: FrozenClock) -> None:
    """An outage ends nobody's work: known keys go on for a day; an unknown one is nobody's sign-out meanwhile."""
    assert outcome(verifier, sign()) == "ada"
    publisher.status = 500
    monotonic.advance(3600)
    assert outcome(verifier, unknown(1)) == "unavailable"
    assert outcome(verifier, sign()) == "ada"
    monotonic.advance(KEEP_TIME)
    assert outcome(verifier, sign()) == "unavailable"
    publisher.status = 200
    monotonic.advance(60)
    assert outcome(verifier, sign()) == "ada"


async def test_unknown_key_ids_while_the_server_hangs(
    verifier: Verifier, publisher: Publisher, monotonic: FrozenClock
) -> None:
    """Invented key ids hold no thread where the last request has failed: it is asked again beside them, and then known keys go on."""
    assert outcome(verifier, sign()) == "ada"
    publisher.status = 500
    monotonic.advance(10)
    assert outcome(verifier, unknown(1)) == "unavailable"
    gate = Event()
    publisher.before = lambda: gate.wait(PATIENCE)
    monotonic.advance(10)
    began = time.monotonic()
    assert {outcome(verifier, unknown(number)) for number in range(20)} == {"unavailable"}
    assert {await outcome_async(verifier, unknown(number)) for number in range(20)} == {"unavailable"}
    assert time.monotonic() - began < PATIENCE / 2
    await asyncio.to_thread(wait_until, lambda: len(publisher.requests) == 3, PATIENCE, "the third request")
    publisher.status, publisher.body = 200, key_set(KEY, OTHER_KEY)
    gate.set()
    token = sign(signer(key=OTHER_KEY))
    await asyncio.to_thread(wait_until, lambda: outcome(verifier, token) == "ada", PATIENCE, "the new key")
    assert len(publisher.requests) == 3


async def test_server_down_from_the_start(verifier: Verifier, publisher: Publisher, monotonic: FrozenClock) -> None:
    """Without any keys the answer is a fault with a time to wait, asked for anew only then, and never a 401."""
    publisher.status = 503
    with pytest.raises(Unavailable) as refused:
        verifier.authenticate(sign())
    assert refused.value.retry_after == 1.0
    assert not verifier.is_ready()
    assert {await outcome_async(verifier, sign()) for _ in range(20)} == {"unavailable"}
    assert len(publisher.requests) == 1
    publisher.status = 200
    monotonic.advance(1)
    assert await outcome_async(verifier, sign()) == "ada"
    assert verifier.is_ready()


def test_garbage_while_the_server_is_down(verifier: Verifier, publisher: Publisher) -> None:
    """What could be no token of ours is refused at once, without asking anybody."""
    for token in ("", "x", "a.b.c", with_header(alg="none"), with_header(jku=publisher.base), "x" * 9000):
        assert outcome(verifier, token) == "invalid_token"
    assert publisher.requests == []


@pytest.mark.parametrize(
    ("status", "headers", "body", "why"),
    [
        (200, [], b"", "not a JWK set"),
        (200, [], b"<html>", "not a JWK set"),
        (200, [], b'{"keys":[]}', "has no ES256 key"),
        (200, [], b" " * 70_000, "the answer is too large"),
        (201, [], key_set(), "status 201"),
        (302, [("Location", "/elsewhere")], b"", "status 302"),
        (304, [], b"", "status 304"),
        (404, [], b"{}", "status 404"),
        (200, [("X-Other", "1")] * 200, key_set(), "headers"),
    ],
    ids=["empty", "html", "no keys", "too large", "another status", "redirect", "304 unasked", "404", "no HTTP"],
)
def test_answer_of_no_use(
    verifier: Verifier,
    publisher: Publisher,
    caplog: pytest.LogCaptureFixture,
    status: int,
    headers: list[tuple[str, str]],
    body: bytes,
    why: str,
) -> None:
    """Whatever is not a set of our keys is a fault of the server, told in a line; a redirect is not followed."""
    publisher.status, publisher.headers, publisher.body, publisher.tagged = status, headers, body, False
    assert outcome(verifier, sign()) == "unavailable"
    assert len(publisher.requests) == 1
    [told] = [record for record in caplog.records if record.name == "keyturn.verify.verifier"]
    assert why in told.message
    assert told.exc_info is None


def test_answer_without_end(make_verifier: Make, publisher: Publisher) -> None:
    """An answer that comes a byte at a time is not read for ever."""
    publisher.drips = "body"
    pending = make_verifier(timeout=0.5)._fetching.begin()
    wait_until(pending.future.done, 2 * PATIENCE, "the end of the request")
    assert not publisher.exhausted


async def test_head_without_end(make_verifier: Make, publisher: Publisher) -> None:
    """A head that comes a byte at a time is read on, but nobody waits for it."""
    publisher.drips = "head"
    verifier = make_verifier(timeout=0.5)
    assert outcome(verifier, sign()) == "unavailable"
    assert await outcome_async(verifier, sign()) == "unavailable"
    assert not publisher.exhausted


def test_fault_that_nobody_foresaw(
    verifier: Verifier, publisher: Publisher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Here a Python without TLS: it is logged whole, and not tried again for each token."""
    monkeypatch.delattr(http.client, "HTTPSConnection")
    monkeypatch.delitem(sys.modules, "keyturn.verify.in_time", raising=False)
    assert {outcome(verifier, sign()) for _ in range(20)} == {"unavailable"}
    [told] = [record for record in caplog.records if record.name == "keyturn.verify.verifier"]
    assert told.exc_info is not None
    assert publisher.requests == []


def test_certificate(make_verifier: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over https only a server is believed whose certificate this machine trusts, and under its own name."""
    certificate = certify(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with publishing(tls) as publisher:
        url = f"{publisher.base}/.well-known/jwks.json"
        assert outcome(make_verifier(jwks_url=url), sign()) == "unavailable"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        other_name = url.replace("127.0.0.1", "localhost")
        assert outcome(make_verifier(jwks_url=other_name), sign()) == "unavailable"
        assert publisher.requests == []
        assert outcome(make_verifier(jwks_url=url), sign()) == "ada"


def test_proxy(make_verifier: Make, publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of another machine are fetched through the proxy of this one, its own are not."""
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert outcome(make_verifier(), sign()) == "ada"
    monkeypatch.setenv("http_proxy", publisher.base)
    elsewhere = "http://auth.internal/.well-known/jwks.json"
    assert outcome(make_verifier(jwks_url=elsewhere, allow_http=True), sign()) == "ada"
    assert len(publisher.requests) == 2


def test_nobody_listens(make_verifier: Make) -> None:
    """A refused connection is a fault, no error of ours."""
    verifier = make_verifier(jwks_url="http://127.0.0.1:1/.well-known/jwks.json")
    assert outcome(verifier, sign()) == "unavailable"


def test_server_that_does_not_answer(
    make_verifier: Make, publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits longer than said for a server that hangs, and the request is given up, so that another may follow."""
    gate = Event()
    publisher.before = lambda: gate.wait(2 * PATIENCE)
    try:
        assert outcome(make_verifier(timeout=0.05), sign()) == "unavailable"
        wait_until(lambda: "timed out" in caplog.text, PATIENCE, "the end of the request")
    finally:
        gate.set()


@pytest.mark.parametrize(
    "url",
    [
        "http://auth.example.com/jwks",
        "ftp://auth.example.com/jwks",
        "file:///etc/passwd",
        "auth.example.com",
        "https://",
        "https://user:word@auth.example.com/jwks",
        "https://auth.example.com/jwks?x=1",
        "https://auth.example.com/jwks#x",
        "http://127.0.0.1.example.com/jwks",
        "http://localhost.example.com/jwks",
        "http://notlocalhost/jwks",
        "https://auth.example.com:port/jwks",
        "https://auth.example.com:99999/jwks",
        "https://auth.example.com:0/jwks",
        "https://[::1/jwks",
        "https://auth.example .com/jwks",
        "https://auth.example.com/jwks\n",
    ],
)
def test_address_that_is_refused(url: str) -> None:
    """Keys come over https, or from this machine."""
    with pytest.raises(ValueError, match="keys"):
        Verifier("https://auth.example.com", jwks_url=url)


def test_addresses() -> None:
    """The keys are below the issuer; http is for this machine, or for development."""
    Verifier("http://localhost:8000")
    Verifier("http://[::1]:8000")
    Verifier("http://auth.internal", allow_http=True)
    verifier = Verifier("https://auth.example.com/")
    assert verifier._source.url == "https://auth.example.com/.well-known/jwks.json"


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
@pytest.mark.parametrize("argument", ["refetch_interval", "timeout"])
def test_argument_of_no_use(argument: str, value: float) -> None:
    """A time of nothing is a mistake, and so is one that never comes: no new key would be learned."""
    with pytest.raises(ValueError, match="positive"):
        Verifier("https://auth.example.com", **{argument: value})  # type: ignore[arg-type]


def test_claims_are_judged(verifier: Verifier) -> None:
    """Issuer, audience, times and the signature are judged as by the server itself."""
    for token in (
        with_claims(iss="https://auth.example.com.evil.test"),
        with_claims(aud="elsewhere"),
        with_claims(exp=NOW - 60, iat=NOW - 600, auth_time=NOW - 600),
        forge(key=OTHER_KEY),
    ):
        assert outcome(verifier, token) == "invalid_token"


@pytest.mark.parametrize(
    ("late", "outcomes"), [(9, ["ada", "ada"]), (59, ["invalid_token", "ada"]), (60, ["invalid_token"] * 2)]
)
def test_leeway(make_verifier: Make, late: int, outcomes: list[str]) -> None:
    """As much difference of the clocks is forgiven as was said, and no more."""
    token = with_claims(exp=NOW - late, iat=NOW - 600, auth_time=NOW - 600)
    assert [outcome(verifier, token) for verifier in (make_verifier(), make_verifier(leeway=60))] == outcomes


@pytest.mark.parametrize("audience", ["", [], ["api", ""]])
def test_audience_of_nothing(audience: str | list[str]) -> None:
    """An audience that was left empty is a mistake, and does not mean the issuer's."""
    with pytest.raises(ValueError, match="audience"):
        Verifier("https://auth.example.com", audience)


async def test_load(verifier: Verifier, publisher: Publisher) -> None:
    """Keys can be loaded before the first token, in either way; a second time costs nothing."""
    assert not verifier.is_ready()
    assert verifier.load()
    assert await verifier.load_async()
    assert verifier.is_ready()
    assert len(publisher.requests) == 1


def test_probe(verifier: Verifier, publisher: Publisher, monotonic: FrozenClock) -> None:
    """A service to which nothing is sent before it is ready becomes so by being asked, also where the server was down at first."""
    publisher.status = 500
    assert not verifier.load()
    publisher.status = 200
    monotonic.advance(1)
    wait_until(verifier.is_ready, PATIENCE, "the keys")
    assert len(publisher.requests) == 2


async def test_load_while_the_server_is_down(verifier: Verifier, publisher: Publisher) -> None:
    """It says so, and raises nothing: the keys come with the first token that finds the server up."""
    publisher.status = 500
    assert not await verifier.load_async()


async def test_no_thread_to_fetch_in(verifier: Verifier, publisher: Publisher) -> None:
    """Where the system gives no thread it is a fault like any other, and the next token that needs keys tries anew."""
    with no_threads():
        with pytest.raises(Unavailable) as refused:
            verifier.authenticate(sign())
        assert refused.value.dependency == "jwks"
        assert await outcome_async(verifier, sign()) == "unavailable"
        assert not verifier.load()
    assert publisher.requests == []
    assert outcome(verifier, sign()) == "ada"


async def test_no_thread_to_fetch_news_in(
    verifier: Verifier, publisher: Publisher, monotonic: FrozenClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Whose token is good is let in while nobody can fetch a stale set anew; the log says it, and it is tried on."""
    assert outcome(verifier, sign()) == "ada"
    monotonic.advance(301)
    with no_threads():
        assert outcome(verifier, sign()) == "ada"
        assert await outcome_async(verifier, sign()) == "ada"
    assert "no thread for keyturn keys" in caplog.text
    assert len(publisher.requests) == 1
    assert outcome(verifier, sign()) == "ada"
    wait_until(lambda: len(publisher.requests) == 2, PATIENCE, "the second request")


def test_forked_worker(verifier: Verifier, publisher: Publisher, monotonic: FrozenClock) -> None:
    """A worker that was forked while its parent fetched does not wait for the parent's thread."""
    gate = Event()
    publisher.before = lambda: gate.wait(PATIENCE)
    pending = verifier._fetching.begin()
    wait_until(lambda: len(publisher.requests) == 1, PATIENCE, "the parent's request")
    child = os.fork()
    if child == 0:
        gate.set()
        status = 1
        try:
            status = 0 if outcome(verifier, sign()) == "ada" else 1
        finally:
            os._exit(status)
    wait_until(lambda: len(publisher.requests) == 2, PATIENCE, "the child's request")
    gate.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    pending.wait()


def test_many_verifiers() -> None:
    """One that nobody holds any more leaves nothing behind, as where one is made for each tenant."""

    def make(many: int) -> int:
        for _ in range(many):
            Verifier("https://auth.example.com")
        gc.collect()
        return sys.getallocatedblocks()

    before = make(50)
    assert make(500) - before < 500


def test_key_that_is_no_point(verifier: Verifier, publisher: Publisher) -> None:
    """A point that is not on the curve is no key."""
    zeros = base64url.encode(bytes(32))
    publisher.body = b'{"keys":[{"kty":"EC","crv":"P-256","kid":"a","x":"%s","y":"%s"}]}' % ((zeros.encode(),) * 2)
    assert outcome(verifier, sign()) == "unavailable"
