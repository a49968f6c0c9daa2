"""Guarantee: with provider Spire the agent of this machine says who we are and whom we trust, at once and without a
broken connection; without it the last word holds until it expires, and nothing opens that the agent has not allowed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.zones import Zone, mesh_trust
from tests.kit import peers, poll, yamlkit
from tests.kit.ca import Authority
from tests.kit.load import Load
from tests.kit.mtls import MtlsClient, is_refused
from tests.kit.peers import Peer
from tests.kit.spiffe_agent import SpiffeAgent, bundle, leaf, svid
from tests.kit.yamlkit import Document

CA, PARTNER_CA, STRANGER_CA = Authority.root("Zone 1"), Authority.root("Partner"), Authority.root("Stranger")
APP = "spiffe://zone-1/workload/app"
SHOP = leaf(CA, "spiffe://zone-1/workload/shop")
PARTNER = leaf(PARTNER_CA, "spiffe://partner/workload/shop")
STRANGER = leaf(STRANGER_CA, "spiffe://stranger/workload/shop")


def identity(**agent: Any) -> Document:
    spec = {
        "selector": {"dataplane": {"matchLabels": {}}},
        "spiffeID": {"trustDomain": "zone-1"},
        "provider": {"type": "Spire", "spire": {"agent": agent} if agent else {}},
    }
    return yamlkit.plugin_resource("MeshIdentity", "identity", spec)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[SpiffeAgent]:
    """It does not run yet."""
    agent = SpiffeAgent(tmp_path / "agent.sock")
    yield agent
    agent.stop()


@pytest.fixture
def application() -> Iterator[Peer]:
    with Peer(peers.echo) as peer:
        yield peer


@pytest.fixture
def zone(tmp_path: Path, agent: SpiffeAgent) -> Zone:
    return zone_of(tmp_path, agent)


def zone_of(tmp_path: Path, agent: SpiffeAgent, *args: str) -> Zone:
    zone = Zone(tmp_path / "zone-1", "zone-1", args=args, env={"SPIFFE_ENDPOINT_SOCKET": agent.address})
    zone.proxy.write("identity.yaml", identity(timeout="5s"))
    return zone


def test_the_agent_says_who_we_are_and_whom_we_trust(zone: Zone, agent: SpiffeAgent, application: Peer) -> None:
    """A MeshTrust does not count, and says so."""
    ours = svid(CA, APP)
    agent.issue(svid(CA, "spiffe://zone-1/other"), ours, federated={"partner": [PARTNER_CA]})
    zone.proxy.write("trust.yaml", mesh_trust("stranger", STRANGER_CA))
    port = zone.inbound(application)
    with agent, zone.proxy:
        for caller in (SHOP, PARTNER):
            with MtlsClient(port, caller, CA) as client:
                assert client.ask(b"ping") == b"ping"
        assert is_refused(port, STRANGER, CA)
        certs = zone.proxy.admin("/certs").json()
        assert certs["identity"]["spiffe_id"] == APP
        assert certs["identity"]["fault"] is None
        assert [one["trust_domain"] for one in certs["trust"]] == ["partner", "zone-1"]
        (row,) = [one for one in zone.proxy.admin("/resources").json()["resources"] if one["type"] == "MeshTrust"]
        assert "does not apply to this proxy" in row["problems"][0]["message"]


def test_what_is_pushed_counts_at_once_and_breaks_nothing(zone: Zone, agent: SpiffeAgent, application: Peer) -> None:
    agent.issue(svid(CA, APP), federated={"partner": [PARTNER_CA]})
    port = zone.inbound(application)
    with agent, zone.proxy, MtlsClient(port, PARTNER, CA) as before:
        assert before.ask() == b"ping"
        first = before.serial
        zone.proxy.changing(lambda: agent.issue(svid(CA, APP)))
        assert before.ask() == b"ping"
        assert is_refused(port, PARTNER, CA)
        with MtlsClient(port, SHOP, CA) as after:
            assert after.ask() == b"ping"
            assert after.serial != first
        agent.issue(svid(CA, "spiffe://zone-1/somebody-else"))  # ours is withdrawn
        poll.until(lambda: is_refused(port, SHOP, CA), "a closed inbound")
        (row,) = [one for one in zone.proxy.admin("/resources").json()["resources"] if one["type"] == "MeshIdentity"]
        assert row["problems"][0]["message"] == (
            "the agent issues spiffe://zone-1/somebody-else to this process, and not spiffe://zone-1/workload/app: "
            "it needs a registration entry"
        )


def test_a_process_that_may_have_no_identity_any_more_has_none(
    zone: Zone, agent: SpiffeAgent, application: Peer
) -> None:
    agent.issue(svid(CA, APP))
    port = zone.inbound(application)
    with agent, zone.proxy:
        assert not is_refused(port, SHOP, CA)
        event = zone.proxy.changing(agent.issue)
        assert event["removed"] == 2
        assert is_refused(port, SHOP, CA)
        assert "issues nothing to this process" in zone.proxy.log_text
        agent.issue(svid(CA, APP))
        poll.until(lambda: not is_refused(port, SHOP, CA), "an inbound that is open again")


def foreign_lines(zone: Zone) -> list[object]:
    """What gRPC has written into our log."""
    return [entry["text"] for entry in zone.proxy.log if "text" in entry]


def fault(zone: Zone) -> str | None:
    shown = zone.proxy.admin("/certs").json()["identity"]
    return shown["fault"] if shown is not None else "no identity"


def test_the_last_word_holds_while_the_agent_is_gone(zone: Zone, agent: SpiffeAgent, application: Peer) -> None:
    agent.issue(svid(CA, APP))
    port = zone.inbound(application)
    gauge = f'koguma_identity_renewal_failing{{spiffe_id="{APP}"}}'
    with agent, zone.proxy, MtlsClient(port, SHOP, CA) as before:
        assert f"{gauge} 0" in zone.proxy.admin("/stats/prometheus").text
        agent.stop()
        poll.until(lambda: fault(zone), "a fault")
        assert f"{gauge} 1" in zone.proxy.admin("/stats/prometheus").text
        assert f"the certificate of {APP} is used until" in zone.proxy.log_text
        with MtlsClient(port, SHOP, CA) as client:
            assert client.ask() == b"ping"
        agent.issue(svid(CA, APP))
        agent.start()
        poll.until(lambda: fault(zone) is None, "an agent that answers again", within_s=20)
        with MtlsClient(port, SHOP, CA) as client:
            assert client.serial != before.serial
        assert before.ask() == b"ping"
        assert not foreign_lines(zone)


def test_without_an_agent_nothing_opens_until_there_is_one(zone: Zone, agent: SpiffeAgent, application: Peer) -> None:
    agent.issue(svid(CA, APP))
    port = zone.inbound(application)
    with zone.proxy:
        assert "does not exist" in zone.proxy.log_text
        assert zone.proxy.admin("/ready").text.strip() == "LIVE"
        assert is_refused(port, SHOP, CA)
        agent.start()
        poll.until(lambda: not is_refused(port, SHOP, CA), "an open inbound", within_s=20)


def test_a_start_that_is_refused_leaves_the_agent(tmp_path: Path, agent: SpiffeAgent) -> None:
    zone = zone_of(tmp_path, agent, "--strict")
    zone.inbound(1)
    zone.proxy.write_text("broken.yaml", "type: MeshTrust\nname: broken\nmesh: default\nspec: {}\n")
    agent.issue(svid(CA, APP))
    with agent, contextlib.closing(zone.proxy.launch()) as program:
        assert program.wait(within_s=20) == 1
        assert "MeshTrust/broken" in "\n".join(program.stderr)
        assert "Traceback" not in "\n".join(program.stderr)


def test_strict_does_not_take_a_late_agent_for_a_mistake(tmp_path: Path, agent: SpiffeAgent, application: Peer) -> None:
    zone = zone_of(tmp_path, agent, "--strict")
    zone.inbound(application)
    with zone.proxy:
        assert zone.proxy.admin("/ready").status == 200


def test_what_cannot_be_used_is_discarded(zone: Zone, agent: SpiffeAgent, application: Peer) -> None:
    agent.issue(svid(CA, APP))
    port = zone.inbound(application)
    with agent, zone.proxy, MtlsClient(port, SHOP, CA) as before:
        agent.issue(svid(CA, APP, x509_svid_key=svid(CA, APP).x509_svid_key))
        poll.until(lambda: "the private key does not belong to" in (fault(zone) or ""), "a fault")
        with MtlsClient(port, SHOP, CA) as client:
            assert client.serial == before.serial
        agent.issue(svid(CA, APP))
        poll.until(lambda: fault(zone) is None, "a message that can be used", within_s=20)


def test_a_federated_bundle_of_no_use_stops_nothing_else(zone: Zone, agent: SpiffeAgent, application: Peer) -> None:
    agent.issue(svid(CA, APP), federated={"partner": b"".join([PARTNER.der]), "stranger": [STRANGER_CA]})
    port = zone.inbound(application)
    with agent, zone.proxy:
        assert not is_refused(port, STRANGER, CA)
        assert is_refused(port, PARTNER, CA)
        assert "the bundle of partner is left out" in zone.proxy.log_text


def test_with_workers(tmp_path: Path, agent: SpiffeAgent, application: Peer) -> None:
    zone = zone_of(tmp_path, agent, "--concurrency", "2")
    agent.issue(svid(CA, APP))
    port = zone.inbound(application)
    with agent, zone.proxy:
        assert not is_refused(port, SHOP, CA)
        zone.proxy.changing(lambda: agent.issue(svid(CA, APP), federated={"partner": [PARTNER_CA]}))
        for _ in range(6):  # each worker gets some of them
            assert not is_refused(port, PARTNER, CA)
        assert not foreign_lines(zone)


def test_without_an_address_it_says_what_is_missing(tmp_path: Path, application: Peer) -> None:
    zone = Zone(tmp_path / "zone-1", "zone-1")
    zone.proxy.write("identity.yaml", identity())
    port = zone.inbound(application)
    with zone.proxy:
        assert is_refused(port, SHOP, CA)
        assert "set KUMA_DATAPLANE_RUNTIME_SPIRE_SOCKET_PATH or SPIFFE_ENDPOINT_SOCKET" in zone.proxy.log_text


def test_kumas_variable_is_a_path(tmp_path: Path, agent: SpiffeAgent, application: Peer) -> None:
    variable = "KUMA_DATAPLANE_RUNTIME_SPIRE_SOCKET_PATH"
    zone = Zone(tmp_path / "zone-1", "zone-1", env={variable: str(agent.socket)})
    zone.proxy.write("identity.yaml", identity(timeout="5s"))
    agent.issue(svid(CA, APP))
    port = zone.inbound(application)
    with agent, zone.proxy:
        assert not is_refused(port, SHOP, CA)


class Visits(Load):
    """A connection after another, without a pause. TLS 1.2, so that whoever is refused is told so."""

    def __init__(self, port: int, *trusting: Authority) -> None:
        super().__init__(clients=2)
        self.answered = 0
        self.failures: list[str] = []
        self.caller = SHOP
        self._port, self._trusting = port, trusting

    def _work(self) -> None:
        while not self.is_over:
            try:
                with MtlsClient(self._port, self.caller, *self._trusting) as client:
                    assert client.ask() == b"ping"
            except (OSError, AssertionError) as error:
                self.failures.append(repr(error))
            else:
                self.answered += 1

    def more(self) -> None:
        wanted = self.answered + 10
        poll.until(lambda: self.answered >= wanted or self.failures, "more answers")


def test_leaves_and_cas_are_replaced_under_load(zone: Zone, agent: SpiffeAgent, application: Peer) -> None:
    """As SPIRE does it: the new CA is trusted everywhere before it issues, the old one until nobody has its leaves."""
    new_ca = Authority.root("Zone 1, new")
    both = bundle(CA, new_ca)
    agent.issue(svid(CA, APP))
    port = zone.inbound(application)
    with agent, zone.proxy, MtlsClient(port, SHOP, CA) as before, Visits(port, CA, new_ca) as load:
        load.more()
        for message in (svid(CA, APP), svid(CA, APP, bundle=both), svid(new_ca, APP, bundle=both)):
            zone.proxy.changing(lambda message=message: agent.issue(message))
            load.more()
        load.caller = leaf(new_ca, "spiffe://zone-1/workload/shop")
        load.more()
        load.more()  # nobody is under way any more with the old one
        zone.proxy.changing(lambda: agent.issue(svid(new_ca, APP)))
        load.more()
        assert before.ask() == b"ping"
        assert is_refused(port, SHOP, CA, new_ca)
    assert not load.failures
