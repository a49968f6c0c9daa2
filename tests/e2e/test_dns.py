"""Guarantee: an application that knows a name, and nothing of ports or proxies, reaches the service: unprivileged in
127.0.0.0/8, and on Kuma's own addresses where the route to them was set.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from ipaddress import ip_address, ip_network
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.kit import client, netns, peers, poll, yamlkit
from tests.kit import koguma as harness
from tests.kit.dns import DnsServer
from tests.kit.koguma import KOGUMA, Koguma
from tests.kit.origins import Origin, always, ok
from tests.kit.peers import Peer

CIDR = "127.242.0.0/16"
NAME = "app.extsvc.mesh.local"
PORT = 8443
WAIT_S = 5.0


def resolve(koguma: Koguma, name: str, rdtype: str = "A", *, over_tcp: bool = False) -> dns.message.Message:
    query = dns.message.make_query(name, rdtype)
    ask = dns.query.tcp if over_tcp else dns.query.udp
    return ask(query, "127.0.0.1", WAIT_S, koguma.dns_port)


def addresses(message: dns.message.Message) -> list[str]:
    return [record.to_text() for rrset in message.answer for record in rrset]


def mes(name: str, peer: Peer) -> yamlkit.Document:
    return yamlkit.mes(name, PORT, [peer.endpoint])


def nobody_listens(koguma: Koguma) -> bool:
    """Not even on UDP: its socket is bound first and alone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
        udp.bind(("127.0.0.1", koguma.dns_port))
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind(("127.0.0.1", koguma.dns_port))
    return True


@pytest.fixture
def koguma(tmp_path: Path) -> Koguma:
    return Koguma(tmp_path / "koguma", args=["--vips", "--vip-cidr", CIDR])


def test_from_a_name_to_the_service(koguma: Koguma) -> None:
    with Peer(peers.echo) as peer:
        koguma.write("app.yaml", mes("app", peer))
        with koguma:
            (vip,) = addresses(resolve(koguma, NAME))
            assert vip.startswith("127.242.")
            assert addresses(resolve(koguma, NAME.upper(), over_tcp=True)) == [vip]
            assert client.ask(PORT, b"by name", host=vip) == b"by name"
            back = ".".join(reversed(vip.split("."))) + ".in-addr.arpa"
            assert addresses(resolve(koguma, back, "PTR")) == [f"{NAME}."]
            nothing = resolve(koguma, NAME, "AAAA")
            assert (nothing.rcode(), nothing.answer) == (dns.rcode.NOERROR, [])
            (ready,) = koguma.events("ready")
            assert ready["dns"] == f"127.0.0.1:{koguma.dns_port}"


def test_names_follow_the_resources(koguma: Koguma) -> None:
    koguma.args += ["--dns-upstream", "127.0.0.1:9"]
    with Peer(peers.echo) as peer, koguma:
        assert nobody_listens(koguma), "no names, no port"
        koguma.rewrite("app.yaml", mes("app", peer))
        (vip,) = addresses(resolve(koguma, NAME))
        koguma.rewrite("other.yaml", mes("other", peer))
        assert addresses(resolve(koguma, "other.extsvc.mesh.local"))
        assert addresses(resolve(koguma, NAME)) == [vip]
        koguma.changing(lambda: (koguma.resources / "app.yaml").unlink())
        assert resolve(koguma, NAME).rcode() == dns.rcode.NXDOMAIN
        koguma.changing(lambda: (koguma.resources / "other.yaml").unlink())
        assert resolve(koguma, NAME).rcode() == dns.rcode.NXDOMAIN, "whoever was pointed here is not left alone"


def test_switched_off(koguma: Koguma) -> None:
    koguma.args += ["--no-dns-enabled"]
    with Peer(peers.echo) as peer:
        koguma.write("app.yaml", mes("app", peer))
        with koguma:
            assert nobody_listens(koguma)
            assert koguma.events("ready")[0]["dns"] is None


def test_switched_on_without_names(tmp_path: Path) -> None:
    with DnsServer({"www.example.test": ["127.0.0.9"]}) as upstream:
        koguma = Koguma(tmp_path, args=["--dns-upstream", upstream.address], env={"KUMA_DNS_ENABLED": "true"})
        with koguma:
            for over_tcp in (False, True):
                assert addresses(resolve(koguma, "www.example.test", over_tcp=over_tcp)) == ["127.0.0.9"]
            assert upstream.asked["www.example.test"] == 1


