"""Kuma's own examples, in the 2.x and the 3.x shape, and the values that they become."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.load import load_resources
from config.plan import Protocol
from config.problems import Severity
from config.resources import Dataplane, DataSource, MeshExternalService, SourceKind
from config.resources.dataplane import BackendKind, ListenerType
from config.resources.meshexternalservice import TlsVersion
from config.resources.meta import kri
from tls.policy import MatchType, Mode, SanMatcher

HEAD = """\
apiVersion: kuma.io/v1alpha1
kind: MeshExternalService
metadata:
  name: {}
  namespace: kuma-system
  labels:
    kuma.io/mesh: default
"""

EXAMPLES = {
    "httpbin": """
spec:
  match:
    type: HostnameGenerator
    port: 80
    protocol: http
  endpoints:
    - address: httpbin.org
      port: 80
""",
    "httpbin-tls": """
spec:
  match:
    type: HostnameGenerator
    port: 80
    protocol: http
  endpoints:
    - address: httpbin.org
      port: 443
  tls:
    enabled: true
    verification:
      mode: Secured
      serverName: httpbin.org
""",
    "database": """
spec:
  match:
    type: HostnameGenerator
    port: 5432
    protocol: tcp
  endpoints:
    - address: postgres.external.example.com
      port: 5432
  tls:
    enabled: true
    version:
      min: TLS12
      max: TLS13
    verification:
      mode: Secured
      serverName: postgres.external.example.com
      clientCert:
        secret: postgres-client-cert
      clientKey:
        secret: postgres-client-key
""",
    "grpc-api": """
spec:
  match:
    type: HostnameGenerator
    port: 9000
    protocol: grpc
  endpoints:
    - address: grpcbin.test.k6.io
      port: 9001
  tls:
    enabled: true
    verification:
      serverName: grpcbin.test.k6.io
""",
    "api-gateway": """
spec:
  match:
    type: HostnameGenerator
    port: 443
    protocol: http
  endpoints:
    - address: api1.example.com
      port: 443
    - address: api2.example.com
      port: 443
    - address: 203.0.113.10
      port: 443
  tls:
    enabled: true
    verification:
      serverName: api.example.com
""",
    "local-service": """
spec:
  match:
    type: HostnameGenerator
    port: 8080
    protocol: http
  endpoints:
    - address: unix:///var/run/service.sock
""",
    "private-api": """
spec:
  match:
    type: HostnameGenerator
    port: 443
    protocol: http
  endpoints:
    - address: internal.corp.example.com
      port: 443
  tls:
    enabled: true
    verification:
      mode: Secured
      serverName: internal.corp.example.com
      caCert:
        secret: corporate-ca-cert
""",
    "spiffe-service": """
spec:
  match:
    type: HostnameGenerator
    port: 443
    protocol: http
  endpoints:
    - address: service.example.com
      port: 443
  tls:
    enabled: true
    verification:
      mode: Secured
      serverName: service.example.com
      subjectAltNames:
        - type: Exact
          value: service.example.com
        - type: Prefix
          value: "spiffe://example.com/ns/production"
""",
}

DATAPLANE = """\
type: Dataplane
mesh: default
name: backend
networking:
  address: 127.0.0.1
  inbound:
    - port: 8080
      servicePort: 8080
      tags:
        kuma.io/service: backend
  outbound:
    - port: 10080
      backendRef:
        kind: MeshExternalService
        name: httpbin
"""

MESH = """\
apiVersion: kuma.io/v1alpha1
kind: Mesh
metadata:
  name: default
spec:
  routing:
    defaultForbidMeshExternalServiceAccess: true
