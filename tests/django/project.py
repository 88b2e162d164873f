"""A Django project with Keyturn in it: settings, node and tables, once for each process.

Django can be set up once in a process, and its tables stay; tests tell their users apart by address. No test in this
file.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import django
from django.conf import settings
from django.core.management import call_command

from keyturn.core.model import Session, User
from keyturn.runtime import Keyturn
from tests.services import PREFIX, sqlite_url

DIRECTORY = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-django-"))


def set_up() -> None:
    """Set up Django with everything on that a new project has, and REST framework as our documentation says."""
    settings.configure(
        SECRET_KEY="for tests",
        ALLOWED_HOSTS=["*"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(DIRECTORY / "django.db")}},
        INSTALLED_APPS=[
            *("django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"),
            *("rest_framework", "ninja"),
        ],
        MIDDLEWARE=[
            "django.middleware.security.SecurityMiddleware",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.auth.middleware.LoginRequiredMiddleware",
            "django.middleware.clickjacking.XFrameOptionsMiddleware",
            "keyturn.verify.django.TokenMiddleware",
        ],
        ROOT_URLCONF="tests.django.urls",
        KEYTURN="tests.django.urls.auth",
        USE_TZ=True,
        REST_FRAMEWORK={
            "DEFAULT_AUTHENTICATION_CLASSES": ["keyturn.verify.drf.TokenAuthentication"],
            "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
            "EXCEPTION_HANDLER": "keyturn.verify.drf.exception_handler",
        },
    )
    django.setup()
    call_command("migrate", verbosity=0)
    atexit.register(shutil.rmtree, DIRECTORY, ignore_errors=True)


async def scopes(user: User, _session: Session) -> Mapping[str, object]:
    """Give the scope `notes` to everybody, and `admin` to whoever is called so."""
    return {"scope": "notes admin" if user.name == "admin" else "notes"}


def make_node() -> Keyturn:
    """Make the node of the project, with the project's users."""
    from keyturn.django import DjangoUserDirectory
    from tests.web.wsgi import new_node

    return new_node(sqlite_url(DIRECTORY), users=DjangoUserDirectory(), claims=scopes)


if not settings.configured:
    set_up()
