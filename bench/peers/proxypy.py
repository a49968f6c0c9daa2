"""proxy.py: its reverse proxy with a plugin that chooses the origin by the port at which a client came.

A thread for each connection, since without threads its event loop dies of the second request on a kept-alive connection
(``FileNotFoundError`` from ``selector.modify``: the socket of the first one's origin is gone). It has no pool: every
request opens a connection to the origin, and builds a TLS context for it.
"""

from __future__ import annotations

from bench.peers.peer import RIVALS, Peer, Service, Speaks, version_words

PROGRAM = """\
from proxy import main
from proxy.http import Url
from proxy.http.server import ReverseProxyBasePlugin

ORIGINS = {origins!r}


class ByPort(ReverseProxyBasePlugin):
    def routes(self):
        return ["/"]

    def handle_route(self, request, pattern):
        url = Url.from_bytes(ORIGINS[self.client.connection.getsockname()[1]])
        url.remainder = request.path
        return url


if __name__ == "__main__":
    main(plugins=[ByPort])
"""


_PYTHON = (str(RIVALS / "python"), "-I")
"""Its module is called ``proxy``, and so is ours: isolated, Python looks neither here nor at ``PYTHONPATH``."""


class ProxyPy(Peer):
    name = "proxy.py"
    is_slow = True
    why_not_idle = "each connection has a thread that wakes forty times a second: a thousand take it minutes"

    @classmethod
    def version(cls) -> str | None:
        words = version_words(*_PYTHON, "-m", "proxy") if (RIVALS / "proxy").exists() else None
        return words[0] if words is not None else None

    @classmethod
    def cannot(cls, service: Service) -> str:
        if service.speaks is Speaks.TCP:
            return "it has no tunnel to a fixed origin"
        return "it speaks no HTTP/2" if service.is_http2 else ""

    def configure(self) -> list[str]:
        path = self.folder / "by_port.py"
        path.write_text(PROGRAM.format(origins={one.port: _origin(one) for one in self.services.values()}))
        first, *others = (str(service.port) for service in self.services.values())
        command = [*_PYTHON, str(path), "--enable-reverse-proxy", "--threaded", "--log-level", "WARNING"]
        command += ["--timeout", "3600", "--num-acceptors", "1", "--num-workers", "1", "--ca-file", str(self.ca_file)]
        command += ["--hostname", "127.0.0.1", "--port", first]
        return [*command, *(["--ports", *others] if others else [])]


def _origin(service: Service) -> bytes:
    origin = f"https://localhost:{service.origin_port}" if service.tls else f"http://127.0.0.1:{service.origin_port}"
    return origin.encode()
