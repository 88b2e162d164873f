"""The guides that are of no one framework: what an application gives to its node, and how the server is run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from keyturn.core.events import EventType
from keyturn.observability import Metrics
from keyturn.ports import UserDirectory
from tests.docs.shell import ROOT, USER, Shell, blocks
from tests.variables import variables

GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
APPLICATION = (ROOT / "docs" / "guides" / "application.md").read_text(encoding="utf-8")
OPERATING = (ROOT / "docs" / "guides" / "operating.md").read_text(encoding="utf-8")
OF_OTHERS = {"KEYTURN_URL", "KEYTURN_API_URL"}
"""What the Next.js server reads."""


def test_claims_and_events_as_printed(tmp_path: Path) -> None:
    """The role that the claims name opens the route, and the sink has heard of the login."""
    (tmp_path / "app.py").write_text(blocks(APPLICATION, "Claims and events", "python")[0], encoding="utf-8")
    shell = Shell(tmp_path)
    with shell.running(blocks(APPLICATION, "Claims and events", "sh")[0]) as client:
        headers = {"X-Keyturn": "1", "Origin": f"http://127.0.0.1:{shell.port}"}
        answers = {}
        for name in ("Ada", "Bob"):
            person = {**USER, "email": f"{name}@example.com", "name": name}
            signed_up = client.post("/auth/signup", json=person, headers=headers).json()
            bearer = {"Authorization": f"Bearer {signed_up['access_token']}"}
            answers[name] = client.get("/hello", headers=bearer)
            if name == "Ada":
                assert answers[name].json() == {"hello": signed_up["user"]["id"], "team": "blue"}
                assert f"signed in: {signed_up['user']['id']} 127.0.0.1" in (tmp_path / "log").read_text()
        assert (answers["Ada"].status_code, answers["Bob"].status_code) == (200, 403)


def test_methods_of_a_directory() -> None:
    """The table has every method of the port, with its parameters."""
    rows = re.findall(r"^\| `(\w+)\((.*?)\)` \|", APPLICATION, re.MULTILINE)
    methods = {name: function for name, function in vars(UserDirectory).items() if not name.startswith("_")}
    expected = {
        name: ", ".join(function.__code__.co_varnames[1 : function.__code__.co_argcount])
        for name, function in methods.items()
    }
    assert dict(rows) == expected


def test_metrics_and_events_exist() -> None:
    """What is to be watched is counted under that name, and every event that is named is one."""
    families = {f"{family.name}_total" if family.type == "counter" else family.name for family in Metrics().collect()}
    assert set(re.findall(r"`(keyturn_\w+)`", OPERATING)) == families
    named = re.findall(r"`([a-z]+_[a-z_]+)`", OPERATING.partition("warnings are")[2])
    assert len(named) == 4
    assert set(named) <= set(EventType)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_links_and_settings(guide: Path) -> None:
    """Every relative link of a guide leads to a file, and every variable is one that is read."""
    text = guide.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (guide.parent / target).exists(), target
    named = set(re.findall(r"KEYTURN_[A-Z_0-9]+[A-Z0-9]", text))
    assert {name.removesuffix("_FILE") for name in named} - OF_OTHERS <= variables()
