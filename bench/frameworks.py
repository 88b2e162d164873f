"""What checking a token costs a request, in each framework: Keyturn's integration beside the framework's usual choice.

Each subject is the call that the framework makes for a request, from the raw header to the principal or the claims, without
the server around it. `warm`: the same token again, as a client sends it for ten minutes. `cold`: every token for the first
time. All tokens but one peer's are ES256 with the same key; the peers have their key parsed and at hand. `HS256` is
fastapi-users' default: quicker to check, and whoever can check can also sign, so it has no bound when cold.

To add a framework: write a function that returns its `Pair`s and name it in PAIRS, here or in `frameworks_wsgi.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import jwt
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import Request as FastAPIRequest
from fastapi.security import HTTPBearer, SecurityScopes
from fastapi_users.authentication import JWTStrategy
from litestar.connection import ASGIConnection
from litestar.enums import ScopeType
from litestar.security.jwt import Token
from litestar.security.jwt.middleware import JWTAuthenticationMiddleware
from starlette.authentication import AuthCredentials, AuthenticationBackend, AuthenticationError, SimpleUser
from starlette.requests import HTTPConnection

from bench.access_token import per_call
from bench.figures import Figure, over_rounds
from keyturn.tokens.access_token import AccessTokenSigner
from keyturn.tokens.signing_key import SigningKey, SigningKeyRing
from keyturn.verify import Verifier
from keyturn.verify.asgi import TokenMiddleware, principal_of
from keyturn.verify.fastapi import BEARER, TokenAuth
from keyturn.verify.litestar import TokenPlugin, requires
from keyturn.verify.starlette import TokenBackend
from tests.verify.publisher import publishing

ISSUER = "https://auth.example.com"
AUDIENCE = "notes"
ROUNDS = 15
CALLS = 200
QUICK = (3, 20)
Value = TypeVar("Value")
Check = Callable[[str], object]
"""Checks one token as a framework would for one request; raises when it is refused."""


class Bench(NamedTuple):
    """What the subjects are made of.

    Attributes:
        verifier: has its keys.
        key: what all ES256 tokens are signed with.
    """

    verifier: Verifier
    key: SigningKey


class Pair(NamedTuple):
    """Our check in a framework, and a usual one.

    Attributes:
        tokens: makes what the peer checks, where it is not what we check.
    """

    framework: str
    peer: str
    ours: Check
    theirs: Check
    tokens: Callable[[int], Sequence[str]] | None = None


def finish(work: Coroutine[Any, Any, Value]) -> Value:
    """Run a coroutine that waits for nothing, without the cost of an event loop in the figure."""
    try:
        work.send(None)
    except StopIteration as done:
        value: Value = done.value
        return value
    raise AssertionError("it waits for something")


@lru_cache(maxsize=4096)
def headers_of(token: str) -> list[tuple[bytes, bytes]]:
    """Return the headers of a browser's request with a token, as a server has read them."""
    return [
        (b"host", b"notes.example.com"),
        (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/139.0.0.0 Safari/537.36"),
        (b"accept", b"application/json"),
        (b"accept-encoding", b"gzip, deflate, br, zstd"),
        (b"accept-language", b"en-GB,en;q=0.9"),
        (b"authorization", f"Bearer {token}".encode()),
    ]


def scope_of(token: str, **more: Any) -> dict[str, Any]:
    """Return the ASGI scope of such a request."""
    return {"type": "http", "method": "GET", "path": "/notes", "headers": headers_of(token), **more}


def decoder(key: Any, algorithm: str = "ES256") -> Callable[[str], dict[str, Any]]:
    """Return the usual call of PyJWT, with everything that it is told to check."""

    def decode(token: str) -> dict[str, Any]:
        return jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=AUDIENCE,
            issuer=ISSUER,
            options={"require": ["exp", "iat", "sub"]},
        )

    return decode


# -- the frameworks


class _User(NamedTuple):
    id: str


class _Users:
    """The least that fastapi-users can look a user up in: a dict instead of its database."""

    def __init__(self) -> None:
        self.rows = {"9f86d081884c7d659a2feaa0c55ad015": _User("9f86d081884c7d659a2feaa0c55ad015")}

    def parse_id(self, value: str) -> str:
        return value

    async def get(self, user_id: str) -> _User:
        return self.rows[user_id]


