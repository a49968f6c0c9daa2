"""Guarantee: where a mesh says so, what leaves a sidecar goes to the egresses of its zone that can prove who they are,
and where there is none it goes nowhere.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from config.identity import IdentityDesk
from config.load import Document, Loader, load_dataplane
from config.plan import Access, ClusterPlan, DnsTarget, EndpointPlan, IpTarget, Plan, Protocol
from config.planner import Planner, Settings
from config.resources.dataplane import Dataplane
from config.resources.meta import Meta
from config.trust import TrustPlanner
from config.way_out import WayOut, find_way_out
from tests.kit import yamlkit
from tests.kit.ca import Authority, key_pem
from tls.bundles import TrustBundles
from tls.policy import MatchType, Mode, Origination, SanMatcher

NOW = datetime.now(UTC)
DOMAIN = "default.default.mesh.local"
HERE = "the way out is through the zone egress, and "
SERVICE = Meta("MeshExternalService", "default", "app")


@cache
def authority() -> Authority:
    return Authority.root("Way Out Root")


def identity(**more: Any) -> dict[str, Any]:
    return {**yamlkit.mesh_identity(authority().pem, key_pem(authority().key)), **more}


def other_identity(labels: dict[str, str]) -> dict[str, Any]:
    """Of a trust domain of its own, for Dataplanes with these labels."""
    document = yamlkit.mesh_identity(authority().pem, key_pem(authority().key), trust_domain="exits.test")
    document["name"] = "exits"
    document["spec"]["selector"] = {"dataplane": {"matchLabels": labels}}
    return document


def sidecar_document(**labels: str) -> dict[str, Any]:
    outbounds = [yamlkit.outbound(10_001, "app")]
    document = yamlkit.dataplane(outbounds, name="web")
    return {**document, "labels": {"kuma.io/workload": "web", **labels}}


def exit_id(workload: str = "exit", domain: str = DOMAIN) -> SanMatcher:
    return SanMatcher(MatchType.EXACT, f"spiffe://{domain}/workload/{workload}")


class World:
    """Documents in a folder, a sidecar, and the way that it finds; ``told``: (document's name, what is wrong)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "resources"
        self.folder.mkdir()
        self.file = folder / "web.yaml"
        self.sidecar()
        self.told: list[tuple[str, str]] = []

    def sidecar(self, **labels: str) -> None:
        self.file.write_text(yamlkit.render(sidecar_document(**labels)))

    def read(self, *documents: dict[str, Any] | str) -> list[Document]:
        texts = [one if isinstance(one, str) else yamlkit.render(one) for one in documents]
        self.folder.joinpath("all.yaml").write_text("---\n".join(texts))
        return list(Loader().load([self.folder]).documents)

    def way(self, *documents: dict[str, Any] | str, bundles: TrustBundles | None = None) -> WayOut:
        (found,) = load_dataplane(self.file, {}).documents
        sidecar, given = found.resource, self.read(*documents)
        assert isinstance(sidecar, Dataplane)
        good = {one.key: one for one in given if one.resource is not None}
        trust = TrustPlanner(IdentityDesk(None, {}), partial=False)
        terms = trust.terms(good, {one.key: one for one in given}, sidecar, lambda _mesh, _name: None, NOW)
        if bundles is not None:
            terms.bundles = bundles
        self.told = []

        def object_to(document: Document, message: str) -> None:
            self.told.append((document.name, message))

        return find_way_out(sidecar, good.values(), terms, object_to)

    def endpoints(self, *documents: dict[str, Any]) -> list[str]:
        """The egresses that are used."""
        return [str(endpoint.target) for endpoint in self.way(*documents).endpoints]

    def plan(self, *documents: dict[str, Any] | str) -> Plan:
        self.read(*documents)
        planned = Planner(Settings({})).plan(Loader().load([self.folder]), load_dataplane(self.file, {}), NOW).plan
        assert planned is not None
        return planned


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# Which egresses


def test_an_egress_of_kuma_3(world: World) -> None:
    way = world.way(identity(), yamlkit.egress_dataplane(10_002))
    assert way.endpoints == (EndpointPlan(IpTarget(way.endpoints[0].target.address, 10_002)),)  # type: ignore[union-attr]
    assert way.peers == (exit_id(),)
    assert (way.why_closed, world.told) == ("", [])
    assert way.client is not None
    assert list(way.bundles.by_domain) == [DOMAIN]
    assert way.anchors is not None
    assert authority().pem.strip().encode() in way.anchors.pem


def test_an_egress_of_kuma_2(world: World) -> None:
    way = world.way(identity(), yamlkit.zone_egress(10_002, name="way-out"))
    assert [str(endpoint.target) for endpoint in way.endpoints] == ["127.0.0.1:10002"]
    assert way.peers == (exit_id("way-out"),), "its workload is the egress itself"


def test_those_of_kuma_3_go_before(world: World) -> None:
    found = (identity(), yamlkit.zone_egress(10_002, name="old"), yamlkit.egress_dataplane(10_003))
    assert world.endpoints(*found) == ["127.0.0.1:10003"]


def test_all_instances_are_balanced_alike(world: World) -> None:
    """Each is an endpoint of the same priority, whatever the service's own endpoints have: one that fails is passed
    over for another.
    """
    instances = [yamlkit.egress_dataplane(10_002 + n, name=f"exit-{n}") for n in range(3)]
    way = world.way(identity(), *instances)
    assert [endpoint.priority for endpoint in way.endpoints] == [0, 0, 0]
    assert way.peers == tuple(exit_id(f"exit-{n}") for n in range(3))


def test_instances_of_one_workload_are_one_peer(world: World) -> None:
    label = {"kuma.io/workload": "exit"}
    way = world.way(identity(), *(yamlkit.egress_dataplane(10_002 + n, name=f"e{n}", labels=label) for n in range(2)))
    assert len(way.endpoints) == 2
    assert way.peers == (exit_id(),)


def test_each_egress_by_the_identity_that_means_it(world: World) -> None:
    special = yamlkit.egress_dataplane(10_003, name="b", labels={"kuma.io/workload": "b", "tier": "exit"})
    way = world.way(identity(), other_identity({"tier": "exit"}), yamlkit.egress_dataplane(10_002, name="a"), special)
    assert way.peers == (exit_id("a"), exit_id("b", "exits.test"))


def test_only_what_is_ready(world: World) -> None:
    down = yamlkit.egress_dataplane(10_002, name="down", state="NotReady")
    assert world.endpoints(identity(), down, yamlkit.egress_dataplane(10_003)) == ["127.0.0.1:10003"]
    assert world.endpoints(identity(), down, yamlkit.zone_egress(10_004)) == ["127.0.0.1:10004"]
    assert world.way(identity(), down).why_closed == HERE + "there is none in the resources"


def test_every_listener_that_leads_out(world: World) -> None:
    document = yamlkit.egress_dataplane(10_002)
    document["networking"]["listeners"] += [
        {"type": "ZoneIngress", "port": 10_003},
        {"type": "ZoneEgress", "port": 10_004},
    ]
    assert world.endpoints(identity(), document) == ["127.0.0.1:10002", "127.0.0.1:10004"]


def test_the_addresses_of_an_egress(world: World) -> None:
    document = yamlkit.egress_dataplane(10_002, address="::1")
    del document["networking"]["listeners"][0]["address"]
    assert world.endpoints(identity(), document) == ["[::1]:10002"], "networking.address where the listener has none"
    named = yamlkit.zone_egress(10_002, address="exit.example.test")
    (endpoint,) = world.way(identity(), named).endpoints
    assert endpoint.target == DnsTarget("exit.example.test", 10_002)


def test_of_another_mesh_is_nobodys(world: World) -> None:
    assert world.endpoints(identity(), yamlkit.egress_dataplane(10_002, mesh="other")) == []


ZONE = "kuma.io/zone"


@pytest.mark.parametrize(
    ("own", "theirs", "is_used"),
    [("", "", True), ("east", "", True), ("", "east", True), ("east", "east", True), ("east", "west", False)],
)
def test_of_its_own_zone(world: World, own: str, theirs: str, is_used: bool) -> None:
    world.sidecar(**({ZONE: own} if own else {}))
    zone = {ZONE: theirs} if theirs else {}
    new = yamlkit.egress_dataplane(10_002, labels={"kuma.io/workload": "exit", **zone})
    assert bool(world.endpoints(identity(), new)) is is_used
    old = yamlkit.zone_egress(10_002)
    old["zone"] = theirs
    assert bool(world.endpoints(identity(), old)) is is_used


# Why there is no way


def closed(way: WayOut) -> str:
    assert (way.endpoints, way.peers, way.client) == ((), (), None)
    return way.why_closed


def test_without_an_egress(world: World) -> None:
    assert closed(world.way(identity())) == HERE + "there is none in the resources"


def test_without_a_certificate_to_show(world: World) -> None:
    exit_document = yamlkit.egress_dataplane(10_002)
    wants = HERE + "it wants a certificate: "
    assert closed(world.way(exit_document)) == wants + "there is no MeshIdentity"
    broken = "type: MeshIdentity\nmesh: default\nname: broken\nspec: {selector: 1}\n"
    refused = closed(world.way(identity(), broken, exit_document))
    assert refused == wants + "MeshIdentity cannot be read, and may demand mTLS"


def test_without_anybody_to_trust(world: World) -> None:
    way = world.way(identity(), yamlkit.egress_dataplane(10_002), bundles=TrustBundles())
    assert closed(way) == HERE + "no MeshTrust says whom to trust there"


def test_an_egress_that_nobody_can_name(world: World) -> None:
    """The others are used; where there are none, it is closed and not merely unverified."""
    document = identity()
    document["spec"]["selector"] = {"dataplane": {"matchLabels": {"kuma.io/workload": "web"}}}
    exit_document = yamlkit.egress_dataplane(10_002)
    assert closed(world.way(document, exit_document)) == HERE + "none is usable"
    assert world.told == [("exit", "is not used: its SPIFFE ID is not known: no MeshIdentity means it")]
    named = yamlkit.egress_dataplane(10_003, name="b", labels={"kuma.io/workload": "b", "tier": "exit"})
    way = world.way(document, other_identity({"tier": "exit"}), exit_document, named)
    assert way.peers == (exit_id("b", "exits.test"),)
    assert [name for name, _ in world.told] == ["exit"]


def test_an_egress_whose_id_cannot_be_made(world: World) -> None:
    unnamed = yamlkit.egress_dataplane(10_002, labels={"app": "exit"})
    assert closed(world.way(identity(), unnamed)) == HERE + "none is usable"
    ((name, message),) = world.told
    assert name == "exit"
    assert "missing required label 'kuma.io/workload'" in message


# Services on this way


def service(name: str = "app", **more: Any) -> ClusterPlan:
    endpoints = (EndpointPlan(DnsTarget("api.example.test", 443), priority=3),)
    return ClusterPlan("kri", "default", name, Protocol.HTTP2, endpoints, connect_timeout_s=7.0, **more)


def test_how_a_service_is_reached(world: World) -> None:
    way = world.way(identity(), yamlkit.egress_dataplane(10_002))
    plain, encrypted = (
        way.lead(service(tls=tls), SERVICE, 443)
        for tls in (None, Origination(mode=Mode.SKIP_ALL, server_name="x.test"))
    )
    assert plain == encrypted, "TLS to the service is the egress's business"
    assert plain.tls is not None
    assert plain.tls.server_name == "sni.extsvc.default.default.app.443"
    assert plain.tls.alpn == ("kuma",)
    assert (plain.tls.sans, plain.tls.client, plain.tls.bundles) == (way.peers, way.client, way.bundles)
    assert plain.tls.mode.checks_chain
    assert plain.tls.mode.checks_names
    assert (plain.through_egress, plain.endpoints) == (True, way.endpoints)
    assert (plain.protocol, plain.connect_timeout_s) == (Protocol.HTTP2, 7.0), "what policies say of it stays"


def test_a_service_that_kuma_3_cannot_name(world: World) -> None:
    way = world.way(identity(), yamlkit.egress_dataplane(10_002))
    tls = way.lead(service(), Meta("MeshExternalService", "default", "with.dot"), 443).tls
    assert tls is not None
    assert tls.server_name is not None
    assert tls.server_name.endswith(".with.dot.443.default.mes")


def test_a_service_without_a_way(world: World) -> None:
    led = world.way(identity()).lead(service(tls=Origination(mode=Mode.SKIP_ALL, server_name="x.test")), SERVICE, 443)
    assert (led.endpoints, led.tls, led.through_egress) == ((), None, True)
    assert led.why_empty == HERE + "there is none in the resources"


# What the mesh says

APP = yamlkit.mes("app", 443, [{"address": "127.0.0.1", "port": 443, "priority": 1}])


def test_only_where_the_mesh_says_so(world: World) -> None:
    egress = yamlkit.egress_dataplane(10_002)
    for routing, is_through in ({}, False), ({"zoneEgress": False}, False), ({"zoneEgress": True}, True):
        (cluster,) = world.plan(yamlkit.mesh(routing=routing), identity(), egress, APP).clusters.values()
        assert cluster.through_egress is is_through
        assert (cluster.tls is not None) is is_through
    (cluster,) = world.plan(identity(), egress, APP).clusters.values()
    assert not cluster.through_egress, "without a Mesh in the set: Kuma's default"


def test_what_another_mesh_says_is_of_no_concern(world: World) -> None:
    (cluster,) = world.plan(yamlkit.mesh("other", routing={"zoneEgress": True}), identity(), APP).clusters.values()
    assert not cluster.through_egress


def test_a_mesh_that_cannot_be_read_lets_nothing_out(world: World) -> None:
    """It may have asked for the egress: then nothing leaves at all."""
    plan = world.plan("type: Mesh\nname: default\nrouting: {zoneEgress: 1}\n", identity(), APP)
    assert [listener.access for listener in plan.listeners.values()] == [Access.FORBID]


def test_a_mesh_that_forbids_is_heard_by_the_sidecar_too(world: World) -> None:
    routing = {"zoneEgress": True, "defaultForbidMeshExternalServiceAccess": True}
    plan = world.plan(yamlkit.mesh(routing=routing), identity(), yamlkit.egress_dataplane(10_002), APP)
    assert [listener.access for listener in plan.listeners.values()] == [Access.FORBID]


def test_an_egress_leaves_directly(world: World) -> None:
    """Be it the only one, or one of several: it is the end of the way."""
    world.file.write_text(yamlkit.render(yamlkit.egress_dataplane(10_002)))
    documents = (
        yamlkit.mesh(routing={"zoneEgress": True}),
        identity(),
        yamlkit.egress_dataplane(10_003, name="b"),
        APP,
    )
    (cluster,) = world.plan(*documents).clusters.values()
    assert not cluster.through_egress
    assert [endpoint.priority for endpoint in cluster.endpoints] == [1]
