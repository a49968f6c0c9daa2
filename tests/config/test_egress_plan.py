"""Guarantee: a zone egress leads to the services of its meshes and to nothing else, by each of their server names, on
the terms of each one's own mesh; and what it cannot serve it says.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from config.egress import DoorMemory, Offer, Ward, doors, face, faces, plan_door
from config.identity import WORKLOAD_LABEL, IdentityDesk
from config.load import Loader
from config.plan import Access, ClusterPlan, Direction, ListenerPlan, Protocol
from config.resources.dataplane import Dataplane, Listener, ListenerType
from config.resources.meta import Meta
from config.resources.zoneegress import ZoneEgress
from config.trust import InboundTerms, TrustPlanner
from tests.kit import yamlkit
from tests.kit.ca import Authority, key_pem
from tls.acceptance import Acceptance, InboundMode
from tls.bundles import TrustBundles
from tls.material import MaterialError

MAX_CALLS_TO_PLAN, MAX_CALLS_TO_PLAN_AGAIN = 30, 14
NOW = datetime.now(UTC)
WEB = "spiffe://default.default.mesh.local/workload/web"
EVERYBODY = {"spiffeID": {"type": "Prefix", "value": "spiffe://default.default.mesh.local"}}


@cache
def authority(mesh: str) -> Authority:
    return Authority.root(f"Root of {mesh}")


def identity(mesh: str = "default") -> dict[str, Any]:
    return yamlkit.mesh_identity(authority(mesh).pem, key_pem(authority(mesh).key), mesh=mesh)


def permission(name: str = "mtp", **more: Any) -> dict[str, Any]:
    """For every Dataplane with a workload ``exit``."""
    target = {"kind": "Dataplane", "labels": {"kuma.io/workload": "exit"}, **more.pop("target", {})}
    return yamlkit.permission(name, target=target, **more)


@dataclass
class World:
    """Documents in a folder, and what an egress makes of them."""

    folder: Path

    def read(self, *documents: dict[str, Any] | str) -> list[Any]:
        texts = [one if isinstance(one, str) else yamlkit.render(one) for one in documents]
        self.folder.joinpath("all.yaml").write_text("---\n".join(texts))
        return list(Loader().load([self.folder]).documents)

    def proxy(self, document: dict[str, Any]) -> Any:
        (found,) = self.read(document)
        assert found.resource is not None, found.problems
        return found.resource

    def terms(self, egress: Dataplane, *documents: dict[str, Any] | str) -> InboundTerms:
        found = self.read(*documents)
        good = {one.key: one for one in found if one.resource is not None}
        trust = TrustPlanner(IdentityDesk(None, {}), partial=False)
        return trust.terms(good, {one.key: one for one in found}, egress, lambda _mesh, _name: None, NOW)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def egress(world: World) -> Dataplane:
    """Of Kuma 3."""
    dataplane = world.proxy(yamlkit.egress_dataplane(10_002))
    assert isinstance(dataplane, Dataplane)
    return dataplane


def offer(name: str, port: int = 80, protocol: Protocol = Protocol.TCP, **more: Any) -> Offer:
    meta = Meta("MeshExternalService", more.pop("mesh", "default"), name, **more.pop("meta", {}))
    zone = f"{meta.mesh}_{meta.zone}_{meta.namespace}"
    cluster = ClusterPlan(f"kri_extsvc_{zone}_{name}_{port}", meta.mesh, name, protocol, ())
    return Offer(meta, port, cluster, **more)


@dataclass
class Planned:
    """A door, the routes behind it by their services, and what was objected to: (field, message)."""

    door: ListenerPlan | None
    routes: dict[str, ListenerPlan]
    objections: list[tuple[str, str]]


def plan(
    egress: Dataplane,
    wards: Iterable[Ward],
    *,
    is_legacy: bool = False,
    door: Listener | None = None,
    memory: DoorMemory | None = None,
) -> Planned:
    objections: list[tuple[str, str]] = []

    def object_to(field: str, message: str) -> None:
        objections.append((field, message))

    ((field, listener),) = doors(egress)
    found = list(
        plan_door(field, door or listener, egress.networking, wards, is_legacy, object_to, memory or DoorMemory())
    )
    first = next((one for one, cluster in found if cluster is None), None)
    routes = {cluster.service: one for one, cluster in found if cluster is not None}
    assert all(cluster is None or one.cluster == cluster.name for one, cluster in found)
    return Planned(first, routes, objections)


def ward(terms: InboundTerms, *offers: Offer, mesh: str = "default", access: Access = Access.ALLOW) -> Ward:
    return Ward(mesh, terms, access, offers)


# Both kinds of documents


def test_a_dataplane_is_seen_as_it_is(egress: Dataplane) -> None:
    assert faces(egress, ["default", "other"]) == [egress]


def test_a_zone_egress_has_a_face_in_each_mesh(world: World) -> None:
    document = yamlkit.zone_egress(10_002, name="exit", labels={"team": "a"})
    document["networking"]["admin"] = {"port": 9902}
    resource = world.proxy(document)
    assert isinstance(resource, ZoneEgress)
    one, other = faces(resource, ["default", "other"])
    assert (one.mesh, other.mesh) == ("default", "other")
    assert (one.meta.type, one.name) == ("Dataplane", "exit")
    assert one.meta.labels == {"team": "a", WORKLOAD_LABEL: "exit"}, "its workload is the egress itself"
    assert one.networking.admin is not None
    assert one.networking.admin.port == 9902
    ((field, door),) = doors(one)
    assert field == "networking.listeners[0]"
    assert (door.type, door.bind_address(one.networking), door.port) == (
        ListenerType.ZONE_EGRESS, "127.0.0.1", 10_002,
    )  # fmt: skip


def test_a_zone_egress_may_say_which_workload_it_is(world: World) -> None:
    resource = world.proxy(yamlkit.zone_egress(10_002, labels={WORKLOAD_LABEL: "way-out"}))
    assert isinstance(resource, ZoneEgress)
    assert face(resource, "default").meta.labels[WORKLOAD_LABEL] == "way-out"


def test_doors_are_the_listeners_that_lead_out(world: World) -> None:
    document = yamlkit.egress_dataplane(10_002)
    (exit_listener,) = document["networking"]["listeners"]
    document["networking"]["listeners"] = [
        {"type": "ZoneIngress", "port": 10_001, "name": "in"},
        exit_listener,
        {"type": "ZoneEgress", "port": 10_003},
    ]
    dataplane = world.proxy(document)
    assert isinstance(dataplane, Dataplane)
    assert [(field, door.section) for field, door in doors(dataplane)] == [
        ("networking.listeners[1]", "egress"),
        ("networking.listeners[2]", "10003"),
    ]


# The door


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_the_door_stands_without_services(egress: Dataplane, address: str) -> None:
    ((_, listener),) = doors(egress)
    planned = plan(egress, [], door=listener.model_copy(update={"address": address}))
    assert planned.door == ListenerPlan(
        "self_zoneegress_dp_egress", Direction.INBOUND, ip_address(address), 10_002, Protocol.TCP, "", is_door=True
    )
    assert (planned.routes, planned.objections) == ({}, [])


def test_a_door_needs_an_address_to_listen_on(world: World, egress: Dataplane) -> None:
    ((_, listener),) = doors(egress)
    terms = world.terms(egress, identity())
    planned = plan(egress, [ward(terms, offer("app"))], door=listener.model_copy(update={"address": "exit.example"}))
    assert (planned.door, planned.routes) == (None, {})
    words = '"exit.example" is a name: give the zone egress an IP address to listen on'
    assert planned.objections == [("networking.listeners[0]", words)]


# Routes


def test_a_route(world: World, egress: Dataplane) -> None:
    terms = world.terms(egress, identity(), permission(allow=[EVERYBODY]))
    planned = plan(egress, [ward(terms, *(offer(str(protocol), 8080, protocol) for protocol in Protocol))])
    assert not planned.objections
    alpn = {"tcp": (), "http": ("http/1.1",), "http2": ("h2",), "grpc": ("h2",)}
    assert planned.routes.keys() == alpn.keys()
    for name, route in planned.routes.items():
        assert route.protocol == name
        assert route.acceptance is not None
        assert route.acceptance.alpn == alpn[name]
        assert route.acceptance.mode is InboundMode.STRICT
        assert route.acceptance.bundles == terms.bundles
        assert route.server_names[0] == f"sni.extsvc.default.default.{name}.8080"
        assert route.server_names[1].endswith(f".{name}.8080.default.mes")
        assert (route.name, route.door) == (f"self_zoneegress_dp_egress_{route.cluster}", "self_zoneegress_dp_egress")
        assert (route.address, route.port, route.bind_to_port) == (ip_address("127.0.0.1"), 10_002, False)
        assert (route.direction, route.is_door, route.access) == (Direction.INBOUND, False, Access.ALLOW)
        assert route.request_headers_timeout_s == 60.0


def test_it_is_never_permissive(world: World, egress: Dataplane) -> None:
    permissive = yamlkit.plugin_resource("MeshTLS", "soft", {"rules": [{"default": {"mode": "Permissive"}}]})
    terms = world.terms(egress, identity(), permissive)
    (route,) = plan(egress, [ward(terms, offer("app"))]).routes.values()
    assert route.acceptance is not None
    assert route.acceptance.mode is InboundMode.STRICT


def test_what_policies_say_of_heads(world: World, egress: Dataplane) -> None:
    terms = world.terms(egress, identity())
    planned = plan(egress, [ward(terms, offer("app", head_timeout_s=2.5), offer("other", head_timeout_s=0.0))])
    assert planned.routes["app"].request_headers_timeout_s == 2.5
    assert planned.routes["other"].request_headers_timeout_s == 0.0


def test_a_mesh_that_forbids(world: World, egress: Dataplane) -> None:
    terms = world.terms(egress, identity())
    (route,) = plan(egress, [ward(terms, offer("app"), access=Access.FORBID)]).routes.values()
    assert route.access is Access.FORBID


def test_each_mesh_is_judged_by_its_own_trust(world: World) -> None:
    resource = world.proxy(yamlkit.zone_egress(10_002))
    assert isinstance(resource, ZoneEgress)
    seen = faces(resource, ["default", "other"])
    documents = (identity("default"), identity("other"))
    wards = [ward(world.terms(one, *documents), offer(f"of-{one.mesh}", mesh=one.mesh), mesh=one.mesh) for one in seen]
    planned = plan(seen[0], wards, is_legacy=True)
    trusted = {
        name: list(route.acceptance.bundles.by_domain) for name, route in planned.routes.items() if route.acceptance
    }
    assert trusted == {"of-default": ["default.default.mesh.local"], "of-other": ["other.default.mesh.local"]}
    chains = {route.acceptance.identity.chain_pem for route in planned.routes.values() if route.acceptance}
    assert len(chains) == 2, "an identity in each"


# What is not served


def _without_bundles(terms: InboundTerms) -> InboundTerms:
    terms.bundles = TrustBundles()
    return terms


def test_why_a_mesh_is_closed(world: World, egress: Dataplane) -> None:
    """And the other mesh is open."""
    open_terms = world.terms(egress, identity())
    unready = identity()
    unready["spec"]["spiffeID"] = {"path": '/{{ label "none" }}'}
    unnamed = yamlkit.plugin_resource("MeshIdentity", "named", {"selector": {"dataplane": {"matchLabels": {}}}})
    unreadable = "type: MeshIdentity\nmesh: default\nname: broken\nspec: {selector: 1}\n"
    closed = {
        "there is no MeshIdentity": world.terms(egress),
        'MeshIdentity "named" has no provider, so there is no certificate': world.terms(egress, unnamed),
        'MeshIdentity "identity" is not ready: couldn\'t render template': world.terms(egress, unready),
        "MeshIdentity cannot be read, and may demand mTLS": world.terms(egress, identity(), unreadable),
        "there is no certificate": InboundTerms(),
        "no trust domain is trusted: give a MeshTrust": _without_bundles(world.terms(egress, identity())),
    }
    for why, terms in closed.items():
        wards = [
            ward(terms, offer("shut", mesh="closed"), mesh="closed"),
            ward(open_terms, offer("app")),
        ]
        planned = plan(egress, wards)
        assert list(planned.routes) == ["app"], why
        ((field, message),) = planned.objections
        assert field == "networking.listeners[0]"
        assert message.startswith(f'the services of mesh "closed" are not served: {why}'), message


def test_what_openssl_will_not_have_closes_a_mesh(egress: Dataplane, world: World) -> None:
    class Unusable(InboundTerms):
        def egress_acceptance(self, door: Listener, protocol: Protocol) -> Acceptance | None:
            raise MaterialError("identity", "OpenSSL refuses it")

    good = world.terms(egress, identity())
    bad = Unusable(bundles=good.bundles, _svid=good._svid)
    planned = plan(egress, [ward(bad, offer("shut", mesh="closed"), mesh="closed"), ward(good, offer("app"))])
    assert list(planned.routes) == ["app"]
    words = 'the services of mesh "closed" are not served: OpenSSL refuses it'
    assert planned.objections == [("networking.listeners[0]", words)]


def test_of_two_with_one_name_the_first_has_it(world: World, egress: Dataplane) -> None:
    """Namespaces are in the names of Kuma 3, and not in those of Kuma 2."""
    terms = world.terms(egress, identity())
    first = offer("app", meta={"namespace": "a"})
    other = offer("app", meta={"namespace": "b"})
    other = replace(other, cluster=replace(other.cluster, service="other"))
    planned = plan(egress, [ward(terms, first, other)])
    assert planned.routes["app"].server_names == (
        "sni.extsvc.default.default.a.app.80",
        planned.routes["app"].server_names[1],
    )
    assert planned.routes["other"].server_names == ("sni.extsvc.default.default.b.app.80",)
    ((field, message),) = planned.objections
    assert field == ""
    assert message == (
        "kri_extsvc_default_default_b_app_80 and kri_extsvc_default_default_a_app_80 are asked for by the same server "
        "name, which means the latter"
    )


def test_one_without_a_name_of_its_own_is_not_served(world: World, egress: Dataplane) -> None:
    terms = world.terms(egress, identity())
    first, other = offer("app"), offer("again")
    other = replace(other, meta=replace(other.meta, labels={"kuma.io/display-name": "app"}))
    planned = plan(egress, [ward(terms, first, other)])
    assert list(planned.routes) == ["app"]
    assert len(planned.objections) == 1


def test_a_service_whose_name_is_no_host_name_is_asked_for_as_in_kuma_2(world: World, egress: Dataplane) -> None:
    terms = world.terms(egress, identity())
    (route,) = plan(egress, [ward(terms, offer("with.dot"))]).routes.values()
    (name,) = route.server_names
    assert name.endswith(".with.dot.80.default.mes")


# Who may pass


def judged(world: World, egress: Dataplane, *documents: dict[str, Any] | str, is_legacy: bool = False) -> list[bool]:
    """Whether the workload ``web`` may have the services ``app`` and ``other``."""
    terms = world.terms(egress, identity(), *documents)
    routes = plan(egress, [ward(terms, offer("app"), offer("other"))], is_legacy=is_legacy).routes
    permissions = [routes[name].permissions for name in ("app", "other")]
    return [one is None or one.decide(WEB).passes for one in permissions]


APP = {"sni": {"type": "Exact", "value": "sni.extsvc.default.default.app.80"}}
NOBODYS = {"sni": {"type": "Exact", "value": "sni.extsvc.default.default.nobody.80"}}
OTHER_WORKLOAD = {"spiffeID": {"type": "Exact", "value": WEB.replace("web", "other")}}


@pytest.mark.parametrize(
    ("lists", "kuma_3", "kuma_2"),
    [
        ({}, [False, False], [True, True]),
        ({"allow": [EVERYBODY]}, [True, True], [True, True]),
        ({"allow": [APP]}, [True, False], [True, True]),
        ({"allow": [{**APP, **EVERYBODY}]}, [True, False], [True, True]),
        ({"allow": [{**APP, **OTHER_WORKLOAD}]}, [False, False], [True, True]),
        ({"allow": [NOBODYS]}, [False, False], [True, True]),
        ({"allow": [EVERYBODY], "deny": [APP]}, [False, True], [False, True]),
        ({"allow": [EVERYBODY], "deny": [{**APP, **OTHER_WORKLOAD}]}, [True, True], [True, True]),
        ({"deny": [EVERYBODY]}, [False, False], [True, True]),
        ({"allowWithShadowDeny": [APP]}, [True, False], [True, True]),
    ],
    ids=[
        "nothing said", "all to everybody", "a service to all", "both fields", "both fields, another",
        "another service", "a service denied", "a service denied to another", "everybody denied", "shadow",
    ],
)  # fmt: skip
def test_permissions(
    world: World, egress: Dataplane, lists: dict[str, Any], kuma_3: list[bool], kuma_2: list[bool]
) -> None:
    """Of a ZoneEgress a permission without a server name does not speak: it is of the inbounds of sidecars."""
    documents = [permission(**lists)] if lists else []
    assert judged(world, egress, *documents) == kuma_3
    assert judged(world, egress, *documents, is_legacy=True) == kuma_2


def test_the_name_of_kuma_2_is_as_good(world: World, egress: Dataplane) -> None:
    terms = world.terms(egress, identity())
    legacy = plan(egress, [ward(terms, offer("app"))]).routes["app"].server_names[1]
    document = permission(allow=[{"sni": {"type": "Exact", "value": legacy}}])
    assert judged(world, egress, document) == [True, False]


def test_a_permission_for_another_section_or_another_proxy_says_nothing(world: World, egress: Dataplane) -> None:
    elsewhere = {"labels": {"kuma.io/workload": "elsewhere"}}
    assert judged(world, egress, permission(target=elsewhere, allow=[EVERYBODY])) == [False, False]
    assert judged(world, egress, permission(target={"sectionName": "other"}, allow=[EVERYBODY])) == [False, False]
    assert judged(world, egress, permission(target={"sectionName": "egress"}, allow=[EVERYBODY])) == [True, True]


def test_several_permissions_add_up(world: World, egress: Dataplane) -> None:
    documents = [permission("a", allow=[EVERYBODY]), permission("b", deny=[APP])]
    assert judged(world, egress, *documents) == [False, True]


def test_a_permission_that_cannot_be_read_closes_everything(world: World, egress: Dataplane) -> None:
    broken = "type: MeshTrafficPermission\nmesh: default\nname: broken\nspec: {rules: 1}\n"
    for is_legacy in (False, True):
        assert judged(world, egress, permission(allow=[EVERYBODY]), broken, is_legacy=is_legacy) == [False, False]


def test_services_of_which_nothing_is_said_by_name_share_their_permissions(world: World, egress: Dataplane) -> None:
    terms = world.terms(egress, identity(), permission(allow=[EVERYBODY], deny=[APP]))
    routes = plan(egress, [ward(terms, offer("app"), offer("one"), offer("two"))]).routes
    assert routes["one"].permissions is routes["two"].permissions
    assert routes["app"].permissions is not routes["one"].permissions


# From plan to plan


def test_what_has_not_changed_stays_the_same_object(world: World, egress: Dataplane) -> None:
    memory, app, other, gone = DoorMemory(), offer("app"), offer("other"), offer("gone")
    terms = world.terms(egress, identity(), permission(allow=[EVERYBODY]))
    first = plan(egress, [ward(terms, app, other, gone)], memory=memory).routes
    changed = replace(other, cluster=replace(other.cluster, connect_timeout_s=1.0))
    again = plan(egress, [ward(terms, app, changed)], memory=memory).routes
    assert again["app"] is first["app"]
    assert again["other"] is not first["other"]
    slow = replace(app, head_timeout_s=3.0)
    after = plan(egress, [ward(terms, slow, changed, gone)], memory=memory).routes
    assert after["app"].request_headers_timeout_s == 3.0
    assert after["other"] is again["other"]
    assert after["gone"] == first["gone"]
    assert after["gone"] is not first["gone"], "what is gone is forgotten"


def test_what_has_changed_around_a_service_is_seen(world: World, egress: Dataplane) -> None:
    memory, app = DoorMemory(), offer("app")
    terms = world.terms(egress, identity(), permission(allow=[EVERYBODY]))
    first = plan(egress, [ward(terms, app)], memory=memory).routes["app"]
    forbidden = plan(egress, [ward(terms, app, access=Access.FORBID)], memory=memory).routes["app"]
    assert (first.access, forbidden.access) == (Access.ALLOW, Access.FORBID)
    renewed = world.terms(egress, identity(), permission(allow=[EVERYBODY]))
    route = plan(egress, [ward(renewed, app)], memory=memory).routes["app"]
    assert route.acceptance != first.acceptance, "another certificate"
    silent = InboundTerms(bundles=terms.bundles, _svid=terms._svid)
    route = plan(egress, [ward(silent, app)], memory=memory).routes["app"]
    assert route.permissions is not None
    assert not route.permissions.decide(WEB).passes
    ((_, listener),) = doors(egress)
    moved = plan(egress, [ward(terms, app)], door=listener.model_copy(update={"port": 10_003}), memory=memory)
    assert moved.routes["app"].port == 10_003
    older = offer("older", meta={"labels": {"kuma.io/display-name": "app"}})
    assert list(plan(egress, [ward(terms, older, app)], memory=memory).routes) == ["older"], "its names have gone"


def test_the_work_for_each_service_is_bounded(world: World, egress: Dataplane) -> None:
    """In calls, which no load of the machine moves: of a thousand services more, and of planning them again."""
    terms = world.terms(egress, identity(), permission(allow=[EVERYBODY], deny=[APP]))
    offers = [offer(f"s{number}") for number in range(2000)]

    def calls(count: int, memory: DoorMemory) -> int:
        made = 0

        def note(_frame: object, event: str, _argument: object) -> None:
            nonlocal made
            made += event == "call"

        wards = [ward(terms, *offers[:count])]
        sys.setprofile(note)
        try:
            routes = plan(egress, wards, memory=memory).routes
        finally:
            sys.setprofile(None)
        assert len(routes) == count
        return made

    few, many = DoorMemory(), DoorMemory()
    assert calls(2000, many) - calls(1000, few) <= 1000 * MAX_CALLS_TO_PLAN
    assert calls(2000, many) - calls(1000, few) <= 1000 * MAX_CALLS_TO_PLAN_AGAIN
