"""A Secret shows its plaintext in one way only."""

from __future__ import annotations

import copy
import pickle
from typing import Any, cast

import pytest

from keyturn.core.secret import Secret


@pytest.mark.parametrize("show", [repr, str, "{}".format, "{!r}".format, "{:>20}".format, lambda s: f"{s}"])
def test_secret_shown(show: Any) -> None:
    """No way of printing gives the plaintext away."""
    assert "hunter2" not in show(Secret("hunter2"))


def test_secret_revealed() -> None:
    """Text and bytes come back as either."""
    assert Secret("pä").reveal() == "pä"
    assert Secret("pä").reveal_bytes() == "pä".encode()
    assert Secret(b"p\xc3\xa4").reveal() == "pä"
    assert Secret(b"\xff").reveal_bytes() == b"\xff"
    assert Secret("\ud800").reveal_bytes() == b"\xed\xa0\x80"


def test_secret_compared() -> None:
    """Equality is by content and with another Secret only."""
    assert Secret("a") == Secret(b"a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert Secret("a")
    assert not Secret("")


def test_secret_spread() -> None:
    """A Secret is not hashable, and neither pickled nor copied."""
    with pytest.raises(TypeError):
        hash(Secret("a"))
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(Secret("a"))
    with pytest.raises(TypeError, match="copied"):
        copy.copy(Secret("a"))
    with pytest.raises(TypeError, match="str or bytes"):
        Secret(cast("str", 5))
