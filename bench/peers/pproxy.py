"""pproxy: a fixed tunnel for each service, which is all of this that it can do: its TLS verifies no certificate."""

from __future__ import annotations

from bench.peers.peer import Peer, Service, Speaks, find_program, installed, version_words


class Pproxy(Peer):
    name = "pproxy"
    is_slow = True

    @classmethod
    def version(cls) -> str | None:
        words = version_words(find_program("pproxy"))
        return words[1] if words is not None else None

    @classmethod
    def cannot(cls, service: Service) -> str:
        if service.speaks is not Speaks.TCP:
            return "it routes no requests to an origin"
        return "it verifies no certificate" if service.tls else ""

    def configure(self) -> list[str]:
        command = [installed("pproxy")]
        for service in self.services.values():
            command += ["-l", f"tunnel{{127.0.0.1:{service.origin_port}}}://{service.address}:{service.port}"]
        return command
