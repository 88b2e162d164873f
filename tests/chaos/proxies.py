"""The proxies of the operator's guide, with the configuration that stands there.

Owns: real nginx, HAProxy, Caddy and Apache on a port of 127.0.0.1, before two nodes or two Redis. Must not hold: nodes, claims.
"""

from __future__ import annotations

import re
import signal
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from tests.chaos.node import Pace
from tests.services import Server, find_program

_GUIDE = Path(__file__).parents[2] / "docs/guides/operating.md"


class Proxy(Server):
    """One of them.

    Args:
        places: where the two nodes are, as the proxy writes it.
        changes: what stands in the guide, and what is to be in its place.
    """

    language = ""
    """What the guide calls its configuration, where that is not the program's name."""
    pace = Pace()
    """The protocol's times behind it."""
    larger: ClassVar[Mapping[str, str]] = {}
    """What lets larger bodies through to the nodes."""

    def __init__(self, places: Sequence[str], **changes: str) -> None:
        super().__init__()
        self._places = places
        self._changes = changes

    def stop(self) -> None:
        """Stop it at once, and with it all connections."""
        self._end(signal.SIGTERM)

    def _prepare(self) -> None:
        """Nothing is needed."""

    @abstractmethod
    def _listening(self) -> tuple[str, str]:
        """Return how the guide says where to listen, as a pattern, and how it is said here, without TLS."""

    def _configuration(self) -> str:
        found = re.search(rf"```{self.language or self.kind}\n(.*?)```", _GUIDE.read_text(), re.DOTALL)
        assert found is not None
        text = found[1]
        for number, place in enumerate(self._places, 1):
            assert f"10.0.0.{number}:8000" in text
            text = text.replace(f"10.0.0.{number}:8000", place)
        text, listens = re.subn(*self._listening(), text)
        assert listens == 1
        for name, value in self._changes.items():
            text, changed = re.subn(rf"(?m)^(\s*{name}) .*$", rf"\g<1> {value}", text)
            assert changed == 1
        return text


class Nginx(Proxy):
    """nginx."""

    kind = "nginx"
    larger: ClassVar = {"client_max_body_size": "1m;"}

    def _listening(self) -> tuple[str, str]:
        return r"listen 443 ssl http2;\n(\s*ssl_.*\n)+", f"listen 127.0.0.1:{self.port};\n"

    def _command(self) -> list[str]:
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = "".join(f"{kind}_temp_path {self.directory / kind};\n" for kind in kinds)
        file = self.directory / "nginx.conf"
        file.write_text(
            f"daemon off;\npid {self.directory / 'pid'};\nerror_log stderr;\nevents {{}}\n"
            f"http {{\naccess_log off;\n{paths}{self._configuration()}}}\n"
        )
        return [str(find_program("nginx")), "-e", "stderr", "-p", str(self.directory), "-c", str(file)]


class Caddy(Proxy):
    """Caddy, which believes what browsers of the tests say of their addresses: it would forget that."""

    kind = "caddy"
    larger: ClassVar = {"max_size": "1MB"}

    def _listening(self) -> tuple[str, str]:
        return r"auth\.example\.com {\n", f"http://localhost:{self.port} {{\n\tbind 127.0.0.1\n"

    def _configuration(self) -> str:
        return (
            super()._configuration().replace("lb_try_duration", "trusted_proxies 127.0.0.1/32\n\t\t\tlb_try_duration")
        )

    def _command(self) -> list[str]:
        file = self.directory / "Caddyfile"
        file.write_text(f"{{\n\tadmin off\n}}\n{self._configuration()}")
        # It keeps its last configuration somewhere, and wants to be told where.
        homes = (f"{name}={self.directory}" for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"))
        return ["env", *homes, str(find_program("caddy")), "run", "--adapter", "caddyfile", "--config", str(file)]


class Apache(Proxy):
    """Apache httpd, which waits for an answer whether or not its client does, for 10 s at most: two seconds to connect, eight for the answer."""

    kind = "apache2"
    language = "apache"
    pace = Pace(settle=18.8, tail=6.0, limit=4.0)

    def _listening(self) -> tuple[str, str]:
        return r"<VirtualHost \*:443>\n(.*\n)(\s*SSL.*\n)+", f"<VirtualHost 127.0.0.1:{self.port}>\n\\g<1>"

    def _command(self) -> list[str]:
        balancer = ("proxy_balancer", "proxy_hcheck", "lbmethod_byrequests", "slotmem_shm")
        modules = ("mpm_event", "authz_core", "proxy", "proxy_http", *balancer)
        loads = "".join(f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n" for name in modules)
        file = self.directory / "httpd.conf"
        file.write_text(
            f"ServerRoot {self.directory}\nDefaultRuntimeDir {self.directory}\nPidFile {self.directory / 'pid'}\n"
            f"ErrorLog {self.directory / 'error.log'}\nListen 127.0.0.1:{self.port}\n{loads}{self._configuration()}"
        )
        return [str(find_program("apache2")), "-D", "FOREGROUND", "-f", str(file)]


class Haproxy(Proxy):
    """HAProxy."""

    kind = "haproxy"

    def _listening(self) -> tuple[str, str]:
        return r"bind :443 .*", f"bind 127.0.0.1:{self.port}"

    def _command(self) -> list[str]:
        file = self.directory / "haproxy.cfg"
        file.write_text(self._configuration())
        return [str(find_program("haproxy")), "-f", str(file)]


class RedisProxy(Server):
    """HAProxy in front of a master and its replica. Args: ports: theirs."""

    kind = "haproxy"

    def __init__(self, ports: Sequence[int]) -> None:
        super().__init__()
        self._ports = ports

    def stop(self) -> None:
        """Stop it at once."""
        self._end(signal.SIGTERM)

    def _prepare(self) -> None:
        """Nothing is needed."""

    def _command(self) -> list[str]:
        found = re.search(r"```haproxy\n(listen redis\n.*?)```", _GUIDE.read_text(), re.DOTALL)
        assert found is not None
        text = found[1]
        places = {"127.0.0.1:6380": self.port, "10.0.0.3:6379": self._ports[0], "10.0.0.4:6379": self._ports[1]}
        for place, port in places.items():
            assert place in text
            text = text.replace(place, f"127.0.0.1:{port}")
        file = self.directory / "haproxy.cfg"
        file.write_text(text)
        return [str(find_program("haproxy")), "-f", str(file)]
