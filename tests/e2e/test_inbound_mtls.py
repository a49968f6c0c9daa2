"""Guarantee: applications reach each other through two proxies with mTLS between them, whatever they speak; and when
leaves, CAs and bundles are replaced under load, no request fails that the change of trust did not demand.
"""

from __future__ import annotations

import http.client
import json
from pathlib import Path

import pytest

from tests.e2e.zones import Zone, mesh_trust, speaking_as
from tests.kit import client, peers, poll, yamlkit
from tests.kit.ca import Authority
from tests.kit.grpc_peers import Caller, GrpcServer
from tests.kit.koguma import Koguma
from tests.kit.load import Load
from tests.kit.mtls import MtlsClient
from tests.kit.origins import Origin, always, ok
from tests.kit.peers import Peer
from tests.kit.yamlkit import Document

CA_1, CA_2 = Authority.root("Zone 1"), Authority.root("Zone 2")
NEW_1, NEW_2 = Authority.root("Zone 1, new"), Authority.root("Zone 2, new")
CALLER = "spiffe://zone-2/workload/shop"


@pytest.fixture
def zone(tmp_path: Path) -> Zone:
    one = Zone(tmp_path / "zone-1", "zone-1", args=["--access-log", str(tmp_path / "access.log")])
    one.proxy.write("identity.yaml", one.identity(CA_1))
    one.proxy.write("trust.yaml", mesh_trust("zone-2", CA_2))
    return one


@pytest.fixture
def shop(koguma: Koguma) -> Koguma:
    """The proxy of an application in zone 2; its outbound ``app`` is still to be configured."""
    return koguma


def lead(shop: Koguma, port: int, protocol: str, authority: Authority = CA_2) -> int:
    tls = speaking_as(authority, CALLER, trusting=[CA_1])
    return shop.service("app", [{"address": "127.0.0.1", "port": port}], tls=tls, port=port, protocol=protocol)


def test_tcp(zone: Zone, shop: Koguma) -> None:
    with Peer(peers.echo) as application:
        port = lead(shop, zone.inbound(application), "tcp")
        with zone.proxy, shop:
            assert client.ask(port, b"ping") == b"ping"


@pytest.mark.parametrize("protocol", ["http", "tcp"])
def test_http(zone: Zone, shop: Koguma, protocol: str, tmp_path: Path) -> None:
    """Also where the caller's proxy takes it for bytes."""
    with Origin(always(ok(b"hello"))) as application:
        port = lead(shop, zone.inbound(application, "http"), protocol)
        with zone.proxy, shop:
            assert get(port) == (200, b"hello")
            assert application.last["x-forwarded-client-cert"].endswith(f";URI={CALLER}")
            zone.proxy.terminate()
            zone.proxy.wait_for_exit()
    line = json.loads((tmp_path / "access.log").read_text().splitlines()[0])
    assert (line["response_code"], line["downstream_peer_uri_san"]) == (200, CALLER)


def test_grpc(zone: Zone, shop: Koguma, tmp_path: Path) -> None:
    with GrpcServer(tmp_path / "grpc") as server:
        port = lead(shop, zone.inbound(int(server.endpoint["port"]), "grpc"), "grpc")
        with zone.proxy, shop, Caller(port) as caller:
            assert caller.unary("Echo", b"x" * 100_000) == b"x" * 100_000
            assert list(caller.chat([b"a", b"b", b"c"])) == [b"a", b"b", b"c"]


def get(port: int) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Requests(Load):
    """Requests without a pause, each on a connection of its own to the caller's proxy."""

    def __init__(self, port: int) -> None:
        super().__init__(clients=2)
        self.answers: dict[object, int] = {}
        self._port = port

    def _work(self) -> None:
        while not self.is_over:
            try:
                answer: object = get(self._port)
            except OSError as error:
                answer = repr(error)
            self.answers[answer] = self.answers.get(answer, 0) + 1

    @property
    def total(self) -> int:
        return sum(self.answers.copy().values())

    def more(self) -> None:
        """Return when some more requests have been answered."""
        wanted = self.total + 20
        poll.until(lambda: self.total >= wanted, "more requests")


def serial(proxy: Koguma) -> str:
    return str(proxy.admin("/certs").json()["identity"]["cert_chain"][0]["serial_number"])


