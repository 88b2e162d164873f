"""Keyturn inside a Flask application: the routes as a blueprint.

    app = Flask(__name__)
    KeyturnFlask(Keyturn(), app)

    @app.get("/notes")
    @requires("notes")
    def notes():
        return {"user": current_principal.user_id}

Owns: the translation to Flask. Must not decide anything. Flask is imported only here and in `keyturn.verify.flask`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Final

from flask import Blueprint, Flask, Request, Response, request

from keyturn.verify.flask import TokenAuth, current_principal, requires, translate
from keyturn.web.asgi import NEVER_FOUND
from keyturn.web.endpoints import Route
from keyturn.web.hosting import by_path, hosted_routes
from keyturn.web.threaded import Threaded, ThreadedNode
from keyturn.web.wsgi import read_environ

__all__ = ["KeyturnFlask", "current_principal", "requires"]

_ANY_METHOD: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


class KeyturnFlask:
    """Put the routes of the contract into Flask applications, as a blueprint.

    Why no more than that: what they need of CSRF protection they bring themselves, so a `CSRFProtect` of the application
    has to exempt `blueprint`.

    Args:
        node: what answers; it starts with the first request of each process and closes at its end.
        app: registers at once; else call `init_app`.
        url_prefix: goes before every path.
        operations: also `/healthz`, `/readyz` and `/metrics`; an application usually has its own.

    Attributes:
        blueprint: the routes.
        node: the running node of this process.
    """

    def __init__(
        self, node: Threaded, app: Flask | None = None, *, url_prefix: str | None = None, operations: bool = False
    ) -> None:
        self.node: Final = node.threaded
        self.blueprint: Final = Blueprint("keyturn", __name__, url_prefix=url_prefix)
        for path, methods in by_path(self.node.web, hosted_routes(operations=operations)).items():
            self.blueprint.add_url_rule(
                path.replace("{", "<").replace("}", ">"),
                endpoint=next(iter(methods.values())).name,
                view_func=_view(self.node, methods),
                methods=_ANY_METHOD,
                provide_automatic_options=False,
                strict_slashes=True,
            )
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Register the routes in an application, and let `requires` and `current_principal` find this node."""
        app.register_blueprint(self.blueprint)
        TokenAuth(self.node, app)


class _Content:
    """The body of a request, also where a hook of the application has read it before."""

    def __init__(self, of: Request) -> None:
        self._of = of
        self._unread: BytesIO | None = None

    def read(self, size: int, /) -> bytes:
        if self._unread is None:
            self._unread = BytesIO(self._of.get_data())
        return self._unread.read(size)


def _view(node: ThreadedNode, methods: Mapping[str, Route]) -> Callable[..., Response]:
    def answer(session_id: str = "") -> Response:
        content, environ, timeout = _Content(request), request.environ, node.web.config.body_timeout
        if "stream" in vars(request):
            # A hook has read of it: what the server hands over is at its end, also where the body came in chunks.
            environ = {**environ, "wsgi.input": content}
        message = read_environ(environ, timeout, source=content, parameter=session_id)
        # A path that was percent-encoded is none of ours, although Flask has found it.
        return translate(node.respond(message, None if message.path == NEVER_FOUND else methods))

    return answer
