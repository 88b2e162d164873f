"""A plaintext secret that does not leak by accident.

Owns `Secret`, the form in which passwords, tokens and key texts travel. Must not make, store or send one.
"""

from __future__ import annotations

from hmac import compare_digest
from typing import NoReturn, final


def redacted(self: object) -> str:
    """Show only what kind of thing it is: for the `__repr__` of values that hold credentials in plain types."""
    return f"{type(self).__name__}(redacted)"


@final
class Secret:
    """Hold one plaintext secret and show it only through `reveal` and `reveal_bytes`.

    Why: secrets leak through logs, tracebacks and error pages far more often than through broken mathematics.
    Spec: ASVS 5.0 16.2.5, 14.2.1.
    """

    __slots__ = ("_plaintext",)
    __hash__ = None  # type: ignore[assignment] # a hash table compares early and not in constant time

    def __init__(self, plaintext: str | bytes) -> None:
        if not isinstance(plaintext, str | bytes):
            raise TypeError("a Secret wraps str or bytes")
        self._plaintext = plaintext

    def reveal(self) -> str:
        """Return the plaintext as text; bytes must be UTF-8."""
        return self._plaintext if isinstance(self._plaintext, str) else self._plaintext.decode("utf-8")

    def reveal_bytes(self) -> bytes:
        """Return the plaintext as bytes; text in UTF-8, a lone surrogate as it is."""
        return (
            self._plaintext if isinstance(self._plaintext, bytes) else self._plaintext.encode("utf-8", "surrogatepass")
        )

    def __eq__(self, other: object) -> bool:
        """Compare with another Secret, in constant time."""
        return isinstance(other, Secret) and compare_digest(self.reveal_bytes(), other.reveal_bytes())

    def __bool__(self) -> bool:
        return bool(self._plaintext)

    def __repr__(self) -> str:
        return "Secret(***)"

    def __format__(self, format_spec: str) -> str:
        return repr(self)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuse pickling and copying: both would spread the plaintext unseen."""
        raise TypeError("a Secret cannot be pickled or copied")
