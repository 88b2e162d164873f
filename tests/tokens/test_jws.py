"""The strict form of an access token: everything but our own form is refused unread."""

from __future__ import annotations

import json
from time import process_time

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from keyturn.core.errors import InvalidToken
from keyturn.tokens import access_token, base64url
from keyturn.tokens.jws import ParsedToken, TokenFault, decode_json_object, parse_compact, payload_claims
from tests.tokens.forge import HEADER, KEY, PAYLOAD, es256, fault_of, forge, segment, with_claims, with_header

GOOD = forge()

RFC_PAYLOAD = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
A1_SIGNATURE = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
A2_SIGNATURE = (
    "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CU"
    "Ar7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_d"
    "O--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0ig"
    "cN_IoypGlUPQGe77Rw"
)
A3_SIGNATURE = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
A4_SIGNATURE = (
    "AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2Y"
    "BJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn"
)
RFC_VECTORS = {
    "RFC 7515 A.1 HS256": f"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{RFC_PAYLOAD}.{A1_SIGNATURE}",
    "RFC 7515 A.2 RS256": f"eyJhbGciOiJSUzI1NiJ9.{RFC_PAYLOAD}.{A2_SIGNATURE}",
    "RFC 7515 A.3 ES256": f"eyJhbGciOiJFUzI1NiJ9.{RFC_PAYLOAD}.{A3_SIGNATURE}",
    "RFC 7515 A.4 ES512": f"eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.{A4_SIGNATURE}",
    "RFC 7515 A.5 none": f"eyJhbGciOiJub25lIn0.{RFC_PAYLOAD}.",
    "RFC 7515 A.6 general JSON": json.dumps(
        {
            "payload": RFC_PAYLOAD,
            "signatures": [
                {
                    "protected": "eyJhbGciOiJFUzI1NiJ9",
                    "header": {"kid": "e9bc097a-ce51-4036-9562-d2ade882db0d"},
                    "signature": A3_SIGNATURE,
                }
            ],
        }
    ),
    "RFC 7515 A.7 flattened JSON": json.dumps(
        {"payload": RFC_PAYLOAD, "protected": "eyJhbGciOiJFUzI1NiJ9", "signature": A3_SIGNATURE}
    ),
    "RFC 7515 E crit": (
        "eyJhbGciOiJub25lIiwNCiAiY3JpdCI6WyJodHRwOi8vZXhhbXBsZS5jb20vVU5ERUZJTkVEIl0sDQogImh0dHA6Ly9leGFtcGxlLmNvbS9V"
        "TkRFRklORUQiOnRydWUNCn0.RkFJTA."
    ),
    "RFC 7797 4.2 b64 false, detached": (
        "eyJhbGciOiJIUzI1NiIsImI2NCI6ZmFsc2UsImNyaXQiOlsiYjY0Il19..A5dxf2s96_n5FLueVuW1Z_vh161FwXZC4YLPff6dmDY"
    ),
    "RFC 7797 4.2 b64 false, in place": (
        "eyJhbGciOiJIUzI1NiIsImI2NCI6ZmFsc2UsImNyaXQiOlsiYjY0Il19.$.02.A5dxf2s96_n5FLueVuW1Z_vh161FwXZC4YLPff6dmDY"
    ),
    "RFC 8037 A.4 EdDSA": (
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc."
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    ),
}


@pytest.mark.parametrize("name", RFC_VECTORS)
def test_rfc_vector(name: str) -> None:
    """No JWS of the RFCs is an access token of ours, not even the one signed with ES256."""
    with pytest.raises(InvalidToken) as refused:
        parse_compact(RFC_VECTORS[name])
    assert refused.value.reason in {
        TokenFault.TYPE,
        TokenFault.SEGMENTS,
        TokenFault.HEADER,
    }


def test_rfc7515_a3_signature() -> None:
    """The ES256 mathematics agrees with RFC 7515 A.3: its signature counts, a changed one does not."""
    x = int.from_bytes(base64url.decode("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"), "big")
    y = int.from_bytes(base64url.decode("x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"), "big")
    public_key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    covered = f"eyJhbGciOiJFUzI1NiJ9.{RFC_PAYLOAD}".encode()
    signature = base64url.decode(A3_SIGNATURE)
    assert access_token._signed_by(public_key, ParsedToken("", covered, signature, ""))
    assert not access_token._signed_by(public_key, ParsedToken("", covered + b"A", signature, ""))
    assert not access_token._signed_by(public_key, ParsedToken("", covered, bytes(64), ""))
    assert not access_token._signed_by(public_key, ParsedToken("", covered, b"\xff" * 64, ""))


def test_token_parsed() -> None:
    """Our own form is parsed from text and from bytes alike."""
    parsed = parse_compact(GOOD)
    assert parse_compact(GOOD.encode()) == parsed
    assert parsed.kid == KEY.kid
    assert parsed.signing_input.decode() == GOOD.rpartition(".")[0]
    assert payload_claims(parsed) == PAYLOAD
    assert KEY.kid not in repr(parsed)


