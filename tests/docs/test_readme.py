"""The quick starts of the README, run as they stand there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.docs.shell import ROOT, USER, Shell, blocks
from tests.variables import variables

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_fastapi_quick_start_answers_hello_to_a_user_who_signed_up(tmp_path: Path) -> None:
    """The application as it is printed: the printed commands sign a user up, refresh, and say hello with the access token."""
    section = "In a FastAPI application"
    (tmp_path / "app.py").write_text(blocks(README, section, "python")[0])
    shell = Shell(tmp_path)
    start, sign_up, hello = blocks(README, section, "sh")
    with shell.running(start) as client:
        signed_up, _, greeting = shell.run(f"{sign_up}\necho\n{hello}").partition("\n")
        assert json.loads(greeting) == {"hello": json.loads(signed_up)["user"]["id"]}
        assert client.get("/hello").status_code == 401
        paths = client.get("/openapi.json").json()["paths"]
        assert set(re.findall(r"`(?:POST |GET )?(/auth/\w+)`", README)) <= set(paths)


def test_server_quick_start_takes_a_sign_up(tmp_path: Path) -> None:
    """A secret, a clean bill from the doctor, a production server; the printed curl command signs a user up."""
    start, sign_up = blocks(README, "As a server of its own", "sh")
    shell = Shell(tmp_path)
    with shell.running(start) as client:
        answer = json.loads(shell.run(sign_up))
        assert answer["token_type"] == "Bearer"
        bearer = {"Authorization": f"Bearer {answer['access_token']}"}
        assert client.get("/auth/me", headers=bearer).json()["user"]["email"] == USER["email"]
    assert "safe: " in (tmp_path / "log").read_text()
    assert (tmp_path / "keyturn.secret").stat().st_mode & 0o077 == 0


QUICK_STARTS = [
    block
    for section, language in [
        ("In a FastAPI application", "python"),
        ("In Next.js", "tsx?"),
        ("Quick starts", "python"),
    ]
    for block in blocks(README, section, language)
]


@pytest.mark.parametrize("block", QUICK_STARTS, ids=lambda block: re.sub(r"\W+", "-", block)[:40])
def test_quick_start_is_a_guides_word_for_word(block: str) -> None:
    """What the tests of the guides run is what stands here, in under 15 lines of code each."""
    code = [line for line in block.splitlines() if line.strip() and not line.startswith(("#", "//"))]
    assert len(code) < 15
    guides = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs" / "guides").glob("*.md")))
    assert block in guides


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`make ([a-z]+)`|^make ([a-z]+)$", README, re.MULTILINE))))
def test_make_command_of_the_readme_exists(target: tuple[str, str]) -> None:
    """Every command that is named is one of the Makefile."""
    name = target[0] or target[1]
    assert re.search(rf"^{name}: ", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_settings_of_the_readme_exist() -> None:
    """Every KEYTURN_ name in the text is one that is read."""
    named = set(re.findall(r"KEYTURN_[A-Z_]+[A-Z]", README))
    assert {name.removesuffix("_FILE") for name in named} <= variables()
