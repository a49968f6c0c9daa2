"""Guarantee: an identity that others issue, an agent of SPIRE or files, is used as long as it lasts and no longer; what
is wrong with it is said and keeps what was good; and without it no inbound opens.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from config.issuers import IdentityFiles, IdentityPaths
from config.load import Loader, load_dataplane
from config.plan import Plan, diff
from config.planner import Planned, Planner, Settings
from tests.kit import yamlkit
from tests.kit.ca import CLIENT, EXPIRED, Authority, Identity, key_pem
from tls.bundles import parse_bundle
from tls.issued import Delivery, read_issued
from tls.material import MaterialError

NOW = datetime.now(UTC)
CA, PARTNER, OTHER = Authority.root("Zone 1"), Authority.root("Partner"), Authority.root("Other")
APP = "spiffe://zone-1/workload/app"


class World:
    """A Dataplane with one inbound, a folder of resources, and a planner that is fed after each change."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "resources"
        self.folder.mkdir()
        self.dataplane = tmp_path / "dp.yaml"
        document = yamlkit.dataplane(inbounds=[{"port": 8080, "servicePort": 8081}])
        document["labels"] = {"kuma.io/workload": "app"}
        self.dataplane.write_text(yamlkit.render(document))
        self.delivery = Delivery()
        self.files: IdentityFiles | None = None
        self.loader = Loader()
        self._planner: Planner | None = None
        self.now = NOW

    def delivered(self) -> Delivery:
        return self.delivery

    def use(self, paths: IdentityPaths) -> None:
        self.files = IdentityFiles(paths)

    def write(self, *documents: yamlkit.Document) -> None:
        self.folder.joinpath("all.yaml").write_text(yamlkit.render(*documents))

    def planned(self) -> Planned:
        if self._planner is None:
            self._planner = Planner(Settings({}, agent=self, identity_files=self.files))
        if self.files is not None:
            self.files.refresh()
        return self._planner.plan(self.loader.load([self.folder]), load_dataplane(self.dataplane, {}), self.now)

    def plan(self) -> Plan:
        plan = self.planned().plan
        assert plan is not None
        return plan

    @property
    def is_open(self) -> bool:
        return bool(self.plan().listeners)

    @property
    def said(self) -> str:
        return "\n".join(problem.as_text() for problem in self.planned().problems)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def spire(trust_domain: str = "zone-1") -> yamlkit.Document:
    spec = {
        "selector": {"dataplane": {"matchLabels": {}}},
        "spiffeID": {"trustDomain": trust_domain},
        "provider": {"type": "Spire", "spire": {"agent": {"timeout": "3s"}}},
    }
    return yamlkit.plugin_resource("MeshIdentity", "identity", spec)


def bundled(name: str, authority: Authority) -> yamlkit.Document:
    """An identity of nobody here, which is trusted all the same."""
    sources = {"certificate": authority.pem, "privateKey": key_pem(authority.key)}
    ca = {key: {"type": "InsecureInline", "insecureInline": {"value": text}} for key, text in sources.items()}
    provider = {"type": "Bundled", "bundled": {"insecureAllowSelfSigned": True, "ca": ca}}
    return yamlkit.plugin_resource("MeshIdentity", name, {"provider": provider, "spiffeID": {"trustDomain": "other"}})


def trust(domain: str, authority: Authority) -> yamlkit.Document:
    bundles = [{"type": "Pem", "pem": {"value": authority.pem}}]
    return yamlkit.plugin_resource("MeshTrust", domain, {"trustDomain": domain, "caBundles": bundles})


def issued(spiffe_id: str = APP, authority: Authority = CA) -> Delivery:
    leaf = authority.leaf(spiffe_id)
    svid, _ = read_issued(leaf.chain_pem.encode(), leaf.key_pem.encode(), "the agent", NOW)
    bundles = (parse_bundle("partner", PARTNER.pem.encode(), "the agent")[0],
               parse_bundle("zone-1", CA.pem.encode(), "the agent")[0])  # fmt: skip
    return Delivery((svid,), bundles)


# From an agent ------------------------------------------------------------------------------------------------------


def test_an_agents_word_is_all_that_counts(world: World) -> None:
    world.write(spire(), trust("other", OTHER), bundled("nobodys", OTHER))
    world.delivery = issued()
    plan = world.plan()
    (listener,) = plan.listeners.values()
    assert listener.acceptance is not None
    assert list(listener.acceptance.bundles.by_domain) == ["partner", "zone-1"]
    assert listener.acceptance.identity == world.delivery.svids[0].pair
    assert plan.identity is not None
    assert (plan.identity.id, plan.identity.renew_at) == (APP, plan.identity.not_after)
    assert "MeshTrust/other: warning: does not apply to this proxy" in world.said


