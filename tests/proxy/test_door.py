"""Guarantee: at the door of a zone egress a connection goes to the service whose name it asks for, however the
ClientHello comes, and at the same cost among ten services as among ten thousand; any other is reset and counted.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from config.plan import Direction, ListenerPlan, Plan, Protocol, ProxyIdentity
from proxy import door
from proxy.door import DoorAcceptor
from proxy.listener import ConnectionLimit, Listener
from proxy.runtime import Runtime
from tests.kit import client, peers
from tests.kit.peers import Peer
from tests.kit.ports import free_port
from tests.proxy.inbound_rig import ACCEPTANCE, FOREIGN, GOOD
from tests.proxy.rig import LoopThread, cluster_plan, services, target_of
from tests.tls.inbound import client_context
from tests.tls.test_tls_client_hello import client_hello, in_records
from tests.tls.test_tls_server_name import extension, hello, server_names
from tls.client_hello import MAX_CLIENT_HELLO_BYTES, MAX_RECORDS

NAME = "sni.extsvc.default.default.s{}.80"
LOCALHOST = ip_address("127.0.0.1")


class Egress:
    """A door before so many services, all of which lead to one peer."""

    def __init__(self, loop: LoopThread, peer: Peer, count: int = 3) -> None:
        self.loop = loop
        self.port = free_port()
        cluster = cluster_plan([target_of(peer)])
        entrance = ListenerPlan(
            "door", Direction.INBOUND, LOCALHOST, self.port, Protocol.TCP, "", is_door=True
        )  # fmt: skip
        route = replace(
            entrance, is_door=False, door="door", bind_to_port=False, cluster=cluster.name, acceptance=ACCEPTANCE
        )
        routes = [replace(route, name=f"s{n}", server_names=(NAME.format(n),)) for n in range(count)]
        plan = Plan(
            ProxyIdentity("default", "exit"), {one.name: one for one in (entrance, *routes)}, {cluster.name: cluster}
        )
        empty = replace(plan, listeners={}, clusters={})
        self.runtime = loop.look(lambda: Runtime(empty, services(), ConnectionLimit(100), 0.2))
        loop.run(self.runtime.apply(plan))

    @property
    def door(self) -> Listener:
        return self.runtime.listeners["door"]

    def stat(self, name: str, listener: str = "door") -> int:
        return self.loop.look(lambda: getattr(self.runtime.listeners[listener].stats, name))

    def close(self) -> None:
        self.loop.run(self.runtime.close())

        def abort() -> None:
            for listener in self.runtime.listeners.values():
                listener.abort_connections()

        self.loop.look(abort)


@pytest.fixture
def echo() -> Iterator[Peer]:
    with Peer(peers.echo) as peer:
        yield peer


@pytest.fixture
def egress(loop: LoopThread, echo: Peer) -> Iterator[Egress]:
    one = Egress(loop, echo)
    yield one
    one.close()


def talk(port: int, name: str, send: Callable[[socket.socket, bytes], None], identity: Any = GOOD) -> bytes:
    """What comes back from an echo behind TLS whose first flight is sent in a way of its own."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_context(identity, alpn=("kuma",)).wrap_bio(incoming, outgoing, server_hostname=name)
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        is_first = True

        def step(action: Callable[[], Any]) -> Any:
            nonlocal is_first
            while True:
                try:
                    return action()
                except ssl.SSLWantReadError:
                    flight = outgoing.read()
                    if flight and is_first:
                        is_first = False
                        send(sock, flight)
                    else:
                        sock.sendall(flight)
                    data = sock.recv(65536)
                    if not data:
                        return b""
                    incoming.write(data)

        step(tls.do_handshake)
        tls.write(b"ping")
        answer: bytes = step(lambda: tls.read(100))
        return answer


def byte_by_byte(sock: socket.socket, flight: bytes) -> None:
    for byte in flight:
        sock.sendall(bytes((byte,)))


