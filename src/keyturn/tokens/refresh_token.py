"""The refresh token's bytes: mint one, and read one back only if its tag is authentic.

    "kt_rt_" + base64url( version 1 | key id 1 | session id 16 | generation u32 | issued_at u32
                          | parent fingerprint 8 | random 16 | tag 16 )

Owns: the format and the tag. Must not hold: rules (`core/rotation.py`), the clock, the source of randomness.

Why the tag: garbage that carries a real session id is refused before any database work, and a row edited in the
database without the key mints nothing. The key ring lives outside the database: a copy of the database cannot log in.
Spec: OWASP ASVS 5.0 7.2.2, 7.2.3 (at least 128 bits of entropy), 11.4; RFC 9700 4.14.
"""

from __future__ import annotations

from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Callable, Collection, Mapping
from hashlib import sha256
from hmac import compare_digest
from math import ceil
from struct import Struct

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from keyturn.core.errors import Unavailable
from keyturn.core.model import NewToken, PresentedToken, SessionId
from keyturn.core.rotation import Mint
from keyturn.tokens import base64url

PREFIX = "kt_rt_"
"""Fixed, so that secret scanners know one when they see it."""
RANDOM_LENGTH = 16
_VERSION = 1
_TAG_LENGTH = 16
_BODY = Struct(">BB16sII8s16s")
_PREFIX_BYTES = PREFIX.encode()
_LENGTH = len(PREFIX) + (_BODY.size + _TAG_LENGTH) * 4 // 3  # 66 bytes encode to 88 characters, without padding
_TO_STANDARD = bytes.maketrans(b"-_+/=", b"+/!!!")
"""What base64url has no place for becomes what no alphabet has, so that one look finds all of it."""


class RefreshTokens:
    """Mint and read refresh tokens under a ring of keys: several verify, one signs.

    Args:
        keys: key id (0-255) -> 32 bytes or more.
        active: the id of the key that signs.
        lacking: ids of keys that are not in the ring, and that other nodes are known to have.
    """

    __slots__ = ("_active", "_lacking", "_mac", "_macs")

    def __init__(
        self, keys: Mapping[int, bytes], active: int, lacking: Callable[[], Collection[int]] = frozenset[int]
    ) -> None:
        # Set up once for each key and copied for each token, which takes less than half as long as starting anew.
        self._macs = {key_id: HMAC(key, SHA256()) for key_id, key in keys.items()}
        self._active = active
        self._lacking = lacking
        self._mac = self._macs[active]

    def minter(self, entropy: bytes) -> Mint:
        """Bind 16 fresh random bytes to a pure function that makes one token of them."""

        def mint(session_id: SessionId, generation: int, now: float, parent_fingerprint: bytes) -> NewToken:
            body = _BODY.pack(_VERSION, self._active, session_id, generation, ceil(now), parent_fingerprint, entropy)
            text = PREFIX + base64url.encode(body + _tag(self._mac, body))
            return NewToken(text, sha256(text.encode()).digest())

        return mint

    def read(self, text: bytes) -> PresentedToken | None:
        """Return what an authentic token says; None for anything malformed, forged or under an unknown key.

        Why None and no reason: the answer is the same for all of them, and nothing may depend on which it was.

        Raises: Unavailable: it names a key that this node lacks. To take it for a forgery would sign its owner out.
        """
        if len(text) != _LENGTH or not text.startswith(_PREFIX_BYTES):
            return None
        try:
            raw = a2b_base64(text[len(PREFIX) :].translate(_TO_STANDARD), strict_mode=True)
        except Base64Error:
            return None
        body, tag = raw[:-_TAG_LENGTH], raw[-_TAG_LENGTH:]
        version, key_id, session_id, generation, issued_at, parent, _ = _BODY.unpack(body)
        mac = self._macs.get(key_id)
        if version != _VERSION or mac is None:
            if version == _VERSION and key_id in self._lacking():
                raise Unavailable("secret")
            return None
        if not compare_digest(_tag(mac, body), tag):
            return None
        return PresentedToken(SessionId(session_id), generation, issued_at, parent, sha256(text).digest())


def _tag(mac: HMAC, body: bytes) -> bytes:
    computing = mac.copy()
    computing.update(body)
    return computing.finalize()[:_TAG_LENGTH]
