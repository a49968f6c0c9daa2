"""What is measured: a row is a kind of work, and a function that does it once with one subject."""

from __future__ import annotations

import http.client
import resource
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

from bench import load
from bench.load import Load
from bench.origin import MESSAGE
from bench.peers import Service, Speaks
from bench.process import MeasurementError, free_port, resident_bytes
from bench.results import Better, Metric, Values
from bench.world import CannotDoError, Subject, World

Measure = Callable[[World, str], Values]

REQUESTS = (
    Metric("rate", "req/s", Better.MORE),
    Metric("cpu", "CPU µs/req", Better.LESS, 1e6),
    Metric("failed", "requests that failed", Better.NEITHER),
)
MESSAGES = (Metric("rate", "messages/s", Better.MORE), Metric("cpu", "CPU µs/message", Better.LESS, 1e6))
CONNECTS = (Metric("rate", "connections/s", Better.MORE), Metric("cpu", "CPU µs/connection", Better.LESS, 1e6))
BULK = (Metric("rate", "GB/s", Better.MORE, 1e-9), Metric("cpu", "CPU s/GB", Better.LESS, 1e9))
LATENCY = (
    Metric("p50", "p50 µs", Better.LESS, 1e6),
    Metric("p99", "p99 µs", Better.LESS, 1e6),
    Metric("p99.9", "p99.9 µs", Better.LESS, 1e6),
    Metric("rate", "answered, req/s", Better.NEITHER),
    Metric("behind", "generator late, p99 µs", Better.NEITHER, 1e6),
)
PER_CONNECTION = (Metric("rss", "RSS KiB/connection", Better.LESS, 1 / 1024),)
UNDER_LOAD = (Metric("rss", "RSS MiB", Better.LESS, 1 / 1024**2),)
MANY = (
    Metric("ready", "s from start to ready", Better.LESS),
    Metric("rss", "RSS MiB, idle", Better.LESS, 1 / 1024**2),
    Metric("change", "s from a change to live", Better.LESS),
)

IDLE_CONNECTIONS, SLOW_IDLE_CONNECTIONS = 1000, 250
"""To each service: below Envoy's limit of connections to a cluster, 1024, which is Koguma's as well."""
IDLE_SERVICES = 3
CONNECTIONS_UNDER_LOAD = 256
UNDER_LOAD_S, SLOW_UNDER_LOAD_S = 3.0, 10.0
"""At least: as many TLS handshakes come first."""
SAMPLE_S = 0.1
SETTLE_S = 0.5
LIVE_WITHIN_S = 60.0
SERVICES_PER_SECOND = 40
"""The slowest start that is waited for."""
SPARE_FILES = 4096


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    family: str
    metrics: tuple[Metric, ...]
    measure: Measure
    quick: bool = False
    """Whether it belongs to what ``--quick`` runs."""
    direct: bool = False
    """Whether the origin alone can be measured too."""
    shares_cores: bool = False
    """Whether the load may have to share a core with the proxy."""

    @property
    def full_name(self) -> str:
        return f"{self.family}: {self.name}"


def closed_loop(
    service: str, run: Callable[[int, World], Load], start: Callable[[World, str], Subject] = World.subject
) -> Measure:
    """As much as the proxy can do, and its CPU time for each unit of it."""

    def measure(world: World, name: str) -> Values:
        subject = start(world, name)
        port = world.warm_up(subject, service)
        if not subject.pids:
            return {"rate": run(port, world).rate}
        before = subject.cpu_seconds
        done = run(port, world)
        values = {"rate": done.rate, "cpu": (subject.cpu_seconds - before) / done.count}
        return values | ({"failed": done.failed} if done.failed else {})

    return measure


def two_workers(world: World, name: str) -> Subject:
    return world.subject(name, 2)


def wrk(path: str, *, close: bool = False) -> Callable[[int, World], Load]:
    return lambda port, world: load.wrk(port, path, world.seconds, world.cores.load, close=close)


