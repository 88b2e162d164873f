"""A plaintext secret that does not leak by accident.

Owns `Secret`, the only type in which a plaintext credential (password, token,
key text) travels between the layers. Must not hold anything that makes, stores
or sends a secret.
"""

from __future__ import annotations

from hmac import compare_digest
from typing import Final, NoReturn, final

_REDACTED: Final = "Secret(***)"


@final
class Secret:
    """Hold one plaintext secret and show it only through `reveal`.

    Why: secrets leak through logs, tracebacks and error pages far more often than
    through broken mathematics. `repr`, `str`, f-strings and pickling of a `Secret`
    give nothing away, and a search for `reveal(` finds every place that looks.

    Spec: ASVS 5.0 16.2.5 (no credential in a log), 14.2.1.
    """

    __slots__ = ("_plaintext",)

    # Equality is by content in constant time; a hash table would compare and bucket by
    # a hash of the content, so a Secret is not hashable at all.
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, plaintext: str | bytes) -> None:
        """Wrap a plaintext.

        Args:
            plaintext: text, or the bytes that its UTF-8 form would have.

        Raises:
            TypeError: it is neither `str` nor `bytes`.
        """
        if not isinstance(plaintext, str | bytes):
            raise TypeError("a Secret wraps str or bytes")
        self._plaintext: Final = plaintext

    def reveal(self) -> str:
        """Return the plaintext as text.

        Raises:
            UnicodeDecodeError: it was given as bytes that are not UTF-8.
        """
        if isinstance(self._plaintext, bytes):
            return self._plaintext.decode("utf-8")
        return self._plaintext

    def reveal_bytes(self) -> bytes:
        """Return the plaintext as bytes (text in UTF-8; a lone surrogate as it is)."""
        if isinstance(self._plaintext, str):
            return self._plaintext.encode("utf-8", "surrogatepass")
        return self._plaintext

    def __eq__(self, other: object) -> bool:
        """Compare in constant time, with another Secret only.

        Why: the time of an ordinary comparison tells how long the common prefix is.
        """
        if not isinstance(other, Secret):
            return NotImplemented
        return compare_digest(self.reveal_bytes(), other.reveal_bytes())

    def __repr__(self) -> str:
        return _REDACTED

    def __str__(self) -> str:
        return _REDACTED

    def __format__(self, format_spec: str) -> str:
        return _REDACTED

    def __bool__(self) -> bool:
        return bool(self._plaintext)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuse pickling and copying: both would spread the plaintext unseen."""
        raise TypeError("a Secret cannot be pickled or copied")
