"""Passwords: hashed in one form, verified in one time, old hashes understood, bad ones refused."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import argon2
import bcrypt
import pytest
from argon2.exceptions import VerificationError, VerifyMismatchError
from argon2.low_level import verify_secret
from hypothesis import given
from hypothesis import strategies as st

from keyturn.tokens import imported_hash
from keyturn.tokens.imported_hash import ImportCosts, parse_imported_hash
from keyturn.tokens.password import OWASP, PasswordHasher, PasswordProfile, Verified, profile_of, why_not_checked
from keyturn.tokens.password_policy import PasswordFault, PasswordPolicy, PasswordRefused, normal_password
from tests.machine import little_memory

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "spec" / "vectors" / "password.json").read_text())
PROFILE = PasswordProfile(**VECTORS["profile"])
HASHER = PasswordHasher(PROFILE)
PASSWORD = "correct horse battery"
STORED = {case["name"]: case["stored"] for case in VECTORS["verify"]}


@pytest.mark.parametrize("case", VECTORS["verify"], ids=lambda case: case["name"])
def test_verify_vector(case: dict[str, str]) -> None:
    """Every stored hash has its outcome, of a closed set."""
    verified = HASHER.verify(case["stored"], case["password"])
    outcome = {(True, False): "ok", (True, True): "ok_rehash", (False, False): "refused"}
    assert outcome[verified.ok, verified.needs_rehash] == case["outcome"]
    assert case["outcome"] in VECTORS["verify_outcomes"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux how much memory is taken")
def test_hash_that_wants_more_memory_than_there_is() -> None:
    """Nobody knows whether the password is right, so it is not called wrong."""
    stored = STORED["argon2id of the profile"].replace(f"m={PROFILE.memory_kib},", f"m={1024 * 1024},")
    with little_memory(), pytest.raises(MemoryError):
        HASHER.verify(stored, PASSWORD)


@pytest.mark.parametrize("case", VECTORS["policy"], ids=lambda case: case["name"])
def test_policy_vector(case: dict[str, Any]) -> None:
    """Every new password has its outcome, of a closed set."""
    policy, password = PasswordPolicy(case["min_length"]), case["password"]
    assert case["outcome"] in VECTORS["policy_outcomes"]
    if case["outcome"] == "ok":
        assert policy.check(password, case["context"]) == normal_password(password)
        return
    with pytest.raises(PasswordRefused) as refused:
        policy.check(password, case["context"])
    assert refused.value.reason == case["outcome"]
    assert refused.value.detail
    assert password not in refused.value.detail


def test_hash_of_the_profile() -> None:
    """The default is OWASP's argon2id profile; the salt is fresh each time."""
    hasher = PasswordHasher()
    stored = hasher.hash(PASSWORD)
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert (OWASP.memory_kib, OWASP.passes, OWASP.lanes) == (19456, 2, 1)
    assert hasher.verify(stored, PASSWORD) == Verified(ok=True)
    assert HASHER.hash(PASSWORD) != HASHER.hash(PASSWORD)
    assert HASHER.hash(PASSWORD, salt=bytes(16)) == HASHER.hash(PASSWORD, salt=bytes(16))


def test_hash_read_by_the_library() -> None:
    """What we store is an ordinary encoded hash of the NFC form."""
    assert argon2.PasswordHasher().verify(HASHER.hash("cafe\u0301"), "caf\u00e9")


@pytest.mark.parametrize(("profile", "stale"), [((64, 1, 1), False), ((128, 1, 1), True), ((32, 1, 1), True)])
def test_rehash_after_a_change_of_profile(profile: tuple[int, int, int], stale: bool) -> None:
    """A hash of another profile, cheaper or dearer, is to be replaced after a right password only."""
    stored = PasswordHasher(PasswordProfile(*profile)).hash(PASSWORD)
    assert HASHER.verify(stored, PASSWORD) == Verified(ok=True, needs_rehash=stale)
    assert HASHER.verify(stored, "wrong") == Verified(ok=False)


