"""simplejwt over PostgreSQL, as its guide sets it up to rotate refresh tokens: each is used once, and then on a blacklist.

Owns: a Django project of one file, its tokens, and serving it with gunicorn as a process. Must not hold: what is compared.

    python -m bench.peers.simplejwt prepare 1000    make the tables and so many users; print a refresh token of each
    python -m bench.peers.simplejwt serve           print the port and serve

PEER_DATABASE_URL says where the database is, PEER_SECRET what signs tokens.
"""

from __future__ import annotations

import os
import sys
from urllib.parse import urlsplit

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.core.management import call_command
from django.http import HttpRequest, HttpResponse
from django.urls import path

from keyturn.serving import bind, port_of

THREADS = 4
"""gunicorn's, each with a connection to the database that it keeps."""


def configure() -> None:
    """Set Django up."""
    database = urlsplit(os.environ["PEER_DATABASE_URL"])
    settings.configure(
        SECRET_KEY=os.environ["PEER_SECRET"],
        ALLOWED_HOSTS=["*"],
        USE_TZ=True,
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "rest_framework",
            "rest_framework_simplejwt.token_blacklist",
        ],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "HOST": database.hostname,
                "PORT": database.port,
                "USER": database.username,
                "NAME": database.path[1:],
                "CONN_MAX_AGE": None,
            }
        },
        REST_FRAMEWORK={"DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"]},
        SIMPLE_JWT={"ROTATE_REFRESH_TOKENS": True, "BLACKLIST_AFTER_ROTATION": True},
    )
    django.setup()
    from rest_framework_simplejwt.views import TokenRefreshView

    settings.ROOT_URLCONF = (path("api/token/refresh", TokenRefreshView.as_view()), path("healthz", healthz))


def prepare(count: int) -> None:
    """Make the tables and users."""
    from django.contrib.auth.models import User
    from rest_framework_simplejwt.tokens import RefreshToken

    call_command("migrate", verbosity=0)
    for number in range(count):
        # What is measured is no login, so they need no password.
        print(RefreshToken.for_user(User.objects.create(username=f"user{number}")))


def healthz(_request: HttpRequest) -> HttpResponse:
    """Say that the server is up."""
    return HttpResponse("ok")


def application() -> WSGIHandler:
    """Make what gunicorn serves."""
    configure()
    return WSGIHandler()


def main() -> None:
    """Do what the first argument says."""
    if sys.argv[1] == "prepare":
        configure()
        prepare(int(sys.argv[2]))
        return
    listener = bind("127.0.0.1", 0)
    listener.set_inheritable(True)
    print(port_of(listener), flush=True)
    options = f"--bind=fd://{listener.fileno()}", "--worker-class=gthread", f"--threads={THREADS}", "--keep-alive=75"
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", *options, f"{__spec__.name}:application()"])


if __name__ == "__main__":
    main()
