"""Guarantee: gRPC works through a service of protocol ``grpc`` as it works without the proxy, over plain text, TLS and
mutual TLS, and each call of one channel is balanced by itself. Where the proxy must refuse, it does so in gRPC's own
words.

The peers are grpcio's own client and server; the application speaks plain text in every case.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import queue
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from tests.e2e.upstreams import ROOT, SERVER, STRANGER, trusting
from tests.kit import payload, peers, poll, yamlkit
from tests.kit.dns import DnsServer
from tests.kit.grpc_peers import CALL_S, Caller, GrpcServer
from tests.kit.http2_peers import H2Client, H2Origin, H2Visit, Message
from tests.kit.koguma import WORKERS, Koguma
from tests.kit.peers import Peer
from tests.kit.ports import free_port
from tests.kit.rawhttp import Wire
from tests.kit.yamlkit import Document

APP = ROOT.leaf("spiffe://example.test/app", common_name="app")
STREAMS = 1000 // WORKERS
"""Of one connection, which one worker has: and its share of the 1,024 requests that a service may have."""
MAX_WAITING = 1024
BEFORE_HEADERS = "upstream connect error or disconnect/reset before headers. reset reason: "
GRPC = ("content-type", "application/grpc")
EMPTY_MESSAGE = bytes(5)
SERVER_SHUTS_DOWN = "CANCELLED: CANCELLED"
"""What grpcio itself answers to a call that crosses its shutdown; without a proxy too."""


def server_for(security: str, directory: Path, name: str = "") -> GrpcServer:
    return GrpcServer(
        directory,
        name=name,
        identity=None if security == "plain" else SERVER,
        client_ca_pem=ROOT.pem if security == "mtls" else None,
    )


def settings_for(security: str, koguma: Koguma) -> Document | None:
    if security == "plain":
        return None
    if security == "tls":
        return trusting()
    certificate, key = koguma.secret("app-cert", APP.chain_pem), koguma.secret("app-key", APP.key_pem)
    return trusting(client_cert=certificate, client_key=key)


@dataclass(frozen=True, slots=True)
class World:
    """A proxy before one server, both running."""

    koguma: Koguma
    server: GrpcServer


@pytest.fixture(scope="module", params=["plain", "tls", "mtls"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Shared by the tests that neither configure nor stop anything."""
    directory = tmp_path_factory.mktemp(request.param)
    koguma = Koguma(directory / "koguma")
    with server_for(request.param, directory / "grpc") as server:
        koguma.service("app", [server.endpoint], tls=settings_for(request.param, koguma), protocol="grpc")
        with koguma:
            yield World(koguma, server)


@pytest.fixture
def caller(world: World) -> Iterator[Caller]:
    with Caller(world.koguma.port("app")) as caller:
        yield caller


def serve(koguma: Koguma, *servers: GrpcServer, tls: Document | None = None) -> None:
    koguma.service("app", [server.endpoint for server in servers], tls=tls, protocol="grpc")


def caller_of(koguma: Koguma, **options: int | str) -> Caller:
    return Caller(koguma.port("app"), **options)


# Messages


@pytest.mark.parametrize("size", [0, 1, 100_000, 4 * payload.MIB], ids=["empty", "1", "100 kB", "4 MiB"])
def test_unary(caller: Caller, size: int) -> None:
    message = b"".join(payload.blocks(size))
    assert caller.unary("Echo", message) == message
    assert caller.unary("Digest", message) == f"{size} {payload.sha256(size)}".encode()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_messages_of_100_mb(caller: Caller) -> None:
    size = 100_000_000
    message = b"".join(payload.blocks(size))
    assert caller.unary("Digest", message, timeout=120) == f"{size} {payload.sha256(size)}".encode()
    assert hashlib.sha256(caller.unary("Echo", message, timeout=240)).hexdigest() == payload.sha256(size)


def test_compressed_messages_pass_as_they_are(caller: Caller) -> None:
    message = b"compress me" * 10_000
    assert caller.unary("Echo", message, compression=grpc.Compression.Gzip) == message


def test_client_streaming(caller: Caller) -> None:
    assert caller.upload("Collect", []).startswith(b"0 0 ")
    messages = [str(number).encode() * 100 for number in range(1000)]
    whole = b"".join(messages)
    assert caller.upload("Collect", messages) == f"1000 {len(whole)} {hashlib.sha256(whole).hexdigest()}".encode()