def test_user_unknown() -> None:
    """Nobody has no password; nor does any password belong to the dummy."""
    assert HASHER.verify(None, PASSWORD) == Verified(ok=False)
    assert HASHER.verify(HASHER._dummy, "") == Verified(ok=False)
    assert argon2.extract_parameters(HASHER._dummy) == argon2.extract_parameters(HASHER.hash(PASSWORD))


@pytest.mark.parametrize("password", ["x" * 1_000_000, "x" * 1025, "\ud800", "\u0301" * 4097])
@pytest.mark.parametrize("stored", [None, STORED["bcrypt 2b"], STORED["argon2id of the profile"], "junk"])
def test_password_impossible(password: str, stored: str | None) -> None:
    """A megabyte and half a surrogate pair are a wrong password, not a fault, and cannot be set."""
    assert HASHER.verify(stored, password) == Verified(ok=False)
    with pytest.raises(PasswordRefused):
        HASHER.hash(password)


def test_password_not_cut() -> None:
    """A long password counts to its last character."""
    long = "x" * 1024
    stored = HASHER.hash(long)
    assert HASHER.verify(stored, long).ok
    assert not HASHER.verify(stored, "x" * 1023).ok
    assert not HASHER.verify(stored, "x" * 1023 + "y").ok


def test_impossible_password_against_the_hash_of_nothing() -> None:
    """What stands in for an impossible password during the check lets nobody in."""
    of_nothing = bcrypt.hashpw(b"", b"$2b$04$abcdefghijklmnopqrstuu").decode()
    for stored in (HASHER.hash(""), of_nothing):
        assert HASHER.verify(stored, "").ok
        assert not HASHER.verify(stored, "\ud800").ok


@given(st.text(max_size=40))
def test_any_text_hashed(password: str) -> None:
    """Whatever the hasher takes it also verifies."""
    assert HASHER.verify(HASHER.hash(password), password).ok


@given(st.text(alphabet="$argon2idv=19m4,tp16AQgw/+.", max_size=60))
def test_any_stored_text(stored: str) -> None:
    """No stored text makes the check fail with an error or succeed."""
    assert not HASHER.verify(stored, PASSWORD).ok


ARGON2_PARTS = st.tuples(
    *map(st.sampled_from, ("0 7 8 08 15 16 64".split(), "0 1 01 2 65".split(), "0 1 01 2 17".split())),
    st.text(alphabet="AQgw4+/", min_size=10, max_size=13),
    st.text(alphabet="AQgw4+/", min_size=21, max_size=25),
)


@given(ARGON2_PARTS)
def test_argon2_hash_that_the_library_reads(parts: tuple[str, ...]) -> None:
    """Of what looks like a hash exactly what the library computes has a cost, within bounds: the rest it refuses at once."""
    memory, passes, lanes, salt, digest = parts
    stored = f"$argon2id$v=19$m={memory},t={passes},p={lanes}${salt}${digest}"
    readable = True
    try:
        verify_secret(stored.encode(), b"x", argon2.Type.ID)
    except VerifyMismatchError:
        pass
    except VerificationError:
        readable = False
    within = readable and int(passes) <= 64 and int(lanes) <= 16 and len(digest) >= 22
    assert profile_of(stored) == (PasswordProfile(int(memory), int(passes), int(lanes)) if within else None)
    assert (why_not_checked(stored) is None) == within


