"""Hash and verify passwords with argon2id; verify the hashes of other systems.

Owns the cost of a password check and its being the same for every account. Must not
judge whether a password is a good one (`password_policy` does), and must not run threads
(`keyturn.password_pool` does).
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from argon2 import PasswordHasher as Argon2
from argon2 import Type
from argon2.exceptions import HashingError, InvalidHashError, VerificationError
from argon2.low_level import error_to_str

from keyturn.tokens.imported_hash import ImportCosts, is_bcrypt, parse_imported_hash
from keyturn.tokens.password_policy import PasswordRefused, normal_password

_SALT_BYTES: Final = 16
_DIGEST_BYTES: Final = 32
_MIN_MEMORY_KIB: Final = 8

# ARGON2_MEMORY_ALLOCATION_ERROR and ARGON2_THREAD_FAIL: the exceptions have the text alone.
_WITHOUT_MEANS: Final = frozenset({error_to_str(-22), error_to_str(-33)})

# Upper bounds of a stored hash, so that one odd row cannot eat the memory of the node.
_MAX_MEMORY_KIB: Final = 1024 * 1024
_MAX_PASSES: Final = 64
_MAX_LANES: Final = 16
_ARGON2ID: Final = re.compile(
    r"\$argon2id\$v=19\$m=([1-9][0-9]{0,6}),t=([1-9][0-9]{0,2}),p=([1-9][0-9]?)"
    r"\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{22,86})"
)


@dataclass(frozen=True, slots=True)
class PasswordProfile:
    """The cost of one hash.

    Attributes:
        memory_kib: KiB of memory.
        passes: passes over it.
        lanes: degree of parallelism.
    """

    memory_kib: int
    passes: int
    lanes: int = 1


OWASP: Final = PasswordProfile(memory_kib=19 * 1024, passes=2, lanes=1)
"""argon2id with 19 MiB and two passes, about 22 ms.

