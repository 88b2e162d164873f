"""Every attack on the access token that the threat list names, each with its own key where it needs one.

The outside sees one answer for all of them; the reason is for the log.
"""

from __future__ import annotations

import hmac
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyturn.core.errors import InvalidToken
from keyturn.tokens import base64url
from keyturn.tokens.signing_key import KeyRotation, KeySchedule, SigningKey, SigningKeyRing, plan
from tests.tokens.forge import (
    ABSENT,
    AUDIENCE,
    HEADER,
    ISSUER,
    KEY,
    NOW,
    OTHER_KEY,
    PAYLOAD,
    fault_of,
    forge,
    members,
    segment,
    sign,
    signer,
    verifier,
    with_claims,
    with_header,
)

PUBLIC_JWK: dict[str, Any] = {
    name: value
    for name, value in json.loads(SigningKeyRing([OTHER_KEY]).jwks(NOW))["keys"][0].items()
    if name in {"kty", "crv", "x", "y"}
}


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", "", [], ["none"], ["ES256"], None, ABSENT])
@pytest.mark.parametrize("signature", ["", "AA", "A" * 86])
def test_alg_none(alg: object, signature: str) -> None:
    """`none` in any case, empty or as an array is refused, with and without a signature."""
    token = f"{segment(members(HEADER, {'alg': alg}))}.{segment(PAYLOAD)}.{signature}"
    assert fault_of(token) in {"algorithm", "segments"}


@pytest.mark.parametrize("form", ["pem", "der", "raw", "jwk"])
@pytest.mark.parametrize("alg", ["HS256", "HS512"])
def test_hmac_with_our_public_key(form: str, alg: str) -> None:
    """A MAC made with our public key as the secret is no signature."""
    jwk = SigningKeyRing([KEY]).jwks(NOW)
    secret = {
        "pem": KEY.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "der": KEY.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "raw": KEY.public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
        "jwk": json.dumps(json.loads(jwk)["keys"][0]).encode(),
    }[form]
    covered = f"{segment(members(HEADER, {'alg': alg}))}.{segment(PAYLOAD)}"
    mac = hmac.digest(secret, covered.encode(), {"HS256": "sha256", "HS512": "sha512"}[alg])
    assert fault_of(f"{covered}.{base64url.encode(mac)}") in {"algorithm", "signature"}
    assert fault_of(f"{covered}.{base64url.encode(mac.ljust(64))}") in {"algorithm", "signature"}


@pytest.mark.parametrize("alg", ["ES384", "ES512", "ES256K", "RS256", "PS256", "EdDSA", "Ed25519", "es256", "ES256 "])
def test_another_algorithm(alg: str) -> None:
    """The key is pinned to one algorithm."""
    assert fault_of(with_header(alg=alg)) == "algorithm"


@pytest.mark.parametrize(
    "member",
    [
        {"jwk": PUBLIC_JWK},
        {"jku": "https://evil.example/jwks.json"},
        {"x5u": "https://evil.example/cert.pem"},
        {"x5c": ["MIIB"]},
        {"x5t": "AAAA"},
        {"x5t#S256": "AAAA"},
    ],
    ids=lambda member: next(iter(member)),
)
@pytest.mark.parametrize("kid", [KEY.kid, OTHER_KEY.kid])
def test_key_in_the_header(member: dict[str, object], kid: str) -> None:
    """A token brings no key and no place to fetch one, whoever signed it."""
    header = {**HEADER, "kid": kid, **member}
    assert fault_of(forge(header=header, key=OTHER_KEY)) == "header"
    assert fault_of(forge(header=header, key=KEY)) == "header"


@pytest.mark.parametrize(
    "member",
    [{"crit": ["exp"]}, {"crit": []}, {"crit": ["b64"], "b64": False}, {"b64": False}, {"b64": True}, {"zip": "DEF"}],
)
def test_extension_in_the_header(member: dict[str, object]) -> None:
    """An unknown `crit`, `b64` and compression are refused."""
    assert fault_of(forge(header={**HEADER, **member})) == "header"


@pytest.mark.parametrize(
    "kid",
    [
        "../../../../dev/null",
        "/dev/null",
        "' OR '1'='1",
        "a'; DROP TABLE keys; --",
        "x" * 65,
        "",
        "a\x00b",
        "a b",
        "é",
        {"kid": "a"},
        ["a"],
        1,
        None,
        True,
        ABSENT,
    ],
    ids=repr,
)
def test_kid_of_another_form(kid: object) -> None:
    """A key id is a short text of safe characters; anything else is refused before a lookup."""

    def lookup(_kid: str, _now: float) -> None:
        pytest.fail("looked up")

    assert fault_of(with_header(kid=kid), judge=verifier(keys=lookup)) == "key"


def test_kid_of_ten_kilobytes() -> None:
    """A huge key id does not get as far as being parsed."""
    assert fault_of(with_header(kid="x" * 10_240)) == "size"