def test_argon2_hash_at_the_bounds() -> None:
    """The smallest of each has a cost; what is over a bound, cut, or written in another way has none."""
    stored = f"$argon2id$v=19$m=8,t=1,p=1${'A' * 11}${'A' * 22}"
    assert profile_of(stored) == PasswordProfile(8, 1, 1)
    changes = ("m=8,m=7", "m=8,m=1048577", "t=1,t=65", "p=1,p=17", "p=1,p=2", "v=19,v=16", "id$,i$", "m=8,m=08")
    for old, new in (change.split(",") for change in changes):
        assert profile_of(stored.replace(old, new)) is None
    for each in (
        stored[:-1],
        stored[:-1] + "B",
        stored + "=",
        stored + "\n",
        stored.replace("$AAAAAAAAAAA$", "$AAAAAAAAAA$"),
    ):
        assert profile_of(each) is None
    assert profile_of(stored.replace("m=8,t=1,p=1", "m=1048576,t=64,p=16")) == PasswordProfile(1048576, 64, 16)


class Work:
    """The work that checks have done, counted at the libraries' own functions."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(sorted(self.done.items()))


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    """Count argon2 KiB-passes, bcrypt key expansions and PBKDF2 iterations; all are really done."""
    counted = Work()
    verify_argon2, hash_argon2 = argon2.PasswordHasher.verify, argon2.PasswordHasher.hash
    check_bcrypt, pbkdf2 = bcrypt.checkpw, hashlib.pbkdf2_hmac

    def count_verify(self: argon2.PasswordHasher, stored: str, password: bytes) -> bool:
        found = argon2.extract_parameters(stored)
        counted.done["argon2"] += found.memory_cost * found.time_cost
        return verify_argon2(self, stored, password)

    def count_hash(self: argon2.PasswordHasher, password: bytes, *, salt: bytes | None = None) -> str:
        counted.done["argon2"] += self.memory_cost * self.time_cost
        return hash_argon2(self, password, salt=salt)

    def count_bcrypt(password: bytes, stored: bytes) -> bool:
        counted.done["bcrypt"] += 2 ** int(stored[4:6])
        return check_bcrypt(password, stored)

    def count_pbkdf2(name: str, password: bytes, salt: bytes, iterations: int) -> bytes:
        counted.done["pbkdf2"] += iterations
        return pbkdf2(name, password, salt, iterations)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", count_verify)
    monkeypatch.setattr(argon2.PasswordHasher, "hash", count_hash)
    monkeypatch.setattr(bcrypt, "checkpw", count_bcrypt)
    monkeypatch.setattr(imported_hash, "pbkdf2_hmac", count_pbkdf2)
    return counted


@pytest.mark.parametrize("name", [None, *(name for name in STORED if "argon2id" in name or "empty" in name)])
@pytest.mark.parametrize("password", [PASSWORD, "wrong", "x" * 5000])
def test_work_without_imports(name: str | None, password: str, work: Work) -> None:
    """Unknown user, right and wrong password, cheaper, dear and broken hash: one argon2 of the profile."""
    hasher = PasswordHasher(PasswordProfile(512, 1))
    hasher.verify(STORED[name] if name else None, password)
    assert list(work) == [("argon2", 512)]


@pytest.mark.parametrize("name", [None, *STORED])
@pytest.mark.parametrize("password", [PASSWORD, "wrong", "x" * 100, "x" * 5000])
def test_work_with_declared_imports(name: str | None, password: str, work: Work) -> None:
    """While old hashes are declared, every account costs the same work of every kind (Django CVE-2024-39329)."""
    costs = ImportCosts(bcrypt_rounds=6, pbkdf2_iterations=260_000)
    PasswordHasher(PasswordProfile(512, 1), imports=costs).verify(STORED[name] if name else None, password)
    assert list(work) == [("argon2", 512), ("bcrypt", 64), ("pbkdf2", 260_000)]


@pytest.mark.parametrize(
    "stored",
    [
        STORED["bcrypt 2b"].replace("$04$", "$17$"),
        STORED["bcrypt 2b"].replace("$2b$", "$2x$"),
        STORED["bcrypt 2b"] + "\n",
        STORED["bcrypt 2b"][:-1],
        STORED["bcrypt 2b"][:-1] + "/",
        STORED["Django PBKDF2"].replace("$1000$", "$10000000$"),
        STORED["Django PBKDF2"].replace("$1000$", "$0$"),
        STORED["Django PBKDF2"].replace("sha256", "sha1"),
    ],
)
def test_imported_hash_out_of_bounds(stored: str) -> None:
    """A cost that would block a core for minutes, and formats that are not imported, are not computed."""
    assert parse_imported_hash(stored) is None


def test_bcrypt_of_a_digest() -> None:
    """Django's bcrypt is of the password's digest: any length fits, all of it counts, and neither form passes for the other."""
    password = "violet otters juggle quietly, every day of the week, in all the weather there is"
    digest = hashlib.sha256(password.encode()).hexdigest()
    of_digest = "bcrypt_sha256$" + bcrypt.hashpw(digest.encode(), bcrypt.gensalt(4)).decode()
    hasher = PasswordHasher(PasswordProfile(64, 1))
    assert hasher.verify(of_digest, password) == Verified(ok=True, needs_rehash=True)
    assert not hasher.verify(of_digest, password[:-1]).ok
    assert not hasher.verify(of_digest, digest).ok
    assert not hasher.verify(of_digest.removeprefix("bcrypt_sha256$"), password).ok
    assert not hasher.verify(of_digest.replace("bcrypt_sha256$", "bcrypt_sha512$"), password).ok


def test_bcrypt_whose_salt_ends_in_spare_bits() -> None:
    """Some libraries wrote the four bits of a salt that nobody reads as they came: such a hash is like any other."""
    stored = bcrypt.hashpw(PASSWORD.encode(), b"$2b$04$abcdefghijklmnopqrstuu").decode()
    odd = stored.replace("stuu", "stu9")
    assert odd != stored
    for each in (odd, "bcrypt_sha256$" + odd):
        assert HASHER.verify(each, PASSWORD).ok == (each == odd)
        assert not HASHER.verify(each, "wrong").ok
        assert why_not_checked(each) is None


def test_bcrypt_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hash that nothing here can check is no error, and why is told; to count on them is one at the start."""
    stored = STORED["bcrypt 2b"]
    assert why_not_checked(stored) is None
    monkeypatch.setitem(sys.modules, "bcrypt", None)
    assert why_not_checked(stored) == "bcrypt is not installed: install keyturn[bcrypt]"
    assert HASHER.verify(stored, PASSWORD) == HASHER.verify(None, PASSWORD)
    with pytest.raises(ModuleNotFoundError, match=r"keyturn\[bcrypt\]"):
        ImportCosts(bcrypt_rounds=12)
    assert ImportCosts(pbkdf2_iterations=600_000).bcrypt_rounds == 0


