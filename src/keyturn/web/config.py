"""What the web layer is told: addresses, origins, limits, keys.

Owns: the value and its derived sets. Must not hold: where the values come from (`settings.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from keyturn.core.cookie import SameSite

_LABEL: Final = r"[a-z0-9_]+(?:-+[a-z0-9_]+)*"
"""With `_`, which services of a container network have, and browsers send as it stands."""
_ORIGIN: Final = re.compile(rf"(https?)://({_LABEL}(?:\.{_LABEL})*\.?|\[[0-9a-f:]+\])(?::([1-9][0-9]{{0,4}}))?")
_ENDS_IN_A_NUMBER: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?")
"""What browsers take for an IPv4 address, or for no host.  Spec: WHATWG URL 3.5."""
_LAST_PORT: Final = 65535
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}
"""What browsers leave out of an origin."""
ORIGIN_FORM: Final = "such as https://app.example.com: write no path, and no :443 after https or :80 after http"
_NOT_IN_URL: Final = re.compile(r"[\s?#]")
# Clients take `.` and `..` away before they send a path.
_BASE_PATH: Final = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)+")


@dataclass(frozen=True, slots=True, kw_only=True)
class WebConfig:
    """How Keyturn shows itself over HTTP. The defaults are the safe ones.

    Args:
        base_path: where the routes are, such as `/auth`.
        own_origins: the origins under which browsers reach these routes, `scheme://host[:port]`.
        allowed_origins: further origins that may call them with credentials; each gets exact-match CORS answers.
        own_origin_from_host: believe the request's own scheme and Host as an own origin. Only for development: a
            Host header proves nothing.
        trusted_proxies: how many of our own proxies every request passes.
        same_site: of the refresh cookie.
        signup_open: False: there is no sign-up route.
        ssr_keys: id -> key of each render server; empty: there is no `/ssr` route.
        metrics_token: protects `/metrics`; None: there is no such route here.
        body_timeout: seconds a body may take to arrive.

    Raises: ValueError: an origin or the base path is not of its form.
    """

    base_path: str = "/auth"
    own_origins: frozenset[str] = frozenset()
    allowed_origins: frozenset[str] = frozenset()
    own_origin_from_host: bool = False
    trusted_proxies: int = 0
    same_site: SameSite = "Lax"
    signup_open: bool = True
    ssr_keys: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    metrics_token: SecretStr | None = None
    body_timeout: float = 10.0

    def __post_init__(self) -> None:
        if _BASE_PATH.fullmatch(self.base_path) is None:
            raise ValueError(f"KEYTURN_BASE_PATH: {self.base_path!r} must look like /auth")
        for name, origins in (("BASE_URL", self.own_origins), ("ALLOWED_ORIGINS", self.allowed_origins)):
            for origin in origins:
                if not is_origin(origin):
                    raise ValueError(f"KEYTURN_{name}: {origin!r} is not an origin {ORIGIN_FORM}")
        if self.trusted_proxies < 0:
            raise ValueError("trusted_proxies is a number of proxies")

    @property
    def trusted_origins(self) -> frozenset[str]:
        """Every origin whose pages may use the cookies."""
        return self.own_origins | self.allowed_origins


def is_origin(text: str) -> bool:
    """Say whether a text is an origin as browsers send it: lower case, no path, no default port, never `*` or `null`."""
    found = _ORIGIN.fullmatch(text)
    if found is None:
        return False
    scheme, host, port = found.groups()
    try:
        # Browsers read an address, and write it anew: one that is spelled in another way would be nobody's origin.
        if host.startswith("["):
            host_as_sent = _in_brackets(host[1:-1])
        else:
            host_as_sent = str(IPv4Address(host)) if _ENDS_IN_A_NUMBER.fullmatch(host) else host
    except ValueError:
        return False
    if host != host_as_sent:
        return False
    return port is None or (int(port) <= _LAST_PORT and int(port) != _DEFAULT_PORTS[scheme])


def _in_brackets(text: str) -> str:
    """Write an IPv6 address as browsers do. Raises: ValueError: it is none."""
    address = IPv6Address(text)
    if address.ipv4_mapped is None:
        return f"[{address}]"
    number = int(address.ipv4_mapped)  # which newer Pythons write with dots
    return f"[::ffff:{number >> 16:x}:{number & 0xFFFF:x}]"


def origin_of(url: str) -> str | None:
    """Return the origin of a URL as browsers send it.

    Returns:
        None where the text is no URL of http or https, or has a user, a query, a fragment or a blank.
    """
    try:
        parts = urlsplit(url.lower())
        host, port = parts.hostname, parts.port
        if host and ":" in host:
            host = _in_brackets(host)
    except ValueError:
        return None
    if not host or "@" in parts.netloc or _NOT_IN_URL.search(url):
        return None
    own = _DEFAULT_PORTS.get(parts.scheme)
    origin = f"{parts.scheme}://{host}" + ("" if port in {None, own} else f":{port}")
    return origin if is_origin(origin) else None
