"""Keys that a real HTTP server publishes, and a Verifier of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import pytest

from keyturn.testing import FrozenClock
from keyturn.verify import Verifier
from tests.tokens.forge import AUDIENCE, ISSUER, NOW
from tests.verify.publisher import PATIENCE, Publisher, publishing


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    """A server that publishes the key of `tests.tokens.forge`."""
    with publishing() as running:
        yield running


@pytest.fixture
def monotonic() -> FrozenClock:
    """The clock by which keys are fetched; tests move it."""
    return FrozenClock(0.0)


@pytest.fixture
def make_verifier(publisher: Publisher, monotonic: FrozenClock) -> Iterator[Callable[..., Verifier]]:
    """Make Verifiers of what is published."""
    made: list[Verifier] = []

    def make(**changes: Any) -> Verifier:
        arguments: dict[str, Any] = {
            "issuer": ISSUER,
            "audience": AUDIENCE,
            "jwks_url": f"{publisher.base}/.well-known/jwks.json",
            "clock": lambda: NOW,
            "monotonic": monotonic,
            "timeout": PATIENCE,
            **changes,
        }
        made.append(Verifier(**arguments))
        return made[-1]

    yield make
    for verifier in made:
        verifier.close()


@pytest.fixture
def verifier(make_verifier: Callable[..., Verifier]) -> Verifier:
    """A Verifier that has fetched nothing yet."""
    return make_verifier()


@contextmanager
def no_threads() -> Iterator[None]:
    """Let the system give no thread to anybody, as a container does at its limit."""

    def refuse(_thread: Thread) -> None:
        raise RuntimeError("can't start new thread")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Thread, "start", refuse)
        yield