def test_server_streaming(caller: Caller) -> None:
    assert list(caller.download("Repeat", b"0 0")) == []
    messages = list(caller.download("Repeat", b"1000 5000"))
    assert [int(message.rstrip(b".")) for message in messages] == list(range(1000))
    assert {len(message) for message in messages} == {5000}


def test_a_slow_reader_gets_all_of_a_long_stream(world: World, caller: Caller) -> None:
    """16 MiB wait for a client that reads nothing at first: the windows hold them back, and nothing is lost."""
    before = world.koguma.resident_bytes()
    call = caller.download("Repeat", b"256 65536")
    first = next(call)
    poll.holds(lambda: world.koguma.resident_bytes() - before < 16 * payload.MIB, "flat memory", for_s=0.3)
    assert 1 + sum(len(message) == len(first) for message in call) == 256


def test_bidirectional_streaming(caller: Caller) -> None:
    messages = [str(number).encode() for number in range(1000)]
    assert list(caller.chat(messages)) == messages
    assert list(caller.chat([])) == []


def test_ping_pong(caller: Caller) -> None:
    """Each message goes out only when the one before has come back: nothing is held back for company."""
    pings: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    call = caller.chat(iter(pings.get, None))
    for number in range(200):
        pings.put(str(number).encode())
        assert next(call) == str(number).encode()
    pings.put(None)
    assert list(call) == []
    assert call.code() is grpc.StatusCode.OK


def test_a_thousand_streams_at_once(world: World) -> None:
    async def converse() -> int:
        address = f"127.0.0.1:{world.koguma.port('app')}"
        options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            method = channel.stream_stream("/kit.Test/Chat")
            calls = [method(timeout=30) for _ in range(STREAMS)]

            async def say(number: int, word: bytes) -> bool:
                message = b"%s %d" % (word, number)
                await calls[number].write(message)
                return bool(await calls[number].read() == message)

            same = 0
            for word in (b"hello", b"still there"):  # all are open before any goes on
                same += sum(await asyncio.gather(*(say(number, word) for number in range(STREAMS))))
            for call in calls:
                await call.done_writing()
            codes = await asyncio.gather(*(call.code() for call in calls))
            assert set(codes) == {grpc.StatusCode.OK}
            return same

    assert asyncio.run(converse()) == 2 * STREAMS


# Metadata, deadlines, statuses


def test_metadata(caller: Caller) -> None:
    sent: list[tuple[str, str | bytes]] = [
        ("x-kit-text", "a value, with: signs % and  blanks"),
        ("x-kit-twice", "1"),
        ("x-kit-twice", "2"),
        ("x-kit-empty", ""),
        ("x-kit-bytes-bin", bytes(range(256))),
        ("x-kit-none-bin", b""),
        ("x-kit-long", "v" * 4000),
    ]
    call = caller.start("Metadata", metadata=sent)
    received = json.loads(call.result())
    assert [value for key, value in received if key == "x-kit-twice"] == ["1", "2"]
    assert len([key for key, _ in received if key.startswith("x-kit-")]) == len(sent)
    initial = [(key, value) for key, value in call.initial_metadata() if key.startswith("x-kit-")]
    assert sorted(initial, key=repr) == sorted(sent, key=repr)
    trailing = [(key.removeprefix("t-"), value) for key, value in call.trailing_metadata() if key.startswith("t-")]
    assert sorted(trailing, key=repr) == sorted(sent, key=repr)


def test_the_deadline_reaches_the_server(caller: Caller) -> None:
    assert float(caller.unary("Deadline", timeout=20)) == pytest.approx(20, abs=2)
    assert caller.unary("Deadline", timeout=None) == b"none"


def test_a_deadline_ends_a_call(world: World, caller: Caller) -> None:
    code, _ = caller.refusal("Wait", metadata=[("x-call", "late")], timeout=0.3)
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    world.server.wait_for("cancelled", "late")
    assert caller.unary("Echo", b"x") == b"x", "and the channel goes on"


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK], ids=str)
def test_status_codes(caller: Caller, code: grpc.StatusCode) -> None:
    call = caller.start("Fail", f"{code.name} because".encode())
    assert (call.code(), call.details()) == (code, "because")
    assert ("x-why", "asked-for") in call.trailing_metadata()


