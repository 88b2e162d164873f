"""What a session's device is called, and when a caller no longer looks like it.

Owns: the comparison and the label. Must not hold: user-agent parsing (a library does it, in the shell).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Network, ip_address

from keyturn.core.model import Contact, Session
from keyturn.core.policy import Drift, Policy

_TRANSLATED = IPv6Network("64:ff9b::/96")
"""What a network without IPv4 makes of the addresses of those who have no other.  Spec: RFC 6052 2.1; RFC 7755."""
_SEVERITY = {Drift.OFF: 0, Drift.NOTIFY: 1, Drift.REQUIRE_LOGIN: 2}


def label(browser: str | None, system: str | None) -> str:
    """Name a device for people: `Firefox on Windows`, as far as it is known."""
    return " on ".join(part for part in (browser, system) if part) or "Unknown device"


def network(ip: str) -> str:
    """Reduce an address to the network one subscriber holds: IPv4 whole, in IPv6 too, IPv6 by /64; anything else as it is.

    Why: a throttle keyed on the text of an IPv6 address gives every caller 2**64 fresh keys.
    """
    try:
        address = ip_address(ip)
    except ValueError:
        return ip
    if isinstance(address, IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    if address in _TRANSLATED:  # or everybody with IPv4 would be one subscriber, and locked out by any of them
        return str(IPv4Address(int(address) & 0xFFFF_FFFF))
    return address.exploded[:19] + "::/64"


def drift(session: Session, contact: Contact, policy: Policy) -> Drift:
    """Say what the policy wants done about a caller that looks unlike the session's device.

    The user agent has drifted when browser or system differ (a new version of either is no drift); the address, when
    its network differs.
    """
    found = Drift.OFF
    if contact.user_agent != session.user_agent and contact.device != session.device:
        found = policy.user_agent_drift
    if contact.ip != session.ip and network(contact.ip) != network(session.ip):
        found = max(found, policy.address_drift, key=_SEVERITY.__getitem__)
    return found
