"""Read one cookie from raw header bytes, and render the ones we set.

Owns: parsing and rendering. Must not hold: what is in a cookie (`tokens/`), when one is set (`web/endpoints.py`).

Why raw bytes: the cookie parsers of Starlette, Django and Litestar strip odd bytes from names and let the last of two
win, so a planted `\\u2000__Host-kt_refresh` from a sibling subdomain would pass for ours and defeat the `__Host-` prefix.
Spec: RFC 6265bis 4.1.3.2 (`__Host-`), 5.6; OWASP ASVS 5.0 3.3.1-3.3.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

REFRESH = b"__Host-kt_refresh"
HINT = b"kt_hint"
DEVICE = b"__Host-kt_device"
SameSite = Literal["Lax", "Strict"]


def read(headers: Iterable[bytes], name: bytes) -> Sequence[bytes]:
    """Return every value the request gives for exactly this name, byte for byte; more than one is for the caller to refuse.

    Args:
        headers: the value of each Cookie header, raw (HTTP/2 may split one into several).
        name: the name, byte-exact; look-alikes in another case or with odd spaces are other cookies.
    """
    values: list[bytes] = []
    for header in headers:
        if name not in header:
            continue
        for pair in header.split(b";"):
            key, found, value = pair.lstrip(b" \t").partition(b"=")
            if found and key == name:
                values.append(value.rstrip(b" \t"))
    return values


def render(
    name: bytes, value: str, *, max_age: int | None, http_only: bool = True, same_site: SameSite = "Lax"
) -> bytes:
    """Render a Set-Cookie value.

    Args:
        max_age: whole seconds; 0 removes the cookie; None makes it last as long as the browser's session.
    """
    age = b"" if max_age is None else b"; Max-Age=%d" % max_age
    flags = b"; HttpOnly" if http_only else b""
    return b"%s=%s; Path=/; Secure%s; SameSite=%s%s" % (name, value.encode("ascii"), flags, same_site.encode(), age)


def clear(name: bytes, *, http_only: bool = True, same_site: SameSite = "Lax") -> bytes:
    """Render the Set-Cookie value that removes a cookie."""
    return render(name, "", max_age=0, http_only=http_only, same_site=same_site)