@pytest.mark.parametrize(
    "message", ["100 %", "%41 is not A", "über 日本 🐻", "tab\tline\nreturn\rnul\0del\x7f", " blanks ", 'a,b;c="d"', ""]
)
@pytest.mark.parametrize("method", ["Fail", "FailLate"])
def test_status_messages(caller: Caller, method: str, message: str) -> None:
    request = f"DATA_LOSS {message}".encode()
    call = caller.download(method, request) if method == "FailLate" else caller.start(method, request)
    if method == "FailLate":
        assert next(call) == b"first"
        with pytest.raises(grpc.RpcError):
            next(call)
    assert (call.code(), call.details()) == (grpc.StatusCode.DATA_LOSS, message)


@pytest.mark.parametrize("method", ["/kit.Test/Missing", "/missing.Service/Echo"])
def test_unimplemented(caller: Caller, method: str) -> None:
    assert caller.refusal(method)[0] is grpc.StatusCode.UNIMPLEMENTED
    assert caller.unary("Empty") == b""


# Cancellation


def test_cancel_after_begin(world: World, caller: Caller) -> None:
    call = caller.start("Wait", metadata=[("x-call", "begun")])
    world.server.wait_for("waiting", "begun")
    call.cancel()
    assert call.code() is grpc.StatusCode.CANCELLED
    world.server.wait_for("cancelled", "begun")
    assert caller.unary("Echo", b"x") == b"x", "and the channel goes on"


def test_cancel_after_the_initial_metadata(world: World, caller: Caller) -> None:
    call = caller.download("Wait", metadata=[("x-call", "headers")])
    assert ("x-kit-begun", "1") in call.initial_metadata(), "though no message follows"
    world.server.wait_for("waiting", "headers")  # whoever is cancelled before has nobody to say it
    call.cancel()
    world.server.wait_for("cancelled", "headers")


def test_cancel_after_the_first_response(world: World, caller: Caller) -> None:
    call = caller.download("WaitAfterFirst", metadata=[("x-call", "answered")])
    assert next(call) == b"first"
    world.server.wait_for("waiting", "answered")
    call.cancel()
    world.server.wait_for("cancelled", "answered")


def test_a_client_that_leaves_cancels_its_calls(world: World) -> None:
    with Caller(world.koguma.port("app")) as leaving:
        calls = [leaving.start("Wait", metadata=[("x-call", "left")]) for _ in range(10)]
        world.server.wait_for("waiting", "left", count=10)
    world.server.wait_for("cancelled", "left", count=10)
    assert {call.code() for call in calls} == {grpc.StatusCode.CANCELLED}


# What operators see


