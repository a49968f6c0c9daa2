"""Guarantee: through the zone egress, and only through it, a sidecar's application reaches the outside, by all four
protocols; and what the egress may not do, it does not.
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from config.resources.meta import Meta
from config.sni import snis_of
from tests.e2e.upstreams import SERVER, STRANGER, trusting
from tests.kit import client, peers, poll, yamlkit
from tests.kit.ca import Identity, key_pem
from tests.kit.grpc_peers import Caller, GrpcServer
from tests.kit.http2_peers import H2Client, H2Origin, echo
from tests.kit.koguma import run_to_end
from tests.kit.origins import Origin, always, ok
from tests.kit.peers import Peer
from tests.kit.rawhttp import Wire
from tests.kit.zone import CA, EVERYBODY, TRUST_DOMAIN, Egress, Sidecar, Zone
from tests.tls.inbound import client_context

WEB = CA.leaf(f"spiffe://{TRUST_DOMAIN}/workload/web")
EXIT = CA.leaf(f"spiffe://{TRUST_DOMAIN}/workload/exit")
GET = b"GET / HTTP/1.1\r\nHost: svc\r\n\r\n"
UNAVAILABLE = "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure"


def knock(egress: Egress, identity: Identity | None, sni: str | None, question: bytes = b"ping") -> bytes | None:
    """What comes back to a client with this certificate that asks for this name; ``None``: its TLS is refused."""
    context = client_context(identity, alpn=("kuma",))
    try:
        raw = socket.create_connection(("127.0.0.1", egress.port_of_door), 10)
        with raw, context.wrap_socket(raw, server_hostname=sni) as sock:
            sock.sendall(question)
            return sock.recv(65536)
    except (ssl.SSLError, ConnectionError):
        return None


@pytest.fixture
def zone(tmp_path: Path) -> Zone:
    return Zone(tmp_path)


# All four protocols


@dataclass(frozen=True, slots=True)
class World:
    egress: Egress
    sidecar: Sidecar
    origin: Origin


@pytest.fixture(scope="module", params=[False, True], ids=["Dataplane", "ZoneEgress"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("zone")
    zone = Zone(directory, legacy=request.param)
    hosts = directory / "hosts"
    hosts.write_text("127.0.0.1 outside.example.test\n")
    identity = peers.server_tls(SERVER)
    with ExitStack() as stack:
        tcp = stack.enter_context(Peer(peers.echo, tls=identity))
        http = stack.enter_context(Origin(always(ok(b"hello"))))
        http2 = stack.enter_context(H2Origin(echo, tls=identity))
        grpc = stack.enter_context(GrpcServer(directory / "grpc", identity=SERVER))
        zone.service("tcp", [tcp.endpoint], tls=trusting(), protocol="tcp")
        zone.service("http", [{**http.endpoint, "address": "outside.example.test"}], protocol="http")
        zone.service("http2", [http2.endpoint], tls=trusting(), protocol="http2")
        zone.service("grpc", [grpc.endpoint], tls=trusting(), protocol="grpc")
        log = directory / "access.log"
        args = ["--hosts-file", str(hosts), "--access-log", str(log)]
        egress = stack.enter_context(zone.egress(args=args))
        sidecar = stack.enter_context(zone.sidecar("web", "tcp", "http", "http2", "grpc"))
        yield World(egress, sidecar, http)


def test_tcp(world: World) -> None:
    assert client.ask(world.sidecar.port("tcp")) == b"ping"
    assert world.egress.stat("tcp", "ssl.handshake") > 0, "TLS to the service begins at the egress"
    assert world.egress.door_stat("ssl.handshake") > 0


def test_http(world: World) -> None:
    with Wire(world.sidecar.port("http")) as wire:
        first = wire.get("/", "x-request-id: 42-42")
        second = wire.get("/")
    assert (first.status, first.body, second.status) == (200, b"hello", 200)
    assert world.origin.requests[-2]["x-request-id"] == "42-42", "carried across both hops"
    assert len(world.origin.last["x-request-id"]) == 36
    assert world.origin.last["host"] == "outside.example.test", "the egress gives it the endpoint's name"

    def line() -> list[dict[str, object]]:
        lines = (world.egress.directory.parent / "access.log").read_text().splitlines()
        return [one for one in map(json.loads, lines) if one["request_id"] == "42-42"]

    (entry,) = poll.until(line, "a line in the access log")
    assert (entry["downstream_peer_uri_san"], entry["response_code"]) == (world.sidecar.identity, 200)
    assert "x-forwarded-client-cert" not in world.origin.last, "who is in the mesh is nobody's business outside"
    name = world.sidecar.identity.removeprefix("spiffe://").replace("/", "_")
    assert world.egress.stats()[f"peer.{name}.rq_total"] >= 2


def test_http2(world: World) -> None:
    with H2Client(world.sidecar.port("http2")) as h2:
        response = h2.ask("POST", "/", body=b"many words" * 10_000)
    assert (response.status, response.body) == (200, b"many words" * 10_000)


def test_grpc(world: World) -> None:
    with Caller(world.sidecar.port("grpc")) as caller:
        assert caller.unary("Echo", b"message") == b"message"
        assert list(caller.chat([b"1", b"2"])) == [b"1", b"2"]


@pytest.mark.parametrize("legacy_name", [False, True])
def test_both_forms_of_the_server_name(world: World, legacy_name: bool) -> None:
    name = snis_of(Meta("MeshExternalService", "default", "http"), 80)[legacy_name]
    answer = knock(world.egress, WEB, name.upper(), GET)
    assert answer is not None
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("sni", ["sni.extsvc.default.default.nobody.80", "tcp", None])
def test_a_server_name_that_nobody_has(world: World, sni: str | None) -> None:
    before = world.egress.door_stat("no_filter_chain_match")
    assert knock(world.egress, WEB, sni) is None
    assert world.egress.door_stat("no_filter_chain_match") == before + 1


@pytest.mark.parametrize(
    "identity",
    [None, STRANGER.leaf(f"spiffe://{TRUST_DOMAIN}/workload/web"), CA.leaf("spiffe://elsewhere/workload/web")],
    ids=["none", "another CA's", "another domain's"],
)
def test_a_certificate_that_proves_nothing(world: World, identity: Identity | None) -> None:
    sni = "sni.extsvc.default.default.tcp.80"
    assert not knock(world.egress, identity, sni)
    assert knock(world.egress, WEB, sni) == b"ping"


def test_what_is_not_tls(world: World) -> None:
    before = world.egress.door_stat("tls_inspector.tls_not_found")
    assert client.fate(world.egress.port_of_door, GET) is None
    assert world.egress.door_stat("tls_inspector.tls_not_found") == before + 1


def test_inspect_says_where_tls_begins(world: World) -> None:
    sidecar = world.sidecar
    done = run_to_end(
        "inspect", str(sidecar.resources), "--dataplane-file", str(sidecar.dataplane_file), cwd=sidecar.directory
    )
    assert done.stdout.count("through the zone egress, which originates TLS") == 4, done.output
    egress = world.egress
    done = run_to_end(
        "inspect", str(egress.resources), "--dataplane-file", str(egress.dataplane_file), cwd=egress.directory
    )
    assert "zone egress" in done.stdout
    assert done.stdout.count("TLS to the service is originated here") == 3, done.output


# What may not be


def test_a_service_with_a_certificate_of_the_wrong_ca(zone: Zone) -> None:
    stranger = peers.server_tls(STRANGER.leaf("127.0.0.1"))
    with Origin(always(ok()), tls=stranger) as http, Peer(peers.echo, tls=stranger) as tcp:
        zone.service("http", [http.endpoint], tls=trusting(), protocol="http")
        zone.service("tcp", [tcp.endpoint], tls=trusting())
        with zone.egress() as egress, zone.sidecar("web", "http", "tcp") as sidecar:
            with Wire(sidecar.port("http")) as wire:
                response = wire.get("/")
            assert (response.status, response.body.decode()) == (503, UNAVAILABLE)
            assert client.gets_nowhere(sidecar.port("tcp"))
            assert egress.verdicts("http")[0]["cause"] == "untrusted_issuer"
            assert not http.requests


def test_permissions(zone: Zone) -> None:
    """3.x: deny beats allow, a match is of both its fields, and whoever is not spoken of is denied."""
    with Origin(always(ok(b"hello"))) as http, Peer(peers.echo) as tcp:
        zone.service("http", [http.endpoint], protocol="http")
        zone.service("tcp", [tcp.endpoint])
        web = {"type": "Exact", "value": f"spiffe://{TRUST_DOMAIN}/workload/web"}
        sni = {"type": "Exact", "value": zone.sni("http")}
        zone.permit({"spiffeID": web, "sni": sni})
        with zone.egress() as egress:
            answer = knock(egress, WEB, zone.sni("http"), GET)
            assert answer is not None
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert not knock(egress, WEB, zone.sni("tcp")), "TCP is closed"
            other = knock(egress, CA.leaf(f"spiffe://{TRUST_DOMAIN}/workload/other"), zone.sni("http"), GET)
            assert other is not None
            assert other.startswith(b"HTTP/1.1 403 ")
            assert b"RBAC: access denied" in other
            assert egress.wait_for_event("peer_deny")["rule"] is None

            egress.changing(lambda: zone.permit(EVERYBODY, deny=[{"sni": sni}]))
            mark = len(egress.log)
            answer = knock(egress, WEB, zone.sni("http"), GET)
            assert answer is not None
            assert b"403" in answer
            assert knock(egress, WEB, zone.sni("tcp")) == b"ping"
            said = egress.wait_for_event("peer_deny", since=mark)
            assert said["rule"] == 'MeshTrafficPermission "exit" spec.rules[0].default.deny[0]'

            egress.changing(lambda: zone.permit(allowWithShadowDeny=[{"sni": sni}]))
            answer = knock(egress, WEB, zone.sni("http"), GET)
            assert answer is not None
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert egress.wait_for_event("peer_shadow_deny")["peer"].endswith("/web")
            assert egress.door_stat("rbac.shadow_denied") == 1


def test_a_permission_that_is_withdrawn_ends_what_it_allowed(zone: Zone) -> None:
    with Origin(always(ok(b"hello"))) as http, Peer(peers.echo) as tcp:
        zone.service("http", [http.endpoint], protocol="http")
        zone.service("tcp", [tcp.endpoint])
        with (
            zone.egress() as egress,
            zone.sidecar("web", "http", "tcp") as sidecar,
            Wire(sidecar.port("http")) as wire,
        ):
            assert wire.get("/").status == 200
            assert client.ask(sidecar.port("tcp")) == b"ping"
            egress.changing(lambda: zone.permit(deny=[EVERYBODY]))
            assert wire.get("/").status == 403, "the connection is the same"
            assert client.gets_nowhere(sidecar.port("tcp"))


def test_without_a_permission_nobody_passes(zone: Zone) -> None:
    with Peer(peers.echo) as peer:
        zone.service("app", [peer.endpoint])
        (zone.resources / "permission.yaml").unlink()
        with zone.egress() as egress, zone.sidecar("web", "app") as sidecar:
            assert client.gets_nowhere(sidecar.port("app"))
            assert egress.wait_for_event("peer_deny")["message"].endswith("no rule allows it")
        assert not peer.seen


def test_a_mesh_that_forbids(tmp_path: Path) -> None:
    zone = Zone(tmp_path, legacy=True)
    zone.write("mesh.yaml", zone.mesh_document(defaultForbidMeshExternalServiceAccess=True))
    with Origin(always(ok())) as http, Peer(peers.echo) as tcp:
        zone.service("http", [http.endpoint], protocol="http")
        zone.service("tcp", [tcp.endpoint])
        with zone.egress() as egress:
            answer = knock(egress, WEB, zone.sni("http"), GET)
            assert answer is not None
            assert answer.startswith(b"HTTP/1.1 403 ")
            assert not knock(egress, WEB, zone.sni("tcp"))
            assert egress.wait_for_event("access_denied")
        assert not http.requests
        assert not tcp.seen


def test_each_mesh_by_its_own_authority(tmp_path: Path) -> None:
    """One ZoneEgress, two meshes: a peer of one is nobody in the other."""
    zone = Zone(tmp_path, legacy=True)
    domain = "other.default.mesh.local"
    with Peer(peers.echo) as peer:
        zone.service("app", [peer.endpoint])
        other = yamlkit.mes("app", 80, [peer.endpoint], mesh="other")
        identity = yamlkit.mesh_identity(STRANGER.pem, key_pem(STRANGER.key), mesh="other")
        zone.write("other.yaml", yamlkit.mesh("other"), other, identity)
        with zone.egress() as egress:
            theirs = STRANGER.leaf(f"spiffe://{domain}/workload/web")
            there = "sni.extsvc.other.default.app.80"
            assert knock(egress, WEB, zone.sni("app")) == b"ping"
            assert knock(egress, theirs, there) == b"ping"
            assert not knock(egress, WEB, there)
            assert not knock(egress, theirs, zone.sni("app"))


# No way out


def test_without_an_egress_nothing_leaves(zone: Zone) -> None:
    with Origin(always(ok())) as http, Peer(peers.echo) as tcp:
        zone.service("http", [http.endpoint], protocol="http")
        zone.service("tcp", [tcp.endpoint])
        with zone.sidecar("web", "http", "tcp") as sidecar:
            with Wire(sidecar.port("http")) as wire:
                response = wire.get("/")
            assert (response.status, response.body) == (503, b"no healthy upstream")
            assert client.gets_nowhere(sidecar.port("tcp"))
            why = "through the zone egress, and there is none in the resources"
            poll.until(lambda: why in sidecar.log_text, "the reason in the log")
            with zone.egress():
                sidecar.hang_up()
                poll.until(lambda: client.fate(sidecar.port("tcp")) == b"ping", "the way through the new egress")
        assert len(tcp.seen) == 1


def test_nobody_else_is_taken_for_the_egress(zone: Zone) -> None:
    """The mesh's own CA vouches for it, and it is another workload."""
    with Peer(peers.echo, tls=peers.server_tls(CA.leaf(f"spiffe://{TRUST_DOMAIN}/workload/other"))) as impostor:
        zone.service("app", [{"address": "127.0.0.1", "port": 9}])
        zone.egress()
        document = yamlkit.egress_dataplane(impostor.port, labels={"kuma.io/workload": "exit"})
        zone.write("exit.yaml", document)
        with zone.sidecar("web", "app") as sidecar:
            assert client.gets_nowhere(sidecar.port("app"))
            (verdict,) = sidecar.verdicts("app")
            assert verdict["cause"] == "san_mismatch"
            assert verdict["expected"] == [f"spiffe://{TRUST_DOMAIN}/workload/exit"]


