"""The schedule of signing keys: published before it signs, verifying until its last token is dead."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, KeySet

from keyturn.tokens.signing_key import (
    KeyPlan,
    KeyRotation,
    KeySchedule,
    SigningKey,
    SigningKeyRing,
    etag,
    plan,
    thumbprint,
)

DAY = 86400.0
SCHEDULE = KeySchedule(rotation_period=90 * DAY, publish_lead=3600.0, access_lifetime=600.0, leeway=10.0)
PERIOD = SCHEDULE.rotation_period
LEAD = SCHEDULE.publish_lead
TAIL = SCHEDULE.access_lifetime + SCHEDULE.leeway


def entropy(number: int) -> bytes:
    """Return 64 bytes that are different for each number."""
    return sha256(b"%d" % number).digest() * 2


def key(number: int, publish_at: float = 0, activate_at: float = 0) -> SigningKey:
    """Return a key that differs for each number."""
    return SigningKey.generate(entropy(number), created_at=publish_at, publish_at=publish_at, activate_at=activate_at)


def test_key_generated() -> None:
    """The same entropy gives the same key, other entropy another one."""
    assert key(1) == key(1)
    assert key(1).kid != key(2).kid
    with pytest.raises(ValueError, match="48 bytes"):
        SigningKey.generate(bytes(47), created_at=0, publish_at=0, activate_at=0)


def test_key_id_is_the_thumbprint() -> None:
    """The id is what another implementation of RFC 7638 computes."""
    one = key(1)
    assert one.kid == thumbprint(one.public_key) == ECKey.import_key(one.private_key).thumbprint()
    assert len(one.kid) == 43


def test_key_shown() -> None:
    """The repr holds no key."""
    shown = repr(key(1))
    assert "private_key" not in shown
    assert "EllipticCurve" not in shown
    assert key(1).kid in shown


def test_key_on_another_curve() -> None:
    """Only P-256 keys sign ES256."""
    with pytest.raises(ValueError, match="P-256"):
        SigningKey(ec.derive_private_key(5, ec.SECP384R1()), 0, 0, 0)


@pytest.mark.parametrize("times", [(0, 2, 1), (0, 0, 2, 1), (0, 0, 1, 3, 2), (0, 0, 5, None, 4)])
def test_key_whose_schedule_runs_back(times: tuple[float, ...]) -> None:
    """Published, signs, retires, expires: in this order."""
    with pytest.raises(ValueError, match="order"):
        SigningKey(key(1).private_key, *times)


def test_first_plan() -> None:
    """Without any key one is made that signs at once."""
    made = plan([], 100.0, entropy(1), SCHEDULE)
    assert made.ring.signing_key(100.0) == made.create[0]
    assert made.ring.keys == made.create
    assert made.remove == ()


def test_plan_before_it_is_due() -> None:
    """Nothing happens while the key is young."""
    changes_nothing([key(1)], PERIOD - LEAD - 1)


def changes_nothing(keys: Sequence[SigningKey], now: float, rotation: KeyRotation = KeyRotation.SCHEDULED) -> None:
    """Assert that a plan leaves these keys as they are."""
    made = plan(keys, now, entropy(9), SCHEDULE, rotation=rotation)
    assert (made.ring.keys, made.create, made.remove) == (tuple(keys), (), ())


def hand_over() -> KeyPlan:
    """Return the plan at the moment in which key 1 gets a successor."""
    return plan([key(1)], PERIOD - LEAD, entropy(2), SCHEDULE)


def handed_over(planned: KeyPlan) -> SigningKey:
    """Return the one key that a plan retires."""
    (retiring,) = (one for one in planned.ring.keys if one.retire_at is not None)
    return retiring


def test_plan_when_due() -> None:
    """The successor is public a lead before it signs, and the old key outlives its last token."""
    handing = hand_over()
    (fresh,) = handing.create
    old = handed_over(handing)
    assert (fresh.publish_at, fresh.activate_at) == (PERIOD - LEAD, PERIOD)
    assert (old.retire_at, old.expire_at) == (PERIOD, PERIOD + TAIL)
    ring = handing.ring
    assert ring.signing_key(PERIOD - 1).kid == old.kid
    assert ring.signing_key(PERIOD).kid == fresh.kid
    assert set(ring.verification_keys(PERIOD - LEAD)) == {old.kid, fresh.kid}
    assert set(ring.verification_keys(PERIOD + TAIL - 1)) == {old.kid, fresh.kid}
    assert set(ring.verification_keys(PERIOD + TAIL)) == {fresh.kid}
    assert ring.public_key(old.kid, PERIOD + TAIL) is None
    assert ring.public_key(fresh.kid, PERIOD) is fresh.public_key
    assert ring.public_key("unknown", PERIOD) is None


@pytest.mark.parametrize("rotation", [KeyRotation.SCHEDULED, KeyRotation.FORCED])
def test_plan_while_handing_over(rotation: KeyRotation) -> None:
    """A second plan during the lead changes nothing, forced or not."""
    changes_nothing(hand_over().ring.keys, PERIOD - 1, rotation)


def test_plan_after_the_hand_over() -> None:
    """The dead key is removed once its last token is dead, and not before."""
    keys = hand_over().ring.keys
    changes_nothing(keys, PERIOD + TAIL - 1)
    assert plan(keys, PERIOD + TAIL, entropy(3), SCHEDULE).remove == (key(1).kid,)


def test_plan_long_overdue() -> None:
    """A job that slept for a year still leaves the whole lead."""
    late = plan([key(1)], 5 * PERIOD, entropy(2), SCHEDULE)
    assert late.create[0].activate_at == 5 * PERIOD + LEAD
    assert late.ring.signing_key(5 * PERIOD).kid == key(1).kid


def test_forced_plan() -> None:
    """A forced rotation leaves the lead and the tail."""
    forced = plan([key(1)], DAY, entropy(2), SCHEDULE, rotation=KeyRotation.FORCED)
    assert forced.create[0].activate_at == DAY + LEAD
    assert handed_over(forced).expire_at == DAY + LEAD + TAIL


def test_compromised_plan() -> None:
    """After a leak no old key verifies for a second more."""
    keys = hand_over().ring.keys
    cut = plan(keys, PERIOD, entropy(3), SCHEDULE, rotation=KeyRotation.COMPROMISED)
    assert set(cut.remove) == {one.kid for one in keys}
    assert set(cut.ring.verification_keys(PERIOD)) == {cut.create[0].kid}
    assert cut.ring.signing_key(PERIOD) == cut.create[0]


@pytest.mark.parametrize("now", [PERIOD - 1, PERIOD + 1])
def test_plan_without_a_successor(now: float) -> None:
    """If only retiring keys are left (a lost row), a new one signs at once, and not only when nobody signs any more."""
    retiring = handed_over(hand_over())
    healed = plan([retiring], now, entropy(4), SCHEDULE)
    assert healed.ring.signing_key(now) == healed.create[0]
    assert retiring.kid in healed.ring.verification_keys(now)


@pytest.mark.parametrize("rotation", [KeyRotation.SCHEDULED, KeyRotation.FORCED])
@pytest.mark.parametrize("ahead", [60, LEAD])
def test_plan_after_the_clock_was_set_back(ahead: float, rotation: KeyRotation) -> None:
    """If the time of every key is yet to come, a new one signs at once, and hands over to the first of them."""
    early = key(1, publish_at=ahead, activate_at=ahead)
    healed = plan([early], 0.0, entropy(2), SCHEDULE, rotation=rotation)
    (fresh,) = healed.create
    assert healed.ring.signing_key(0.0) == fresh
    assert healed.remove == ()
    changes_nothing(healed.ring.keys, 1.0)
    assert healed.ring.signing_key(ahead) == early
    assert fresh.kid in healed.ring.verification_keys(ahead)


@pytest.mark.parametrize("ahead", [2 * LEAD, 100 * DAY, 20 * PERIOD])
def test_first_key_of_a_clock_that_was_ahead(ahead: float) -> None:
    """It is forgotten, and with it what it has signed for a time to come; the new one is replaced like any other."""
    healed = plan([key(1, publish_at=ahead, activate_at=ahead)], 0.0, entropy(2), SCHEDULE)
    (fresh,) = healed.create
    assert healed.remove == (key(1).kid,)
    assert healed.ring.keys == (fresh,)
    assert healed.ring.signing_key(0.0) == fresh
    for rotation, now in ((KeyRotation.SCHEDULED, PERIOD - LEAD), (KeyRotation.FORCED, DAY)):
        (successor,) = plan(healed.ring.keys, now, entropy(3), SCHEDULE, rotation=rotation).create
        assert successor.activate_at == now + LEAD


def test_hand_over_of_a_clock_that_was_ahead() -> None:
    """The key that signs goes on as if it had never got that successor, until it is due or somebody says so."""
    keys = hand_over().ring.keys
    healed = plan(keys, DAY, entropy(3), SCHEDULE)
    assert healed.ring.keys == (key(1),)
    assert healed.remove == (key(2).kid,)
    (due,) = plan(healed.ring.keys, PERIOD - LEAD, entropy(3), SCHEDULE).create
    assert due.activate_at == PERIOD
    forced = plan(keys, DAY, entropy(3), SCHEDULE, rotation=KeyRotation.FORCED)
    assert forced.create[0].activate_at == DAY + LEAD
    assert (handed_over(forced).kid, handed_over(forced).retire_at) == (key(1).kid, DAY + LEAD)


def test_plan_with_two_open_keys() -> None:
    """Two keys that both have no successor (a race of two nodes) retire together."""
    both = plan([key(1), key(2, activate_at=5)], PERIOD + 5 - LEAD, entropy(3), SCHEDULE)
    assert {one.kid for one in both.ring.keys if one.retire_at is not None} == {key(1).kid, key(2).kid}
    assert both.ring.signing_key(PERIOD + 5) == both.create[0]


@given(st.lists(st.integers(min_value=60, max_value=int(40 * DAY)), min_size=1, max_size=30))
def test_plans_at_any_times(gaps: list[int]) -> None:
    """However irregularly the job runs, there is a signing key, and it was public for the lead."""
    keys: tuple[SigningKey, ...] = plan([], 0.0, entropy(0), SCHEDULE).ring.keys
    first, now = keys[0].kid, 0.0
    for number, gap in enumerate(gaps, start=1):
        before, now = SigningKeyRing(keys), now + gap
        last_signer = before.signing_key(now)
        keys = plan(keys, now, entropy(number), SCHEDULE).ring.keys
        ring = SigningKeyRing(keys)
        signing = ring.signing_key(now)
        assert signing.kid == first or now - signing.publish_at >= LEAD
        assert ring.public_key(last_signer.kid, now) is not None


def test_ring_without_an_active_key() -> None:
    """Asking for a signing key too early is an error, not a wrong key."""
    with pytest.raises(LookupError, match="no signing key"):
        SigningKeyRing([key(1, 5, 10)]).signing_key(9)


def test_ring_with_one_key_twice() -> None:
    """Two keys of one id are refused."""
    with pytest.raises(ValueError, match="one id"):
        SigningKeyRing([key(1), key(1)])


def test_jwks() -> None:
    """The JWK set holds public members only, the keys that count now, and changes its tag with them."""
    ring = hand_over().ring
    body = ring.jwks(PERIOD - LEAD)
    listed = json.loads(body)["keys"]
    assert [set(one) for one in listed] == [{"alg", "crv", "kid", "kty", "use", "x", "y"}] * 2
    assert {one["alg"] for one in listed} == {"ES256"}
    imported = KeySet.import_key_set(json.loads(body))
    assert [one.thumbprint() for one in imported.keys] == [one["kid"] for one in listed]
    assert len(json.loads(ring.jwks(PERIOD + TAIL))["keys"]) == 1
    assert b" " not in body
    assert etag(body) == etag(ring.jwks(PERIOD)) != etag(ring.jwks(PERIOD + TAIL))
    assert etag(body).startswith('"')
    assert repr(ring) == f"SigningKeyRing(kids={[one.kid for one in ring.keys]})"


@pytest.mark.parametrize(
    "fields",
    [{"publish_lead": -1}, {"access_lifetime": 0}, {"leeway": -1}, {"rotation_period": LEAD + TAIL}],
)
def test_schedule_unsafe(fields: dict[str, float]) -> None:
    """A schedule that cannot hold its own promise is refused."""
    with pytest.raises(ValueError, match="must"):
        replace(SCHEDULE, **fields)
