"""Canonical base64url without padding: one text for every byte string.

Owns the encoding that every token and key text uses. Must not know what is encoded.
"""

from __future__ import annotations

import re
from binascii import a2b_base64, b2a_base64
from typing import Final

_ALPHABET: Final = re.compile(r"[A-Za-z0-9_-]*")
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL: Final = bytes.maketrans(b"-_", b"+/")

# The last character carries 2 or 4 bits that no byte uses. They must be zero, or one
# byte string would have several texts.  Spec: RFC 4648 section 3.5.
_LAST_OF_TWO: Final = frozenset("AQgw")
_LAST_OF_THREE: Final = frozenset("AEIMQUYcgkosw048")


def encode(data: bytes) -> str:
    """Return the base64url text of `data`, without padding."""
    return b2a_base64(data, newline=False).translate(_TO_URL, b"=").decode("ascii")


def decode(text: str) -> bytes:
    """Return the bytes of a canonical base64url text.

    Why: a lenient decoder accepts many texts for one value, so a copy that differs by
    a blank, a pad or a trailing bit slips past anything that compares token texts.

    Raises:
        ValueError: padding, blanks, a foreign character, an impossible length, or
            trailing bits that are not zero. The message does not repeat the text.

    Spec: RFC 7515 section 2 (no padding, no line breaks), RFC 4648 section 3.5.
    """
    if _ALPHABET.fullmatch(text) is None:
        raise ValueError("not canonical base64url")
    return decode_alphabetic(text)


def decode_alphabetic(text: str) -> bytes:
    """Do as `decode` for a text already known to hold base64url characters only.

    Raises:
        ValueError: an impossible length, or trailing bits that are not zero.
    """
    tail = len(text) & 3
    if tail == 0:
        return a2b_base64(text.encode("ascii").translate(_FROM_URL))
    if tail == 2 and text[-1] in _LAST_OF_TWO:
        return a2b_base64(text.encode("ascii").translate(_FROM_URL) + b"==")
    if tail == 3 and text[-1] in _LAST_OF_THREE:
        return a2b_base64(text.encode("ascii").translate(_FROM_URL) + b"=")
    raise ValueError("not canonical base64url")
