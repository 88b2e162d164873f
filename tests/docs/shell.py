"""Running what the documentation prints, as a reader would."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from tests.services import free_port, wait_until

ROOT = Path(__file__).parents[2]
_TLS = httpx2.create_ssl_context()
"""Made once: to read the authorities takes 30 ms."""
USER = {"email": "ada@example.com", "password": "violet otters juggle quietly"}


def blocks(text: str, section: str, language: str) -> list[str]:
    """Return the code blocks of a language under a heading."""
    text = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found, (section, language)
    return found


class Shell:
    """Runs blocks as a user with the virtual environment on the path would, in an empty directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("KEYTURN_")}
        path = f"{Path(sys.executable).parent}:{inherited['PATH']}"
        self.environment = {**inherited, "PATH": path, "PORT": str(self.port)}

    def run(self, block: str) -> str:
        """Run a block to its end."""
        command = ["bash", "-euo", "pipefail", "-c", block]
        done = subprocess.run(
            command, cwd=self.directory, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def running(self, block: str) -> Iterator[httpx2.Client]:
        """Run a block that ends in a server, wait for an answer, and stop it as an operator would."""
        log = self.directory / "log"
        command = ["bash", "-euo", "pipefail", "-c", block]
        with log.open("w") as output:
            process = subprocess.Popen(
                command,
                cwd=self.directory,
                env=self.environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            with httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30, verify=_TLS) as client:

                def answers() -> bool:
                    assert process.poll() is None, log.read_text()
                    try:
                        client.get("/hello")
                    except httpx2.TransportError:
                        return False
                    return True

                wait_until(answers, 60, "the start")
                yield client
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)
