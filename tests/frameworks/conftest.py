"""A running server for each framework, with a node inside it or only checking tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

import pytest

from keyturn.core.model import Session, User
from keyturn.runtime import Keyturn
from keyturn.settings import Settings
from keyturn.verify import Verifier
from tests.attacks.conftest import lighten
from tests.attacks.support import ORIGIN, PARTNER, SECRET, Browser
from tests.databases import sqlite_database
from tests.frameworks.adapters import ADAPTERS, Adapter, Wire
from tests.frameworks.directory import OwnUsers
from tests.tokens.forge import AUDIENCE, ISSUER
from tests.verify.publisher import PATIENCE, Publisher, publishing


async def _scopes(user: User, _session: Session) -> Mapping[str, object]:
    return {"scope": "notes admin"} if user.name == "admin" else {"scope": "notes"}


def late() -> float:
    """Tell the time two hours late."""
    return time.time() - 7200


@pytest.fixture(scope="session", params=ADAPTERS, ids=lambda adapter: adapter.name)
def adapter(request: pytest.FixtureRequest) -> Adapter:
    """Every framework in turn."""
    found: Adapter = request.param
    return found


@pytest.fixture(scope="session")
def users() -> OwnUsers:
    """The user table of the application, which is not Keyturn's."""
    return OwnUsers()


@pytest.fixture(scope="session")
def embedded(adapter: Adapter, users: OwnUsers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """A server whose application has a node inside, over SQLite and the application's own users.

    The database's clock is two hours behind this machine's, so that whatever went by the latter would be seen.
    """
    settings = Settings.load(
        env="development",
        database_url=sqlite_database(tmp_path_factory.mktemp(adapter.name)),
        base_url=ORIGIN,
        allowed_origins=PARTNER,
        secret=SECRET,
        trusted_proxies=1,
        denylist=True,
    )
    node = Keyturn(settings, users=users, claims=_scopes, database_clock=late)
    lighten(node)
    with adapter.embedding(node) as port:
        yield Wire(port)


@pytest.fixture
def browser(embedded: Wire) -> Browser:
    """A browser that has not signed in."""
    return Browser(embedded)


@pytest.fixture
async def ada(browser: Browser) -> Browser:
    """A browser whose owner has just signed up."""
    answer = await browser.sign_up()
    assert answer.status == 201, answer.body
    return browser


@pytest.fixture(scope="session")
def publisher() -> Iterator[Publisher]:
    """A server that publishes the key of `tests.tokens.forge`."""
    with publishing() as running:
        yield running


@pytest.fixture(scope="session")
def verifier_of() -> Callable[[Publisher], Verifier]:
    """Make a Verifier of what is published, by this machine's clock."""
    return lambda publisher: Verifier(
        ISSUER, AUDIENCE, jwks_url=f"{publisher.base}/.well-known/jwks.json", timeout=PATIENCE
    )


@pytest.fixture(scope="session")
def checking(adapter: Adapter, publisher: Publisher, verifier_of: Callable[[Publisher], Verifier]) -> Iterator[Wire]:
    """A server whose application only checks tokens."""
    with adapter.checking(verifier_of(publisher)) as port:
        yield Wire(port)