HOWS: dict[str, Callable[[socket.socket, bytes], None]] = {
    "at once": lambda sock, flight: sock.sendall(flight),
    "byte by byte": byte_by_byte,
    "in many records": lambda sock, flight: sock.sendall(in_records(flight, len(flight) // (MAX_RECORDS - 4))),
    "in many records, byte by byte": lambda sock, flight: byte_by_byte(sock, in_records(flight, 100)),
}


@pytest.mark.parametrize("how", HOWS)
def test_it_is_found_however_it_comes(egress: Egress, how: str) -> None:
    assert talk(egress.port, NAME.format(1).upper(), HOWS[how]) == b"ping"
    assert (egress.stat("tls_inspector_sni_found"), egress.stat("no_filter_chain_match")) == (1, 0)
    assert [egress.stat("ssl_handshake", f"s{n}") for n in range(3)] == [0, 1, 0]


def test_who_may_not_pass_is_refused_by_the_route(egress: Egress) -> None:
    try:
        answer = talk(egress.port, NAME.format(1), HOWS["at once"], FOREIGN)
    except (ssl.SSLError, ConnectionError):
        answer = b""
    assert answer == b""
    egress.loop.until(lambda: egress.runtime.listeners["s1"].stats.ssl_fail_verify_error, "a refusal")


GREASED = [extension(kind, b"\x00") for kind in (0x0A0A, 0xFAFA)]
FIRST = NAME.format(0).encode()
REFUSED = {
    "no server name": (client_hello("kuma", sni=None), "tls_inspector_sni_not_found"),
    "nobody's name": (client_hello("kuma", sni="nobody.example"), "tls_inspector_sni_found"),
    "a part of a name": (client_hello("kuma", sni=NAME.format(1)[:-3]), "tls_inspector_sni_found"),
    "two names": (hello(server_names(FIRST, NAME.format(1).encode())), "tls_inspector_client_hello_malformed"),
    "the extension twice": (hello(server_names(FIRST), server_names(FIRST)), "tls_inspector_client_hello_malformed"),
    "GREASE, and nobody's name": (
        hello(GREASED[0], server_names(b"nobody.example"), GREASED[1]),
        "tls_inspector_sni_found",
    ),
    "too large": (
        hello(server_names(FIRST), extension(21, bytes(MAX_CLIENT_HELLO_BYTES))),
        "tls_inspector_client_hello_too_large",
    ),
    "in too many records": (in_records(client_hello(), 1), "tls_inspector_client_hello_malformed"),
    "an alert": (b"\x16\x03\x01\x00\x02\x02\x28", "tls_inspector_client_hello_malformed"),
    "HTTP": (b"GET / HTTP/1.1\r\nHost: svc\r\n\r\n", "tls_inspector_tls_not_found"),
    "SSL 2": (b"\x80\x2e\x01\x03\x01" + bytes(41), "tls_inspector_tls_not_found"),
    "noise": (bytes(range(255, 0, -1)) * 1000, "tls_inspector_tls_not_found"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_whatever_has_no_route_is_reset(egress: Egress, echo: Peer, what: str) -> None:
    head, statistic = REFUSED[what]
    assert client.fate(egress.port, head) is None
    assert (egress.stat(statistic), egress.stat("no_filter_chain_match")) == (1, 1)
    assert not egress.loop.look(lambda: egress.door.handshakes)
    assert not echo.seen


def test_a_greased_hello_is_answered(egress: Egress) -> None:
    with socket.create_connection(("127.0.0.1", egress.port), 10) as sock:
        sock.sendall(hello(GREASED[0], server_names(FIRST), GREASED[1]))
        assert sock.recv(1) == b"\x15", "an alert of OpenSSL's, since nothing else is offered: it has found its route"
    assert egress.stat("tls_inspector_sni_found") == 1


def test_who_does_not_speak_is_not_waited_for(egress: Egress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "HELLO_TIMEOUT_S", 0.2)
    with socket.create_connection(("127.0.0.1", egress.port), 10) as sock:
        sock.sendall(client_hello("kuma", sni=NAME.format(1))[:-1])
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    assert egress.stat("downstream_pre_cx_timeout") == 1
    assert egress.stat("no_filter_chain_match") == 1


def test_a_drain_gives_a_handshake_its_time_and_no_more(egress: Egress) -> None:
    """``Egress`` drains for 0.2 s."""
    with socket.create_connection(("127.0.0.1", egress.port), 10) as sock:
        sock.sendall(client_hello("kuma", sni=NAME.format(1)))
        assert sock.recv(1) == b"\x16", "the answer"
        egress.loop.run(egress.runtime.drain())
        with contextlib.suppress(ConnectionResetError):
            while sock.recv(65536):
                pass
    assert egress.loop.look(lambda: egress.runtime.limit.active) == 0


# No scan, and no more looks than needed


class Quiet:
    """A transport that only counts what is written."""

    def __init__(self) -> None:
        self.protocol: Any = None
        self.sent = 0

    def write(self, data: bytes) -> None:
        self.sent += len(data)

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        """Its end is nobody's business here."""


def calls_to_lead(egress: Egress, name: str) -> int:
    """Calls of functions, Python's and C's, from a ClientHello to the answer of the route's TLS."""
    head = client_hello("kuma", sni=name)

    def lead() -> int:
        made = 0

        def note(_frame: object, event: str, _argument: object) -> None:
            nonlocal made
            made += event in ("call", "c_call")

        transport, acceptor = Quiet(), DoorAcceptor(egress.door)
        acceptor.connection_made(transport)  # type: ignore[arg-type]
        sys.setprofile(note)
        try:
            acceptor.data_received(head)
        finally:
            sys.setprofile(None)
        assert transport.sent > 500, "the server's flight"
        transport.protocol.connection_lost(None)
        return made

    egress.loop.look(lead)  # contexts are made with the first
    return egress.loop.look(lead)


def test_ten_thousand_services_cost_a_connection_no_more_than_ten(one_loop: LoopThread, echo: Peer) -> None:
    few, many = Egress(one_loop, echo, 10), Egress(one_loop, echo, 10_000)
    try:
        cost = calls_to_lead(few, NAME.format(5))
        assert [calls_to_lead(many, NAME.format(n)) for n in (0, 5_000, 9_999)] == [cost] * 3
        for name in (NAME.format(0), NAME.format(9_999)):
            assert talk(many.port, name, HOWS["at once"]) == b"ping"
    finally:
        few.close()
        many.close()


def test_a_hello_that_comes_byte_by_byte_is_not_looked_at_each_time(
    egress: Egress, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    look = door.read_client_hello

    def counted(head: bytes | bytearray) -> Any:
        nonlocal looks
        looks += 1
        return look(head)

    monkeypatch.setattr(door, "read_client_hello", counted)
    assert talk(egress.port, NAME.format(1), HOWS["in many records, byte by byte"]) == b"ping"
    assert looks <= 2 * MAX_RECORDS + 1