def fastapi(bench: Bench) -> list[Pair]:
    """The dependency, beside one of PyJWT and beside fastapi-users."""
    auth, bearer, scopes = TokenAuth(bench.verifier), HTTPBearer(), SecurityScopes()
    decode = decoder(bench.key.public_key)
    users: Any = _Users()
    secret = "a secret of fastapi-users that every service shares"
    pem = bench.key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    hs256: JWTStrategy[Any, Any] = JWTStrategy(secret, 600, token_audience=[AUDIENCE])
    es256: JWTStrategy[Any, Any] = JWTStrategy("", 600, token_audience=[AUDIENCE], algorithm="ES256", public_key=pem)

    def ours(token: str) -> object:
        request = FastAPIRequest(scope_of(token))
        return finish(auth(request, scopes, finish(BEARER(request))))

    def text_of(token: str) -> str:
        credentials = finish(bearer(FastAPIRequest(scope_of(token))))
        assert credentials is not None
        return credentials.credentials

    def strategy(of: JWTStrategy[Any, Any]) -> Check:
        def check(token: str) -> object:
            user = finish(of.read_token(text_of(token), users))
            assert user is not None
            return user

        return check

    def shared(count: int) -> list[str]:
        claims = {"sub": "9f86d081884c7d659a2feaa0c55ad015", "aud": [AUDIENCE], "exp": int(time.time()) + 600}
        return [jwt.encode({**claims, "jti": str(number)}, secret, algorithm="HS256") for number in range(count)]

    return [
        Pair("FastAPI", "PyJWT dependency", ours, lambda token: decode(text_of(token))),
        Pair("FastAPI", "fastapi-users, ES256", ours, strategy(es256)),
        Pair("FastAPI", "fastapi-users, HS256", ours, strategy(hs256), shared),
    ]


def starlette(bench: Bench) -> list[Pair]:
    """The authentication backend, beside one that its documentation shows, with PyJWT."""
    decode = decoder(bench.key.public_key)

    class Backend(AuthenticationBackend):
        async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser]:
            scheme, _, token = conn.headers["authorization"].partition(" ")
            if scheme.lower() != "bearer":
                raise AuthenticationError
            try:
                claims = decode(token)
            except jwt.PyJWTError as fault:
                raise AuthenticationError from fault
            return AuthCredentials(["authenticated"]), SimpleUser(claims["sub"])

    def check(backend: AuthenticationBackend) -> Check:
        def call(token: str) -> object:
            found = finish(backend.authenticate(HTTPConnection(scope_of(token))))
            assert found is not None
            return found

        return call

    return [Pair("Starlette", "PyJWT backend", check(TokenBackend(bench.verifier)), check(Backend()))]


def asgi(bench: Bench) -> list[Pair]:
    """The middleware around a route that asks, beside one of PyJWT."""
    decode = decoder(bench.key.public_key)

    async def ours(scope: Any, _receive: Any, _send: Any) -> None:
        principal_of(scope)

    async def theirs(scope: Any, _receive: Any, _send: Any) -> None:
        assert scope["claims"]

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        header = dict(scope["headers"])[b"authorization"].decode()
        await theirs({**scope, "claims": decode(header.removeprefix("Bearer "))}, receive, send)

    async def nothing(*_: Any) -> Any:
        return None

    guarded = TokenMiddleware(ours, bench.verifier)
    return [
        Pair(
            "ASGI",
            "PyJWT middleware",
            lambda token: finish(guarded(scope_of(token), nothing, nothing)),
            lambda token: finish(middleware(scope_of(token), nothing, nothing)),
        )
    ]


