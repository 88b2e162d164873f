"""What the integrations of Django and Flask share: a source that any thread may ask, and headers as WSGI has them.

Owns: the two translations. Must not decide anything (`guard.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from keyturn.ports import PrincipalSource


class Threaded(Protocol):
    """A node that runs on a thread of its own, as `keyturn.runtime.Keyturn` does inside Django and Flask."""

    @property
    def threaded(self) -> PrincipalSource: ...


def in_threads(source: PrincipalSource | Threaded) -> PrincipalSource:
    """Return what may be asked from any thread and any event loop.

    Why: nothing else starts a node there. It starts with the first request of a process, be it a login or a token.
    """
    return cast("PrincipalSource", getattr(source, "threaded", source))


def environ_values(environ: Mapping[str, Any], key: str) -> Sequence[bytes]:
    """Return a header as it came, in a list as of several; a server that got several has joined them with a comma.

    Args:
        key: as in a WSGI environment or in Django's `request.META`.
    """
    value = environ.get(key)
    return () if value is None else (value.encode("latin-1"),)
