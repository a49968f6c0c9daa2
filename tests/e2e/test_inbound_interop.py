"""Guarantee: our inbounds take real Envoys as Kuma configures them, and Envoy's inbounds take us; OpenSSL's own client
is taken or refused as its certificate deserves; and what our listener offers has no known weakness.
"""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.zones import Zone, mesh_trust
from tests.kit import peers, yamlkit
from tests.kit.apps import find
from tests.kit.ca import EXPIRED, Authority, Identity
from tests.kit.envoy import Envoy, demand_mtls, speak_mtls
from tests.kit.http2_peers import H2Client, H2Origin, echo
from tests.kit.koguma import Koguma
from tests.kit.origins import Origin, always, ok
from tests.kit.peers import Peer

CA_1, CA_2 = Authority.root("Zone 1"), Authority.root("Zone 2")
APP = "spiffe://zone-1/workload/app"
SHOP = CA_2.leaf("spiffe://zone-2/workload/shop")


@pytest.fixture
def zone(tmp_path: Path) -> Zone:
    one = Zone(tmp_path / "zone-1", "zone-1")
    one.proxy.write("identity.yaml", one.identity(CA_1))
    one.proxy.write("trust.yaml", mesh_trust("zone-2", CA_2))
    return one


def get(port: int) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/", headers={"x-forwarded-client-cert": "URI=forged"})
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


@pytest.mark.parametrize("protocol", ["http", "tcp"])
def test_envoy_calls_us(zone: Zone, tmp_path: Path, protocol: str) -> None:
    sock = speak_mtls(SHOP, CA_1.pem, APP)
    with Origin(always(ok(b"hello"))) as application:
        port = zone.inbound(application, "http")
        with zone.proxy, Envoy(tmp_path / "envoy", target=port, protocol=protocol, client=sock) as envoy:
            for _ in range(3):
                assert get(envoy.port) == (200, b"hello")
            (told,) = application.last.values("x-forwarded-client-cert")
            assert told.startswith(f"By={APP};Hash=")
            assert told.endswith(";URI=spiffe://zone-2/workload/shop")


def test_envoy_calls_us_over_http2(zone: Zone, tmp_path: Path) -> None:
    sock = speak_mtls(SHOP, CA_1.pem, APP)
    with H2Origin(echo) as application:
        port = zone.inbound(application, "http2")
        with zone.proxy, Envoy(tmp_path / "envoy", target=port, protocol="http2", client=sock) as envoy:
            with H2Client(envoy.port) as caller:
                assert caller.ask("POST", "/", body=b"x" * 50_000).body == b"x" * 50_000
            assert application.last["x-forwarded-client-cert"].endswith(";URI=spiffe://zone-2/workload/shop")


def test_an_envoy_of_another_domain_is_refused(zone: Zone, tmp_path: Path) -> None:
    sock = speak_mtls(CA_1.leaf("spiffe://zone-2/workload/shop"), CA_1.pem, APP)
    with Origin(always(ok(b"hello"))) as application:
        port = zone.inbound(application, "http")
        with zone.proxy, Envoy(tmp_path / "envoy", target=port, client=sock) as envoy:
            assert get(envoy.port)[0] == 503
            refused = zone.proxy.wait_for_event("peer_refused")
            assert refused["verdict"]["cause"] == "wrong_trust_domain"
        assert not application.requests


@pytest.mark.parametrize("protocol", ["http", "tcp"])
def test_we_call_envoy(koguma: Koguma, tmp_path: Path, protocol: str) -> None:
    """With the identity's own certificate."""
    sock = demand_mtls(CA_1.leaf(APP), {"zone-2": CA_2.pem, "zone-1": CA_1.pem})
    identity = Zone(tmp_path / "zone-2", "zone-2").identity(CA_2)
    identity["spec"]["spiffeID"]["path"] = "/workload/shop"
    koguma.write("identity.yaml", identity)
    with (
        Origin(always(ok(b"hello"))) as application,
        Envoy(tmp_path / "envoy", target=int(application.endpoint["port"]), server=sock) as envoy,
    ):
        tls = yamlkit.tls(sans=[("Exact", APP)], ca=yamlkit.inline_string(CA_1.pem))
        labels = {"koguma.io/client-certificate": "identity"}
        port = koguma.service("app", [envoy.endpoint], tls=tls, protocol=protocol, labels=labels)
        stranger = koguma.service("stranger", [envoy.endpoint], tls=tls, protocol="http")
        with koguma:
            assert get(port) == (200, b"hello")
            assert application.last["x-forwarded-client-cert"].endswith(";URI=spiffe://zone-2/workload/shop")
            assert get(stranger)[0] == 503
            koguma.rewrite("identity.yaml", {**identity, "labels": {"a": "b"}})
            assert get(port) == (200, b"hello")
        assert len(application.requests) == 2


