"""Guarantee: every YAML file under ``examples/`` is what it says: it is valid, ``inspect`` shows what would run, and
``run`` serves it. So are the YAML blocks of the README.

Nothing of an example is changed for ``run`` but what belongs to the place: ports, the path of the unix socket, the
contents of Secrets, and the one address that is an IP. Names stay, mapped to loopback by a hosts file; the system's CAs
are those of a file that the test names.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kit import client, peers, yamlkit
from tests.kit.ca import Authority
from tests.kit.http2_peers import H2Client, H2Origin
from tests.kit.koguma import SOURCE_ROOT, Koguma, run_to_end
from tests.kit.origins import Origin, always, ok
from tests.kit.peers import Peer, greeting
from tests.kit.ports import free_port
from tests.kit.rawhttp import Wire

EXAMPLES = SOURCE_ROOT / "examples"
SERVICES = EXAMPLES / "meshexternalservice"
SECRETS = EXAMPLES / "secrets"
MESH = EXAMPLES / "mesh" / "forbid-external-access.yaml"
TRUSTS = EXAMPLES / "meshtrust"
README = SOURCE_ROOT / "README.md"
SYSTEM_CA_VARIABLE = "KUMA_DATAPLANE_RUNTIME_DYNAMIC_SYSTEM_CA_PATH"

PUBLIC_ROOT = Authority.root("Public Root")
CORPORATE_ROOT = Authority.root("Corporate Root")
CLIENT_ROOT = Authority.root("Database Client Root")
DATABASE_CLIENT = CLIENT_ROOT.leaf("spiffe://example.com/backend")

SECRET_CONTENTS = {
    "postgres-client-cert": DATABASE_CLIENT.chain_pem,
    "postgres-client-key": DATABASE_CLIENT.key_pem,
    "corporate-ca-cert": CORPORATE_ROOT.pem,
}


@dataclass(frozen=True, slots=True)
class StandIn:
    """What answers for an example's endpoints: a certificate with this name by this issuer, or plaintext."""

    name: str = ""
    issuer: Authority | None = None
    client_ca: Authority | None = None
    at: tuple[str, ...] = ("127.0.0.1",)
    """An address for each endpoint; ``unix`` for a socket."""

    def context(self, name: str) -> Any:
        if self.issuer is None:
            return None
        ca_pem = self.client_ca.pem if self.client_ca is not None else None
        return peers.server_tls(self.issuer.leaf(name), client_ca_pem=ca_pem)


STAND_INS = {
    "httpbin": StandIn(),
    "httpbin-tls": StandIn("httpbin.org", PUBLIC_ROOT),
    "database": StandIn("postgres.external.example.com", PUBLIC_ROOT, CLIENT_ROOT),
    "grpc-api": StandIn("grpcbin.test.k6.io", PUBLIC_ROOT),
    "api-gateway": StandIn("api.example.com", PUBLIC_ROOT, at=("127.0.0.1", "::1", "127.0.0.3")),
    "local-service": StandIn(at=("unix",)),
    "private-api": StandIn("internal.corp.example.com", CORPORATE_ROOT),
    "spiffe-service": StandIn("spiffe://example.com/ns/production/sa/api", PUBLIC_ROOT),
}
EXPECTED_SNI = {name: stand_in.name for name, stand_in in STAND_INS.items()} | {"spiffe-service": "service.example.com"}
WITH_TLS = sorted(name for name, stand_in in STAND_INS.items() if stand_in.issuer is not None)


