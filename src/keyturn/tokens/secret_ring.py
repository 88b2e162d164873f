"""The master key ring, which lives outside the database.

Owns the text format of `KEYTURN_SECRET`, the refusal of weak secrets, and the
derivation of one key per purpose. Must not read an environment or a file (settings
does) and must not know what the derived keys are used for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Final, NoReturn, final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keyturn.tokens import base64url

MIN_SECRET_BYTES: Final = 32
MAX_SECRET_BYTES: Final = 128
DERIVED_KEY_BYTES: Final = 32

# 32 random bytes show about 30 different values; fewer than 16 happens by chance once
# in more than 10^9 rings, and always in what people type.
_MIN_DISTINCT_BYTES: Final = 16
_CONTEXT: Final = b"keyturn/v1/"
_KEY_ID: Final = re.compile(r"0|[1-9][0-9]{0,2}")
_SEPARATOR: Final = re.compile(r"[,\r\n]")


@final
class SecretRing:
    """Hold the master secrets: several verify, the first one signs.

    Why: the ring stays outside the database so that a stolen copy of the database can
    neither log in nor mint a token. Several keys, so that one can be replaced without
    ending a single session.

    Spec: ASVS 5.0 11.2.2 (keys can be replaced), 13.3.1 (secrets outside the code).
    """

    __slots__ = ("_secrets",)

    def __init__(self, secrets: Mapping[int, bytes]) -> None:
        """Build a ring from its secrets in order; the first one signs.

        Args:
            secrets: key id (0 to 255) to at least 32 random bytes.

        Raises:
            ValueError: no secret at all, an id out of range, one secret under two ids,
                or a secret that is short or not random.
        """
        if not secrets:
            raise ValueError("the secret ring is empty: it needs at least one id:base64url line")
        for key_id, secret in secrets.items():
            if not 0 <= key_id <= 255:
                raise ValueError(f"secret id {key_id} is not between 0 and 255")
            _refuse_weak(key_id, secret)
        if len(set(secrets.values())) != len(secrets):
            raise ValueError("one secret stands under two ids")
        self._secrets: Final = dict(secrets)

    @classmethod
    def parse(cls, text: str) -> SecretRing:
        """Read a ring from its text: `id:base64url`, one per line or comma.

        Blank lines and lines that start with `#` are skipped.

        Raises:
            ValueError: a line of another form, a doubled id, or a weak secret. The
                message names the line or the id, never the secret.
        """
        secrets: dict[int, bytes] = {}
        for number, raw in enumerate(_SEPARATOR.split(text), start=1):
            line = raw.strip()
            if not line or line.startswith("#"):
                continue
            key_id, secret = _parse_line(number, line)
            if key_id in secrets:
                raise ValueError(f"secret id {key_id} appears twice")
            secrets[key_id] = secret
        return cls(secrets)

    @staticmethod
    def generate(entropy: bytes, key_id: int = 1) -> str:
        """Return the text line of a new secret made of `entropy`.

        Args:
            entropy: at least 32 bytes from the operating system's generator.
            key_id: an id that the ring does not hold yet.

        Raises:
            ValueError: the entropy is short or not random, or the id is out of range.
        """
        SecretRing({key_id: entropy})
        return f"{key_id}:{base64url.encode(entropy)}"

    @property
    def active_id(self) -> int:
        """The id of the secret that signs and encrypts."""
        return next(iter(self._secrets))

    @property
    def ids(self) -> tuple[int, ...]:
        """All ids, the active one first."""
        return tuple(self._secrets)

    def derive(self, purpose: str) -> dict[int, bytes]:
        """Return one 32-byte key per secret for one purpose, the active one first.

        Why: separate keys, so that a flaw or a leak in one use (a log hash, a cookie)
        says nothing about another (refresh tokens).

        Args:
            purpose: a short fixed ASCII name such as `"refresh-token"`.

        Raises:
            ValueError: the purpose is empty or not printable ASCII.

        Spec: RFC 5869 (HKDF, `info` separates contexts).
        """
        if not (purpose.isascii() and purpose.isprintable() and purpose):
            raise ValueError("a purpose is a short printable ASCII name")
        info = _CONTEXT + purpose.encode("ascii")
        return {
            key_id: HKDF(SHA256(), DERIVED_KEY_BYTES, salt=None, info=info).derive(secret)
            for key_id, secret in self._secrets.items()
        }

    def __repr__(self) -> str:
        return f"SecretRing(ids={list(self._secrets)}, secrets=***)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuse pickling and copying: both would spread the secrets unseen."""
        raise TypeError("a SecretRing cannot be pickled or copied")


def _parse_line(number: int, line: str) -> tuple[int, bytes]:
    key_id, colon, encoded = (part.strip() for part in line.partition(":"))
    if not colon or _KEY_ID.fullmatch(key_id) is None:
        raise ValueError(f"secret {number} is not of the form id:base64url with an id of 0 to 255")
    if "changeme" in re.sub(r"[-_]", "", encoded).lower():
        raise ValueError(f"secret {key_id} is a placeholder; use 32 random bytes")
    try:
        secret = base64url.decode(encoded)
    except ValueError:
        secret = b""
    if not secret:
        raise ValueError(f"secret {key_id} is not base64url without padding")
    return int(key_id), secret


def _refuse_weak(key_id: int, secret: bytes) -> None:
    """Raise ValueError for a secret that nobody drew at random.

    Why: a guessable master secret lets anyone mint refresh tokens. Production must not
    start with one.  Spec: ASVS 5.0 11.5.1 (128 bits from a CSPRNG), 13.2.3.
    """
    size = len(secret)
    if size < MIN_SECRET_BYTES:
        raise ValueError(f"secret {key_id} has {size} bytes; it needs {MIN_SECRET_BYTES}")
    if size > MAX_SECRET_BYTES:
        raise ValueError(f"secret {key_id} has {size} bytes; at most {MAX_SECRET_BYTES} are read")
    if (why := weakness(secret)) is not None:
        raise ValueError(f"secret {key_id} is {why}")


def weakness(secret: bytes) -> str | None:
    """Say what a key of 32 bytes or more is in place of random bytes; None: it may be random."""
    if is_pattern(secret) or len(set(secret)) < _MIN_DISTINCT_BYTES:
        return "a pattern, not random bytes"
    if all(0x20 <= byte < 0x7F for byte in secret):
        return "readable text, not random bytes"
    return None


def is_pattern(secret: bytes) -> bool:
    """Tell whether bytes repeat from some byte on, or go up or down in equal steps."""
    repeated = any(secret[period:] == secret[:-period] for period in range(1, len(secret) // 2 + 1))
    steps = {(after - before) % 256 for before, after in pairwise(secret)}
    return repeated or len(steps) == 1
