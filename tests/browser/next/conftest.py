"""Fixtures: the example on one version of Next.js or another, and visitors of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.next.application import Front
from tests.browser.next.visitor import PATIENCE, User, Visitor

_numbers = itertools.count(1)
MakeUser = Callable[[], User]
MakeVisitor = Callable[[], Visitor]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what builds an application of its own, which takes a minute, unless all is to be proved."""
    return True if collection_path.name == "test_standalone.py" and not config.getoption("--prove") else None


@pytest.fixture(scope="session")
def fronts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Front]]:
    """The running examples by their version, started when they are first asked for."""
    running: dict[str, Front] = {}
    with ExitStack() as stack:

        def get(version: str) -> Front:
            if version not in running:
                running[version] = stack.enter_context(Front(version, tmp_path_factory.mktemp(version)))
            return running[version]

        yield get


@pytest.fixture
def front(fronts: Callable[[str], Front], request: pytest.FixtureRequest) -> Iterator[Front]:
    """The example on Next.js 16, or on the version that the test names; at the end nothing is at fault any more."""
    found = fronts(getattr(request, "param", "next-16"))
    yield found
    found.site.proxy.calm()


@pytest.fixture
def make_visitor(browser: Browser, front: Front) -> Iterator[MakeVisitor]:
    """Make a visitor: a browser of its own, a user of its own. At the end no page may have complained."""
    made: list[Visitor] = []
    # Two servers and a browser start at once, maybe on a busy machine.
    expect.set_options(timeout=PATIENCE * 1000)

    def make() -> Visitor:
        made.append(Visitor(browser.new_context(), front, next(_numbers)))
        return made[-1]

    yield make
    for visitor in made:
        visitor.leave()
    assert [complaint for visitor in made for complaint in visitor.complaints] == []


@pytest.fixture
def make_user(front: Front) -> MakeUser:
    """Make a user without a browser, signed in."""

    def make() -> User:
        made = User(front, next(_numbers))
        made.sign_up()
        return made

    return make


@pytest.fixture
def user(make_user: MakeUser) -> User:
    """One such user."""
    return make_user()


@pytest.fixture
def visitor(make_visitor: MakeVisitor) -> Visitor:
    """A visitor who is not signed in."""
    return make_visitor()


@pytest.fixture
def ada(make_visitor: MakeVisitor) -> Visitor:
    """A visitor who has signed up, and is on the page of their devices."""
    visitor = make_visitor()
    visitor.sign_up()
    return visitor