def test_kid_unknown() -> None:
    """No key means no: neither the only key there is nor any other is tried instead."""
    for judge in (verifier(), verifier(keys=SigningKeyRing([KEY]).public_key)):
        assert fault_of(with_header(kid=OTHER_KEY.kid), judge=judge) == "key"
        assert fault_of(forge(), judge=judge) == "ok"


def test_signature_of_another_key() -> None:
    """A known key id with a signature of another key is refused."""
    assert fault_of(forge(key=OTHER_KEY)) == "signature"


def test_signature_in_der() -> None:
    """A signature in DER, as libraries produce it, is not the 64 bytes of ES256."""
    covered = f"{segment(HEADER)}.{segment(PAYLOAD)}"
    der = KEY.private_key.sign(covered.encode(), ec.ECDSA(SHA256()))
    assert fault_of(f"{covered}.{base64url.encode(der)}") == "signature"


def test_signature_with_a_zero_between() -> None:
    """Its two numbers in 65 bytes would be a second text of the same token: only the 64 bytes of ES256 count."""
    covered, _, tail = forge().rpartition(".")
    raw = base64url.decode(tail)
    assert fault_of(f"{covered}.{base64url.encode(raw[:32] + bytes(1) + raw[32:])}") == "signature"


@pytest.mark.parametrize("r", [0, 1, 2**256 - 1])
@pytest.mark.parametrize("s", [0, 1, 2**256 - 1])
def test_signature_of_psychic_values(r: int, s: int) -> None:
    """Zero and out-of-range values are no signature (Java CVE-2022-21449)."""
    covered = f"{segment(HEADER)}.{segment(PAYLOAD)}"
    assert fault_of(f"{covered}.{base64url.encode(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}") == "signature"


def test_payload_of_another_token() -> None:
    """A signature does not carry over to other claims."""
    head, _, tail = forge().split(".")
    assert fault_of(f"{head}.{segment({**PAYLOAD, 'sub': 'admin'})}.{tail}") == "signature"


def test_json_serialisation() -> None:
    """The JSON forms of a JWS are refused."""
    head, body, tail = forge().split(".")
    flat = {"protected": head, "payload": body, "signature": tail}
    assert fault_of(json.dumps(flat)) == "segments"
    assert fault_of(json.dumps({"payload": body, "signatures": [flat]})) == "segments"


@pytest.mark.parametrize("segments", [1, 2, 4, 5])
def test_number_of_segments(segments: int) -> None:
    """A JWE has five segments, an unsigned token two: three are read."""
    parts = [*forge().split("."), "AA", "AA"]
    assert fault_of(".".join(parts[:segments])) == "segments"


@pytest.mark.parametrize("name", ["exp", "iat", "auth_time"])
@pytest.mark.parametrize("value", [ABSENT, None, str(NOW + 60), NOW + 60.5, float(NOW), True, -1, 2**60, [NOW], {}])
def test_time_of_another_type(name: str, value: object) -> None:
    """A time is a whole number of seconds that is not negative."""
    assert fault_of(with_claims(**{name: value})) == "claims"


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_time_not_a_number(value: bytes) -> None:
    """NaN and Infinity are not JSON; every comparison with them would be false."""
    payload = json.dumps(members(PAYLOAD, {"exp": ABSENT})).encode()[:-1] + b',"exp":' + value + b"}"
    assert fault_of(forge(payload=payload)) == "json"


def test_claim_twice() -> None:
    """A doubled claim is refused: two readers might take different ones."""
    payload = json.dumps(PAYLOAD).encode()[:-1] + b',"sub":"admin"}'
    assert fault_of(forge(payload=payload)) == "json"


def test_nbf_in_the_future() -> None:
    """A token that is not valid yet is refused; one of another type too."""
    assert fault_of(with_claims(nbf=NOW + 11)) == "not_yet_valid"
    assert fault_of(with_claims(nbf=NOW + 10)) == "ok"
    assert fault_of(with_claims(nbf=None)) == "claims"
    assert fault_of(with_claims(nbf=str(NOW))) == "claims"


@pytest.mark.parametrize(
    ("aud", "fault"),
    [
        (ABSENT, "claims"),
        (None, "claims"),
        ("", "claims"),
        ([], "claims"),
        ({AUDIENCE: True}, "claims"),
        ([[AUDIENCE]], "claims"),
        ([AUDIENCE, None], "claims"),
        ([AUDIENCE, 1], "claims"),
        (1, "claims"),
        ("other", "audience"),
        ("API", "audience"),
        ("api ", "audience"),
        ("api other", "audience"),
        (["other"], "audience"),
        (["other", AUDIENCE], "ok"),
    ],
    ids=repr,
)
def test_audience(aud: object, fault: str) -> None:
    """The audience is our name, or a list of names that holds ours."""
    assert fault_of(with_claims(aud=aud)) == fault


