"""Host applications on Django: its own views, REST framework and django-ninja, with or without a node inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.django import project as project  # sets Django up, which what follows needs to be imported

# isort: split
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import URLPattern, URLResolver, include, path
from ninja import NinjaAPI
from rest_framework.decorators import api_view, permission_classes
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response

from keyturn.django import urls
from keyturn.ports import PrincipalSource
from keyturn.runtime import Keyturn
from keyturn.verify import drf
from keyturn.verify.django import requires
from keyturn.verify.ninja import TokenAuth, install
from tests.frameworks.asgi_hosts import lifespan

Routes = list[URLPattern | URLResolver]

# -- Django's own views


async def read_open(_request: HttpRequest) -> HttpResponse:
    """A route for everybody."""
    return JsonResponse({"open": True})


def read_user(request: HttpRequest) -> HttpResponse:
    """Answer with who the request acts as."""
    principal: Any = request.principal  # type: ignore[attr-defined]
    return JsonResponse({"user": principal.user_id})


async def read_user_async(request: HttpRequest) -> HttpResponse:
    """Do so in an async view."""
    return read_user(request)


DJANGO_ROUTES: Routes = [
    path("open", read_open),
    path("notes", requires("notes")(read_user)),
    path("admin", requires("notes", "admin")(read_user_async)),
    path("recent", requires(max_age=3600)(read_user_async)),
    path("strong", requires(max_age=300, amr=["otp"])(read_user)),
]

# -- REST framework


@api_view()
@permission_classes([AllowAny])
def show_open(_request: Request) -> Response:
    """A route for everybody."""
    return Response({"open": True})


def rest_view(*scopes: str, max_age: int | None = None, amr: Sequence[str] = ()) -> Any:
    """Make a view that asks for all this."""

    @api_view()
    @permission_classes([drf.requires(*scopes, max_age=max_age, amr=amr)])
    def show_user(request: Request) -> Response:
        principal: Any = request.auth
        return Response({"user": principal.user_id})

    return show_user


REST_ROUTES: Routes = [
    path("open", show_open),
    path("notes", rest_view("notes")),
    path("admin", rest_view("notes", "admin")),
    path("recent", rest_view(max_age=3600)),
    path("strong", rest_view(max_age=300, amr=["otp"])),
]

# -- django-ninja


def ninja_routes() -> Routes:
    """Make the routes of the host."""
    api = NinjaAPI()
    install(api)

    @api.get("/open")
    def tell_open(request: HttpRequest) -> dict[str, bool]:
        return {"open": True}

    def tell_user(request: HttpRequest) -> dict[str, str]:
        principal: Any = request.auth  # type: ignore[attr-defined]
        return {"user": principal.user_id}

    async def tell_user_async(request: HttpRequest) -> dict[str, str]:
        return tell_user(request)

    api.get("/notes", auth=TokenAuth("notes"))(tell_user)
    api.get("/admin", auth=TokenAuth("notes", "admin"))(tell_user_async)
    api.get("/recent", auth=TokenAuth(max_age=3600))(tell_user)
    api.get("/strong", auth=TokenAuth(max_age=300, amr=["otp"]))(tell_user_async)
    return [path("", api.urls)]


NINJA_ROUTES = ninja_routes()

# -- how they are served


def with_node(node: Keyturn, routes: Routes) -> project.Host:
    """A project with a node inside."""
    return project.Host(node, (path("", include(urls(node))), *routes))


def only_checking(source: PrincipalSource, routes: Routes) -> project.Host:
    """A project that only checks tokens."""
    return project.Host(source, tuple(routes))


def wsgi(host: project.Host) -> Any:
    """Serve a project over WSGI."""
    application = WSGIHandler()

    def serve(environ: Any, start_response: Any) -> Any:
        project.HOST.set(host)
        return application(environ, start_response)

    return serve


def asgi(host: project.Host) -> Any:
    """Serve a project over ASGI; Django itself has no lifespan."""
    application = ASGIHandler()

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        project.HOST.set(host)
        await application(scope, receive, send)

    return serve
