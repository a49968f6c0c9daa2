"""mitmproxy: its reverse modes, by the configuration file that it reads from its folder."""

from __future__ import annotations

import json

from bench.peers.peer import Peer, Service, Speaks, find_program, installed, version_words

# It keeps each message of a TCP flow for as long as the flow lasts.
FORGET = """\
def tcp_message(flow):
    flow.messages.clear()
"""


class Mitmproxy(Peer):
    """Flows are neither shown nor kept, and large bodies not collected."""

    name = "mitmproxy"
    is_slow = True

    @classmethod
    def version(cls) -> str | None:
        words = version_words(find_program("mitmdump"))
        return words[1] if words is not None else None

    @classmethod
    def cannot(cls, service: Service) -> str:
        return "it speaks no HTTP/2 in plaintext" if service.is_http2 else ""

    def configure(self) -> list[str]:
        forget = self.folder / "forget.py"
        forget.write_text(FORGET)
        settings = {
            "ssl_verify_upstream_trusted_ca": str(self.ca_file),
            "tls_version_server_min": "TLS1_3",
            "connection_strategy": "lazy",
            "stream_large_bodies": "64k",
            "flow_detail": 0,
            "keep_host_header": True,
            "scripts": [str(forget)],
            "mode": [_mode(service) for service in self.services.values()],
        }
        (self.folder / "config.yaml").write_text(json.dumps(settings))
        return [installed("mitmdump"), "--quiet", "--set", f"confdir={self.folder}"]


def _mode(service: Service) -> str:
    scheme = (("tcp", "tls") if service.speaks is Speaks.TCP else ("http", "https"))[service.tls]
    host = "localhost" if service.tls else "127.0.0.1"
    return f"reverse:{scheme}://{host}:{service.origin_port}@{service.address}:{service.port}"
