"""Guarantee: one bad resource takes nothing else down, and what was good stays in force until it is better or gone."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from config.load import Loader, load_dataplane
from config.plan import Access, ClusterPlan, Direction, Plan
from config.planner import Health, Planned, Planner, Settings
from tests.kit import yamlkit
from tests.kit.ca import Authority
from tls.material import parse_anchors

ROOT = Authority.root("Planner Root")
OTHER = Authority.root("Another Root")
NOW = datetime.now(UTC)
HERE = [{"address": "127.0.0.1", "port": 443}]


class World:
    """A folder of resources, a Dataplane file, and a planner that is fed after each change."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "resources"
        self.folder.mkdir()
        self.dataplane_file = tmp_path / "dp.yaml"
        self.loader = Loader()
        self.settings = Settings({})
        self.planner = Planner(self.settings)
        self.given: str | None = None
        self.dataplane([yamlkit.outbound(10001, "app")])

    def write(self, name: str, *documents: dict[str, Any] | str) -> Path:
        path = self.folder / name
        path.write_text("---\n".join(d if isinstance(d, str) else yamlkit.render(d) for d in documents))
        return path

    def dataplane(self, outbounds: list[dict[str, Any]] | None = None, **more: Any) -> None:
        self.dataplane_file.write_text(yamlkit.render(yamlkit.dataplane(outbounds or (), **more)))

    def planned(self) -> Planned:
        resources = self.loader.load([self.given or self.folder])
        return self.planner.plan(resources, load_dataplane(self.dataplane_file, {}), NOW)

    def plan(self) -> Plan:
        plan = self.planned().plan
        assert plan is not None
        return plan

    def cluster(self) -> ClusterPlan:
        """The one that runs."""
        (cluster,) = self.plan().clusters.values()
        return cluster

    def health(self, kind: str = "MeshExternalService") -> Health:
        (state,) = [state for state in self.planned().resources if state.kind == kind]
        return state.health


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def app(port: int = 443, **more: Any) -> dict[str, Any]:
    return yamlkit.mes("app", port, more.pop("endpoints", HERE), **more)


def with_secret_ca() -> dict[str, Any]:
    return app(tls=yamlkit.tls(ca=yamlkit.from_secret("ca")))


# Last good


