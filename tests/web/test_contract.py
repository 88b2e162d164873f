"""The written contract and the code say the same."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import jsonschema
import pytest
from pydantic import SecretStr
from typer.main import get_command

from keyturn import contract
from keyturn.cli.commands import app
from keyturn.core.errors import refusals
from keyturn.core.model import RevokeReason
from keyturn.core.policy import Policy
from keyturn.password_pool import DEFAULT_QUEUE_LIMIT
from keyturn.settings import PREFIX, Settings
from keyturn.web.documentation import DOCUMENTED
from keyturn.web.endpoints import ROUTES
from tests.variables import variables

ROOT = Path(__file__).parents[2]
SPEC = ROOT / "spec"
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
    assert found == {(route.method, route.path_below("/auth")) for route in ROUTES}
    assert DOCUMENTED.keys() == {route.name for route in ROUTES}


def test_openapi_examples_hold_no_secret() -> None:
    """Nothing in the document looks like a credential."""
    assert not re.search(r"kt_rt_[A-Za-z0-9]|eyJ[A-Za-z0-9]{5}", (SPEC / "openapi.json").read_text())


def test_wire_names_every_route_and_code() -> None:
    """Every route, every code and every reason stands in wire.md."""
    text = WIRE.read_text(encoding="utf-8")
    for route in ROUTES:
        path = route.path_below("/auth")
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


def _defaults() -> dict[str, object]:
    """Return what each variable is where nobody sets it; None: nothing, or no value that could be written down."""
    policy = {field.name: field.default for field in dataclasses.fields(Policy)}
    found: dict[str, object] = {}
    for name, field in Settings.model_fields.items():
        given = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
        found[PREFIX + name.upper()] = policy.get(name) if given is None else given
    options = get_command(app).commands["serve"].params  # type: ignore[attr-defined]
    found |= {str(option.envvar): option.default for option in options if option.envvar is not None}
    return {**found, f"{PREFIX}LOGIN_QUEUE": DEFAULT_QUEUE_LIMIT}


def _written(cell: str) -> set[str]:
    """Return the values in a cell: texts, numbers, and times as seconds."""
    units = {"": 1, "h": 3600, "d": 86400, "days": 86400}
    times = re.findall(r"(?<![\w.`])(\d+)(?: (h|d|days)\b)?(?![\w.`])", cell)
    return {f"{int(number) * units[unit]}" for number, unit in times} | set(re.findall(r"`([^`]+)`", cell))


@pytest.mark.parametrize("document", [WIRE, ROOT / "README.md"], ids=["wire", "readme"])
def test_defaults_of_the_settings(document: Path) -> None:
    """Every default that a table of settings names is that of the code, and one without a value names none."""
    defaults = _defaults()
    rows = re.findall(rf"^\| (`{PREFIX}[^|]+) \| ([^|]*) ?\|", document.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) > 10
    for names, cell in rows:
        for name in re.findall(r"`([A-Z0-9_]+)`", names):
            value, said = defaults[name], _written(cell)
            if isinstance(value, bool):
                assert said & ({"true", "on"} if value else {"false", "off"}), name
            elif value:
                assert (f"{value:.0f}" if isinstance(value, float) else str(value)) in said, name
            else:
                assert said <= {"0", "64", "keyturn-development"}, name