@pytest.mark.parametrize(
    ("iss", "fault"),
    [
        (ISSUER + "/", "issuer"),
        (ISSUER + ".evil.example", "issuer"),
        (ISSUER[:-1], "issuer"),
        ("https://evil.example/?" + ISSUER, "issuer"),
        (ISSUER.upper(), "issuer"),
        ([ISSUER], "claims"),
        ({}, "claims"),
        ("", "claims"),
        (None, "claims"),
        (ABSENT, "claims"),
    ],
    ids=repr,
)
def test_issuer(iss: object, fault: str) -> None:
    """The issuer is compared as a whole."""
    assert fault_of(with_claims(iss=iss)) == fault


@pytest.mark.parametrize(
    "typ",
    ["JWT", "jwt", "AT+JWT", "at+jwt ", "application/at+jwt", "id+jwt", "secevent+jwt", "", None, ["at+jwt"], ABSENT],
)
def test_another_type(typ: object) -> None:
    """Only an access token is an access token."""
    assert fault_of(with_header(typ=typ)) == "type"


def test_header_of_a_megabyte() -> None:
    """A huge header is refused by its length alone."""
    assert fault_of(f"{'A' * 1_000_000}.{segment(PAYLOAD)}.{'A' * 86}") == "size"


def test_json_of_a_hundred_thousand_levels() -> None:
    """Deep nesting is refused by length, and by depth where it fits the length."""
    assert fault_of(forge(header=b"[" * 100_000)) == "size"
    assert fault_of(forge(header=b'{"a":' * 900 + b"1" + b"}" * 900)) == "json"
    assert fault_of(forge(payload=b'{"a":' * 900 + b"1" + b"}" * 900)) == "json"


def test_retired_key_after_the_overlap() -> None:
    """A key verifies until the last token it signed is dead, and not a second longer."""
    now = float(NOW)
    schedule = KeySchedule(rotation_period=90 * 86400.0, publish_lead=3600.0, access_lifetime=600.0, leeway=10.0)
    old = plan([], now, bytes(range(48)), schedule).ring.keys[0]
    handing = plan([old], now, bytes(range(1, 49)), schedule, rotation=KeyRotation.FORCED)
    handover_at = handing.create[0].activate_at
    judge = verifier(keys=handing.ring.public_key)
    last = sign(signer(key=old), issued_at=handover_at, expires_at=handover_at + 600)
    assert fault_of(last, handover_at + 599, judge) == "ok"
    forever = sign(signer(key=old), issued_at=handover_at, expires_at=handover_at + 3600)
    assert fault_of(forever, handover_at + 609, judge) == "ok"
    assert fault_of(forever, handover_at + 610, judge) == "key"


def test_key_not_published_yet() -> None:
    """A key that is not public yet verifies nothing."""
    early = SigningKey.generate(bytes(range(48)), created_at=0, publish_at=NOW + 1, activate_at=NOW + 1)
    assert fault_of(sign(signer(key=early)), judge=verifier(keys=SigningKeyRing([early]).public_key)) == "key"


@pytest.mark.parametrize(
    ("claims", "fault"),
    [
        ({"sid": ABSENT}, "claims"),
        ({"sid": "x" * 32}, "claims"),
        ({"sid": "A" * 32}, "claims"),
        ({"sid": "a" * 31}, "claims"),
        ({"sid": "a" * 32 + "\n"}, "claims"),
        ({"sid": 1}, "claims"),
        ({"sub": ""}, "claims"),
        ({"sub": 1}, "claims"),
        ({"sub": ["ada"]}, "claims"),
        ({"sub": "x" * 2049}, "claims"),
        ({"jti": ABSENT}, "claims"),
        ({"jti": {"$ne": ""}}, "claims"),
        ({"amr": "pwd"}, "claims"),
        ({"amr": ABSENT}, "claims"),
        ({"amr": []}, "claims"),
        ({"amr": [1]}, "claims"),
        ({"scope": None}, "claims"),
        ({"scope": ["admin"]}, "claims"),
        ({"client_id": None}, "claims"),
        ({"client_id": {}}, "claims"),
        ({"exp": NOW}, "claims"),
        ({"exp": NOW + 3601}, "claims"),
        ({"exp": NOW + 3600}, "ok"),
        ({"auth_time": NOW + 11}, "claims"),
        ({"iat": NOW + 11, "exp": NOW + 600}, "not_yet_valid"),
        ({"iat": NOW + 10, "exp": NOW + 600}, "ok"),
    ],
    ids=repr,
)
def test_claim_of_another_form(claims: dict[str, object], fault: str) -> None:
    """Every claim has its exact type, and the lifetime is sane."""
    assert fault_of(with_claims(**claims)) == fault


def test_refusal_tells_nothing() -> None:
    """Neither the text of a refusal nor its chain holds the token, and each refusal is a new object."""
    token = with_claims(exp="never")
    refusals = []
    for bad in (token, token[:-3], "é", forge(payload=b'{"secret-claim":')):
        with pytest.raises(InvalidToken) as refused:
            verifier().verify(bad, NOW)
        refusals.append(refused.value)
        assert refused.value.__context__ is None
        assert str(refused.value) == "The access token is not valid"
        assert refused.value.detail == ""
    assert len({id(one) for one in refusals}) == len(refusals)
