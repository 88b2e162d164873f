"""The routes of the project: Keyturn's, and views that ask who a request acts as, in every way there is.

No test in this file.
"""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import include, path
from django.utils.decorators import method_decorator
from django.views import View
from ninja import NinjaAPI
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from keyturn.django import urls
from keyturn.verify import drf
from keyturn.verify import ninja as keyturn_ninja
from keyturn.verify.django import principal_of, requires
from keyturn.verify.guard import Requirement
from tests.django.project import make_node

auth = make_node()


def _shown(request: HttpRequest) -> JsonResponse:
    principal: Any = request.principal  # type: ignore[attr-defined]
    return JsonResponse({"user": principal.user_id})


@requires("notes")
def notes(request: HttpRequest) -> HttpResponse:
    """A view for anybody with the scope."""
    return _shown(request)


@requires("admin")
async def admin(request: HttpRequest) -> HttpResponse:
    """An async view for a scope that few have."""
    return _shown(request)


@requires(max_age=0, amr=["otp"])
def fresh(request: HttpRequest) -> HttpResponse:
    """A view that nobody's sign-in is good enough for."""
    return _shown(request)


@method_decorator(requires("notes"), name="dispatch")
class Notes(View):
    """A class-based view."""

    def post(self, request: HttpRequest) -> HttpResponse:
        """Answer a change: no CSRF token of Django's is needed."""
        return _shown(request)


def _public(view: Any) -> Any:
    view.login_required = False
    return view


@_public
def lazy(request: HttpRequest) -> HttpResponse:
    """A view that uses the principal that the middleware has set."""
    return _shown(request)


@_public
async def lazy_async(request: HttpRequest) -> HttpResponse:
    """The same, async."""
    return _shown(request)


@_public
def asked(request: HttpRequest) -> HttpResponse:
    """A view that asks itself."""
    return JsonResponse({"user": principal_of(request, Requirement(scopes=("admin",))).user_id})


@_public
def public(_request: HttpRequest) -> HttpResponse:
    """A view for anybody."""
    return HttpResponse("hello")


class RestNotes(APIView):
    """A view of REST framework."""

    permission_classes = [drf.requires("notes")]

    def get(self, request: Request) -> Response:
        """Show who asks."""
        return Response({"user": request.auth.user_id, "pk": request.user.pk})

    post = get


class RestAdmin(RestNotes):
    """A view for a scope that few have."""

    permission_classes = [drf.requires("admin")]


class RestFresh(RestNotes):
    """A view that nobody's sign-in is good enough for."""

    permission_classes = [drf.requires(max_age=0, amr=["otp"])]


class RestUser(APIView):
    """A view that has the project's own user."""

    authentication_classes = [drf.UserAuthentication]

    def get(self, request: Request) -> Response:
        """Show who asks."""
        return Response({"username": request.user.get_username()})


class RestPublic(APIView):
    """A view for anybody, who must not bring a bad token all the same."""

    permission_classes = [AllowAny]

    def get(self, request: Request) -> Response:
        """Say whether somebody is known."""
        return Response({"known": bool(request.user and request.user.is_authenticated)})


class RestDefault(RestPublic):
    """A view as it comes by default."""

    permission_classes = APIView.permission_classes


api = NinjaAPI(auth=keyturn_ninja.TokenAuth("notes"))
keyturn_ninja.install(api)


def _shown_by_ninja(request: HttpRequest) -> dict[str, str]:
    principal: Any = request.auth  # type: ignore[attr-defined]
    return {"user": principal.user_id}


@api.get("/notes")
def ninja_notes(request: HttpRequest) -> dict[str, str]:
    """A sync operation."""
    return _shown_by_ninja(request)


@api.get("/notes-async")
async def ninja_notes_async(request: HttpRequest) -> dict[str, str]:
    """An async operation."""
    return _shown_by_ninja(request)


@api.get("/admin", auth=keyturn_ninja.TokenAuth("admin"))
async def ninja_admin(request: HttpRequest) -> dict[str, str]:
    """An operation for a scope that few have."""
    return _shown_by_ninja(request)


@api.get("/fresh", auth=keyturn_ninja.TokenAuth(max_age=0, amr=["otp"]))
def ninja_fresh(request: HttpRequest) -> dict[str, str]:
    """An operation that nobody's sign-in is good enough for."""
    return _shown_by_ninja(request)


urlpatterns = [
    path("", include(urls(auth))),
    path("api/", include(urls(auth))),
    path("notes", notes),
    path("admin", admin),
    path("fresh", fresh),
    path("class", Notes.as_view()),
    path("lazy", lazy),
    path("lazy-async", lazy_async),
    path("asked", asked),
    path("public", public),
    path("rest/notes", RestNotes.as_view()),
    path("rest/admin", RestAdmin.as_view()),
    path("rest/fresh", RestFresh.as_view()),
    path("rest/user", RestUser.as_view()),
    path("rest/public", RestPublic.as_view()),
    path("rest/default", RestDefault.as_view()),
    path("ninja/", api.urls),
]
