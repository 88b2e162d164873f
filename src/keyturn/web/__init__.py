"""HTTP to values and back, once: endpoints over Request and Response, and the plain ASGI application.

Whoever wants a node, or its routes in a framework, comes by here before anything of the extra `embedded` is needed, so here
it is said that it is missing. Why: the extra of a framework alone is for services that only check tokens.
"""

from __future__ import annotations

from importlib.util import find_spec

for _name in ("argon2", "email_validator", "pydantic", "pydantic_settings", "sqlalchemy"):
    if find_spec(_name) is None:
        raise ModuleNotFoundError(f"No module named {_name!r}: install keyturn[embedded]", name=_name)
