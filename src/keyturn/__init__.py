"""Keyturn: login sessions with rotating refresh tokens that never sign an honest user out.

This module owns the public surface and nothing else: no logic, and no import that a service which
only checks access tokens does not need.
"""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = ["__version__"]