def wrk_for_two(port: int, world: World) -> Load:
    return load.wrk(port, "/small", world.seconds, world.cores.load_of_two_workers, connections=2 * load.CONNECTIONS)


def sink(port: int, world: World) -> Load:
    return load.sink(port, "/bulk", world.seconds, world.cores.load)


def h2load(path: str) -> Callable[[int, World], Load]:
    return lambda port, world: load.h2load(port, path, world.seconds, world.cores.load)


def h2load_bytes(path: str, size: int) -> Callable[[int, World], Load]:
    def run(port: int, world: World) -> Load:
        done = load.h2load(port, path, world.seconds, world.cores.load)
        return Load(done.count * size, done.seconds)

    return run


def h2load_grpc(port: int, world: World) -> Load:
    headers = ("te: trailers", "content-type: application/grpc")
    body = str(world.origin.grpc_request)
    return load.h2load(port, "/grpc", world.seconds, world.cores.load, headers=headers, body=body)


def grpcio(mode: str) -> Callable[[int, World], Load]:
    return lambda port, world: load.grpc(port, mode, world.seconds, world.cores.load)


def latency(service: str, part_of_peak: float) -> Measure:
    """At a rate that is the same for all, and no closed loop."""

    def measure(world: World, name: str) -> Values:
        rate = world.peak(service) * part_of_peak
        if world.is_slow(name):
            raise CannotDoError("is far from answering so many")
        port = world.warm_up(world.subject(name), service)
        seen = load.open_loop(port, "/small", rate, world.seconds, world.cores.load)
        return {"p50": seen.p50_s, "p99": seen.p99_s, "p99.9": seen.p999_s, "rate": seen.rate, "behind": seen.behind_s}

    return measure


def idle_connections(kind: str) -> Measure:
    """Resident memory that three thousand connections bring, each of which carried a request, divided by as many.

    Another thousand come first: they fill what the process has free from its start.
    """

    def measure(world: World, name: str) -> Values:
        first, *others = (
            replace(_service_of(world, name, kind), name=f"s{number}") for number in range(1 + IDLE_SERVICES)
        )
        if reason := world.peers[name].why_not_idle:
            raise CannotDoError(reason)
        count = SLOW_IDLE_CONNECTIONS if world.is_slow(name) else IDLE_CONNECTIONS
        with world.instance(world.peers[name], [first, *others]) as peer, ExitStack() as stack:
            _hold_connections(first, count, stack)
            before = resident_bytes(peer.pid)
            for service in others:
                _hold_connections(service, count, stack)
            return {"rss": (resident_bytes(peer.pid) - before) / (count * IDLE_SERVICES)}

    return measure


def memory_under_load(kind: str) -> Measure:
    """The most that is seen while many connections are busy."""

    def measure(world: World, name: str) -> Values:
        service = _service_of(world, name, kind)
        with world.instance(world.peers[name], [service]) as peer:
            most = resident_bytes(peer.pid)
            done = threading.Event()

            def watch() -> None:
                nonlocal most
                while not done.wait(SAMPLE_S):
                    most = max(most, resident_bytes(peer.pid))

            watcher = threading.Thread(target=watch)
            watcher.start()
            try:
                seconds = max(world.seconds, SLOW_UNDER_LOAD_S if world.is_slow(name) else UNDER_LOAD_S)
                load.wrk(service.port, "/small", seconds, world.cores.load, connections=CONNECTIONS_UNDER_LOAD)
            finally:
                done.set()
                watcher.join()
            return {"rss": max(most, resident_bytes(peer.pid))}

    return measure


