"""Signing and verifying access tokens, the vectors, and the other implementation's opinion."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

from keyturn.core.errors import InvalidToken
from keyturn.tokens import base64url
from keyturn.tokens.access_token import RESERVED_CLAIMS, AccessTokenVerifier
from keyturn.tokens.jws import MAX_TOKEN_BYTES, TokenFault
from keyturn.tokens.signing_key import SigningKey, SigningKeyRing
from tests.tokens.forge import AUDIENCE, ISSUER, KEY, NOW, PAYLOAD, SESSION_ID, fault_of, sign, signer, verifier

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "spec" / "vectors" / "access-token.json").read_text("utf-8")
)


def vector_key() -> SigningKey:
    """Return the test key of the vectors."""
    scalar = int.from_bytes(base64url.decode(VECTORS["test_only_key"]["d"]), "big")
    return SigningKey(ec.derive_private_key(scalar, ec.SECP256R1()), 0, 0, 0)


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_vector(case: dict[str, str]) -> None:
    """Every vector has its outcome, of a closed set."""
    key = vector_key()
    assert key.kid == VECTORS["test_only_key"]["kid"]
    judge = AccessTokenVerifier(
        {key.kid: key.public_key},
        VECTORS["issuer"],
        VECTORS["audience"],
        leeway=VECTORS["leeway"],
        max_lifetime=VECTORS["max_lifetime"],
    )
    assert case["outcome"] in VECTORS["outcomes"]
    assert set(VECTORS["outcomes"]) <= {"ok", *TokenFault}
    assert fault_of(case["token"], VECTORS["now"], judge) == case["outcome"]


def test_token_signed_and_verified() -> None:
    """All fields come back with their types."""
    token = sign(
        signer(audience=["api", "other"]),
        issued_at=NOW + 0.9,
        scope="read write",
        extra={"roles": ["admin"], "plan": {"name": "pro", "seats": [1]}},
    )
    claims = verifier().verify(token, NOW)
    assert claims.issuer == ISSUER
    assert claims.kid == KEY.kid
    assert claims.audience == ("api", "other")
    assert claims.subject == "ada"
    assert claims.session_id == SESSION_ID
    assert claims.sid == SESSION_ID.hex()
    assert (claims.issued_at, claims.expires_at, claims.authenticated_at) == (NOW, NOW + 600, NOW - 5)
    assert claims.token_id == "0123456789abcdef"
    assert claims.amr == ("pwd",)
    assert claims.scope == "read write"
    assert claims.scopes == {"read", "write"}
    assert dict(claims.extra) == {"roles": ("admin",), "plan": {"name": "pro", "seats": (1,)}}


def test_token_without_the_optional_claims() -> None:
    """No scope and no client_id are no claims at all."""
    token = sign(scope="")
    claims = verifier().verify(token.encode(), NOW)
    assert claims.scope is None
    assert claims.scopes == frozenset()
    assert claims.client_id is None
    assert claims.extra == {}
    assert json.loads(base64url.decode(token.split(".")[1])) == PAYLOAD


def test_claims_are_read_only() -> None:
    """Claims are shared by requests through the cache, so no request can change them."""
    claims = verifier().verify(sign(extra={"plan": {"seats": 1}}), NOW)
    with pytest.raises(TypeError):
        claims.extra["plan"] = 1  # type: ignore[index]
    changes: list[Callable[[Any], object]] = [
        lambda plan: plan.__setitem__("seats", 2),
        lambda plan: plan.__delitem__("seats"),
        lambda plan: plan.__ior__({"seats": 2}),
        lambda plan: plan.update(seats=2),
        lambda plan: plan.setdefault("more", 2),
        lambda plan: plan.pop("seats"),
        lambda plan: plan.popitem(),
        lambda plan: plan.clear(),
    ]
    for change in changes:
        with pytest.raises(TypeError, match="read-only"):
            change(claims.extra["plan"])
    assert claims.extra == {"plan": {"seats": 1}}


@pytest.mark.parametrize("extra", [None, {"team": {"id": 1, "names": ["blue", {"short": "b"}]}}])
def test_claims_are_sent_on(extra: dict[str, Any] | None) -> None:
    """A route answers with claims, and what works elsewhere is given them: they are JSON, and may be copied and pickled."""
    principal = verifier().verify(sign(extra=extra), NOW).principal
    assert json.loads(json.dumps(principal.claims)) == (extra or {})
    assert pickle.loads(pickle.dumps(principal)) == deepcopy(principal) == principal
    with pytest.raises(TypeError):
        deepcopy(principal).claims["team"] = "red"  # type: ignore[index]


_TAKEN = "acr act amr aud auth_time azp client_id cnf exp iat iss jti may_act nbf nonce scope sid sub".split()


def test_reserved_claims() -> None:
    """They are written out here, so that none is given away unseen."""
    assert sorted(RESERVED_CLAIMS) == _TAKEN


def test_fractions_of_a_second() -> None:
    """They are cut off, so that no token lasts longer than was said."""
    token = sign(issued_at=NOW + 0.9, expires_at=NOW + 599.9, authenticated_at=NOW - 0.1)
    claims = verifier().verify(token, NOW)
    assert (claims.issued_at, claims.expires_at, claims.authenticated_at) == (NOW, NOW + 599, NOW - 1)


@pytest.mark.parametrize("name", sorted(RESERVED_CLAIMS))
def test_extra_claim_reserved(name: str) -> None:
    """An application's hook cannot set who the user is, for whom or how long."""
    with pytest.raises(ValueError, match=name):
        sign(extra={name: "x"})


