"""The verified-token cache saves the signature check and nothing else."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from keyturn.core.errors import InvalidToken
from keyturn.tokens.verified_cache import VerifiedTokenCache
from tests.tokens.forge import KEY, NOW, SESSION_ID, forge, sign, verifier


def reason(cache: VerifiedTokenCache, token: str, now: float = NOW) -> str:
    """Return `ok` or the reason of the refusal."""
    try:
        cache.verify(token, now)
    except InvalidToken as refused:
        return str(refused.reason)
    return "ok"


def test_token_seen_again() -> None:
    """The second check returns the very same claims, without a signature check."""
    cache = VerifiedTokenCache(verifier())
    token = sign()
    first = cache.verify(token, NOW)
    assert cache.verify(token, NOW) is first
    assert len(cache) == 1


def test_key_withdrawn() -> None:
    """When a leaked key stops counting, so do the tokens in the cache, in both generations."""
    keys = {KEY.kid: KEY.public_key}
    cache = VerifiedTokenCache(verifier(keys=keys), limit=2)
    old, young = sign(), sign(token_id="b")
    assert [reason(cache, old), reason(cache, young)] == ["ok", "ok"]
    keys.clear()
    assert [reason(cache, old), reason(cache, young)] == ["key", "key"]
    assert len(cache) == 0


def test_token_expired_in_the_cache() -> None:
    """Expiry is checked every time, in both generations."""
    cache = VerifiedTokenCache(verifier(), limit=2)
    token, other = sign(), sign(token_id="b")
    assert reason(cache, token) == "ok"
    assert reason(cache, token, NOW + 609) == "ok"
    assert reason(cache, token, NOW + 610) == "expired"
    assert len(cache) == 0
    assert [reason(cache, token), reason(cache, other)] == ["ok", "ok"]
    assert reason(cache, token, NOW + 610) == "expired"


@pytest.mark.parametrize("name", [SESSION_ID.hex(), "0123456789abcdef", KEY.kid])
def test_token_revoked(name: str) -> None:
    """A revoked session or token, or one of a key that leaked, is refused at the next check, cold and warm."""
    denylist: set[str] = set()
    cache = VerifiedTokenCache(verifier(), revoked=denylist)
    token = sign()
    assert reason(cache, token) == "ok"
    denylist.add(name)
    assert reason(cache, token) == "revoked"
    assert reason(VerifiedTokenCache(verifier(), revoked=denylist), token) == "revoked"


def test_token_refused() -> None:
    """A refused token takes no place."""
    cache = VerifiedTokenCache(verifier(), limit=2)
    good = sign()
    assert reason(cache, good) == "ok"
    for number in range(10):
        assert reason(cache, forge(header=b"%d" % number)) == "json"
    assert len(cache) == 1
    assert cache.verify(good, NOW) is cache.verify(good, NOW)


def test_cache_bounded() -> None:
    """However many tokens come, at most `limit` stay, and the one in use stays among them."""
    cache = VerifiedTokenCache(verifier(), limit=6)
    used = sign()
    claims = cache.verify(used, NOW)
    for number in range(50):
        assert reason(cache, sign(token_id=f"t{number}")) == "ok"
        assert cache.verify(used, NOW) is claims
        assert len(cache) <= 6


def test_cache_too_small() -> None:
    """A cache without room is a mistake."""
    with pytest.raises(ValueError, match="at least 2"):
        VerifiedTokenCache(verifier(), limit=1)


def test_token_dropped_by_another_thread() -> None:
    """A token that leaves the cache while it is judged is refused for its reason, and nothing breaks."""
    withdrawn = False

    def key_of(kid: str, _now: float) -> ec.EllipticCurvePublicKey | None:
        if withdrawn:
            cache._young.clear()
            return None
        return KEY.public_key if kid == KEY.kid else None

    cache = VerifiedTokenCache(verifier(keys=key_of))
    token = sign()
    assert reason(cache, token) == "ok"
    withdrawn = True
    assert reason(cache, token) == "key"


def test_principal() -> None:
    """Who a token stands for is made once, and refused like the token itself."""
    cache = VerifiedTokenCache(verifier())
    token = sign(scope="notes")
    first = cache.authenticate(token, NOW)
    assert first.user_id == "ada"
    assert first.scopes == {"notes"}
    assert cache.authenticate(token, NOW) is first
    with pytest.raises(InvalidToken):
        cache.authenticate(token, NOW + 700)
