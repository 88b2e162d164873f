"""When known keys count and when the server is asked again, over times that are arguments."""

from __future__ import annotations

import pytest

from keyturn.core.errors import Unavailable
from keyturn.verify.keys import DEFAULT_MAX_AGE, KEEP_TIME, LONGEST_MAX_AGE, KeysWanted, KnownKeys, Reply
from tests.tokens.forge import KEY
from tests.verify.publisher import key_set

INTERVAL = 10.0
AT = 1000.0


def known(reply: Reply | None = None) -> KnownKeys:
    """Return keys that were learned at AT."""
    keys = KnownKeys(INTERVAL)
    keys.learn(reply or Reply(200, key_set()), AT)
    return keys


@pytest.mark.parametrize(
    ("cache_control", "age", "fresh"),
    [
        ("", "", DEFAULT_MAX_AGE),
        ("public, Max-Age=60", "", 60),
        ("s-maxage=60,x-max-age=70", "", DEFAULT_MAX_AGE),
        ("max-age=999999999", "", LONGEST_MAX_AGE),
        ("max-age=1", "", INTERVAL),
        ("max-age=600,no-store", "", INTERVAL),
        ('no-cache="x", max-age=600', "", INTERVAL),
        ("max-age=600", "100", 500),
        ("max-age=600", "700", INTERVAL),
        ("max-age=600", "-100", 600),
        ("max-age=600", "²", 600),
        ("max-age=600", "9" * 400, INTERVAL),
    ],
)
def test_freshness(cache_control: str, age: str, fresh: float) -> None:
    """A set is fresh as long as its answer says, less what a cache has had of it, within bounds of our own."""
    keys = known(Reply(200, key_set(), None, cache_control, age))
    assert keys.due_at == AT + fresh


def test_nothing_new() -> None:
    """A 304 lets keys and tag stay, also when it names none, and they count for another day."""
    keys = known(Reply(200, key_set(), '"a"'))
    keys.learn(Reply(304), AT + 500)
    assert keys.etag == '"a"'
    assert keys.due_at == AT + 500 + DEFAULT_MAX_AGE
    assert keys.is_known(AT + 499 + KEEP_TIME)
    assert not keys.is_known(AT + 500 + KEEP_TIME)


def test_news_that_cannot_be_read() -> None:
    """What was known stays, with its tag."""
    keys = known(Reply(200, key_set(), '"a"'))
    with pytest.raises(ValueError, match="JWK set"):
        keys.learn(Reply(200, b"", '"b"'), AT + 500)
    keys.fail(AT + 500)
    assert keys.etag == '"a"'
    assert keys.public_key(KEY.kid, AT + 500) is not None


def test_outage_with_known_keys() -> None:
    """They count on; the server is asked once in an interval, and not for each request."""
    keys = known()
    for number in range(50, 60):
        now = AT + number * INTERVAL
        assert keys.due_at <= now
        keys.fail(now)
        assert keys.due_at == now + INTERVAL
        assert not keys.may_ask(now + INTERVAL - 1)
        assert keys.may_ask(now + INTERVAL)
        assert keys.public_key(KEY.kid, now) is not None
    # The outage is over: an unknown key is one that there is not.
    keys.learn(Reply(200, key_set()), AT + 1000)
    assert keys.public_key("other", AT + 1000) is None


def test_outage_from_the_start() -> None:
    """Without keys it is asked again soon, then less often, for however long it takes."""
    keys, now = KnownKeys(INTERVAL), AT
    pauses: list[float | None] = []
    for _ in range(2000):
        with pytest.raises(KeysWanted):
            keys.public_key(KEY.kid, now)
        keys.fail(now)
        with pytest.raises(Unavailable) as refused:
            keys.public_key(KEY.kid, now)
        assert refused.value.retry_after is not None
        pauses.append(refused.value.retry_after)
        now += refused.value.retry_after
    assert pauses == [1, 2, 4, 8, *[INTERVAL] * 1996]


def test_keys_that_nobody_asked_about() -> None:
    """Where no token came for long, the next one waits for an answer; the key as it was is there for when none comes."""
    keys = known()
    last = AT + 2 * DEFAULT_MAX_AGE
    assert keys.public_key(KEY.kid, last - 1) is not None
    with pytest.raises(KeysWanted) as wanted:
        keys.public_key(KEY.kid, last)
    assert (wanted.value.beside, wanted.value.former) == (False, keys.public_key(KEY.kid, AT))
    keys.fail(last)
    assert keys.public_key(KEY.kid, last + KEEP_TIME / 2) is not None
    keys.learn(Reply(304), last + KEEP_TIME / 2)
    with pytest.raises(KeysWanted):
        keys.public_key(KEY.kid, last + KEEP_TIME / 2 + 2 * DEFAULT_MAX_AGE)
    # Where less often is asked at all, nothing is waited for.
    seldom = KnownKeys(KEEP_TIME / 2)
    seldom.learn(Reply(200, key_set()), AT)
    assert seldom.public_key(KEY.kid, last) is not None


def test_keys_of_yesterday() -> None:
    """Keys that nobody could confirm for a day count no more, whatever they sign."""
    keys = known()
    keys.fail(AT + KEEP_TIME - 1)
    assert keys.public_key(KEY.kid, AT + KEEP_TIME - 1) is not None
    keys = known()
    with pytest.raises(KeysWanted):
        keys.public_key(KEY.kid, AT + KEEP_TIME)
    keys.fail(AT + KEEP_TIME)
    with pytest.raises(Unavailable):
        keys.public_key(KEY.kid, AT + KEEP_TIME)
