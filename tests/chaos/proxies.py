"""The proxies of the operator's guide, with the configuration that stands there.

Owns: real nginx and HAProxy on a port of 127.0.0.1, before two nodes or two Redis. Must not hold: nodes, claims.
"""

from __future__ import annotations

import re
import signal
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

from tests.services import Server, find_program

_GUIDE = Path(__file__).parents[2] / "docs/guides/operating.md"


class Proxy(Server):
    """One of them.

    Args:
        places: where the two nodes are, as the proxy writes it.
        changes: what stands in the guide, and what is to be in its place.
    """

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
        found = re.search(rf"```{self.kind}\n(.*?)```", _GUIDE.read_text(), re.DOTALL)
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