@pytest.mark.parametrize("scope", ["s" * 2049, "notes \ud800"], ids=["long", "half-pair"])
def test_scope_unreadable(scope: str) -> None:
    """No token is signed that its own verifier refuses for its scope: with each refresh its owner would get another."""
    with pytest.raises(ValueError, match="2048 characters"):
        sign(scope=scope)


@pytest.mark.parametrize(
    "extra",
    [
        {"a": float("nan")},
        {"a": object()},
        {"a": {1: 1, "1": 2}},
        {"a": "\ud800"},
        {"a": [[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]},
        {"a": "x" * 8192},
        {"a": "x" * 5800},
    ],
    ids=["nan", "object", "doubled", "surrogate", "deep", "huge", "too large once signed"],
)
def test_extra_claim_unreadable(extra: dict[str, Any]) -> None:
    """Nothing is signed that no verifier would read."""
    with pytest.raises(ValueError, match=r"JSON|over 8192"):
        sign(extra=extra)


def test_extra_claim_endless() -> None:
    """A claim that holds itself is refused."""
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(ValueError, match=r"JSON|ircular"):
        sign(extra={"a": endless})


def test_largest_token() -> None:
    """What is signed is also read, up to the limit."""
    token = sign(extra={"a": "x" * 5500})
    assert len(token) <= MAX_TOKEN_BYTES
    assert fault_of(token) == "ok"


@pytest.mark.parametrize(("now", "fault"), [(NOW + 609.9, "ok"), (NOW + 610, "expired"), (NOW - 10.1, "not_yet_valid")])
def test_time_boundaries(now: float, fault: str) -> None:
    """The leeway of ten seconds holds on both sides and ends there."""
    assert fault_of(sign(), now) == fault
    assert fault_of(sign(), NOW + 600, verifier(leeway=0)) == "expired"


@pytest.mark.parametrize(
    "fields",
    [
        {"issuer": ""},
        {"audience": ""},
        {"audience": []},
        {"audience": ["api", ""]},
        {"leeway": -1},
        {"leeway": 121},
        {"leeway": float("nan")},
        {"max_lifetime": 0},
    ],
)
def test_verifier_unsafe(fields: dict[str, Any]) -> None:
    """A verifier that would believe too much is not made."""
    with pytest.raises(ValueError, match=r"must be named|leeway"):
        verifier(**fields)


def test_audience_of_several_names() -> None:
    """A service with several names accepts each."""
    assert fault_of(sign(), judge=verifier(audience={"web", AUDIENCE})) == "ok"
    assert fault_of(sign(), judge=verifier(audience={"web"})) == "audience"


def test_our_token_read_by_joserfc() -> None:
    """Another implementation verifies our signature with our JWK set and reads our claims."""
    keys = KeySet.import_key_set(json.loads(SigningKeyRing([KEY]).jwks(NOW)))
    decoded = jwt.decode(sign(extra={"roles": ["ä"]}), keys, algorithms=["ES256"])
    assert decoded.header == {"alg": "ES256", "kid": KEY.kid, "typ": "at+jwt"}
    assert decoded.claims == {**PAYLOAD, "roles": ["ä"]}
    jwt.JWTClaimsRegistry(
        now=NOW,
        iss={"essential": True, "value": ISSUER},
        aud={"essential": True, "value": AUDIENCE},
        exp={"essential": True},
    ).validate(decoded.claims)


def test_joserfc_token_read_by_us() -> None:
    """We read what another implementation signs in our form, and refuse its default form."""
    key = ECKey.import_key(KEY.private_key)
    header = {"alg": "ES256", "kid": KEY.kid, "typ": "at+jwt"}
    assert fault_of(jwt.encode(header, dict(PAYLOAD), key)) == "ok"
    assert fault_of(jwt.encode({"alg": "ES256"}, dict(PAYLOAD), key)) == "type"


def test_refusal_is_the_error_of_the_contract() -> None:
    """A refused token is `invalid_token`, 401."""
    with pytest.raises(InvalidToken) as refused:
        verifier().verify("x", NOW)
    assert (refused.value.code, refused.value.status) == ("invalid_token", 401)
