"""A web site with Keyturn in it: a FastAPI host over the real node, behind the proxy, under one http://localhost origin.

Owns: starting and stopping it, its clock, its events. Must not hold: what goes wrong on the network (`proxy.py`).
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import uvicorn
from fastapi import FastAPI, Response

from keyturn.core.events import Event, EventType
from keyturn.fastapi import CurrentPrincipal, install
from keyturn.runtime import Keyturn
from keyturn.settings import Settings
from keyturn.tokens.secret_ring import SecretRing
from tests.attacks.conftest import lighten
from tests.browser.client.proxy import Proxy
from tests.services import wait_until

PAGES: Final = Path(__file__).parent / "pages"
CSP: Final = (
    "default-src 'none'; img-src 'self'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
POLICIES: Final = {"sandbox.html": "sandbox allow-scripts", "framed": "", "around.html": ""}
"""Of the pages that have others: a document without an origin of its own, one that may be framed, and one around that."""
TYPES: Final = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
Files = Mapping[str, bytes]
"""Path of the site -> contents."""


class Clock:
    """The time of server and database: the real one, moved ahead by tests, or running faster.

    Args: pace: how many seconds of this clock pass in a real one.
    """

    def __init__(self, pace: float = 1.0) -> None:
        self.pace = pace
        self.ahead = 0.0
        self._began = time.time()

    def __call__(self) -> float:
        now = time.time()
        return self._began + (now - self._began) * self.pace + self.ahead


class Site:
    """One site of a test's own.

    Args:
        files: what is served besides the test page.
        tls: None for plain HTTP, as nearly every browser takes a `Secure` cookie from `http://localhost`.
    """

    def __init__(
        self,
        database_url: str,
        files: Files,
        *,
        pace: float = 1.0,
        tls: ssl.SSLContext | None = None,
        **settings: Any,
    ) -> None:
        self.clock = Clock(pace)
        self.events: list[Event] = []
        self.proxy = Proxy(self.clock)
        self._files = {f"/{page.name}": page.read_bytes() for page in PAGES.iterdir()} | dict(files)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._tls = tls
        self.url = f"{'https' if tls else 'http'}://localhost:{self._listener.getsockname()[1]}"
        self._files["/around.html"] = f"<!doctype html><iframe src='{self.url}/framed'></iframe>".encode()
        secret = SecretRing.generate(os.urandom(32))
        values = {"env": "development", "base_url": self.url, "secret": secret, "database_url": database_url}
        self._settings = Settings.load(**{**values, **settings})
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="site")

    def __enter__(self) -> Site:
        self._thread.start()
        wait_until(lambda: self._ready.is_set() or self._fault is not None, 60, "start of the site")
        if self._fault is not None:
            raise self._fault
        return self

    def __exit__(self, *_exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive()

    async def emit(self, event: Event) -> None:
        """Keep an event."""
        self.events.append(event)

    def happened(self, kind: EventType) -> list[Event]:
        """Return the events of a kind."""
        return [event for event in list(self.events) if event.type is kind]

    def call(self, use: Callable[[Keyturn], Any]) -> Any:
        """Do something with the node itself, in its own loop: `site.call(lambda node: node.sessions.revoke(...))`."""
        return asyncio.run_coroutine_threadsafe(use(self._node), self._loop).result(30)

    # -- in the thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as fault:  # noqa: BLE001 - raised again in the thread that waits
            self._fault = fault
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._node = node = Keyturn(self._settings, sinks=[self], database_clock=self.clock)
        lighten(node)
        server = uvicorn.Server(
            uvicorn.Config(self._host(node), log_config=None, lifespan="on", ws="none", access_log=False)
        )
        inner = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.proxy.upstream = inner.getsockname()[1]
        serving = asyncio.create_task(server.serve(sockets=[inner]))
        while not server.started and not serving.done():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        front = await asyncio.start_server(self.proxy.serve, sock=self._listener, ssl=self._tls)
        self._ready.set()
        await self._stop.wait()
        front.close()
        self.proxy.hang_up()
        server.should_exit = True
        await serving

    def _host(self, node: Keyturn) -> FastAPI:
        app = FastAPI()
        install(app, node)

        @app.get("/api/who")
        async def who(principal: CurrentPrincipal) -> dict[str, str]:
            user = await node.users.get(principal.user_id)
            return {"email": "" if user is None else user.email}

        @app.api_route("/api/never", methods=["GET", "POST"])
        async def never() -> Response:
            return Response(status_code=401)

        @app.get("/api/kept")
        async def kept(principal: CurrentPrincipal, response: Response, vary: str = "") -> dict[str, str]:
            response.headers.update({"Cache-Control": "private, max-age=60"} | ({"Vary": vary} if vary else {}))
            return await who(principal)

        @app.get("/api/away")
        async def away(to: str) -> Response:
            return Response(status_code=302, headers={"Location": to})

        @app.options("/elsewhere.html")
        async def allow() -> Response:
            allowed = {"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Headers": "Authorization"}
            return Response(status_code=204, headers=allowed)

        @app.post("/note")
        async def note() -> Response:
            return Response(status_code=204)

        @app.get("/favicon.ico")
        async def icon() -> Response:
            return Response(status_code=204)

        @app.get("/{path:path}")
        async def page(path: str) -> Response:
            name = f"/{path}" if "." in path else "/app.html"
            if name not in self._files:
                return Response(status_code=404)
            # No `no-store`: such a page may not go into the page cache. Scripts may be loaded from any page.
            headers = {
                "Content-Security-Policy": POLICIES.get(path, CSP),
                "Cache-Control": "no-cache",
                "Access-Control-Allow-Origin": "*",
            }
            return Response(self._files[name], headers=headers, media_type=TYPES[Path(name).suffix])

        return app
