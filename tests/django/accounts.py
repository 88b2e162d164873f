"""User models beside Django's own, in tables of the project's database. No test in this file."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from tests.django import project as project  # sets Django up, which what follows needs to be imported

# isort: split
from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, User
from django.db import connection, models


class Account(AbstractBaseUser):
    """A user as many projects write one: with a UUID for a key, and an address that may be missing."""

    id: Any = models.UUIDField(primary_key=True, default=uuid4)
    email: Any = models.EmailField(unique=True, null=True)
    is_active: Any = models.BooleanField(default=True)
    USERNAME_FIELD = "email"
    objects: Any = BaseUserManager()

    class Meta:
        """Django wants an application."""

        app_label = "auth"


class Member(User):
    """A user who extends Django's own, and has the other's key."""

    class Meta:
        """As above."""

        app_label = "auth"


class Employee(AbstractBaseUser):
    """A user of whom the table wants more than a sign-up says."""

    email: Any = models.EmailField(unique=True)
    number: Any = models.IntegerField()
    USERNAME_FIELD = "email"
    objects: Any = BaseUserManager()

    class Meta:
        """As above."""

        app_label = "auth"


with connection.schema_editor() as editor:
    editor.create_model(Account)
    editor.create_model(Member)
    editor.create_model(Employee)
