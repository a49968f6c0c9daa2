"""Guarantee: the plan listens on the virtual IPs of the Dataplane's mesh and knows their names, and the status of each
service says what Kuma's would.
"""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from config.load import Loader, load_dataplane
from config.plan import Access, Direction, ListenerPlan, NamePlan, Plan, Protocol
from config.planner import Health, Planned, Planner, ResourceState, Settings
from config.vips import parse_pools
from tests.kit import yamlkit

NOW = datetime(2026, 3, 1, tzinfo=UTC)
HERE = [{"address": "127.0.0.1", "port": 443}]
POOLS = "127.9.0.0/16"


class World:
    """A folder of resources, a Dataplane file, and a planner that is fed after each change."""

    def __init__(self, tmp_path: Path, vips: bool | None = True, pools: str = POOLS, **environ: str) -> None:
        self.folder = tmp_path / "resources"
        self.folder.mkdir(exist_ok=True)
        self.dataplane_file = tmp_path / "dp.yaml"
        self.planner = Planner(Settings(environ, vips=vips, pools=parse_pools(pools)))
        self.loader = Loader()
        self.dataplane()

    def write(self, name: str, *documents: dict[str, Any] | str) -> Path:
        path = self.folder / f"{name}.yaml"
        path.write_text("---\n".join(d if isinstance(d, str) else yamlkit.render(d) for d in documents))
        return path

    def dataplane(self, *outbounds: dict[str, Any], transparent: dict[str, Any] | None = None) -> None:
        document = yamlkit.dataplane(outbounds)
        if transparent is not None:
            document["networking"]["transparentProxying"] = transparent
        self.dataplane_file.write_text(yamlkit.render(document))

    def planned(self) -> Planned:
        return self.planner.plan(self.loader.load([self.folder]), load_dataplane(self.dataplane_file, {}), NOW)

    def plan(self) -> Plan:
        plan = self.planned().plan
        assert plan is not None
        return plan

    def state(self, name: str) -> ResourceState:
        (state,) = [state for state in self.planned().resources if state.name == name]
        return state

    def vip(self, name: str) -> str:
        status = self.state(name).status
        assert status is not None
        return str(status.vips[0])

    def listener(self, name: str) -> ListenerPlan:
        """The one that leads to a service."""
        plan = self.plan()
        (found,) = [one for one in plan.listeners.values() if plan.clusters[one.cluster].service == name]
        return found


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def mes(name: str, port: int = 80, **more: Any) -> dict[str, Any]:
    return yamlkit.mes(name, port, more.pop("endpoints", HERE), **more)


def test_a_listener_and_a_name_for_each_service_of_the_mesh(world: World) -> None:
    world.write("all", mes("web", 8080, protocol="http"), mes("db", 5432), mes("far", mesh="other"))
    plan = world.plan()
    assert sorted(one.cluster for one in plan.listeners.values()) == [yamlkit.kri("db", 5432), yamlkit.kri("web", 8080)]
    web = world.listener("web")
    assert web.address in ip_network(POOLS)
    assert (web.port, web.protocol, web.bind_to_port) == (8080, Protocol.HTTP, True)
    assert web.name == f"outbound_{web.address}_8080"
    name = "web.extsvc.mesh.local"
    assert plan.names[name] == NamePlan(name, (web.address,), 30)
    assert sorted(plan.names) == ["db.extsvc.mesh.local", name]
    assert world.state("far").status is not None, "it has a VIP all the same, as in Kuma"


def test_nothing_listens_unasked(tmp_path: Path) -> None:
    world = World(tmp_path, vips=None)
    world.write("web", mes("web"))
    plan = world.plan()
    assert (plan.listeners, plan.clusters, plan.names) == ({}, {}, {})
    assert world.state("web").status is not None
    world.dataplane(transparent={"redirectPortOutbound": 15001})
    assert "web.extsvc.mesh.local" in world.plan().names


