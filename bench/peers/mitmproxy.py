"""mitmproxy: what a Python user would pick today for this job.

proxy.py chooses its upstream by path and has one port; pproxy verifies no certificate: neither does the job.
"""

from __future__ import annotations

from collections.abc import Callable

from bench.peers.peer import Peer, Service, Speaks, find_program, version_words


class Mitmproxy(Peer):
    """Its reverse modes; flows are not kept."""

    name = "mitmproxy"

    @staticmethod
    def _binary() -> str | None:
        return find_program("mitmdump")

    @classmethod
    def version(cls) -> str | None:
        words = version_words(cls._binary())
        return words[1] if words is not None else None

    @classmethod
    def cannot(cls, service: Service) -> str:
        return "it speaks no HTTP/2 in plaintext" if service.is_http2 else ""

    def configure(self) -> list[str]:
        binary = self._binary()
        assert binary is not None
        settings = {
            "confdir": str(self.folder),
            "ssl_verify_upstream_trusted_ca": str(self.ca_file),
            "tls_version_server_min": "TLS1_3",
            "connection_strategy": "lazy",
            "stream_large_bodies": "64k",
            "flow_detail": "0",
            "keep_host_header": "true",
        }
        command = [binary, "--quiet"]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        for service in self.services.values():
            schemes = ("tcp", "tls") if service.speaks is Speaks.TCP else ("http", "https")
            origin = f"{schemes[service.tls]}://{'localhost' if service.tls else '127.0.0.1'}:{service.origin_port}"
            command += ["--mode", f"reverse:{origin}@{service.address}:{service.port}"]
        return command

    def prepare(self, service: Service) -> Callable[[], None] | None:
        return None