def test_resolvers_that_fail_do_not_touch_readiness(koguma: Koguma) -> None:
    with Peer(peers.echo) as peer, DnsServer({}) as upstream:
        upstream.failing = True
        koguma.args += ["--dns-upstream", upstream.address]
        koguma.write("app.yaml", mes("app", peer))
        with koguma:
            assert resolve(koguma, "www.example.test").rcode() == dns.rcode.SERVFAIL
            assert addresses(resolve(koguma, NAME))
            assert koguma.admin("/ready").text == "LIVE\n"
            stats = koguma.stats()
            counted = {name: stats[f"koguma.dns.{name}"] for name in ("answered", "forwarded", "upstream_unanswered")}
            assert counted == {"answered": 1, "forwarded": 1, "upstream_unanswered": 1}
            assert stats["koguma.dns.names"] == 1
            families = {f.name: f for f in text_string_to_metric_families(koguma.admin("/stats/prometheus").text)}
            assert families["koguma_dns_udp_queries"].samples[0].value == 2
            assert families["koguma_dns_names"].type == "gauge"
            assert families["koguma_dns_upstream_ms"].type == "histogram"
            assert koguma.admin("/reset_counters", method="POST").status == 200
            assert koguma.stats()["koguma.dns.udp_queries"] == 0


def test_names_resolve_while_it_drains(koguma: Koguma) -> None:
    with Peer(peers.echo) as peer:
        koguma.write("app.yaml", mes("app", peer))
        with koguma:
            (vip,) = addresses(resolve(koguma, NAME))
            with client.connect(PORT, host=vip) as held:
                koguma.terminate()
                koguma.wait_for_event("draining")
                assert addresses(resolve(koguma, NAME)) == [vip]
                held.close()
            koguma.wait_for_exit()


def test_it_says_why_it_cannot_start(koguma: Koguma) -> None:
    koguma.args += ["--dns-enabled"]
    koguma.write_dataplane()

    def start(*args: str) -> str:
        finished = harness.run_to_end(*koguma.command[len(KOGUMA) :], *args, cwd=koguma.directory)
        assert finished.exit_code == 3, finished.output
        assert "Traceback" not in finished.output
        return finished.stderr

    own = f"127.0.0.1:{koguma.dns_port}"
    assert f"--dns-upstream {own} is this DNS server itself" in start("--dns-upstream", own)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", koguma.dns_port))
        assert f"cannot listen on {own}: the port is taken by another process" in start()
        with Peer(peers.echo) as peer:  # once it runs, it goes on without
            koguma.args.remove("--dns-enabled")
            with koguma:
                koguma.rewrite("app.yaml", mes("app", peer))
                koguma.wait_for_event("dns_failed")
                other.close()
                koguma.changing(koguma.hang_up)
                assert addresses(resolve(koguma, NAME))


def test_dig(koguma: Koguma) -> None:
    dig = shutil.which("dig")
    if dig is None:
        pytest.skip("dig is not installed")
    with Peer(peers.echo) as peer:
        koguma.write("app.yaml", mes("app", peer))
        with koguma:
            for flags in ([], ["+tcp"], ["+noedns"], ["+cookie", "+subnet=127.0.0.0/8", "+padding=128"]):
                command = [dig, "@127.0.0.1", "-p", str(koguma.dns_port), NAME, "+time=5", "+tries=1", *flags]
                done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
                assert "status: NOERROR" in done.stdout
                assert re.search(rf"^{re.escape(NAME)}\.\s+30\s+IN\s+A\s+127\.242\.", done.stdout, re.MULTILINE)
                assert "WARNING: recursion" not in done.stdout


def test_the_hosts_block_has_the_same_addresses(koguma: Koguma) -> None:
    with Peer(peers.echo) as peer:
        koguma.write("app.yaml", mes("app", peer))
        with koguma:
            (vip,) = addresses(resolve(koguma, NAME))
            printed = harness.run_to_end(
                "dns", "snippet", "--format", "hosts", "--dataplane-file", str(koguma.dataplane_file),
                "--resources", str(koguma.resources), "--vip-cidr", CIDR, cwd=koguma.directory,
            )  # fmt: skip
            assert printed.exit_code == 0, printed.output
            assert printed.stdout == f"# koguma: begin\n{vip} {NAME}\n# koguma: end\n"


# Namespaces


CLIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as sock:
    sock.sendall(b"by name")
    sock.shutdown(socket.SHUT_WR)
    print(sock.getpeername()[0], sock.recv(100).decode())
