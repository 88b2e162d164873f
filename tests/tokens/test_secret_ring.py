"""The master key ring refuses what is weak and separates what it derives."""

from __future__ import annotations

import copy
import hmac
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from keyturn.tokens import base64url
from keyturn.tokens.secret_ring import SecretRing

ONE = sha256(b"one").digest()
TWO = sha256(b"two").digest()
TEXT = f"7:{base64url.encode(TWO)}\n1:{base64url.encode(ONE)}"


def line(secret: bytes) -> str:
    """Return the text of a ring with one secret."""
    return f"1:{base64url.encode(secret)}"


@pytest.mark.parametrize(
    "text", [TEXT, TEXT.replace("\n", ","), f"# made by ops\r\n\r\n {TEXT} \n", TEXT.replace(":", " : ")]
)
def test_ring_parsed(text: str) -> None:
    """The first secret is active; commas, lines, blanks and remarks are understood."""
    ring = SecretRing.parse(text)
    assert ring.active_id == 7
    assert ring.ids == (7, 1)
    assert list(ring.derive("x")) == [7, 1]


@pytest.mark.parametrize("key_id", [0, 9, 255])
def test_ring_generated(key_id: int) -> None:
    """A generated line parses to a ring with the given id."""
    assert SecretRing.parse(SecretRing.generate(ONE)).ids == (1,)
    assert SecretRing.generate(ONE, key_id) == f"{key_id}:{base64url.encode(ONE)}"
    assert SecretRing.parse(SecretRing.generate(ONE, key_id)).ids == (key_id,)


@pytest.mark.parametrize(("entropy", "key_id"), [(ONE[:31], 1), (bytes(32), 1), (ONE, 256)])
def test_ring_that_is_not_generated(entropy: bytes, key_id: int) -> None:
    """What no ring would take is refused before it is written down anywhere."""
    with pytest.raises(ValueError, match="secret"):
        SecretRing.generate(entropy, key_id)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "empty"),
        ("# nothing\n", "empty"),
        (base64url.encode(ONE), "form id:base64url"),
        ("x:AAAA", "form id:base64url"),
        ("-1:AAAA", "form id:base64url"),
        ("01:AAAA", "form id:base64url"),
        ("١:AAAA", "form id:base64url"),
        (line(ONE).replace("1:", "256:"), "not between 0 and 255"),
        (line(ONE).replace("1:", "999:"), "not between 0 and 255"),
        (line(ONE) + "=", "not base64url"),
        ("1:", "not base64url"),
        ("1:a+b/", "not base64url"),
        (f"{line(ONE)},{line(TWO)}", "appears twice"),
        (f"{line(ONE)},2:{base64url.encode(ONE)}", "under two ids"),
        (line(ONE[:31]), "has 31 bytes"),
        (line(ONE * 5), "at most 128"),
        (line(bytes(32)), "pattern"),
        (line(b"\xa5" * 40), "pattern"),
        (line(ONE[:16] * 2), "pattern"),
        (line(ONE + ONE[:5]), None),
        (line(bytes(range(32))), "pattern"),
        (line(bytes(range(250, 100, -3))), "pattern"),
        (line(ONE[:15] + ONE[:14] + ONE[3:9]), "pattern"),
        (line(b"correct horse battery staple, really 42"), "readable text"),
        ("1:changeme-changeme-changeme-changeme-changeme", "placeholder"),
        ("1:CHANGE_ME", "placeholder"),
    ],
)
def test_ring_text(text: str, complaint: str | None) -> None:
    """Each malformed or weak text is refused with a reason that does not repeat the secret."""
    if complaint is None:
        assert SecretRing.parse(text).active_id == 1
        return
    with pytest.raises(ValueError, match=complaint) as refused:
        SecretRing.parse(text)
    secret = text.partition(":")[2]
    assert not secret or secret not in str(refused.value)


def test_keys_derived() -> None:
    """Every purpose and every secret has its own key, made by HKDF-SHA256 with the purpose as info."""
    ring = SecretRing({1: ONE, 2: TWO})
    refresh, device = ring.derive("refresh-token"), ring.derive("device")
    assert len({*refresh.values(), *device.values(), ONE, TWO}) == 6
    assert refresh == SecretRing({1: ONE, 2: TWO}).derive("refresh-token")
    assert all(len(key) == 32 for key in refresh.values())
    extracted = hmac.digest(bytes(32), ONE, "sha256")
    assert HKDFExpand(SHA256(), 32, b"keyturn/v1/refresh-token").derive(extracted) == refresh[1]


@pytest.mark.parametrize("purpose", ["", "ü", "a\n"])
def test_purpose_malformed(purpose: str) -> None:
    """A purpose is printable ASCII."""
    with pytest.raises(ValueError, match="purpose"):
        SecretRing({1: ONE}).derive(purpose)


def test_ring_shown() -> None:
    """Neither repr nor a copy gives a secret away."""
    ring = SecretRing({1: ONE})
    assert repr(ring) == "SecretRing(ids=[1], secrets=***)"
    with pytest.raises(TypeError, match="copied"):
        copy.deepcopy(ring)
