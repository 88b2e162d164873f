"""The guide's table of events has each of them, and says which the database keeps."""

from __future__ import annotations

import re

from keyturn.core.events import Event, EventType
from keyturn.core.policy import DAY, Policy
from tests.docs.shell import ROOT

GUIDE = (ROOT / "docs/guides/application.md").read_text(encoding="utf-8")


def test_every_event_has_a_row() -> None:
    """And there is no other."""
    section = GUIDE.partition("## What an event holds\n")[2].partition("\n## ")[0]
    rows = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(EventType)


def test_what_is_not_kept_is_named() -> None:
    """With how long the rest is."""
    (names, days) = re.findall(r"keeps all but (.*), for (\d+) days", GUIDE)[0]
    assert set(re.findall(r"`(\w+)`", names)) == {kind for kind in EventType if not Event(kind, 0.0).kept}
    assert float(days) * DAY == Policy().event_retention