BROKEN = {
    "wrong field": "type: MeshExternalService\nname: app\nmesh: default\nspec:\n  match: {port: 99999}\n",
    "unknown field": "type: MeshExternalService\nname: app\nmesh: default\nspec:\n  match: {port: 443}\n  ends: []\n",
    "key twice": "type: MeshExternalService\nname: app\nmesh: default\nspec: {}\nspec: {}\n",
    "YAML": "type: MeshExternalService\nname: app\nspec: [\n",
    "not even text": "\x00",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_a_service_broken_by_yaml_keeps_its_last_good_version(world: World, text: str) -> None:
    world.write("app.yaml", app())
    good = world.cluster()
    world.write("app.yaml", text)
    planned = world.planned()
    assert planned.has_errors
    assert planned.plan is not None
    assert list(planned.plan.clusters.values()) == [good]
    assert Health.STALE in [state.health for state in planned.resources]
    world.write("app.yaml", app(444))
    assert world.cluster().name.endswith("_444"), "and is forgotten once there is a better one"


def test_a_service_that_never_was_good_is_absent_and_the_others_run(world: World) -> None:
    world.write("bad.yaml", BROKEN["wrong field"].replace("app", "bad"))
    world.write("app.yaml", app())
    planned = world.planned()
    assert planned.plan is not None
    assert [cluster.service for cluster in planned.plan.clusters.values()] == ["app"]
    health = {state.name: state.health for state in planned.resources}
    assert health == {"bad": Health.BROKEN, "app": Health.GOOD}


@pytest.mark.parametrize("content", ["no PEM at all", ROOT.leaf("x").key_pem], ids=["no PEM", "a key"])
def test_a_secret_that_turns_into_nonsense(world: World, content: str) -> None:
    world.write("app.yaml", with_secret_ca())
    world.write("ca.yaml", yamlkit.secret("ca", ROOT.pem))
    good = world.cluster()
    world.write("ca.yaml", yamlkit.secret("ca", content))
    assert world.cluster() == good
    assert world.health() is Health.STALE
    assert world.health("Secret") is Health.GOOD, "the secret is sound; what is in it does not suit"
    world.write("ca.yaml", yamlkit.secret("ca", OTHER.pem))
    assert world.cluster() != good
    assert world.health() is Health.GOOD


def test_a_secret_broken_by_yaml_keeps_its_last_good_content(world: World) -> None:
    world.write("app.yaml", with_secret_ca())
    world.write("ca.yaml", yamlkit.secret("ca", ROOT.pem))
    good = world.cluster()
    world.write("ca.yaml", "type: Secret\nmesh: default\nname: ca\ndata: '%%%'\n")
    assert world.cluster() is good
    assert (world.health(), world.health("Secret")) == (Health.GOOD, Health.STALE)


def test_a_secret_that_is_removed(world: World) -> None:
    world.write("app.yaml", with_secret_ca())
    secret = world.write("ca.yaml", yamlkit.secret("ca", ROOT.pem))
    good = world.cluster()
    secret.unlink()
    assert world.cluster() == good
    assert world.health() is Health.STALE


def test_a_global_secret_belongs_to_no_mesh(world: World) -> None:
    world.write("app.yaml", with_secret_ca())
    world.write("ca.yaml", "type: GlobalSecret\nname: ca\ndata: " + yamlkit.secret("ca", ROOT.pem)["data"])
    assert world.health() is Health.BROKEN
    assert world.plan().clusters == {}


def test_a_resource_that_is_gone_goes(world: World) -> None:
    path = world.write("app.yaml", app())
    assert world.plan().clusters
    path.unlink()
    assert world.plan().clusters == {}
    assert world.planned().resources == ()
    world.write("app.yaml", BROKEN["wrong field"])
    assert world.health() is Health.BROKEN, "what was good before it was removed is forgotten"


def test_a_resource_that_moves_to_another_file_stays(world: World) -> None:
    path = world.write("app.yaml", app())
    good = world.cluster()
    path.rename(world.folder / "zzz.yaml")
    assert world.cluster() == good


def test_a_file_that_cannot_be_read_keeps_what_it_held(world: World) -> None:
    path = world.write("app.yaml", app())
    world.write("other.yaml", yamlkit.mes("other", 443, HERE))
    good = world.cluster()
    path.unlink()
    path.symlink_to(world.folder / "nowhere")
    assert world.cluster() is good
    assert {state.name: state.health for state in world.planned().resources} == {
        "app": Health.STALE,
        "other": Health.GOOD,
    }


@pytest.mark.parametrize("spelling", ["{}", "{}/", "./{}"])
def test_a_folder_that_cannot_be_read_keeps_what_it_held(
    world: World, spelling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world.folder.parent)
    world.given = spelling.format(world.folder.name)
    world.write("app.yaml", app())
    good = world.cluster()
    listing = os.scandir

    def refuse(path: str) -> Any:
        if Path(path).name == world.folder.name:
            raise PermissionError(13, "Permission denied")
        return listing(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert world.cluster() is good
    assert world.planned().has_errors


def test_a_neighbour_whose_name_begins_alike_is_another_folder(world: World) -> None:
    """``resources-2`` is not in ``resources``."""
    world.write("app.yaml", app())
    good = world.cluster()
    world.folder.rename(world.folder.with_name("resources-2"))
    assert world.cluster() is good, "the folder that was given cannot be read"


# Not compiled again


def test_an_outbound_that_does_not_change_keeps_its_listener(world: World) -> None:
    world.write("app.yaml", app(), yamlkit.mes("web", 80, HERE, protocol="http"))
    world.dataplane([yamlkit.outbound(10001, "app"), yamlkit.outbound(10002, "web")])
    before = world.plan().listeners
    world.write("web.yaml", yamlkit.mesh(routing={"defaultForbidMeshExternalServiceAccess": False}))
    assert all(world.plan().listeners[name] is before[name] for name in before)
    world.dataplane([yamlkit.outbound(10001, "web"), yamlkit.outbound(10002, "web")])
    after = world.plan().listeners
    assert [after[name] is before[name] for name in before] == [False, True]
    assert all(listener.cluster == yamlkit.kri("web", 80) for listener in after.values())
    world.write("web.yaml", yamlkit.mesh(routing={"defaultForbidMeshExternalServiceAccess": True}))
    assert all(listener.access is Access.FORBID for listener in world.plan().listeners.values())


def test_a_ca_that_many_services_have_is_read_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def counting(pem: bytes, source: str, now: datetime) -> Any:
        read.append(source)
        return parse_anchors(pem, source, now)

    monkeypatch.setattr("config.services.parse_anchors", counting)
    ca = yamlkit.tls(ca=yamlkit.from_secret("ca"))
    world.write("all.yaml", *(yamlkit.mes(f"s{number}", 443, HERE, tls=ca) for number in range(9)))
    world.write("ca.yaml", yamlkit.secret("ca", ROOT.pem))
    world.dataplane([yamlkit.outbound(10001 + number, f"s{number}") for number in range(9)])
    first = anchors_of(world.plan())
    assert (len(first), len(set(first)), len(read)) == (9, 1, 1)
    world.write("ca.yaml", yamlkit.secret("ca", OTHER.pem))
    then = anchors_of(world.plan())
    assert (len(then), len(set(then)), len(read)) == (9, 1, 2)
    assert then[0] != first[0]


def anchors_of(plan: Plan) -> list[str]:
    """Digests."""
    policies = [cluster.tls for cluster in plan.clusters.values()]
    return [policy.anchors.digest for policy in policies if policy is not None and policy.anchors is not None]


def test_what_did_not_change_is_the_same_object(world: World) -> None:
    world.write("app.yaml", with_secret_ca())
    world.write("ca.yaml", yamlkit.secret("ca", ROOT.pem), yamlkit.secret("unrelated", "a"))
    good = world.cluster()
    assert world.cluster() is good
    world.write("ca.yaml", yamlkit.secret("ca", ROOT.pem), yamlkit.secret("unrelated", "b"))
    assert world.cluster() is good, "its own secret is the same"
    world.write("ca.yaml", yamlkit.secret("ca", OTHER.pem), yamlkit.secret("unrelated", "b"))
    assert world.cluster() is not good


# Mesh


FORBIDDING = yamlkit.mesh(routing={"defaultForbidMeshExternalServiceAccess": True})
BROKEN_MESH = "type: Mesh\nname: default\nrouting: 7\n"


def access(world: World) -> Access:
    (listener,) = world.plan().listeners.values()
    return listener.access


def test_access_is_what_the_mesh_says(world: World) -> None:
    world.write("app.yaml", app())
    assert access(world) is Access.ALLOW, "no Mesh: Kuma's default"
    path = world.write("mesh.yaml", FORBIDDING)
    assert access(world) is Access.FORBID
    world.write("mesh.yaml", BROKEN_MESH)
    assert access(world) is Access.FORBID, "the last good version"
    world.write("mesh.yaml", yamlkit.mesh())
    assert access(world) is Access.ALLOW
    world.write("mesh.yaml", BROKEN_MESH)
    assert access(world) is Access.ALLOW, "the last good version"
    path.unlink()
    assert access(world) is Access.ALLOW


def test_a_mesh_that_never_was_good_forbids(world: World) -> None:
    world.write("app.yaml", app())
    world.write("mesh.yaml", BROKEN_MESH)
    assert access(world) is Access.FORBID
    world.write("mesh.yaml", BROKEN_MESH.replace("default", "another"))
    assert access(world) is Access.ALLOW, "that is not the proxy's mesh"


# The Dataplane


def test_a_dataplane_that_turns_wrong_keeps_the_old_one(world: World) -> None:
    world.write("app.yaml", app())
    good = world.plan()
    for text in ("type: Dataplane\nname: x\nmesh: default\nnetworking: {}\n", "[", "{{#open}}", ""):
        world.dataplane_file.write_text(text)
        planned = world.planned()
        assert planned.has_errors
        assert planned.plan == good
    world.dataplane_file.unlink()
    assert world.plan() == good
    world.dataplane([yamlkit.outbound(10002, "app")])
    assert [listener.port for listener in world.plan().listeners.values()] == [10002]


def test_without_a_dataplane_there_is_no_plan(world: World) -> None:
    world.dataplane_file.write_text("type: Dataplane\n")
    planned = world.planned()
    assert planned.plan is None
    assert planned.has_errors


def test_the_admin_port(world: World) -> None:
    assert world.plan().admin.port == 9901
    world.dataplane(admin_port=9902)
    assert world.plan().admin.port == 9902
    world.settings.admin_port = 0
    assert world.plan().admin.port == 0, "a flag beats the Dataplane, 0 too"
    world.settings.admin_address = "127.0.0.2"
    assert world.plan().admin.address == "127.0.0.2"


# Outbounds


def ref(**reference: Any) -> dict[str, Any]:
    return {"port": 10001, "backendRef": {"kind": "MeshExternalService", **reference}}


LABELS = {"kuma.io/display-name": "shown", "team": "blue"}


@pytest.mark.parametrize(
    "reference",
    [{"name": "app"}, {"name": "shown"}, {"labels": {"team": "blue"}}, {"labels": LABELS},
     {"labels": {"kuma.io/zone": "default", "kuma.io/mesh": "default"}}],
)  # fmt: skip
def test_a_service_is_found_by_name_display_name_or_labels(world: World, reference: dict[str, Any]) -> None:
    world.write("app.yaml", app(labels=LABELS))
    world.dataplane([ref(**reference)])
    (listener,) = world.plan().listeners.values()
    assert listener.name == "outbound_127.0.0.1_10001"
    assert listener.direction is Direction.OUTBOUND
    assert listener.cluster == world.cluster().name


@pytest.mark.parametrize("reference", [{"name": "other"}, {"labels": {"team": "red"}}, {"labels": {"no": "where"}}])
def test_a_service_that_is_not_there_is_a_warning(world: World, reference: dict[str, Any]) -> None:
    world.write("app.yaml", app(labels=LABELS))
    world.dataplane([ref(**reference)])
    planned = world.planned()
    assert planned.plan is not None
    assert planned.plan.listeners == {}
    assert not planned.has_errors
    (problem,) = [p for p in planned.problems if p.field == "networking.outbound[0].backendRef"]
    assert "no usable MeshExternalService" in problem.message


def test_a_service_of_another_mesh_is_not_meant(world: World) -> None:
    world.write("app.yaml", app(mesh="other"))
    assert world.plan().listeners == {}


def test_of_several_the_oldest_is_taken(world: World) -> None:
    def dated(name: str, year: int | None) -> dict[str, Any]:
        document = yamlkit.mes(name, 443, HERE, labels={"team": "blue"})
        return document if year is None else {**document, "creationTime": f"{year}-01-01T00:00:00Z"}

    world.dataplane([ref(labels={"team": "blue"})])
    world.write("all.yaml", dated("b", None), dated("c", None))
    assert world.cluster().service == "b", "undated: by name"
    world.write("all.yaml", dated("b", None), dated("c", 2024), dated("d", 2023))
    assert world.cluster().service == "d"


def test_a_port_that_is_asked_for_twice(world: World) -> None:
    world.write("app.yaml", app(), yamlkit.mes("other", 443, HERE))
    world.dataplane([yamlkit.outbound(10001, "app"), yamlkit.outbound(10001, "other")])
    planned = world.planned()
    assert planned.plan is not None
    assert [cluster.service for cluster in planned.plan.clusters.values()] == ["app"]
    (problem,) = [p for p in planned.problems if p.is_error]
    assert (problem.field, problem.message) == (
        "networking.outbound[1]",
        "127.0.0.1:10001 is already used by another outbound",
    )


def test_another_kind_of_backend_is_said(world: World) -> None:
    world.dataplane([{"port": 10001, "backendRef": {"kind": "MeshService", "name": "app", "port": 80}}])
    assert any("MeshService is not served" in problem.message for problem in world.planned().problems)


# Inbounds


def test_an_inbound_that_forwards_to_itself_is_the_applications(world: World) -> None:
    world.dataplane(inbounds=[{"port": 8080}])
    assert world.plan().listeners == {}


def test_an_inbound_accepts_plaintext_and_says_so(world: World) -> None:
    world.dataplane(inbounds=[{"port": 8080, "servicePort": 8081, "protocol": "http"}])
    planned = world.planned()
    assert planned.plan is not None
    (listener,) = planned.plan.listeners.values()
    assert (listener.name, listener.direction, listener.bind) == (
        "self_inbound_dp_8080", Direction.INBOUND, "127.0.0.1:8080",
    )  # fmt: skip
    (cluster,) = planned.plan.clusters.values()
    assert [str(endpoint.target) for endpoint in cluster.endpoints] == ["127.0.0.1:8081"]
    assert any("accepts plaintext" in problem.message for problem in planned.problems)
    assert not planned.has_errors


def test_an_ignored_inbound_is_not_opened(world: World) -> None:
    world.dataplane(inbounds=[{"port": 8080, "servicePort": 8081, "state": "Ignored"}])
    assert world.plan().listeners == {}


def test_two_inbounds_with_one_name(world: World) -> None:
    """Nothing disappears without a word."""
    inbounds = [{"port": 8080, "servicePort": 8081}, {"port": 8080, "address": "127.0.0.2", "servicePort": 8082}]
    world.dataplane(inbounds=inbounds)
    planned = world.planned()
    assert planned.plan is not None
    assert [listener.bind for listener in planned.plan.listeners.values()] == ["127.0.0.1:8080"]
    assert [p.field for p in planned.problems if p.is_error] == ["networking.inbound[1]"]


# Partial sets, and what is shown


def test_in_a_partial_set_what_is_missing_is_a_warning(world: World) -> None:
    world.write("app.yaml", with_secret_ca())
    assert world.planned().has_errors
    world.settings.partial = True
    planned = world.planned()
    assert not planned.has_errors
    assert any('name="ca"' in problem.message for problem in planned.problems)
    world.write("ca.yaml", yamlkit.secret("ca", "nonsense"))
    assert world.planned().has_errors, "wrong is wrong, in a part too"


def test_conditions_as_kuma_writes_them(world: World) -> None:
    world.write("app.yaml", app())
    (state,) = world.planned().resources
    (accepted,) = state.conditions()
    assert (accepted["type"], accepted["status"], accepted["message"]) == ("Accepted", "True", "")
    assert state.cluster is world.cluster()
    world.write("app.yaml", BROKEN["wrong field"])
    (state,) = world.planned().resources
    accepted, kept = state.conditions()
    assert (accepted["status"], kept["type"]) == ("False", "LastGoodKept")
    assert "spec.match.port" in accepted["message"]
    (never,) = replace(state, health=Health.BROKEN).conditions()
    assert never["status"] == "False"


def test_every_service_is_known_whether_used_or_not(world: World) -> None:
    world.write("all.yaml", app(), yamlkit.mes("unused", 80, HERE))
    world.plan()
    assert sorted(cluster.service for cluster in world.planner.services) == ["app", "unused"]
