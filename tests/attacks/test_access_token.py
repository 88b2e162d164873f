"""Attacks on access tokens, over the real application with its real key, and over a service that only checks tokens.

`tests/tokens/test_access_token_attacks.py` holds the same attacks against the verifier, each with its reason; here only
what a caller sees counts: one answer for all of them.
"""

from __future__ import annotations

import hmac
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyturn.runtime import Keyturn
from keyturn.testing import FrozenClock
from keyturn.tokens import base64url
from keyturn.tokens.signing_key import SigningKey
from keyturn.verify import Verifier
from keyturn.verify.asgi import TokenMiddleware, principal_of
from tests.attacks.conftest import lighten, settings_of
from tests.attacks.support import ORIGIN, Answer, Browser, query, send
from tests.databases import sqlite_database
from tests.tokens.forge import ABSENT, OTHER_KEY, es256, members, segment
from tests.verify.publisher import PATIENCE, publishing

pytestmark = pytest.mark.anyio


class Forger:
    """Takes a good token apart and puts it together again, with the node's own key where the attack needs that."""

    def __init__(self, node: Keyturn, token: str, now: float, application: Any = None) -> None:
        self.node, self.token, self.now = node, token, now
        self.application = application or node.asgi
        head, payload, _ = token.split(".")
        self.header: dict[str, Any] = json.loads(base64url.decode(head))
        self.payload: dict[str, Any] = json.loads(base64url.decode(payload))
        self.key: SigningKey = node.signing.signing_key(now)

    def make(
        self, header: dict[str, Any] | None = None, payload: dict[str, Any] | None = None, key: SigningKey | None = None
    ) -> str:
        """Sign changed members."""
        head = segment(members(self.header, header or {}))
        covered = f"{head}.{segment(members(self.payload, payload or {}))}"
        return f"{covered}.{es256(covered, key or self.key)}"

    async def present(self, token: str) -> Answer:
        """Present a token."""
        return await send(self.application, "GET", "/auth/me", headers=[("authorization", f"Bearer {token}")])

    async def refused(self, token: str) -> Answer:
        """Present a token and see the one answer that every bad token gets."""
        answer = await self.present(token)
        assert (answer.status, answer.code) == (401, "invalid_token")
        assert answer.header("www-authenticate") == 'Bearer error="invalid_token"'
        assert answer.json()["detail"] == "The access token is not valid"
        assert "reason" not in answer.json()
        assert answer.cookies == {}
        return answer


