"""Keyturn in a Flask application beyond the scenarios of `tests/frameworks`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Blueprint, Flask, Response, request
from flask.testing import FlaskClient
from werkzeug.test import EnvironBuilder, run_wsgi_app

from keyturn.core.errors import Refused
from keyturn.flask import KeyturnFlask, current_principal, requires
from keyturn.runtime import Keyturn
from keyturn.verify import Verifier
from keyturn.verify.flask import TokenAuth, answer_refusal
from tests.databases import sqlite_database
from tests.tokens.forge import AUDIENCE, ISSUER, NOW, sign
from tests.verify.publisher import publishing
from tests.web.conftest import BROWSER, PASSWORD
from tests.web.wsgi import new_node


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyturn]:
    """A node on its own thread."""
    made = new_node(sqlite_database(tmp_path_factory.mktemp("flask")))
    yield made
    made.threaded.close()


@pytest.fixture
def app(node: Keyturn) -> Flask:
    """An application that is made by a factory, and has a hook that reads every body."""
    app = Flask(__name__)
    app.config["SECRET_KEY"] = "for tests"
    KeyturnFlask(node, url_prefix="/api", operations=True).init_app(app)

    @app.before_request
    def log() -> None:
        request.get_data()

    @app.get("/who")
    def who() -> dict[str, str]:
        return {"user": current_principal.user_id}

    @app.get("/notes")
    @requires("notes")
    def notes() -> str:
        raise AssertionError("nobody has this scope")

    return app


def sign_up(client: FlaskClient, email: str) -> Any:
    """Sign up, and return what came back."""
    answer = client.post("/api/auth/signup", json={"email": email, "password": PASSWORD}, headers=BROWSER)
    assert answer.status_code == 201, answer.text
    return answer


def test_routes_below_a_prefix(app: Flask) -> None:
    """The routes are below the prefix, with paths, bodies and cookies as they are everywhere."""
    client = app.test_client(use_cookies=False)
    signed_up = sign_up(client, "ada@example.com")
    assert len(signed_up.headers.getlist("set-cookie")) == 3
    headers = {"authorization": f"Bearer {signed_up.json['access_token']}"}
    session = client.get("/api/auth/sessions", headers=headers).json
    assert session is not None
    ended = client.delete(f"/api/auth/sessions/{session['sessions'][0]['id']}", headers=headers)
    assert (ended.status_code, ended.data, "content-type" in ended.headers) == (204, b"", False)
    assert client.get("/api/healthz").json == {"status": "ok"}
    assert client.get("/auth/me").status_code == 404
    assert client.get("/api/auth/login/").status_code == 404


def test_body_that_a_hook_has_read(app: Flask) -> None:
    """A body is there for us although a hook of the application has read it, and a large one is refused."""
    client = app.test_client()
    sign_up(client, "grace@example.com")
    large = {"email": " " * 20_000}
    assert client.post("/api/auth/login", json=large, headers=BROWSER).status_code == 413


def test_body_in_chunks_that_a_hook_has_read(app: Flask) -> None:
    """It is there for us too where it came in chunks, of which the server tells no length but an end."""

    def sent(body: dict[str, str]) -> str:
        builder = EnvironBuilder("/api/auth/signup", method="POST", json=body, headers=[*BROWSER.items()])
        environ = builder.get_environ()
        del environ["CONTENT_LENGTH"]
        environ |= {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
        return run_wsgi_app(app, environ)[1]

    assert sent({"email": "mary@example.com", "password": PASSWORD}).startswith("201")
    assert sent({"email": " " * 20_000, "password": PASSWORD}).startswith("413")


def test_principal_of_each_request(app: Flask) -> None:
    """The principal is the request's own, also where tests keep one application context open over several."""
    client = app.test_client(use_cookies=False)
    with app.app_context():
        token, other = (
            sign_up(client, email).json["access_token"] for email in ("edith@example.com", "alan@example.com")
        )
        seen = {client.get("/who", headers={"authorization": f"Bearer {each}"}).text for each in (token, other)}
        assert len(seen) == 2
        refused = client.get("/who")
    assert (refused.status_code, refused.content_type) == (401, "application/problem+json")


def test_principal_whose_sessions_the_request_ends(app: Flask, node: Keyturn) -> None:
    """Who a request acts as is found out once, and does not change while it runs."""

    @app.get("/leave")
    def leave() -> dict[str, str]:
        node.threaded.end_user_sessions(current_principal.user_id)
        return {"user": current_principal.user_id}

    client = app.test_client(use_cookies=False)
    signed_up = sign_up(client, "hedy@example.com").json
    headers = {"authorization": f"Bearer {signed_up['access_token']}"}
    assert client.get("/leave", headers=headers).json == {"user": signed_up["user"]["id"]}
    assert client.get("/leave", headers=headers).status_code == 401


@pytest.mark.parametrize("first", ["handler", "extension"])
def test_refusal_in_the_words_of_the_application(node: Keyturn, first: str) -> None:
    """An application may answer refusals in its own way, and says so before or after it gets the routes."""
    app = Flask(__name__)
    app.add_url_rule("/notes", view_func=guarded)
    if first == "extension":
        KeyturnFlask(node, app)

    @app.errorhandler(Refused)
    def mine(refused: Refused) -> Response:
        return Response(refused.code, refused.status)

    if first == "handler":
        KeyturnFlask(node, app)
    answer = app.test_client().get("/notes")
    assert (answer.status_code, answer.text) == (401, "invalid_token")


