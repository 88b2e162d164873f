"""Checking Keyturn's access tokens in any Python service; needs `cryptography` and nothing else.

    verifier = Verifier("https://auth.example.com", audience="notes")
    principal = verifier.authenticate(token)

One file for each framework beside this one: `keyturn.verify.fastapi`, `starlette`, `asgi`, `litestar` ... Each takes a
Verifier, or the Keyturn node of the same process.

This module owns the public surface and nothing else.
"""

from __future__ import annotations

from keyturn.core.errors import Forbidden, InvalidToken, Refused, StepUpRequired, Unavailable
from keyturn.core.model import Principal
from keyturn.ports import PrincipalSource
from keyturn.verify.guard import ANYBODY, Guard, Requirement, refusal
from keyturn.verify.verifier import Verifier

__all__ = [
    "ANYBODY",
    "Forbidden",
    "Guard",
    "InvalidToken",
    "Principal",
    "PrincipalSource",
    "Refused",
    "Requirement",
    "StepUpRequired",
    "Unavailable",
    "Verifier",
    "refusal",
]
