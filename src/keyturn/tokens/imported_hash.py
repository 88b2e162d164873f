"""Password hashes of other systems: bcrypt and Django's PBKDF2 and bcrypt, to verify and never to make.

Owns their formats, their bounds and the work that makes them look alike from outside.
Must not know argon2 (`password` does).

bcrypt reads 72 bytes of a password and no more. Old libraries cut the rest off silently;
here a longer password never matches a bcrypt hash. Whoever had one sets a new password.
Why: with the cut, every text that shares the first 72 bytes would log in (Okta 2024). Django's own bcrypt hashes the
SHA-256 of the password, in hex, so that any length fits.
"""

from __future__ import annotations

import re
from base64 import b64decode
from dataclasses import dataclass
from hashlib import pbkdf2_hmac, sha256
from hmac import compare_digest
from importlib.util import find_spec
from typing import Final, Protocol

BCRYPT_MAX_BYTES: Final = 72

# Upper bounds, so that one odd row cannot occupy a core for minutes.
# Two bits at the end are of no byte: where they are not clear, this was cut or changed, and matches nothing.
_BCRYPT: Final = re.compile(r"(bcrypt_sha256\$)?(\$2[aby]\$(0[4-9]|1[0-6])\$[./A-Za-z0-9]{52}[.CGKOSWaeimquy26])")
_BCRYPT_DIGITS: Final = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_END_OF_SALT: Final = 28
_PBKDF2: Final = re.compile(r"pbkdf2_sha256\$([1-9][0-9]{0,6})\$([^$\s]{1,128})\$([A-Za-z0-9+/]{43}=)")
_FILLER: Final = b"no password at all"
_FILLER_SALT: Final = "abcdefghijklmnopqrstuu"


@dataclass(frozen=True, slots=True)
class ImportCosts:
    """What the imported hashes in the database cost at most; 0 means there are none.

    Why: an account with an imported hash takes longer to answer than an unknown one and
    so tells that it exists (Django CVE-2024-39329). With this declared, every check does
    the work of every declared format, real or not. It slows all logins, so it is for the
    months of an import.
    """

    bcrypt_rounds: int = 0
    pbkdf2_iterations: int = 0

    def __post_init__(self) -> None:
        """Refuse costs that no hash may have. Raises: ValueError. ModuleNotFoundError: bcrypt is not installed."""
        if self.bcrypt_rounds and not has_bcrypt():
            raise ModuleNotFoundError("No module named 'bcrypt': install keyturn[bcrypt]", name="bcrypt")
        if self.bcrypt_rounds and not 4 <= self.bcrypt_rounds <= 16:
            raise ValueError("bcrypt_rounds is 4 to 16, or 0 for none")
        if not 0 <= self.pbkdf2_iterations < 10_000_000:
            raise ValueError("pbkdf2_iterations is under 10 million, or 0 for none")

    def spend(self, done: ImportedHash | None = None) -> None:
        """Do the declared work that checking `done` has not done."""
        rounds = done.rounds if isinstance(done, BcryptHash) else 0
        # 2^r + 2^r + 2^(r+1) + ... + 2^(n-1) = 2^n: what is missing to the full cost.
        missing = range(rounds, self.bcrypt_rounds) if rounds else [self.bcrypt_rounds]
        for cost in missing:
            if cost:
                _bcrypt_check(_FILLER, f"$2b${cost:02}${_FILLER_SALT}{'.' * 31}")
        iterations = done.iterations if isinstance(done, Pbkdf2Hash) else 0
        if self.pbkdf2_iterations > iterations:
            pbkdf2_hmac("sha256", _FILLER, _FILLER, self.pbkdf2_iterations - iterations)


def has_bcrypt() -> bool:
    """Say whether bcrypt is installed, which is an extra."""
    return find_spec("bcrypt") is not None


class ImportedHash(Protocol):
    """A parsed hash of another system."""

    def matches(self, password: bytes) -> bool:
        """Tell whether a password, as typed and in UTF-8, belongs to the hash."""
        ...


@dataclass(frozen=True, slots=True, repr=False)
class BcryptHash:
    """A bcrypt hash: `$2a$`, `$2b$` or `$2y$`; or Django's `bcrypt_sha256$` and one of these."""

    text: str
    rounds: int
    digested: bool = False
    """True: of the password's SHA-256 in hex."""

    def matches(self, password: bytes) -> bool:
        """Check with the work of one bcrypt whatever comes in; over 72 bytes never match, unless digested."""
        if self.digested:
            return _bcrypt_check(sha256(password).hexdigest().encode("ascii"), self.text)
        if len(password) > BCRYPT_MAX_BYTES or b"\0" in password:
            _bcrypt_check(_FILLER, self.text)
            return False
        return _bcrypt_check(password, self.text)


@dataclass(frozen=True, slots=True, repr=False)
class Pbkdf2Hash:
    """A Django hash: `pbkdf2_sha256$iterations$salt$digest`."""

    iterations: int
    salt: bytes
    digest: bytes

    def matches(self, password: bytes) -> bool:
        """Compute the digest of the password and compare in constant time."""
        made = pbkdf2_hmac("sha256", password, self.salt, self.iterations)
        return compare_digest(made, self.digest)


def parse_imported_hash(stored: str) -> BcryptHash | Pbkdf2Hash | None:
    """Return the parsed hash, or None for a format or a cost that is not imported, or that nothing here can check."""
    if (match := _BCRYPT.fullmatch(stored)) and has_bcrypt():
        return BcryptHash(_canonical(match[2]), int(match[3]), digested=match[1] is not None)
    if match := _PBKDF2.fullmatch(stored):
        return Pbkdf2Hash(int(match[1]), match[2].encode("utf-8"), b64decode(match[3]))
    return None


def is_bcrypt(stored: str) -> bool:
    """Tell whether a stored hash is one that bcrypt can check, installed or not."""
    return _BCRYPT.fullmatch(stored) is not None


def _canonical(text: str) -> str:
    """Clear the four bits at the end of the salt that no byte uses.

    Why: some libraries wrote them as they came, and all others read past them. This one raises, which would answer the login of
    such an account, and of no other, with a 500.
    """
    digit = _BCRYPT_DIGITS.index(text[_END_OF_SALT]) & 0b110000
    return text[:_END_OF_SALT] + _BCRYPT_DIGITS[digit] + text[_END_OF_SALT + 1 :]


def _bcrypt_check(password: bytes, stored: str) -> bool:
    import bcrypt

    return bcrypt.checkpw(password, stored.encode("ascii"))