def test_statistics_and_the_access_log(koguma: Koguma, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    koguma.args += ["--access-log", str(path)]
    with GrpcServer(tmp_path / "grpc") as server:
        serve(koguma, server)
        with koguma, caller_of(koguma) as caller:
            assert [caller.unary("Echo", b"abc") for _ in range(3)] == [b"abc"] * 3
            assert caller.refusal("Fail", b"NOT_FOUND gone")[0] is grpc.StatusCode.NOT_FOUND
            assert caller.refusal("/kit.Test/Missing")[0] is grpc.StatusCode.UNIMPLEMENTED
            server.stop()
            assert caller.refusal()[0] is grpc.StatusCode.UNAVAILABLE
            poll.until(lambda: path.read_text().count("\n") == 6, "six lines")
            counts = {"grpc.0": 3, "grpc.5": 1, "grpc.12": 1, "grpc.14": 1, "grpc.success": 3, "upstream_rq_200": 6}
            assert {name: koguma.stat("app", name) for name in counts} == counts
            server.__enter__()
    first, *_, last = (json.loads(line) for line in path.read_text().splitlines())
    facts = ("protocol", "method", "path", "response_code", "response_flags", "bytes_received", "bytes_sent")
    assert [first[fact] for fact in facts] == ["HTTP/2", "POST", "/kit.Test/Echo", 200, "-", 8, 8]
    assert (last["response_code"], last["response_flags"]) == (200, "UF")


# Balancing


@pytest.mark.parametrize("security", ["plain", "tls", "mtls"])
def test_each_call_of_one_channel_is_balanced(koguma: Koguma, tmp_path: Path, security: str) -> None:
    with (
        server_for(security, tmp_path / "a", "a") as one,
        server_for(security, tmp_path / "b", "b") as two,
    ):
        serve(koguma, one, two, tls=settings_for(security, koguma))
        with koguma, caller_of(koguma) as caller:
            assert Counter(caller.unary("Who") for _ in range(100)) == {b"a": 50, b"b": 50}
            assert koguma.stat("app", "upstream_cx_total") == 2, "all calls share one connection to each server"
            assert koguma.stat("app", "upstream_rq_total") == 100


# What the proxy says itself


def raw_refusal(port: int, *fields: tuple[str, str]) -> Message:
    """How a call is refused, seen without a gRPC library."""
    with H2Client(port) as client:
        return client.ask("POST", "/kit.Test/Empty", GRPC, ("te", "trailers"), *fields, body=EMPTY_MESSAGE)


def check_refusal(port: int, code: grpc.StatusCode, text: str) -> None:
    """HTTP 200 and trailers only, and grpcio understands it."""
    answer = raw_refusal(port)
    assert (answer.status, answer["content-type"]) == (200, "application/grpc")
    assert (answer["grpc-status"], answer["grpc-message"]) == (str(code.value[0]), text)
    assert answer.parts == ["head", "end"], "one HEADERS frame with END_STREAM"
    with Caller(port) as caller:
        assert caller.refusal() == (code, text)
        assert caller.refusal("Repeat", b"1 1") == (code, text)


def test_no_endpoints(koguma: Koguma) -> None:
    with DnsServer({}) as dns:
        koguma.args += ["--dns-upstream", dns.address]
        koguma.service("app", [{"address": "missing.test", "port": 80}], protocol="grpc")
        with koguma:
            check_refusal(koguma.port("app"), grpc.StatusCode.UNAVAILABLE, "no healthy upstream")


def test_connection_refused(koguma: Koguma) -> None:
    koguma.service("app", [{"address": "127.0.0.1", "port": free_port()}], protocol="grpc")
    with koguma:
        text = f"{BEFORE_HEADERS}remote connection failure"
        check_refusal(koguma.port("app"), grpc.StatusCode.UNAVAILABLE, text)


def test_a_server_that_is_not_trusted(koguma: Koguma, tmp_path: Path) -> None:
    with GrpcServer(tmp_path / "grpc", identity=STRANGER.leaf("127.0.0.1")) as server:
        serve(koguma, server, tls=trusting())
        with koguma:
            text = f"{BEFORE_HEADERS}remote connection failure"
            check_refusal(koguma.port("app"), grpc.StatusCode.UNAVAILABLE, text)
            (verdict,) = koguma.verdicts("app")
            assert verdict["message"], "why is for operators"


def test_forbidden(koguma: Koguma, tmp_path: Path) -> None:
    with GrpcServer(tmp_path / "grpc") as server:
        serve(koguma, server)
        koguma.write("mesh.yaml", yamlkit.mesh(routing={"defaultForbidMeshExternalServiceAccess": True}))
        with koguma:
            check_refusal(koguma.port("app"), grpc.StatusCode.PERMISSION_DENIED, "RBAC: access denied")
            assert koguma.stat("app", "upstream_cx_total") == 0


@pytest.mark.skipif(WORKERS > 1, reason="the limit is divided among the workers")
def test_overflow(koguma: Koguma) -> None:
    """At most 1,024 requests wait for a connection; the next is refused at once, and told that waiting is no use."""
    with Peer(peers.discard) as silent:
        koguma.service("app", [silent.endpoint], tls=trusting(), protocol="grpc")  # no handshake will end
        with koguma, H2Client(koguma.port("app")) as client:
            for _ in range(MAX_WAITING):
                client.begin("POST", "/kit.Test/Empty", GRPC)
            koguma.wait_for_stat("app", "upstream_rq_pending_active", MAX_WAITING)
            check_refusal(koguma.port("app"), grpc.StatusCode.UNAVAILABLE, f"{BEFORE_HEADERS}overflow")
            assert raw_refusal(koguma.port("app"))["x-envoy-overloaded"] == "true"


def test_other_requests_on_a_grpc_service_are_refused_as_http(koguma: Koguma) -> None:
    koguma.service("app", [{"address": "127.0.0.1", "port": free_port()}], protocol="grpc")
    with koguma, H2Client(koguma.port("app")) as client:
        answer = client.ask()
        assert (answer.status, answer.body.decode()) == (503, f"{BEFORE_HEADERS}remote connection failure")
        assert "grpc-status" not in answer


def test_a_grpc_client_over_http_1_is_refused_in_its_words_too(koguma: Koguma) -> None:
    koguma.service("app", [{"address": "127.0.0.1", "port": free_port()}], protocol="grpc")
    with koguma, Wire(koguma.port("app")) as wire:
        answer = wire.get("/", "content-type: application/grpc+proto")
        assert (answer.status, answer["grpc-status"], answer.body) == (200, "14", b"")
        assert answer["grpc-message"] == f"{BEFORE_HEADERS}remote connection failure"


# Servers that fail


def failing(how: str) -> H2Origin:
    def script(visit: H2Visit, request: Message) -> None:
        if how.endswith("after headers"):
            visit.send_head(request.stream_id, [(":status", "200"), GRPC])
            visit.send_data(request.stream_id, EMPTY_MESSAGE)
        if how.startswith("reset"):
            visit.reset(request.stream_id, 8)
        else:
            raise ConnectionResetError

    return H2Origin(script)


@pytest.mark.parametrize(
    ("how", "reason"), [("reset", "remote reset"), ("closed", "connection termination")], ids=["reset", "closed"]
)
def test_a_server_that_fails_before_headers(koguma: Koguma, how: str, reason: str) -> None:
    with failing(how) as origin:
        koguma.service("app", [origin.endpoint], protocol="grpc")
        with koguma:
            check_refusal(koguma.port("app"), grpc.StatusCode.UNAVAILABLE, f"{BEFORE_HEADERS}{reason}")


@pytest.mark.parametrize("how", ["reset after headers", "closed after headers"])
def test_a_server_that_fails_after_headers(koguma: Koguma, how: str) -> None:
    with failing(how) as origin:
        koguma.service("app", [origin.endpoint], protocol="grpc")
        with koguma:
            answer = raw_refusal(koguma.port("app"))
            assert (answer.status, answer.body, answer.reset) == (200, EMPTY_MESSAGE, 2), "INTERNAL_ERROR"
            with caller_of(koguma) as caller:
                call = caller.download("Repeat", b"9 9")
                messages = []
                with pytest.raises(grpc.RpcError):
                    messages.extend(call)
                assert messages in ([], [b""]), "grpcio may drop what came just before a reset"
                assert call.code() is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("status", [404, 503])
def test_an_answer_that_is_not_grpc_passes_unchanged(koguma: Koguma, status: int) -> None:
    def script(visit: H2Visit, request: Message) -> None:
        visit.answer(request, status, ("content-type", "text/html"), body=b"<html>")

    with H2Origin(script) as origin:
        koguma.service("app", [origin.endpoint], protocol="grpc")
        with koguma:
            answer = raw_refusal(koguma.port("app"))
            assert (answer.status, answer["content-type"], answer.body) == (status, "text/html", b"<html>")


def test_grpc_timeout_is_left_as_it_is(koguma: Koguma) -> None:
    with H2Origin(lambda visit, request: visit.answer(request, 200, GRPC, ("grpc-status", "0"))) as origin:
        koguma.service("app", [origin.endpoint], protocol="grpc")
        with koguma:
            raw_refusal(koguma.port("app"), ("grpc-timeout", "1234567u"))
            assert origin.last["grpc-timeout"] == "1234567u"
            assert origin.last["te"] == "trailers"


# Under load


class Load:
    """Threads that call without a pause, each on a channel of its own, and count what becomes of it."""

    def __init__(self, port: int, *, threads: int = 3) -> None:
        self.results: Counter[str] = Counter()
        self._stop = threading.Event()
        self._port = port
        self._threads = [threading.Thread(target=self._call, daemon=True) for _ in range(threads)]

    def _call(self) -> None:
        with Caller(self._port) as caller:
            number = 0
            while not self._stop.is_set():
                number += 1
                try:
                    if number % 2:
                        result = caller.unary("Who").decode()
                    else:
                        result = f"{len(list(caller.chat([b'1', b'2', b'3'])))} messages"
                except grpc.RpcError as error:  # which is a grpc.Call too
                    result = f"{error.code().name}: {error.details()}"
                    if self._stop.wait(0.01):
                        break
                self.results[result] += 1

    @property
    def failures(self) -> dict[str, int]:
        return {result: count for result, count in self.results.items() if ": " in result}

    @property
    def succeeded(self) -> int:
        return self.results.total() - sum(self.failures.values())

    def wait_for_more(self, count: int = 60) -> None:
        wanted = self.succeeded + count
        poll.until(lambda: self.succeeded >= wanted, f"{wanted} calls to succeed", within_s=20)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(CALL_S + 5)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["gracefully", "killed"])
