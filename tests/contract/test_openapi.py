"""Schemathesis against a running server: whatever fits `spec/openapi.json`, or just does not, has a documented answer.

Every request is one of three people's with good credentials, from an address of its own so that throttles stay out of
the way. A fault (5xx), an undocumented status, content type, body or method is a failure.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings, strategies
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.config import SchemathesisConfig

from keyturn.tokens import base64url
from keyturn.web.endpoints import ROUTES
from keyturn.web.server_credential import Signed, authorization
from tests.attacks.conftest import METRICS_TOKEN, SSR_KEY, SSR_KEYS, Server, start_servers, stop_servers
from tests.attacks.support import ORIGIN, PASSWORD, REFRESH
from tests.databases import sqlite_database

DOCUMENT = json.loads((Path(__file__).parents[2] / "spec" / "openapi.json").read_text())
NAMES = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
)
"""What is checked of each answer. Not that all data of the schema is accepted: no schema knows which passwords are good."""
EXAMPLES = 20
PROVEN_EXAMPLES = 500
_TLS = httpx.create_ssl_context()
"""Made once: to read the authorities takes 30 ms, and every request here is a client of its own."""
_numbers = itertools.count(1)

load_all_checks()
schema = schemathesis.openapi.from_dict(
    DOCUMENT,
    config=SchemathesisConfig.from_dict(
        {"generation": {"mode": "all", "with-security-parameters": False}, "phases": {"stateful": {"enabled": False}}}
    ),
)


def address() -> str:
    """Return an address that nobody has called from."""
    number = next(_numbers)
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


class Person:
    """Somebody with a user, a session and an access token, made anew when it has ended."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.email = f"person{next(_numbers)}@example.com"
        self.cookie = self.token = ""
        self._enter("/auth/signup")

    def _enter(self, path: str) -> None:
        headers = {"x-keyturn": "1", "origin": ORIGIN, "x-forwarded-for": address()}
        body = {"email": self.email, "password": PASSWORD}
        answer = httpx.post(self.origin + path, json=body, headers=headers, timeout=60, verify=_TLS)
        assert answer.is_success, answer.text
        self.token = answer.json()["access_token"]
        cookies = (value.partition(";")[0].partition("=") for value in answer.headers.get_list("set-cookie"))
        self.cookie = next(value for name, _, value in cookies if name == REFRESH)

    def fresh(self) -> Person:
        """Log in again if the session has ended."""
        headers = {"authorization": f"Bearer {self.token}"}
        if httpx.get(f"{self.origin}/auth/me", headers=headers, timeout=60, verify=_TLS).status_code != 200:
            self._enter("/auth/login")
        return self


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with every optional route switched on."""
    directory = tmp_path_factory.mktemp("contract")
    started = start_servers(
        sqlite_database(directory), directory, 1, KEYTURN_SSR_KEYS=SSR_KEYS, KEYTURN_METRICS_TOKEN=METRICS_TOKEN
    )
    yield started[0]
    stop_servers(started)


@pytest.fixture(scope="module")
def people(server: Server) -> dict[str, Person]:
    """Three users: for what reads, for what ends sessions, and for the password."""
    return {name: Person(server.origin) for name in ("reads", "ends", "password")}


class Credentials(requests.auth.AuthBase):
    """Adds to a finished request what proves who sends it."""

    def __init__(self, operation: str, people: dict[str, Person]) -> None:
        self.operation = operation
        ends = operation.startswith("keyturn_end") or operation in {"keyturn_log_out", "keyturn_refresh"}
        kind = "ends" if ends else "password" if operation == "keyturn_change_password" else "reads"
        self.person = people[kind].fresh()

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add address, origin, cookie and the Authorization that the operation needs."""
        cookie = self.person.cookie
        headers = request.headers
        headers["x-forwarded-for"] = address()
        headers.setdefault("origin", ORIGIN)
        if self.operation in {"keyturn_refresh", "keyturn_log_out", "keyturn_render"}:
            headers["cookie"] = f"{REFRESH}={cookie}"
        if self.operation == "keyturn_render":
            sent = request.body or b""
            assert isinstance(sent, str | bytes)
            sent = sent.encode() if isinstance(sent, str) else sent
            headers["authorization"] = authorization(
                "next", SSR_KEY, int(time.time()), Signed("/auth/ssr", cookie.encode(), sent)
            )
        elif self.operation == "keyturn_metrics":
            headers["authorization"] = f"Bearer {METRICS_TOKEN}"
        else:
            headers["authorization"] = f"Bearer {self.person.token}"
        return request


@pytest.mark.parametrize(
    ("path", "method"), [(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods]
)
def test_every_answer_is_documented(
    server: Server, people: dict[str, Person], path: str, method: str, prove: bool
) -> None:
    """Requests that fit the schema and requests that break it: no 5xx, nothing undocumented."""
    operation = schema[path][method.upper()]
    name = DOCUMENT["paths"][path][method]["operationId"]
    checks = CHECKS.get_by_names(NAMES)
    statuses: set[int] = set()

    @settings(
        max_examples=PROVEN_EXAMPLES if prove else EXAMPLES,
        deadline=None,
        derandomize=not prove,
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @cases_of(operation)
    def run(case: Any) -> None:
        answer = case.call(base_url=server.origin, auth=Credentials(name, people))
        statuses.add(answer.status_code)
        case.validate_response(answer, checks=checks)

    run()
    # What needs nothing but good credentials also succeeds; the rest needs data that no schema describes.
    assert statuses & {200, 204} or name.removeprefix("keyturn_") in {
        "sign_up",
        "log_in",
        "change_password",
        "end_session",
    }


def cases_of(operation: Any) -> Any:
    """Give a test the cases of one operation, good ones and bad ones."""
    modes = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
    return given(case=strategies.one_of(*(operation.as_strategy(generation_mode=mode) for mode in modes)))


def test_all_routes_are_in_the_document() -> None:
    """The document has the routes that the server has, and a bound on what is generated for it."""
    documented = {operation["operationId"] for methods in DOCUMENT["paths"].values() for operation in methods.values()}
    assert documented == {f"keyturn_{route.name}" for route in ROUTES}
    assert base64url.encode(SSR_KEY) == SSR_KEYS.partition(":")[2]
