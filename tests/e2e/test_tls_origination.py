"""Guarantee: towards a TLS upstream not one byte of the application goes out before the peer has shown what
the resource demands, under each verification mode, and nothing that the resource does not demand stands in
the way.

Checked on the real process: chain and names for each mode, the name list, versions from 1.0 to 1.3, SNI and
names for each endpoint by itself, client certificates, session resumption within one service and never across
two, every form of data source, and the system's CA bundle.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.upstreams import ROOT, SERVER, SERVER_NAME, STRANGER, trusting
from tests.kit import client, peers, poll, yamlkit
from tests.kit.ca import EXPIRED, Identity, self_signed
from tests.kit.koguma import WORKERS, Koguma
from tests.kit.peers import Peer
from tests.kit.yamlkit import Document, Form, Shape

MODES = ("Secured", "SkipSAN", "SkipCA", "SkipAll")


@dataclass(frozen=True)
class Case:
    """A service with TLS settings in front of a certificate, and whether a connection may come about."""

    identity: Identity
    tls: Document
    accepted: bool


def run_cases(directory: Path, cases: dict[str, Case]) -> Iterator[tuple[Koguma, dict[str, Peer]]]:
    """One process for many cases: a service and a peer each."""
    koguma = Koguma(directory)
    open_peers: dict[str, Peer] = {}
    try:
        for name, case in cases.items():
            open_peers[name] = peer = Peer(peers.echo, tls=peers.server_tls(case.identity))
            koguma.service(name, [peer.endpoint], tls=case.tls)
        with koguma:
            yield koguma, open_peers
    finally:
        for peer in open_peers.values():
            peer.close()


def check(koguma: Koguma, peer: Peer, name: str, accepted: bool) -> None:
    answer = client.fate(koguma.port(name), b"secret of the application")
    if accepted:
        assert answer == b"secret of the application"
    else:
        assert not answer
        assert sum(seen.received_bytes for seen in peer.seen) == 0, "bytes reached a peer that was not verified"


# The modes

CERTIFICATES = {
    "good": SERVER,
    "behind-an-intermediate": ROOT.intermediate().leaf(SERVER_NAME),
    "wrong-name": ROOT.leaf("other.example.test"),
    "name-only-in-cn": ROOT.leaf(common_name=SERVER_NAME),
    "stranger": STRANGER.leaf(SERVER_NAME),
    "stranger-wrong-name": STRANGER.leaf("other.example.test"),
    "self-signed": self_signed(SERVER_NAME),
    "expired": ROOT.leaf(SERVER_NAME, window=EXPIRED),
}
WRONG_NAME = {"wrong-name", "name-only-in-cn", "stranger-wrong-name"}
WRONG_CHAIN = {"stranger", "stranger-wrong-name", "self-signed", "expired"}
REFUSED = {
    "Secured": WRONG_NAME | WRONG_CHAIN,
    "SkipSAN": WRONG_CHAIN,
    "SkipCA": WRONG_NAME,
    "SkipAll": set[str](),
}

MODE_CASES = {
    f"{mode.lower()}-{certificate}": Case(
        CERTIFICATES[certificate],
        trusting(mode=mode, server_name=SERVER_NAME),
        certificate not in REFUSED[mode],
    )
    for mode, certificate in product(MODES, CERTIFICATES)
}


@pytest.fixture(scope="module")
def modes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Koguma, dict[str, Peer]]]:
    yield from run_cases(tmp_path_factory.mktemp("modes"), MODE_CASES)


@pytest.mark.parametrize("name", MODE_CASES)
def test_each_mode_checks_what_it_says(modes: tuple[Koguma, dict[str, Peer]], name: str) -> None:
    koguma, open_peers = modes
    check(koguma, open_peers[name], name, MODE_CASES[name].accepted)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_sends_the_server_name(modes: tuple[Koguma, dict[str, Peer]], mode: str) -> None:
    koguma, open_peers = modes
    name = f"{mode.lower()}-good"
    client.fate(koguma.port(name))
    assert open_peers[name].seen[-1].sni == SERVER_NAME


# The names

API = "api.example.test"
SPIFFE = "spiffe://example.test/ns/production/api"


def names_case(presented: list[str], accepted: bool, *sans: tuple[str, str], server_name: str | None = API) -> Case:
    return Case(ROOT.leaf(*presented), trusting(sans=sans, server_name=server_name), accepted)


NAME_CASES = {
    "server-name-in-another-case": names_case(["API.Example.TEST"], True),
    "wildcard-for-one-label": names_case(["*.example.test"], True),
    "wildcard-for-two-labels": names_case(["*.example.test"], False, server_name="a.b.example.test"),
    "wildcard-for-the-domain-itself": names_case(["*.example.test"], False, server_name="example.test"),
    "partial-wildcard": names_case(["a*.example.test"], False),
    "the-list-replaces-the-server-name": names_case([API], False, ("Exact", "other.example.test")),
    "the-list-decides": names_case(["other.example.test"], True, ("Exact", "other.example.test")),
    "any-entry-of-the-list": names_case([API], True, ("Exact", "x.example.test"), ("Exact", API)),
    "uri-exact": names_case([SPIFFE], True, ("Exact", SPIFFE)),
    "uri-exact-other-path": names_case([SPIFFE], False, ("Exact", SPIFFE + "/v2")),
    "uri-prefix": names_case([SPIFFE], True, ("Prefix", "spiffe://example.test/ns/production/")),
    "uri-prefix-other-domain": names_case([SPIFFE], False, ("Prefix", "spiffe://example.org/")),
    "dns-prefix": names_case([API], True, ("Prefix", "api.")),
    "dns-prefix-elsewhere": names_case([API], False, ("Prefix", "example.")),
    "ip-exact": names_case(["192.0.2.7"], True, ("Exact", "192.0.2.7")),
    "ip-exact-other-spelling": names_case(["2001:db8::1"], True, ("Exact", "2001:0DB8:0:0::1")),
    "ip-exact-other-address": names_case(["192.0.2.7"], False, ("Exact", "192.0.2.8")),
    "endpoint-address": names_case(["127.0.0.1"], True, server_name=None),
    "endpoint-address-missing": names_case([API], False, server_name=None),
}


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Koguma, dict[str, Peer]]]:
    yield from run_cases(tmp_path_factory.mktemp("names"), NAME_CASES)


@pytest.mark.parametrize("name", NAME_CASES)
def test_names(named: tuple[Koguma, dict[str, Peer]], name: str) -> None:
    koguma, open_peers = named
    check(koguma, open_peers[name], name, NAME_CASES[name].accepted)


def test_each_endpoint_has_its_own_sni_and_its_own_name(koguma: Koguma, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 one.example.test two.example.test\n")
    koguma.args += ["--hosts-file", str(hosts)]
    with (
        Peer(peers.greeting(b"one"), tls=peers.server_tls(ROOT.leaf("one.example.test"))) as one,
        Peer(peers.greeting(b"two"), tls=peers.server_tls(ROOT.leaf("two.example.test"))) as two,
        Peer(peers.greeting(b"ip"), tls=peers.server_tls(ROOT.leaf("127.0.0.1"))) as by_address,
    ):
        endpoints = [
            one.endpoint_as("one.example.test"),
            two.endpoint_as("two.example.test"),
            by_address.endpoint,
        ]
        koguma.service("app", endpoints, tls=trusting())
        with koguma:
            answers = [client.ask(koguma.port("app")) for _ in range(9)]
            if WORKERS == 1:  # each takes turns by itself
                assert sorted(answers) == [b"ip"] * 3 + [b"one"] * 3 + [b"two"] * 3
            assert set(answers) == {b"ip", b"one", b"two"}
            assert {seen.sni for seen in one.seen} == {"one.example.test"}
            assert {seen.sni for seen in two.seen} == {"two.example.test"}
            assert {seen.sni for seen in by_address.seen} == {None}


# Versions

ALL_VERSIONS = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}
RANGES: list[tuple[str | None, str | None, set[str]]] = [
    (None, None, {"TLS12", "TLS13"}),
    ("TLSAuto", "TLSAuto", {"TLS12", "TLS13"}),
    ("TLS10", None, {"TLS10", "TLS11", "TLS12", "TLS13"}),
    ("TLS10", "TLS11", {"TLS10", "TLS11"}),
    ("TLS12", "TLS12", {"TLS12"}),
    ("TLS13", "TLS13", {"TLS13"}),
    (None, "TLS12", {"TLS12"}),
]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
def test_versions_are_exactly_those_of_the_resource(koguma: Koguma) -> None:
    open_peers = {
        version: Peer(peers.echo, tls=peers.server_tls(SERVER, minimum=number, maximum=number))
        for version, number in ALL_VERSIONS.items()
    }
    try:
        for (index, (minimum, maximum, _)), version in product(enumerate(RANGES), ALL_VERSIONS):
            tls = trusting(minimum=minimum, maximum=maximum)
            koguma.service(f"range{index}-{version.lower()}", [open_peers[version].endpoint], tls=tls)
        with koguma:
            for (index, (minimum, maximum, accepted)), version in product(enumerate(RANGES), ALL_VERSIONS):
                answer = client.fate(koguma.port(f"range{index}-{version.lower()}"))
                expected = b"ping" if version in accepted else None
                assert (answer or None) == expected, f"{minimum}..{maximum} towards a peer with {version} only"
    finally:
        for peer in open_peers.values():
            peer.close()


# Client certificates

APP_ID = "spiffe://example.test/app"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_client_certificate_is_sent_under_every_mode(koguma: Koguma, mode: str, version: ssl.TLSVersion) -> None:
    client_ca = ROOT.intermediate("Client CA")
    app = client_ca.leaf(APP_ID)
    context = peers.server_tls(SERVER, client_ca_pem=ROOT.pem, minimum=version, maximum=version)
    with Peer(peers.echo, tls=context) as peer:
        tls = trusting(
            mode=mode,
            client_cert=koguma.secret("app-cert", app.chain_pem),
            client_key=koguma.secret("app-key", app.key_pem),
        )
        koguma.service("app", [peer.endpoint], tls=tls)
        with koguma:
            assert client.ask(koguma.port("app")) == b"ping"
            assert peer.seen[0].client_sans == (APP_ID,)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_without_a_client_certificate_the_peer_refuses(koguma: Koguma, version: ssl.TLSVersion) -> None:
    context = peers.server_tls(SERVER, client_ca_pem=ROOT.pem, minimum=version, maximum=version)
    with Peer(peers.echo, tls=context) as peer:
        koguma.service("app", [peer.endpoint], tls=trusting())
        with koguma:
            assert not client.fate(koguma.port("app"))
            assert peer.wait_for(1)[0].client_der is None


# Sessions


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_next_connection_resumes_the_session(koguma: Koguma, version: ssl.TLSVersion) -> None:
    with Peer(peers.echo, tls=peers.server_tls(SERVER, minimum=version, maximum=version)) as peer:
        koguma.service("app", [peer.endpoint], tls=trusting())
        with koguma:
            for _ in range(2 + WORKERS):  # each worker keeps its own sessions
                assert client.ask(koguma.port("app")) == b"ping"
                poll.until(lambda: koguma.stat("app", "upstream_cx_active") == 0, "the connection to end")
            resumed = [seen.resumed for seen in peer.seen]
            assert not resumed[0]
            assert resumed.count(False) <= WORKERS


def test_a_session_never_serves_other_verification_settings(koguma: Koguma) -> None:
    with Peer(peers.echo, tls=peers.server_tls(SERVER)) as peer:
        koguma.service("careless", [peer.endpoint], tls=trusting(mode="SkipAll"))
        koguma.service("careful", [peer.endpoint], tls=trusting(sans=[("Exact", "other.example.test")]))
        with koguma:
            for _ in range(2):
                assert client.ask(koguma.port("careless")) == b"ping"
            before = len(peer.seen)
            assert not client.fate(koguma.port("careful"))
            assert not any(seen.resumed for seen in peer.seen[before:])
            assert sum(seen.received_bytes for seen in peer.seen[before:]) == 0


# Counters


def test_each_kind_of_refusal_has_its_counter(koguma: Koguma) -> None:
    with (
        Peer(peers.echo, tls=peers.server_tls(SERVER)) as good,
        Peer(peers.echo, tls=peers.server_tls(ROOT.leaf("other.example.test"))) as wrong_name,
        Peer(peers.echo, tls=peers.server_tls(STRANGER.leaf(SERVER_NAME, "127.0.0.1"))) as stranger,
    ):
        for name, peer in (("good", good), ("wrong-name", wrong_name), ("stranger", stranger)):
            koguma.service(name, [peer.endpoint], tls=trusting())
        with koguma:
            for name in ("good", "wrong-name", "stranger"):
                client.fate(koguma.port(name))
            assert koguma.stat("good", "ssl.handshake") == 1
            assert koguma.stat("good", "upstream_cx_connect_fail") == 0
            koguma.wait_for_stat("wrong-name", "ssl.fail_verify_san", 1)
            koguma.wait_for_stat("stranger", "ssl.fail_verify_error", 1)
            for name in ("wrong-name", "stranger"):
                assert koguma.stat(name, "ssl.handshake") == 0
                koguma.wait_for_stat(name, "upstream_cx_connect_fail", 1)


# Where the material comes from


def test_every_form_of_data_source_and_document(koguma: Koguma) -> None:
    koguma.secret("ca-universal", ROOT.pem)
    koguma.secret("ca-kubernetes", ROOT.pem, form=Form.KUBERNETES)
    sources: dict[str, Document] = {
        "secret": yamlkit.from_secret("ca-universal"),
        "secret-v3": yamlkit.from_secret("ca-kubernetes", Shape.V3),
        "inline": yamlkit.inline(ROOT.pem),
        "inline-string": yamlkit.inline_string(ROOT.pem),
        "inline-v3": yamlkit.inline(ROOT.pem, Shape.V3),
    }
    with Peer(peers.echo, tls=peers.server_tls(SERVER)) as peer:
        names = []
        for (source, ca), form in product(sources.items(), Form):
            names.append(f"{source}-{form.value}")
            koguma.service(names[-1], [peer.endpoint], tls=yamlkit.tls(ca=ca), form=form)
        with koguma:
            for name in names:
                assert client.fate(koguma.port(name)) == b"ping", name


def test_a_missing_secret_takes_down_its_own_service_only(koguma: Koguma) -> None:
    with Peer(peers.echo, tls=peers.server_tls(SERVER)) as peer:
        koguma.service("broken", [peer.endpoint], tls=yamlkit.tls(ca=yamlkit.from_secret("nowhere")))
        koguma.service("sound", [peer.endpoint], tls=trusting())
        with koguma:
            assert client.ask(koguma.port("sound")) == b"ping"
            before = len(peer.seen)
            assert client.gets_nowhere(koguma.port("broken"))
            assert len(peer.seen) == before
            conditions: list[Any] = koguma.resource("broken")["status"]["conditions"]
            assert any("nowhere" in condition["message"] for condition in conditions)


@pytest.mark.parametrize(("bundle", "accepted"), [(ROOT.pem, True), (STRANGER.pem, False)], ids=["ours", "stranger"])
def test_without_a_ca_the_bundle_of_the_system_decides(tmp_path: Path, bundle: str, accepted: bool) -> None:
    path = tmp_path / "system.pem"
    path.write_text(bundle)
    koguma = Koguma(tmp_path / "koguma", env={"KUMA_DATAPLANE_RUNTIME_DYNAMIC_SYSTEM_CA_PATH": str(path)})
    with Peer(peers.echo, tls=peers.server_tls(SERVER)) as peer:
        koguma.service("app", [peer.endpoint], tls=yamlkit.tls())
        with koguma:
            check(koguma, peer, "app", accepted)


@pytest.mark.parametrize("mode", ["Secured", "SkipSAN"])
def test_without_any_ca_nothing_is_trusted(tmp_path: Path, mode: str) -> None:
    absent = str(tmp_path / "absent.pem")
    koguma = Koguma(tmp_path / "koguma", env={"KUMA_DATAPLANE_RUNTIME_DYNAMIC_SYSTEM_CA_PATH": absent})
    with Peer(peers.echo, tls=peers.server_tls(SERVER)) as peer:
        koguma.service("app", [peer.endpoint], tls=yamlkit.tls(mode=mode))
        with koguma:
            assert client.gets_nowhere(koguma.port("app"))
            assert len(peer.seen) == 0


# Peers that never finish the handshake


def test_a_peer_that_ends_the_handshake_costs_the_application_one_close(koguma: Koguma) -> None:
    with (
        Peer(peers.close_after_first_bytes) as closing,
        Peer(peers.plaintext_where_tls_is_expected) as plaintext,
    ):
        koguma.service("closing", [closing.endpoint], tls=trusting())
        koguma.service("plaintext", [plaintext.endpoint], tls=trusting())
        with koguma:
            assert not client.fate(koguma.port("closing"))
            assert not client.fate(koguma.port("plaintext"))


@pytest.mark.slow
def test_a_peer_that_hangs_in_the_handshake_is_given_up(koguma: Koguma) -> None:
    with Peer(peers.silent) as hanging:
        koguma.service("app", [hanging.endpoint], tls=trusting())
        with koguma:
            assert not client.fate(koguma.port("app"), timeout_s=40)
            hanging.wait_for_ending()