Why: strong enough that a stolen table is dear to guess through, cheap enough that a
login flood is not an outage.  Spec: OWASP Password Storage Cheat Sheet; ASVS 5.0 11.4.2.
"""


@dataclass(frozen=True, slots=True)
class Verified:
    """The outcome of a password check.

    Attributes:
        ok: the password belongs to the hash.
        needs_rehash: it does, and the hash should be replaced by a new one now.
    """

    ok: bool
    needs_rehash: bool = False


class PasswordHasher:
    """Hash with one profile, verify what that profile, older ones and other systems made.

    Why: the time of an answer must not tell whether an account exists or how old its
    hash is. Every check costs one argon2 hash of the profile: unknown users verify
    against a dummy, hashes of unknown form too, cheaper argon2 hashes are topped up.
    A bcrypt or PBKDF2 hash costs its own work on top; `imports` makes that equal as well.

    Args:
        profile: the cost of new hashes.
        imports: what imported hashes in the database cost; needed for equal time while
            there are any. They verify without it too.

    Spec: ASVS 5.0 6.3.8 (no user enumeration by time), 11.4.2.
    """

    __slots__ = ("_argon2", "_dummy", "_imports", "_profile")

    def __init__(self, profile: PasswordProfile = OWASP, *, imports: ImportCosts | None = None) -> None:
        self._profile: Final = profile
        self._imports: Final = imports or ImportCosts()
        self._argon2: Final = _argon2(profile.memory_kib, profile.passes, profile.lanes)
        # The digest is no argon2 output that anyone knows a password for.
        salt = sha256(b"keyturn dummy salt").digest()[:_SALT_BYTES]
        digest = sha256(b"keyturn dummy digest").digest()
        cost = f"m={profile.memory_kib},t={profile.passes},p={profile.lanes}"
        self._dummy: Final = f"$argon2id$v=19${cost}${_b64(salt)}${_b64(digest)}"

    def hash(self, password: str, *, salt: bytes | None = None) -> str:
        """Return the argon2id hash of a password in its encoded form.

        Args:
            password: at most 1 024 characters; hashed in NFC.
            salt: 16 bytes for a reproducible result; drawn by argon2 when None.

        Raises:
            PasswordRefused: it is too long or no text. It is never cut.
            MemoryError: the system has no memory for it now.
        """
        with _means():
            return self._argon2.hash(normal_password(password).encode("utf-8"), salt=salt)

    def verify(self, stored: str | None, password: str) -> Verified:
        """Check a password in the same time for every account.

        Why: returned, not raised, because a wrong password is an ordinary outcome that
        the throttle counts; the caller has to read `ok`.

        Args:
            stored: the stored hash, or None when there is no such user or no password.
            password: as typed.

        Returns:
            `ok` and, only with it, whether to store a new hash.

        Raises:
            MemoryError: the system has no memory for it now, which says nothing about the password.
        """
        text, possible = password, True
        try:
            normal = normal_password(text).encode("utf-8")
        except PasswordRefused:
            normal, text, possible = b"", "", False
        imported = parse_imported_hash(stored) if stored is not None else None
        if imported is not None:
            _matches(self._argon2, self._dummy, normal)
            # The other system hashed what was typed, without a normal form.
            ok = imported.matches(text.encode("utf-8")) and possible
            self._imports.spend(imported)
            return Verified(ok, needs_rehash=ok)
        self._imports.spend()
        ok = self._verify_argon2(stored, normal) and possible
        stale = ok and stored is not None and self._argon2.check_needs_rehash(stored)
        return Verified(ok, needs_rehash=stale)

    def _verify_argon2(self, stored: str | None, password: bytes) -> bool:
        profile = None if stored is None else profile_of(stored)
        if stored is None or profile is None:
            _matches(self._argon2, self._dummy, password)
            return False
        ok = _matches(self._argon2, stored, password)
        wanted = self._profile.memory_kib * self._profile.passes
        missing = wanted - profile.memory_kib * profile.passes
        if missing >= _MIN_MEMORY_KIB * self._profile.lanes:
            # An older, cheaper hash: spend the rest of what the profile costs, to within one pass over one KiB.
            passes = -(-missing // self._profile.memory_kib)
            with _means():
                _argon2(missing // passes, passes, self._profile.lanes).hash(password, salt=bytes(_SALT_BYTES))
        return ok


def why_not_checked(stored: str) -> str | None:
    """Say why no password can be checked against a stored hash; None where one can."""
    if profile_of(stored) is not None or parse_imported_hash(stored) is not None:
        return None
    if is_bcrypt(stored):
        return "bcrypt is not installed: install keyturn[bcrypt]"
    return "its form or its cost is not understood"


def _argon2(memory_kib: int, passes: int, lanes: int) -> Argon2:
    return Argon2(
        time_cost=passes,
        memory_cost=memory_kib,
        parallelism=lanes,
        hash_len=_DIGEST_BYTES,
        salt_len=_SALT_BYTES,
        type=Type.ID,
    )


@contextmanager
def _means() -> Generator[None]:
    """Tell a want of memory or of a thread from what is wrong with a hash: argon2 raises the same for both."""
    try:
        yield
    except (HashingError, VerificationError) as error:
        if str(error) in _WITHOUT_MEANS:
            raise MemoryError(str(error)) from error
        raise


def _matches(argon2: Argon2, stored: str, password: bytes) -> bool:
    try:
        with _means():
            return argon2.verify(stored, password)
    except (VerificationError, InvalidHashError):
        return False


def profile_of(stored: str) -> PasswordProfile | None:
    """Return the cost of an argon2id hash, or None for what is not one, cannot be computed or costs too much.

    Why as strict as the library: what it will not decode it refuses at once, and so tells the account by the time.
    """
    match = _ARGON2ID.fullmatch(stored)
    if match is None or not (_is_canonical(match[4]) and _is_canonical(match[5])):
        return None
    memory_kib, passes, lanes = map(int, match.group(1, 2, 3))
    if (
        memory_kib > _MAX_MEMORY_KIB
        or passes > _MAX_PASSES
        or lanes > _MAX_LANES
        or memory_kib < _MIN_MEMORY_KIB * lanes
    ):
        return None
    return PasswordProfile(memory_kib, passes, lanes)


def _is_canonical(text: str) -> bool:
    """Say whether this is how some bytes are written in base64 without padding."""
    rest = len(text) % 4
    return rest != 1 and _b64(b64decode(text + "=" * (-rest % 4))) == text


def _b64(data: bytes) -> str:
    return b64encode(data).decode("ascii").rstrip("=")
