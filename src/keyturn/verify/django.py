"""Access tokens in Django, under WSGI and ASGI: a decorator for views, and a middleware for `request.principal`.

    KEYTURN = "mysite.auth.verifier"  # in settings.py: where a Verifier is, or the Keyturn node of this process

    @requires("notes")
    def notes(request):
        return JsonResponse({"user": request.principal.user_id})

`keyturn.verify.drf` and `keyturn.verify.ninja` are beside this file and read the same setting.

Owns: the translation to Django. Must not decide anything (`guard.py`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from typing import Any, Final, TypeVar, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.functional import SimpleLazyObject
from django.utils.module_loading import import_string

from keyturn.core.errors import Refused
from keyturn.core.model import Principal
from keyturn.verify.guard import ANYBODY, Guard, Identified, Requirement, refusal
from keyturn.verify.threaded import environ_values, in_threads
from keyturn.wire import Response as Answer

__all__ = ["TokenMiddleware", "principal_of", "requires"]

View = TypeVar("View", bound=Callable[..., Any])

_SETTING: Final = "KEYTURN"
_SETTING_FORM: Final = f'settings.{_SETTING} has to name a Keyturn node or a Verifier, such as "mysite.urls.auth"'
_KEY: Final = "keyturn.tokens"


def requires(*scopes: str, max_age: int | None = None, amr: Sequence[str] = ()) -> Callable[[View], View]:
    """Let a view, sync or async, run only for a valid token with these scopes, and set `request.principal`.

    The view is exempt from Django's CSRF check and its LoginRequiredMiddleware. Why: it runs for nobody without a token
    in the Authorization header, which no browser adds by itself.

    Args:
        scopes: every one must be granted; none: any valid token.
        max_age, amr: as in `Requirement`.
    """
    requirement = Requirement(scopes, max_age, amr)

    def decorate(view: View) -> View:
        @wraps(view)
        async def guarded_async(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            try:
                _set_principal(request, (await identified_async(request)).demand(requirement))
            except Refused as refused:
                return answer_refusal(request, refused)
            return await view(request, *args, **kwargs)

        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            try:
                _set_principal(request, identified(request).demand(requirement))
            except Refused as refused:
                return answer_refusal(request, refused)
            return view(request, *args, **kwargs)

        made: Any = guarded_async if _is_async(view) or _is_dispatch_of_async(view) else guarded
        made.csrf_exempt = True
        made.login_required = False
        return cast("View", made)

    return decorate


class TokenMiddleware:
    """Set `request.principal`, and answer the refusals that views raise; sync and async.

    By itself it lets every request pass: using the principal of a request without a valid token raises, which is
    answered with 401, 403 or 503. Why: a middleware that guards by path is one spelling of a path away from open.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self._get_response: Final = get_response
        self._asynchronous: Final = _is_async(get_response)
        if self._asynchronous:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Take one request."""
        if self._asynchronous:
            return self._call_async(request)
        _set_principal(request, SimpleLazyObject(lambda: identified(request).demand()))
        return cast("HttpResponseBase", self._get_response(request))

    async def _call_async(self, request: HttpRequest) -> HttpResponseBase:
        # Not lazily: whoever uses the principal in an async view must not wait for keys on the event loop.
        await identified_async(request)
        _set_principal(request, SimpleLazyObject(lambda: identified(request).demand()))
        return cast("HttpResponseBase", await self._get_response(request))

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Answer a refusal with its problem document; leave everything else to Django."""
        return answer_refusal(request, exception) if isinstance(exception, Refused) else None


def principal_of(request: HttpRequest, requirement: Requirement = ANYBODY) -> Principal:
    """Return who a request acts as; what it raises is answered by TokenMiddleware.

    Raises: InvalidToken, Forbidden, StepUpRequired, Unavailable.
    """
    return identified(request).demand(requirement)


# -- what the files beside this one use, too


def identified(request: HttpRequest) -> Identified:
    """Find out who a request acts as, once."""
    guard = _guard()
    found = guard.recognise(request.META.get(_KEY))
    if found is None:
        found = request.META[_KEY] = guard.identify(environ_values(request.META, "HTTP_AUTHORIZATION"))
    return found


async def identified_async(request: HttpRequest) -> Identified:
    """Do as `identified` without blocking the event loop."""
    guard = _guard()
    found = guard.recognise(request.META.get(_KEY))
    if found is None:
        found = request.META[_KEY] = await guard.identify_async(environ_values(request.META, "HTTP_AUTHORIZATION"))
    return found


def answer_refusal(request: HttpRequest, refused: Refused) -> HttpResponse:
    """Answer a refusal with its problem document."""
    return translate(refusal(refused, environ_values(request.META, "HTTP_X_REQUEST_ID")))


def translate(answer: Answer) -> HttpResponse:
    """Make Django's response of an answer; its Set-Cookie headers are left to whoever needs them."""
    response = HttpResponse(answer.body, status=answer.status)
    del response.headers["Content-Type"]
    for name, value in answer.headers:
        if name != b"set-cookie":
            response.headers[name.decode("latin-1")] = value.decode("latin-1")
    return response


def _set_principal(request: HttpRequest, principal: object) -> None:
    request.principal = principal  # type: ignore[attr-defined]


def _is_async(view: Callable[..., Any]) -> bool:
    # The standard library's sees the mark of a class-based view only since Python 3.12.
    return iscoroutinefunction(view)  # pyright: ignore[reportDeprecated]


def _is_dispatch_of_async(view: Callable[..., Any]) -> bool:
    """Say whether this is the `dispatch` of an async class, bound as `method_decorator` does it: that is no coroutine function itself."""
    instance = getattr(getattr(view, "func", None), "__self__", None)
    return bool(getattr(instance, "view_is_async", False))


def _guard() -> Guard:
    setting = getattr(settings, _SETTING, None)
    if setting is None:
        raise ImproperlyConfigured(_SETTING_FORM)
    of, guard = _latest.value
    if guard is None or of is not setting:
        guard = _guard_of(setting)
        _latest.value = setting, guard
    return guard


class _Latest:
    """The setting that was asked for last, and its guard; by identity, for what stands in for a Verifier in tests may have no hash."""

    value: tuple[object, Guard | None] = None, None


_latest: Final = _Latest()


def _guard_of(setting: Any) -> Guard:
    source = import_string(setting) if isinstance(setting, str) else setting
    if not hasattr(source, "authenticate"):
        raise ImproperlyConfigured(_SETTING_FORM)
    return Guard(in_threads(source))
