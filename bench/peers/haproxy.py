"""HAProxy: a ``listen`` section for each service; a change goes through its runtime API, without a reload."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable

from bench.origin import find
from bench.peers.peer import Peer, Service, Speaks
from bench.process import MeasurementError

# The HTTP/2 window for large bodies: the default (65,535 bytes) is meant for slow clients, not for an upstream nearby.
GLOBAL = """\
global
    nbthread {workers}
    maxconn {connections}
    stats socket {folder}/admin.sock level admin
    tune.h2.initial-window-size 1048576
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout http-keep-alive 1h
"""
MANY = 1000


class HAProxy(Peer):
    name = "haproxy"
    demands_mtls = True
    debian = "haproxy"

    @classmethod
    def version(cls) -> str | None:
        try:
            binary = find("haproxy")
        except MeasurementError:
            return None
        return subprocess.run([binary, "-v"], capture_output=True, text=True, check=True).stdout.split()[2]

    def configure(self) -> list[str]:
        path = self.folder / "haproxy.cfg"
        sections = [GLOBAL.format(workers=self.workers, folder=self.folder, connections=self._connections())]
        sections += [self._listen(service) for service in self.services.values()]
        path.write_text("\n".join(sections))
        return [find("haproxy"), "-f", str(path), "-db"]

    def _connections(self) -> int:
        """It reserves two descriptors for each, beside those of the listeners, and will not start without."""
        return 8192 if len(self.services) <= MANY else 1024

    def _listen(self, service: Service) -> str:
        lines = [f"listen {service.name}"]
        bind = f"    bind {service.address}:{service.port}"
        if service.mtls:
            bind += f" ssl crt {self.mesh.proxy_file} ca-file {self.mesh.ca_file} verify required ssl-min-ver TLSv1.3"
        server = f"    server origin 127.0.0.1:{service.origin_port}"
        if service.speaks is not Speaks.TCP:
            lines += ["    mode http", "    option http-keep-alive", "    http-reuse always"]
        if service.is_http2:
            bind += " alpn h2" if service.mtls else " proto h2"
            server += "" if service.tls else " proto h2"
        if service.tls:
            server += f" ssl verify required ca-file {self.ca_file} sni str(localhost) verifyhost localhost"
            server += " ssl-min-ver TLSv1.3"
            server += " alpn h2" if service.is_http2 else ""
        return "\n".join([*lines, bind, server, ""])

    def prepare(self, service: Service) -> Callable[[], None]:
        return lambda: self._move(service)

    def _move(self, service: Service) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(str(self.folder / "admin.sock"))
            command = f"set server {service.name}/origin addr 127.0.0.1 port {service.origin_port}\n"
            sock.sendall(command.encode())
            answer = b""
            while more := sock.recv(4096):
                answer += more
        if b"changed" not in answer:
            raise MeasurementError(f"haproxy did not change the server: {answer!r}")