"""


def service(tmp_path: Path, text: str) -> MeshExternalService:
    file = tmp_path / "service.yaml"
    file.write_text(text)
    loaded = load_resources([file])
    assert [problem for problem in loaded.all_problems if problem.is_error] == []
    (resource,) = loaded.resources
    assert isinstance(resource, MeshExternalService)
    return resource


def example(tmp_path: Path, name: str) -> MeshExternalService:
    return service(tmp_path, HEAD.format(name) + EXAMPLES[name])


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_valid_in_both_forms(tmp_path: Path, name: str) -> None:
    kubernetes = example(tmp_path, name)
    universal = service(tmp_path, f"type: MeshExternalService\nmesh: default\nname: {name}\n{EXAMPLES[name]}")
    for field in ("match", "endpoints", "tls", "extension"):
        assert getattr(kubernetes, field) == getattr(universal, field)
    assert (kubernetes.mesh, kubernetes.name, kubernetes.meta.namespace) == ("default", name, "kuma-system")


def test_the_examples_are_valid_together(tmp_path: Path) -> None:
    texts = [HEAD.format(name) + text for name, text in EXAMPLES.items()]
    (tmp_path / "all.yaml").write_text("---\n".join([*texts, DATAPLANE, MESH]))
    found = load_resources([tmp_path]).all_problems
    assert {(problem.field, problem.severity) for problem in found} == {
        ("spec.tls.verification.subjectAltNames[1].value", Severity.WARNING),
        ("networking.inbound[0]", Severity.WARNING),
    }


def test_the_values_of_a_service(tmp_path: Path) -> None:
    database = example(tmp_path, "database")
    assert (database.match.port, database.match.protocol) == (5432, Protocol.TCP)
    assert [(each.address, each.port, each.priority) for each in database.endpoints] == [
        ("postgres.external.example.com", 5432, 0)
    ]
    tls = database.tls
    assert tls is not None
    assert (tls.enabled, tls.version_min, tls.version_max) == (True, TlsVersion.TLS12, TlsVersion.TLS13)
    assert (tls.mode, tls.server_name) == (Mode.SECURED, "postgres.external.example.com")
    assert (tls.sans, tls.ca_cert, tls.allow_renegotiation) == ((), None, False)
    assert tls.client_cert == DataSource(SourceKind.SECRET, "postgres-client-cert")
    assert database.kri("5432") == "kri_extsvc_default_default_kuma-system_database_5432"


def test_defaults(tmp_path: Path) -> None:
    text = "type: MeshExternalService\nname: a\nspec: {match: {port: 1}, endpoints: [{address: b, port: 2}]}"
    plain = service(tmp_path, text)
    assert (plain.mesh, plain.match.protocol, plain.tls, plain.meta.zone) == ("default", Protocol.TCP, None, "default")
    secure = service(tmp_path, text.replace("]}", "], tls: {enabled: true}}"))
    assert secure.tls is not None
    assert (secure.tls.mode, secure.tls.version_min) == (Mode.SECURED, TlsVersion.AUTO)


def test_names_to_expect(tmp_path: Path) -> None:
    tls = example(tmp_path, "spiffe-service").tls
    assert tls is not None
    assert tls.sans == (
        SanMatcher(MatchType.EXACT, "service.example.com"),
        SanMatcher(MatchType.PREFIX, "spiffe://example.com/ns/production"),
    )


@pytest.mark.parametrize(
    ("address", "path"), [("unix:///run/a.sock", "/run/a.sock"), ("unix://@a", "@a"), ("a.example.com", None)]
)
def test_unix_paths(tmp_path: Path, address: str, path: str | None) -> None:
    port = "" if path else ", port: 1"
    text = (
        f"type: MeshExternalService\nname: a\nspec: {{match: {{port: 1}}, endpoints: [{{address: '{address}'{port}}}]}}"
    )
    assert service(tmp_path, text).endpoints[0].unix_path == path


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("{secret: a}", DataSource(SourceKind.SECRET, "a")),
        ("{inline: aGk=}", DataSource(SourceKind.INLINE, b"hi")),
        ("{inlineString: hi}", DataSource(SourceKind.TEXT, "hi")),
        ("{type: Secret, secretRef: {kind: Secret, name: a}}", DataSource(SourceKind.SECRET, "a")),
        ("{type: InsecureInline, insecureInline: {value: hi}}", DataSource(SourceKind.TEXT, "hi")),
    ],
)
def test_data_sources_of_both_shapes(tmp_path: Path, text: str, source: DataSource) -> None:
    tls = "{enabled: true, verification: {caCert: " + text + "}}"
    found = service(
        tmp_path,
        "type: MeshExternalService\nname: a\nspec:\n  match: {port: 1}\n"
        f"  endpoints: [{{address: b, port: 1, priority: 3}}]\n  tls: {tls}\nstatus: {{vip: {{ip: 242.0.0.1}}}}\n",
    )
    assert found.tls is not None
    assert found.tls.ca_cert == source
    assert "hi" not in repr(found) + str(found.model_dump())
    assert found.endpoints[0].priority == 3


def test_content_is_in_a_source_or_in_a_secret() -> None:
    assert DataSource(SourceKind.INLINE, b"hi").data == b"hi"
    assert DataSource(SourceKind.TEXT, "hi").data == b"hi"
    assert DataSource(SourceKind.SECRET, "a").secret_name == "a"
    with pytest.raises(ValueError, match="elsewhere"):
        _ = DataSource(SourceKind.SECRET, "a").data


def test_a_dataplane_of_both_shapes(tmp_path: Path) -> None:
    (tmp_path / "dp.yaml").write_text(
        "type: Dataplane\nmesh: default\nname: egress\nlabels: {kuma.io/zone: east}\n"
        "creationTime: '2026-01-01T00:00:00Z'\n"
        "networking:\n"
        "  address: 10.0.0.1\n"
        "  inbound: [{port: '80', servicePort: 8080, serviceAddress: null, "
        "tags: {kuma.io/service: a, kuma.io/protocol: http}}]\n"
        "  outbound: [{port: 1, backendRef: {kind: MeshExternalService, labels: {a: b}}}]\n"
        "  listeners: [{type: ZoneEgress, port: 10002, name: egress}]\n"
        "  admin: {port: 9902}\n"
        "  transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001, reachableServices: ['*']}\n"
    )
    loaded = load_resources([tmp_path])
    assert loaded.all_problems == []
    (dataplane,) = loaded.resources
    assert isinstance(dataplane, Dataplane)
    networking = dataplane.networking
    inbound = networking.inbound[0]
    assert (inbound.port, inbound.workload(networking), inbound.section) == (80, ("10.0.0.1", 8080), "80")
    assert inbound.plan_protocol == Protocol.HTTP
    outbound = networking.outbound[0]
    assert outbound.backend_ref is not None
    assert (outbound.address, outbound.backend_ref.kind) == ("127.0.0.1", BackendKind.MESH_EXTERNAL_SERVICE)
    assert networking.listeners[0].type is ListenerType.ZONE_EGRESS
    assert dataplane.meta.zone == "east"
    assert dataplane.meta.creation_time is not None


def test_display_name_and_kri(tmp_path: Path) -> None:
    text = HEAD.format("a-x1") + "    kuma.io/display-name: a\n    kuma.io/zone: z\n" + EXAMPLES["httpbin"]
    named = service(tmp_path, text)
    assert (named.name, named.meta.display_name) == ("a-x1", "a")
    assert named.kri() == "kri_extsvc_default_z_kuma-system_a_"
    assert (
        kri("mid", "default", "default", "kuma-system", "my-identity")
        == "kri_mid_default_default_kuma-system_my-identity_"
    )
