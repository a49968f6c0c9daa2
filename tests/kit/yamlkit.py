"""Kuma documents as the tests need them: Universal and Kubernetes, the 2.x and the 3.x shape.

Builders return plain dicts (a test may bend them) and :func:`render` makes a multi-document YAML text.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any

import yaml

Document = dict[str, Any]


class Form(Enum):
    UNIVERSAL = "universal"
    KUBERNETES = "kubernetes"


class Shape(Enum):
    """Which generation of Kuma wrote the document."""

    V2 = "2.x"
    V3 = "3.x"


def render(*documents: Document) -> str:
    return yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True)


def mes(
    name: str,
    port: int,
    endpoints: Iterable[dict[str, Any]],
    *,
    tls: Document | None = None,
    protocol: str = "tcp",
    mesh: str = "default",
    namespace: str = "kuma-system",
    labels: dict[str, str] | None = None,
    form: Form = Form.UNIVERSAL,
) -> Document:
    """A MeshExternalService. ``port`` is ``spec.match.port``."""
    spec: Document = {
        "match": {"type": "HostnameGenerator", "port": port, "protocol": protocol},
        "endpoints": list(endpoints),
    }
    if tls is not None:
        spec["tls"] = tls
    return plugin_resource("MeshExternalService", name, spec, mesh=mesh, namespace=namespace, labels=labels, form=form)


def plugin_resource(
    kind: str,
    name: str,
    spec: Document,
    *,
    mesh: str = "default",
    namespace: str = "kuma-system",
    labels: dict[str, str] | None = None,
    form: Form = Form.UNIVERSAL,
) -> Document:
    if form is Form.KUBERNETES:
        return {
            "apiVersion": "kuma.io/v1alpha1",
            "kind": kind,
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": {"kuma.io/mesh": mesh, **(labels or {})},
            },
            "spec": spec,
        }
    document: Document = {"type": kind, "mesh": mesh, "name": name}
    if labels:
        document["labels"] = labels
    return {**document, "spec": spec}


def tls(
    *,
    mode: str | None = None,
    server_name: str | None = None,
    sans: Sequence[tuple[str, str]] = (),
    ca: Document | None = None,
    client_cert: Document | None = None,
    client_key: Document | None = None,
    minimum: str | None = None,
    maximum: str | None = None,
    allow_renegotiation: bool | None = None,
) -> Document:
    """``spec.tls``, enabled. ``sans`` are ``(type, value)`` pairs; data sources come from the functions
    below.
    """
    verification: Document = {}
    if mode is not None:
        verification["mode"] = mode
    if server_name is not None:
        verification["serverName"] = server_name
    if sans:
        verification["subjectAltNames"] = [{"type": kind, "value": value} for kind, value in sans]
    for key, source in (("caCert", ca), ("clientCert", client_cert), ("clientKey", client_key)):
        if source is not None:
            verification[key] = source
    block: Document = {"enabled": True}
    version = {key: value for key, value in (("min", minimum), ("max", maximum)) if value is not None}
    if version:
        block["version"] = version
    if allow_renegotiation is not None:
        block["allowRenegotiation"] = allow_renegotiation
    if verification:
        block["verification"] = verification
    return block


def from_secret(name: str, shape: Shape = Shape.V2) -> Document:
    """A data source that names a Secret of the same mesh."""
    if shape is Shape.V3:
        return {"type": "Secret", "secretRef": {"kind": "Secret", "name": name}}
    return {"secret": name}


def inline(text: str, shape: Shape = Shape.V2) -> Document:
    """The data itself: base64 in 2.x, plain text in 3.x."""
    if shape is Shape.V3:
        return {"type": "InsecureInline", "insecureInline": {"value": text}}
    return {"inline": base64.b64encode(text.encode()).decode()}


def inline_string(text: str) -> Document:
    """The data itself as text (2.x only)."""
    return {"inlineString": text}


def secret(
    name: str,
    data: str,
    *,
    mesh: str = "default",
    namespace: str = "kuma-system",
    form: Form = Form.UNIVERSAL,
) -> Document:
    encoded = base64.b64encode(data.encode()).decode()
    if form is Form.KUBERNETES:
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace, "labels": {"kuma.io/mesh": mesh}},
            "type": "system.kuma.io/secret",
            "data": {"value": encoded},
        }
    return {"type": "Secret", "mesh": mesh, "name": name, "data": encoded}


def mesh(name: str = "default", *, routing: Document | None = None, form: Form = Form.UNIVERSAL) -> Document:
    spec: Document = {"routing": routing} if routing is not None else {}
    if form is Form.KUBERNETES:
        return {"apiVersion": "kuma.io/v1alpha1", "kind": "Mesh", "metadata": {"name": name}, "spec": spec}
    return {"type": "Mesh", "name": name, **spec}


def outbound(port: int, service: str, *, address: str | None = None) -> Document:
    """An entry of ``networking.outbound`` that leads to a MeshExternalService."""
    entry: Document = {"port": port, "backendRef": {"kind": "MeshExternalService", "name": service}}
    return entry if address is None else {"address": address, **entry}


def dataplane(
    outbounds: Iterable[Document] = (),
    *,
    name: str = "backend",
    mesh: str = "default",
    inbounds: Iterable[Document] = (),
    admin_port: int | None = None,
) -> Document:
    networking: Document = {"address": "127.0.0.1"}
    if admin_port is not None:
        networking["admin"] = {"port": admin_port}
    for key, entries in (("inbound", list(inbounds)), ("outbound", list(outbounds))):
        if entries:
            networking[key] = entries
    return {"type": "Dataplane", "mesh": mesh, "name": name, "networking": networking}


def kri(service: str, port: int, *, mesh: str = "default", zone: str = "default", namespace: str = "") -> str:
    """The name of a MeshExternalService's cluster."""
    return f"kri_extsvc_{mesh}_{zone}_{namespace}_{service}_{port}"


