"""Django's password hashers at a cost that tests can bear. No test in this file."""

from __future__ import annotations

from django.contrib.auth import hashers


class Pbkdf2(hashers.PBKDF2PasswordHasher):
    """Django's default."""

    iterations = 1000


class Argon2(hashers.Argon2PasswordHasher):
    """The one that Keyturn makes, too."""

    time_cost = 1
    memory_cost = 1024
    parallelism = 1


class Bcrypt(hashers.BCryptPasswordHasher):
    """With the password itself."""

    rounds = 4


class BcryptSha256(hashers.BCryptSHA256PasswordHasher):
    """With the digest of the password."""

    rounds = 4
