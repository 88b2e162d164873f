"""The FastAPI integration where it is more than a route's scopes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import Depends, FastAPI, Security
from fastapi.exceptions import FastAPIError

from keyturn.verify import Verifier
from keyturn.verify.fastapi import TokenAuth
from tests.attacks.support import send
from tests.verify.tokens import bearer

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"amr": ("pwd", "otp", "mfa"), "age": 60}, 200),
        ({"amr": ("pwd", "otp"), "age": 60}, 401),
        ({"amr": ("pwd", "mfa"), "age": 60}, 401),
        ({"amr": ("pwd", "otp", "mfa"), "age": 301}, 401),
    ],
)
@pytest.mark.parametrize("reverse", [False, True])
async def test_step_up_of_a_step_up(
    make_verifier: Callable[..., Verifier], fields: dict[str, Any], status: int, reverse: bool
) -> None:
    """A route that also needs something needs what was needed before as well, in whatever order it was said."""
    auth = TokenAuth(make_verifier(clock=time.time))
    needs: list[dict[str, Any]] = [{"amr": ("otp",)}, {"max_age": 300}, {"amr": ("mfa",), "max_age": 3600}]
    for each in reversed(needs) if reverse else needs:
        auth = auth.step_up(**each)
    app = FastAPI()

    @app.get("/", dependencies=[Depends(auth)])
    async def read() -> None:
        return None

    assert (await send(app, "GET", "/", headers=bearer(**fields))).status == status


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"scope": "notes", "amr": ("pwd", "otp"), "age": 60}, 200),
        ({"scope": "notes", "amr": ("pwd", "otp"), "age": 301}, 401),
        ({"scope": "notes", "amr": ("pwd",), "age": 60}, 401),
        ({"scope": "other", "amr": ("pwd", "otp"), "age": 60}, 403),
    ],
)
async def test_step_up_with_scopes(make_verifier: Callable[..., Verifier], fields: dict[str, Any], status: int) -> None:
    """A route that asks for scopes as well asks for both."""
    auth = TokenAuth(make_verifier(clock=time.time)).step_up(max_age=300, amr=("otp",))
    app = FastAPI()

    @app.get("/", dependencies=[Security(auth, scopes=["notes"])])
    async def read() -> None:
        return None

    assert (await send(app, "GET", "/", headers=bearer(**fields))).status == status


async def test_step_up_that_was_not_called(verifier: Verifier) -> None:
    """A route that depends on `step_up` itself, and not on what it returns, is refused when it is made: it would be open."""
    app = FastAPI()
    with pytest.raises(FastAPIError, match="Collection"):

        @app.get("/", dependencies=[Depends(TokenAuth(verifier).step_up)])
        async def read() -> None: ...


@pytest.mark.parametrize("make", [lambda auth: auth, lambda auth: auth.step_up(amr=["mfa"])])
async def test_one_method_that_should_be_several(verifier: Verifier, make: Callable[[TokenAuth], TokenAuth]) -> None:
    """A text instead of several is told when the program starts: its letters would be asked for."""
    with pytest.raises(TypeError):
        make(TokenAuth(verifier)).step_up(amr="otp")
    with pytest.raises(TypeError):
        TokenAuth(verifier, amr="otp")
