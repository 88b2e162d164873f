"""Cookies are read byte for byte: what only looks like ours is not ours."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keyturn.core.cookie import DEVICE, HINT, REFRESH, clear, read, render

VALUE = st.binary().filter(lambda value: not set(value) & set(b"; \t"))
NOISE = st.binary(max_size=20).filter(lambda noise: REFRESH not in noise)


@given(st.binary(max_size=4), st.binary(max_size=4))
def test_look_alike_name(before: bytes, after: bytes) -> None:
    """Any byte before or after the name makes it another cookie, blanks that separate cookies apart."""
    assume(b";" not in before and b";" not in after)
    assume(before.strip(b" \t") != b"")
    assert read([before + REFRESH + after + b"=evil"], REFRESH) == []


@given(st.binary(max_size=4))
def test_longer_name(after: bytes) -> None:
    """Any byte between the name and its equals sign makes it another cookie."""
    assume(after != b"" and b";" not in after and b"=" not in after)
    assert read([REFRESH + after + b"=evil"], REFRESH) == []


@given(st.integers(0, len(REFRESH) - 1), st.integers(1, 255))
def test_changed_name(place: int, change: int) -> None:
    """A name that differs in one byte is another cookie."""
    name = bytearray(REFRESH)
    name[place] ^= change
    assume(name[place] != ord(";"))
    assert read([bytes(name) + b"=evil"], REFRESH) == []


@given(st.lists(VALUE), st.lists(NOISE))
def test_values_in_order(values: list[bytes], noise: list[bytes]) -> None:
    """Every value under the name is found, in order, whatever stands between, in one header or in several."""
    pairs = [REFRESH + b"=" + value for value in values]
    mixed = [part for i, pair in enumerate(pairs) for part in (pair, *noise[i : i + 1])]
    assert read([b"; ".join(mixed)], REFRESH) == values
    assert read(mixed, REFRESH) == values


@given(st.lists(st.binary()), st.sampled_from([REFRESH, HINT, DEVICE]))
def test_any_header(headers: list[bytes], name: bytes) -> None:
    """No header makes the reader fail, and what it returns stands in a header after the name."""
    for value in read(headers, name):
        assert any(name + b"=" in header and value in header for header in headers)


def test_names() -> None:
    """The refresh and device cookies are bound to the host; the hint is for scripts and carries nothing."""
    assert (REFRESH, DEVICE) == (b"__Host-kt_refresh", b"__Host-kt_device")
    assert HINT == b"kt_hint"


def test_cleared() -> None:
    """A cookie is cleared with the attributes it was set with, or the browser would keep it."""
    assert clear(REFRESH) == b"__Host-kt_refresh=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0"
    assert clear(HINT, http_only=False, same_site="Strict") == b"kt_hint=; Path=/; Secure; SameSite=Strict; Max-Age=0"


@pytest.mark.parametrize("max_age", [None, 0, 60])
def test_host_prefix(max_age: int | None) -> None:
    """Every cookie is Secure, for the whole host and without a Domain, as `__Host-` asks."""
    attributes = render(REFRESH, "v", max_age=max_age).split(b"; ")
    assert b"Secure" in attributes
    assert b"Path=/" in attributes
    assert not any(attribute.lower().startswith(b"domain") for attribute in attributes)
    assert (b"Max-Age=%d" % max_age in attributes) if max_age is not None else len(attributes) == 5


def test_value_that_is_no_text() -> None:
    """A value that is not ASCII is a programming error, not a header."""
    with pytest.raises(UnicodeEncodeError):
        render(REFRESH, "é", max_age=None)
