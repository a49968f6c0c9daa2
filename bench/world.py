"""What runs while a row is measured: the origin, every proxy on the proxy's core, and for some a proxy of its own.

All proxies stay up together: an idle one costs nothing, and a row can go A B C A B C without starting anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench import load, mesh, origin
from bench.machine import Cores
from bench.peers import Peer, Service, Speaks
from bench.process import accepts, cpu_seconds, free_port, running
from bench.results import DIRECT

TWO_HOPS = ("tcp", "http", "http2")
"""The kinds of service that a sidecar and an egress are asked for."""


class CannotDoError(Exception):
    """A proxy, or this machine, does not do what a row is about; says why."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Something to put load on: a proxy that runs, a sidecar and an egress, or the origin itself, which is no process
    to be measured.
    """

    name: str
    ports: dict[str, int]
    why_not: dict[str, str]
    pids: tuple[int, ...]

    @property
    def cpu_seconds(self) -> float:
        return sum(map(cpu_seconds, self.pids))

    def port(self, service: str) -> int:
        """Raises :class:`CannotDoError` if this is not a service of it."""
        if service not in self.ports:
            raise CannotDoError(self.why_not.get(service, "the load does not speak TLS"))
        return self.ports[service]


class World:
    """``seconds``: how long a run puts load on. ``keep``: where configurations and logs stay, else they are removed."""

    def __init__(
        self, stack: ExitStack, folder: Path, cores: Cores, peers: dict[str, type[Peer]], seconds: float
    ) -> None:
        self.cores = cores
        self.peers = peers
        self.seconds = seconds
        self.commands: dict[str, str] = {}
        self._stack = stack
        self._folder = folder
        self._instances = 0
        self._running: dict[tuple[str, int], Subject] = {}
        self._in_zones: dict[str, Subject] = {}
        self._peaks: dict[str, float] = {}
        self._warm: set[tuple[str, int]] = set()
        self.mesh = mesh.make(folder)
        self.origin = stack.enter_context(origin.start(folder, cores.load))

    def services(self) -> list[Service]:
        """One of each kind; those named ``full`` lead to an origin that resumes no session."""
        at = self.origin
        kinds = (
            ("tcp", Speaks.TCP, False, at.plain),
            ("tcp-tls", Speaks.TCP, True, at.tls),
            ("tcp-tls-full", Speaks.TCP, True, at.tls_full),
            ("http", Speaks.HTTP1, False, at.plain),
            ("http-tls", Speaks.HTTP1, True, at.tls),
            ("http2", Speaks.HTTP2, False, at.h2),
            ("http2-tls", Speaks.HTTP2, True, at.h2_tls),
            ("grpc", Speaks.GRPC, False, at.h2),
            ("grpc-tls", Speaks.GRPC, True, at.h2_tls),
            ("grpcio", Speaks.GRPC, False, at.grpc),
            ("grpcio-tls", Speaks.GRPC, True, at.grpc_tls),
        )
        ours = [Service(name, speaks, tls, "127.0.0.1", free_port(), port) for name, speaks, tls, port in kinds]
        inbounds = (("tcp-mtls", Speaks.TCP, at.plain), ("http-mtls", Speaks.HTTP1, at.plain),
                    ("http2-mtls", Speaks.HTTP2, at.h2))  # fmt: skip
        ours += (Service(name, speaks, False, "127.0.0.1", free_port(), port, True) for name, speaks, port in inbounds)
        return ours

    def subject(self, name: str, workers: int = 1) -> Subject:
        """The proxy of that name (or :data:`DIRECT`), started on first use, with every kind of service."""
        key = (name, workers)
        if key not in self._running:
            services = self.services()
            if name == DIRECT:
                ports = {service.name: service.origin_port for service in services if not (service.tls or service.mtls)}
                self._running[key] = Subject(name, ports, {}, ())
            else:
                if workers > 1 and self.is_slow(name):
                    raise CannotDoError("is compared with one worker only")
                cores = self.cores.proxy if workers == 1 else self.cores.two_workers
                peer = self._stack.enter_context(
                    self.instance(self.peers[name], services, cores=cores, workers=workers)
                )
                why_not = {service.name: reason for service in services if (reason := peer.why_not(service))}
                ports = {service.name: service.port for service in peer.services.values()}
                inbounds = [service for service in peer.services.values() if service.mtls]
                if inbounds:
                    callers = mesh.calling(self.mesh, inbounds, peer.folder, self.cores.load)
                    ports |= self._stack.enter_context(callers)
                self._running[key] = Subject(name, ports, why_not, (peer.pid,))
        return self._running[key]

    def two_hops(self, name: str) -> Subject:
        """A sidecar, and the zone egress through which it leaves, both of that name, started on first use."""
        if name not in self._in_zones:
            door = free_port()
            services = [replace(service, door=door) for service in self.services() if service.name in TWO_HOPS]
            hops = self.peers[name].hops
            if hops is None:
                raise CannotDoError(self.peers[name].why_not(services[0]))
            sidecar, egress = hops
            behind = self._stack.enter_context(self.instance(egress, services, is_ready=lambda: accepts(door)))
            before = self._stack.enter_context(self.instance(sidecar, services))
            ports = {service.name: service.port for service in services}
            self._in_zones[name] = Subject(name, ports, {}, (before.pid, behind.pid))
        return self._in_zones[name]

    @contextmanager
    def instance(
        self,
        kind: type[Peer],
        services: list[Service],
        *,
        cores: Set[int] | None = None,
        workers: int = 1,
        is_ready: Callable[[], bool] | None = None,
        within_s: float = 20.0,
    ) -> Iterator[Peer]:
        """A proxy configured and ready: every service accepts, unless ``is_ready`` asks for something else."""
        self._instances += 1
        folder = self._folder / f"{self._instances}-{kind.name}"
        folder.mkdir()
        peer = kind(folder, services, self.origin.ca_file, self.mesh, workers, free_port())
        command = peer.configure()
        if workers == 1:
            words = [Path(command[0]).name, *command[1:]]
            text = " ".join(words).replace(str(folder), ".").replace(str(self._folder), "..")
            self.commands.setdefault(kind.name, text)
        ports = [(service.port, service.address) for service in peer.services.values()]
        ready = is_ready or (lambda: all(accepts(*port) for port in ports))
        with running(command, cores or self.cores.proxy, ready, peer.log_file(), within_s=within_s) as process:
            peer.pid = process.pid
            yield peer

    def is_slow(self, name: str) -> bool:
        return name != DIRECT and self.peers[name].is_slow

    def warm_up(self, subject: Subject, service: str) -> int:
        """The port of a service, once some requests went through it; grpcio's clients bring a warm-up of their own."""
        port = subject.port(service)
        if (service, port) not in self._warm and not service.startswith("grpcio"):
            requests = load.SLOW_WARM_UP_REQUESTS if self.is_slow(subject.name) else load.WARM_UP_REQUESTS
            load.warm_up(port, self.cores.load, requests, http2=service.startswith(("http2", "grpc")))
            self._warm.add((service, port))
        return port

    def peak(self, service: str) -> float:
        """Envoy's requests per second, measured once. Raises :class:`CannotDoError` where Envoy does not take part."""
        if service not in self._peaks:
            if "envoy" not in self.peers:
                raise CannotDoError("the rate is a part of Envoy's peak, and Envoy does not take part")
            port = self.warm_up(self.subject("envoy"), service)
            self._peaks[service] = load.wrk(port, "/small", self.seconds, self.cores.load).rate
        return self._peaks[service]
