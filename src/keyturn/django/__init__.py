"""Keyturn inside a Django project, under ASGI and WSGI: the routes, and the project's own users.

    auth = Keyturn(users=DjangoUserDirectory())
    urlpatterns = [path("", include(urls(auth)))]

Owns: what a project imports. Must not hold: logic. Django is imported only here and in `keyturn.verify`.
"""

from __future__ import annotations

from keyturn.django.routes import urls
from keyturn.django.users import DjangoUserDirectory

__all__ = ["DjangoUserDirectory", "urls"]