@pytest.mark.parametrize(
    ("token", "fault"),
    [
        ("", "segments"),
        ("a.b", "segments"),
        ("a.b.c.d", "segments"),
        ("a.b.c.d.e", "segments"),
        (f".{GOOD}", "segments"),
        (f"{GOOD}.", "segments"),
        ("..", "segments"),
        (f"{GOOD}\n", "segments"),
        (f" {GOOD}", "segments"),
        (f"{GOOD}=", "segments"),
        (GOOD.replace(".", "。"), "segments"),
        (GOOD.replace("e", "е", 1), "segments"),
        (b"\xff" + GOOD.encode()[1:], "segments"),
        ("\ud800.a.a", "segments"),
        (f"A{GOOD}", "encoding"),
        (GOOD[:-1], "encoding"),
        (f"{GOOD[:-1]}B", "encoding"),
        (f"{GOOD.rpartition('.')[0]}.{base64url.encode(bytes(63))}", "signature"),
        (f"{GOOD.rpartition('.')[0]}.{base64url.encode(bytes(65))}", "signature"),
        ("A" * 8193, "size"),
        (b"A" * 8193, "size"),
        (f"{'A' * 1_000_000}.AA.AA", "size"),
    ],
)
def test_token_of_another_form(token: str | bytes, fault: str) -> None:
    """Everything but three canonical segments and 64 bytes of signature is refused."""
    assert fault_of(token) == fault


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"at+jwt"',
        b'{"alg":"ES256","alg":"ES256","kid":"a","typ":"at+jwt"}',
        b'{"alg":"ES256","kid":"a","typ":"at+jwt"}x',
        b'\xef\xbb\xbf{"alg":"ES256"}',
        '{"alg":"ES256"}'.encode("utf-16"),
        b'{"kid":"\xff"}',
        b'{"kid":"\xed\xa0\x80"}',
        b'{"kid":"\\ud800"}',
        b'{"kid":NaN}',
        b'{"kid":-Infinity}',
        b'{"kid":1e999}',
        b'{"kid":' + b"9" * 5000 + b"}",
        b'{"kid":' + b"[" * 17 + b"]" * 17 + b"}",
        b"[" * 4000,
        b'{"a":' * 700,
    ],
)
def test_json_not_strict(header: bytes) -> None:
    """JSON that two parsers could read differently, or that none could read, is refused in either segment."""
    assert fault_of(f"{base64url.encode(header) or 'AA'}.{segment(PAYLOAD)}.{'A' * 86}") == "json"
    if header:
        assert fault_of(forge(payload=header)) == "json"


def test_json_depth_bounded() -> None:
    """Sixteen levels are read, brackets in text are no levels, and more levels are refused."""
    deepest = b'{"a":' * 16 + b"1" + b"}" * 16
    assert decode_json_object(deepest)
    assert decode_json_object(b'{"a":[' + b"[]," * 40 + b"1]}")
    assert decode_json_object(b'{"a":"' + b'[{\\"' * 40 + b'"}')
    assert decode_json_object(b'{"a":1.5,"b":"\\u00e9"}') == {"a": 1.5, "b": "é"}
    with pytest.raises(InvalidToken):
        decode_json_object(b'{"a":' + deepest + b"}")


def test_string_that_does_not_end() -> None:
    """It is refused in time that grows with its length, and not with its square: a body of this size took half a second."""
    body = b"{" * 17 + b'"' + b'\\"' * 8000

    def seconds() -> float:
        started = process_time()
        with pytest.raises(InvalidToken):
            decode_json_object(body)
        return process_time() - started

    assert min(seconds() for _ in range(3)) < 0.05
    for end in (b'"', b"\\", b'\\"', b"[" * 900):
        with pytest.raises(InvalidToken):
            decode_json_object(b'{"a":"' + end)


def test_payload_not_canonical() -> None:
    """The payload is held to the same encoding, even under a right signature."""
    head, body = segment(HEADER), segment(PAYLOAD)
    for odd in (body + "A", "AB"):
        assert fault_of(f"{head}.{odd}.{es256(f'{head}.{odd}')}") in {"encoding", "json"}


POSITIONS = st.integers(min_value=0, max_value=len(GOOD) - 1)


@given(POSITIONS, st.characters(min_codepoint=1, max_codepoint=0x2FF))
def test_token_with_a_changed_character(position: int, character: str) -> None:
    """No change of one character is accepted."""
    changed = GOOD[:position] + character + GOOD[position + 1 :]
    assert fault_of(changed) == "ok" if changed == GOOD else fault_of(changed) != "ok"


@given(POSITIONS, POSITIONS, st.text(alphabet=GOOD + "=\n +/", max_size=8))
def test_token_cut_and_pasted(start: int, end: int, inserted: str) -> None:
    """No deletion, insertion or doubling is accepted."""
    changed = GOOD[:start] + inserted + GOOD[end:]
    assert fault_of(changed) == "ok" if changed == GOOD else fault_of(changed) != "ok"


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_token_of_random_bytes(token: str | bytes) -> None:
    """Whatever comes in, the only exception is InvalidToken."""
    assert fault_of(token) != "ok"


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(HEADER)), JSON_VALUES)
def test_header_member_of_any_value(name: str, value: object) -> None:
    """A header member with any other value than ours is refused with InvalidToken alone."""
    assert fault_of(with_header(**{name: value})) != "ok" or value == HEADER[name]


@given(st.sampled_from([*PAYLOAD, "nbf", "scope", "client_id"]), JSON_VALUES)
def test_claim_of_any_value(name: str, value: object) -> None:
    """A claim of any value is judged without any other exception than InvalidToken."""
    assert fault_of(with_claims(**{name: value})) in {"ok", *TokenFault}


def test_parsed_token_in_a_log() -> None:
    """A token that is not verified yet shows nothing of itself."""
    assert repr(ParsedToken("kid", b"covered", b"signature", "payload")) == "ParsedToken(redacted)"


def test_longest_token() -> None:
    """One of 8 192 bytes is looked at, and one of a byte more is not."""
    for size, reason in ((8192, TokenFault.SEGMENTS), (8193, TokenFault.SIZE)):
        with pytest.raises(InvalidToken) as refused:
            parse_compact("a" * size)
        assert refused.value.reason == reason