def test_a_server_that_restarts_under_load(koguma: Koguma, tmp_path: Path, how: signal.Signals) -> None:
    """While it is away calls fail as Envoy lets them fail, and nothing hangs; when it is back, they succeed."""
    with GrpcServer(tmp_path / "grpc", name="a") as server:
        serve(koguma, server)
        with koguma, Load(koguma.port("app")) as load:
            load.wait_for_more()
            server.stop(how)
            poll.until(lambda: load.failures, "calls to fail")
            server.__enter__()
            load.wait_for_more(200)
        allowed = {
            f"UNAVAILABLE: {BEFORE_HEADERS}remote connection failure",
            f"UNAVAILABLE: {BEFORE_HEADERS}connection termination",
            "UNAVAILABLE: no healthy upstream",
            SERVER_SHUTS_DOWN,
        }
        if how is signal.SIGKILL:  # a chat whose response had begun
            allowed |= {result for result in load.failures if result.startswith("INTERNAL: ")}
        assert load.failures.keys() <= allowed
        assert load.results.keys() - load.failures.keys() == {"a", "3 messages"}


def test_a_graceful_restart_of_one_server_of_two_costs_no_call(koguma: Koguma, tmp_path: Path) -> None:
    with GrpcServer(tmp_path / "a", name="a") as one, GrpcServer(tmp_path / "b", name="b") as two:
        serve(koguma, one, two)
        with koguma, Load(koguma.port("app")) as load:
            for server in (one, two):
                load.wait_for_more()
                server.restart()
                load.wait_for_more()
                poll.until(lambda: koguma.stat("app", "membership_healthy") == 2, "both to be used", within_s=15)
        assert load.failures.keys() <= {SERVER_SHUTS_DOWN}
        assert min(load.results["a"], load.results["b"]) > 20