@dataclass
class World:
    """The examples' resources as they run here: their files, their stand-ins, and where the proxy listens."""

    koguma: Koguma
    peers: dict[str, list[Peer]] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    protocols: dict[str, str] = field(default_factory=dict)
    """``match.protocol`` of each service."""

    def ask(self, service: str) -> bytes:
        """What the service says when it is asked, be it by HTTP or in its own words."""
        match self.protocols[service]:
            case "http":
                with Wire(self.ports[service]) as wire:
                    return wire.get().body
            case "grpc":
                with H2Client(self.ports[service]) as h2:
                    return bytes(h2.ask().body)
            case _:
                return client.ask(self.ports[service])

    def refuses(self, service: str, status: int) -> bool:
        """With a status where it speaks HTTP, else without a word."""
        if self.protocols[service] == "tcp":
            return client.gets_nowhere(self.ports[service])
        with Wire(self.ports[service]) as wire:
            return wire.get().status == status


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def speaking(protocol: str, words: bytes, at: str, tls: Any) -> Peer:
    """A stand-in that says ``words`` in the service's protocol."""
    match protocol:
        case "http":
            return Origin(always(ok(words)), at=at, tls=tls)
        case "grpc":
            tls.set_alpn_protocols(["h2"])
            return H2Origin(lambda visit, request: visit.answer(request, 200, body=words), at=at, tls=tls)
        case _:
            return Peer(greeting(words), at=at, tls=tls)


def build(directory: Path, stage: ExitStack, names: dict[str, str], *, dataplane: str = "dataplane-all.yaml") -> World:
    """All examples of services and Secrets, not yet running. ``names``: what each stand-in's certificate says."""
    hosts = directory / "hosts"
    system_ca = directory / "system-ca.pem"
    system_ca.write_text(PUBLIC_ROOT.pem)
    koguma = Koguma(directory / "koguma", args=["--hosts-file", str(hosts)], env={SYSTEM_CA_VARIABLE: str(system_ca)})
    world = World(koguma)
    mapped: dict[str, str] = {}
    for path in sorted(SERVICES.glob("*.yaml")):
        (document,) = documents(path)
        service = document["metadata"]["name"]
        stand_in = STAND_INS[service]
        world.peers[service] = []
        protocol = world.protocols[service] = document["spec"]["match"]["protocol"]
        endpoints = document["spec"]["endpoints"]
        for number, (endpoint, address) in enumerate(zip(endpoints, stand_in.at, strict=True)):
            at = str(directory / f"{service}.sock") if address == "unix" else address
            words = f"{service} {number}".encode()
            tls = stand_in.context(names[service])
            peer = stage.enter_context(speaking(protocol, words, at, tls))
            world.peers[service].append(peer)
            if address == "unix" or re.fullmatch(r"[0-9.]+", endpoint["address"]):
                endpoint.update(peer.endpoint)
            else:
                mapped[endpoint["address"]] = address
                endpoint["port"] = peer.port
        koguma.write(path.name, document)
    hosts.write_text("".join(f"{address} {name}\n" for name, address in mapped.items()))
    for path in SECRETS.glob("*.yaml"):
        secrets = documents(path)
        for secret in secrets:
            content = SECRET_CONTENTS[secret["metadata"]["name"]]
            secret["data"]["value"] = base64.b64encode(content.encode()).decode()
        koguma.write(path.name, *secrets)
    (document,) = documents(EXAMPLES / dataplane)
    for outbound in document["networking"]["outbound"]:
        outbound["port"] = world.ports[outbound["backendRef"]["name"]] = free_port()
    koguma.dataplane_file.write_text(yamlkit.render(document))
    return world


