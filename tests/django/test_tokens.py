"""Access tokens in a Django project beyond the scenarios of `tests/frameworks`: the middleware, classes, REST framework."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from threading import Event
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.django.conftest import Person

# isort: split
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory, override_settings
from django.utils.decorators import method_decorator
from django.views import View
from ninja import NinjaAPI
from ninja.testing import TestClient
from rest_framework.permissions import OR, AllowAny
from rest_framework.request import Request as RestRequest
from rest_framework.response import Response as RestResponse
from rest_framework.test import APIRequestFactory, force_authenticate
from rest_framework.views import APIView

from keyturn.core.model import Principal, SessionId
from keyturn.verify import Verifier, drf
from keyturn.verify.django import TokenMiddleware, principal_of, requires
from keyturn.verify.ninja import TokenAuth
from tests.services import wait_until
from tests.tokens.forge import AUDIENCE, ISSUER, NOW, sign
from tests.verify.publisher import PATIENCE, publishing
from tests.web.conftest import PASSWORD


@pytest.mark.parametrize("path", ["/lazy", "/lazy-async"])
def test_principal_of_the_middleware(ada: Person, path: str) -> None:
    """`request.principal` is who the request acts as; using it without a token is answered with 401."""
    assert ada.send("GET", path).json() == {"user": str(ada.user.pk)}
    answer = ada.send("GET", path, authorization="Bearer x", x_request_id="request-1234")
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "request-1234"


def test_view_that_asks(ada: Person, stranger: Person) -> None:
    """A view may ask by itself, for scopes too."""
    assert ada.send("GET", "/asked").json()["code"] == "forbidden"
    admin = type(ada)("wsgi")
    assert admin.sign_up(name="admin").status_code == 201
    assert admin.send("GET", "/asked").json() == {"user": str(admin.user.pk)}


def test_public_view(stranger: Person) -> None:
    """The middleware refuses nobody by itself, also not a bad token, and leaves other faults to Django."""
    assert stranger.send("GET", "/public", authorization="Bearer x").content == b"hello"
    assert stranger.send("GET", "/broken").status_code == 500


def test_change_without_csrf_token(ada: Person) -> None:
    """A guarded view changes things without Django's CSRF token, and does nothing without an access token."""
    assert ada.send("POST", "/class").json() == {"user": str(ada.user.pk)}
    ada.token = ""
    assert ada.send("POST", "/class").json()["code"] == "invalid_token"


def test_user_of_rest_framework(ada: Person) -> None:
    """`request.user` is the project's own user where a view asks for it, and gone at once when deactivated."""
    assert ada.send("GET", "/rest/user").json() == {"username": ada.email}
    type(ada.user).objects.filter(pk=ada.user.pk).update(is_active=False)
    answer = ada.send("GET", "/rest/user")
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")


def test_token_user_of_rest_framework(ada: Person) -> None:
    """Without a user table `request.user` is what the token says."""
    pk = str(ada.user.pk)
    assert ada.send("GET", "/rest/token-user").json() == {"pk": pk, "id": pk, "text": pk}


@pytest.mark.parametrize(("method", "path"), [("GET", "/rest/staff"), ("POST", "/rest/groups")])
def test_rights_by_tables_of_somebody_with_a_token(ada: Person, method: str, path: str) -> None:
    """REST framework's own permissions refuse who is known by a token alone."""
    assert ada.send(method, path).status_code == 403


@pytest.mark.parametrize("value", ["", "Bearer", "bearer x", "Bearer x"])
def test_bad_token_at_a_public_view(stranger: Person, value: str) -> None:
    """REST framework authenticates before it asks for permission: a bad token is refused although nobody needs one."""
    assert stranger.send("GET", "/rest/public").status_code == 200
    assert stranger.send("GET", "/rest/public", authorization=value).status_code == 401


def test_credentials_of_another_scheme(ada: Person) -> None:
    """A class behind ours is asked about its own, and ours about none of them; nobody needs any at a public view."""
    basic = b64encode(f"{ada.email}:{PASSWORD}".encode()).decode()
    assert ada.send("GET", "/rest/either", authorization=f"Basic {basic}").json() == {"user": ada.email, "auth": None}
    assert ada.send("GET", "/rest/either").json() == {"user": str(ada.user.pk), "auth": str(ada.user.pk)}
    for value in ("Basic YTpi", "Bearer x"):
        answer = ada.send("GET", "/rest/either", authorization=value)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer error="invalid_token"')
    assert ada.send("GET", "/rest/public", authorization="Basic YTpi").status_code == 200