def test_leaves_cas_and_bundles_are_replaced_under_load(zone: Zone, shop: Koguma) -> None:
    with Origin(always(ok(b"hello"))) as application:
        inbound = zone.inbound(application, "http")
        port = lead(shop, inbound, "http")

        def call_as(authority: Authority, *trusted: Authority) -> None:
            tls = speaking_as(authority, CALLER, trusting=trusted)
            endpoints = [{"address": "127.0.0.1", "port": inbound}]
            document = yamlkit.mes("app", inbound, endpoints, tls=tls, protocol="http")
            shop.rewrite("app.yaml", document)

        def demand(file: str, document: Document) -> None:
            zone.proxy.rewrite(file, document)

        with zone.proxy, shop, Requests(port) as load:
            load.more()
            first = serial(zone.proxy)
            demand("identity.yaml", zone.identity(CA_1, life="3s"))  # the leaf: due every second, by the real timer
            seen = {first}
            poll.until(lambda: seen.add(serial(zone.proxy)) or len(seen) >= 4, "three renewals", within_s=20)
            load.more()
            demand("trust.yaml", mesh_trust("zone-2", CA_2, NEW_2))  # the caller's CA
            load.more()
            call_as(NEW_2, CA_1)
            load.more()
            demand("trust.yaml", mesh_trust("zone-2", NEW_2))
            load.more()
            call_as(NEW_2, CA_1, NEW_1)  # ours
            load.more()
            demand("identity.yaml", zone.identity(NEW_1))
            load.more()
            call_as(NEW_2, NEW_1)
            load.more()
            generations = {one["trust_domain"]: one["generation"] for one in zone.proxy.admin("/certs").json()["trust"]}
        assert set(load.answers) == {(200, b"hello")}, load.answers
        assert generations == {"zone-2": 3, "zone-1": 4}


def test_the_trust_of_a_zone_lies_in_its_state_directory(tmp_path: Path) -> None:
    """Whatever copies files can bring it to another zone, when the CA is replaced as well."""
    state = tmp_path / "state"
    zone = Zone(tmp_path / "zone-1", "zone-1", args=["--state-dir", str(state)])
    zone.proxy.write("identity.yaml", zone.identity(CA_1))
    with Peer(peers.echo) as application:
        zone.inbound(application)
        file = state / "meshtrust-default.identity.yaml"
        with zone.proxy:
            assert CA_1.pem.splitlines()[1] in file.read_text()
            zone.proxy.rewrite("identity.yaml", zone.identity(NEW_1))
            assert NEW_1.pem.splitlines()[1] in file.read_text()
            assert len(zone.proxy.events("trust_written")) == 2
    copy = Zone(tmp_path / "zone-2", "zone-2")
    copy.proxy.write("identity.yaml", copy.identity(CA_2))
    copy.proxy.write_text("trust.yaml", file.read_text())
    with Peer(peers.echo) as application:
        port = copy.inbound(application)
        with copy.proxy, MtlsClient(port, NEW_1.leaf("spiffe://zone-1/workload/shop"), CA_2) as client:
            assert client.ask() == b"ping"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_service_probe_tells_and_forwards_all_the_same(tmp_path: Path, workers: int) -> None:
    args = ["--concurrency", str(workers)]
    zone = Zone(tmp_path / "zone-1", "zone-1", args=args)
    application = Peer(peers.echo)
    port = zone.inbound(application, serviceProbe={"interval": "0.1s", "timeout": "5s", "tcp": {}})
    name = f"self_inbound_dp_{port}"

    def probed() -> dict[str, object]:
        (status,) = zone.proxy.admin("/listeners?format=json").json()["listener_statuses"]
        return dict(status["service_probe"])

    with zone.proxy:
        with application:
            poll.until(lambda: probed() == {"ready": True, "fault": None}, "a ready inbound")
            assert f'koguma_inbound_ready{{listener="{name}"}} 1' in zone.proxy.admin("/stats/prometheus").text
        poll.until(lambda: not probed()["ready"], "an inbound that is not ready")
        assert probed()["fault"] == "Connection refused"
        assert f'koguma_inbound_ready{{listener="{name}"}} 0' in zone.proxy.admin("/stats/prometheus").text
        assert zone.proxy.admin("/ready").text.strip() == "LIVE"
        assert len(zone.proxy.events("inbound_not_ready")) == 1
        with client.connect(port):
            pass  # the port is open as ever