RIGHT_NAMES = {name: stand_in.name for name, stand_in in STAND_INS.items()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stage:
        world = build(tmp_path_factory.mktemp("examples"), stage, RIGHT_NAMES)
        stage.enter_context(world.koguma)
        yield world


def test_there_is_a_stand_in_for_every_example() -> None:
    assert {path.stem for path in SERVICES.iterdir()} == STAND_INS.keys()


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_is_valid(path: Path, tmp_path: Path) -> None:
    done = run_to_end("validate", str(path), cwd=tmp_path)
    assert done.exit_code == 0, done.output


def test_all_together_are_valid(tmp_path: Path) -> None:
    done = run_to_end("validate", str(EXAMPLES), "--format", "json", cwd=tmp_path)
    assert done.exit_code == 0, done.output
    warned = {(problem["type"], problem["name"], problem["field"]) for problem in json.loads(done.stdout)}
    assert warned == {
        ("Dataplane", "backend", "networking.inbound[0]"),
        ("MeshExternalService", "backend", "spec.tls.verification.caCert"),  # two-zones makes the Secret
        ("MeshExternalService", "spiffe-service", "spec.tls.verification.subjectAltNames[1].value"),
    }


def test_inspect_shows_every_service_and_endpoint(tmp_path: Path) -> None:
    sources = ["--dataplane-file", str(EXAMPLES / "dataplane-all.yaml"), str(SERVICES), str(SECRETS)]
    system_ca = tmp_path / "system-ca.pem"
    system_ca.write_text(PUBLIC_ROOT.pem)
    done = run_to_end("inspect", "--format", "json", *sources, cwd=tmp_path, env={SYSTEM_CA_VARIABLE: str(system_ca)})
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)["plan"]
    assert len(plan["listeners"]) == len(STAND_INS)
    clusters = {cluster["name"]: cluster for cluster in plan["clusters"]}
    for path in SERVICES.iterdir():
        (document,) = documents(path)
        service, spec = document["metadata"]["name"], document["spec"]
        name = yamlkit.kri(service, spec["match"]["port"], namespace="kuma-system")
        targets = [one["address"] + (f":{one['port']}" if "port" in one else "") for one in spec["endpoints"]]
        assert [endpoint["target"] for endpoint in clusters[name]["endpoints"]] == targets
        assert (clusters[name]["tls"] is not None) == (service in WITH_TLS)


def test_inspect_of_the_universal_dataplane(tmp_path: Path) -> None:
    done = run_to_end(
        "inspect", "--dataplane-file", str(EXAMPLES / "dataplane.yaml"), str(SERVICES / "httpbin.yaml"), cwd=tmp_path
    )
    assert done.exit_code == 0, done.output
    assert "outbound 127.0.0.1:10080 -> httpbin (http)" in done.stdout


@pytest.mark.parametrize("service", STAND_INS)
def test_runs(world: World, service: str) -> None:
    stand_ins = world.peers[service]
    answers = {world.ask(service) for _ in stand_ins}
    assert answers == {f"{service} {number}".encode() for number in range(len(stand_ins))}
    for peer in stand_ins:
        seen = peer.seen[0]
        if service in WITH_TLS:
            assert seen.sni == EXPECTED_SNI[service]
            assert (seen.client_der is not None) == (service == "database")
        else:
            assert seen.version is None


def test_impostors_are_refused(tmp_path: Path) -> None:
    with ExitStack() as stage:
        world = build(tmp_path, stage, dict.fromkeys(STAND_INS, "impostor.example.net"))
        stage.enter_context(world.koguma)
        for service in WITH_TLS:
            assert world.refuses(service, 503)
            assert {verdict["cause"] for verdict in world.koguma.verdicts(service)} == {"san_mismatch"}
            assert all(peer.seen[0].received_bytes == 0 for peer in world.peers[service])


def test_mesh_forbids_access(tmp_path: Path) -> None:
    with ExitStack() as stage:
        world = build(tmp_path, stage, RIGHT_NAMES)
        world.koguma.write_text(MESH.name, MESH.read_text())
        stage.enter_context(world.koguma)
        for service, stand_ins in world.peers.items():
            assert world.refuses(service, 403)
            assert not any(peer.seen for peer in stand_ins)


def test_universal_dataplane_runs_and_mesh_trusts_do_no_harm(tmp_path: Path) -> None:
    with ExitStack() as stage:
        world = build(tmp_path, stage, RIGHT_NAMES, dataplane="dataplane.yaml")
        for path in TRUSTS.iterdir():
            world.koguma.write_text(path.name, path.read_text())
        stage.enter_context(world.koguma)
        assert world.ask("httpbin") == b"httpbin 0"


def test_readme_documents_are_valid(tmp_path: Path) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    for number, block in enumerate(blocks):
        (tmp_path / f"readme-{number}.yaml").write_text(block)
    done = run_to_end("validate", str(tmp_path), cwd=tmp_path)
    assert done.exit_code == 0, done.output