@pytest.mark.parametrize(
    "costs", [{"bcrypt_rounds": 3}, {"bcrypt_rounds": 17}, {"pbkdf2_iterations": -1}, {"pbkdf2_iterations": 10**7}]
)
def test_import_costs_out_of_bounds(costs: dict[str, int]) -> None:
    """Costs that no imported hash can have are refused."""
    with pytest.raises(ValueError, match="0 for none"):
        ImportCosts(**costs)


@pytest.mark.parametrize("length", [7, 65])
def test_policy_unsafe(length: int) -> None:
    """No policy goes below 8 characters or forbids ordinary pass phrases."""
    with pytest.raises(ValueError, match="min_length"):
        PasswordPolicy(length)


def test_policy_returns_the_normal_form() -> None:
    """What is checked is what is hashed."""
    assert PasswordPolicy(15).check("cafe\u0301 correct horse") == "caf\u00e9 correct horse"
    assert normal_password("e\u0301") == "\u00e9"


def test_context_of_the_site() -> None:
    """Words of the site count like words of the user; short words and the rest do not."""
    policy = PasswordPolicy(8, context=("https://notes.example.com",))
    with pytest.raises(PasswordRefused) as refused:
        policy.check("NOTES-example-7")
    assert refused.value.reason is PasswordFault.CONTEXT
    assert policy.check("xkwqzjvb com", ["bo", ""]) == "xkwqzjvb com"