def zone_egress(
    port: int, *, name: str = "exit", address: str = "127.0.0.1", zone: str = "", labels: dict[str, str] | None = None
) -> Document:
    """A ZoneEgress (2.x), for all meshes."""
    document: Document = {"type": "ZoneEgress", "name": name, "zone": zone or "default"}
    if labels:
        document["labels"] = labels
    return {**document, "networking": {"address": address, "port": port}}


def egress_dataplane(
    port: int,
    *,
    name: str = "exit",
    mesh: str = "default",
    address: str = "127.0.0.1",
    state: str = "Ready",
    labels: dict[str, str] | None = None,
) -> Document:
    """A Dataplane that is a zone egress (3.x), for its own mesh."""
    listener = {"type": "ZoneEgress", "address": address, "port": port, "name": "egress", "state": state}
    return {
        "type": "Dataplane",
        "mesh": mesh,
        "name": name,
        "labels": labels or {"kuma.io/workload": name},
        "networking": {"address": address, "listeners": [listener]},
    }


def mesh_identity(certificate: str, key: str, *, mesh: str = "default", trust_domain: str = "") -> Document:
    """A MeshIdentity that means every Dataplane, with a self-signed authority."""
    spec: Document = {
        "selector": {"dataplane": {"matchLabels": {}}},
        "provider": {
            "type": "Bundled",
            "bundled": {
                "insecureAllowSelfSigned": True,
                "ca": {
                    "certificate": inline(certificate, Shape.V3),
                    "privateKey": inline(key, Shape.V3),
                },
            },
        },
    }
    if trust_domain:
        spec["spiffeID"] = {"trustDomain": trust_domain}
    return plugin_resource("MeshIdentity", "identity", spec, mesh=mesh)


def mesh_trust(trust_domain: str, *pems: str, name: str = "trust", mesh: str = "default") -> Document:
    bundles = [{"type": "Pem", "pem": {"value": pem}} for pem in pems]
    return plugin_resource("MeshTrust", name, {"trustDomain": trust_domain, "caBundles": bundles}, mesh=mesh)


def permission(
    name: str, *, mesh: str = "default", target: Document | None = None, **lists: list[Document]
) -> Document:
    """A MeshTrafficPermission: ``allow``, ``deny`` and ``allowWithShadowDeny`` are matches."""
    spec: Document = {"rules": [{"default": lists}]}
    if target is not None:
        spec["targetRef"] = target
    return plugin_resource("MeshTrafficPermission", name, spec, mesh=mesh)
