"""The commands, given the address of a connection pooler: they say what to do instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import SAFE, Command
from tests.pooler import pooling
from tests.services import PostgresServer

pytestmark = pytest.mark.services


@pytest.mark.parametrize("environment", ["production", "development"])
def test_transaction_mode_is_named_by_every_command(
    postgres: PostgresServer, empty_postgres_url: str, tmp_path: Path, environment: str
) -> None:
    """Nothing is migrated, nothing is served, and each says why, also in development."""
    with pooling(postgres, "transaction") as pooler:
        url = pooler.url(empty_postgres_url)
        command = Command(tmp_path, {**SAFE, "KEYTURN_ENV": environment, "KEYTURN_DATABASE_URL": url})
        several = ("serve", "--port", "0", "--workers", "2")
        for arguments in (("migrate",), ("migrate",), ("users", "list"), ("serve", "--port", "0"), several):
            error = command.run(*arguments, status=1)
            assert error.startswith("keyturn: unsafe_settings: database_pooled: "), arguments
            assert "the direct address of the database, or the pooler in session mode" in error
        found = command.json("doctor", status=1)["findings"]
        assert {finding["code"]: finding["fatal"] for finding in found}["database_pooled"]
    assert postgres.relations(empty_postgres_url.rpartition("/")[2]) == ""


def test_session_mode_is_served(postgres: PostgresServer, postgres_url: str, tmp_path: Path) -> None:
    """The doctor finds nothing, and a sign-up gets through."""
    with pooling(postgres, "session") as pooler:
        command = Command(tmp_path, {**SAFE, "KEYTURN_DATABASE_URL": pooler.url(postgres_url)})
        with command.serving() as client:
            person = {"email": "ada@example.com", "password": "correct horse battery staple"}
            assert client.post("/auth/signup", json=person).status_code == 201
        assert command.json("doctor") == {"safe": True, "findings": []}
