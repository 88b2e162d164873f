"""The written contract and the code say the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

from keyturn import contract
from keyturn.core.errors import refusals
from keyturn.core.model import RevokeReason
from keyturn.settings import PREFIX
from keyturn.web.documentation import DOCUMENTED
from keyturn.web.endpoints import ROUTES
from tests.variables import variables

SPEC = Path(__file__).parents[2] / "spec"
WIRE = SPEC / "wire.md"
CODES = {
    "invalid_request": 422,
    "unsupported_media_type": 415,
    "csrf_refused": 403,
    "invalid_credentials": 401,
    "invalid_token": 401,
    "no_session": 401,
    "session_ended": 401,
    "session_behind": 401,
    "insufficient_user_authentication": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "payload_too_large": 413,
    "throttled": 429,
    "unavailable": 503,
    "internal": 500,
}


@pytest.mark.parametrize("name", ["errors.json", "openapi.json"])
def test_generated_file_is_current(name: str) -> None:
    """The files in spec/ are what the code generates; `python -m keyturn.contract` writes them."""
    assert (SPEC / name).read_text(encoding="utf-8") == contract.documents()[name]


def test_stale_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The check says which file is out of date, and writing them mends it."""
    assert contract.main(["--check", str(tmp_path)]) == 1
    assert "errors.json" in capsys.readouterr().err
    assert contract.main([str(tmp_path)]) == 0
    assert contract.main(["--check", str(tmp_path)]) == 0


def test_codes_of_the_contract() -> None:
    """Codes and statuses are promises: they do not change by accident."""
    assert {refusal.code: refusal.status for refusal in refusals()} == CODES
    listed = json.loads((SPEC / "errors.json").read_text())["errors"]
    ended = next(error for error in listed if error["code"] == "session_ended")
    assert set(ended["reasons"]) == {reason.value for reason in RevokeReason} - {"replaced"}


def test_openapi_is_valid() -> None:
    """Every schema in the document is a valid JSON Schema, and every route is in it."""
    document = json.loads((SPEC / "openapi.json").read_text())
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    found = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert found == {(route.method, route.path if route.rooted else "/auth" + route.path) for route in ROUTES}
    assert DOCUMENTED.keys() == {route.name for route in ROUTES}


def test_openapi_examples_hold_no_secret() -> None:
    """Nothing in the document looks like a credential."""
    assert not re.search(r"kt_rt_[A-Za-z0-9]|eyJ[A-Za-z0-9]{5}", (SPEC / "openapi.json").read_text())


def test_wire_names_every_route_and_code() -> None:
    """Every route, every code and every reason stands in wire.md."""
    text = WIRE.read_text(encoding="utf-8")
    for route in ROUTES:
        path = route.path if route.rooted else "/auth" + route.path
        assert f"`{route.method} {path.replace('{session_id}', '{id}')}`" in text
    for code, status in CODES.items():
        assert re.search(rf"`{code}` \| {status} \|", text), code
    for reason in RevokeReason:
        assert f"`{reason.on_the_wire}`" in text


def test_wire_names_every_setting() -> None:
    """Every environment variable stands in wire.md, and none that does not exist."""
    text = WIRE.read_text(encoding="utf-8")
    named = set(re.findall(rf"`({PREFIX}[A-Z0-9_]+)`", text))
    known = variables()
    assert known <= named
    assert {name.removesuffix("_FILE") for name in named} <= known
