"""Durable and atomic: the ports over SQLite and PostgreSQL, and optionally Redis or Valkey. Knows no rule."""
