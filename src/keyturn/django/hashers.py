"""The password hashes of a project whose people sign in by Keyturn and by Django itself, to its admin for one.

    PASSWORD_HASHERS = ["keyturn.django.hashers.PasswordHasher", "django.contrib.auth.hashers.PBKDF2PasswordHasher"]

Owns: what Django makes and replaces. Must not hold: the cost of a hash (`tokens/password.py`).
"""

from __future__ import annotations

from typing import Final

from django.contrib.auth.hashers import Argon2PasswordHasher

from keyturn.tokens.password import OWASP

_SALT_LENGTH: Final = 16


class PasswordHasher(Argon2PasswordHasher):
    """Argon2id as Keyturn makes it, in place of Django's own.

    Why: each replaces at a login the hash that it would have made otherwise, and Django ends the sessions of a user whose hash
    has changed. A login by the one would sign the user out of the other's, each time.
    """

    time_cost = OWASP.passes
    memory_cost = OWASP.memory_kib
    parallelism = OWASP.lanes

    def encode(self, password: str, salt: str) -> str:
        """Hash a password, with a salt as long as Keyturn's: Django's is text, and longer for it."""
        return super().encode(password, salt[:_SALT_LENGTH])

    def must_update(self, encoded: str) -> bool:
        """Say whether a hash is to be replaced: not for its salt, in which Django counts characters of text."""
        return bool(self.decode(encoded)["params"] != self.params())
