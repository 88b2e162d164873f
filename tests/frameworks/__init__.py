"""One suite of scenarios over every framework: `test_embedding.py` and `test_checking.py` run each over each adapter."""

from __future__ import annotations
