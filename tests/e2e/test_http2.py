"""Guarantee: whichever version of HTTP the application and the endpoint speak, each message arrives as it was meant:
fields, bodies, trailers and endings. ``match.protocol: http`` speaks HTTP/1.1 to the endpoint, ``http2`` HTTP/2, and
both take either from the application, on one port.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.upstreams import ROOT, SERVER, trusting
from tests.kit import payload, peers, poll
from tests.kit.either import Answer, EitherOrigin, Seen, Version, ask, ask_expecting
from tests.kit.http2_peers import H2Client, H2Origin, H2Visit, Message, echo, respond
from tests.kit.koguma import Koguma
from tests.kit.origins import Conversation, Origin, always, in_turn, ok
from tests.kit.payload import MIB
from tests.kit.rawhttp import Wire

PROTOCOL: dict[Version, str] = {"h1": "http", "h2": "http2"}
NAME = "origin.example.test"
PROTOCOL_ERROR, INTERNAL_ERROR, REFUSED_STREAM, CANCEL = 1, 2, 7, 8
ENABLE_CONNECT_PROTOCOL = 8
CLIENTS: tuple[Version, ...] = ("h1", "h2")


@dataclass(frozen=True, slots=True)
class World:
    """One proxy before an origin of each version and security, all running."""

    koguma: Koguma
    origins: dict[str, EitherOrigin]


@dataclass(frozen=True, slots=True)
class Pair:
    """A client and an origin, and the proxy between them."""

    client: Version
    origin: EitherOrigin
    port: int
    port_by_name: int
    """To the same origin, under :data:`NAME`."""

    def ask(self, method: str = "GET", path: str = "/", **more: Any) -> Seen:
        return ask(self.client, self.port, method, path, **more)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("http2")
    hosts = directory / "hosts"
    hosts.write_text(f"127.0.0.1 {NAME}\n")
    koguma = Koguma(directory / "koguma", args=["--hosts-file", str(hosts)])
    origins: dict[str, EitherOrigin] = {}
    identity = ROOT.leaf(NAME, "127.0.0.1")
    with contextlib.ExitStack() as stack:
        for version, protocol in PROTOCOL.items():
            for security in ("plain", "tls"):
                name = f"{version}-{security}"
                tls = peers.server_tls(identity) if security == "tls" else None
                origin = origins[name] = stack.enter_context(EitherOrigin(version, tls=tls))
                policy = None if tls is None else trusting()
                koguma.service(name, [origin.endpoint], tls=policy, protocol=protocol)
                endpoint = {**origin.endpoint, "address": NAME}
                koguma.service(f"{name}-named", [endpoint], tls=policy, protocol=protocol)
        stack.enter_context(koguma)
        yield World(koguma, origins)


@pytest.fixture(
    params=[(c, f"{v}-{s}") for c in CLIENTS for v in CLIENTS for s in ("plain", "tls")],
    ids=lambda pair: f"{pair[0]} to {pair[1]}",
)
def pair(request: pytest.FixtureRequest, world: World) -> Pair:
    client, name = request.param
    origin = world.origins[name]
    origin.requests.clear()
    origin.answer = lambda _: Answer()
    return Pair(client, origin, world.koguma.port(name), world.koguma.port(f"{name}-named"))


def give_back(request: Seen) -> Answer:
    return Answer(200, body=request.body, trailers=request.trailers)


def others(fields: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in fields if name.startswith("x-t-")]


# Heads


def test_a_request_arrives_as_it_was_sent(pair: Pair) -> None:
    fields = [("x-t-b", "2"), ("x-t-a", "1  2"), ("x-t-b", "3"), ("x-t-empty", ""), ("x-t-high", "\xfc")]
    pair.ask("PROPFIND", "/p%20q?a=b&c", fields=fields, authority="app.test:8080")
    got = pair.origin.last
    assert (got.method, got.path, got.authority) == ("PROPFIND", "/p%20q?a=b&c", "app.test:8080")
    assert others(got.fields) == fields
    assert got["x-forwarded-proto"] == "http"
    assert len(got["x-request-id"]) == 36
    assert not {"content-length", "transfer-encoding", "x-forwarded-for", "te"} & dict(got.fields).keys()


def test_a_response_arrives_as_it_was_sent(pair: Pair) -> None:
    fields = [("x-t-b", "2"), ("x-t-b", "3"), ("x-t-empty", ""), ("server", "mine"), ("set-cookie", "a=1; path=/")]
    pair.origin.answer = lambda _: Answer(404, [*fields, ("set-cookie", "b=2")], body=b"gone")
    got = pair.ask()
    assert (got.status, got.body, got["content-length"]) == (404, b"gone", "4")
    assert others(got.fields) == fields[:3]
    assert (got["server"], got.values("set-cookie")) == ("mine", ["a=1; path=/", "b=2"])
    assert int(got["x-envoy-upstream-service-time"]) < 5000
    assert len(got.values("date")) == 1


def test_the_authority_is_the_endpoints_name(pair: Pair) -> None:
    ask(pair.client, pair.port_by_name)
    assert (pair.origin.last.authority, pair.origin.last["x-envoy-original-host"]) == (NAME, "app.test")
    ask(pair.client, pair.port_by_name, authority=NAME)
    assert "x-envoy-original-host" not in pair.origin.last


def test_nothing_of_one_hop_reaches_the_next(pair: Pair) -> None:
    mine = [("connection", "x-t-mine, keep-alive"), ("x-t-mine", "1"), ("keep-alive", "timeout=5")]
    if pair.client == "h1":  # HTTP/2 has no such fields: RFC 9113 §8.2.2
        pair.ask(fields=[*mine, ("proxy-connection", "close"), ("upgrade", "h2c"), ("http2-settings", "AAAA")])
        assert not others(pair.origin.last.fields)
        gone = {"connection", "keep-alive", "proxy-connection", "upgrade", "http2-settings"}
        assert not gone & dict(pair.origin.last.fields).keys()
    if pair.origin.version == "h1":
        pair.origin.answer = lambda _: Answer(200, mine)
        got = pair.ask()
        assert not others(got.fields)
        assert not {"connection", "keep-alive"} & dict(got.fields).keys()


def test_te_keeps_trailers_only(pair: Pair) -> None:
    pair.ask(fields=[("te", "trailers, gzip" if pair.client == "h1" else "trailers")])
    assert pair.origin.last["te"] == "trailers"


def test_cookies(pair: Pair) -> None:
    """One field in HTTP/1.1; HTTP/2 may split it, and its crumbs are joined again: RFC 9113 §8.2.3."""
    crumbs = ["a=1", "b=2", "c=3"]
    whole = "; ".join(crumbs)
    pair.ask(fields=[("cookie", whole)] if pair.client == "h1" else [("cookie", crumb) for crumb in crumbs])
    got = pair.origin.last.values("cookie")
    assert "; ".join(got) == whole
    assert pair.origin.version == "h2" or len(got) == 1


# Bodies and trailers


@pytest.mark.parametrize("is_sized", [True, False], ids=["with its length", "without"])
@pytest.mark.parametrize("size", [1, 70_000, 3 * MIB], ids=["1", "70 kB", "3 MiB"])
def test_bodies_in_both_directions(pair: Pair, size: int, is_sized: bool) -> None:
    body = b"".join(payload.blocks(size))
    pair.origin.answer = lambda request: Answer(200, body=request.body, is_sized=is_sized)
    got = pair.ask("POST", body=body, is_sized=is_sized)
    assert pair.origin.last.body == body
    assert got.body == body
    length = [str(size)] if is_sized else []
    assert (pair.origin.last.values("content-length"), got.values("content-length")) == (length, length)


@pytest.mark.parametrize("body", [b"", b"hello"], ids=["no body", "a body"])
def test_trailers_in_both_directions(pair: Pair, body: bytes) -> None:
    """Of bodies without a length: in HTTP/1.1 only chunks have trailers."""
    pair.origin.answer = give_back
    trailers = [("x-t-sum", "1"), ("x-t-sum", "2"), ("x-t-empty", "")]
    fields = [("te", "trailers"), ("trailer", "x-t-sum")]
    got = pair.ask("POST", body=body, trailers=trailers, fields=fields, is_sized=False)
    assert (pair.origin.last.body, pair.origin.last.trailers) == (body, trailers)
    assert pair.origin.last["trailer"] == "x-t-sum"
    assert (got.body, got.trailers) == (body, trailers)


def test_head_has_the_length_and_no_body(pair: Pair) -> None:
    pair.origin.answer = lambda _: Answer(200, body=b"hello")
    got = pair.ask("HEAD")
    assert (got["content-length"], got.body) == ("5", b"")


@pytest.mark.parametrize("status", [204, 304])
def test_statuses_without_a_body(pair: Pair, status: int) -> None:
    pair.origin.answer = lambda _: Answer(status, [("etag", '"a"')])
    got = pair.ask()
    assert (got.status, got["etag"], got.body) == (status, '"a"', b"")
    assert not {"content-length", "transfer-encoding"} & dict(got.fields).keys()


def test_expect_is_answered_here_and_goes_no_further(pair: Pair) -> None:
    pair.origin.answer = give_back
    came, got = ask_expecting(pair.client, pair.port, b"abc")
    assert (came, got.status, got.body) == ([100], 200, b"abc")
    assert "expect" not in pair.origin.last


def test_interim_responses_of_the_origin_end_here(pair: Pair) -> None:
    pair.origin.answer = lambda _: Answer(200, body=b"hi", interim=[103, 100])
    got = pair.ask()
    assert (got.status, got.body, got.interim) == (200, b"hi", [])


# Streams


def serve(koguma: Koguma, version: Version, *origins: peers.Peer, tls: bool = False) -> int:
    endpoints = [origin.endpoint for origin in origins]
    return koguma.service("app", endpoints, tls=trusting() if tls else None, protocol=PROTOCOL[version])


@pytest.mark.parametrize("version", CLIENTS)
def test_many_streams_of_one_client(koguma: Koguma, version: Version) -> None:
    """They end in any order, and share what connections there are."""
    with EitherOrigin(version) as origin:
        origin.answer = lambda request: Answer(200, body=request.path.encode())
        serve(koguma, version, origin.peer)
        with koguma, H2Client(koguma.port("app")) as client:
            streams = [client.begin(path=f"/{number}") for number in range(100)]
            bodies = [client.wait(stream_id).body.decode() for stream_id in streams]
            assert bodies == [f"/{number}" for number in range(100)]
            if version == "h2":
                assert koguma.stat("app", "upstream_cx_total") == 1
            stats = koguma.stats()
            (prefix,) = {name.rpartition(".")[0] for name in stats if name.startswith("http.")}
            wanted = {"rq_total": 100, "rq_http2_total": 100, "rq_http1_total": 0, "cx_http2_total": 1, "rq_2xx": 100}
            assert {name: stats[f"{prefix}.downstream_{name}"] for name in wanted} == wanted
            assert not any(name.startswith("tcp.") for name in stats)


def test_a_stalled_stream_holds_up_no_other(koguma: Koguma) -> None:
    """Towards the client and towards the endpoint, both of which carry all streams on one connection."""

    def script(visit: H2Visit, request: Message) -> None:
        if request[":path"] == "/big":
            visit.send_head(request.stream_id, [(":status", "200")])
            visit.send_what_fits(request.stream_id, bytes(32 * MIB))
        else:
            visit.answer(request, body=b"small")

    with H2Origin(script) as origin:
        serve(koguma, "h2", origin)
        with koguma, H2Client(koguma.port("app")) as client:
            assert client.ask().body == b"small"
            before = koguma.resident_bytes()
            client.takes_data = False
            stalled = client.begin(path="/big")
            client.wait_for_head(stalled)
            assert [bytes(client.ask().body) for _ in range(20)] == [b"small"] * 20
            assert not client.wait_for_head(stalled).is_over
            assert koguma.resident_bytes() - before < 24 * MIB
            assert origin.connections == 1


def never_answer(one: Conversation) -> None:
    one.request()
    one.read_to_end()


@pytest.mark.parametrize("version", CLIENTS)
def test_a_stream_that_is_cancelled_is_cancelled_at_the_origin(koguma: Koguma, version: Version) -> None:
    h2 = H2Origin(lambda visit, request: None)
    h1 = Origin(never_answer)
    with h1, h2:
        serve(koguma, version, h1 if version == "h1" else h2)
        with koguma, H2Client(koguma.port("app")) as client:
            stream_id = client.begin()
            (h1 if version == "h1" else h2).wait_for_requests(1)
            client.reset(stream_id)
            if version == "h1":
                assert h1.wait_for_ending() in ("eof", "reset")
            else:
                poll.until(lambda: h2.last.reset is not None, "RST_STREAM at the origin")
                assert not h2.visits[0].is_over, "the connection goes on"


@pytest.mark.parametrize("client", CLIENTS)
def test_an_endpoint_that_resets_before_headers(koguma: Koguma, client: Version) -> None:
    with H2Origin(lambda visit, request: visit.reset(request.stream_id, CANCEL)) as origin:
        serve(koguma, "h2", origin)
        with koguma:
            got = ask(client, koguma.port("app"))
            reason = b"upstream connect error or disconnect/reset before headers. reset reason: remote reset"
            assert (got.status, got.body) == (503, reason)


def break_off_h1(one: Conversation) -> None:
    one.request()
    one.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello")


def break_off_h2(visit: H2Visit, request: Message) -> None:
    visit.send_head(request.stream_id, [(":status", "200"), ("content-length", "100")])
    visit.send_data(request.stream_id, b"hello")
    visit.reset(request.stream_id, CANCEL)


@pytest.mark.parametrize("version", CLIENTS)
def test_a_response_that_breaks_off_is_never_taken_for_whole(koguma: Koguma, version: Version) -> None:
    with Origin(break_off_h1) as h1, H2Origin(break_off_h2) as h2:
        serve(koguma, version, h1 if version == "h1" else h2)
        with koguma:
            with H2Client(koguma.port("app")) as client:
                got = client.ask()
                assert (got.status, got.body, got.reset) == (200, b"hello", INTERNAL_ERROR)
            with Wire(koguma.port("app")) as wire:
                response = wire.get()
                assert (response.status, response.body, response.is_whole) == (200, b"hello", False)


def test_a_response_until_close_ends_its_stream(koguma: Koguma) -> None:
    with Origin(in_turn(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")) as origin:
        serve(koguma, "h1", origin)
        with koguma, H2Client(koguma.port("app")) as client:
            for _ in range(2):
                got = client.ask()
                assert (got.body, got.is_whole) == (b"until the end", True)


@pytest.mark.parametrize("version", CLIENTS)
def test_an_early_response_to_an_unread_body(koguma: Koguma, version: Version) -> None:
    def early(one: Conversation) -> None:
        while b"\r\n\r\n" not in one.reader.rest:
            one.reader.more()
        one.send(ok(b"no, thank you", status="413 Payload Too Large"))
        one.read_to_end()

    h2 = H2Origin(respond(413, body=b"no, thank you"), is_early=True)
    with Origin(early) as h1, h2:
        serve(koguma, version, h1 if version == "h1" else h2)
        with koguma, H2Client(koguma.port("app")) as client:
            stream_id = client.begin("POST", end=False)
            client.send_data(stream_id, b"x" * 100_000)
            got = client.wait(stream_id)
            assert (got.status, got.body) == (413, b"no, thank you")
            assert got.reset in (None, 0), "NO_ERROR at most: RFC 9113 §8.1"
            assert client.ask("POST", body=b"x").status == 413, "and the connection goes on"


# What is refused


def test_connect_is_refused(koguma: Koguma) -> None:
    with Origin(always(ok())) as origin:
        serve(koguma, "h1", origin)
        with koguma, H2Client(koguma.port("app")) as client:
            stream_id = client.begin_with([(":method", "CONNECT"), (":authority", "a.test:443")], end=False)
            assert client.wait_for_head(stream_id).status == 405
            assert client.ask().status == 200, "and the connection goes on"


@pytest.mark.parametrize("version", CLIENTS)
def test_extended_connect_is_refused(koguma: Koguma, version: Version) -> None:
    """We never say that we know it (SETTINGS_ENABLE_CONNECT_PROTOCOL), so nobody may ask: RFC 8441 §3."""
    with EitherOrigin(version) as origin:
        serve(koguma, version, origin.peer)
        with koguma, H2Client(koguma.port("app")) as client:
            assert client.ask().status == 200
            assert client.peer_settings.get(ENABLE_CONNECT_PROTOCOL, 0) == 0
            fields = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", "/chat")]
            stream_id = client.begin_with([*fields, (":authority", "app.test")], end=False)
            assert client.wait(stream_id).reset == PROTOCOL_ERROR
            assert client.ask().status == 200, "and the connection goes on"
            assert [request.method for request in origin.requests] == ["GET", "GET"]


def switch(one: Conversation) -> None:
    request = one.request()
    assert request is not None
    assert (request["connection"].lower(), request["upgrade"]) == ("upgrade", "websocket")
    one.send(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
    while data := one.recv():
        one.send(data.upper())
    one.end()


def test_websocket_over_http_1(koguma: Koguma) -> None:
    with Origin(switch) as origin:
        serve(koguma, "h1", origin)
        with koguma, Wire(koguma.port("app")) as wire:
            assert wire.get("/chat", "connection: upgrade", "upgrade: websocket").status == 101
            wire.send(b"hello")
            assert wire.sock.recv(5) == b"HELLO"


def test_websocket_towards_http_2_is_refused(koguma: Koguma) -> None:
    with EitherOrigin("h2") as origin:
        serve(koguma, "h2", origin.peer)
        with koguma:
            with Wire(koguma.port("app")) as wire:
                assert wire.get("/chat", "connection: upgrade", "upgrade: websocket").status == 403
            assert ask("h1", koguma.port("app")).status == 200
            assert [request.path for request in origin.requests] == ["/"]


# The endpoint's connections


def test_goaway_costs_no_request(koguma: Koguma) -> None:
    """Each connection says GOAWAY with its fifth answer, and closes when it has no more to do."""

    def script(visit: H2Visit, request: Message) -> None:
        if visit.answered == 4:
            visit.go_away(request.stream_id)
        visit.answer(request, body=b"x")

    with H2Origin(script) as origin:
        serve(koguma, "h2", origin)
        with koguma, H2Client(koguma.port("app")) as client:
            for _ in range(10):
                streams = [client.begin(), *(client.begin("POST", end=False) for _ in range(3))]
                for stream_id in streams[1:]:
                    client.send_data(stream_id, b"body", end=True)
                assert [client.wait(stream_id).status for stream_id in streams] == [200] * 4
            assert len(origin.requests) >= 40
            assert origin.connections >= 8


def test_what_an_endpoint_refuses_to_begin_is_sent_again(koguma: Koguma) -> None:
    """REFUSED_STREAM says that nothing was done: RFC 9113 §8.7."""

    def script(visit: H2Visit, request: Message) -> None:
        if len(visit.origin.requests) % 2:
            visit.reset(request.stream_id, REFUSED_STREAM)
        else:
            visit.answer(request, body=request.body)

    with H2Origin(script) as origin:
        serve(koguma, "h2", origin)
        with koguma, H2Client(koguma.port("app")) as client:
            assert [client.ask().status for _ in range(5)] == [200] * 5
            assert [bytes(client.ask("POST", body=b"x").body) for _ in range(5)] == [b"x"] * 5
            assert len(origin.requests) == 20


def test_what_is_always_refused_is_refused_in_the_end(koguma: Koguma) -> None:
    with H2Origin(lambda visit, request: visit.reset(request.stream_id, REFUSED_STREAM)) as origin:
        serve(koguma, "h2", origin)
        with koguma, H2Client(koguma.port("app")) as client:
            assert client.ask().status == 503
            assert len(origin.requests) <= 5


def test_the_endpoints_limit_of_streams_is_kept(koguma: Koguma) -> None:
    """Once it is known: a stream too many is a breach for which ``h2`` raises. More connections serve the rest."""
    with H2Origin(echo, max_streams=2) as origin:
        serve(koguma, "h2", origin)
        with koguma, H2Client(koguma.port("app")) as client:
            assert client.ask().status == 200
            streams = [client.begin("POST", end=False) for _ in range(30)]
            for stream_id in streams:
                client.send_data(stream_id, b"x")
            for stream_id in streams:
                client.send_data(stream_id, b"y", end=True)
            assert [bytes(client.wait(stream_id).body) for stream_id in streams] == [b"xy"] * 30
            assert origin.connections > 1


def test_an_endpoint_over_tls_that_speaks_no_http_2(koguma: Koguma) -> None:
    def complain(visit: peers.Visit) -> None:
        visit.recv()
        visit.send(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")

    with peers.Peer(complain, tls=peers.server_tls(SERVER)) as peer:
        serve(koguma, "h2", peer, tls=True)
        with koguma:
            start = time.monotonic()
            assert ask("h2", koguma.port("app")).status in (502, 503)
            assert time.monotonic() - start < 5


# The client's connection


def test_a_drain_says_goaway_and_finishes(koguma: Koguma) -> None:
    koguma.drain_time = "20s"
    with H2Origin(echo) as origin:
        serve(koguma, "h2", origin)
        with koguma, H2Client(koguma.port("app")) as busy, H2Client(koguma.port("app")) as idle:
            assert idle.ask().status == 200
            stream_id = busy.begin("POST", end=False)
            busy.send_data(stream_id, b"before")
            koguma.wait_for_stat("app", "upstream_rq_active", 1)
            koguma.terminate()
            idle.read_to_end()
            assert idle.goaways[-1] == (1, 0), "NO_ERROR, with the last stream that was served"
            busy.read_until(lambda: bool(busy.goaways), "GOAWAY")
            assert busy.goaways[0][1] == 0
            busy.send_data(stream_id, b" and after", end=True)
            assert busy.wait(stream_id).body == b"before and after"
            busy.read_to_end()
            assert koguma.wait_for_exit(within_s=5) == 0
