"""A host application on Flask, with or without a node inside."""

from __future__ import annotations

from flask import Flask

from keyturn.flask import KeyturnFlask
from keyturn.ports import PrincipalSource
from keyturn.runtime import Keyturn
from keyturn.verify.flask import TokenAuth, current_principal, requires


def flask_routes(app: Flask) -> Flask:
    """Add the routes of the host."""

    @app.get("/open")
    def read_open() -> dict[str, bool]:
        return {"open": True}

    @app.get("/notes")
    @requires("notes")
    def read_notes() -> dict[str, str]:
        return {"user": current_principal.user_id}

    @app.get("/admin")
    @requires("notes", "admin")
    def read_admin() -> dict[str, str]:
        return {"user": current_principal.user_id}

    @app.get("/recent")
    @requires(max_age=3600)
    def read_recent() -> dict[str, str]:
        return {"user": current_principal.user_id}

    @app.get("/strong")
    @requires(max_age=300, amr=["otp"])
    def read_strong() -> dict[str, str]:
        return {"user": current_principal.user_id}

    return app


def flask_checking(source: PrincipalSource) -> Flask:
    """A Flask application that only checks tokens."""
    app = Flask(__name__)
    TokenAuth(source, app)
    return flask_routes(app)


def flask(node: Keyturn) -> Flask:
    """A Flask application with a node inside."""
    app = Flask(__name__)
    KeyturnFlask(node, app)
    return flask_routes(app)