def test_blueprint_that_answers_every_exception(node: Keyturn) -> None:
    """A blueprint that makes a fault of everything lets refusals be refusals where it names their answer as well."""
    app = Flask(__name__)
    KeyturnFlask(node, app)
    careful = Blueprint("careful", __name__)
    careful.add_url_rule("/notes", view_func=guarded)
    careful.register_error_handler(Exception, lambda _fault: ("mine", 500))
    careful.register_error_handler(Refused, answer_refusal)
    app.register_blueprint(careful)
    answer = app.test_client().get("/notes")
    assert (answer.status_code, answer.content_type) == (401, "application/problem+json")


def test_stand_in_for_a_node_that_has_answered(node: Keyturn) -> None:
    """A test may put what knows its tokens in the place of the node of an application that an earlier test has used."""
    app = Flask(__name__)
    KeyturnFlask(node, app)
    app.add_url_rule("/who", view_func=requires()(lambda: current_principal.user_id))
    client, headers = app.test_client(), {"authorization": f"Bearer {sign()}"}
    assert client.get("/who", headers=headers).status_code == 401
    with publishing() as publisher:
        url = f"{publisher.base}/.well-known/jwks.json"
        TokenAuth(Verifier(ISSUER, AUDIENCE, jwks_url=url, clock=lambda: NOW), app)
        assert client.get("/who", headers=headers).status_code == 200


def test_async_view(node: Keyturn) -> None:
    """A guarded view may be async where Flask can run one."""
    app = Flask(__name__)
    KeyturnFlask(node, app)

    @app.get("/slow")
    @requires()
    async def slow() -> dict[str, str]:
        return {"user": current_principal.user_id}

    client = app.test_client(use_cookies=False)
    body = {"email": "barbara@example.com", "password": PASSWORD}
    signed_up = client.post("/auth/signup", json=body, headers=BROWSER).json
    assert signed_up is not None
    answer = client.get("/slow", headers={"authorization": f"Bearer {signed_up['access_token']}"})
    assert answer.json == {"user": signed_up["user"]["id"]}
    assert client.get("/slow").status_code == 401


@requires("notes")
def guarded() -> str:
    """A view that nobody comes to."""
    raise AssertionError


def test_request_that_another_application_has_had() -> None:
    """An application that gets the WSGI environment after another one asks its own verifier: a token is not for everybody."""
    environ = EnvironBuilder("/who", headers=[("authorization", f"Bearer {sign()}")]).get_environ()
    statuses: list[str] = []

    def start(status: str, _headers: object, _fault: object = None) -> Any:
        statuses.append(status[:3])

    with publishing() as publisher:
        for audience in (AUDIENCE, "another"):
            app = Flask(__name__)
            url = f"{publisher.base}/.well-known/jwks.json"
            TokenAuth(Verifier(ISSUER, audience, jwks_url=url, clock=lambda: NOW), app)
            app.add_url_rule("/who", view_func=requires()(lambda: ""))
            list(app(environ, start))
    assert statuses == ["200", "401"]


@pytest.mark.parametrize("of_a_blueprint", [False, True])
def test_requires_above_the_route(node: Keyturn, *, of_a_blueprint: bool) -> None:
    """There it would guard nothing: nobody gets in. A view that is guarded at one route may be for everybody at another."""
    app = Flask(__name__)
    routes = Blueprint("notes", __name__) if of_a_blueprint else app
    KeyturnFlask(node, app)

    @requires("notes")
    @routes.get("/notes")
    def notes() -> str:
        return "secret"

    def news() -> str:
        return "news"

    def counted(*given: object) -> str:
        return guarded_news(*given)

    guarded_news = requires("news")(news)
    counted.__wrapped__ = guarded_news  # type: ignore[attr-defined]
    for path, view in (("/news", news), ("/all-news", counted)):
        routes.add_url_rule(path, endpoint=path[1:], view_func=view)
    if isinstance(routes, Blueprint):
        app.register_blueprint(routes)
    client = app.test_client()
    assert [client.get(path).status_code for path in ("/notes", "/news", "/all-news")] == [500, 200, 401]


def test_view_that_each_application_of_a_factory_guards(node: Keyturn) -> None:
    """What another application has made of it says nothing of this one's route."""

    def notes() -> str:
        raise AssertionError("nobody has this scope")

    for _ in range(3):
        app = Flask(__name__)
        TokenAuth(node, app)
        app.add_url_rule("/notes", view_func=requires("notes")(notes))
        assert app.test_client().get("/notes").status_code == 401


def test_application_without_the_extension() -> None:
    """An application that was not set up says so, and lets nobody in."""
    app = Flask(__name__)
    app.testing = True
    app.add_url_rule("/notes", view_func=guarded)
    with pytest.raises(RuntimeError, match=r"KeyturnFlask\(node, app\).*TokenAuth"):
        app.test_client().get("/notes")


def test_node_that_nothing_has_started(tmp_path: Path) -> None:
    """A process that only sees tokens starts its node for the first of them."""
    node = new_node(sqlite_database(tmp_path))
    app = Flask(__name__)
    TokenAuth(node, app)
    app.add_url_rule("/notes", view_func=guarded)
    try:
        assert app.test_client().get("/notes", headers={"authorization": "Bearer x"}).status_code == 401
        assert node.signing.ring.keys
    finally:
        node.threaded.close()