async def _me(scope: Any, _receive: Any, sends: Any) -> None:
    """The one route of a service beside the node."""
    body = principal_of(scope).user_id.encode()
    await sends({"type": "http.response.start", "status": 200, "headers": []})
    await sends({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def service(sqlite_node: Keyturn, clock: FrozenClock) -> Iterator[Any]:
    """A service that checks the node's tokens by the keys it publishes, fetched over HTTP."""
    with publishing() as publisher:
        publisher.body = sqlite_node.signing.jwks(clock()).body
        verifier = Verifier(ORIGIN, jwks_url=f"{publisher.base}/.well-known/jwks.json", clock=clock, timeout=PATIENCE)
        assert verifier.load()
        yield TokenMiddleware(_me, verifier, clock=clock)


@pytest.fixture(params=["node", "service"])
def forger(
    request: pytest.FixtureRequest, sqlite_node: Keyturn, bob: Browser, clock: FrozenClock, service: Any
) -> Forger:
    """A forger with a good token and, unlike any real one, with the node's key; at the node and at a service beside it."""
    return Forger(sqlite_node, bob.token, clock(), service if request.param == "service" else None)


async def test_the_forger_can_sign(forger: Forger) -> None:
    """Without a change, what the forger signs is accepted: so each refusal below is for the change alone."""
    assert (await forger.present(forger.make())).status == 200


@pytest.mark.parametrize("alg", ["none", "None", "nOnE", "", [], ["none"], None, ABSENT, "ES384", "RS256", "HS256"])
async def test_another_algorithm(forger: Forger, alg: object) -> None:
    """`none` in any case, empty or as an array, and every algorithm but ours."""
    head, payload, signature = forger.make({"alg": alg}).split(".")
    for tail in (signature, "", "AA"):
        await forger.refused(f"{head}.{payload}.{tail}")


async def test_hmac_with_our_public_key(forger: Forger) -> None:
    """The public key as PEM, DER and JWK is no HMAC secret."""
    public = forger.key.public_key
    jwk = forger.node.signing.jwks(forger.now)[0]
    secrets = [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        jwk,
        json.dumps(json.loads(jwk)["keys"][0]).encode(),
    ]
    for secret in secrets:
        for alg in ("HS256", "ES256"):
            covered = f"{segment(members(forger.header, {'alg': alg}))}.{segment(forger.payload)}"
            mac = hmac.digest(secret, covered.encode(), "sha256")
            await forger.refused(f"{covered}.{base64url.encode(mac)}")
            await forger.refused(f"{covered}.{base64url.encode(mac + mac)}")


async def test_key_in_the_header(forger: Forger, monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedded `jwk`, `x5c`, or a place to fetch one: refused, and nobody is asked over the network."""
    asked: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **_: asked.append(where))
    monkeypatch.setattr(socket.socket, "connect", lambda _self, where: asked.append(where))
    numbers = OTHER_KEY.public_key.public_numbers()
    jwk = {
        "kty": "EC",
        "crv": "P-256",
        "x": base64url.encode(numbers.x.to_bytes(32, "big")),
        "y": base64url.encode(numbers.y.to_bytes(32, "big")),
    }
    for member in ({"jwk": jwk}, {"jku": "http://127.0.0.1:9/jwks"}, {"x5u": "http://127.0.0.1:9/"}, {"x5c": ["MIIB"]}):
        for kid in (forger.key.kid, OTHER_KEY.kid, ABSENT):
            for key in (OTHER_KEY, forger.key):
                await forger.refused(forger.make({**member, "kid": kid}, key=key))
    assert asked == []


async def test_kid(forger: Forger) -> None:
    """A key id that is a path, SQL, ten kilobytes or no text at all is no key."""
    for kid in ("../../../../dev/null", "' OR '1'='1", "x" * 10_240, {"kid": "a"}, ["a"], "", None, ABSENT, "a\0b"):
        await forger.refused(forger.make({"kid": kid}))


async def test_a_thousand_unknown_kids(tmp_path: Path, clock: FrozenClock) -> None:
    """Unknown key ids make a node ask nobody: they are refused also where there is no table of keys to ask."""
    keyturn = Keyturn(settings_of(sqlite_database(tmp_path)), database_clock=clock)
    lighten(keyturn)
    async with keyturn.lifespan():
        browser = Browser(keyturn.asgi)
        assert (await browser.sign_up()).status == 201
        forger = Forger(keyturn, browser.token, clock())
        await query(keyturn, "DROP TABLE keyturn_signing_keys")
        for number in range(1000):
            await forger.refused(forger.make({"kid": f"unknown-{number}"}, key=OTHER_KEY))
        assert (await browser.me()).status == 200


async def test_extension_in_the_header(forger: Forger) -> None:
    """An unknown `crit` and `b64: false` are refused."""
    attempts: list[dict[str, Any]] = [{"crit": ["exp"]}, {"crit": []}, {"crit": ["b64"], "b64": False}]
    for member in (*attempts, {"b64": False}, {"zip": "DEF"}):
        await forger.refused(forger.make(member))


async def test_other_serialisations(forger: Forger) -> None:
    """JSON forms, and 1, 2, 4 and 5 segments."""
    parts = [*forger.token.split("."), "AA", "AA"]
    for count in (1, 2, 4, 5):
        await forger.refused(".".join(parts[:count]))
    head, payload, tail = forger.token.split(".")
    await forger.refused(json.dumps({"protected": head, "payload": payload, "signature": tail}))


async def test_times(forger: Forger, clock: FrozenClock) -> None:
    """`exp` missing, of another type or past; `nbf` in the future."""
    now = int(clock())
    for exp in (ABSENT, None, str(now + 60), now + 60.5, float("nan"), -1, now - 6, True, [now], 2**80):
        await forger.refused(forger.make(payload={"exp": exp}))
    for nbf in (now + 60, str(now), None, float("nan")):
        await forger.refused(forger.make(payload={"nbf": nbf}))


async def test_audience_issuer_and_type(forger: Forger) -> None:
    """Another audience, an issuer that only begins or ends like ours, another type of token."""
    audience, issuer = forger.payload["aud"], forger.payload["iss"]
    for aud in (ABSENT, None, "other", "", [], [[audience]], {audience: 1}, audience + "x"):
        await forger.refused(forger.make(payload={"aud": aud}))
    for iss in (ABSENT, issuer + "/", issuer[:-1], "x" + issuer, [issuer], issuer.upper()):
        await forger.refused(forger.make(payload={"iss": iss}))
    for typ in (ABSENT, "JWT", "at+JWT", "application/at+jwt", "id+jwt", None, ["at+jwt"]):
        await forger.refused(forger.make({"typ": typ}))


async def test_huge_and_deep(forger: Forger) -> None:
    """A header of a megabyte and JSON of a hundred thousand levels are refused unread."""
    _, payload, tail = forger.token.split(".")
    await forger.refused(f"{'A' * 1_000_000}.{payload}.{tail}")
    for levels in (900, 100_000):
        await forger.refused(f"{segment(b'[' * levels)}.{payload}.{tail}")
        covered = f"{segment(forger.header)}.{segment(b'[' * levels + b']' * levels)}"
        await forger.refused(f"{covered}.{es256(covered, forger.key)}")


async def test_claims_of_another_session(sqlite_node: Keyturn, bob: Browser, clock: FrozenClock) -> None:
    """Even well signed, a session or a user that does not exist is nobody, nor is a user with a session of another."""
    forger = Forger(sqlite_node, bob.token, clock())
    other = Browser(sqlite_node.asgi)
    assert (await other.sign_up()).status == 201
    await forger.refused(forger.make(payload={"sid": other.session_id}))
    await forger.refused(forger.make(payload={"sub": other.user_id}))
    await forger.refused(forger.make(payload={"sid": "0" * 32}))
    await forger.refused(forger.make(payload={"sub": "0" * 32}))


async def test_token_anywhere_but_in_its_header(sqlite_node: Keyturn, bob: Browser) -> None:
    """In the query, a form or a cookie a token is not looked at."""
    app = sqlite_node.asgi
    query = f"access_token={bob.token}&token={bob.token}".encode()
    assert (await send(app, "GET", "/auth/me", query=query)).code == "invalid_token"
    cookies = [("cookie", f"access_token={bob.token}; Authorization=Bearer {bob.token}")]
    assert (await send(app, "GET", "/auth/me", headers=cookies)).code == "invalid_token"
    form = [("content-type", "application/x-www-form-urlencoded")]
    body = f"access_token={bob.token}".encode()
    assert (await send(app, "GET", "/auth/me", headers=form, body=body)).code == "invalid_token"


@pytest.mark.parametrize(
    "values",
    [
        [],
        [""],
        ["Bearer"],
        ["Bearer "],
        ["Bearer  "],
        ["Basic {token}"],
        ["{token}"],
        ["Bearer {token} {token}"],
        ["Bearer {token},Bearer {token}"],
        ["Bearer\t{token}"],
        ["Bearer={token}"],
        ["Bearer \u00e9{token}"],
        ["Bearer \x00{token}"],
        ["Bearer {token}\x00"],
        ["Bearer {token}\n"],
        ["Bearer {token},"],
        ["Bearer {token}", "Bearer {token}"],
        ["\u00ff" * 100],
        ["Bearer " + "=" * 100_000],
    ],
    ids=lambda values: repr(values)[:40],
)
async def test_malformed_authorization_header(sqlite_node: Keyturn, bob: Browser, values: list[str]) -> None:
    """A header of another form is a 401 like any bad token, never an error of ours."""
    headers = [("authorization", value.replace("{token}", bob.token)) for value in values]
    answer = await send(sqlite_node.asgi, "GET", "/auth/me", headers=headers)
    assert (answer.status, answer.code) == (401, "invalid_token")


async def test_refresh_token_as_an_access_token_and_back(sqlite_node: Keyturn, bob: Browser) -> None:
    """Neither kind of token passes for the other."""
    bearer = [("authorization", f"Bearer {bob.cookie}")]
    assert (await send(sqlite_node.asgi, "GET", "/auth/me", headers=bearer)).code == "invalid_token"
    swapped = bob.copy()
    swapped.jar["__Host-kt_refresh"] = bob.token
    assert (await swapped.refresh()).code == "no_session"
