"""Access tokens in Flask: an extension, a decorator, and the principal of the request.

    TokenAuth(Verifier("https://auth.example.com", audience="notes"), app)

    @app.get("/notes")
    @requires("notes")
    def notes():
        return {"user": current_principal.user_id}

Owns: the translation to Flask. Must not decide anything (`guard.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import wraps
from inspect import unwrap
from typing import Any, Final, TypeVar, cast

from flask import Flask, Response, current_app, request
from werkzeug.datastructures import Headers
from werkzeug.local import LocalProxy

from keyturn.core.errors import Refused
from keyturn.core.model import Principal
from keyturn.ports import Clock, PrincipalSource
from keyturn.verify.guard import ANYBODY, Guard, Identified, Requirement, refusal
from keyturn.verify.threaded import Threaded, environ_values, in_threads
from keyturn.wire import Response as Answer

__all__ = ["TokenAuth", "answer_refusal", "current_principal", "requires"]

View = TypeVar("View", bound=Callable[..., Any])

_KEY: Final = "keyturn.tokens"
_GUARDED: Final = "_keyturn_guarded"
"""On a view: the one that `requires` has made of it."""


class TokenAuth:
    """Find out who each request acts as, and answer the refusals that views raise.

    By itself it lets every request pass: the views ask, with `requires` or by using `current_principal`.

    Args:
        source: a Verifier, or the Keyturn node of this process.
        app: set up at once; else call `init_app`.
        clock: seconds since the Unix epoch; see `Guard`.
    """

    def __init__(
        self, source: PrincipalSource | Threaded, app: Flask | None = None, *, clock: Clock | None = None
    ) -> None:
        self.guard: Final = Guard(in_threads(source), clock=clock)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Set up an application."""
        app.extensions[_KEY] = self
        if Refused not in app.error_handler_spec[None][None]:
            app.register_error_handler(Refused, answer_refusal)
        if _refuse_unguarded not in app.before_request_funcs.get(None, ()):
            app.before_request(_refuse_unguarded)


def requires(*scopes: str, max_age: int | None = None, amr: Sequence[str] = ()) -> Callable[[View], View]:
    """Let a view run only for a valid token with these scopes; below `@app.route`.

    Args:
        scopes: every one must be granted; none: any valid token.
        max_age, amr: as in `Requirement`.
    """
    requirement = Requirement(scopes, max_age, amr)

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            _identified().demand(requirement)
            return current_app.ensure_sync(view)(*args, **kwargs)

        vars(guarded).pop(_GUARDED, None)  # that of another application, with all else that the view had
        with suppress(AttributeError):  # a bound method
            setattr(view, _GUARDED, guarded)
        return cast("View", guarded)

    return decorate


def _refuse_unguarded() -> None:
    """Refuse a view whose `requires` stands above its route, where it guards nothing: Flask has the view from below it.

    One that is guarded at some route may be for everybody at another.
    """
    views = current_app.view_functions
    guarded = getattr(views.get(request.endpoint or ""), _GUARDED, None)
    if guarded is None or any(unwrap(view, stop=lambda each: each is guarded) is guarded for view in views.values()):
        return
    raise RuntimeError(f"{request.endpoint}: `requires` stands above its route and guards nothing: put it below")


def _principal() -> Principal:
    return _identified().demand(ANYBODY)


current_principal: Final = cast("Principal", LocalProxy(_principal))
"""Who the request acts as. Using it without a valid token raises, which is answered with 401."""


def _identified() -> Identified:
    # In the environment of the request: Flask's `g` lives as long as an application context, which tests keep open.
    extension = current_app.extensions.get(_KEY)
    if not isinstance(extension, TokenAuth):
        raise RuntimeError("this application has neither KeyturnFlask(node, app) nor TokenAuth(verifier, app)")
    guard = extension.guard
    found = guard.recognise(request.environ.get(_KEY))
    if found is None:
        found = request.environ[_KEY] = guard.identify(environ_values(request.environ, "HTTP_AUTHORIZATION"))
    return found


def translate(answer: Answer) -> Response:
    """Make Flask's response of an answer."""
    response: Response = current_app.response_class(answer.body, answer.status)
    # As they are: Flask would name a type for what has no content, and to HEAD the length of what is sent, which is none.
    response.headers = Headers((name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers)
    return response


def answer_refusal(refused: Refused) -> Response:
    """Answer a refusal: for `register_error_handler` of a blueprint that answers every other exception itself."""
    return translate(refusal(refused, environ_values(request.environ, "HTTP_X_REQUEST_ID")))
