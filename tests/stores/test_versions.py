"""Databases of before what Keyturn asks of them: a node would start there, and each sign-in be an error of ours."""

from __future__ import annotations

import asyncio
import sqlite3
import struct
from asyncio import StreamReader, StreamWriter
from pathlib import Path

import pytest

from keyturn.core.errors import UnsafeSettings
from keyturn.stores.engine import open_engine, ping
from tests.services import sqlite_url

pytestmark = pytest.mark.anyio


def _message(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("!I", 4 + len(content)) + content


async def _greet(reader: StreamReader, writer: StreamWriter) -> None:
    """Greet as a PostgreSQL 11 does, and say no more."""
    (length,) = struct.unpack("!I", await reader.readexactly(4))
    await reader.readexactly(length - 4)
    writer.write(_message(b"R", bytes(4)) + _message(b"S", b"server_version\x0011.22\0") + _message(b"Z", b"I"))
    await reader.read()
    writer.close()


async def test_postgresql_11() -> None:
    """Whatever connects says what is needed: it has no `WITH … AS MATERIALIZED`, by which sign-ins are counted."""
    async with await asyncio.start_server(_greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        engine = open_engine(f"postgresql://keyturn@127.0.0.1:{port}/keyturn?sslmode=disable")
        with pytest.raises(UnsafeSettings, match=r"^database_too_old: it is PostgreSQL 11: take 12 "):
            await ping(engine)
        await engine.close()


def test_sqlite_3_34(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is opened or made: it has no `RETURNING`, by which a refresh is written."""
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.34.1")
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(
        UnsafeSettings, match=r"^database_too_old: this Python comes with SQLite 3\.34\.1: take one with 3\.35 "
    ):
        open_engine(sqlite_url(tmp_path))
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 35, 0))
    open_engine(sqlite_url(tmp_path))
