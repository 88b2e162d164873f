"""What the environment may hold, for the tests that compare documents with it. No test in this file."""

from __future__ import annotations

from typer.main import get_command

from keyturn.cli.commands import app
from keyturn.settings import PREFIX, Settings


def variables() -> set[str]:
    """Return every environment variable that is read, by the settings or as an option of `keyturn serve`."""
    options = get_command(app).commands["serve"].params  # type: ignore[attr-defined]
    settings = {PREFIX + name.upper() for name in Settings.model_fields}
    return settings | {str(option.envvar) for option in options if option.envvar is not None}
