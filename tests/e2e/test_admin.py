"""Guarantee: the admin interface answers at Envoy's paths in Envoy's shapes, so that dashboards and habits
work, shows beyond that what each resource is doing, and never shows a secret.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.upstreams import ROOT, SERVER, trusting
from tests.kit import client, peers
from tests.kit.ca import Identity
from tests.kit.koguma import Koguma
from tests.kit.peers import Peer

PATHS = (
    "/",
    "/ready",
    "/server_info",
    "/stats",
    "/stats?format=json",
    "/stats/prometheus",
    "/clusters",
    "/clusters?format=json",
    "/listeners",
    "/listeners?format=json",
    "/certs",
    "/config_dump",
    "/memory",
    "/resources",
)
TRAFFIC_BYTES = 1000


@dataclass(frozen=True)
class Scene:
    """A proxy with mutual TLS to ``secured`` and plain TCP to ``plain``; each has had one conversation."""

    koguma: Koguma
    secured: Peer
    plain: Peer
    app: Identity


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    koguma = Koguma(tmp_path_factory.mktemp("admin"))
    app = ROOT.leaf("spiffe://example.test/app")
    context = peers.server_tls(SERVER, client_ca_pem=ROOT.pem)
    with Peer(peers.echo, tls=context) as secured, Peer(peers.echo) as plain:
        tls = trusting(
            client_cert=koguma.secret("app-cert", app.chain_pem),
            client_key=koguma.secret("app-key", app.key_pem),
        )
        koguma.service("secured", [secured.endpoint], tls=tls)
        koguma.service("plain", [plain.endpoint])
        with koguma:
            for name in ("secured", "plain"):
                assert len(client.ask(koguma.port(name), b"x" * TRAFFIC_BYTES)) == TRAFFIC_BYTES
                koguma.wait_for_stat(name, "upstream_cx_destroy", 1)
            yield Scene(koguma, secured, plain, app)


@pytest.mark.parametrize("path", PATHS)
def test_every_path_answers(scene: Scene, path: str) -> None:
    reply = scene.koguma.admin(path)
    assert reply.status == 200
    assert reply.text


def test_ready(scene: Scene) -> None:
    assert scene.koguma.admin("/ready").text == "LIVE\n"


def test_server_info(scene: Scene) -> None:
    info = scene.koguma.admin("/server_info").json()
    assert info["state"] == "LIVE"
    assert re.fullmatch(r"\d+s", info["uptime_current_epoch"])
    assert "version" in info
    assert info["node"]["id"]


def test_stats_count_the_conversation(scene: Scene) -> None:
    stats = scene.koguma.stats()
    for name in ("secured", "plain"):
        prefix = f"cluster.{scene.koguma.cluster(name)}"
        assert stats[f"{prefix}.upstream_cx_total"] == 1
        assert stats[f"{prefix}.upstream_cx_active"] == 0
        assert stats[f"{prefix}.upstream_cx_connect_fail"] == 0
        assert stats[f"{prefix}.upstream_cx_tx_bytes_total"] == TRAFFIC_BYTES
        assert stats[f"{prefix}.upstream_cx_rx_bytes_total"] == TRAFFIC_BYTES
        assert stats[f"{prefix}.membership_total"] == 1
        assert stats[f"{prefix}.membership_healthy"] == 1
    assert stats[f"cluster.{scene.koguma.cluster('secured')}.ssl.handshake"] == 1
    assert stats["server.live"] == 1


def test_stats_are_sorted_and_can_be_filtered(scene: Scene) -> None:
    lines = scene.koguma.admin("/stats").text.splitlines()
    numbers = [name for name, _, value in (line.partition(": ") for line in lines) if value.isdigit()]
    assert numbers == sorted(numbers)  # histograms come after them
    filtered = scene.koguma.admin("/stats?filter=upstream_cx_total").text.splitlines()
    assert len(filtered) == 2
    assert all("upstream_cx_total" in line for line in filtered)


def test_stats_as_json_agree_with_the_text(scene: Scene) -> None:
    entries = scene.koguma.admin("/stats?format=json&filter=upstream_cx_tx_bytes_total").json()["stats"]
    assert {entry["value"] for entry in entries if "value" in entry} == {TRAFFIC_BYTES}


def test_prometheus_parses_and_carries_the_cluster_as_a_label(scene: Scene) -> None:
    families = list(text_string_to_metric_families(scene.koguma.admin("/stats/prometheus").text))
    samples = {
        (sample.name, sample.labels.get("envoy_cluster_name")): sample.value
        for family in families
        for sample in family.samples
    }
    for name in ("secured", "plain"):
        cluster = scene.koguma.cluster(name)
        assert samples["envoy_cluster_upstream_cx_total", cluster] == 1
        assert samples["envoy_cluster_upstream_cx_tx_bytes_total", cluster] == TRAFFIC_BYTES
        assert samples["envoy_cluster_upstream_cx_active", cluster] == 0
    assert samples["envoy_cluster_ssl_handshake_total", scene.koguma.cluster("secured")] == 1


def test_clusters_as_text(scene: Scene) -> None:
    lines = scene.koguma.admin("/clusters").text.splitlines()
    for name, peer in (("secured", scene.secured), ("plain", scene.plain)):
        host = f"{scene.koguma.cluster(name)}::127.0.0.1:{peer.port}"
        assert f"{host}::cx_total::1" in lines
        assert f"{host}::cx_active::0" in lines
        assert f"{host}::health_flags::healthy" in lines
        assert f"{host}::priority::0" in lines


def test_clusters_as_json(scene: Scene) -> None:
    clusters = scene.koguma.clusters_json()
    for name, peer in (("secured", scene.secured), ("plain", scene.plain)):
        (host,) = clusters[scene.koguma.cluster(name)]["host_statuses"]
        assert host["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": peer.port}
        stats = {stat["name"]: stat.get("value") for stat in host["stats"]}
        assert stats["cx_total"] == "1"


def test_listeners(scene: Scene) -> None:
    text = scene.koguma.admin("/listeners").text
    statuses = scene.koguma.admin("/listeners?format=json").json()["listener_statuses"]
    ports = {status["local_address"]["socket_address"]["port_value"] for status in statuses}
    for name in ("secured", "plain"):
        port = scene.koguma.port(name)
        assert re.search(rf"^\S+::127\.0\.0\.1:{port}$", text, re.MULTILINE)
        assert port in ports


def test_certs_show_the_authority_and_the_client_certificate(scene: Scene) -> None:
    certificates = scene.koguma.admin("/certs").json()["certificates"]
    authorities = [one for entry in certificates for one in entry["ca_cert"]]
    chains = [one for entry in certificates for one in entry["cert_chain"]]
    assert f"{ROOT.certificate.serial_number:x}" in {one["serial_number"].lower().lstrip("0") for one in authorities}
    (leaf,) = chains
    assert leaf["subject_alt_names"] == [{"uri": "spiffe://example.test/app"}]
    assert int(leaf["days_until_expiration"]) in (29, 30)


def test_config_dump_shows_the_plan_and_redacts_the_key(scene: Scene) -> None:
    text = scene.koguma.admin("/config_dump").text
    assert scene.koguma.cluster("secured") in text
    assert "[redacted]" in text


def test_resources_show_each_resource_with_its_status(scene: Scene) -> None:
    entry = scene.koguma.resource("secured")
    assert entry["mesh"] == "default"
    assert entry["kri"] == scene.koguma.cluster("secured").rpartition("_")[0] + "_"
    assert Path(entry["file"]).name == "secured.yaml"
    assert entry["line"] == 1
    (endpoint,) = entry["status"]["endpoints"]
    assert endpoint["address"] == f"127.0.0.1:{scene.secured.port}"
    assert endpoint["priority"] == 0
    assert endpoint["health"].lower() == "healthy"
    assert all(
        {"type", "status", "reason", "message"} <= condition.keys() for condition in entry["status"]["conditions"]
    )


def test_no_secret_is_shown_anywhere(scene: Scene) -> None:
    first_line = scene.app.key_pem.splitlines()[1]  # the private number; what follows holds the public one
    encoded = base64.b64encode(scene.app.key_pem.encode()).decode()
    secrets = [first_line, "PRIVATE KEY", encoded[:60], encoded[60:120]]
    for path in PATHS:
        text = scene.koguma.admin(path).text
        assert not [secret for secret in secrets if secret in text], path
    assert not [secret for secret in secrets if secret in scene.koguma.log_text]


def test_an_unknown_path_is_not_found(scene: Scene) -> None:
    assert scene.koguma.admin("/no/such/path").status == 404


@pytest.mark.parametrize("path", ["/quitquitquit", "/healthcheck/fail", "/healthcheck/ok", "/drain_listeners"])
def test_what_changes_something_wants_post(scene: Scene, path: str) -> None:
    assert scene.koguma.admin(path).status == 405
    assert scene.koguma.admin("/ready").text == "LIVE\n"


def test_healthcheck_fail_takes_it_out_of_rotation_and_ok_back_in(koguma: Koguma) -> None:
    with Peer(peers.echo) as peer:
        koguma.service("app", [peer.endpoint])
        with koguma:
            assert koguma.admin("/healthcheck/fail", method="POST").text == "OK\n"
            assert koguma.admin("/ready").status == 503
            assert client.ask(koguma.port("app")) == b"ping"
            assert koguma.admin("/healthcheck/ok", method="POST").text == "OK\n"
            assert koguma.admin("/ready").status == 200


def test_quitquitquit_ends_the_process(koguma: Koguma) -> None:
    with Peer(peers.echo) as peer:
        koguma.service("app", [peer.endpoint])
        with koguma:
            assert koguma.admin("/quitquitquit", method="POST").text == "OK\n"
            assert koguma.wait_for_exit() == 0