def litestar(bench: Bench) -> list[Pair]:
    """The plugin's middleware and a guard, beside Litestar's own JWT middleware."""
    from litestar import Litestar, get

    @get("/notes")
    async def handler() -> None:
        return None

    async def nothing(*_: Any) -> None:
        return None

    app = Litestar([handler], plugins=[TokenPlugin(bench.verifier)])
    define: Any = app.middleware[-1]
    ours, guard = define(nothing), requires()

    public_key: Any = bench.key.public_key  # PyJWT takes a key that is parsed already; it is declared as text

    async def user(token: Token, _connection: Any) -> str:
        return token.sub

    theirs = JWTAuthenticationMiddleware(
        algorithm="ES256",
        app=nothing,
        auth_header="Authorization",
        exclude=None,
        exclude_opt_key="exclude",
        exclude_http_methods=None,
        retrieve_user_handler=user,
        scopes={ScopeType.HTTP},
        token_secret=public_key,
        token_audience=[AUDIENCE],
        token_issuer=[ISSUER],
    )

    def ask(token: str) -> object:
        scope: Any = scope_of(token, litestar_app=app)
        connection: ASGIConnection[Any, Any, Any, Any] = ASGIConnection(scope)
        found = finish(ours.authenticate_request(connection))
        scope["user"], scope["auth"] = found.user, found.auth
        finish(guard(connection, handler))
        return found.user

    def ask_theirs(token: str) -> object:
        scope: Any = scope_of(token, litestar_app=app)
        found = finish(theirs.authenticate_request(ASGIConnection(scope)))
        scope["user"], scope["auth"] = found.user, found.auth
        return found.user

    return [Pair("Litestar", "its own JWT middleware", ask, ask_theirs)]


PAIRS: list[Callable[[Bench], Iterable[Pair]]] = [fastapi, starlette, asgi, litestar]

# -- measuring


@contextmanager
def prepared() -> Iterator[Bench]:
    """Publish a key, and make a Verifier that has fetched it."""
    key = SigningKey.generate(bytes(range(48)), created_at=0, publish_at=0, activate_at=0)
    with publishing() as publisher:
        publisher.body = SigningKeyRing([key]).jwks(time.time())
        verifier = Verifier(ISSUER, AUDIENCE, jwks_url=f"{publisher.base}/.well-known/jwks.json")
        assert verifier.load()
        yield Bench(verifier, key)


def tokens(key: SigningKey, count: int) -> list[str]:
    """Sign as many different tokens."""
    signer, now = AccessTokenSigner(key, ISSUER, AUDIENCE), int(time.time())
    return [
        signer.sign(
            subject="9f86d081884c7d659a2feaa0c55ad015",
            session_id=bytes(range(16)),
            issued_at=now,
            expires_at=now + 600,
            token_id=f"S1hqZk1mZ2pYb2Zk{number}",
            authenticated_at=now,
            amr=("pwd",),
            scope="notes",
        )
        for number in range(count)
    ]


def _costs(check: Check, texts: Sequence[str], calls: int) -> tuple[float, float]:
    """Return the microseconds of one call: cold, each token once; then warm, one of them again and again."""
    for text in texts:
        headers_of(text)  # the server's work, not the check's
    following = iter(texts)
    cold = per_call(lambda: check(next(following)), calls)
    known = texts[calls]
    check(known)
    return cold, per_call(lambda: check(known), calls)


def run(*, quick: bool = False) -> list[Figure]:
    """Measure every pair in turn in every round, so that a busy machine slows both alike."""
    from bench import frameworks_wsgi  # which is made of what is above

    rounds, calls = QUICK if quick else (ROUNDS, CALLS)
    figures: list[Figure] = []
    with prepared() as bench:
        for pair in (pair for made in (*PAIRS, *frameworks_wsgi.PAIRS) for pair in made(bench)):
            cold: list[float] = []
            warm: list[float] = []
            taken: list[float] = []
            for _ in range(rounds):
                texts = tokens(bench.key, calls + 1)
                theirs = _costs(pair.theirs, texts if pair.tokens is None else pair.tokens(calls + 1), calls)
                ours = _costs(pair.ours, texts, calls)
                cold.append(ours[0] / theirs[0])
                warm.append(theirs[1] / ours[1])
                taken.append(ours[1])
            name = f"{pair.framework}, {pair.peer}"
            figures += [
                over_rounds(f"{name}: its time / ours, warm", warm, "x", least=10.0),
                over_rounds(f"{name}: ours / its, cold", cold, "x", most=1.0 if pair.tokens is None else None),
                over_rounds(f"{name}: ours, warm", taken, "us"),
            ]
    return figures
