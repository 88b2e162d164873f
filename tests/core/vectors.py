"""Reading `spec/vectors` and turning what is written there into values."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from keyturn.core.model import Contact, NewToken, PresentedToken, RevokeReason, Session, SessionId
from keyturn.core.rotation import Mint

VECTORS = Path(__file__).parents[2] / "spec" / "vectors"
SESSION_ID = SessionId(bytes(range(16)))
CONTACT = Contact("192.0.2.1", "agent/1", "Firefox on Linux")


def load(name: str) -> dict[str, Any]:
    """Read one file of vectors."""
    loaded: dict[str, Any] = json.loads((VECTORS / name).read_text())
    return loaded


def token_hash(name: str) -> bytes:
    """Stand in for the hash of a token's text: the hash of its name."""
    return sha256(name.encode()).digest()


def fingerprint(name: str | None) -> bytes:
    """Give a token's fingerprint; a first token's parent has none."""
    return bytes(8) if name is None else token_hash(name)[:8]


def presented(token: dict[str, Any]) -> PresentedToken:
    """Make the token that a vector names."""
    parent = fingerprint(token["parent"])
    return PresentedToken(SESSION_ID, token["generation"], token["issued_at"], parent, token_hash(token["name"]))


def session(row: dict[str, Any]) -> Session:
    """Make the row that a vector describes; what it does not mention is no matter."""
    plain = {key: value for key, value in row.items() if key not in {"current", "previous", "revoked_reason"}}
    reason = row["revoked_reason"]
    return Session(
        id=SESSION_ID,
        user_id="user",
        token_hash=token_hash(row["current"]),
        previous_hash=None if row["previous"] is None else token_hash(row["previous"]),
        created_at=900_000.0,
        revoked_reason=None if reason is None else RevokeReason(reason),
        device_id=bytes(16),
        device_name=None,
        device=CONTACT.device,
        ip=CONTACT.ip,
        user_agent=CONTACT.user_agent,
        amr=("pwd",),
        authenticated_at=900_000.0,
        **plain,
    )


def minter(made: list[tuple[int, bytes]]) -> Mint:
    """Make a function that mints a token called `child` and notes of what generation and parent it was."""

    def mint(session_id: SessionId, generation: int, now: float, parent_fingerprint: bytes) -> NewToken:
        assert session_id == SESSION_ID
        made.append((generation, parent_fingerprint))
        return NewToken("child", token_hash("child"))

    return mint
