"""Checking tokens beside the server."""

from __future__ import annotations
