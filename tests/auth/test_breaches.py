"""Passwords that are known from a breach, asked of a real corpus over HTTP."""

from __future__ import annotations

import asyncio
import gc
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from keyturn.auth import Auth
from keyturn.breaches import LIMIT, BreachCheck
from keyturn.core.errors import InvalidCredentials, UnsafeSettings
from keyturn.core.events import Event, EventType
from keyturn.core.model import Contact
from keyturn.exchange import Cookies, SignedIn
from keyturn.password_pool import PasswordPool
from keyturn.runtime import Keyturn
from keyturn.settings import Settings
from keyturn.tokens.password import PasswordHasher
from keyturn.tokens.password_policy import PasswordFault, PasswordRefused
from tests.auth.corpus import OTHERS, Corpus, certify, digest
from tests.services import free_port, wait_until
from tests.verify.conftest import no_threads

pytestmark = pytest.mark.anyio

EMAIL = "ada@example.com"
GOOD, BREACHED, PADDED = "violet otters juggle quietly", "purple monkeys dishwasher", "a padded row and no breach"
CONTACT = Contact("203.0.113.7", "Mozilla/5.0", "Firefox on Windows")


class Kept(list[Event]):
    """A sink that keeps what it is told."""

    async def emit(self, event: Event) -> None:
        """Keep an event."""
        self.append(event)

    @property
    def faults(self) -> list[str]:
        """What went wrong with the corpus."""
        faults = [event for event in self if event.type is EventType.CONTROL_FAULT]
        assert {event.data["control"] for event in faults} <= {"breached_passwords"}
        return [event.data["fault"] for event in faults]


@pytest.fixture
def corpus() -> Iterator[Corpus]:
    """A corpus that knows one password, and another only as padding."""
    with Corpus() as made:
        made.known = {BREACHED: 4711, PADDED: 0}
        yield made


@pytest.fixture
def kept() -> Kept:
    """The events of a test."""
    return Kept()


@pytest.fixture
async def node(corpus: Corpus, kept: Kept, tmp_path: Path) -> AsyncIterator[Keyturn]:
    """A node that asks the corpus, with more patience than in production: this machine may be busy."""
    settings = Settings.load(env="development", database_url=f"sqlite:///{tmp_path}/keyturn.db", breach_url=corpus.url)
    node = Keyturn(settings, sinks=[kept])
    assert node.breaches is not None
    node.breaches._limit = 30.0
    async with node.lifespan():
        yield node


@pytest.fixture
def auth(node: Keyturn) -> Auth:
    """Its use cases."""
    return node.auth


@pytest.fixture
def make_check(kept: Kept) -> Callable[..., BreachCheck]:
    """Make a check by itself."""
    return partial(BreachCheck, record=kept.emit, clock=lambda: 0.0)


async def sign_up(auth: Auth, password: str) -> SignedIn:
    """Sign up with a password."""
    return await auth.sign_up(
        EMAIL, password, None, remember=False, device_name=None, contact=CONTACT, cookies=Cookies()
    )


async def test_breached_password_is_not_taken_at_sign_up(auth: Auth, corpus: Corpus, kept: Kept) -> None:
    """Refused as any other bad password, with a reason; no user is made, and another password is taken."""
    with pytest.raises(PasswordRefused) as refused:
        await sign_up(auth, BREACHED)
    assert refused.value.reason is PasswordFault.BREACHED
    assert (refused.value.code, refused.value.status) == ("invalid_request", 422)
    await sign_up(auth, GOOD)
    assert kept.faults == []


async def test_corpus_learns_five_digits_and_nothing_else(auth: Auth, corpus: Corpus) -> None:
    """The path has the first 20 bits of the hash; padding is asked for; no header tells more."""
    await sign_up(auth, GOOD)
    assert corpus.asked == [digest(GOOD)[:5]]
    [headers] = corpus.headers
    assert headers["add-padding"] == "true"
    assert set(headers) <= {"host", "add-padding", "accept-encoding", "user-agent"}


