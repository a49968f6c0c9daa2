"""Koguma, from this checkout: a resource a file, as people keep them.

As a sidecar and as a zone egress it reads the same resources, and has its identity from the MeshIdentity among them.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.mesh import APP, EXIT, MATCH_PORT, TRUST_DOMAIN
from bench.peers.peer import Peer, Service

CHECKOUT = Path(__file__).parents[2]
Json = dict[str, Any]


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
            outbounds.append(_outbound(service))
        networking = {"address": "127.0.0.1", "outbound": outbounds} | ({"inbound": inbounds} if inbounds else {})
        command = self._command(_dataplane("bench", networking))
        if inbounds:
            command += ["--identity-cert", str(self.mesh.proxy_file), "--identity-bundle", str(self.mesh.ca_file)]
        return [*command, *(["--concurrency", str(self.workers)] if self.workers > 1 else [])]

    def _command(self, dataplane: Json) -> list[str]:
        path = self.folder / "dataplane.yaml"
        path.write_text(json.dumps(dataplane, separators=(",", ":")))  # a file of 10,000 outbounds has a limit
        command = [sys.executable, "-m", "proxy", "run", "-d", str(path), "-r", str(self.folder / "resources")]
        return [*command, "--admin-port", str(self.admin_port), "--state-dir", str(self.folder / "state")]

    def prepare(self, service: Service) -> Callable[[], None]:
        new, place = self.folder / "new", self._file(service)
        new.write_text(_document(service))

        def put() -> None:
            new.rename(place)

        return put

    def _file(self, service: Service) -> Path:
        return self.folder / "resources" / f"{service.name}.yaml"


class KogumaSidecar(Koguma):
    name = "koguma-sidecar"

    def configure(self) -> list[str]:
        self._write_zone()
        outbounds = [_outbound(service) for service in self.services.values()]
        return self._command(_dataplane(APP, {"address": "127.0.0.1", "outbound": outbounds}))

    def _write_zone(self) -> None:
        """The resources that a sidecar and an egress have in common."""
        (self.folder / "resources").mkdir()
        for service in self.services.values():
            self._file(service).write_text(_document(service))
        for document in (_MESH, self._identity(), _PERMISSION, self._exit()):
            (self.folder / "resources" / f"{document['type']}.yaml").write_text(json.dumps(document))

    def _identity(self) -> Json:
        files = {"certificate": self.mesh.ca_file, "privateKey": self.mesh.ca_key_file}
        ca = {
            key: {"type": "InsecureInline", "insecureInline": {"value": file.read_text()}}
            for key, file in files.items()
        }
        spec = {
            "selector": {"dataplane": {"matchLabels": {}}},
            "spiffeID": {"trustDomain": TRUST_DOMAIN},
            "provider": {"type": "Bundled", "bundled": {"insecureAllowSelfSigned": True, "ca": ca}},
        }
        return {"type": "MeshIdentity", "mesh": "default", "name": "identity", "spec": spec}

    def _exit(self) -> Json:
        (door,) = {service.door for service in self.services.values()}
        listener = {"type": "ZoneEgress", "address": "127.0.0.1", "port": door, "name": "egress", "state": "Ready"}
        return _dataplane(EXIT, {"address": "127.0.0.1", "listeners": [listener]})


class KogumaEgress(KogumaSidecar):
    name = "koguma-egress"

    def configure(self) -> list[str]:
        self._write_zone()
        return [*self._command(self._exit()), "--proxy-type", "egress"]


Koguma.hops = (KogumaSidecar, KogumaEgress)

_MESH: Json = {"type": "Mesh", "name": "default", "routing": {"zoneEgress": True}}
_EVERYBODY: Json = {"spiffeID": {"type": "Prefix", "value": f"spiffe://{TRUST_DOMAIN}"}}
_PERMISSION: Json = {
    "type": "MeshTrafficPermission",
    "mesh": "default",
    "name": "exit",
    "spec": {
        "targetRef": {"kind": "Dataplane", "labels": {"kuma.io/workload": EXIT}},
        "rules": [{"default": {"allow": [_EVERYBODY]}}],
    },
}


def _dataplane(name: str, networking: Json) -> Json:
    labels = {"kuma.io/workload": name}
    return {"type": "Dataplane", "mesh": "default", "name": name, "labels": labels, "networking": networking}


def _outbound(service: Service) -> Json:
    backend = {"kind": "MeshExternalService", "name": service.name}
    return {"address": service.address, "port": service.port, "backendRef": backend}


def _inbound(service: Service) -> Json:
    return {
        "address": service.address,
        "port": service.port,
        "serviceAddress": "127.0.0.1",
        "servicePort": service.origin_port,
        "protocol": service.speaks.value,
    }


def _document(service: Service) -> str:
    spec: Json = {
        "match": {"port": 443 if service.tls else MATCH_PORT, "protocol": service.speaks.value},
        "endpoints": [{"address": "127.0.0.1", "port": service.origin_port}],
    }
    if service.tls:
        verification = {"serverName": "localhost", "caCert": {"secret": "ca"}}
        spec["tls"] = {"enabled": True, "version": {"min": "TLS13"}, "verification": verification}
    return json.dumps({"type": "MeshExternalService", "mesh": "default", "name": service.name, "spec": spec})
