"""One byte string has one text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn.tokens import base64url


@given(st.binary(max_size=70))
def test_bytes_encoded_and_decoded(data: bytes) -> None:
    """Every byte string survives."""
    assert base64url.decode(base64url.encode(data)) == data


@given(st.text(alphabet="ABgwQ019-_=+/ \n.", max_size=9))
def test_text_accepted_is_canonical(text: str) -> None:
    """What is accepted is exactly what the encoder writes."""
    try:
        data = base64url.decode(text)
    except ValueError:
        return
    assert base64url.encode(data) == text


@pytest.mark.parametrize("text", ["A", "AAAAA", "AB", "AAB", "AA==", "AA A", "AA\n", "+/AA", "é123", "AA.A", "AAE\n"])
def test_text_not_canonical(text: str) -> None:
    """Padding, blanks, foreign characters, impossible lengths and trailing bits are refused."""
    with pytest.raises(ValueError, match="not canonical base64url"):
        base64url.decode(text)
