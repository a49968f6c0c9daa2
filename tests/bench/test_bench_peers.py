"""Guarantee: every rival is asked only for what it can do, and leads each service to where it was meant to: verified,
where TLS is spoken; a sidecar and a zone egress agree on what lies between them.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from bench import mesh
from bench.__main__ import choose_peers
from bench.peers import PEERS, Peer, Service, Speaks
from bench.peers.envoy import EnvoyEgress, EnvoySidecar
from bench.peers.koguma import KogumaEgress, KogumaSidecar
from bench.peers.mitmproxy import Mitmproxy
from bench.peers.pproxy import Pproxy
from bench.peers.proxypy import ProxyPy
from bench.process import free_port
from bench.world import TWO_HOPS

TCP = Service("tcp", Speaks.TCP, False, "127.0.0.1", 1001, 2001)
TCP_TLS = Service("tcp-tls", Speaks.TCP, True, "127.0.0.1", 1002, 2002)
HTTP = Service("http", Speaks.HTTP1, False, "127.0.0.1", 1003, 2003)
HTTP_TLS = Service("http-tls", Speaks.HTTP1, True, "127.0.0.1", 1004, 2004)
HTTP2 = Service("http2", Speaks.HTTP2, False, "127.0.0.1", 1005, 2005)
MTLS = Service("mtls", Speaks.TCP, False, "127.0.0.1", 1006, 2006, mtls=True)
ALL = [TCP, TCP_TLS, HTTP, HTTP_TLS, HTTP2, MTLS]
DOOR = 3000
IN_ZONE = [
    Service(name, speaks, False, "127.0.0.1", 1007 + number, 2007 + number, door=DOOR)
    for number, (name, speaks) in enumerate(zip(TWO_HOPS, (Speaks.TCP, Speaks.HTTP1, Speaks.HTTP2), strict=True))
]


def made(kind: type[Peer], folder: Path, services: list[Service]) -> Peer:
    own = folder / kind.name
    own.mkdir()
    return kind(own, services, folder / "ca.pem", mesh.make(folder), 1, free_port())


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration is written all the same."""
    monkeypatch.setattr("bench.peers.peer.find_program", lambda name: f"/bin/{name}")


@pytest.mark.parametrize(
    ("kind", "able"),
    [
        (Mitmproxy, {"tcp", "tcp-tls", "http", "http-tls"}),
        (Pproxy, {"tcp"}),
        (ProxyPy, {"http", "http-tls"}),
    ],
)
def test_what_python_rivals_are_asked_for(tmp_path: Path, kind: type[Peer], able: set[str]) -> None:
    assert made(kind, tmp_path, ALL).services.keys() == able
    assert kind.is_slow


def test_who_is_compared_as_a_sidecar_with_an_egress() -> None:
    able = {name for name, peer in PEERS.items() if not peer.why_not(IN_ZONE[0])}
    assert able == {"koguma", "envoy"}
    assert PEERS["haproxy"].why_not(IN_ZONE[0]) == "is not compared as a mesh's sidecar and zone egress"


def test_mitmproxy(tmp_path: Path) -> None:
    peer = made(Mitmproxy, tmp_path, ALL)
    command = peer.configure()
    settings = json.loads((peer.folder / "config.yaml").read_text())
    assert command == ["/bin/mitmdump", "--quiet", "--set", f"confdir={peer.folder}"]
    assert settings["mode"] == [
        "reverse:tcp://127.0.0.1:2001@127.0.0.1:1001",
        "reverse:tls://localhost:2002@127.0.0.1:1002",
        "reverse:http://127.0.0.1:2003@127.0.0.1:1003",
        "reverse:https://localhost:2004@127.0.0.1:1004",
    ]
    assert settings["ssl_verify_upstream_trusted_ca"] == str(tmp_path / "ca.pem")
    assert "ssl_insecure" not in settings
    (script,) = settings["scripts"]
    assert Path(script).exists()


def test_pproxy(tmp_path: Path) -> None:
    assert made(Pproxy, tmp_path, ALL).configure() == ["/bin/pproxy", "-l", "tunnel{127.0.0.1:2001}://127.0.0.1:1001"]


def test_proxy_py(tmp_path: Path) -> None:
    peer = made(ProxyPy, tmp_path, ALL)
    command = " ".join(peer.configure())
    assert "--port 1003 --ports 1004" in command
    assert f"--ca-file {tmp_path / 'ca.pem'}" in command
    source = (peer.folder / "by_port.py").read_text()
    compile(source, "by_port.py", "exec")
    assert str({1003: b"http://127.0.0.1:2003", 1004: b"https://localhost:2004"}) in source


