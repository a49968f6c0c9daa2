"""Guarantee: whatever kind of endpoint a service names, connections go there, and an endpoint that cannot
take one is passed over before the application notices.

IPv4, IPv6, unix sockets (abstract ones too), DNS names from a hosts file or a DNS server, mixed in one
service; priorities; endpoints that refuse or fail verification; ejection of what keeps failing, and its
return.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.upstreams import ROOT, SERVER, SERVER_NAME, STRANGER, trusting
from tests.kit import client, peers, poll
from tests.kit.ca import Identity
from tests.kit.dns import DnsServer
from tests.kit.koguma import WORKERS, Koguma
from tests.kit.peers import Peer
from tests.kit.ports import free_port

NAME = "api.example.test"


def assert_even(answers: Counter[bytes], *expected: bytes) -> None:
    """Each was given as often as any other; with several workers, each of which takes turns by itself, nearly so."""
    assert answers.keys() == set(expected)
    assert max(answers.values()) - min(answers.values()) <= (0 if WORKERS == 1 else WORKERS), answers


def dead_endpoint() -> dict[str, str | int]:
    """A port on which nobody listens."""
    return {"address": "127.0.0.1", "port": free_port()}


def test_ipv6_endpoint_and_ipv6_listener(koguma: Koguma) -> None:
    with Peer(peers.echo, at="::1") as peer:
        koguma.service("app", [peer.endpoint], address="::1")
        with koguma:
            assert client.ask(koguma.port("app"), host="::1") == b"ping"


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_unix_socket(koguma: Koguma, tmp_path: Path, abstract: bool, tls: bool) -> None:
    at = f"@koguma-{tmp_path.name}-{tls}" if abstract else str(tmp_path / "app.sock")
    with Peer(peers.echo, at=at, tls=peers.server_tls(SERVER) if tls else None) as peer:
        koguma.service("app", [peer.endpoint], tls=trusting(server_name=SERVER_NAME) if tls else None)
        with koguma:
            assert client.ask(koguma.port("app")) == b"ping"
            if tls:
                assert peer.seen[0].sni == SERVER_NAME


def test_a_name_from_the_hosts_file(koguma: Koguma, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.1 {NAME} alias.example.test # a comment\n")
    koguma.args += ["--hosts-file", str(hosts)]
    with Peer(peers.echo) as peer:
        koguma.service("app", [peer.endpoint_as(NAME)])
        koguma.service("alias", [peer.endpoint_as("alias.example.test")])
        with koguma:
            assert client.ask(koguma.port("app")) == b"ping"
            assert client.ask(koguma.port("alias")) == b"ping"


def test_every_address_of_a_name_is_an_endpoint(koguma: Koguma) -> None:
    with (
        Peer(peers.greeting(b"two"), at="127.0.0.2") as two,
        Peer(peers.greeting(b"three"), at="127.0.0.3", port=two.port),
        DnsServer({NAME: ["127.0.0.2", "127.0.0.3"]}) as dns,
    ):
        koguma.args += ["--dns-upstream", dns.address]
        koguma.service("app", [two.endpoint_as(NAME)])
        with koguma:
            answers = Counter(client.ask(koguma.port("app")) for _ in range(10))
            assert_even(answers, b"two", b"three")


def test_a_name_that_moves_is_followed_within_its_ttl(koguma: Koguma) -> None:
    with (
        Peer(peers.greeting(b"two"), at="127.0.0.2") as two,
        Peer(peers.greeting(b"three"), at="127.0.0.3", port=two.port),
        DnsServer({NAME: ["127.0.0.2"]}, ttl_s=1) as dns,
    ):
        koguma.args += ["--dns-upstream", dns.address]
        koguma.service("app", [two.endpoint_as(NAME)])
        with koguma:
            assert client.ask(koguma.port("app")) == b"two"
            dns.zone[NAME] = ["127.0.0.3"]
            poll.until(lambda: client.ask(koguma.port("app")) == b"three", "the new address to be used")


@pytest.mark.parametrize("trouble", ["servfail", "nxdomain", "empty"])
def test_a_name_that_stops_resolving_keeps_its_last_good_address(koguma: Koguma, trouble: str) -> None:
    with Peer(peers.echo) as peer, DnsServer({NAME: ["127.0.0.1"]}, ttl_s=1) as dns:
        koguma.args += ["--dns-upstream", dns.address]
        koguma.service("app", [peer.endpoint_as(NAME)])
        with koguma:
            assert client.ask(koguma.port("app")) == b"ping"
            match trouble:
                case "servfail":
                    dns.failing = True
                case "nxdomain":
                    del dns.zone[NAME]
                case _:
                    dns.zone[NAME] = []
            asked = dns.asked[NAME]
            poll.until(lambda: dns.asked[NAME] >= asked + 2, "another look at the name")
            assert client.ask(koguma.port("app")) == b"ping"


def test_a_name_that_appears_late_is_used(koguma: Koguma) -> None:
    with Peer(peers.echo) as peer, DnsServer({}, ttl_s=1) as dns:
        koguma.args += ["--dns-upstream", dns.address]
        koguma.service("app", [peer.endpoint_as(NAME)])
        with koguma:
            assert not client.fate(koguma.port("app"))
            dns.zone[NAME] = ["127.0.0.1"]
            poll.until(lambda: client.fate(koguma.port("app")) == b"ping", "the name to be found", within_s=20)


def test_mixed_kinds_share_the_work_evenly(koguma: Koguma, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.1 {NAME}\n")
    koguma.args += ["--hosts-file", str(hosts)]
    with (
        Peer(peers.greeting(b"ipv4")) as ipv4,
        Peer(peers.greeting(b"ipv6"), at="::1") as ipv6,
        Peer(peers.greeting(b"name")) as named,
        Peer(peers.greeting(b"unix"), at=str(tmp_path / "app.sock")) as unix,
    ):
        koguma.service("app", [ipv4.endpoint, ipv6.endpoint, named.endpoint_as(NAME), unix.endpoint])
        with koguma:
            answers = Counter(client.ask(koguma.port("app")) for _ in range(20))
            assert_even(answers, b"ipv4", b"ipv6", b"name", b"unix")


def test_a_lower_priority_takes_over_when_the_higher_one_is_gone(koguma: Koguma) -> None:
    with Peer(peers.greeting(b"first")) as first, Peer(peers.greeting(b"second")) as second:
        koguma.service("app", [{**second.endpoint, "priority": 1}, {**first.endpoint, "priority": 0}])
        with koguma:
            assert {client.ask(koguma.port("app")) for _ in range(6)} == {b"first"}
            first.stop_listening()
            assert {client.ask(koguma.port("app")) for _ in range(6)} == {b"second"}


def test_the_application_does_not_notice_an_endpoint_that_refuses(koguma: Koguma) -> None:
    with Peer(peers.echo) as peer:
        koguma.service("app", [dead_endpoint(), peer.endpoint, dead_endpoint()])
        with koguma:
            for _ in range(20):
                assert client.ask(koguma.port("app")) == b"ping"
            assert koguma.stat("app", "upstream_cx_connect_fail") >= 1


def test_the_application_does_not_notice_a_unix_socket_that_is_gone(koguma: Koguma, tmp_path: Path) -> None:
    with Peer(peers.echo) as peer:
        koguma.service("app", [{"address": f"unix://{tmp_path}/absent.sock"}, peer.endpoint])
        with koguma:
            for _ in range(6):
                assert client.ask(koguma.port("app")) == b"ping"


@pytest.mark.parametrize(
    "identity", [ROOT.leaf("other.example.test"), STRANGER.leaf("127.0.0.1")], ids=["wrong-name", "stranger"]
)
def test_the_application_does_not_notice_an_endpoint_that_fails_verification(
    koguma: Koguma, identity: Identity
) -> None:
    with (
        Peer(peers.echo, tls=peers.server_tls(identity)) as bad,
        Peer(peers.echo, tls=peers.server_tls(SERVER)) as good,
    ):
        koguma.service("app", [bad.endpoint, good.endpoint], tls=trusting())
        with koguma:
            for _ in range(10):
                assert client.ask(koguma.port("app")) == b"ping"
            assert len(bad.seen) >= 1
            assert sum(seen.received_bytes for seen in bad.seen) == 0


def test_what_keeps_failing_is_left_alone_and_later_welcome_again(koguma: Koguma) -> None:
    conversations = 60
    with Peer(peers.greeting(b"alive")) as alive:
        dead = dead_endpoint()
        koguma.service("app", [dead, alive.endpoint])
        with koguma:
            start = time.monotonic()
            for _ in range(conversations):
                assert client.ask(koguma.port("app")) == b"alive"
            trials = 1 + int(time.monotonic() - start)  # the first ejection lasts a second
            assert koguma.stat("app", "upstream_cx_connect_fail") <= (3 + trials) * WORKERS < conversations / 2
            with Peer(peers.greeting(b"returned"), port=int(dead["port"])):
                poll.until(lambda: client.ask(koguma.port("app")) == b"returned", "the endpoint to be tried again")
                if WORKERS == 1:  # each worker learns it by itself
                    answers = Counter(client.ask(koguma.port("app")) for _ in range(10))
                    assert answers == {b"alive": 5, b"returned": 5}


def test_a_single_endpoint_is_always_tried(koguma: Koguma) -> None:
    dead = dead_endpoint()
    koguma.service("app", [dead])
    with koguma:
        for _ in range(10):
            assert not client.fate(koguma.port("app"))
        with Peer(peers.echo, port=int(dead["port"])):
            assert client.ask(koguma.port("app")) == b"ping"


def test_without_endpoints_the_connection_is_closed(koguma: Koguma) -> None:
    koguma.service("app", [])
    with koguma:
        assert client.gets_nowhere(koguma.port("app"))
