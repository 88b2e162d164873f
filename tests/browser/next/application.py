"""The built Next.js example as a process, in front of a site.

Owns: starting and stopping it, and the address it was built for. Must not hold: what a test expects.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

import httpx2

from keyturn.tokens import base64url
from tests.browser.client.site import Site
from tests.services import free_port, wait_until

ROOT: Final = Path(__file__).parents[3]
CLOCK: Final = Path(__file__).with_name("clock.mjs")
BUILT_FOR: Final = "http://keyturn.invalid:1"
"""Next.js writes the address of the rewrites into what it builds; this one is replaced by a site's."""


class Build(NamedTuple):
    """One build of the example."""

    directory: Path
    modules: Path
    """Where its Next.js is installed."""


BUILDS: Final = {
    "next-16": Build(ROOT / "examples/nextjs", ROOT / "node_modules"),
    "next-15": Build(ROOT / "compat/next-15/build", ROOT / "compat/next-15/node_modules"),
}


class Front:
    """A site behind the example: `url` is the one origin that browsers see."""

    def __init__(self, version: str, directory: Path) -> None:
        self._build = BUILDS[version]
        self._directory = directory
        self._log = directory / "log"
        self._clock = directory / "ahead"
        self._clock.write_text("0")
        self._process: subprocess.Popen[bytes] | None = None
        self._port = free_port()
        self.url = f"http://localhost:{self._port}"
        self._keys = f"next:{base64url.encode(secrets.token_bytes(32))}"
        database_url = f"sqlite+aiosqlite:///{directory / 'keyturn.db'}"
        self.site = Site(database_url, {}, base_url=self.url, ssr_keys=self._keys, trusted_proxies=1)

    def __enter__(self) -> Front:
        self.site.__enter__()
        try:
            self._start(self._copy())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
        self.site.__exit__()

    def advance(self, seconds: float) -> None:
        """Let this time pass for both servers; browsers do not know."""
        self.site.clock.ahead += seconds
        self._clock.write_text(str(self.site.clock.ahead))

    @property
    def printed(self) -> str:
        """What the application has printed so far."""
        return self._log.read_text(encoding="utf-8")

    def static_files(self) -> str:
        """Everything that browsers get as a file."""
        static = self._build.directory / ".next/static"
        return "".join(file.read_text(encoding="utf-8") for file in static.rglob("*.js"))

    def _copy(self) -> Path:
        """Copy what was built, for the address of this site."""
        built = self._build.directory / ".next"
        assert (built / "BUILD_ID").exists(), f"{built} is not built: make next"
        copy = self._directory / "application"
        shutil.copytree(built, copy / ".next", ignore=shutil.ignore_patterns("cache", "dev", "*.map", "trace*"))
        self._readdress(copy / ".next")
        (copy / "node_modules").symlink_to(self._build.modules)
        return copy

    def _readdress(self, built: Path) -> None:
        for file in built.rglob("*.js*"):
            content = file.read_bytes()
            if BUILT_FOR.encode() in content:
                file.write_bytes(content.replace(BUILT_FOR.encode(), self.site.url.encode()))

    def _start(self, copy: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KEYTURN_")}
        environment |= {
            "KEYTURN_URL": self.site.url,
            "KEYTURN_SSR_KEYS": self._keys,
            "KEYTURN_TRUSTED_PROXIES": "1",
            "NEXT_TELEMETRY_DISABLED": "1",
            "NODE_OPTIONS": f"--import={CLOCK.as_uri()}",
            "CLOCK_AHEAD": str(self._clock),
        }
        environment |= {"PORT": str(self._port), "HOSTNAME": "localhost"}
        with self._log.open("w") as output:
            self._process = subprocess.Popen(self._command(copy), env=environment, stdout=output, stderr=output)
        wait_until(self._answers, 60, "the start of Next.js")

    def _command(self, copy: Path) -> list[str]:
        program = self._build.modules / "next/dist/bin/next"
        return ["node", str(program), "start", str(copy), "--port", str(self._port), "--hostname", "localhost"]

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.printed
        try:
            return httpx2.get(f"{self.url}/.well-known/jwks.json").status_code == 200
        except httpx2.TransportError:
            return False