def s_client(port: int, folder: Path, identity: Identity | None, *options: str) -> str:
    """What OpenSSL's client gets back for a line; empty if it is not let in."""
    words = [find("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", "-quiet", *options]
    if identity is not None:
        (folder / "c.pem").write_text(identity.chain_pem)
        (folder / "k.pem").write_text(identity.key_pem)
        words += ["-cert", str(folder / "c.pem"), "-cert_chain", str(folder / "c.pem"), "-key", str(folder / "k.pem")]
    try:
        done = subprocess.run(words, input="ping\n", capture_output=True, text=True, timeout=3, check=False)
    except subprocess.TimeoutExpired as slow:  # it waits for more
        return (slow.stdout or b"").decode()
    return done.stdout


def greet(visit: peers.Visit) -> None:
    """Answer a line and close."""
    visit.stream.send(visit.stream.recv())


ISSUING = CA_2.intermediate("Issuing")


@pytest.mark.parametrize(
    ("identity", "options", "is_let_in"),
    [
        pytest.param(SHOP, ("-tls1_3",), True, id="1.3"),
        pytest.param(SHOP, ("-tls1_2",), True, id="1.2"),
        pytest.param(SHOP, ("-tls1_3", "-alpn", "kuma,h2"), True, id="ALPN"),
        pytest.param(SHOP, ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"), True, id="a cipher"),
        pytest.param(ISSUING.leaf("spiffe://zone-2/workload/shop"), (), True, id="intermediate"),
        pytest.param(SHOP, ("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"), False, id="1.1"),
        pytest.param(SHOP, ("-tls1_2", "-cipher", "AES128-SHA"), False, id="no forward secrecy"),
        pytest.param(SHOP, ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256"), False, id="CBC"),
        pytest.param(None, ("-tls1_3",), False, id="no certificate, 1.3"),
        pytest.param(None, ("-tls1_2",), False, id="no certificate, 1.2"),
        pytest.param(CA_1.leaf("spiffe://zone-2/workload/shop"), (), False, id="wrong domain"),
        pytest.param(CA_2.leaf("spiffe://zone-2/x", window=EXPIRED), (), False, id="expired"),
        pytest.param(CA_2.leaf("spiffe://zone-2/x", "spiffe://zone-2/y"), (), False, id="two URIs"),
        pytest.param(CA_2.leaf("shop.test"), (), False, id="no URI"),
    ],
)
def test_openssl_s_client(
    inbound_port: int, tmp_path: Path, identity: Identity | None, options: tuple[str, ...], *, is_let_in: bool
) -> None:
    assert (s_client(inbound_port, tmp_path, identity, *options) == "ping\n") == is_let_in


@pytest.fixture(scope="module")
def inbound_port(tmp_path_factory: pytest.TempPathFactory) -> object:
    """One proxy for the whole matrix."""
    folder = tmp_path_factory.mktemp("zone-1")
    one = Zone(folder, "zone-1")
    one.proxy.write("identity.yaml", one.identity(CA_1))
    one.proxy.write("trust.yaml", mesh_trust("zone-2", CA_2))
    with Peer(greet) as application:
        port = one.inbound(application)
        with one.proxy:
            yield port


TOLERATED = {"OK", "INFO", "DEBUG"}
EXPECTED_FINDINGS = {
    "cert_trust", "cert_chain_of_trust", "cert_subjectAltName", "cert_commonName", "cert_validityPeriod",
    "cert_expirationStatus", "cert_crlDistributionPoints", "cert_ocspURL", "cert_revocation", "overall_grade",
    "engine_problem", "scanTime", "secure_client_renego", "BREACH",
}  # fmt: skip
"""What testssl.sh holds against any certificate of a mesh, being made for public web servers, and against itself."""


@pytest.mark.slow
def test_testssl(inbound_port: int, tmp_path: Path) -> None:
    program = shutil.which("testssl") or shutil.which("testssl.sh")
    if program is None:
        pytest.skip("testssl.sh is not installed: what our listener offers is not examined")
    if not any(map(shutil.which, ("dig", "host", "drill", "nslookup"))):
        pytest.skip("testssl.sh does not run without one of dig, host, drill and nslookup (Debian: bind9-host)")
    report = tmp_path / "report.json"
    options = ["--quiet", "--color", "0", "-p", "-s", "-U", "--nodns", "none", "--jsonfile", str(report)]
    subprocess.run([program, *options, f"127.0.0.1:{inbound_port}"], capture_output=True, timeout=300, check=False)
    findings = json.loads(report.read_text())
    assert findings
    bad = [one for one in findings if one["severity"] not in TOLERATED and one["id"] not in EXPECTED_FINDINGS]
    assert not bad, bad
