"""E-mail addresses: one form to show, one form to compare.

Owns: normalisation and refusal of what is not one plain address. Must not hold: storage, mail, DNS.

Why before everything else: an address that is compared, throttled or stored before it is normalised is two addresses to
two parts of the program, and one of them is somebody else's.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple
from unicodedata import normalize

from keyturn.core.errors import InvalidRequest

if TYPE_CHECKING:
    from email_validator import ValidatedEmail

MAX_LENGTH = 320
"""Characters looked at; RFC 5321 allows fewer. A megabyte must not reach the normaliser."""


class Email(NamedTuple):
    """An address as it is shown and mailed to, and the key that decides whether two are the same."""

    display: str
    key: str


# Every login asks more than once for the same address.
@lru_cache(maxsize=256)
def normalise_email(text: str) -> Email:
    """Return the one address that a text is.

    Why: case-folding makes `Bob@x` and `bob@x` one account, so nobody registers over another's address by its case. What
    is mailed is always the stored `display`, never what a caller typed: two spellings may fold to one key.

    Args:
        text: what a person typed; blanks around it are forgiven.

    Returns:
        display: NFC, the domain in lower case and Unicode; key: display, case-folded, NFC.

    Raises:
        InvalidRequest: not exactly one plain address: a display name, a comma, a control character, quotes or markup.

    Spec: RFC 5321 4.1.2, RFC 6531 3.3; Unicode 3.13 (caseless matching).
    """
    if len(text) > MAX_LENGTH:
        raise InvalidRequest("email: too long")
    valid = _validated(normalize("NFC", text.strip(" \t")))
    return Email(valid.normalized, normalize("NFC", valid.normalized.casefold()))


def with_ascii_domain(address: Email) -> str:
    """Return an address with its domain as DNS has it, `xn--...`: so it may stand in a table that others have written."""
    if address.display.isascii():
        return address.display
    valid = _validated(address.display)
    return f"{valid.local_part}@{valid.ascii_domain}"


def _validated(text: str) -> ValidatedEmail:
    from email_validator import EmailNotValidError, validate_email  # most commands and processes that start do without

    try:
        # `.test` (RFC 2606) is let in: staging systems use it, and whether an address is real only a mail to it proves.
        return validate_email(text, check_deliverability=False, test_environment=True)
    except EmailNotValidError as error:
        # The library's message may quote the input; the answer must not carry it back.
        raise InvalidRequest("email: not a valid e-mail address") from error
