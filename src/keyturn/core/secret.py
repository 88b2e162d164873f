"""How values that hold credentials show themselves, in logs, tracebacks and debuggers.

Owns: what stands in their place. Must not hold: a credential.
"""

from __future__ import annotations


def redacted(self: object) -> str:
    """Show only what kind of thing it is: for the `__repr__` of values that hold credentials in plain types."""
    return f"{type(self).__name__}(redacted)"