async def test_row_of_padding_is_no_breach(auth: Auth, kept: Kept) -> None:
    """A count of 0 says that the row is there to hide the length of the answer."""
    await sign_up(auth, PADDED)
    assert kept.faults == []


async def test_breached_password_is_not_taken_at_a_change(auth: Auth, corpus: Corpus) -> None:
    """The old one stays; the corpus is asked once the current password is proven, and not before."""
    principal = auth.authenticate((await sign_up(auth, GOOD)).access_token)
    corpus.asked.clear()
    with pytest.raises(InvalidCredentials):
        await auth.change_password(principal, "not the current passphrase", BREACHED, Cookies(), CONTACT)
    assert corpus.asked == []
    with pytest.raises(PasswordRefused) as refused:
        await auth.change_password(principal, GOOD, BREACHED, Cookies(), CONTACT)
    assert refused.value.reason is PasswordFault.BREACHED
    await auth.change_password(principal, GOOD, PADDED, Cookies(), CONTACT)
    assert corpus.asked == [digest(BREACHED)[:5], digest(PADDED)[:5]]


async def test_corpus_of_another_spelling(corpus: Corpus, kept: Kept, make_check: Callable[..., BreachCheck]) -> None:
    """Its address may end in a slash, and its digits may be small."""
    corpus.body = corpus.range(digest(BREACHED)[:5]).lower()
    with pytest.raises(PasswordRefused):
        await make_check(f"{corpus.url}/", limit=30.0).screen(BREACHED)
    assert kept.faults == []


async def test_login_asks_nobody(auth: Auth, corpus: Corpus) -> None:
    """Whoever has an old password gets in: it may have been in no breach when it was chosen."""
    await sign_up(auth, GOOD)
    corpus.known[GOOD] = 1
    corpus.asked.clear()
    await auth.log_in(EMAIL, GOOD, remember=False, device_name=None, contact=CONTACT, cookies=Cookies())
    assert corpus.asked == []


async def test_password_that_other_rules_refuse_is_not_asked_about(auth: Auth, corpus: Corpus) -> None:
    """The corpus is asked last, and about the normal form."""
    with pytest.raises(PasswordRefused):
        await sign_up(auth, "short")
    assert corpus.asked == []
    await sign_up(auth, "cafe\u0301 correct horse")
    assert corpus.asked == [digest("caf\u00e9 correct horse")[:5]]


ROW = OTHERS[0].encode()
FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "an error": ("status", {"status": 500}),
    "too many questions": ("status", {"status": 429}),
    "a redirect": ("status", {"status": 302}),
    "nothing": ("malformed", {"body": b""}),
    "a page": ("malformed", {"body": b"<html>sorry</html>"}),
    "bytes": ("malformed", {"body": b"\xff\x00\xfe"}),
    "a row without a count": ("malformed", {"body": ROW[:35]}),
    "good rows and a bad one": ("malformed", {"body": ROW + b"\r\nsorry"}),
    "an answer cut off in a row": ("malformed", {"body": ROW + b"\r\n" + ROW[:20]}),
    "an answer cut off behind a row": ("cut_off", {"body": ROW, "length": 5000}),
    "an endless answer": ("too_large", {"body": (ROW + b"\r\n") * 20_000}),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_corpus_at_fault_lets_the_password_pass_and_says_so(
    corpus: Corpus, kept: Kept, make_check: Callable[..., BreachCheck], fault: str
) -> None:
    """It fails open, with an event for whoever watches; a corpus that is well again is believed again."""
    word, how = FAULTS[fault]
    for name, value in how.items():
        setattr(corpus, name, value)
    check = make_check(corpus.url, limit=30.0)
    await check.screen(BREACHED)
    assert kept.faults == [word]
    corpus.status, corpus.body, corpus.length = 200, None, None
    with pytest.raises(PasswordRefused):
        await check.screen(BREACHED)


