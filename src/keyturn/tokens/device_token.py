"""The device cookie's bytes: a random id under a tag, so that a device cannot be made up.

    "kt_dv_" + base64url( version 1 | key id 1 | device id 16 | tag 16 )

Owns: the format. Must not hold: what a device is trusted for (`core/login.py`).

Why the tag: a known device has a throttle of its own; an id that anybody can choose would be a throttle without limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from hmac import compare_digest, digest

from keyturn.tokens import base64url

PREFIX = "kt_dv_"
DEVICE_ID_LENGTH = 16
_VERSION = 1
_TAG_LENGTH = 16
_RAW_LENGTH = 2 + DEVICE_ID_LENGTH + _TAG_LENGTH


class DeviceTokens:
    """Make and read device cookies under a ring of keys: several verify, one signs.

    Args:
        keys: key id (0-255) -> 32 bytes or more.
        active: the id of the key that signs.
    """

    __slots__ = ("_active", "_keys")

    def __init__(self, keys: Mapping[int, bytes], active: int) -> None:
        self._keys = dict(keys)
        self._active = active

    def issue(self, device_id: bytes) -> str:
        """Return the cookie text of a device id (16 bytes)."""
        body = bytes((_VERSION, self._active)) + device_id
        return PREFIX + base64url.encode(body + self._tag(self._keys[self._active], body))

    def read(self, text: bytes) -> bytes | None:
        """Return the device id; None for anything that we did not issue."""
        prefix = PREFIX.encode()
        if not text.startswith(prefix):
            return None
        try:
            raw = base64url.decode(text[len(prefix) :].decode("ascii"))
        except ValueError:
            return None
        if len(raw) != _RAW_LENGTH or raw[0] != _VERSION:
            return None
        body, tag = raw[:-_TAG_LENGTH], raw[-_TAG_LENGTH:]
        key = self._keys.get(raw[1])
        if key is None or not compare_digest(self._tag(key, body), tag):
            return None
        return body[2:]

    @staticmethod
    def _tag(key: bytes, body: bytes) -> bytes:
        return digest(key, body, "sha256")[:_TAG_LENGTH]
