"""Whatever a document holds, it becomes a resource or problems, never an exception."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.load import load_resources

DOCUMENTS: list[Any] = yaml.safe_load("""
- type: MeshExternalService
  name: a
  labels: {kuma.io/zone: z}
  creationTime: "2026-01-01T00:00:00Z"
  spec:
    match: {type: HostnameGenerator, port: 80, protocol: http}
    endpoints: [{address: a.example.com, port: 443, priority: 1}, {address: "unix:///a"}]
    tls:
      enabled: true
      version: {min: TLS12, max: TLS13}
      verification:
        mode: Secured
        serverName: a.example.com
        subjectAltNames: [{type: Prefix, value: "spiffe://a"}]
        caCert: {type: Secret, secretRef: {kind: Secret, name: a}}
        clientCert: {inline: YQ==}
        clientKey: {type: InsecureInline, insecureInline: {value: b}}
- apiVersion: kuma.io/v1alpha1
  kind: MeshExternalService
  metadata: {name: a, namespace: n, labels: {kuma.io/mesh: m}}
  spec: {match: {port: 80}, extension: {type: x, config: {a: [1]}}}
- type: Dataplane
  name: a
  mesh: m
  networking:
    address: 10.0.0.1
    gateway: {type: DELEGATED}
    admin: {port: 9901}
    inbound:
    - {port: 1, servicePort: 2, serviceAddress: 1.1.1.1, protocol: tcp, tags: {a: b}, state: Ready,
       health: {ready: true}, serviceProbe: {interval: 1s, timeout: 1s, healthyThreshold: 1, tcp: {}}}
    outbound: [{port: 1, backendRef: {kind: MeshService, name: a, labels: {a: b}, port: 1}}]
    listeners: [{type: ZoneEgress, port: 1}, {type: ZoneIngress, port: 1, name: b}]
    transparentProxying: {ipFamilyMode: IPv4, reachableBackends: {refs: [{kind: MeshService, namespace: a}]}}
- {type: Mesh, name: a, routing: {zoneEgress: true}, mtls: {}, skipCreatingInitialPolicies: ["*"]}
- {type: Secret, name: a, data: YQ==}
- apiVersion: v1
  kind: Secret
  type: system.kuma.io/secret
  metadata: {name: a}
  data: {value: YQ==}
  stringData: {value: a}
- {apiVersion: v1, kind: List, items: [{type: Mesh, name: a}]}
""")

VALUES: list[Any] = [
    None,
    "",
    0,
    -1,
    1.5,
    float("inf"),
    float("nan"),
    True,
    "x",
    [],
    {},
    [None],
    {"a": None},
    10**30,
    "\0",
    "{}",
]
KEYS = ["meta", "type", "kind", "secret", "inline", "name", "zz", ""]


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (collection, key) of a tree."""
    found: list[tuple[Any, Any]] = []
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in entries:
        found += [(tree, key), *places(value)]
    return found


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_damaged_document_raises_nothing(tmp_path: Path, data: st.DataObject) -> None:
    tree = copy.deepcopy(data.draw(st.sampled_from(DOCUMENTS)))
    for _ in range(data.draw(st.integers(1, 3))):
        found = places(tree)
        if not found:
            break
        collection, key = found[data.draw(st.integers(0, len(found) - 1))]
        how = data.draw(st.sampled_from(["replace", "remove", "add"]))
        if how == "remove":
            del collection[key]
        elif how == "add" and isinstance(collection, dict):
            collection[data.draw(st.sampled_from(KEYS))] = copy.deepcopy(data.draw(st.sampled_from(VALUES)))
        else:
            collection[key] = copy.deepcopy(data.draw(st.sampled_from(VALUES)))
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump(tree))
    loaded = load_resources([file])
    for document in loaded.documents:
        assert document.resource is None or not document.is_broken
    for problem in loaded.all_problems:
        assert problem.line >= 1
        assert problem.message
