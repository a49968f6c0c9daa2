"""Guarantee: the virtual IPs of services work unprivileged in 127.0.0.0/8, on Kuma's own addresses where there is a
route, and behind a redirect of the kernel's; and they are the same after a crash.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from tests.kit import client, netns, peers, poll, yamlkit
from tests.kit.ca import Authority, key_pem
from tests.kit.koguma import KOGUMA, Koguma, run_to_end
from tests.kit.origins import Origin, always, ok
from tests.kit.peers import Peer
from tests.kit.ports import free_port
from tests.kit.redirect import USER

CIDR = "127.243.0.0/16"
PORT = 8444
FORTY = [f"s{number}" for number in range(40)]


def new(directory: Path, *args: str, state: Path | None = None, cidr: str = CIDR) -> Koguma:
    kept = ["--state-dir", str(state)] if state is not None else []
    return Koguma(directory, args=["--vips", "--vip-cidr", cidr, "--no-dns-enabled", *kept, *args])


def mes(name: str, peer: Peer | None = None, port: int = PORT, **more: Any) -> yamlkit.Document:
    return yamlkit.mes(name, port, [peer.endpoint] if peer is not None else [], **more)


def vip(koguma: Koguma, name: str) -> str:
    return str(koguma.resource(name)["status"]["vip"]["ip"])


def vips(koguma: Koguma) -> dict[str, str]:
    rows = koguma.admin("/resources").json()["resources"]
    return {row["name"]: row["status"]["vip"]["ip"] for row in rows if "vip" in row["status"]}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_virtual_ip_leads_to_its_service(tmp_path: Path, workers: str) -> None:
    koguma = new(tmp_path, "--concurrency", workers)
    with Peer(peers.echo) as peer, Origin(always(ok(b"web"))) as origin:
        koguma.write("all.yaml", mes("db", peer), mes("web", origin, 8080, protocol="http"))
        with koguma:
            assert client.ask(PORT, b"by vip", host=vip(koguma, "db")) == b"by vip"
            request = b"GET / HTTP/1.1\r\nHost: web.extsvc.mesh.local\r\nConnection: close\r\n\r\n"
            assert client.ask(8080, request, host=vip(koguma, "web")).endswith(b"\r\n\r\nweb")
            koguma.rewrite("more.yaml", mes("more", peer))
            assert client.ask(PORT, b"more", host=vip(koguma, "more")) == b"more"
            stats = koguma.stats()
            assert stats[f"cluster.{yamlkit.kri('db', PORT)}.upstream_cx_total"] == 1


def test_the_status_in_resources_and_inspect_is_the_same(tmp_path: Path) -> None:
    koguma = new(tmp_path)
    koguma.write("all.yaml", mes("db"))
    koguma.write_dataplane()
    with koguma:
        status = koguma.resource("db")["status"]
    local = {"coreName": "local-mesh-external-service"}
    assert ip_address(status["vip"]["ip"]) in ip_network(CIDR)
    assert status["addresses"] == [
        {"hostname": "db.extsvc.mesh.local", "origin": "HostnameGenerator", "hostnameGeneratorRef": local}
    ]
    assert status["hostnameGenerators"] == [
        {
            "hostnameGeneratorRef": local,
            "conditions": [{"type": "Generated", "status": "True", "reason": "Generated", "message": ""}],
        }
    ]
    arguments = [str(koguma.resources), "--dataplane-file", str(koguma.dataplane_file), "--vips", "--vip-cidr", CIDR]
    shown = run_to_end("inspect", *arguments, "--format", "json", cwd=tmp_path)
    document = json.loads(shown.stdout)
    (row,) = document["resources"]
    assert {key: row["status"][key] for key in ("vip", "addresses", "hostnameGenerators")} == {
        key: status[key] for key in ("vip", "addresses", "hostnameGenerators")
    }
    assert document["plan"]["names"] == [
        {"name": "db.extsvc.mesh.local", "addresses": [status["vip"]["ip"]], "ttlSeconds": 30}
    ]
    text = run_to_end("inspect", *arguments, cwd=tmp_path).stdout
    assert f"outbound {status['vip']['ip']}:{PORT} -> db (tcp)" in text
    assert f"  vip       {status['vip']['ip']}\n" in text
    assert "  hostname  db.extsvc.mesh.local (HostnameGenerator local-mesh-external-service)\n" in text


# Nothing moves


def test_no_virtual_ip_moves_by_a_crash(tmp_path: Path) -> None:
    """In a pool so narrow that hashes meet: only what was written down can tell who came first."""
    state = tmp_path / "state"
    first = new(tmp_path / "one", state=state, cidr="127.244.0.0/26")
    first.expect_exit(-signal.SIGKILL)
    with first:
        for name in reversed(FORTY):
            first.write(f"{name}.yaml", mes(name))
        poll.until(lambda: len(vips(first)) == 40, "all VIPs")
        before = vips(first)
        first.changing(lambda: (first.resources / "s7.yaml").unlink())
        first.program.send(signal.SIGKILL)
        first.wait_for_exit()
    assert len(set(before.values())) == 40
    second = new(tmp_path / "two", state=state, cidr="127.244.0.0/26")
    for name in FORTY:
        second.write(f"{name}.yaml", mes(name))
    with second:
        assert vips(second) == before
    assert (state.stat().st_mode & 0o777) == 0o700


def test_another_machine_agrees(tmp_path: Path) -> None:
    found = []
    for number, order in enumerate((FORTY, FORTY[::-1])):
        koguma = new(tmp_path / f"machine-{number}")
        for name in order:
            koguma.write(f"{name}.yaml", mes(name))
        with koguma:
            found.append(vips(koguma))
    assert found[0] == found[1]
    assert len(found[0]) == 40


def test_a_damaged_state_is_said_and_survived(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "vips.json").write_text("{")
    koguma = new(tmp_path / "koguma", state=state)
    koguma.write("db.yaml", mes("db"))
    with koguma:
        assert koguma.events("state_damaged")
        assert vip(koguma, "db")
    assert (state / "vips.damaged").read_text() == "{"
    assert json.loads((state / "vips.json").read_text())["leases"][0]["name"] == "db"


# What cannot be


def starting(koguma: Koguma, *more: str) -> tuple[int, str]:
    koguma.write_dataplane()
    finished = run_to_end(*koguma.command[len(KOGUMA) :], *more, cwd=koguma.directory)
    assert "Traceback" not in finished.output
    (said,) = [line for line in finished.stderr.splitlines() if line.startswith("koguma")]
    return finished.exit_code, said


def test_a_state_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, line = starting(new(tmp_path / "koguma", state=tmp_path / "file" / "state"))
    assert code == 3
    assert "cannot create the state directory" in line
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "vips.json").write_text('{"version": 99, "leases": []}')
    code, line = starting(new(tmp_path / "koguma", state=tmp_path / "later"))
    assert code == 3
    assert "has version 99" in line


def test_a_cidr_that_is_none(tmp_path: Path) -> None:
    code, line = starting(new(tmp_path, cidr="242.0.0.0/99"))
    assert code == 2
    assert ".MeshExternalServiceCIDR is invalid" in line


def test_addresses_without_a_route_are_one_clear_line(tmp_path: Path) -> None:
    koguma = new(tmp_path, cidr="242.99.0.0/16")
    for name in FORTY:
        koguma.write(f"{name}.yaml", mes(name))
    code, line = starting(koguma)
    assert code == 3
    assert "no such address on this machine (VIPs outside 127.0.0.0/8 need a route: koguma vips up)" in line
    assert line.endswith("and 37 more")


# In a network namespace

CLIENT = """
import encodings.idna, os, socket, sys
os.setuid(int(sys.argv[1]))
with socket.create_connection((sys.argv[2], int(sys.argv[3])), 5) as sock:
    sock.sendall(b"hello")
    sock.shutdown(socket.SHUT_WR)
    print(sock.recv(100).decode())
