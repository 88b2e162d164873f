"""Access tokens in a Django project beyond the scenarios of `tests/frameworks`: the middleware, classes, REST framework."""

from __future__ import annotations

from typing import Any

import pytest

from tests.django.conftest import Person

# isort: split
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.test import RequestFactory, override_settings

from keyturn.verify.django import principal_of


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


@pytest.mark.parametrize("value", ["", "Bearer", "Basic YTpi", "Bearer x"])
def test_bad_token_at_a_public_view(stranger: Person, value: str) -> None:
    """REST framework authenticates before it asks for permission: a bad token is refused although nobody needs one."""
    assert stranger.send("GET", "/rest/public").status_code == 200
    assert stranger.send("GET", "/rest/public", authorization=value).status_code == 401


def test_handler_of_rest_framework(stranger: Person, settings_without_handler: Any) -> None:
    """Without our exception handler the status and the challenge are right all the same."""
    for headers in ({}, {"authorization": "Bearer x"}):
        answer = stranger.send("GET", "/rest/token-user", **headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
        assert set(answer.json()) == {"detail"}


@pytest.fixture
def settings_without_handler() -> Any:
    """REST framework as it comes, but for the authentication class."""
    rest = {name: value for name, value in settings.REST_FRAMEWORK.items() if name != "EXCEPTION_HANDLER"}
    with override_settings(REST_FRAMEWORK=rest):
        yield


def test_setting_that_is_missing(stranger: Person) -> None:
    """A project that names nobody to check tokens is told so, and lets nobody in."""
    with override_settings(KEYTURN=None), pytest.raises(ImproperlyConfigured, match="KEYTURN"):
        principal_of(RequestFactory().get("/", HTTP_AUTHORIZATION="Bearer x"))
