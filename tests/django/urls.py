"""The routes of the project: Keyturn's, and views beyond those that the scenarios of `tests/frameworks` have.

No test in this file.
"""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import include, path
from django.utils.decorators import method_decorator
from django.views import View
from rest_framework.authentication import BaseAuthentication, BasicAuthentication
from rest_framework.decorators import api_view, authentication_classes, permission_classes
from rest_framework.generics import ListAPIView
from rest_framework.permissions import AllowAny, DjangoModelPermissions, IsAdminUser
from rest_framework.request import Request
from rest_framework.response import Response

from keyturn.core.errors import Forbidden
from keyturn.django import urls
from keyturn.verify import drf
from keyturn.verify.django import principal_of, requires
from keyturn.verify.drf import PrincipalRefused, UserAuthentication
from keyturn.verify.guard import Requirement
from tests.django.project import make_node

auth = make_node()


def lazy(request: HttpRequest) -> HttpResponse:
    """A view that uses the principal that the middleware has set."""
    principal: Any = request.principal  # type: ignore[attr-defined]
    return JsonResponse({"user": principal.user_id})


async def lazy_async(request: HttpRequest) -> HttpResponse:
    """The same, async."""
    return lazy(request)


def asked(request: HttpRequest) -> HttpResponse:
    """A view that asks itself."""
    return JsonResponse({"user": principal_of(request, Requirement(scopes=("admin",))).user_id})


def public(_request: HttpRequest) -> HttpResponse:
    """A view for anybody."""
    return HttpResponse("hello")


def broken(_request: HttpRequest) -> HttpResponse:
    """A view with a fault of its own."""
    raise ZeroDivisionError


@method_decorator(requires("notes"), name="dispatch")
class Notes(View):
    """A class-based view."""

    def post(self, request: HttpRequest) -> HttpResponse:
        """Answer a change: no CSRF token of Django's is needed."""
        return lazy(request)


@api_view()
@authentication_classes([UserAuthentication])
def rest_user(request: Request) -> Response:
    """A view of REST framework that has the project's own user."""
    return Response({"username": request.user.get_username()})


@api_view()
def rest_token_user(request: Request) -> Response:
    """A view of REST framework for whoever has signed in."""
    user: Any = request.user
    return Response({"pk": user.pk, "id": user.id, "text": str(user)})


@api_view()
@permission_classes([IsAdminUser])
def rest_staff(_request: Request) -> Response:
    """A view of REST framework for the staff."""
    raise AssertionError("nobody here is")


class Groups(ListAPIView[Group]):
    """A view of REST framework for whoever has the right by Django's tables."""

    permission_classes = (DjangoModelPermissions,)
    queryset = Group.objects.none()

    def get(self, _request: Request) -> Response:
        """Answer nobody."""
        raise AssertionError("nobody here has it")


@api_view()
@permission_classes([AllowAny])
def rest_public(_request: Request) -> Response:
    """A view of REST framework for anybody."""
    return Response({})


@api_view()
@authentication_classes([drf.TokenAuthentication, BasicAuthentication])
def rest_either(request: Request) -> Response:
    """A view of REST framework with two ways to come in, each by the same header."""
    auth: Any = request.auth
    return Response({"user": request.user.get_username(), "auth": auth and auth.user_id})


class Otherwise(BaseAuthentication):
    """Somebody who comes in without a token of ours."""

    def authenticate(self, request: Request) -> tuple[Any, None]:
        """Return somebody."""
        return get_user_model()(username="otherwise"), None


@api_view()
@authentication_classes([Otherwise])
@permission_classes([drf.requires("notes")])
def rest_otherwise(request: Request) -> Response:
    """A view of REST framework for tokens, behind another way to come in."""
    return Response({"username": request.user.get_username()})


@api_view()
def rest_undone(request: Request) -> Response:
    """A view of REST framework that refuses when it has written something."""
    get_user_model()._default_manager.create(username=f"undone-{request.user.pk}")
    raise PrincipalRefused(Forbidden())


urlpatterns = [
    path("", include(urls(auth, operations=True))),
    path("api/", include(urls(auth))),
    path("lazy", lazy),
    path("lazy-async", lazy_async),
    path("asked", asked),
    path("public", public),
    path("broken", broken),
    path("class", Notes.as_view()),
    path("rest/user", rest_user),
    path("rest/token-user", rest_token_user),
    path("rest/public", rest_public),
    path("rest/staff", rest_staff),
    path("rest/groups", Groups.as_view()),
    path("rest/either", rest_either),
    path("rest/otherwise", rest_otherwise),
    path("rest/undone", rest_undone),
]