"""


def test_kumas_own_addresses(tmp_path: Path) -> None:
    netns.require()
    inside = netns.unshared(KOGUMA, first="ip route add local 242.0.0.0/8 dev lo")
    koguma = Koguma(tmp_path / "koguma", program=inside, args=["--vips", "--no-dns-enabled"])
    with Peer(peers.echo, at=str(tmp_path / "peer")) as peer:
        koguma.write("db.yaml", mes("db", peer))
        with koguma:
            status = netns.run_beside(koguma.program.pid, netns.PYTHON, "-c", ADMIN, str(koguma.admin_port))
            address = json.loads(status.stdout)["resources"][0]["status"]["vip"]["ip"]
            assert ip_address(address) in ip_network("242.0.0.0/8")
            talked = netns.run_beside(koguma.program.pid, netns.PYTHON, "-c", CLIENT, "0", address, str(PORT))
            assert talked.stdout == "hello\n", talked.output


def test_ipv6_addresses_of_a_route(tmp_path: Path) -> None:
    """Where Linux lets nobody bind but what an interface has."""
    netns.require()
    pool = ["--vip-cidr", "fd00:f2::/64"]
    vips_up = " ".join([*KOGUMA, "vips", "up", *pool])
    koguma = Koguma(tmp_path / "koguma", program=netns.unshared(KOGUMA, first=vips_up))
    koguma.args += ["--vips", "--no-dns-enabled", *pool]
    with Peer(peers.echo, at=str(tmp_path / "peer")) as peer:
        koguma.write("db.yaml", mes("db", peer))
        with koguma:
            pid = koguma.program.pid
            status = netns.run_beside(pid, netns.PYTHON, "-c", ADMIN, str(koguma.admin_port))
            address = json.loads(status.stdout)["resources"][0]["status"]["vip"]["ip"]
            assert ip_address(address) in ip_network("fd00:f2::/64")
            talked = netns.run_beside(pid, netns.PYTHON, "-c", CLIENT, str(USER), address, str(PORT))
            assert talked.stdout == "hello\n", talked.output


def test_ipv6_addresses_without_a_route(tmp_path: Path) -> None:
    koguma = new(tmp_path, cidr="fd00:f3::/64")
    koguma.write("db.yaml", mes("db"))
    code, line = starting(koguma)
    assert code == 3
    assert "no such address on this machine (VIPs outside 127.0.0.0/8 need a route: koguma vips up)" in line


ADMIN = """
import sys, urllib.request
print(urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/resources").read().decode())
"""
ECHO = """
import socket, sys
with socket.create_server((sys.argv[1], int(sys.argv[2])), family=int(sys.argv[3])) as server:
    print("ready", flush=True)
    while True:
        sock, peer = server.accept()
        whence = b" " + peer[0].encode() if peer[0] == "127.0.0.6" else b""
        sock.sendall(b"direct " + sock.recv(100) + whence)
        sock.close()
"""


@contextlib.contextmanager
def echoes(koguma: Koguma, address: str, family: int) -> Iterator[None]:
    """A server beside the proxy, in its namespace."""
    inside = ["nsenter", f"--target={koguma.program.pid}", "--net", netns.PYTHON]
    command = [*inside, "-c", ECHO, address, "7777", str(int(family))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            yield
        finally:
            server.kill()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_transparent_proxying(tmp_path: Path, workers: str) -> None:
    """No route, no VIP socket, no port that anybody was told: the kernel brings every connection of the application."""
    netns.require()
    port = free_port()
    steps = [
        f"{netns.PYTHON} -m tests.kit.redirect {port}",
        "ip addr add 10.9.9.9/32 dev lo",
        "ip addr add fd00:9::9/128 dev lo nodad",
        "ip route add 242.0.0.0/8 dev lo",
    ]
    probe = netns.run(netns.unshared(["true"], first=steps[0]))
    if probe.exit_code != 0:
        pytest.skip(f"nf_tables cannot redirect here: {probe.stderr.strip()[-200:]}")
    koguma = Koguma(tmp_path / "koguma", program=netns.unshared(KOGUMA, first=" && ".join(steps)))
    koguma.args += ["--no-dns-enabled", "--concurrency", workers]
    document = yamlkit.dataplane()
    document["networking"]["transparentProxying"] = {"redirectPortOutbound": port}
    koguma.dataplane_file.parent.mkdir(parents=True, exist_ok=True)
    koguma.dataplane_file.write_text(yamlkit.render(document))

    def ask(address: str, port: int, user: int = USER) -> str:
        pid = koguma.program.pid
        return netns.run_beside(pid, netns.PYTHON, "-c", CLIENT, str(user), address, str(port)).stdout.strip()

    with Peer(peers.echo, at=str(tmp_path / "peer")) as peer:
        koguma.write("db.yaml", mes("db", peer) | {"status": {"vip": {"ip": "242.1.2.3"}}})
        with koguma, echoes(koguma, "10.9.9.9", socket.AF_INET), echoes(koguma, "fd00:9::9", socket.AF_INET6):
            assert ask("242.1.2.3", PORT) == "hello", "the virtual IP"
            assert ask("10.9.9.9", 7777) == "direct hello", "passed through"
            assert ask("fd00:9::9", 7777) == "direct hello"
            assert ask("242.1.2.3", PORT + 1) == "", "a port that the service does not have"
            assert ask("127.0.0.1", port, user=0) == "", "the redirecting port itself"
            koguma.changing(
                lambda: koguma.write_text(
                    "mesh.yaml", "type: Mesh\nname: default\nnetworking: {outbound: {passthrough: false}}\n"
                )
            )
            assert ask("10.9.9.9", 7777) == ""
            assert ask("242.1.2.3", PORT) == "hello"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_redirected_inbounds(tmp_path: Path, workers: str) -> None:
    """Peers connect to the application's own address and port; with an identity nobody passes by the proxy."""
    netns.require()
    port = free_port()
    steps = [f"{netns.PYTHON} -m tests.kit.redirect {port}", "ip addr add 10.9.9.9/32 dev lo"]
    probe = netns.run(netns.unshared(["true"], first=steps[0]))
    if probe.exit_code != 0:
        pytest.skip(f"nf_tables cannot redirect here: {probe.stderr.strip()[-200:]}")
    koguma = Koguma(tmp_path / "koguma", program=netns.unshared(KOGUMA, first=" && ".join(steps)))
    koguma.args += ["--concurrency", workers]
    document = yamlkit.dataplane(inbounds=[{"port": 7777}])
    document["networking"] |= {"address": "10.9.9.9", "transparentProxying": {"redirectPortInbound": port}}
    koguma.dataplane_file.parent.mkdir(parents=True, exist_ok=True)
    koguma.dataplane_file.write_text(yamlkit.render(document))

    def ask(address: str, port: int) -> str:
        pid = koguma.program.pid
        return netns.run_beside(pid, netns.PYTHON, "-c", CLIENT, str(USER), address, str(port)).stdout.strip()

    with koguma, echoes(koguma, "10.9.9.9", socket.AF_INET), echoes(koguma, "127.0.0.1", socket.AF_INET):
        assert ask("10.9.9.9", 7777) == "direct hello 127.0.0.6", "by the inbound"
        assert ask("127.0.0.1", 7777) == "direct hello 127.0.0.6", "no inbound: passed through"
        assert ask("10.9.9.9", 7778) == "", "nobody listens"
        authority = Authority.root("CA")
        koguma.changing(
            lambda: koguma.write("identity.yaml", yamlkit.mesh_identity(authority.pem, key_pem(authority.key)))
        )
        assert ask("10.9.9.9", 7777) == "", "plaintext at an inbound with mTLS"
        assert ask("127.0.0.1", 7777) == "", "past it"


@pytest.mark.slow
def test_ten_thousand_virtual_ips(tmp_path: Path) -> None:
    koguma = new(tmp_path, "--log-level", "error", cidr="127.128.0.0/9")
    with Peer(peers.echo) as peer:
        for number in range(10_000):
            koguma.write(f"s{number}.yaml", mes(f"s{number}", peer))
        with koguma:
            found = vips(koguma)
            assert len(set(found.values())) == 10_000
            for name in ("s0", "s5000", "s9999"):
                assert client.ask(PORT, name.encode(), host=found[name]) == name.encode()
            assert koguma.resident_bytes() < 270 * 1024 * 1024
