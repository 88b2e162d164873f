"""A value that holds a credential shows its kind and nothing of itself."""

from __future__ import annotations

from typing import NamedTuple

from keyturn.core.secret import redacted


class Credential(NamedTuple):
    """A value with a secret in a plain field."""

    token: str

    def __repr__(self) -> str:
        """Show nothing of it."""
        return redacted(self)


def test_credential_in_text() -> None:
    """Whichever way a log or a debugger turns it into text."""
    credential = Credential("kt_rt_secret")
    assert repr(credential) == str(credential) == f"{credential}" == f"{credential!r}" == "Credential(redacted)"
