"""How long a start takes: `python -m bench.start`.

Two figures: from the start of `keyturn serve` to its first answer from /healthz, on a SQLite file that does not exist
yet (the tables are made) and on one that does; and what importing costs a service that only checks access tokens. Both
with the byte code already compiled, as it is after an installation.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from bench.figures import Figure, over_rounds, table
from tests.services import free_port

RUNS = 7
START_LIMIT = 2.0
"""Seconds, on SQLite."""
IMPORT_LIMIT = 0.3
"""Seconds."""
VERIFYING = "import time; t = time.perf_counter(); import keyturn.verify; print(time.perf_counter() - t)"


def start_time(directory: Path) -> float:
    """Start a server, wait for its first answer, stop it; return the seconds until the answer."""
    port = free_port()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("KEYTURN_")}
    environment |= {"KEYTURN_ENV": "development", "KEYTURN_DATABASE_URL": f"sqlite:///{directory / 'keyturn.db'}"}
    command = [sys.executable, "-m", "keyturn.cli", "serve", "--port", str(port)]
    began = time.perf_counter()
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
                    answer.read()
                break
            except OSError:
                if process.poll() is not None:
                    raise RuntimeError("the server ended") from None
                time.sleep(0.002)
        took = time.perf_counter() - began
        process.send_signal(signal.SIGTERM)
    return took


def import_time() -> float:
    """Import in a fresh interpreter what a verifying service needs; return the seconds."""
    done = subprocess.run([sys.executable, "-c", VERIFYING], capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure(runs: int = RUNS) -> list[Figure]:
    """Start and import a few times over."""
    fresh, existing = [], []
    for _ in range(runs):
        with tempfile.TemporaryDirectory(prefix="keyturn-bench-") as name:
            fresh.append(start_time(Path(name)))
            existing.append(start_time(Path(name)))
    imports = [import_time() for _ in range(runs)]
    return [
        over_rounds("keyturn serve to /healthz, new SQLite file", fresh, "s", most=START_LIMIT),
        over_rounds("keyturn serve to /healthz, existing SQLite file", existing, "s", most=START_LIMIT),
        over_rounds("import to verify access tokens", imports, "s", most=IMPORT_LIMIT),
    ]


def main() -> int:
    """Print the figures; return 1 when a limit is exceeded."""
    figures = measure()
    print(table(figures))
    return 0 if all(figure.reached for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
