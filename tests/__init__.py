"""The tests; `make test` runs all of them, `make unit` those that need no service."""
