"""Every violation that a document can have, with Kuma's field and text, on its line.

A case is one document. ``#!`` marks the line that the violation must name.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from config.load import load_resources
from config.problems import Problem, Severity
from config.resources import meshexternalservice as service
from config.resources import meta
from config.resources.names import DNS_1035_TEXT
from config.resources.shape import MAX_SHOWN_CHARS

PORT = "port must be a valid (1-65535)"
PORT_RANGE = "port must be in the range [1, 65535]"
REQUIRED = "in body is required"
ADDRESS = "address has to be a valid IP or hostname"
IP = "address has to be valid IP address"
DEFINED = "must be defined"
POSITIVE = "must have a positive value"
SHORT = "in body should be at least 1 chars long"
VERSIONS = '["TLSAuto", "TLS10", "TLS11", "TLS12", "TLS13"]'
BACKENDS = "invalid value. Available values are: MeshExternalService,MeshMultiZoneService,MeshService"
BASE64 = "must be base64 with padding (inlineString takes plain text)"
RFC_1123 = (
    "invalid characters. A lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or "
    "'.', and must start and end with an alphanumeric character"
)
MESH_CHARS = "invalid characters. Valid characters are numbers, lowercase latin letters and '-', '_', '.' symbols."


def typed(expected: str, given: str) -> str:
    return f'in body must be of type {expected}: "{given}"'


def mes(*lines: str, match: str = "match: {port: 80}") -> str:
    """A MeshExternalService, with lines of its spec."""
    body = [f"  {line}" for line in (*([match] if match else []), *lines)]
    return "\n".join(["type: MeshExternalService", "name: svc", "spec:", *body])


def endpoint(line: str) -> str:
    return mes("endpoints:", "- {address: ok.example.com, port: 443}", f"- {line} #!")


def tls(*lines: str, head: str = "enabled: true") -> str:
    inner = [f"  {line}" for line in (head, *lines)]
    return mes("endpoints: [{address: a.example.com, port: 443}]", "tls:", *inner)


def verification(*lines: str) -> str:
    return tls("verification:", *(f"  {line}" for line in lines))


def source(text: str, field: str = "caCert") -> str:
    return verification(f"{field}: {text} #!")


def dataplane(*lines: str, address: str = "address: 10.0.0.1") -> str:
    """A Dataplane, with lines of its networking."""
    body = [f"  {line}" for line in ([address] if address else []) + list(lines)]
    return "\n".join(["type: Dataplane", "mesh: default", "name: dp", "networking:", *body])


def inbound(text: str) -> str:
    return dataplane("inbound:", "- {port: 1, servicePort: 2}", f"- {text} #!")


def outbound(text: str) -> str:
    ok = "- {port: 10080, backendRef: {kind: MeshExternalService, name: a}}"
    return dataplane("outbound:", ok, f"- {text} #!")


def refs(text: str) -> str:
    return dataplane("transparentProxying:", "  reachableBackends:", "    refs:", f"    - {text} #!")


def kubernetes(*metadata: str, spec: str = "{match: {port: 80}, endpoints: [{address: a, port: 1}]}") -> str:
    head = ["apiVersion: kuma.io/v1alpha1", "kind: MeshExternalService", "metadata:"]
    return "\n".join([*head, *(f"  {line}" for line in metadata), f"spec: {spec}"])


V = "spec.tls.verification"
CASES = [
    # Meta
    ("type: Mesh\nname: '' #!", "name", "cannot be empty"),
    ("type: Mesh #!", "name", "cannot be empty"),
    (f"type: Mesh\nname: {'a' * (meta.MAX_NAME_CHARS + 1)} #!", "name",
     f"value length must less or equal {meta.MAX_NAME_CHARS}"),
    ("type: Mesh\nname: Upper #!", "name", RFC_1123),
    ("type: Mesh\nname: a..b #!", "name", RFC_1123),
    ("type: Mesh\nname: -a #!", "name", RFC_1123),
    ("type: Mesh\nname: 5 #!", "name", typed("string", "integer")),
    ("type: Secret\nname: a\ndata: aGk=\nmesh: '' #!", "mesh", "cannot be empty"),
    ("type: Secret\nname: a\ndata: aGk=\nmesh: A #!", "mesh", MESH_CHARS),
    ("type: Secret\nname: a\ndata: aGk=\nmesh: [a] #!", "mesh", typed("string", "array")),
    ("type: Mesh\nname: a\nlabels: [x] #!", "labels", typed("object", "array")),
    (
        "type: Mesh\nname: a\nlabels:\n  kuma.io/zone: 5 #!",
        'labels["kuma.io/zone"]',
        typed("string", "integer"),
    ),
    ("type: Mesh\nname: a\ncreationTime: soon #!", "creationTime", "in body must be of type date-time"),
    ("name: a #!", "type", REQUIRED),
    ("name: a\ntype: 5 #!", "type", typed("string", "integer")),
    ("apiVersion: kuma.io/v1alpha1 #!", "kind", REQUIRED),
    ("kind: Mesh #!\nmetadata: {name: a}", "apiVersion", REQUIRED),
    (
        "kind: Mesh\nmetadata: {name: a}\napiVersion: v2 #!",
        "apiVersion",
        "in body should be one of [kuma.io/v1alpha1]",
    ),
    ("- a #!", "", typed("object", "array")),
    (kubernetes("name: a", "lable: {} #!"), "metadata.lable", 'unknown field; did you mean "labels"?'),
    (kubernetes("namespace: x").replace("metadata:", "metadata: #!"), "name", "cannot be empty"),
    (kubernetes("name: Up #!"), "name", RFC_1123),
    (kubernetes("name: a", "labels: {kuma.io/mesh: A} #!"), "mesh", MESH_CHARS),
    # MeshExternalService: shape
    ("type: MeshExternalService #!\nname: svc", "spec", REQUIRED),
    ("type: MeshExternalService\nname: svc\nspec: text #!", "spec", typed("object", "string")),
    (mes(match="endpoints: []").replace("spec:", "spec: #!"), "spec.match", REQUIRED),
    (mes(match="match: {protocol: tcp} #!"), "spec.match.port", REQUIRED),
    (mes(match='match: {port: "80"} #!'), "spec.match.port", typed("integer", "string")),
    (mes(match="match: {port: 80.5} #!"), "spec.match.port", typed("integer", "number")),
    (mes(match="match: {port: true} #!"), "spec.match.port", typed("integer", "boolean")),
    (mes(match="match: {port: null} #!"), "spec.match.port", typed("integer", "null")),
    (mes(match="match: {port: 80, protocol: 5} #!"), "spec.match.protocol", typed("string", "integer")),
    (mes(match="match: 80 #!"), "spec.match", typed("object", "integer")),
    (mes("endpoints: {} #!"), "spec.endpoints", typed("array", "object")),
    (mes("endpoints: #!"), "spec.endpoints", typed("array", "null")),
    (mes("tls: #!"), "spec.tls", typed("object", "null")),
    (mes("endpoint: [] #!"), "spec.endpoint", 'unknown field; did you mean "endpoints"?'),
    (mes("qqqq: [] #!"), "spec.qqqq", "unknown field"),
    (mes("meta: {} #!"), "spec.meta", "unknown field"),
    (mes("endpoints: []") + "\nspce: {} #!", "spce", 'unknown field; did you mean "spec"?'),
    (endpoint("{port: 1}"), "spec.endpoints[1].address", REQUIRED),
    (endpoint("{address: '', port: 1}"), "spec.endpoints[1].address", SHORT),
    (endpoint("{address: 10, port: 1}"), "spec.endpoints[1].address", typed("string", "integer")),
    (
        endpoint(f"{{address: a, port: 1, priority: {service.MAX_PRIORITY + 1}}}"),
        "spec.endpoints[1].priority",
        f"in body should be less than or equal to {service.MAX_PRIORITY}",
    ),
    (
        endpoint("{address: a, port: 1, priority: -1}"),
        "spec.endpoints[1].priority",
        "in body should be greater than or equal to 0",
    ),
    (
        endpoint("{address: a, port: 1, prot: 1}"),
        "spec.endpoints[1].prot",
        'unknown field; did you mean "port"?',
    ),
    (tls(head='enabled: "yes" #!'), "spec.tls.enabled", typed("boolean", "string")),
    (tls(head="enabled: yes #!"), "spec.tls.enabled", typed("boolean", "string")),
    (verification("servername: a #!"), f"{V}.servername", 'unknown field; did you mean "serverName"?'),
    (verification("subjectAltNames: [{type: Exact}] #!"), f"{V}.subjectAltNames[0].value", REQUIRED),
    (verification("subjectAltNames: [{value: ''}] #!"), f"{V}.subjectAltNames[0].value", SHORT),
    (verification("subjectAltNames: [a] #!"), f"{V}.subjectAltNames[0]", typed("object", "string")),
    (verification("caCert: #!"), f"{V}.caCert", typed("object", "null")),
    (mes("extension: {config: {a: 1}} #!"), "spec.extension.type", REQUIRED),
    # MeshExternalService: rules
    (mes(match="match: {port: 0} #!"), "spec.match.port", PORT),
    (mes(match="match: {port: 65536} #!"), "spec.match.port", PORT),
    (mes(match="match: {port: -1} #!"), "spec.match.port", PORT),
    (
        mes(match="match: {port: 80, type: Host} #!"),
        "spec.match.type",
        "unrecognized type 'Host' - only 'HostnameGenerator' is supported",
    ),
    (
        mes(match="match: {port: 80, protocol: udp} #!"),
        "spec.match.protocol",
        '"protocol" must be one of ["tcp", "grpc", "http", "http2"]',
    ),
    (endpoint("{address: a, port: 0}"), "spec.endpoints[1].port", PORT),
    (endpoint("{address: 10.0.0.1, port: 65536}"), "spec.endpoints[1].port", PORT),
    (endpoint("{address: a}"), "spec.endpoints[1].port", REQUIRED),
    (endpoint("{address: '*.example.com', port: 1}"), "spec.endpoints[1].address", ADDRESS),
    (endpoint("{address: 'a b', port: 1}"), "spec.endpoints[1].address", ADDRESS),
    (endpoint("{address: 'fe80::1%eth0', port: 1}"), "spec.endpoints[1].address", ADDRESS),
    (endpoint("{address: 'http://a', port: 1}"), "spec.endpoints[1].address", ADDRESS),
    (
        endpoint("{address: 'unix:///run/a.sock', port: 1}"),
        "spec.endpoints[1].port",
        "must not be defined when endpoint is a unix path",
    ),
    (
        endpoint("{address: 'unix://a.sock'}"),
        "spec.endpoints[1].address",
        f"{ADDRESS} or a unix path (unix:///path or unix://@name)",
    ),
    (
        endpoint("{address: 'unix://'}"),
        "spec.endpoints[1].address",
        f"{ADDRESS} or a unix path (unix:///path or unix://@name)",
    ),
    (
        endpoint(f"{{address: 'unix:///{'a' * service.MAX_UNIX_PATH_BYTES}'}}"),
        "spec.endpoints[1].address",
        f"a unix path must not be longer than {service.MAX_UNIX_PATH_BYTES} bytes",
    ),
    (tls("version: {min: TLS1} #!"), "spec.tls.version.min", f'"min" must be one of {VERSIONS}'),
    (tls("version: {max: tls12} #!"), "spec.tls.version.max", f'"max" must be one of {VERSIONS}'),
    (
        tls("version: {min: TLS13, max: TLS12} #!"),
        "spec.tls.version.min",
        "min version must be lower than max",
    ),
    (verification("serverName: 10.0.0.1 #!"), f"{V}.serverName", "must be a valid DNS name"),
    (verification("serverName: '' #!"), f"{V}.serverName", "must be a valid DNS name"),
    (
        verification("mode: Skip #!"),
        f"{V}.mode",
        '"mode" must be one of ["SkipSAN", "SkipCA", "SkipAll", "Secured"]',
    ),
    (
        verification("subjectAltNames: [{type: Regex, value: a}] #!"),
        f"{V}.subjectAltNames[0].type",
        '"type" must be one of ["Prefix", "Exact"]',
    ),
    (
        tls("verification: #!", "  clientCert: {secret: a}"),
        f"{V}.clientKey",
        "must be defined when clientCert is defined",
    ),
    (
        tls("verification: #!", "  clientKey: {secret: a}"),
        f"{V}.clientCert",
        "must be defined when clientKey is defined",
    ),
    (mes("extension: {type: ''} #!"), "spec.extension.type", "must not be empty"),
    (
        mes("endpoints: [{address: 'unix:///a'}]", "tls: {enabled: true} #!"),
        f"{V}.serverName",
        "must be defined for a unix socket endpoint, or give subjectAltNames: there is no name to verify",
    ),
    (
        f"type: MeshExternalService\nname: {'a' * (service.MAX_NAME_CHARS + 1)} #!\nspec: {{match: {{port: 1}}}}",
        "name",
        f"must be no more than {service.MAX_NAME_CHARS} characters",
    ),
    (
        f"type: MeshExternalService\nname: 1{'a' * 63} #!\nspec: {{match: {{port: 1}}}}",
        "name",
        f"must be no more than 63 characters, {DNS_1035_TEXT}",
    ),
    # Data sources
    (source("{}"), f"{V}.caCert", "unsupported type of the DataSource"),
    (source("text"), f"{V}.caCert", typed("object", "string")),
    (source("{inline: '%%%'}"), f"{V}.caCert.inline", BASE64),
    (source("{inline: YQ}"), f"{V}.caCert.inline", BASE64),
    (source("{secret: ''}"), f"{V}.caCert.secret", "must not be empty"),
    (source("{secret: 5}"), f"{V}.caCert.secret", typed("string", "integer")),
    (source("{secrt: a}"), f"{V}.caCert.secrt", 'unknown field; did you mean "secret"?'),
    (
        source("{secret: a, inline: YQ==}"),
        f"{V}.caCert",
        "must have only one of: secret, inline, inlineString; it has secret, inline",
    ),
    (
        source("{secret: a, type: Secret}"),
        f"{V}.caCert",
        "secret and type cannot be combined: one is the form of Kuma 2, the other of Kuma 3",
    ),
    (
        source("{type: File, file: {path: /a}}"),
        f"{V}.caCert.type",
        "File must be one of: Secret, InsecureInline",
    ),
    (
        source("{type: EnvVar, envVar: {name: A}}"),
        f"{V}.caCert.type",
        "EnvVar must be one of: Secret, InsecureInline",
    ),
    (
        source("{type: Inline}"),
        f"{V}.caCert.type",
        "Inline must be one of: EnvVar, InsecureInline, File, Secret",
    ),
    (source("{secretRef: {kind: Secret, name: a}}"), f"{V}.caCert.type", REQUIRED),
    (source("{type: Secret}"), f"{V}.caCert.secretRef", DEFINED),
    (source("{type: Secret, secretRef: {kind: Secret}}"), f"{V}.caCert.secretRef.name", DEFINED),
    (
        source("{type: Secret, secretRef: {kind: ConfigMap, name: a}}"),
        f"{V}.caCert.secretRef.kind",
        "ConfigMap must be one of: Secret",
    ),
    (source("{type: InsecureInline}"), f"{V}.caCert.insecureInline", DEFINED),
    (source("{type: InsecureInline, insecureInline: {}}"), f"{V}.caCert.insecureInline.value", DEFINED),
    (
        source("{type: Secret, secretRef: {kind: Secret, name: a}, insecureInline: {value: b}}"),
        f"{V}.caCert",
        "type Secret takes secretRef only, and insecureInline is given",
    ),
    (
        mes("extension: {type: lambda}", "tls: {verification: {caCert: {}}} #!"),
        f"{V}.caCert",
        "unsupported type of the DataSource",
    ),
    # Dataplane
    ("type: Dataplane #!\nname: dp", "networking", DEFINED),
    (dataplane(address="inbound: []").replace("king:", "king: #!"), "networking.address", "address can't be empty"),
    (dataplane(address="address: 0.0.0.0 #!"), "networking.address", "must not be 0.0.0.0 or ::"),
    (dataplane(address="address: '::' #!"), "networking.address", "must not be 0.0.0.0 or ::"),
    (
        dataplane(address="address: '!' #!"),
        "networking.address",
        "address has to be valid IP address or domain name",
    ),
    (dataplane("inbuond: [] #!"), "networking.inbuond", 'unknown field; did you mean "inbound"?'),
    (dataplane() + "\nnetwork: {} #!", "network", 'unknown field; did you mean "networking"?'),
    (inbound("{servicePort: 2}"), "networking.inbound[1].port", PORT_RANGE),
    (inbound("{port: 70000, servicePort: 2}"), "networking.inbound[1].port", PORT_RANGE),
    (inbound("{port: 80, servicePort: 70000}"), "networking.inbound[1].servicePort", PORT_RANGE),
    (
        inbound("{port: 80, serviceAddress: app}"),
        "networking.inbound[1].serviceAddress",
        "serviceAddress has to be valid IP address",
    ),
    (
        inbound("{port: 80, serviceAddress: 10.0.0.1}"),
        "networking.inbound[1].serviceAddress",
        "serviceAddress and servicePort has to differ from address and port",
    ),
    (inbound("{port: 80, servicePort: 81, address: a}"), "networking.inbound[1].address", IP),
    (
        inbound("{port: 80, servicePort: 81, protocol: udp}"),
        "networking.inbound[1].protocol",
        'has an invalid value "udp". Allowed values: grpc, http, http2, kafka, tcp',
    ),
    (
        inbound("{port: 80, servicePort: 81, tags: {a: b}}"),
        'networking.inbound[1].tags["kuma.io/service"]',
        "tag has to exist",
    ),
    (
        inbound("{port: 80, servicePort: 81, tags: {kuma.io/service: a, kuma.io/protocol: x}}"),
        'networking.inbound[1].tags["kuma.io/protocol"]',
        'tag "kuma.io/protocol" has an invalid value "x". Allowed values: grpc, http, http2, kafka, tcp',
    ),
    (
        inbound("{port: 80, servicePort: 81, serviceProbe: {interval: 0s}}"),
        "networking.inbound[1].serviceProbe.interval",
        POSITIVE,
    ),
    (
        inbound("{port: 80, servicePort: 81, serviceProbe: {healthyThreshold: 0}}"),
        "networking.inbound[1].serviceProbe.healthyThreshold",
        POSITIVE,
    ),
    (
        dataplane("inbound: [{port: 9901, servicePort: 1, address: 127.0.0.1}]", "admin: {port: 9901} #!"),
        "networking.admin.port",
        "must differ from inbound",
    ),
    (
        dataplane(
            "outbound: [{port: 9901, backendRef: {kind: MeshExternalService, name: a}}]",
            "admin: {port: 9901} #!",
        ),
        "networking.admin.port",
        "must differ from outbound",
    ),
    (
        outbound("{port: 0, backendRef: {kind: MeshExternalService, name: a}}"),
        "networking.outbound[1].port",
        PORT_RANGE,
    ),
    (
        outbound("{port: 1, address: a, backendRef: {kind: MeshExternalService, name: a}}"),
        "networking.outbound[1].address",
        IP,
    ),
    (outbound("{port: 1}"), "networking.outbound[1].backendRef", DEFINED),
    (
        outbound("{port: 1, tags: {kuma.io/service: a}, backendRef: {kind: MeshExternalService, name: a}}"),
        "networking.outbound[1].backendRef",
        "both backendRef and tags/service cannot be defined",
    ),
    (
        outbound("{port: 1, backendRef: {kind: MeshExternalService}}"),
        "networking.outbound[1].backendRef",
        "either 'name' or 'labels' should be specified",
    ),
    (
        outbound("{port: 1, backendRef: {kind: MeshExternalService, name: a, labels: {b: c}}}"),
        "networking.outbound[1].backendRef",
        "either 'name' or 'labels' should be specified",
    ),
    (outbound("{port: 1, backendRef: {kind: Pod, name: a}}"), "networking.outbound[1].backendRef.kind", BACKENDS),
    (
        outbound("{port: 1, backendRef: {kind: MeshService, name: a}}"),
        "networking.outbound[1].backendRef.port",
        PORT_RANGE,
    ),
    (
        outbound("{port: 1, tags: {a: b}}"),
        "networking.outbound[1].tags",
        'mandatory tag "kuma.io/service" is missing',
    ),
    (
        dataplane("gateway: {}", "inbound: [{port: 1, servicePort: 2}] #!"),
        "networking.inbound",
        "inbound cannot be defined for delegated gateways",
    ),
    (
        dataplane("gateway: {type: DELEGATED}", "listeners: [{type: ZoneEgress, port: 1}] #!"),
        "networking.listeners",
        "listeners cannot be defined for delegated gateways",
    ),
    (dataplane("listeners: [{port: 1}] #!"), "networking.listeners[0].type", "type must be ZoneIngress or ZoneEgress"),
    (
        dataplane("listeners: [{port: 1, type: Zone}] #!"),
        "networking.listeners[0].type",
        "type must be ZoneIngress or ZoneEgress",
    ),
    (
        dataplane("listeners:", "- {type: ZoneEgress, port: 1, name: a}", "- {type: ZoneEgress, port: 2, name: a} #!"),
        "networking.listeners[1].name",
        'name "a" must be unique across inbounds and listeners',
    ),
    (
        dataplane("listeners:", "- {type: ZoneEgress, port: 1, name: a}", "- {type: ZoneEgress, port: 1, name: b} #!"),
        "networking.listeners[1]",
        "address:port 10.0.0.1:1 is already used by another listener",
    ),
    (
        dataplane("listeners:", "- {type: ZoneEgress, port: 1, name: a}", "- {type: ZoneIngress, port: 1, name: b} #!"),
        "networking.listeners[1]",
        "address:port 10.0.0.1:1 is used by listeners of different types",
    ),
    (
        dataplane("inbound: [{port: 1, servicePort: 2}]", "listeners: [{type: ZoneEgress, port: 1, name: b}] #!"),
        "networking.listeners[0]",
        "address:port 10.0.0.1:1 collides with an inbound listener",
    ),
    (
        refs("{kind: MeshService}"),
        "networking.transparentProxing.reachableBackends.refs[0].name",
        "name or labels are required",
    ),
    (
        refs("{kind: MeshService, namespace: a, labels: {a: b}}"),
        "networking.transparentProxing.reachableBackends.refs[0].name",
        "name is required, when namespace is defined",
    ),
    (
        refs("{kind: MeshService, name: a, labels: {a: b}}"),
        "networking.transparentProxing.reachableBackends.refs[0].labels",
        "labels cannot be defined when name is specified",
    ),
    # Mesh, Secret
    (
        "type: Mesh\nname: m\nrouting: {zoneEgres: true} #!",
        "routing.zoneEgres",
        'unknown field; did you mean "zoneEgress"?',
    ),
    ("type: Mesh\nname: m\nrouting: {zoneEgress: 1} #!", "routing.zoneEgress", typed("boolean", "integer")),
    ("type: Mesh\nname: m\nmtls: true #!", "mtls", typed("object", "boolean")),
    ("type: Secret #!\nname: s", "data", REQUIRED),
    ("type: Secret\nname: s\ndata: '***' #!", "data", "must be base64 with padding"),
    ("type: Secret\nname: s\ndata: [a] #!", "data", typed("string", "array")),
    (
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ntype: system.kuma.io/secret\ndata: {} #!",
        "data.value",
        DEFINED,
    ),
    (
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ntype: system.kuma.io/secret\ndata: {value: '*'} #!",
        "data.value",
        "must be base64 with padding",
    ),
    # What the reader finds
    ("type: Mesh\nname: m\nname: n #!", "name", "key 'name' is given twice, first on line 2"),
    ("type: Mesh\nname: !custom m #!", "name", "tags are not supported"),
    ("type: Mesh\nname: m\n<<: {a: 1} #!", "", "merge keys (<<) are not supported"),
    ("type: Mesh\nname: *m #!", "name", "alias *m has no anchor"),
    ("type: Mesh\nname: m\n5: a #!", "", "a mapping key must be a string"),
]  # fmt: skip


def load(tmp_path: Path, text: str) -> list[Problem]:
    file = tmp_path / "resources.yaml"
    file.write_text(text)
    return load_resources([file]).all_problems


@pytest.mark.parametrize(("text", "field", "message"), CASES, ids=[f"{case[1]}-{n}" for n, case in enumerate(CASES)])
def test_one_violation(tmp_path: Path, text: str, field: str, message: str) -> None:
    (line,) = (number for number, row in enumerate(text.split("\n"), 1) if "#!" in row)
    found = [p for p in load(tmp_path, text) if p.is_error]
    assert [(p.line, p.field, p.message) for p in found] == [(line, field, message)]


WARNINGS = [
    (
        verification("mode: SkipSAN #!"),
        f"{V}.mode",
        "SkipSAN: the names in the server's certificate are not verified",
    ),
    (
        verification("mode: SkipCA #!"),
        f"{V}.mode",
        "SkipCA: who issued the server's certificate is not verified",
    ),
    (verification("mode: SkipAll #!"), f"{V}.mode", "SkipAll: the server's certificate is not verified"),
    (
        verification("subjectAltNames: [{type: Prefix, value: 'spiffe://td'}] #!"),
        f"{V}.subjectAltNames[0].value",
        "a prefix that does not end in / also matches longer names, such as spiffe://td-other",
    ),
    (
        tls("version: {min: TLS12} #!", head="enabled: false").replace("tls:", "tls: #!").replace("12} #!", "12}"),
        "spec.tls",
        "enabled is false: traffic is plaintext, and the other fields of tls are ignored",
    ),
    (
        tls("allowRenegotiation: true #!"),
        "spec.tls.allowRenegotiation",
        "renegotiation is not recommended, and TLS 1.3 does not have it",
    ),
    (tls("version: {min: TLS10} #!"), "spec.tls.version.min", "TLS10 is outdated and not secure (RFC 8996)"),
    (
        endpoint("{address: ok.example.com, port: 443}"),
        "spec.endpoints[1]",
        "the same endpoint is listed more than once",
    ),
    (mes("endpoints: [] #!"), "spec.endpoints", "no endpoints: every connection will be refused"),
    (
        mes("endpoints: [{address: a, port: 1}]").replace("name: svc", "name: a.b #!"),
        "name",
        "Invalid MeshExternalService resource name: 'a.b'. It does not conform to the DNS format (RFC 1035). "
        f"This is deprecated. Errors: {DNS_1035_TEXT}",
    ),
    (
        inbound("{port: 80, servicePort: 80}"),
        "networking.inbound[1]",
        "forwards to itself: give the application another port (servicePort) or IP (serviceAddress)",
    ),
    (outbound("{port: 1, tags: {kuma.io/service: a}}"), "networking.outbound[1]", "not a backendRef: skipped"),
    ("type: MeshTrace #!\nname: a", "type", "kind MeshTrace is not used by this version and is skipped"),
    (
        "apiVersion: kuma.io/v1alpha1\nkind: MeshHealthCheck #!",
        "kind",
        "kind MeshHealthCheck is not used by this version and is skipped",
    ),
    (
        "type: MeshExternalServce #!\nname: a",
        "type",
        "unknown kind MeshExternalServce is skipped (did you mean MeshExternalService?)",
    ),
    ("apiVersion: v1\nkind: Xyzzy #!", "kind", "unknown kind Xyzzy is skipped"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "field", "message"), WARNINGS, ids=[f"{w[1]}-{n}" for n, w in enumerate(WARNINGS)])
def test_one_warning(tmp_path: Path, text: str, field: str, message: str) -> None:
    (line,) = (number for number, row in enumerate(text.split("\n"), 1) if "#!" in row)
    found = load(tmp_path, text)
    assert [(p.line, p.field, p.message, p.severity) for p in found] == [(line, field, message, Severity.WARNING)]


def test_every_violation_is_reported_and_not_the_first_one(tmp_path: Path) -> None:
    text = mes(
        "endpoints: [{address: '*', port: 0}, {address: b}]",
        "tls:",
        "  version: {min: X}",
        "  verification:",
        "    mode: Y",
        "    serverName: 1.1.1.1",
        "    caCert: {type: File}",
        "    clientKey: {secret: a}",
        match="match: {type: T, port: 0, protocol: udp}",
    )
    assert {p.field for p in load(tmp_path, text) if p.is_error} == {
        "spec.match.type",
        "spec.match.port",
        "spec.match.protocol",
        "spec.endpoints[0].address",
        "spec.endpoints[0].port",
        "spec.endpoints[1].port",
        "spec.tls.version.min",
        f"{V}.mode",
        f"{V}.serverName",
        f"{V}.caCert.type",
        f"{V}.clientCert",
    }


def test_a_shape_fault_does_not_hide_what_the_rules_find(tmp_path: Path) -> None:
    text = mes("endpoints: [{address: '*'}, {address: a.example, port: 0, weight: 1}]", match="match: {}")
    found = load(tmp_path, text)
    assert [p.field for p in found] == [
        "spec.match.port",
        "spec.endpoints[0].address",
        "spec.endpoints[0].port",
        "spec.endpoints[1].port",
        "spec.endpoints[1].weight",
    ]


def test_what_stands_in_for_a_fault_is_never_complained_about(tmp_path: Path) -> None:
    found = load(tmp_path, mes("endpoints: [{port: 80}, {port: 80}]"))
    assert [(p.field, p.message) for p in found] == [
        ("spec.endpoints[0].address", "in body is required"),
        ("spec.endpoints[1].address", "in body is required"),
    ]


def test_an_extension_owns_endpoints_and_tls(tmp_path: Path) -> None:
    text = mes(
        "extension: {type: lambda}", "endpoints: [{address: '*', port: 0}]", "tls: {verification: {serverName: ''}}"
    )
    assert load(tmp_path, text) == []


def test_a_kubernetes_dataplane_has_spec_in_its_paths(tmp_path: Path) -> None:
    text = (
        "apiVersion: kuma.io/v1alpha1\nkind: Dataplane\nmesh: m\nmetadata: {name: d}\n"
        "spec:\n  networking:\n    inbound: []"
    )
    (problem,) = load(tmp_path, text)
    assert (problem.line, problem.mesh, problem.field) == (6, "m", "spec.networking.address")


def test_a_message_shows_the_beginning_of_a_wrong_value(tmp_path: Path) -> None:
    whole, long = "x" * MAX_SHOWN_CHARS, "y" * (MAX_SHOWN_CHARS + 1)
    (problem,) = load(tmp_path, source(f"{{type: {whole}}}"))
    assert problem.message.startswith(f"{whole} must")
    (problem,) = load(tmp_path, source(f"{{type: {long}}}"))
    assert problem.message.startswith(f"{long[:MAX_SHOWN_CHARS]}... must")


def test_secrets_are_in_no_message(tmp_path: Path) -> None:
    text = "\n---\n".join([
        "type: Secret\nname: s\ndata: 'TOPSECRET!'",
        source("{inline: 'TOPSECRET!'}"),
        source("{inlineString: [TOPSECRET]}"),
        source("{type: -----BEGIN PRIVATE KEY-----TOPSECRET}"),
        source("{type: InsecureInline, insecureInline: {value: [TOPSECRET]}}"),
        "apiVersion: v1\nkind: Secret\nmetadata: {name: k}\ntype: system.kuma.io/secret\n"
        "stringData: {value: [TOPSECRET]}",
    ])  # fmt: skip
    found = load(tmp_path, text)
    assert len([p for p in found if p.is_error]) == 9  # one for each, and three for a name that is taken
    assert not any("TOPSECRET" in p.as_text() for p in found)