def test_the_status_is_kumas(world: World) -> None:
    own = {"selector": {"meshExternalService": {}}, "template": '{{ label "team" }}.{{ .DisplayName }}.mesh'}
    generator = yamlkit.plugin_resource("HostnameGenerator", "own", own)
    del generator["mesh"]
    world.write("all", mes("web", labels={"team": "shop"}), mes("db"), generator)
    status = world.state("web").status
    assert status is not None
    vip = world.vip("web")
    local = "local-mesh-external-service"
    fine = {"type": "Generated", "status": "True", "reason": "Generated", "message": ""}
    assert status.as_json() == {
        "vip": {"ip": vip},
        "addresses": [
            {
                "hostname": "web.extsvc.mesh.local",
                "origin": "HostnameGenerator",
                "hostnameGeneratorRef": {"coreName": local},
            },
            {"hostname": "shop.web.mesh", "origin": "HostnameGenerator", "hostnameGeneratorRef": {"coreName": "own"}},
        ],
        "hostnameGenerators": [
            {"hostnameGeneratorRef": {"coreName": local}, "conditions": [fine]},
            {"hostnameGeneratorRef": {"coreName": "own"}, "conditions": [fine]},
        ],
    }
    failed = world.state("db").status
    assert failed is not None
    (_, condition) = [one["conditions"][0] for one in failed.as_json()["hostnameGenerators"]]  # type: ignore[attr-defined]
    assert (condition["status"], condition["reason"]) == ("False", "TemplateError")
    assert "label team not found" in condition["message"]
    assert sorted(world.plan().names) == ["db.extsvc.mesh.local", "shop.web.mesh", "web.extsvc.mesh.local"]


def test_default_generators_can_be_switched_off(tmp_path: Path) -> None:
    world = World(tmp_path, KUMA_DEFAULTS_SKIP_HOSTNAME_GENERATORS="true")
    world.write("web", mes("web"))
    plan = world.plan()
    assert (len(plan.listeners), plan.names) == (1, {})


def test_a_generator_that_breaks_keeps_its_last_good_version(world: World) -> None:
    text = "type: HostnameGenerator\nname: own\nspec:\n  selector: {meshExternalService: {}}\n  template: TEMPLATE\n"
    world.write("web", mes("web"))
    world.write("own", text.replace("TEMPLATE", "'{{ .Name }}.own'"))
    assert "web.own" in world.plan().names
    world.write("own", text.replace("TEMPLATE", "'{{ .Name '"))
    assert world.state("own").health is Health.STALE
    assert "web.own" in world.plan().names
    (world.folder / "own.yaml").unlink()
    assert list(world.plan().names) == ["web.extsvc.mesh.local"]


def test_both_families(tmp_path: Path) -> None:
    world = World(tmp_path, pools="127.9.0.0/16,fd00:9::/64")
    world.write("web", mes("web"))
    plan = world.plan()
    assert [one.address.version for one in plan.listeners.values()] == [4, 6]
    (name,) = plan.names.values()
    assert name.addresses == tuple(one.address for one in plan.listeners.values())
    assert world.vip("web").startswith("127."), "Kuma knows one"


# Nothing moves