def test_envoy_as_a_sidecar(tmp_path: Path) -> None:
    peer = made(EnvoySidecar, tmp_path, IN_ZONE)
    peer.configure()
    clusters = json.loads((peer.folder / "clusters.json").read_text())["resources"]
    for cluster, service in zip(clusters, IN_ZONE, strict=True):
        (locality,) = cluster["load_assignment"]["endpoints"]
        (endpoint,) = locality["lb_endpoints"]
        assert endpoint["endpoint"]["address"]["socket_address"]["port_value"] == DOOR
        tls = cluster["transport_socket"]["typed_config"]
        context = tls["common_tls_context"]
        assert tls["sni"] == f"sni.extsvc.default.default.{service.name}.80"
        assert context["alpn_protocols"] == ["kuma"]
        (name,) = context["validation_context"]["match_typed_subject_alt_names"]
        assert name == {"san_type": "URI", "matcher": {"exact": uri_of(tmp_path / "exit.pem")}}
        assert context["validation_context"]["trusted_ca"] == {"filename": str(tmp_path / "mesh-ca.pem")}
        assert uri_of(Path(context["tls_certificates"][0]["certificate_chain"]["filename"])).endswith("/workload/app")


def test_envoy_as_a_zone_egress(tmp_path: Path) -> None:
    peer = made(EnvoyEgress, tmp_path, IN_ZONE)
    peer.configure()
    config = json.loads((peer.folder / "envoy.json").read_text())
    (listener,) = config["static_resources"]["listeners"]
    assert listener["address"]["socket_address"]["port_value"] == DOOR
    names = [chain["filter_chain_match"]["server_names"] for chain in listener["filter_chains"]]
    assert names == [[mesh.server_name(service)] for service in IN_ZONE]
    for chain in listener["filter_chains"]:
        tls = chain["transport_socket"]["typed_config"]
        assert tls["require_client_certificate"] is True
        assert "custom_validator_config" in tls["common_tls_context"]["validation_context"]
    clusters = json.loads((peer.folder / "clusters.json").read_text())["resources"]
    assert not any("transport_socket" in cluster for cluster in clusters)


def test_koguma_has_the_same_zone_on_both_sides(tmp_path: Path) -> None:
    read: list[dict[str, Any]] = []
    for kind in (KogumaSidecar, KogumaEgress):
        folder = tmp_path / kind.name
        folder.mkdir()
        peer = made(kind, folder, IN_ZONE)
        command = peer.configure()
        assert ("egress" in command) == (kind is KogumaEgress)
        read.append(
            {path.name: json.loads(path.read_text()) for path in (peer.folder / "resources").iterdir()}
            | {"dataplane": json.loads((peer.folder / "dataplane.yaml").read_text())}
        )
    sidecar, egress = read
    apart = {"dataplane", "MeshIdentity.yaml"}  # each has been given an authority of its own here
    assert {name: sidecar[name] for name in sidecar.keys() - apart} == {
        name: egress[name] for name in egress.keys() - apart
    }
    assert sidecar["Dataplane.yaml"] == egress["dataplane"]
    assert [outbound["port"] for outbound in sidecar["dataplane"]["networking"]["outbound"]] == [1007, 1008, 1009]
    assert egress["dataplane"]["networking"]["listeners"][0]["port"] == DOOR


def uri_of(pem: Path) -> str:
    certificate = x509.load_pem_x509_certificates(pem.read_bytes())[0]
    assert certificate.not_valid_after_utc > datetime.now(UTC)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uri


class Fast(Mitmproxy):
    is_slow = False

    @classmethod
    def version(cls) -> str | None:
        return "1"


class Slow(Fast):
    is_slow = True


class Absent(Fast):
    debian = "absent"

    @classmethod
    def version(cls) -> str | None:
        return None


def test_who_is_asked_to_hold_idle_connections() -> None:
    assert [name for name, peer in PEERS.items() if peer.why_not_idle] == ["proxy.py"]


def test_who_takes_part() -> None:
    peers: dict[str, type[Peer]] = {"fast": Fast, "slow": Slow, "absent": Absent}
    missing = "not installed (Debian: absent)"
    assert choose_peers(None, False, peers) == ({"fast": Fast, "slow": Slow}, {"absent": missing})
    assert choose_peers(None, True, peers) == ({"fast": Fast}, {"slow": "too slow for --quick", "absent": missing})
    assert choose_peers(["slow"], True, peers) == ({"slow": Slow}, {})
