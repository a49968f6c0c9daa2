"""Guarantee: a service of protocol ``http`` is one for its operators too: failures are explained where they look, the
access log and the statistics say what happened, and no reload or shutdown costs a request.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from pathlib import Path

from tests.e2e.upstreams import ROOT, SERVER, STRANGER, trusting
from tests.kit import payload, peers, poll, yamlkit
from tests.kit.apps import Nginx
from tests.kit.koguma import WORKERS, Koguma
from tests.kit.load import Load
from tests.kit.origins import Conversation, Origin, always, in_turn, ok
from tests.kit.rawhttp import Message, Wire

BEFORE_HEADERS = b"upstream connect error or disconnect/reset before headers. reset reason: "
IDLE_CLIENTS = 2000
MAX_BYTES_PER_IDLE_CLIENT = 12 * 1024


def serve(koguma: Koguma, *origins: Origin, tls: object = None) -> None:
    endpoints = [origin.endpoint for origin in origins]
    koguma.service("app", endpoints, tls=tls, protocol="http")  # type: ignore[arg-type]


def wire_to(koguma: Koguma) -> Wire:
    return Wire(koguma.port("app"))


# TLS


def test_a_verified_origin(koguma: Koguma) -> None:
    with Origin(always(ok(b"hi")), tls=peers.server_tls(SERVER)) as origin:
        serve(koguma, origin, tls=trusting())
        with koguma, wire_to(koguma) as wire:
            assert [wire.get().body for _ in range(10)] == [b"hi"] * 10
            assert origin.connections == 1


def test_why_an_origin_is_not_trusted_is_for_operators_only(koguma: Koguma) -> None:
    with Origin(always(ok()), tls=peers.server_tls(STRANGER.leaf("127.0.0.1"))) as origin:
        serve(koguma, origin, tls=trusting())
        with koguma, wire_to(koguma) as wire:
            response = wire.get()
            assert (response.status, response.body) == (503, BEFORE_HEADERS + b"remote connection failure")
            assert b"certif" not in response.head.lower()
            (verdict,) = koguma.verdicts("app")
            assert verdict["message"]
            assert origin.requests == []


# The access log


def test_the_access_log_as_text(koguma: Koguma, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    koguma.args += ["--access-log", str(path), "--log-format", "text"]
    with Origin(in_turn(ok(b"hello"))) as origin:
        serve(koguma, origin)
        koguma.launch()
        poll.until(lambda: any(line == "koguma ready" for line in koguma.program.stderr), "koguma ready")
        with wire_to(koguma) as wire:
            wire.get("/p?q", "user-agent: test", "x-request-id: r1", "x-forwarded-for: 10.0.0.1")
            wire.get("/", 'user-agent: " 200 - \\ \xc2\x9b', "x-request-id: r2")
        koguma.terminate()
        koguma.wait_for_exit()
        koguma.program.close()
        where = re.escape(f"127.0.0.1:{origin.port}")
    first, second = path.read_text().split("\n")[:-1]
    pattern = (
        r'\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\] "GET /p\?q HTTP/1\.1" 200 - 0 5 \d+ \d+ '
        rf'"10\.0\.0\.1" "test" "r1" "app\.test" "{where}"'
    )
    assert re.fullmatch(pattern, first), first
    assert r'"\x22 200 - \x5c \x9b"' in second


def test_the_access_log_as_json(koguma: Koguma, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    koguma.args += ["--access-log", str(path)]
    with Origin(in_turn(ok(b"hello"), b"garbage\r\n\r\n")) as origin:
        serve(koguma, origin)
        with koguma:
            with wire_to(koguma) as wire:
                wire.ask(b'POST / HTTP/1.1\r\nhost: a\r\nuser-agent: "},{\\\r\ncontent-length: 3\r\n\r\nabc')
                refused = wire.get()
            poll.until(lambda: path.read_text().count("\n") == 2, "two lines")
            where = f"127.0.0.1:{origin.port}"
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert (first["response_code"], first["response_flags"], first["bytes_received"], first["bytes_sent"]) == (
        200, "-", 3, 5,
    )  # fmt: skip
    assert (first["user_agent"], first["upstream_host"]) == ('"},{\\', where)
    assert (second["response_code"], second["response_flags"]) == (502, "UPE")
    assert second["request_id"] == refused["x-request-id"], "what the client was told finds the line"


def test_an_access_log_that_was_moved_is_opened_anew(koguma: Koguma, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    koguma.args += ["--access-log", str(path)]
    with Origin(always(ok())) as origin:
        serve(koguma, origin)
        with koguma, wire_to(koguma) as wire:
            wire.get()
            poll.until(lambda: path.read_text(), "a line")
            path.rename(tmp_path / "old.log")
            wire.get()
            poll.until(lambda: path.exists() and path.read_text(), "a line in the new file")
        assert (tmp_path / "old.log").read_text().count("\n") == path.read_text().count("\n") == 1


# Statistics


def test_statistics(koguma: Koguma) -> None:
    with Origin(in_turn(ok(), ok(status="404 Not Found"), b"garbage\r\n\r\n")) as origin:
        serve(koguma, origin)
        with koguma:
            with wire_to(koguma) as wire:
                assert [wire.get().status for _ in range(3)] == [200, 404, 502]
            cluster = f"cluster.{koguma.cluster('app')}."
            stats = poll.until(
                lambda: (s := koguma.stats()).get(f"{cluster}upstream_rq_502") and s, "the statistics"
            )  # fmt: skip
            wanted = {
                "total": 3,
                "completed": 3,
                "200": 1,
                "404": 1,
                "502": 1,
                "2xx": 1,
                "4xx": 1,
                "5xx": 1,
                "active": 0,
            }
            assert {name: stats[f"{cluster}upstream_rq_{name}"] for name in wanted} == wanted
            (prefix,) = {name.rpartition(".")[0] for name in stats if name.startswith("http.")}
            wanted = {"total": 3, "http1_total": 3, "2xx": 1, "3xx": 0, "4xx": 1, "5xx": 1, "active": 0}
            assert {name: stats[f"{prefix}.downstream_rq_{name}"] for name in wanted} == wanted
            assert not any(name.startswith("tcp.") for name in stats)
            text = koguma.admin("/stats/prometheus").text
            label = f'envoy_cluster_name="{koguma.cluster("app")}"'
            assert f'envoy_cluster_upstream_rq{{envoy_response_code="502",{label}}} 1\n' in text
            assert f'envoy_cluster_upstream_rq_xx{{envoy_response_code_class="5",{label}}} 1\n' in text
            assert f"envoy_cluster_upstream_rq_total{{{label}}} 3\n" in text
            assert f"envoy_cluster_upstream_rq_time_count{{{label}}} 3\n" in text
            label = f'envoy_http_conn_manager_prefix="{prefix.removeprefix("http.")}"'
            assert f'envoy_http_downstream_rq_xx{{envoy_response_code_class="4",{label}}} 1\n' in text
            assert f"envoy_http_downstream_rq_total{{{label}}} 3\n" in text
            assert f"127.0.0.1:{origin.port}::rq_total::3\n" in koguma.admin("/clusters").text


# Under load


class Hammer(Load):
    """Clients that ask without a pause, on kept connections, and count what they get."""

    def __init__(self, port: int, clients: int = 4) -> None:
        super().__init__(clients)
        self.results: Counter[str] = Counter()
        self._port = port

    def _work(self) -> None:
        with Wire(self._port) as wire:
            number = 0
            while not self.is_over:
                number += 1
                response = (
                    wire.get()
                    if number % 2
                    else wire.ask(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc")
                )
                self.results[f"{response.status}" + ("" if response.is_whole else " cut")] += 1

    def wait_for_more(self, count: int = 100) -> None:
        wanted = self.results.total() + count
        poll.until(lambda: self.results.total() >= wanted, f"{wanted} answers")


def test_no_reload_costs_a_request(koguma: Koguma) -> None:
    tls = peers.server_tls(SERVER)
    with (
        Origin(always(ok(b"a"))) as plain,
        Origin(always(ok(b"b"))) as other,
        Origin(always(ok(b"c")), tls=tls) as secured,
    ):
        serve(koguma, plain)
        both = [STRANGER, ROOT]
        bundle = yamlkit.tls(ca=yamlkit.inline_string("".join(one.pem for one in both)))
        variants = [
            ([plain, other], None),
            ([other], None),
            ([secured], trusting()),
            ([secured], bundle),
            ([plain], None),
        ]
        with koguma, Hammer(koguma.port("app")) as hammer:
            for origins, policy in variants * 2:
                hammer.wait_for_more()
                endpoints = [origin.endpoint for origin in origins]
                koguma.rewrite("app.yaml", yamlkit.mes("app", 80, endpoints, tls=policy, protocol="http"))
            hammer.wait_for_more()
        assert hammer.results.keys() == {"200"}
        assert min(map(len, (plain.requests, other.requests, secured.requests))) > 50


def test_what_is_under_way_is_answered_before_the_end(koguma: Koguma) -> None:
    gate = threading.Event()

    def slow(request: Message) -> bytes:
        assert gate.wait(20)
        return ok(b"x" * 300_000)

    koguma.drain_time = "20s"
    with Origin(always(slow)) as origin:
        serve(koguma, origin)
        with koguma:
            wires = [wire_to(koguma) for _ in range(20)]
            idle = wire_to(koguma)
            for wire in wires:
                wire.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            koguma.wait_for_stat("app", "upstream_rq_total", 20)
            koguma.terminate()
            assert idle.read_to_end() == b"", "an idle one is let go at once"
            gate.set()
            for wire in wires:
                response = wire.response()
                assert (response.status, response.length, response["connection"]) == (200, 300_000, "close")
                assert wire.read_to_end() == b""
                wire.close()
            assert koguma.wait_for_exit(within_s=3) == 0
            idle.close()


def test_idle_clients_cost_little_memory(koguma: Koguma) -> None:
    with Origin(always(ok(b"hi"))) as origin:
        serve(koguma, origin)
        with koguma:
            with wire_to(koguma) as wire:
                wire.get()
                before = koguma.resident_bytes()
                wires = [wire_to(koguma) for _ in range(IDLE_CLIENTS)]
                for one in wires:
                    assert one.get().status == 200
                each = (koguma.resident_bytes() - before) / IDLE_CLIENTS
                assert wire.get().status == 200
                for one in wires:
                    one.close()
            print(f"{each:.0f} bytes for each idle client")  # shown by pytest -rP
            assert each < MAX_BYTES_PER_IDLE_CLIENT
            assert origin.connections <= WORKERS


def test_memory_stays_flat_whatever_the_body(koguma: Koguma) -> None:
    size = 256 * payload.MIB
    block = b"x" * payload.MIB

    def both_ways(one: Conversation) -> None:
        while (request := one.request()) is not None:
            one.send(b"HTTP/1.1 200 OK\r\nx-length: %d\r\ncontent-length: %d\r\n\r\n" % (request.length, size))
            for _ in range(256):
                one.send(block)

    with Origin(both_ways) as origin:
        serve(koguma, origin)
        with koguma, wire_to(koguma) as wire:
            before = koguma.resident_bytes()
            most = 0
            wire.send(b"PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % size)
            for _ in range(256):
                wire.send(block)
                most = max(most, koguma.resident_bytes())
            response = wire.response()
            assert (response["x-length"], response.length) == (str(size), size)
            assert max(most, koguma.resident_bytes()) - before < 16 * payload.MIB


def test_nginx(koguma: Koguma, tmp_path: Path) -> None:
    body = b"".join(payload.blocks(3 * payload.MIB))
    identity = ROOT.leaf("127.0.0.1")
    with Nginx(tmp_path / "nginx", identity=identity, body_bytes=body) as nginx:
        koguma.service("app", [nginx.endpoint], tls=trusting(), protocol="http")
        with koguma, wire_to(koguma) as wire:
            for _ in range(3):
                assert wire.get().body == b"hello from nginx"
                assert wire.get("/big").sha256 == payload.sha256(len(body))
                assert wire.get("/big", method="HEAD")["content-length"] == str(len(body))
                assert wire.get("/none").status == 404
                assert wire.get("/big", "range: bytes=0-9").body == body[:10]
            assert koguma.stat("app", "upstream_cx_total") == 1