def test_the_start_is_told_how_long_to_wait(world: World) -> None:
    world.write(spire())
    assert world.planned().agent_timeout_s == 3.0
    assert not world.is_open
    assert "MeshIdentity/identity: spec.provider.spire: warning: the agent has not answered yet" in world.said
    world.write(bundled("identity", CA))
    assert world.planned().agent_timeout_s is None


def test_a_faulty_agent_is_no_fault_of_the_resources(world: World) -> None:
    world.write(spire())
    world.delivery = Delivery(fault="the agent does not answer")
    planned = world.planned()
    assert not planned.has_errors
    assert not world.is_open
    assert 'the inbound is not opened: MeshIdentity "identity" is not ready: the agent does not answer' in world.said


def test_the_id_must_be_the_one_that_is_meant(world: World) -> None:
    world.write(spire("zone-2"))
    world.delivery = issued()
    assert not world.is_open
    assert f"the agent issues {APP} to this process, and not spiffe://zone-2/workload/app" in world.said


def test_it_is_used_until_it_expires(world: World) -> None:
    world.write(spire())
    world.delivery = replace(issued(), fault="the agent does not answer")
    plan = world.plan()
    assert plan.identity is not None
    assert plan.identity.fault == "the agent does not answer"
    assert f"the agent does not answer: the certificate of {APP} is used until" in world.said
    ends = world.delivery.svids[0].not_after
    world.now = ends - timedelta(seconds=1)
    assert world.is_open
    world.now = ends
    assert not world.is_open
    assert world.plan().identity is None
    assert f"the certificate of {APP} has expired on {ends:%Y-%m-%d %H:%M:%S} UTC: the agent does not" in world.said


def test_a_new_one_changes_the_listener_in_place(world: World) -> None:
    world.write(spire())
    world.delivery = issued()
    before = world.plan()
    assert diff(before, world.plan()) == []
    world.delivery = issued()
    (step,) = diff(before, world.plan())
    assert type(step).__name__ == "Change"


# What may be presented ----------------------------------------------------------------------------------------------


def read(identity: Identity, key: str | None = None) -> str:
    try:
        read_issued(identity.chain_pem.encode(), (key or identity.key_pem).encode(), "a file", NOW)
    except MaterialError as error:
        return f"{error.which}: {error.message}"
    return ""


def test_what_may_be_presented() -> None:
    assert read(CA.leaf(APP)) == ""
    assert read(CA.intermediate().leaf(APP)) == ""


def test_what_may_not() -> None:
    other_key = CA.leaf(APP).key_pem
    client_alone = CA.leaf(APP, usages=[CLIENT])
    short = CA.intermediate(window=EXPIRED).leaf(APP)
    assert read(CA.leaf(APP), other_key) == "key: the private key does not belong to the certificate"
    assert read(CA.leaf(APP), "nothing").startswith("key: no private key in it")
    assert read(CA.leaf(APP, window=EXPIRED)).startswith(f"certificate: {APP} has expired on ")
    assert read(short).startswith(f"certificate: {APP} has expired on ")
    assert read(CA.leaf("app.example")).startswith("certificate: the certificate has no URI SAN")
    assert read(CA.leaf(APP, "spiffe://b/c")).startswith("certificate: the certificate has 2 URI SANs")
    assert read(CA.leaf("https://zone-1/app")).startswith("certificate: the URI SAN of the certificate, ")
    assert (
        read(CA.leaf(APP, is_ca=True))
        == f"certificate: the certificate of {APP} may not identify a peer: it is a CA certificate"
    )
    assert read(client_alone).endswith("its extended key usage lacks serverAuth")


# From files ---------------------------------------------------------------------------------------------------------


def paths(tmp_path: Path) -> IdentityPaths:
    return IdentityPaths(tmp_path / "app.crt", tmp_path / "app.key", tmp_path / "ca.pem")


def put(paths: IdentityPaths, identity: Identity, authority: Authority = CA) -> None:
    paths.certificate.write_text(identity.chain_pem)
    paths.key.write_text(identity.key_pem)
    if paths.bundle is not None:
        paths.bundle.write_text(authority.pem)


@pytest.fixture
def given(world: World, tmp_path: Path) -> IdentityPaths:
    """Good files, which the world uses."""
    found = paths(tmp_path)
    put(found, CA.leaf(APP))
    world.use(found)
    return found


def test_files_say_who_we_are_whatever_identities_say(world: World, given: IdentityPaths) -> None:
    """MeshTrusts, and the CAs of other identities, add to the bundle."""
    world.write(spire("zone-2"), trust("partner", PARTNER), bundled("nobodys", OTHER))
    plan = world.plan()
    assert plan.identity is not None
    assert (plan.identity.id, plan.identity.resource) == (APP, "")
    assert list(plan.trust.by_domain) == ["other", "partner", "zone-1"]
    assert world.planned().agent_timeout_s is None
    assert world.said == ""


