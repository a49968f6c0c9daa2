"""Koguma, from this checkout: a resource a file, as people keep them."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path

from bench.peers.peer import Peer, Service

CHECKOUT = Path(__file__).parents[2]


class Koguma(Peer):
    name = "koguma"
    demands_mtls = True

    @classmethod
    def version(cls) -> str | None:
        return f"Python {sys.version.split()[0]}"

    def configure(self) -> list[str]:
        resources = self.folder / "resources"
        resources.mkdir()
        ca = {"type": "Secret", "mesh": "default", "name": "ca", "data": base64.b64encode(self.ca_file.read_bytes())}
        (resources / "ca.yaml").write_text(json.dumps(ca, default=bytes.decode))
        outbounds, inbounds = [], []
        for service in self.services.values():
            if service.mtls:
                inbounds.append(_inbound(service))
                continue
            self._file(service).write_text(_document(service))
            outbounds.append(
                {
                    "address": service.address,
                    "port": service.port,
                    "backendRef": {"kind": "MeshExternalService", "name": service.name},
                }
            )
        dataplane = self.folder / "dataplane.yaml"
        networking = {"address": "127.0.0.1", "outbound": outbounds} | ({"inbound": inbounds} if inbounds else {})
        document = {"type": "Dataplane", "mesh": "default", "name": "bench", "networking": networking}
        dataplane.write_text(json.dumps(document, separators=(",", ":")))  # a file of 10,000 outbounds has a limit
        command = [sys.executable, "-m", "proxy", "run", "-d", str(dataplane), "-r", str(resources)]
        command += ["--admin-port", str(self.admin_port), "--state-dir", str(self.folder / "state")]
        if inbounds:
            command += ["--identity-cert", str(self.mesh.proxy_file), "--identity-bundle", str(self.mesh.ca_file)]
        return [*command, *(["--concurrency", str(self.workers)] if self.workers > 1 else [])]

    def prepare(self, service: Service) -> Callable[[], None]:
        new, place = self.folder / "new", self._file(service)
        new.write_text(_document(service))

        def put() -> None:
            new.rename(place)

        return put

    def _file(self, service: Service) -> Path:
        return self.folder / "resources" / f"{service.name}.yaml"


def _inbound(service: Service) -> dict[str, object]:
    return {
        "address": service.address,
        "port": service.port,
        "serviceAddress": "127.0.0.1",
        "servicePort": service.origin_port,
        "protocol": service.speaks.value,
    }


def _document(service: Service) -> str:
    spec: dict[str, object] = {
        "match": {"port": 443 if service.tls else 80, "protocol": service.speaks.value},
        "endpoints": [{"address": "127.0.0.1", "port": service.origin_port}],
    }
    if service.tls:
        verification = {"serverName": "localhost", "caCert": {"secret": "ca"}}
        spec["tls"] = {"enabled": True, "version": {"min": "TLS13"}, "verification": verification}
    return json.dumps({"type": "MeshExternalService", "mesh": "default", "name": service.name, "spec": spec})