def test_no_reload_costs_a_call(koguma: Koguma, tmp_path: Path) -> None:
    with (
        GrpcServer(tmp_path / "a", name="a") as plain,
        GrpcServer(tmp_path / "b", name="b") as other,
        GrpcServer(tmp_path / "c", name="c", identity=SERVER) as secured,
    ):
        serve(koguma, plain)
        variants: list[tuple[list[GrpcServer], Document | None]] = [
            ([plain, other], None),
            ([other], None),
            ([secured], trusting()),
            ([secured], yamlkit.tls(ca=yamlkit.inline_string(STRANGER.pem + ROOT.pem))),
            ([plain], None),
        ]
        with koguma, caller_of(koguma) as caller, Load(koguma.port("app")) as load:
            pings: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
            chat = caller.chat(iter(pings.get, None), timeout=60)
            for servers, policy in variants:
                load.wait_for_more()
                endpoints = [server.endpoint for server in servers]
                koguma.rewrite("app.yaml", yamlkit.mes("app", 80, endpoints, tls=policy, protocol="grpc"))
                pings.put(b"still here")
                assert next(chat) == b"still here", "a stream goes on at the endpoint where it began"
            load.wait_for_more()
            pings.put(None)
            assert list(chat) == []
        assert load.failures == {}
        assert {"a", "b", "c"} <= load.results.keys()


def test_a_drain_costs_no_call(koguma: Koguma, tmp_path: Path) -> None:
    """What is under way is finished, however long; what comes afterwards never began."""
    koguma.drain_time = "30s"
    with GrpcServer(tmp_path / "grpc") as server:
        serve(koguma, server)
        with koguma, caller_of(koguma) as caller:
            pings: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
            chat = caller.chat(iter(pings.get, None))
            pings.put(b"before")
            assert next(chat) == b"before"
            with Load(koguma.port("app")) as load:
                load.wait_for_more()
                koguma.terminate()
                poll.until(lambda: load.failures, "calls to be refused", within_s=15)
            assert koguma.program.is_running
            for _ in range(10):
                pings.put(b"after")
                assert next(chat) == b"after"
            pings.put(None)
            assert list(chat) == []
            assert chat.code() is grpc.StatusCode.OK
            start = time.monotonic()
            assert koguma.wait_for_exit(within_s=5) == 0
            assert time.monotonic() - start < 5
        assert all("Connection refused" in failure for failure in load.failures), load.failures
