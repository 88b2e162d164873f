"""The baseline: the same ASGI server with a handler that does no more than any refresh endpoint must.

Owns: a handler that reads the cookie, signs one access token with the same claims by the same signer, and returns it
with a Set-Cookie; running it as a process. No session, no database, no check of anything.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from typing import Any

from keyturn.serving import Listeners, bind, port_of, serve_here
from keyturn.tokens import base64url
from keyturn.tokens.access_token import AccessTokenSigner
from keyturn.tokens.signing_key import KEY_ENTROPY_BYTES, SigningKey

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

_COOKIE = b"__Host-kt_refresh"
_LIFETIME = 600


def signer() -> AccessTokenSigner:
    """Make a signer with a key of its own."""
    now = time.time()
    key = SigningKey.generate(os.urandom(KEY_ENTROPY_BYTES), created_at=now, publish_at=now, activate_at=now)
    return AccessTokenSigner(key, "https://auth.example.com", "https://auth.example.com")


class Bare:
    """The handler."""

    def __init__(self) -> None:
        self._sign = signer().sign

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request, whatever it is; its body is not read."""
        token = next((value for name, value in scope["headers"] if name == b"cookie"), b"")
        for pair in token.split(b"; "):
            name, _, value = pair.partition(b"=")
            if name == _COOKIE:
                token = value
        now = time.time()
        access_token = self._sign(
            subject="0123456789abcdef0123456789abcdef",
            session_id=token[10:26].ljust(16, b"\0"),
            issued_at=now,
            expires_at=int(now) + _LIFETIME,
            token_id=base64url.encode(os.urandom(12)),
            authenticated_at=now,
            amr=("pwd",),
        )
        body = json.dumps({"access_token": access_token, "token_type": "Bearer", "expires_in": _LIFETIME}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"set-cookie", b"%b=%b; Path=/; Secure; HttpOnly; SameSite=Lax" % (_COOKIE, token)),
            (b"content-length", b"%d" % len(body)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def main() -> None:
    """Serve on a free port, which is printed."""
    listener = bind("127.0.0.1", 0)
    print(port_of(listener), flush=True)
    serve_here(Bare(), nullcontext, Listeners(listener))


if __name__ == "__main__":
    main()
