"""`keyturn keys ...`: the keys that sign access tokens. `keyturn secret`: the master secret over them.

Owns: these commands. Must not hold: when a key lives (`tokens.signing_key`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from keyturn.cli.output import Json, as_json, say, table, when

if TYPE_CHECKING:
    from keyturn.tokens.signing_key import SigningKey

app = typer.Typer(no_args_is_help=True, help="The keys that sign access tokens.", rich_markup_mode=None)


@app.command("list")
def list_keys(json: Json = False) -> None:
    """List the signing keys and when each one is published, signs, retires and is forgotten."""
    from keyturn.cli.tools import run

    keys, now = run(_list())
    columns = ("kid", "state", "publish_at", "activate_at", "retire_at", "expire_at")
    table(columns, [_row(key, now) for key in keys], json_instead=json)


@app.command("rotate")
def rotate(
    compromised: Annotated[
        bool, typer.Option("--compromised", help="The private key leaked: what it signed is refused at once.")
    ] = False,
    json: Json = False,
) -> None:
    """Make a new signing key now. It is published first and signs later, so that no access token is refused."""
    from keyturn.cli.tools import run

    key = run(_rotate(compromised=compromised))
    row = _row(key, key.created_at)
    if json:
        as_json(row)
    else:
        say(f"{key.kid} signs from {row['activate_at']}")


def _row(key: SigningKey, now: float) -> dict[str, object]:
    state = "published"
    if key.expire_at is not None and now >= key.expire_at:
        state = "expired"
    elif key.retire_at is not None and now >= key.retire_at:
        state = "retired"
    elif now >= key.activate_at:
        state = "active"
    return {
        "kid": key.kid,
        "state": state,
        "publish_at": when(key.publish_at),
        "activate_at": when(key.activate_at),
        "retire_at": when(key.retire_at),
        "expire_at": when(key.expire_at),
    }


async def _list() -> tuple[Sequence[SigningKey], float]:
    from keyturn.cli.tools import open_tools
    from keyturn.master_secret import secret_ring
    from keyturn.signing import open_stored
    from keyturn.stores.signing_keys import SqlSigningKeys

    async with open_tools() as tools:
        ring = secret_ring(tools.settings)
        sealed, now = await SqlSigningKeys(tools.engine).load()
    return sorted(open_stored(sealed, ring).values(), key=lambda key: key.publish_at), now


async def _rotate(*, compromised: bool) -> SigningKey:
    from keyturn.cli.tools import make_node, open_tools

    # A node that started would make a database that is not there, and rotate the keys of the wrong one.
    async with open_tools() as tools:
        node = make_node(tools.settings)
        try:
            await node.signing.refresh()
            return await node.signing.rotate(compromised=compromised)
        finally:
            await node.close()


def secret(
    key_id: Annotated[int, typer.Option("--id", min=0, max=255, help="An id your ring does not hold yet.")] = 1,
) -> None:
    """Print a new line for KEYTURN_SECRET. The first line signs; older lines below it go on verifying."""
    import os

    from keyturn.tokens.secret_ring import SecretRing

    say(SecretRing.generate(os.urandom(32), key_id))