def many_services(count: int) -> Measure:
    """Time from the start until the first, the middle and the last of so many TLS services answer; memory then; and the
    time from a change of one service's endpoint to the first connection that reaches the new one.
    """

    def measure(world: World, name: str) -> Values:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if most != resource.RLIM_INFINITY and most < count + SPARE_FILES:
            raise CannotDoError(f"this user may open {most} files only (ulimit -Hn)")
        port = free_port()
        services = [Service(f"s{i}", Speaks.TCP, True, loopback(i), port, world.origin.before) for i in range(count)]
        _refuse_if_unable(world, name, services[0])
        waiting = [services[-1], services[count // 2], services[0]]

        def is_ready() -> bool:
            while waiting and _answer(waiting[-1]) == "before":
                waiting.pop()
            return not waiting

        began = time.perf_counter()
        within_s = 20 + count / SERVICES_PER_SECOND
        with world.instance(world.peers[name], services, is_ready=is_ready, within_s=within_s) as peer:
            ready_s = time.perf_counter() - began
            time.sleep(SETTLE_S)
            rss = resident_bytes(peer.pid)
            changed = services[count // 2]
            put_into_force = peer.prepare(changed.moved(world.origin.after))
            if put_into_force is None:
                return {"ready": ready_s, "rss": rss}
            began = time.perf_counter()
            put_into_force()
            while _answer(changed) != "after":
                if time.perf_counter() - began > LIVE_WITHIN_S:
                    raise MeasurementError(f"a change was not live after {LIVE_WITHIN_S:g} s")
                time.sleep(0.001)
            return {"ready": ready_s, "rss": rss, "change": time.perf_counter() - began}

    return measure


def loopback(number: int) -> str:
    """One of 127.64.0.1 and on, so that many services can have one port."""
    high, low = divmod(number + 1, 256)
    second, third = divmod(high, 256)
    return f"127.{64 + second}.{third}.{low}"


def _service_of(world: World, name: str, kind: str) -> Service:
    service = next(one for one in world.services() if one.name == kind)
    _refuse_if_unable(world, name, service)
    return service


def _refuse_if_unable(world: World, name: str, service: Service) -> None:
    if reason := world.peers[name].why_not(service):
        raise CannotDoError(reason)


def _hold_connections(service: Service, count: int, stack: ExitStack) -> None:
    for _ in range(count):
        stack.enter_context(_used_connection(service.port))
    time.sleep(SETTLE_S)


def _used_connection(port: int) -> socket.socket:
    """A connection that has carried a request, and stays open."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=5)
    sock.sendall(b"GET /small HTTP/1.1\r\nhost: localhost\r\n\r\n")
    answer = b""
    while not answer.endswith(MESSAGE):
        more = sock.recv(65536)
        if not more:
            sock.close()
            raise MeasurementError("a connection was closed instead of answered")
        answer += more
    return sock


def _answer(service: Service) -> str:
    """What a new connection is answered; empty if it is not."""
    connection = http.client.HTTPConnection(service.address, service.port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def _pair(name: str, family: str, metrics: tuple[Metric, ...], service: str, run: Callable[[int, World], Load],
          quick: str = "") -> list[Row]:  # fmt: skip
    """A row, and the same with TLS to the origin; ``quick`` names those of the two that ``--quick`` runs."""
    return [
        Row(name, family, metrics, closed_loop(service, run), "plain" in quick, direct=True),
        Row(f"{name}, TLS", family, metrics, closed_loop(f"{service}-tls", run), "tls" in quick),
    ]


IN_A_MESH: tuple[tuple[str, tuple[Metric, ...], str, Callable[[int, World], Load]], ...] = (
    ("TCP small", REQUESTS, "tcp", wrk("/small")),
    ("TCP bulk", BULK, "tcp", sink),
    ("HTTP/1.1 small", REQUESTS, "http", wrk("/small")),
    ("HTTP/1.1 bulk", BULK, "http", sink),
    ("HTTP/2 small", REQUESTS, "http2", h2load("/small")),
    ("HTTP/2 1 MiB", BULK, "http2", h2load_bytes("/1m", 1 << 20)),
)


def _mtls_rows() -> list[Row]:
    return [
        Row(f"{name}, mTLS", "Inbound mTLS", metrics, closed_loop(f"{service}-mtls", run), name == "TCP small")
        for name, metrics, service, run in IN_A_MESH
    ]


def _two_hops_rows() -> list[Row]:
    return [
        Row(f"{name}, sidecar and egress", "Two hops", metrics, closed_loop(service, run, World.two_hops))
        for name, metrics, service, run in IN_A_MESH
    ]


def _latency_rows() -> list[Row]:
    rows = []
    for service, suffix in (("http", ""), ("http-tls", ", TLS")):
        for part in (0.5, 0.8):
            name = f"HTTP/1.1 at {part} of Envoy's peak{suffix}"
            quick = part == 0.5 and not suffix
            rows.append(Row(name, "Latency", LATENCY, latency(service, part), quick, direct=not suffix))
    return rows


ROWS: tuple[Row, ...] = (
    *_pair("TCP small", "TCP", REQUESTS, "tcp", wrk("/small"), "plain tls"),
    *_pair("TCP bulk", "TCP", BULK, "tcp", sink, "plain tls"),
    *_pair("HTTP/1.1 small", "HTTP/1.1", REQUESTS, "http", wrk("/small"), "plain tls"),
    *_pair("HTTP/1.1 16 KiB", "HTTP/1.1", REQUESTS, "http", wrk("/16k")),
    *_pair("HTTP/1.1 bulk", "HTTP/1.1", BULK, "http", sink),
    *_pair("HTTP/2 small", "HTTP/2", REQUESTS, "http2", h2load("/small"), "plain"),
    *_pair("HTTP/2 4 KiB", "HTTP/2", REQUESTS, "http2", h2load("/4k")),
    *_pair("HTTP/2 1 MiB", "HTTP/2", BULK, "http2", h2load_bytes("/1m", 1 << 20)),
    *_pair("gRPC unary", "gRPC", REQUESTS, "grpc", h2load_grpc, "plain"),
    *_pair("gRPC unary, grpcio", "gRPC", REQUESTS, "grpcio", grpcio("unary"), "plain"),
    *_pair("gRPC streaming, grpcio", "gRPC", MESSAGES, "grpcio", grpcio("stream")),
    Row("TCP", "New connections", CONNECTS, closed_loop("tcp", wrk("/small", close=True)), True, direct=True),
    Row("TCP, full TLS handshake", "New connections", CONNECTS, closed_loop("tcp-tls-full", wrk("/small", close=True)),
        True),
    Row("TCP, resumed TLS session", "New connections", CONNECTS, closed_loop("tcp-tls", wrk("/small", close=True))),
    *_mtls_rows(),
    *_two_hops_rows(),
    *_latency_rows(),
    Row("An idle connection, TCP", "Memory", PER_CONNECTION, idle_connections("tcp")),
    Row("An idle connection, TCP, TLS", "Memory", PER_CONNECTION, idle_connections("tcp-tls")),
    Row("An idle connection, HTTP/1.1", "Memory", PER_CONNECTION, idle_connections("http")),
    Row("256 busy connections, HTTP/1.1", "Memory", UNDER_LOAD, memory_under_load("http"), True),
    Row("256 busy connections, TCP, TLS", "Memory", UNDER_LOAD, memory_under_load("tcp-tls")),
    Row("1 service", "Number of services", MANY, many_services(1)),
    Row("100 services", "Number of services", MANY, many_services(100), True),
    Row("10,000 services", "Number of services", MANY, many_services(10_000)),
    Row("TCP small, two workers", "Workers", REQUESTS, closed_loop("tcp", wrk_for_two, two_workers),
        shares_cores=True),
    Row("HTTP/1.1 small, two workers", "Workers", REQUESTS, closed_loop("http", wrk_for_two, two_workers),
        shares_cores=True),
)  # fmt: skip