def test_handler_of_rest_framework(stranger: Person, settings_without_handler: Any) -> None:
    """Without our exception handler the status and the challenge are right all the same."""
    for headers in ({}, {"authorization": "Bearer x"}):
        answer = stranger.send("GET", "/rest/token-user", **headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
        assert set(answer.json()) == {"detail"}


@pytest.mark.parametrize(("scopes", "status"), [({"notes"}, 200), (set(), 403)])
def test_somebody_whom_a_test_has_authenticated(node: Any, scopes: set[str], status: int) -> None:
    """REST framework's own way to be somebody in a test goes without a token, and the scopes are checked all the same."""
    ada = Principal("1", SessionId(bytes(16)), "token", frozenset(scopes), ("pwd",), 0.0, 4e9, {})

    class Notes(APIView):
        permission_classes = (drf.requires("notes"),)

        def get(self, request: RestRequest) -> RestResponse:
            return RestResponse(request.user.get_username())

    request, user, token = APIRequestFactory().get("/"), cast("Any", drf.TokenUser(ada)), cast("Any", ada)
    force_authenticate(request, user, token)
    assert Notes.as_view()(request).status_code == status


def test_somebody_who_came_in_otherwise(ada: Person) -> None:
    """Whom another class has authenticated does not act by the scopes of a token, also where there is a good one."""
    assert ada.send("GET", "/rest/otherwise").status_code == 403


def test_permissions_of_which_one_is_enough(ada: Person) -> None:
    """In a composition ours goes last: what is enough by itself is asked before it refuses."""
    request = APIView().initialize_request(RequestFactory().get("/", HTTP_AUTHORIZATION=f"Bearer {ada.token}"))
    assert OR(AllowAny(), drf.requires("none-has-this")()).has_permission(request, APIView())
    with pytest.raises(drf.PrincipalRefused):
        OR(drf.requires("none-has-this")(), AllowAny()).has_permission(request, APIView())


def test_refusal_undoes_what_was_written(ada: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    """A view of REST framework that refuses leaves nothing behind where requests are atomic, as with every other fault."""
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    assert ada.send("GET", "/rest/undone").json()["code"] == "forbidden"
    assert not get_user_model()._default_manager.filter(username=f"undone-{ada.user.pk}").exists()


async def show(request: HttpRequest) -> HttpResponse:
    """An async view that shows who the request acts as."""
    principal: Any = request.principal  # type: ignore[attr-defined]
    return HttpResponse(principal.user_id)


async def show_by_ninja(request: HttpRequest) -> HttpResponse:
    """What django-ninja does around an async operation."""
    return HttpResponse((await TokenAuth()(request)).user_id)


def test_principal_that_a_body_holds() -> None:
    """An operation of django-ninja that takes one as an argument, where there is none to be had, gets none from the body."""
    api = NinjaAPI(urls_namespace="forged")

    def show_argument(request: HttpRequest, principal: Principal | None = None) -> str | None:
        return principal and principal.user_id

    api.post("/show")(show_argument)
    body = {"user_id": "admin", "session_id": "", "token_id": "", "scopes": ["admin"], "amr": ["pwd"]}
    whole = {**body, "authenticated_at": 0, "expires_at": 4e9, "claims": {}}
    assert TestClient(api).post("/show", json=whole).status_code == 422


@method_decorator(requires(), name="dispatch")
class Show(View):
    """A class of async views."""

    async def get(self, request: HttpRequest) -> HttpResponse:
        """Show who the request acts as."""
        return await show(request)


@pytest.mark.parametrize(
    "view",
    [TokenMiddleware(show), requires()(show), Show.as_view(), requires()(Show.as_view()), show_by_ninja],
    ids=["lazy", "asked", "class", "class-as-view", "ninja"],
)
def test_async_view_while_keys_are_fetched(view: Any) -> None:
    """The event loop goes on: whatever the principal needs is awaited before the view uses it."""
    gate = Event()

    async def ask() -> Any:
        request = RequestFactory().get("/", HTTP_AUTHORIZATION=f"Bearer {sign()}")
        asked = asyncio.ensure_future(view(request))
        await asyncio.to_thread(wait_until, lambda: bool(publisher.requests), PATIENCE, "the request for keys")
        gate.set()
        return await asked

    with publishing() as publisher:
        publisher.before = lambda: gate.wait(PATIENCE)
        url = f"{publisher.base}/.well-known/jwks.json"
        with override_settings(KEYTURN=Verifier(ISSUER, AUDIENCE, jwks_url=url, clock=lambda: NOW)):
            assert asyncio.run(ask()).content == b"ada"


def test_request_that_another_application_has_had() -> None:
    """A project that gets the WSGI environment after another one asks its own verifier: a token is not for everybody."""
    request = RequestFactory().get("/", HTTP_AUTHORIZATION=f"Bearer {sign()}")
    with publishing() as publisher:
        for audience, status in ((AUDIENCE, 200), ("another", 401)):
            verifier = Verifier(ISSUER, audience, jwks_url=f"{publisher.base}/.well-known/jwks.json", clock=lambda: NOW)
            with override_settings(KEYTURN=verifier):
                assert requires()(lambda _: HttpResponse())(request).status_code == status


def test_stand_in_without_a_hash() -> None:
    """Any object may stand in for a Verifier in tests, also one that compares by value: it is asked anew where it was replaced."""
    request = RequestFactory().get("/", HTTP_AUTHORIZATION="Bearer x")
    for user in ("ada", "bob"):
        principal = Principal(user, SessionId(bytes(16)), "test", frozenset(), ("pwd",), 0.0, 4e9, {})

        def authenticate(_token: str, found: Principal = principal) -> Principal:
            return found

        with override_settings(KEYTURN=SimpleNamespace(authenticate=authenticate)):
            assert principal_of(request).user_id == principal_of(request).user_id == user


@pytest.fixture
def settings_without_handler() -> Any:
    """REST framework as it comes, but for the authentication class."""
    rest = {name: value for name, value in settings.REST_FRAMEWORK.items() if name != "EXCEPTION_HANDLER"}
    with override_settings(REST_FRAMEWORK=rest):
        yield


@pytest.mark.parametrize("setting", [None, "django.urls.path"])
def test_setting_that_is_missing(stranger: Person, setting: str | None) -> None:
    """A project that names nobody to check tokens, or something else, is told so, and lets nobody in."""
    with override_settings(KEYTURN=setting), pytest.raises(ImproperlyConfigured, match="KEYTURN"):
        principal_of(RequestFactory().get("/", HTTP_AUTHORIZATION="Bearer x"))
