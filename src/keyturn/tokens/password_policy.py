"""Which passwords may be chosen.

Owns the rules for a new password and its normal form. Must not hash anything
(`password` does) or ask anybody (`keyturn.breaches` does), and must not be asked at login:
a rule that became stricter does not lock anyone out.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Final
from unicodedata import normalize

from keyturn.core.errors import InvalidRequest
from keyturn.core.policy import LONGEST_MINIMUM, SHORTEST_PASSWORD

MAX_LENGTH: Final = 1024

# NFC makes one character of four at most, so that a longer text stays too long; it is not even normalised.
_MAX_RAW_LENGTH: Final = 4 * MAX_LENGTH
_MIN_CONTEXT_WORD: Final = 4
_NOT_ALPHANUMERIC: Final = re.compile(r"[\W_]+")
_ENDS: Final = "0123456789!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ "


class PasswordFault(StrEnum):
    """Why a password was refused."""

    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    NOT_TEXT = "not_text"
    COMMON = "common"
    CONTEXT = "context"
    BREACHED = "breached"


_DETAIL: Final = {
    PasswordFault.TOO_SHORT: "The password needs at least {} characters",
    PasswordFault.TOO_LONG: "The password is too long",
    PasswordFault.NOT_TEXT: "The password is not valid Unicode text",
    PasswordFault.COMMON: "The password is one of those that are tried first",
    PasswordFault.CONTEXT: "The password is made of your name, your address or this site's name",
    PasswordFault.BREACHED: "The password is known from a data breach",
}


class PasswordRefused(InvalidRequest):
    """A password that may not be chosen; `reason` says why and holds nothing of it."""

    def __init__(self, reason: PasswordFault, needed: int | None = None) -> None:
        super().__init__(_DETAIL[reason].format(needed))
        self.reason = reason


def normal_password(password: str) -> str:
    """Return a password in NFC, the form that is counted and hashed.

    Why: one keyboard sends one letter as one character, another as two; without a
    normal form the owner could not log in from the second. Never cut: a truncated
    password lets a wrong one in (Okta 2024).

    Raises:
        PasswordRefused: over 1 024 characters, or half a surrogate pair.

    Spec: NIST SP 800-63B-4 section 3.1.1.2 (normalise, then hash).
    """
    if len(password) > _MAX_RAW_LENGTH:
        raise PasswordRefused(PasswordFault.TOO_LONG)
    normal = normalize("NFC", password)
    if len(normal) > MAX_LENGTH:
        raise PasswordRefused(PasswordFault.TOO_LONG)
    if any("\ud800" <= character <= "\udfff" for character in normal):
        raise PasswordRefused(PasswordFault.NOT_TEXT)
    return normal


@dataclass(frozen=True, slots=True)
class PasswordPolicy:
    """The rules for a new password: length and not being guessable, nothing else.

    Why: composition rules and forced changes make passwords worse, so there are none.

    Attributes:
        min_length: characters (code points in NFC), 8 to 64.
        context: words of the site, such as its name and host.

    Raises:
        ValueError: `min_length` is not 8 to 64.

    Spec: NIST SP 800-63B-4 section 3.1.1.2; ASVS 5.0 6.2.1-6.2.5, 6.2.9-6.2.11.
    """

    min_length: int
    context: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a length that no policy may allow."""
        if not SHORTEST_PASSWORD <= self.min_length <= LONGEST_MINIMUM:
            raise ValueError(f"min_length is {SHORTEST_PASSWORD} to {LONGEST_MINIMUM}")

    def check(self, password: str, context: Iterable[str] = ()) -> str:
        """Return the normal form of a password that may be chosen.

        Args:
            password: as typed.
            context: what is known of the user: e-mail address, name.

        Raises:
            PasswordRefused: with the first reason found, the cheapest test first.
        """
        normal = normal_password(password)
        if len(normal) < self.min_length:
            raise PasswordRefused(PasswordFault.TOO_SHORT, self.min_length)
        folded = normal.casefold()
        if _is_common(folded):
            raise PasswordRefused(PasswordFault.COMMON)
        if _is_made_of(folded, (*self.context, *context)):
            raise PasswordRefused(PasswordFault.CONTEXT)
        return normal


@cache
def _common_passwords() -> tuple[frozenset[str], int]:
    """Return the list, and the length of its longest entry."""
    # Shorter entries are left out: no policy allows their length anyway.
    packed = files("keyturn.tokens").joinpath("common_passwords.txt.gz").read_bytes()
    listed = frozenset(gzip.decompress(packed).decode("utf-8").splitlines())
    return listed, max(map(len, listed))


def _is_common(folded: str) -> bool:
    """Tell whether it is on the list, be it with digits and marks at its ends, or repeats what is listed or short."""
    common, longest = _common_passwords()
    if folded in common or folded.strip(_ENDS) in common:
        return True
    # What repeats itself after more characters repeats nothing that is listed. Why it matters: each period that is tried costs a
    # copy of the password, and with all of them one request took the time of thirty.
    for period in range(1, min(len(folded), longest + 1)):
        if folded[period:] == folded[:-period]:
            short = period < SHORTEST_PASSWORD and 2 * period <= len(folded)
            return short or folded[:period] in common
    return False


def _is_made_of(folded: str, context: Iterable[str]) -> bool:
    """Tell whether fewer than 8 letters and digits stay when the context words are taken out."""
    parts = {part for text in context for part in _NOT_ALPHANUMERIC.split(_normal_fold(text))}
    words = sorted((part for part in parts if len(part) >= _MIN_CONTEXT_WORD), key=len)
    rest = folded
    for word in reversed(words):
        rest = rest.replace(word, " ")
    return rest != folded and len(_NOT_ALPHANUMERIC.sub("", rest)) < SHORTEST_PASSWORD


def _normal_fold(text: str) -> str:
    return normalize("NFC", text).casefold()
