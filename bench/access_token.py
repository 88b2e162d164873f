"""Measure signing and checking access tokens against the bare primitives, in one run.

`python -m bench.access_token` prints microseconds and ratios. Baseline and subject are
interleaved in every round, processor time is what is measured, and the median of the
rounds' own ratios counts, so that a busy machine slows both alike.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from collections.abc import Callable
from functools import partial
from operator import truediv
from statistics import median
from time import process_time

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from keyturn.core.errors import InvalidToken
from keyturn.tokens import base64url
from keyturn.tokens.access_token import AccessTokenSigner, AccessTokenVerifier
from keyturn.tokens.jws import MAX_TOKEN_BYTES
from keyturn.tokens.signing_key import SigningKey
from keyturn.tokens.verified_cache import VerifiedTokenCache

ROUNDS = 25
CALLS = 200
WARM_CALLS = 5000
NOW = 1_800_000_000.0
ISSUER = "https://auth.example.com"
AUDIENCE = "api"


def per_call(call: Callable[[], object], calls: int) -> float:
    """Return the microseconds of one call, averaged over `calls`."""
    started = process_time()
    for _ in range(calls):
        call()
    return (process_time() - started) / calls * 1e6


def bad_tokens(token: str) -> dict[str, str]:
    """Make those that cost most to refuse: what is judged before the key, and as large as is read where that costs more."""
    head, payload, tail = token.split(".")
    unknown = base64url.encode(base64url.decode(head).replace(b'"kid":"', b'"kid":"x'))
    filler = "A" * (MAX_TOKEN_BYTES - len(head) - len(tail) - 2)
    objects = base64url.encode(b'{"x":["\\u0041"' + b",{}" * 1990 + b"]}")
    endless = base64url.encode(b"{" * 17 + b'"' + b'\\"' * 2990)
    return {
        "oversized": f"{head}.{'A' * 1_000_000}.{tail}",
        "unknown key": f"{unknown}.{filler[2:]}.{tail}",
        "bad signature": f"{head}.{filler}.{tail}",
        "header of many objects": f"{objects}.{payload[:4]}.{tail}",
        "string that does not end": f"{endless}.{payload[:4]}.{tail}",
    }


def refuse(cache: VerifiedTokenCache, token: str) -> None:
    """Check a token that must not pass."""
    try:
        cache.verify(token, NOW)
    except InvalidToken:
        return
    raise AssertionError("a bad token is believed")


def measure() -> dict[str, float]:
    """Run all subjects interleaved and return their medians and ratios."""
    key = SigningKey.generate(bytes(range(48)), created_at=0, publish_at=0, activate_at=0)
    signer = AccessTokenSigner(key, ISSUER, AUDIENCE)

    def sign() -> str:
        return signer.sign(
            subject="9f86d081884c7d659a2feaa0c55ad015",
            session_id=bytes(range(16)),
            issued_at=NOW,
            expires_at=NOW + 600,
            token_id="S1hqZk1mZ2pYb2ZkQ0x2Rw",
            authenticated_at=NOW,
            amr=("pwd",),
        )

    token = sign()
    signing_input, _, tail = token.rpartition(".")
    covered = signing_input.encode("ascii")
    algorithm = ec.ECDSA(SHA256())
    raw = urlsafe_b64decode(tail + "==")
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    payload = urlsafe_b64decode(covered.split(b".")[1] + b"==")

    def raw_check() -> object:
        key.public_key.verify(der, covered, algorithm)
        return json.loads(payload)

    def raw_sign() -> object:
        return key.private_key.sign(covered, algorithm)

    verifier = AccessTokenVerifier({key.kid: key.public_key}, ISSUER, AUDIENCE)
    cache = VerifiedTokenCache(verifier, revoked={"00" * 16})
    cache.verify(token, NOW)
    subjects: dict[str, tuple[Callable[[], object], int]] = {
        "raw sign": (raw_sign, CALLS),
        "sign": (sign, CALLS),
        "raw verify + JSON": (raw_check, CALLS),
        "verify cold": (lambda: verifier.verify(token, NOW), CALLS),
        "verify warm": (lambda: cache.verify(token, NOW), WARM_CALLS),
    }
    refused = {kind: partial(refuse, cache, bad) for kind, bad in bad_tokens(token).items()}
    subjects |= {kind: (call, CALLS // 10) for kind, call in refused.items()}
    samples: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(ROUNDS):
        for name, (call, calls) in subjects.items():
            samples[name].append(per_call(call, calls))
    slowest = max(median(samples.pop(kind)) for kind in refused)
    figures = {name: median(values) for name, values in samples.items()}
    figures["refused, slowest kind"] = slowest
    figures["cold / raw"] = median(map(truediv, samples["verify cold"], samples["raw verify + JSON"]))
    figures["sign / raw"] = median(map(truediv, samples["sign"], samples["raw sign"]))
    return figures


def main() -> None:
    """Print the figures, and the bound that each has to keep."""
    bounds = {"sign": 45.0, "verify warm": 3.0, "cold / raw": 1.3, "refused, slowest kind": 2000.0}
    for name, value in measure().items():
        unit = "x " if "/" in name else "us"
        bound = f"  (at most {bounds[name]:g})" if name in bounds else ""
        print(f"{name:22} {value:8.2f} {unit}{bound}")


if __name__ == "__main__":
    main()
