"""The pairs of `frameworks.py` for Django, REST framework, django-ninja and Flask.

Each is a generator: while one of its pairs is measured, the settings that the pair needs are in force.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import lru_cache, wraps
from typing import Any

from bench.frameworks import AUDIENCE, ISSUER, Bench, Check, Pair, decoder, headers_of
from tests.django import project as project  # sets Django up, which what follows needs to be imported

# isort: split
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from flask import Flask, request
from flask_jwt_extended import JWTManager, verify_jwt_in_request
from ninja.security import HttpBearer
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from keyturn.verify import flask as keyturn_flask
from keyturn.verify.django import requires
from keyturn.verify.drf import TokenAuthentication
from keyturn.verify.ninja import TokenAuth


@lru_cache(maxsize=4096)
def environ_of(token: str) -> dict[str, Any]:
    """Return what a server makes of a browser's request with a token."""
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/notes", "SERVER_NAME": "notes", "SERVER_PORT": "443"}
    for name, value in headers_of(token):
        environ[f"HTTP_{name.decode().upper().replace('-', '_')}"] = value.decode()
    return environ


def arrives(made: HttpRequest, token: str) -> HttpRequest:
    """Give a request of Django's the headers of the next one: to make one costs more than a check, and is Django's."""
    made.META = environ_of(token).copy()
    made.__dict__.pop("headers", None)  # it keeps what it has read
    return made


def _in_force(bench: Bench) -> AbstractContextManager[object]:
    key: Any = bench.key.public_key
    theirs = {
        "ALGORITHM": "ES256",
        "VERIFYING_KEY": key,
        "AUDIENCE": AUDIENCE,
        "ISSUER": ISSUER,
        "USER_ID_CLAIM": "sub",
        "TOKEN_TYPE_CLAIM": None,
    }
    settings: AbstractContextManager[object] = override_settings(KEYTURN=bench.verifier, SIMPLE_JWT=theirs)
    return settings


def django(bench: Bench) -> Iterator[Pair]:
    """The decorator, beside one of PyJWT."""
    decode = decoder(bench.key.public_key)

    def guarded(view: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
        @wraps(view)
        def check(asked: HttpRequest) -> HttpResponse:
            asked.claims = decode(asked.headers["authorization"].removeprefix("Bearer "))  # type: ignore[attr-defined]
            return view(asked)

        return check

    answer = HttpResponse()

    def view(_request: HttpRequest) -> HttpResponse:
        return answer

    ours, theirs, made = requires()(view), guarded(view), HttpRequest()

    def check(asked: Callable[[HttpRequest], HttpResponse]) -> Check:
        def call(token: str) -> object:
            assert asked(arrives(made, token)) is answer
            return answer

        return call

    with _in_force(bench):
        yield Pair("Django", "PyJWT decorator", check(ours), check(theirs))


def rest_framework(bench: Bench) -> Iterator[Pair]:
    """The authentication class, beside djangorestframework-simplejwt's without a database."""

    made = HttpRequest()
    rest = Request(made)

    def check(authentication: BaseAuthentication) -> Check:
        def call(token: str) -> object:
            arrives(made, token)
            found = authentication.authenticate(rest)
            assert found is not None
            return found

        return call

    with _in_force(bench):
        # It reads its settings when it is imported.
        from rest_framework_simplejwt.authentication import JWTStatelessUserAuthentication

        theirs = JWTStatelessUserAuthentication()
        yield Pair("REST framework", "simplejwt, ES256", check(TokenAuthentication()), check(theirs))


def ninja(bench: Bench) -> Iterator[Pair]:
    """The bearer authentication, beside one of PyJWT as its documentation shows."""
    decode = decoder(bench.key.public_key)

    class Bearer(HttpBearer):
        def authenticate(self, request: HttpRequest, token: str) -> object:
            return decode(token)

    ours, theirs, made = TokenAuth(), Bearer(), HttpRequest()
    with _in_force(bench):
        yield Pair(
            "django-ninja",
            "PyJWT bearer",
            lambda token: ours(arrives(made, token)),
            lambda token: theirs(arrives(made, token)),
        )


def flask(bench: Bench) -> Iterator[Pair]:
    """The principal of a request, beside flask-jwt-extended."""
    app = Flask(__name__)
    app.config.update(
        JWT_ALGORITHM="ES256",
        JWT_PUBLIC_KEY=bench.key.public_key,
        JWT_DECODE_AUDIENCE=AUDIENCE,
        JWT_DECODE_ISSUER=ISSUER,
    )
    JWTManager(app)
    keyturn_flask.TokenAuth(bench.verifier, app)
    answer = "notes"
    ours = keyturn_flask.requires()(lambda: answer)

    def check(ask: Callable[[], object]) -> Check:
        def call(token: str) -> object:
            # A context costs more than a check, and is Flask's; so there is one, with a new request's headers each time.
            environ.clear()
            environ.update(environ_of(token))
            return ask()

        return call

    with app.test_request_context():
        environ = request.environ
        yield Pair("Flask", "flask-jwt-extended, ES256", check(ours), check(verify_jwt_in_request))


PAIRS: list[Callable[[Bench], Iterator[Pair]]] = [django, rest_framework, ninja, flask]