def test_an_egress_of_another_ca_is_refused(zone: Zone) -> None:
    with Peer(peers.echo, tls=peers.server_tls(STRANGER.leaf(f"spiffe://{TRUST_DOMAIN}/workload/exit"))) as impostor:
        zone.service("app", [{"address": "127.0.0.1", "port": 9}])
        zone.write("exit.yaml", yamlkit.egress_dataplane(impostor.port, labels={"kuma.io/workload": "exit"}))
        with zone.sidecar("web", "app") as sidecar:
            assert client.gets_nowhere(sidecar.port("app"))
            (verdict,) = sidecar.verdicts("app")
            assert verdict["cause"] == "untrusted_issuer"


# Usage


def test_the_proxy_type_must_be_meant(tmp_path: Path) -> None:
    dataplane = tmp_path / "dp.yaml"
    dataplane.write_text(yamlkit.render(yamlkit.dataplane()))
    done = run_to_end("run", "--proxy-type", "egress", "--dataplane-file", str(dataplane), cwd=tmp_path)
    assert done.exit_code == 1
    assert "a ZoneEgress is needed, or a Dataplane with a listener of type ZoneEgress" in done.stderr


def test_without_an_identity_the_egress_serves_nothing(zone: Zone) -> None:
    with Peer(peers.echo) as peer:
        zone.service("app", [peer.endpoint])
        (zone.resources / "identity.yaml").unlink()
        with zone.egress() as egress:
            assert knock(egress, WEB, zone.sni("app")) is None
            assert 'the services of mesh \\"default\\" are not served: there is no MeshIdentity' in egress.log_text
            assert egress.admin("/ready").status == 200


def test_many_services_behind_one_door(zone: Zone) -> None:
    with Peer(peers.echo) as peer:
        services = [yamlkit.mes(f"s{number}", 80, [peer.endpoint]) for number in range(2_000)]
        zone.write("many.yaml", *services)
        with zone.egress() as egress:
            assert knock(egress, WEB, "sni.extsvc.default.default.s0.80") == b"ping"
            assert knock(egress, WEB, "sni.extsvc.default.default.s1999.80") == b"ping"
            assert egress.door_stat("tls_inspector.sni_found") == 2
