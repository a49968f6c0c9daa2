"""A proxy with inbounds, as one zone of a mesh: a MeshIdentity, MeshTrusts, and an application behind each inbound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.kit import yamlkit
from tests.kit.ca import Authority, key_pem
from tests.kit.koguma import Koguma
from tests.kit.peers import Peer
from tests.kit.ports import free_port
from tests.kit.yamlkit import Document


class Zone:
    """``proxy`` is a :class:`Koguma` that has not started; its identity is ``spiffe://<domain>/workload/app``."""

    def __init__(
        self, directory: Path, domain: str, *, args: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> None:
        self.domain = domain
        self.proxy = Koguma(directory, args=args, env=env)
        self._inbounds: list[Document] = []

    def inbound(self, application: Peer | int, protocol: str = "tcp", **more: Any) -> int:
        """The port at which an application is offered to the mesh; ``more`` are fields of the inbound."""
        local = application if isinstance(application, int) else int(application.endpoint["port"])
        port = free_port()
        self._inbounds.append({"port": port, "servicePort": local, "protocol": protocol, **more})
        document = yamlkit.dataplane(inbounds=self._inbounds)
        document["labels"] = {"kuma.io/workload": "app"}
        self.proxy.dataplane_file.write_text(yamlkit.render(document))
        return port

    def identity(self, authority: Authority, *, life: str = "24h") -> Document:
        """Its MeshIdentity, with a CA that is given."""
        ca = {
            "certificate": _inline(authority.pem),
            "privateKey": _inline(key_pem(authority.key)),
        }
        bundled: Document = {
            "insecureAllowSelfSigned": True,
            "certificateParameters": {"expiry": life},
            "ca": ca,
        }
        spec: dict[str, Any] = {
            "selector": {"dataplane": {"matchLabels": {}}},
            "spiffeID": {"trustDomain": self.domain},
            "provider": {"type": "Bundled", "bundled": bundled},
        }
        return yamlkit.plugin_resource("MeshIdentity", "identity", spec)


def mesh_trust(domain: str, *authorities: Authority) -> Document:
    bundles = [{"type": "Pem", "pem": {"value": one.pem}} for one in authorities]
    return yamlkit.plugin_resource("MeshTrust", f"trust-{domain}", {"trustDomain": domain, "caBundles": bundles})


def speaking_as(authority: Authority, spiffe_id: str, *, trusting: Sequence[Authority]) -> Document:
    """``spec.tls`` of an outbound that presents an SVID, and accepts the workload ``app`` of domain ``zone-1``."""
    leaf = authority.leaf(spiffe_id)
    return yamlkit.tls(
        sans=[("Exact", "spiffe://zone-1/workload/app")],
        ca=yamlkit.inline_string("".join(one.pem for one in trusting)),
        client_cert=yamlkit.inline_string(leaf.chain_pem),
        client_key=yamlkit.inline_string(leaf.key_pem),
    )


def _inline(text: str) -> Document:
    return {"type": "InsecureInline", "insecureInline": {"value": text}}