@pytest.mark.parametrize("fault", ["an error", "an endless answer"])
async def test_corpus_at_fault_leaves_no_connection_open(
    corpus: Corpus, make_check: Callable[..., BreachCheck], fault: str
) -> None:
    """An answer that is not read to its end is closed with its question, and not when the collector finds it."""
    for name, value in FAULTS[fault][1].items():
        setattr(corpus, name, value)
    port = urlsplit(corpus.url).port
    gc.disable()
    try:
        await make_check(corpus.url, limit=30.0).screen(BREACHED)
        assert not [each for each in psutil.Process().net_connections() if each.raddr and each.raddr.port == port]
    finally:
        gc.enable()


async def test_answer_of_the_usual_size(corpus: Corpus, kept: Kept, make_check: Callable[..., BreachCheck]) -> None:
    """A padded range of the largest corpus there is has a thousand rows; the one that counts may be the last."""
    corpus.body = b"\r\n".join([ROW] * 1000 + [corpus.range(digest(BREACHED)[:5])])
    with pytest.raises(PasswordRefused):
        await make_check(corpus.url, limit=30.0).screen(BREACHED)
    assert kept.faults == []


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-sshd\r\n", b"HTTP/1.1 twohundred OK\r\n\r\n"])
async def test_corpus_that_speaks_something_else(
    kept: Kept, make_check: Callable[..., BreachCheck], answer: bytes
) -> None:
    """The password passes, and the event says that nobody was reached."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await make_check(f"http://127.0.0.1:{port}/range", limit=30.0).screen(BREACHED)
    assert kept.faults == ["unreachable"]


async def test_corpus_with_a_certificate(tmp_path: Path, kept: Kept, make_check: Callable[..., BreachCheck]) -> None:
    """It is asked where somebody who is trusted says that it is the one; else anybody on the way could answer."""
    certificate = certify(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with Corpus(tls) as corpus:
        corpus.known = {BREACHED: 4711}
        check = make_check(corpus.url, limit=30.0)
        await check.screen(BREACHED)
        assert (kept.faults, corpus.asked) == (["unreachable"], [])
        check._tls.load_verify_locations(certificate)
        with pytest.raises(PasswordRefused):
            await check.screen(BREACHED)
        await check.screen(GOOD)
    assert len(kept.faults) == 1


async def test_corpus_that_is_not_there(kept: Kept, make_check: Callable[..., BreachCheck]) -> None:
    """Nobody listens, or no host can have such a name."""
    for host in (f"127.0.0.1:{free_port()}", f"{'a' * 64}.example.com"):
        await make_check(f"http://{host}/range").screen(BREACHED)
    assert kept.faults == ["unreachable", "unreachable"]


async def test_sign_up_while_the_corpus_hangs(node: Keyturn, corpus: Corpus, kept: Kept) -> None:
    """After its second the sign-up goes on; the event names the control and no password."""
    assert node.breaches is not None
    node.breaches._limit = LIMIT
    corpus.free.clear()
    await sign_up(node.auth, BREACHED)
    assert kept.faults == ["timeout"]
    [event] = [event for event in kept if event.type is EventType.CONTROL_FAULT]
    assert event.kept
    assert BREACHED not in repr(event)


async def ask_eight_times(check: BreachCheck, corpus: Corpus) -> list[asyncio.Task[None]]:
    """Ask a corpus that answers nobody yet, until all of that has come to it."""
    waiting = [asyncio.create_task(check.screen(BREACHED)) for _ in range(8)]
    await asyncio.to_thread(wait_until, lambda: len(corpus.asked) == 8, 30, "eight questions")
    return waiting


async def test_corpus_that_hangs_holds_few_threads(
    corpus: Corpus, kept: Kept, make_check: Callable[..., BreachCheck]
) -> None:
    """Eight questions at once; whoever comes then waits for none of them. When it answers again, there is room again."""
    corpus.free.clear()
    check = make_check(corpus.url, limit=30.0)
    waiting = await ask_eight_times(check, corpus)
    await check.screen(BREACHED)
    assert kept.faults == ["busy"]
    corpus.free.set()
    assert {type(result) for result in await asyncio.gather(*waiting, return_exceptions=True)} == {PasswordRefused}
    await asyncio.to_thread(wait_until, lambda: check._asking == 0, 30, "the end of the questions")
    with pytest.raises(PasswordRefused):
        await check.screen(BREACHED)


async def test_question_that_nobody_waits_for_any_more(
    corpus: Corpus, kept: Kept, make_check: Callable[..., BreachCheck]
) -> None:
    """It has its thread as long as it goes on, and so counts as long: who goes away makes no room for another."""
    corpus.free.clear()
    check = make_check(corpus.url, limit=30.0)
    waiting = await ask_eight_times(check, corpus)
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await check.screen(BREACHED)
    assert kept.faults == ["busy"]
    corpus.free.set()
    await asyncio.to_thread(wait_until, lambda: check._asking == 0, 30, "the end of the questions")


async def test_answer_that_goes_on(kept: Kept, make_check: Callable[..., BreachCheck]) -> None:
    """Its thread is free again soon after the person has gone on: eight such answers would be the end of the check."""
    ended = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not ended.is_set():
            writer.write(ROW + b"\r\n")
            await asyncio.sleep(0.05)
        writer.close()

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
        check = make_check(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/range", limit=0.3)
        await check.screen(BREACHED)
        assert kept.faults == ["timeout"]
        try:
            await asyncio.to_thread(wait_until, lambda: check._asking == 0, 30, "the end of the question")
        finally:
            ended.set()


async def test_check_without_a_thread(corpus: Corpus, kept: Kept, make_check: Callable[..., BreachCheck]) -> None:
    """Where the system gives none the password passes, however often, and the next one is asked about."""
    check = make_check(corpus.url, limit=30.0)
    with no_threads():
        for _ in range(20):
            await check.screen(BREACHED)
    assert kept.faults == ["busy"] * 20
    with pytest.raises(PasswordRefused):
        await check.screen(BREACHED)


async def test_process_that_ends_while_an_answer_goes_on() -> None:
    """It waits for none: the head of an answer may come a byte at a time for ever."""
    program = """
