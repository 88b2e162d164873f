"""Start the demo: its settings, its secret, its server.

Owns: the short times and where the data lie. Must not hold: routes (`pages.py`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from pydantic import SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from keyturn.core.errors import KeyturnError
from keyturn.demo.decisions import Decisions
from keyturn.demo.notes import NotesAPI
from keyturn.demo.page import read_page
from keyturn.demo.pages import DemoASGI
from keyturn.demo.thief import Thieves
from keyturn.observability import configure_logging
from keyturn.runtime import Keyturn
from keyturn.serving import Listeners, bind, port_of, serve_here
from keyturn.settings import Environment, Settings
from keyturn.tokens.secret_ring import SecretRing

TIMES: Final = {"settle_time": 5.0, "tail_time": 2.0, "access_lifetime": 60.0, "inactivity_timeout": 120.0}
"""Seconds; short, so that one sees what happens. Only development may have them."""
REMEMBERED_INACTIVITY_TIMEOUT: Final = 14 * 24 * 3600.0
"""Seconds; as ever: who asks to be remembered by the demo is."""
THIEF_INTERVAL: Final = TIMES["settle_time"] + 1.5
"""More than the settle time even when a token's age is rounded down by a second."""

_ELSEWHERE: Final = ": choose a directory with `keyturn demo --directory`"


class CannotKeepData(KeyturnError):
    """The demo's directory cannot be made or written, or what it keeps is damaged."""


class _DemoSettings(Settings):
    """Settings that the environment does not change: a shell set up for a real server must not point the demo at it."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what `settings_of` gives, and nothing else."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


def default_directory() -> Path:
    """Return the directory of the user's that keeps the demo's data; nothing of it ends up in a checkout.

    Raises: CannotKeepData: this user has no home, as in a container that runs under any number.
    """
    try:
        base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    except RuntimeError as error:
        raise CannotKeepData(f"this user has no home directory{_ELSEWHERE}") from error
    return Path(base) / "keyturn-demo"


def run_demo(host: str, port: int, directory: Path, *, inactivity_timeout: float = TIMES["inactivity_timeout"]) -> None:
    """Serve the demo until it is interrupted.

    Args:
        host: the address to listen on.
        port: 0 takes a free one.
        directory: made when missing; holds the database and the secret.
        inactivity_timeout: seconds.

    Raises:
        PageNotBuilt: there is nothing to show. CannotListen: the address is taken. CannotKeepData: the directory
            cannot be written, or its secret is damaged.
    """
    configure_logging("warning")
    page = read_page()
    listener = bind(host, port)
    url = f"http://localhost:{port_of(listener)}"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        secret = _secret(directory / "secret")
    except OSError as error:
        listener.close()
        raise CannotKeepData(f"{error.filename}: {error.strerror}{_ELSEWHERE}") from error
    except ValueError as error:
        listener.close()
        raise CannotKeepData(
            f"{directory / 'secret'}: {error}: delete it and keyturn.db* beside it to start anew"
        ) from None
    decisions = Decisions()
    times = {**TIMES, "inactivity_timeout": inactivity_timeout}
    node = Keyturn(settings_of(directory, secret, url, port_of(listener), times), sinks=[decisions])
    thieves = Thieves(node.auth, THIEF_INTERVAL)

    @asynccontextmanager
    async def lifespan() -> AsyncGenerator[None]:
        async with node.lifespan():
            yield
            await thieves.close()

    application = DemoASGI(node.asgi, page, decisions, thieves, NotesAPI(node.authenticate), times)
    serve_here(application, lifespan, Listeners(listener), on_ready=lambda: _welcome(url, directory))


def settings_of(directory: Path, secret: str, url: str, port: int, times: Mapping[str, float]) -> Settings:
    """Return the demo's settings, under which the browser may reach it by the name and by the address of this machine."""
    return _DemoSettings.load(
        env=Environment.DEVELOPMENT,
        database_url=SecretStr(f"sqlite:///{quote(str(directory / 'keyturn.db'))}"),
        secret=SecretStr(secret),
        base_url=url,
        # Browsers leave the port of http out.
        allowed_origins=f"http://127.0.0.1:{port}".removesuffix(":80"),
        remembered_inactivity_timeout=REMEMBERED_INACTIVITY_TIMEOUT,
        **times,
    )


def _secret(path: Path) -> str:
    """Read the demo's secret, or make one: sessions outlive a restart. Raises: OSError. ValueError: it is damaged."""
    if not path.exists():
        draft = path.with_name("secret.new")
        draft.touch(mode=0o600)
        draft.write_text(SecretRing.generate(os.urandom(32)), encoding="ascii")
        draft.replace(path)
    secret = path.read_text(encoding="ascii")
    SecretRing.parse(secret)
    return secret


def _welcome(url: str, directory: Path) -> None:
    sys.stdout.write(
        f"""
  Keyturn demo: {url}

  1. Sign up with any address, for example ada@example.com, and a phrase of 15 characters or more.
  2. Refresh, refresh again at once, and again after {TIMES["settle_time"]:g} seconds: read what the server decided.
  3. Open a second tab, log in from another browser, end that session, play the thief.
  4. Do nothing for a while: the page warns before the session ends.

  The times are short and nothing unsafe is refused: this is for trying, not for use.
  Data: {directory.resolve()} (delete keyturn.db* and secret in it to start anew). Stop: Ctrl+C.

"""
    )
    sys.stdout.flush()