def test_one_file_may_have_both(world: World, tmp_path: Path) -> None:
    leaf = CA.leaf(APP)
    both = tmp_path / "credential-bundle.private-key.pem"
    both.write_text(leaf.key_pem + leaf.chain_pem)
    world.use(IdentityPaths(both, both))
    world.write(trust("zone-1", CA))
    assert world.is_open


def test_a_change_is_seen_and_changes_the_listener_in_place(world: World, given: IdentityPaths) -> None:
    assert world.files is not None
    before = world.plan()
    version = world.files.version
    world.files.refresh()
    assert world.files.version == version
    put(given, CA.leaf(APP))
    (step,) = diff(before, world.plan())
    assert type(step).__name__ == "Change"
    assert world.files.version == version + 1


EXPIRED_LEAF, UNNAMED_LEAF, SPARE = CA.leaf(APP, window=EXPIRED), CA.leaf("app.example"), CA.leaf(APP)


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        ({"key": SPARE.key_pem}, "app.key:1: the private key does not belong to the certificate"),
        ({"certificate": SPARE.pem}, "app.key:1: the private key does not belong to the certificate"),
        ({"key": ""}, "app.key:1: no private key in it"),
        ({"key": None}, "app.key:1: cannot be read: No such file or directory"),
        ({"certificate": EXPIRED_LEAF.pem, "key": EXPIRED_LEAF.key_pem}, f"app.crt:1: {APP} has expired on "),
        ({"certificate": UNNAMED_LEAF.pem, "key": UNNAMED_LEAF.key_pem}, "app.crt:1: the certificate has no URI SAN"),
        ({"bundle": ""}, "ca.pem:1: no CA certificate in it"),
        ({"bundle": SPARE.pem}, "ca.pem:1: CN=leaf: PEM block 1 is not a CA certificate"),
    ],
)
def test_what_is_wrong_keeps_what_was_good(
    world: World, given: IdentityPaths, contents: dict[str, str | None], reason: str
) -> None:
    before = world.plan()
    for what, content in contents.items():
        path: Path = getattr(given, what)
        path.unlink()
        if content is not None:
            path.write_text(content)
    assert diff(before, world.plan()) == []
    planned = world.planned()
    assert planned.has_errors
    assert reason in world.said
    assert ": the certificate of before is used, until " in world.said
    assert planned.plan is not None
    assert planned.plan.identity is not None
    assert planned.plan.identity.fault
    put(given, CA.leaf(APP))
    assert world.said == ""


def test_what_never_was_good_opens_nothing(world: World, tmp_path: Path) -> None:
    world.use(paths(tmp_path))
    assert not world.is_open
    assert "app.crt:1: cannot be read: No such file" in world.said
    assert "the inbound is not opened: the identity in " in world.said


def test_files_are_used_until_they_expire(world: World, given: IdentityPaths) -> None:
    identity = world.plan().identity
    assert identity is not None
    assert identity.not_after is not None
    world.now = identity.not_after
    assert not world.is_open
    assert f"app.crt:1: {APP} has expired on " in world.said
    assert "certificate of before" not in world.said


def test_a_bundle_of_others_is_worth_a_warning(world: World, given: IdentityPaths) -> None:
    put(given, CA.leaf(APP), OTHER)
    assert world.is_open
    assert f"ca.pem:1: warning: does not vouch for {APP}" in world.said


def test_no_text_has_a_key(world: World, given: IdentityPaths) -> None:
    put(given, replace(CA.leaf(APP), key=OTHER.key))
    said = world.said + repr(world.planned())
    body = key_pem(OTHER.key).splitlines()[1]
    assert "does not belong" in said
    assert body not in said


# As a client --------------------------------------------------------------------------------------------------------


def service() -> yamlkit.Document:
    tls = yamlkit.tls(ca=yamlkit.inline_string(PARTNER.pem), server_name="partner.test")
    document = yamlkit.mes("partner", 443, [{"address": "127.0.0.1", "port": 8443}], tls=tls)
    return document | {"labels": {"koguma.io/client-certificate": "identity"}}


def presented(world: World) -> list[bytes]:
    plan = world.planned()
    services = [state.cluster for state in plan.resources if state.cluster is not None]
    return [one.tls.client.chain_pem for one in services if one.tls is not None and one.tls.client is not None]


def test_outbounds_present_what_the_agent_has_issued(world: World) -> None:
    world.write(spire(), service())
    assert presented(world) == []
    world.delivery = issued()
    assert presented(world) == [world.delivery.svids[0].pair.chain_pem]
    world.delivery = issued()
    assert presented(world) == [world.delivery.svids[0].pair.chain_pem]
    world.now = world.delivery.svids[0].not_after
    assert presented(world) == []


def test_outbounds_present_what_is_in_files(world: World, given: IdentityPaths) -> None:
    world.write(service())
    assert presented(world) == [given.certificate.read_bytes()]
