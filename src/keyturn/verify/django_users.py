"""The ids of a Django project's own users, as tokens and sessions name them.

Owns: which ids a user model can have. Must not hold: queries.
"""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.db import connections
from django.db.models import IntegerField


def can_be_id(model: Any, text: str) -> bool:
    """Say whether an id may be some user's: whether the model's primary key can be read from it, and has room for it.

    Why before a query: it would fail as a whole, also for the other users it asks for.
    """
    field = model._meta.pk  # noqa: SLF001 - a documented API in spite of its name
    while field.remote_field is not None:  # the model extends another, whose key it has
        field = field.target_field
    try:
        key = field.to_python(text)
    except (ValidationError, ValueError):
        return False
    if not isinstance(field, IntegerField):
        return True
    operations: Any = connections[model._default_manager.db].ops  # noqa: SLF001 - documented, too
    lowest, highest = operations.integer_field_range(field.get_internal_type())  # None: the database has no bound
    return not ((lowest is not None and key < lowest) or (highest is not None and key > highest))