def test_a_service_that_breaks_keeps_its_virtual_ip(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.write("web", mes("web"))
    vip = world.vip("web")
    path = world.write("web", "type: MeshExternalService\nname: web\nmesh: default\nspec: {match: {port: 0}}\n")
    assert world.vip("web") == vip
    path.write_text("type: [\n")
    assert world.plan().listeners, "and while its file cannot be read"
    assert [lease.released for lease in world.planner.vips.leases] == [None]


def test_what_does_not_change_stays_the_same_object(world: World) -> None:
    world.write("web", mes("web"))
    world.write("db", mes("db", 5432))
    before = world.plan()
    rows = {state.name: state for state in world.planned().resources}
    world.write("db", mes("db", 5433))
    after = world.plan()
    web = next(name for name, one in before.listeners.items() if one.port == 80)
    assert after.listeners[web] is before.listeners[web]
    assert after.clusters[yamlkit.kri("web", 80)] is before.clusters[yamlkit.kri("web", 80)]
    assert {state.name for state in world.planned().resources if state is rows[state.name]} == {"web"}
    moved = next(one for one in after.listeners.values() if one.port == 5433)
    assert moved.address == next(one for one in before.listeners.values() if one.port == 5432).address


def test_the_status_in_the_document_decides(world: World) -> None:
    given = mes("web") | {"status": {"vip": {"ip": "127.9.77.77"}, "addresses": [{"hostname": "made.up"}]}}
    world.write("web", given)
    assert world.vip("web") == "127.9.77.77"
    assert list(world.plan().names) == ["web.extsvc.mesh.local"]


@pytest.mark.parametrize("ip", ["0.0.0.0", "224.0.0.1", "here", 7, ["127.9.0.1"]])
def test_an_address_that_makes_no_sense_is_replaced(world: World, ip: object) -> None:
    world.write("web", mes("web") | {"status": {"vip": {"ip": ip}}})
    planned = world.planned()
    (problem,) = planned.problems
    assert (problem.field, problem.is_error) == ("status.vip.ip", False)
    assert ip_address(world.vip("web")) in ip_network(POOLS)
    assert problem in world.state("web").problems


@pytest.mark.parametrize("status", [None, [], {"vip": None}, {"vip": {"ip": ""}}, {"vip": {}}, {"vip": "x"}])
def test_a_status_that_says_nothing(world: World, status: object) -> None:
    world.write("web", mes("web") | {"status": status})
    assert not world.planned().problems
    assert world.vip("web")


def test_exhaustion_is_an_error_of_the_newcomers(tmp_path: Path) -> None:
    world = World(tmp_path, pools="127.9.0.8/31")
    world.write("a", mes("a"), mes("b"))
    assert len(world.plan().listeners) == 2
    world.write("c", mes("c"))
    planned = world.planned()
    (problem,) = planned.problems
    assert problem.is_error
    assert problem.name == "c"
    assert problem.message == "could not allocate vip for MeshExternalService c: No addresses left in 127.9.0.8/31"
    assert planned.plan is not None
    assert len(planned.plan.listeners) == 2
    world.dataplane(yamlkit.outbound(10001, "c"))
    assert len(world.plan().listeners) == 3, "an explicit outbound reaches it"


# What is in the way


def test_an_outbound_of_the_dataplane_goes_first(world: World) -> None:
    world.write("all", mes("web"), mes("db") | {"status": {"vip": {"ip": "127.9.5.5"}}})
    world.dataplane({**yamlkit.outbound(80, "web"), "address": "127.9.5.5"})
    planned = world.planned()
    (problem,) = planned.problems
    assert (problem.name, problem.is_error) == ("db", False)
    assert "an outbound of the Dataplane has the VIP 127.9.5.5:80" in problem.message
    assert planned.plan is not None
    assert planned.plan.listeners["outbound_127.9.5.5_80"].cluster == yamlkit.kri("web", 80)


def test_two_services_with_one_identifier(world: World) -> None:
    same = {"kuma.io/display-name": "web"}
    world.write("all", mes("a", labels=same), mes("b", labels=same))
    planned = world.planned()
    (problem,) = planned.problems
    assert problem.is_error
    assert problem.message.startswith("two services have the identifier kri_extsvc_default_default__web_80")
    assert planned.plan is not None
    assert len(planned.plan.listeners) == 1


def test_access_is_the_meshs(world: World) -> None:
    world.write("all", mes("web"), yamlkit.mesh(routing={"defaultForbidMeshExternalServiceAccess": True}))
    assert world.listener("web").access is Access.FORBID
    world.write("all", mes("web"), yamlkit.mesh())
    assert world.listener("web").access is Access.ALLOW


# Transparent proxying

REDIRECT = {"redirectPortOutbound": 15001}
PASSTHROUGH = "self_transparentproxy_passthrough_outbound_ipv4"


def test_redirected_connections(tmp_path: Path) -> None:
    world = World(tmp_path, vips=None)
    world.write("web", mes("web"))
    world.dataplane(transparent=REDIRECT)
    plan = world.plan()
    redirects = [one for one in plan.listeners.values() if one.original_dst]
    assert [str(one.address) for one in redirects] == ["0.0.0.0", "::"]
    assert {one.port for one in redirects} == {15001}
    assert redirects[0].cluster == PASSTHROUGH
    assert plan.clusters[PASSTHROUGH].endpoints == ()
    assert not world.listener("web").bind_to_port
    world.dataplane(transparent={**REDIRECT, "ipFamilyMode": "IPv4"})
    assert sum(one.original_dst for one in world.plan().listeners.values()) == 1


def test_vips_may_be_bound_besides(tmp_path: Path) -> None:
    world = World(tmp_path, vips=True)
    world.write("web", mes("web"))
    world.dataplane(transparent=REDIRECT)
    assert world.listener("web").bind_to_port
    assert World(tmp_path, vips=False).plan().listeners == {}


@pytest.mark.parametrize(
    ("mesh", "passes"),
    [
        ("type: Mesh\nname: default\n", True),
        ("type: Mesh\nname: default\nnetworking: {outbound: {passthrough: true}}\n", True),
        ("type: Mesh\nname: default\nnetworking: {outbound: {passthrough: false}}\n", False),
        ("type: Mesh\nname: other\nnetworking: {outbound: {passthrough: false}}\n", True),
        ("type: Mesh\nname: default\nnetworking: 7\n", False),
    ],
)
def test_passthrough_is_the_meshs_to_forbid(tmp_path: Path, mesh: str, passes: bool) -> None:
    world = World(tmp_path, vips=None)
    world.write("mesh", mesh)
    world.dataplane(transparent=REDIRECT)
    (listener, *_) = world.plan().listeners.values()
    assert bool(listener.cluster) is passes
    assert (PASSTHROUGH in world.plan().clusters) is passes


def inbound_world(tmp_path: Path, address: str, **transparent: Any) -> World:
    world = World(tmp_path, vips=None)
    document = yamlkit.dataplane(inbounds=[{"port": 8080}, {"port": 9090, "serviceAddress": "127.0.0.1"}])
    document["networking"] |= {"address": address, "transparentProxying": transparent}
    world.dataplane_file.write_text(yamlkit.render(document))
    return world


@pytest.mark.parametrize(("address", "source"), [("10.0.0.7", "127.0.0.6"), ("fd00::7", "::6")])
def test_redirected_inbounds(tmp_path: Path, address: str, source: str) -> None:
    """The application listens at the inbound's own address: the kernel keeps the two apart."""
    world = inbound_world(tmp_path, address, redirectPortInbound=15006)
    plan = world.plan()
    assert not any("forwards to itself" in problem.message for problem in world.planned().problems)
    own, other = plan.listeners["self_inbound_dp_8080"], plan.listeners["self_inbound_dp_9090"]
    assert (str(own.address), own.port, own.bind_to_port) == (address, 8080, False)
    assert (str(other.address), other.port, other.bind_to_port) == (address, 9090, False)
    assert str(plan.clusters[own.cluster].source) == source
    assert plan.clusters[other.cluster].source is None, "a loopback address is never redirected"
    entry = plan.listeners["self_transparentproxy_passthrough_inbound_ipv4"]
    assert (entry.port, entry.direction, entry.original_dst) == (15006, Direction.INBOUND, True)
    assert str(plan.clusters[entry.cluster].source) == "127.0.0.6"
    assert str(plan.clusters["self_transparentproxy_passthrough_inbound_ipv6"].source) == "::6"
    assert "self_transparentproxy_passthrough_outbound_ipv4" not in plan.listeners


def test_inbounds_that_are_not_redirected(tmp_path: Path) -> None:
    world = inbound_world(tmp_path, "10.0.0.7", redirectPortOutbound=15001)
    plan = world.plan()
    assert "self_inbound_dp_8080" not in plan.listeners
    assert plan.listeners["self_inbound_dp_9090"].bind_to_port
    assert any("forwards to itself" in problem.message for problem in world.planned().problems)
    (problem,) = (
        one for one in inbound_world(tmp_path, "10.0.0.7", redirectPortInbound=-1).planned().problems if one.is_error
    )
    assert problem.field == "networking.transparentProxying.redirectPortInbound"


def test_a_port_that_is_none(tmp_path: Path) -> None:
    world = World(tmp_path, vips=None)
    world.dataplane(transparent={"redirectPortOutbound": 70000})
    (problem,) = world.planned().problems
    assert problem.field == "networking.transparentProxying.redirectPortOutbound"


@pytest.mark.parametrize(
    ("refs", "reached"),
    [
        ([], []),
        ([{"kind": "MeshExternalService", "name": "web"}], ["web"]),
        ([{"kind": "MeshExternalService", "name": "web", "port": 80}], ["web"]),
        ([{"kind": "MeshExternalService", "name": "web", "port": 81}], []),
        ([{"kind": "MeshExternalService", "name": "web", "namespace": "ns"}], []),
        ([{"kind": "MeshExternalService", "labels": {"team": "shop"}}], ["db"]),
        ([{"kind": "MeshExternalService", "labels": {"kuma.io/display-name": "db", "team": "shop"}}], ["db"]),
        ([{"kind": "MeshService", "name": "web"}], []),
        ([{"kind": "MeshExternalService", "name": n} for n in ("web", "db")], ["db", "web"]),
    ],
)
@pytest.mark.parametrize("vips", [True, None])
def test_reachable_backends(tmp_path: Path, vips: bool | None, refs: list[dict[str, Any]], reached: list[str]) -> None:
    world = World(tmp_path, vips=vips)
    world.write("all", mes("web"), mes("db", labels={"team": "shop"}))
    world.dataplane(transparent={**REDIRECT, "reachableBackends": {"refs": refs}})
    plan = world.plan()
    services = [plan.clusters[one.cluster].service for one in plan.listeners.values() if not one.original_dst]
    assert sorted(services) == reached
    assert sorted(plan.names) == [f"{name}.extsvc.mesh.local" for name in reached]


def test_ten_thousand_services_are_planned_again_in_a_moment(world: World) -> None:
    """By what is made anew, which does not depend on the machine: nothing."""
    world.write("all", *(mes(f"s{number}") for number in range(300)))
    first, second = world.plan(), world.plan()
    assert all(second.listeners[name] is one for name, one in first.listeners.items())
    assert all(second.clusters[name] is one for name, one in first.clusters.items())
    assert len({one.address for one in first.listeners.values()}) == 300
    assert all(isinstance(one.address, IPv4Address) for one in first.listeners.values())
