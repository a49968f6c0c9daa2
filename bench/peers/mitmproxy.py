"""mitmproxy: what a Python user would pick today for this job.

proxy.py chooses its upstream by path and has one port; pproxy verifies no certificate: neither does the job.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bench.peers.peer import Peer, Service, Speaks


class Mitmproxy(Peer):
    """Its reverse modes; flows are not kept."""

    name = "mitmproxy"

    @staticmethod
    def _binary() -> str | None:
        return shutil.which("mitmdump", path=str(Path(sys.executable).parent)) or shutil.which("mitmdump")

    @classmethod
    def version(cls) -> str | None:
        binary = cls._binary()
        if binary is None:
            return None
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
        return said.split()[1]

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
