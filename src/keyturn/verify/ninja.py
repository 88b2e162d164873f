"""Access tokens in django-ninja: bearer authentication with scopes and step-up, in its OpenAPI too.

    api = NinjaAPI(auth=TokenAuth())
    install(api)

    @api.get("/notes", auth=TokenAuth("notes"))
    def notes(request):
        return {"user": request.auth.user_id}

The setting `KEYTURN` says where tokens are checked: see `keyturn.verify.django`.

Owns: the translation to django-ninja. Must not decide anything (`guard.py`).
"""

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import Sequence
from typing import Any, Final

from django.http import HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja.errors import HttpError
from ninja.security import HttpBearer

from keyturn.core.errors import Refused
from keyturn.core.model import Principal
from keyturn.verify.django import answer_refusal, identified, identified_async
from keyturn.verify.guard import Requirement

__all__ = ["PrincipalRefused", "TokenAuth", "install"]


class PrincipalRefused(HttpError):
    """A request without a valid access token, or without something its operation needs."""

    def __init__(self, refused: Refused) -> None:
        """Keep the status where django-ninja's own handler finds it, too."""
        super().__init__(refused.status, refused.title)
        self.refused: Final = refused


class TokenAuth(HttpBearer):
    """Let an operation, sync or async, run only for a valid token: `request.auth` is the principal.

    Args:
        scopes: every one must be granted; none: any valid token.
        max_age, amr: as in `Requirement`.
    """

    openapi_bearerFormat = "JWT"  # noqa: N815 - the name is OpenAPI's

    def __init__(self, *scopes: str, max_age: int | None = None, amr: Sequence[str] = ()) -> None:
        super().__init__()
        self._requirement: Final = Requirement(scopes, max_age, amr)
        # An async operation then awaits what is called, instead of giving it a thread; a sync one takes either.
        self.is_async = True

    def __call__(self, request: HttpRequest) -> Any:
        """Return the principal, or in a coroutine what returns it.

        Raises: PrincipalRefused.
        """
        try:
            get_running_loop()
        except RuntimeError:
            return self.authenticate(request, "")
        return self._authenticate_async(request)

    def authenticate(self, request: HttpRequest, token: str) -> Principal:
        """Return the principal; the token is read from the header as it came, not as django-ninja takes it apart.

        Raises: PrincipalRefused.
        """
        try:
            return identified(request).demand(self._requirement)
        except Refused as refused:
            raise PrincipalRefused(refused) from None

    async def _authenticate_async(self, request: HttpRequest) -> Principal:
        try:
            return (await identified_async(request)).demand(self._requirement)
        except Refused as refused:
            raise PrincipalRefused(refused) from None


def install(api: NinjaAPI) -> None:
    """Let an API answer refusals with the same problem document as everywhere; without it only the status is right."""
    api.add_exception_handler(PrincipalRefused, _answer)


def _answer(request: HttpRequest, fault: Any) -> HttpResponse:
    return answer_refusal(request, fault.refused)
