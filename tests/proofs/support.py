"""What the tests of the proofs share."""

from __future__ import annotations

from collections.abc import Callable

from tests.proofs.explorer import Exploration

Report = Callable[[str], None]
"""Prints a line although pytest captures."""


def hold(found: Exploration, report: Report, what: str) -> None:
    """Require that everything was visited and nothing forbidden was met."""
    assert found.counterexample is None, "\n".join(("", found.counterexample.claim, *found.counterexample.steps))
    assert found.complete
    report(f"{what}: {found.states} states, {found.transitions} transitions")


def refute(found: Exploration, claim: str) -> None:
    """Require that this claim was found not to hold."""
    assert found.counterexample is not None
    assert found.counterexample.claim == claim