import asyncio
import sys
from keyturn.breaches import BreachCheck

async def record(event):
    print(event.data["fault"])

asyncio.run(BreachCheck(sys.argv[1], record=record, clock=float, limit=2.0).screen("x"))
"""
    ended = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while not ended.is_set():
            writer.write(b"X")
            await asyncio.sleep(0.1)
        writer.close()

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        command = [sys.executable, "-c", program, f"http://127.0.0.1:{port}/range"]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        try:
            said, _ = await asyncio.wait_for(process.communicate(), 30)
        finally:
            ended.set()
            await process.wait()
    assert (said, process.returncode) == (b"timeout\n", 0)


async def test_person_who_waits_for_the_corpus_holds_no_slot_of_the_password_queue(
    corpus: Corpus, make_check: Callable[..., BreachCheck]
) -> None:
    """Hashes of others run meanwhile."""
    pool = PasswordPool(PasswordHasher(), screen=make_check(corpus.url, limit=30.0).screen)
    corpus.free.clear()
    waiting = asyncio.create_task(pool.hash_chosen(GOOD))
    await asyncio.to_thread(wait_until, lambda: len(corpus.asked) == 1, 30, "the question")
    assert pool.taken == 0
    assert await pool.hash(GOOD)
    corpus.free.set()
    assert await waiting
    pool.close()


@pytest.mark.parametrize(
    "url", ["corpus.example.com", "ftp://corpus.example.com", "https://c.example.com/?q=", "https://"]
)
def test_address_of_a_corpus_that_is_none(url: str) -> None:
    """The setting is refused by name."""
    with pytest.raises(UnsafeSettings, match="KEYTURN_BREACH_URL"):
        Settings.load(env="development", breach_url=url)


def test_production_asks_no_corpus_over_plain_http() -> None:
    """On its way anybody could say that every password is good."""
    found = {
        finding.code: finding.fatal for finding in Settings.load(breach_url="http://c.example.com/range").findings()
    }
    assert found["breach_url_http"]
    assert "breach_url_http" not in {
        one.code for one in Settings.load(breach_url="https://my_corpus.example.com").findings()
    }
