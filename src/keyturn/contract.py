"""Write the generated parts of `spec/`: `errors.json` and `openapi.json`.

    python -m keyturn.contract [--check] [directory]

Owns: their form. Must not hold: the contract itself, which is `core/errors.py`, `web/bodies.py`, `web/documentation.py`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keyturn.core.errors import SessionEnded, refusals
from keyturn.core.model import RevokeReason
from keyturn.fastapi import openapi_document
from keyturn.web.answers import ERROR_TYPE


def errors() -> dict[str, Any]:
    """Return every error code: what it means, whether a retry helps, what a client does."""
    return {
        "type_prefix": ERROR_TYPE,
        "client_actions": {
            "show": "tell the person",
            "sign_out": "forget the session and say why",
            "refresh": "get a new access token once, then try once more",
            "step_up": "ask the person to sign in again in the way that WWW-Authenticate names, then try once more",
            "retry": "keep everything; try again later, not before Retry-After",
            "fix": "a programming or configuration error",
        },
        "errors": [
            {
                "code": refusal.code,
                "status": refusal.status,
                "title": refusal.title,
                "retryable": refusal.retryable,
                "client": refusal.client,
                **({"reasons": sorted({reason.on_the_wire for reason in RevokeReason})} if _ended(refusal) else {}),
            }
            for refusal in refusals()
        ],
    }


def _ended(refusal: type) -> bool:
    return issubclass(refusal, SessionEnded)


def documents() -> Mapping[str, str]:
    """Return the generated files: name -> text."""
    contents = {"errors.json": errors(), "openapi.json": openapi_document()}
    return {name: json.dumps(content, indent=2, ensure_ascii=False) + "\n" for name, content in contents.items()}


def main(arguments: list[str]) -> int:
    """Write the files, or with `--check` say which are out of date."""
    places = [argument for argument in arguments if argument != "--check"]
    directory = Path(places[0] if places else "spec")
    stale: list[str] = []
    for name, text in documents().items():
        path = directory / name
        if "--check" not in arguments:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(str(path))
    if stale:
        sys.stderr.write(f"out of date: {', '.join(stale)}; run python -m keyturn.contract\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
