"""The guide to Next.js shows what the example is made of, and names what exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from keyturn.settings import Settings

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs/guides/nextjs.md"
EXAMPLE = ROOT / "examples/nextjs"
TEXT = GUIDE.read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
OF_NEXT = {"KEYTURN_URL", "KEYTURN_API_URL"}
"""What the Next.js server reads and the Keyturn server does not."""
LONGEST = 15


class Excerpt(NamedTuple):
    """A block of code, and the file it says it is of."""

    file: str
    lines: str


def excerpts(text: str) -> list[Excerpt]:
    """Return the blocks of TypeScript that begin with the name of a file."""
    return [Excerpt(*found) for found in re.findall(r"^```tsx?\n// (\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


def test_blocks_of_the_guide_are_excerpts() -> None:
    """Every block of TypeScript names its file."""
    assert len(excerpts(TEXT)) == len(re.findall(r"^```tsx?$", TEXT, re.MULTILINE)) > 0


@pytest.mark.parametrize("excerpt", excerpts(TEXT) + excerpts(README), ids=lambda excerpt: excerpt.file)
def test_excerpt_stands_in_the_example(excerpt: Excerpt) -> None:
    """Word for word, in the application that the browser tests drive; and it is short."""
    assert excerpt.lines in (EXAMPLE / excerpt.file).read_text(encoding="utf-8")
    assert excerpt.lines.count("\n") < LONGEST


def test_key_of_the_guide_is_one() -> None:
    """What the command prints is a setting that both servers take."""
    [command] = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    printed = subprocess.run(["bash", "-euo", "pipefail", "-c", command], capture_output=True, text=True, check=True)
    name, _, value = printed.stdout.strip().partition("=")
    assert name == "KEYTURN_SSR_KEYS"
    [(key_id, key)] = Settings.load(env="development", ssr_keys=value).web_config().ssr_keys.items()
    assert (key_id, len(key)) == ("next", 32)


def test_settings_of_the_guide_exist() -> None:
    """Every KEYTURN_ name is read by one of the two servers."""
    known = {f"KEYTURN_{name.upper()}" for name in Settings.model_fields} | OF_NEXT
    assert set(re.findall(r"KEYTURN_[A-Z_]+[A-Z]", TEXT)) <= known
