"""What a type checker sees of a view that `requires` guards: the view as it was written. `make check` reads the claims."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_type

import pytest
from django.http import HttpRequest, JsonResponse
from starlette.requests import Request
from starlette.responses import PlainTextResponse

import keyturn.verify.django
import keyturn.verify.flask
import keyturn.verify.starlette


@keyturn.verify.flask.requires("notes")
def view_of_flask(number: int) -> dict[str, int]:
    """Answer."""
    return {"number": number}


@keyturn.verify.starlette.requires("notes")
async def endpoint_of_starlette(request: Request) -> PlainTextResponse:
    """Answer."""
    return PlainTextResponse(request.method)


@keyturn.verify.django.requires("notes")
def view_of_django(request: HttpRequest, number: int) -> JsonResponse:
    """Answer."""
    return JsonResponse({"method": request.method, "number": number})


async def typed(ours: HttpRequest, theirs: Request) -> None:
    """Say what calls return. Without these types the last lines would be no errors, and their ignores would be."""
    assert_type(view_of_flask(1), dict[str, int])
    assert_type(await endpoint_of_starlette(theirs), PlainTextResponse)
    assert_type(view_of_django(ours, number=1), JsonResponse)
    view_of_flask("1")  # type: ignore[arg-type]
    await endpoint_of_starlette(ours)  # type: ignore[arg-type]
    view_of_django(ours)  # type: ignore[call-arg]


@pytest.mark.parametrize("view", [view_of_flask, endpoint_of_starlette, view_of_django])
def test_guarded_view(view: Callable[..., Any]) -> None:
    """It is still the view to whoever looks: frameworks go by its name, and OpenAPI by its annotations."""
    assert view.__name__.partition("_")[0] in {"view", "endpoint"}
    assert view.__annotations__["return"] in {"dict[str, int]", "PlainTextResponse", "JsonResponse"}
