"""The guides of the frameworks, run as they stand there.

A guide of `docs/guides` has one or both of the sections below. Each holds `python` blocks that begin with `# <file name>`,
under 15 lines, and one `sh` block that ends in a server on $PORT with `GET /hello`: `{"hello": "<user id>"}` to a valid token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from keyturn.core.errors import InvalidToken
from keyturn.verify import Verifier
from keyturn.verify.guard import Guard, refusal
from tests.docs.shell import ROOT, USER, Shell, blocks

GUIDES = ROOT / "docs" / "guides"
EMBED = "Put Keyturn into the application"
CHECK = "Check tokens in another service"
MOST_LINES = 14


def guides_with(section: str) -> list[str]:
    """List the guides that have a section."""
    return sorted(path.stem for path in GUIDES.glob("*.md") if f"\n## {section}\n" in path.read_text(encoding="utf-8"))


def prepared(directory: Path, name: str, section: str) -> tuple[Shell, str]:
    """Write the files of a section; return a shell beside them, and the command."""
    text = (GUIDES / f"{name}.md").read_text(encoding="utf-8")
    for block in blocks(text, section, "python"):
        named = re.match(r"# ([a-z_/]+\.py)\n", block)
        assert named is not None, f"which file is this?\n{block}"
        code = [line for line in block.splitlines()[1:] if line.strip()]
        assert len(code) <= MOST_LINES, f"{name}, {named[1]}: {len(code)} lines"
        path = directory / named[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block, encoding="utf-8")
    (command,) = blocks(text, section, "sh")
    return Shell(directory), command


def sign_up(client: httpx2.Client, shell: Shell) -> tuple[str, dict[str, str]]:
    """Sign up; return the user id and the header that carries the token."""
    headers = {"X-Keyturn": "1", "Origin": f"http://127.0.0.1:{shell.port}"}
    answer = client.post("/auth/signup", json=USER, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.json()["user"]["id"], {"Authorization": f"Bearer {answer.json()['access_token']}"}


def says_hello(client: httpx2.Client, user_id: str, bearer: dict[str, str]) -> None:
    """`/hello` is for a valid token, and refuses everybody else with our document."""
    refused = client.get("/hello")
    assert (refused.status_code, refused.json()["code"]) == (401, "invalid_token")
    assert refused.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    answer = client.get("/hello", headers=bearer)
    assert (answer.status_code, answer.json()) == (200, {"hello": user_id})


@pytest.mark.parametrize("name", guides_with(EMBED))
def test_embedding(tmp_path: Path, name: str) -> None:
    """A user signs up at the application as it is printed, and its own route knows them."""
    shell, command = prepared(tmp_path, name, EMBED)
    with shell.running(command) as client:
        says_hello(client, *sign_up(client, shell))


Issuer = tuple[str, str, dict[str, str]]


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    """A server of its own with a user; its address, the user's id and the header that carries their token."""
    shell = Shell(tmp_path_factory.mktemp("issuer"))
    base = f"http://127.0.0.1:{shell.port}"
    with shell.running(f"KEYTURN_ENV=development KEYTURN_BASE_URL={base} keyturn serve --port $PORT") as client:
        yield (base, *sign_up(client, shell))


@pytest.mark.parametrize("name", guides_with(CHECK))
def test_checking(tmp_path: Path, name: str, issuer: Issuer) -> None:
    """The service as it is printed believes a token of a server that it knows by its address alone."""
    base, user_id, bearer = issuer
    shell, command = prepared(tmp_path, name, CHECK)
    shell.environment["KEYTURN_ISSUER"] = base
    with shell.running(command) as client:
        says_hello(client, user_id, bearer)


def test_every_framework_has_a_guide() -> None:
    """What is integrated is documented: a guide for each framework that has a file of its own."""
    files = {path.stem for path in (ROOT / "src" / "keyturn" / "verify").glob("*.py")}
    frameworks = files & {"asgi", "django", "fastapi", "flask", "litestar", "starlette"}
    assert frameworks == frameworks & set(guides_with(CHECK))


def test_shared_guide() -> None:
    """The example of the page that all guides link to runs as it stands there."""
    text = (GUIDES / "verify.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    exec(example, names)
    assert type(names["verifier"]).__name__ == "Verifier"


def test_server_in_development_without_an_address(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its tokens are of the name that the shared guide says; the log that it names tells a service why it refuses them."""
    text = (GUIDES / "verify.md").read_text(encoding="utf-8")
    (name,) = re.findall(r"its tokens are of `([a-z-]+)`", text)
    (logger,) = re.findall(r"of the logger `(keyturn\.[a-z.]+)`", text)
    shell, command = prepared(tmp_path, "fastapi", EMBED)
    with shell.running(command) as client:
        _, bearer = sign_up(client, shell)
        token = [bearer["Authorization"].encode()]
        address = f"http://127.0.0.1:{shell.port}"
        with pytest.raises(InvalidToken) as refused:
            Guard(Verifier(address)).check(token)
        with caplog.at_level("INFO"):
            assert refusal(refused.value).status == 401
        Guard(Verifier(name, jwks_url=f"{address}/.well-known/jwks.json")).check(token)
    assert [vars(entry)["why"] for entry in caplog.records if entry.name == logger] == ["issuer"]
