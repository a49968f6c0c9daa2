"""A zone: sidecars and egresses that share one set of resources and one authority, before a service outside.

zone = Zone(tmp_path)
zone.service("app", [peer.endpoint], protocol="http")
with zone.egress(), zone.sidecar("web", "app") as sidecar:
    client.ask(sidecar.port("app"))
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.kit import yamlkit
from tests.kit.ca import Authority, key_pem
from tests.kit.koguma import Koguma
from tests.kit.ports import free_port
from tests.kit.yamlkit import Document

TRUST_DOMAIN = "default.default.mesh.local"
CA = Authority.root("Mesh Root")
EVERYBODY = {"spiffeID": {"type": "Prefix", "value": f"spiffe://{TRUST_DOMAIN}"}}


class Sidecar(Koguma):
    """Its outbounds lead to services of the zone."""

    def __init__(self, directory: Path, workload: str, **more: Any) -> None:
        super().__init__(directory, **more)
        self.workload = workload

    @property
    def identity(self) -> str:
        return f"spiffe://{TRUST_DOMAIN}/workload/{self.workload}"

    def write_dataplane(self, **more: Any) -> None:
        document = yamlkit.dataplane(self._outbounds.values(), name=self.workload, mesh=self.mesh, **more)
        document["labels"] = {"kuma.io/workload": self.workload}
        self.dataplane_file.write_text(yamlkit.render(document))


class Egress(Koguma):
    """A zone egress by the document that it is given."""

    def __init__(self, directory: Path, document: Document, **more: Any) -> None:
        super().__init__(directory, **more)
        self.document = document
        self.args += ["--proxy-type", "egress"]

    def write_dataplane(self, **more: Any) -> None:
        self.dataplane_file.write_text(yamlkit.render(self.document))

    @property
    def port_of_door(self) -> int:
        networking = self.document["networking"]
        return int(networking.get("port") or networking["listeners"][0]["port"])

    def door_stat(self, name: str) -> int:
        """A statistic of the door, summed with those of the routes behind it."""
        address = self.document["networking"]["address"]
        return self.stats().get(f"listener.{address}_{self.port_of_door}.{name}", 0)


class Zone:
    """The resources, as files that all of its proxies read."""

    def __init__(self, directory: Path, *, mesh: str = "default", legacy: bool = False) -> None:
        self.directory = directory
        self.resources = directory / "zone"
        self.resources.mkdir(parents=True)
        self.mesh = mesh
        self.legacy = legacy
        self._ports: dict[str, int] = {}
        self._count = 0
        self.write("mesh.yaml", self.mesh_document())
        self.write("identity.yaml", yamlkit.mesh_identity(CA.pem, key_pem(CA.key), mesh=mesh))
        if not legacy:
            self.permit(EVERYBODY)

    def mesh_document(self, **routing: Any) -> Document:
        return yamlkit.mesh(self.mesh, routing={"zoneEgress": True, **routing})

    def write(self, filename: str, *documents: Document) -> None:
        path = self.resources / filename
        aside = path.with_suffix(".new")
        aside.write_text(yamlkit.render(*documents))
        aside.rename(path)

    def permit(self, *matches: Document, **lists: list[Document]) -> None:
        """Replace the only MeshTrafficPermission."""
        target = {"kind": "Dataplane", "labels": {"kuma.io/workload": "exit"}}
        allow = {"allow": list(matches)} if matches else {}
        document = yamlkit.permission("exit", mesh=self.mesh, target=target, **allow, **lists)
        self.write("permission.yaml", document)

    def service(self, name: str, endpoints: Iterable[Document], *, port: int = 80, **more: Any) -> None:
        self._ports[name] = port
        self.write(f"{name}.yaml", yamlkit.mes(name, port, endpoints, mesh=self.mesh, **more))

    def sni(self, service: str) -> str:
        return f"sni.extsvc.{self.mesh}.default.{service}.{self._ports[service]}"

    def egress(self, **more: Any) -> Egress:
        """An egress that the sidecars of the zone know of."""
        port = free_port()
        self._count += 1
        name = "exit" if self._count == 1 else f"exit-{self._count}"
        if self.legacy:
            document = yamlkit.zone_egress(port, name=name)
        else:
            document = yamlkit.egress_dataplane(port, name=name, mesh=self.mesh, labels={"kuma.io/workload": "exit"})
        self.write(f"{name}.yaml", document)
        return Egress(self.directory / name, document, resources=self.resources, mesh=self.mesh, **more)

    def sidecar(self, workload: str, *services: str, **more: Any) -> Sidecar:
        sidecar = Sidecar(self.directory / workload, workload, resources=self.resources, mesh=self.mesh, **more)
        for service in services:
            sidecar.leads_to(service, self._ports[service])
        return sidecar
