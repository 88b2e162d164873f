"""`python -m keyturn.cli` is `keyturn`."""

from __future__ import annotations

from keyturn.cli import main

main()
