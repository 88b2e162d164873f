"""A Django project with Keyturn in it: settings, node and tables, once for each process.

Django can be set up once in a process, and its tables stay; tests tell their users apart by address. No test in this
file.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any, NamedTuple, cast

import django
from django.conf import settings
from django.core.management import call_command
from django.urls import URLPattern, URLResolver
from django.utils.decorators import sync_and_async_middleware

from keyturn.core.model import Principal, Session, User
from keyturn.ports import PrincipalSource
from keyturn.runtime import Keyturn
from keyturn.verify.threaded import in_threads
from tests.databases import sqlite_database
from tests.services import PREFIX

DIRECTORY = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-django-"))


def set_up() -> None:
    """Set up Django with everything on that a new project has, and REST framework as our documentation says."""
    settings.configure(
        SECRET_KEY="for tests",
        ALLOWED_HOSTS=["*"],
        DATABASES={
            name: {"ENGINE": "django.db.backends.sqlite3", "NAME": str(DIRECTORY / file)}
            for name, file in (("default", "django.db"), ("archive", "archive.db"))
        },
        INSTALLED_APPS=[
            *("django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"),
            *("rest_framework", "ninja"),
        ],
        MIDDLEWARE=[
            "tests.django.project.choose_routes",
            "django.middleware.security.SecurityMiddleware",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.middleware.clickjacking.XFrameOptionsMiddleware",
            "keyturn.verify.django.TokenMiddleware",
        ],
        ROOT_URLCONF="tests.django.urls",
        KEYTURN="tests.django.project.source",
        USE_TZ=True,
        PASSWORD_HASHERS=[f"tests.django.hashers.{name}" for name in ("Pbkdf2", "Argon2", "Bcrypt", "BcryptSha256")],
        REST_FRAMEWORK={
            "DEFAULT_AUTHENTICATION_CLASSES": ["keyturn.verify.drf.TokenAuthentication"],
            "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
            "EXCEPTION_HANDLER": "keyturn.verify.drf.exception_handler",
        },
    )
    django.setup()
    call_command("migrate", verbosity=0)
    atexit.register(shutil.rmtree, DIRECTORY, ignore_errors=True)


class Host(NamedTuple):
    """What a request is served with, where a test has more than one project in this process."""

    source: PrincipalSource
    routes: Sequence[URLPattern | URLResolver]


HOST: ContextVar[Host | None] = ContextVar("HOST", default=None)


class _Source:
    """What the setting names: the source of the host that a request is for, and else the node of this project."""

    def authenticate(self, token: str) -> Principal:
        """Ask it."""
        return self._chosen().authenticate(token)

    async def authenticate_async(self, token: str) -> Principal:
        """Ask it without blocking."""
        return await self._chosen().authenticate_async(token)

    def clock(self) -> float:
        """Tell the time as it does."""
        told: float = cast("Any", self._chosen()).clock()
        return told

    def _chosen(self) -> PrincipalSource:
        from tests.django.urls import auth

        host = HOST.get()
        return in_threads(auth if host is None else host.source)


source = _Source()


@sync_and_async_middleware
def choose_routes(get_response: Any) -> Any:
    """Route a request as its host does."""

    def choose(request: Any) -> Any:
        host = HOST.get()
        if host is not None:
            request.urlconf = host.routes
        return get_response(request)

    async def choose_async(request: Any) -> Any:
        return await choose(request)

    return choose_async if iscoroutinefunction(get_response) else choose


async def scopes(user: User, _session: Session) -> Mapping[str, object]:
    """Give the scope `notes` to everybody, and `admin` to whoever is called so."""
    return {"scope": "notes admin" if user.name == "admin" else "notes"}


def make_node() -> Keyturn:
    """Make the node of the project, with the project's users."""
    from keyturn.django import DjangoUserDirectory
    from tests.attacks.conftest import lighten
    from tests.web.wsgi import new_node

    node = new_node(sqlite_database(DIRECTORY), trusted_proxies=1, users=DjangoUserDirectory(), claims=scopes)
    lighten(node)
    return node


if not settings.configured:
    set_up()