"""


VIPS_UP = " ".join([*KOGUMA, "vips", "up"])
ANY_PORT = "echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start"
UNPRIVILEGED = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]


@pytest.mark.parametrize(
    ("cidr", "first", "who"),
    [("242.0.0.0/8", VIPS_UP, []), (CIDR, ANY_PORT, UNPRIVILEGED)],
    ids=["kuma's own", "unprivileged"],
)
def test_what_applications_do(tmp_path: Path, cidr: str, first: str, who: list[str]) -> None:
    """resolv.conf, the C library, dig, curl and Python, by name: on 242.0.0.0/8, and without any privilege."""
    netns.require()
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text("nameserver 127.0.0.1\noptions timeout:2 attempts:1\n")
    koguma = Koguma(
        tmp_path / "koguma",
        program=netns.unshared([*who, *KOGUMA], first=first, resolv_conf=resolv_conf),
        args=["--vips", "--vip-cidr", cidr, "--dns-port", "53", "--dns-upstream", "127.0.0.1:9"],
    )
    with (
        Peer(peers.echo, at=str(tmp_path / "peer")) as peer,
        Origin(always(ok(b"a page")), at=str(tmp_path / "web")) as web,
    ):
        koguma.write("app.yaml", mes("app", peer))
        koguma.write("web.yaml", yamlkit.mes("web", 80, [web.endpoint], protocol="http"))
        with koguma:
            pid = koguma.program.pid
            found = netns.run_beside(pid, "getent", "hosts", NAME)
            assert found.exit_code == 0, found.output
            address, name = found.stdout.split()
            assert ip_address(address) in ip_network(cidr)
            assert name == NAME
            talked = netns.run_beside(pid, netns.PYTHON, "-c", CLIENT, NAME, str(PORT))
            assert talked.stdout == f"{address} by name\n", talked.output
            assert netns.run_beside(pid, "getent", "hosts", address).stdout.split() == [address, NAME]
            assert netns.run_beside(pid, "getent", "hosts", "typo.extsvc.mesh.local").exit_code == 2
            if shutil.which("dig") is not None:
                assert netns.run_beside(pid, "dig", "+short", NAME).stdout == f"{address}\n"
            if shutil.which("curl") is not None:
                page = netns.run_beside(pid, "curl", "--silent", "http://web.extsvc.mesh.local/")
                assert page.stdout == "a page", page.output
            if not who:
                status = netns.run_beside(pid, *KOGUMA, "vips", "status")
                assert "242.0.0.0/8 is local: route 242.0.0.0/8 (set by koguma)" in status.stdout
            poll.until(lambda: koguma.program.is_running, "it to run still")


VIPS = " ".join([*KOGUMA, "vips"])


def vips(script: str) -> harness.Finished:
    netns.require()
    return netns.run(netns.unshared(["sh", "-c", script]))


def test_vips_up_and_down() -> None:
    done = vips(
        f"{VIPS} up && {VIPS} up && {VIPS} status && ip route show table local 242.0.0.0/8 &&"
        f"{VIPS} down && {VIPS} down; echo $?; {VIPS} status; echo $?"
    )
    assert done.stdout.splitlines() == [
        "242.0.0.0/8 is local now",
        "242.0.0.0/8 is local already: route 242.0.0.0/8 (set by koguma)",
        "242.0.0.0/8 is local: route 242.0.0.0/8 (set by koguma)",
        "local 242.0.0.0/8 dev lo proto 75 scope host ",
        "242.0.0.0/8 is no longer local",
        "242.0.0.0/8 is not local",
        "0",
        "242.0.0.0/8 is not local: `koguma vips up` makes it so",
        "1",
    ], done.output


def test_vips_of_both_families_and_of_the_loopback() -> None:
    pools = "--vip-cidr 127.242.0.0/16,fd00:f2::/64"
    done = vips(f"{VIPS} up {pools} && {VIPS} status {pools} && {VIPS} down {pools}; {VIPS} status {pools}; echo $?")
    assert done.stdout.splitlines() == [
        "127.242.0.0/16 is local already: route 127.0.0.0/8 (protocol 2)",
        "fd00:f2::/64 is local now",
        "127.242.0.0/16 is local: route 127.0.0.0/8 (protocol 2)",
        "fd00:f2::/64 is local: route fd00:f2::/64 (set by koguma)",
        "127.242.0.0/16 stays local: route 127.0.0.0/8 (protocol 2), which is not ours",
        "fd00:f2::/64 is no longer local",
        "127.242.0.0/16 is local: route 127.0.0.0/8 (protocol 2)",
        "fd00:f2::/64 is not local: `koguma vips up` makes it so",
        "1",
    ], done.output


def test_a_route_of_somebody_else_stays() -> None:
    done = vips(f"ip route add local 242.0.0.0/8 dev lo && {VIPS} up && {VIPS} down && {VIPS} status")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-2:] == [
        "242.0.0.0/8 stays local: route 242.0.0.0/8 (protocol 3), which is not ours",
        "242.0.0.0/8 is local: route 242.0.0.0/8 (protocol 3)",
    ]


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (f"setpriv --bounding-set=-net_admin {VIPS} up", "needs CAP_NET_ADMIN in this network namespace"),
        (f"ip link set lo down; {VIPS} up", "the loopback interface is down"),
        (f"{VIPS} up --vip-cidr 0.0.0.0/0", "0.0.0.0/0 is too large"),
    ],
    ids=["capability", "interface", "size"],
)
def test_vips_says_what_is_missing(script: str, says: str) -> None:
    done = vips(script)
    assert done.exit_code == 3, done.output
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
