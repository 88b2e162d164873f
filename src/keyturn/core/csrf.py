"""Whether a cookie-authenticated request comes from a page we trust.

Owns: the verdict. Must not hold: which routes need one (`web/endpoints.py`), content types (`web/messages.py`).
Spec: OWASP ASVS 5.0 3.5.1-3.5.3; Fetch Metadata Request Headers 2.1.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import NamedTuple

HEADER = b"x-keyturn"
"""A header that a cross-site form cannot send and a cross-site script cannot send without a preflight."""


class CsrfRequest(NamedTuple):
    """What the verdict looks at. Each value is the only value of its header; None: absent or not exactly one."""

    header: str | None
    sec_fetch_site: str | None
    origin: str | None
    origin_present: bool
    """True when there was any Origin header, however many."""


class CsrfVerdict(NamedTuple):
    """Whether the request may go on."""

    allowed: bool
    why: str
    """For logs; the answer does not tell."""


_ALLOWED = CsrfVerdict(True, "")


def verdict(request: CsrfRequest, trusted_origins: AbstractSet[str]) -> CsrfVerdict:
    """Judge a cookie-authenticated request.

    Why: three locks, each of which a browser honours without the others: the custom header (forms cannot set it), Fetch
    Metadata (scripts cannot forge it) and Origin. An Origin decides where there is one, and Fetch Metadata where there is
    none; `same-site` then counts as foreign: a sibling subdomain may be hostile.

    Args:
        request: the headers.
        trusted_origins: our own and those configured, as `scheme://host[:port]`, lower case.
    """
    if request.header != "1":
        return CsrfVerdict(False, "custom header missing")
    if request.origin_present:
        return _ALLOWED if request.origin in trusted_origins else CsrfVerdict(False, "origin not allowed")
    if request.sec_fetch_site == "same-origin":
        return _ALLOWED
    foreign = request.sec_fetch_site is not None
    return CsrfVerdict(False, "fetch metadata says foreign" if foreign else "neither origin nor fetch metadata")
