"""Guarantee: a change of the files is live moments later without a restart, touches nothing that it did not
change, and a change that is wrong changes nothing and says so.

Endpoints, secrets and certificates, whole services, the way in which Kubernetes swaps mounted files, SIGHUP;
connections that exist are never cut by a reload.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from tests.e2e.upstreams import ROOT, SERVER, STRANGER, trusting
from tests.kit import client, peers, poll, yamlkit
from tests.kit.ca import Identity
from tests.kit.koguma import Koguma
from tests.kit.peers import Peer
from tests.kit.yamlkit import Document

BROKEN_YAML = "type: MeshExternalService\nname: [unclosed\n"


def service(name: str, peer: Peer, *, tls: Document | None = None) -> Document:
    return yamlkit.mes(name, 80, [peer.endpoint], tls=tls)


def test_new_connections_go_to_the_new_endpoint_and_old_ones_stay(koguma: Koguma) -> None:
    with Peer(peers.banner(b"old")) as old, Peer(peers.banner(b"new")) as new:
        koguma.service("app", [old.endpoint])
        with koguma, client.connect(koguma.port("app")) as kept:
            assert client.read_exactly(kept, 3) == b"old"
            generation = koguma.stats()["koguma.generation"]
            event = koguma.rewrite("app.yaml", service("app", new))
            assert event["changed"] == 1
            assert koguma.stats()["koguma.generation"] > generation
            with client.connect(koguma.port("app")) as fresh:
                assert client.read_exactly(fresh, 3) == b"new"
            kept.sendall(b"still here")
            assert client.read_exactly(kept, 10) == b"still here"


def test_a_change_leaves_the_others_and_their_counters_alone(koguma: Koguma) -> None:
    with Peer(peers.echo) as one, Peer(peers.echo) as two:
        koguma.service("changed", [one.endpoint])
        koguma.service("untouched", [two.endpoint])
        with koguma, client.connect(koguma.port("untouched")) as kept:
            kept.sendall(b"x")
            assert client.read_exactly(kept, 1) == b"x"
            koguma.rewrite("changed.yaml", service("changed", two))
            assert koguma.stat("untouched", "upstream_cx_total") == 1
            kept.sendall(b"y")
            assert client.read_exactly(kept, 1) == b"y"


def test_a_service_may_come_and_go(koguma: Koguma) -> None:
    with Peer(peers.echo) as peer:
        koguma.service("stays", [peer.endpoint])
        with koguma:
            koguma.changing(lambda: koguma.service("comes", [peer.endpoint]))
            poll.until(lambda: client.fate(koguma.port("comes")) == b"ping", "the new service")
            koguma.changing((koguma.resources / "comes.yaml").unlink)
            poll.until(lambda: client.gets_nowhere(koguma.port("comes")), "the removed service to be gone")
            assert client.ask(koguma.port("stays")) == b"ping"


def test_the_connections_of_a_removed_service_end_by_themselves(koguma: Koguma) -> None:
    with Peer(peers.echo) as peer:
        koguma.service("app", [peer.endpoint])
        with koguma, client.connect(koguma.port("app")) as kept:
            kept.sendall(b"x")
            assert client.read_exactly(kept, 1) == b"x"
            koguma.changing((koguma.resources / "app.yaml").unlink)
            kept.sendall(b"y")
            assert client.read_exactly(kept, 1) == b"y"


def test_a_rotated_ca_decides_the_next_connection_whatever_was_resumable(koguma: Koguma) -> None:
    with Peer(peers.echo, tls=peers.server_tls(SERVER)) as peer:
        ca = koguma.secret("ca", ROOT.pem)
        koguma.service("app", [peer.endpoint], tls=yamlkit.tls(ca=ca))
        with koguma, client.connect(koguma.port("app")) as kept:
            kept.sendall(b"x")
            assert client.read_exactly(kept, 1) == b"x"
            koguma.rewrite("secret-ca.yaml", yamlkit.secret("ca", STRANGER.pem))
            assert not client.fate(koguma.port("app"))
            koguma.rewrite("secret-ca.yaml", yamlkit.secret("ca", ROOT.pem + STRANGER.pem))
            assert client.ask(koguma.port("app")) == b"ping"
            kept.sendall(b"y")
            assert client.read_exactly(kept, 1) == b"y"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_rotated_client_certificate_is_shown_to_the_next_peer(koguma: Koguma, version: ssl.TLSVersion) -> None:
    old, new = ROOT.leaf("spiffe://example.test/old"), ROOT.leaf("spiffe://example.test/new")
    context = peers.server_tls(SERVER, client_ca_pem=ROOT.pem, minimum=version, maximum=version)

    def identity(leaf: Identity) -> list[Document]:
        return [yamlkit.secret("app-cert", leaf.chain_pem), yamlkit.secret("app-key", leaf.key_pem)]

    with Peer(peers.echo, tls=context) as peer:
        koguma.write("identity.yaml", *identity(old))
        tls = trusting(client_cert=yamlkit.from_secret("app-cert"), client_key=yamlkit.from_secret("app-key"))
        koguma.service("app", [peer.endpoint], tls=tls)
        with koguma:
            assert client.ask(koguma.port("app")) == b"ping"
            koguma.rewrite("identity.yaml", *identity(new))
            assert client.ask(koguma.port("app")) == b"ping"
            assert [seen.client_sans for seen in peer.seen] == [
                ("spiffe://example.test/old",),
                ("spiffe://example.test/new",),
            ]


def test_a_key_that_does_not_fit_its_certificate_keeps_the_old_pair(koguma: Koguma) -> None:
    old, new = ROOT.leaf("spiffe://example.test/old"), ROOT.leaf("spiffe://example.test/new")
    context = peers.server_tls(SERVER, client_ca_pem=ROOT.pem)
    with Peer(peers.echo, tls=context) as peer:
        tls = trusting(
            client_cert=koguma.secret("app-cert", old.chain_pem),
            client_key=koguma.secret("app-key", old.key_pem),
        )
        koguma.service("app", [peer.endpoint], tls=tls)
        with koguma:
            assert client.ask(koguma.port("app")) == b"ping"
            koguma.break_file("secret-app-cert.yaml", yamlkit.render(yamlkit.secret("app-cert", new.chain_pem)))
            assert client.ask(koguma.port("app")) == b"ping"
            koguma.rewrite("secret-app-key.yaml", yamlkit.secret("app-key", new.key_pem))
            assert client.ask(koguma.port("app")) == b"ping"
            assert [seen.client_sans[0][-3:] for seen in peer.seen] == ["old", "old", "new"]


@pytest.mark.parametrize(
    "text",
    [
        BROKEN_YAML,
        yamlkit.render(yamlkit.mes("app", 0, [{"address": "127.0.0.1", "port": 80}])),
        yamlkit.render(yamlkit.mes("app", 80, [{"address": "not a name", "port": 80}])),
        yamlkit.render(yamlkit.mes("app", 80, [{"address": "127.0.0.1", "port": 80}], tls=yamlkit.tls(mode="Off"))),
    ],
    ids=["syntax", "match.port", "address", "mode"],
)
def test_a_broken_file_keeps_the_last_good_version(koguma: Koguma, text: str) -> None:
    with Peer(peers.echo) as peer:
        koguma.service("app", [peer.endpoint])
        with koguma, client.connect(koguma.port("app")) as kept:
            rejected = koguma.stats().get("koguma.reload.rejected", 0)
            event = koguma.break_file("app.yaml", text)
            assert event["problems"]
            assert "app.yaml" in str(event["problems"])
            assert koguma.stats()["koguma.reload.rejected"] == rejected + 1
            assert koguma.admin("/ready").status == 200
            assert client.ask(koguma.port("app")) == b"ping"
            kept.sendall(b"x")
            assert client.read_exactly(kept, 1) == b"x"
            with Peer(peers.greeting(b"repaired")) as other:
                koguma.rewrite("app.yaml", service("app", other))
                assert client.ask(koguma.port("app")) == b"repaired"


def test_a_broken_resource_does_not_hold_up_the_others(koguma: Koguma) -> None:
    with Peer(peers.greeting(b"old")) as old, Peer(peers.greeting(b"new")) as new:
        koguma.service("broken", [old.endpoint])
        koguma.service("sound", [old.endpoint])
        with koguma:
            koguma.break_file("broken.yaml", BROKEN_YAML)
            koguma.rewrite("sound.yaml", service("sound", new))
            assert client.ask(koguma.port("sound")) == b"new"
            assert client.ask(koguma.port("broken")) == b"old"


def test_mounted_files_are_swapped_as_kubernetes_swaps_them(koguma: Koguma) -> None:
    with Peer(peers.greeting(b"old")) as old, Peer(peers.greeting(b"new")) as new:
        koguma.service("app", [old.endpoint])
        (koguma.resources / "app.yaml").unlink()
        mount(koguma.resources, "..2026_01", service("app", old))
        (koguma.resources / "app.yaml").symlink_to(Path("..data", "app.yaml"))
        with koguma:
            assert client.ask(koguma.port("app")) == b"old"
            koguma.changing(lambda: mount(koguma.resources, "..2026_02", service("app", new)))
            assert client.ask(koguma.port("app")) == b"new"


def mount(directory: Path, version: str, document: Document) -> None:
    """A new hidden directory, and ``..data`` renamed over the old link: one atomic step, no file is written
    twice.
    """
    (directory / version).mkdir()
    (directory / version / "app.yaml").write_text(yamlkit.render(document))
    aside = directory / "..data_tmp"
    aside.symlink_to(version)
    aside.rename(directory / "..data")


def test_a_change_made_in_the_moment_of_readiness_is_not_lost(koguma: Koguma) -> None:
    with Peer(peers.greeting(b"old")) as old, Peer(peers.greeting(b"new")) as new:
        port = koguma.outbound("app")
        for number in range(2000):  # so that it takes a while to watch them all
            (koguma.resources / f"team-{number:04}").mkdir()
        koguma.write("zone/app.yaml", service("app", old))
        with koguma:
            koguma.write("zone/app.yaml", service("app", new))
            poll.until(lambda: client.fate(port) == b"new", "the change to be live")


def test_sighup_reloads(koguma: Koguma) -> None:
    with Peer(peers.echo) as peer:
        koguma.service("app", [peer.endpoint])
        with koguma:
            before = koguma.stats().get("koguma.reload.success", 0)
            koguma.hang_up()
            poll.until(lambda: koguma.stats().get("koguma.reload.success", 0) > before, "SIGHUP to reload")
            assert client.ask(koguma.port("app")) == b"ping"


def test_many_changes_in_a_row_end_with_the_last(koguma: Koguma) -> None:
    with Peer(peers.greeting(b"old")) as old, Peer(peers.greeting(b"new")) as new:
        koguma.service("app", [old.endpoint])
        with koguma:
            for turn in range(20):
                koguma.write("app.yaml", service("app", new if turn % 2 else old))
            poll.until(lambda: client.ask(koguma.port("app")) == b"new", "the last change")
            poll.holds(lambda: client.ask(koguma.port("app")) == b"new", "the last change stays", for_s=0.5)
