"""Guarantee: the program asks for the rows that were meant, goes round the proxies in turn, keeps going where one
fails, and knows the machine; its own generators measure what they say.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

import pytest

from bench import open_loop, sink
from bench.__main__ import choose_rows, main, measure_row
from bench.machine import choose_cores, parse_cpu_list
from bench.process import MeasurementError
from bench.results import Better, Metric, Values
from bench.rows import ROWS, Row, loopback
from bench.world import CannotDoError, World

RATE = (Metric("rate", "req/s", Better.MORE),)


def test_rows_by_name() -> None:
    assert [row.full_name for row in choose_rows(["http/2 SMALL"], False)] == [
        "HTTP/2: HTTP/2 small",
        "HTTP/2: HTTP/2 small, TLS",
        "Inbound mTLS: HTTP/2 small, mTLS",
        "Two hops: HTTP/2 small, sidecar and egress",
    ]
    assert choose_rows([], False) == ROWS
    quick = choose_rows([], True)
    assert {row.family for row in quick} == {row.family for row in ROWS} - {"Workers", "Two hops"}
    with pytest.raises(ValueError, match='no row is called "nothing"'):
        choose_rows(["nothing"], False)


def test_quick_takes_less_than_two_minutes() -> None:
    """Five subjects at most, a run of a second, as much again for what surrounds it."""
    assert len(choose_rows([], True)) <= 16


def test_list_and_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list", "--quick"]) == 0
    assert "TCP: TCP small" in capsys.readouterr().out
    assert main(["--row", "nothing"]) == 2
    assert "no row is called" in capsys.readouterr().err


def test_runs_are_interleaved_and_a_failure_stops_no_other() -> None:
    order: list[str] = []

    def measure(_: World, name: str) -> Values:
        order.append(name)
        if name == "b":
            raise MeasurementError("it  ended\nwith 1")
        if name == "c":
            raise CannotDoError("not its job")
        return {"rate": float(len(order))}

    world = cast("World", None)  # nothing of it is asked for
    outcome = measure_row(world, Row("r", "f", RATE, measure, direct=True), ["a", "b", "c"], 2)
    assert order == ["a", "b", "c", "direct", "a", "direct"]
    assert outcome.runs == {"a": [{"rate": 1.0}, {"rate": 5.0}], "direct": [{"rate": 4.0}, {"rate": 6.0}]}
    assert outcome.absent == {"b": "FAILED: it ended with 1", "c": "not its job"}


@pytest.mark.parametrize(
    ("allowed", "pairs", "proxy", "load", "two"),
    [
        ({0, 1}, [{0}, {1}], 0, 1, {0, 1}),
        ({0, 1}, [{0, 1}], 0, 1, {0, 1}),
        ({0, 1, 2, 3}, [{0, 1}, {2, 3}], 0, 2, {0, 1}),
        ({0, 1, 2, 3}, [{0, 2}, {1, 3}], 0, 1, {0, 2}),
        ({4, 5, 6, 7}, [{4}, {5}, {6}, {7}], 4, 5, {4, 6}),
    ],
)
def test_cores(allowed: set[int], pairs: list[set[int]], proxy: int, load: int, two: set[int]) -> None:
    cores = choose_cores(allowed, lambda core: next(pair for pair in pairs if core in pair))
    assert (cores.proxy, cores.load) == ({proxy}, {load})
    assert cores.two_workers == two
    assert cores.two_workers_share == (len(allowed) == 2)


def test_one_core_is_not_enough() -> None:
    with pytest.raises(ValueError, match="two cores are needed"):
        choose_cores({0}, lambda core: {core})


def test_cpu_list() -> None:
    assert parse_cpu_list("0-2,8\n") == {0, 1, 2, 8}


def test_loopback_addresses_are_distinct() -> None:
    assert len({loopback(number) for number in range(10_000)}) == 10_000
    assert loopback(0) == "127.64.0.1"
    assert loopback(255) == "127.64.1.0"


PAUSE_S = 0.25


@contextmanager
def origin(pause_at: int = -1, body: bytes = b"hello", status: int = 200) -> Iterator[int]:
    """An HTTP server that pauses once, for everybody: a proxy whose process was stopped for a while."""
    lock = threading.Lock()
    seen = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            nonlocal seen
            with lock:
                seen += 1
                if seen == pause_at:
                    time.sleep(PAUSE_S)
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_open_loop_charges_a_pause_to_every_request_that_was_due() -> None:
    """300 requests a second for a second; a pause of a quarter of one delays a quarter of them, not a single one."""
    with origin(pause_at=150) as port:
        seen = open_loop.run(port, "/", 300, 1.0, connections=4)
    assert seen["p99_s"] > 0.8 * PAUSE_S
    assert seen["p999_s"] >= seen["p99_s"] >= seen["p50_s"] > 0
    assert seen["rate"] <= 310


def test_the_open_loop_refuses_errors() -> None:
    with origin(status=503) as port, pytest.raises(ConnectionError, match="503"):
        open_loop.run(port, "/", 100, 0.2, connections=2)


def test_the_sink_counts_bodies() -> None:
    with origin(body=bytes(100_000)) as port:
        count, seconds = sink.run(port, "/", 0.2)
    assert count >= 100_000 - 4096  # what comes with the head is not counted
    assert 0.2 <= seconds < 10


def test_the_sink_refuses_errors() -> None:
    with origin(status=404) as port, pytest.raises(ConnectionError, match="404"):
        sink.run(port, "/", 0.2)
