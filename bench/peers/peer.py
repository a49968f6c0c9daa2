"""What is asked of a proxy, and what a proxy must be able to do to be compared: one subclass for each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from bench.mesh import Mesh


class Speaks(StrEnum):
    """What the proxy knows of the bytes: nothing (layer 4), or requests that it routes one by one."""

    TCP = "tcp"
    HTTP1 = "http"
    HTTP2 = "http2"
    GRPC = "grpc"


@dataclass(frozen=True, slots=True)
class Service:
    """One listener, and where it leads: plaintext in, and plaintext or verified TLS 1.3 out, to ``localhost``; or, with
    ``mtls``, TLS 1.3 in, from whoever presents a certificate of the mesh, and plaintext out; or, with a ``door``, mTLS
    between a sidecar and the zone egress at that port, and plaintext before and behind.
    """

    name: str
    speaks: Speaks
    tls: bool
    address: str
    port: int
    origin_port: int
    mtls: bool = False
    door: int = 0

    @property
    def is_http2(self) -> bool:
        return self.speaks in (Speaks.HTTP2, Speaks.GRPC)

    def moved(self, origin_port: int) -> Service:
        return replace(self, origin_port=origin_port)


RIVALS = Path(sys.prefix) / "rivals" / "bin"
"""Where ``make bench`` installs rivals that are Python programs, whose requirements may conflict with ours."""


def find_program(name: str) -> str | None:
    """Where a program is: beside this Python, among the rivals, or on the path."""
    return shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{RIVALS}") or shutil.which(name)


def installed(name: str) -> str:
    """As :func:`find_program`, of one whose version has been asked for."""
    path = find_program(name)
    assert path is not None
    return path


def version_words(program: str | None, *arguments: str) -> list[str] | None:
    """What it says of its version, in words; ``None`` where it is not installed."""
    if program is None:
        return None
    return subprocess.run([program, *arguments, "--version"], capture_output=True, text=True, check=True).stdout.split()


class Peer(ABC):
    """A proxy with its configuration, in a folder of its own. Access logs are off, upstream connections kept alive."""

    name: ClassVar[str]
    debian: ClassVar[str] = ""
    """The Debian package, where it is one."""

    demands_mtls: ClassVar[bool] = False
    """Whether it is configured here to accept mTLS."""

    hops: ClassVar[tuple[type[Peer], type[Peer]] | None] = None
    """It as a mesh's sidecar, and as the zone egress behind that."""

    is_slow: ClassVar[bool] = False
    """Whether it is three to a hundred times slower than the others, and spared what would take it minutes: it is
    warmed up with fewer requests, has fewer idle connections and one worker, and is asked for no part of Envoy's peak,
    nor by ``--quick``.
    """

    why_not_idle: ClassVar[str] = ""
    """Why it is not asked to hold idle connections; empty if it is."""

    def __init__(
        self, folder: Path, services: list[Service], ca_file: Path, mesh: Mesh, workers: int, admin_port: int
    ) -> None:
        self.folder = folder
        self.services = {service.name: service for service in services if not self.why_not(service)}
        self.ca_file = ca_file
        self.mesh = mesh
        self.workers = workers
        self.admin_port = admin_port

    @classmethod
    @abstractmethod
    def version(cls) -> str | None:
        """``None`` where it is not installed."""

    @classmethod
    def why_not(cls, service: Service) -> str:
        """Why it does not do this job; empty if it does."""
        if service.mtls and not cls.demands_mtls:
            return "is not compared as one that accepts mTLS"
        if service.door and cls.hops is None:
            return "is not compared as a mesh's sidecar and zone egress"
        return cls.cannot(service)

    @classmethod
    def cannot(cls, service: Service) -> str:
        """As :meth:`why_not`, of jobs outside a mesh."""
        return ""

    @abstractmethod
    def configure(self) -> list[str]:
        """Writes its configuration and returns the command to run."""

    def prepare(self, service: Service) -> Callable[[], None] | None:
        """What puts a service's new origin into force, in the quickest way that it offers, while it runs as ``pid``.

        ``None`` where only a restart does.
        """
        return None

    pid: int = 0
    """Once it runs."""

    def log_file(self) -> Path:
        return self.folder / "log"
