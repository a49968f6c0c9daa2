"""mTLS in the mesh: a trust domain with a CA, who the proxies and their callers are, and the callers themselves.

wrk and h2load present no certificate, so a HAProxy on the load's core does it for them, at layer 4: each of their
connections comes out as one with mTLS. Its cost is the load's; the proxy's CPU is its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bench.origin import find
from bench.process import accepts, free_port, running
from tls.identity import generate_authority, issue
from tls.spiffe import SpiffeId

if TYPE_CHECKING:
    from bench.peers.peer import Service

TRUST_DOMAIN = "bench"
APP, EXIT = "app", "exit"
"""The workloads of a sidecar and of a zone egress."""
LIFE = timedelta(days=1)
MATCH_PORT = 80
"""``spec.match.port`` of services behind an egress."""

CALLER = """\
global
    nbthread 1
    maxconn 8192
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
"""


@dataclass(frozen=True, slots=True)
class Mesh:
    """PEM files; the certificates lie in one file with their keys."""

    ca_file: Path
    ca_key_file: Path
    proxy_file: Path
    caller_file: Path
    app_file: Path
    exit_file: Path


def make(folder: Path) -> Mesh:
    now = datetime.now(UTC)
    authority = generate_authority(TRUST_DOMAIN, now)
    names = ("mesh-ca.pem", "mesh-ca.key", "proxy.pem", "caller.pem", "app.pem", "exit.pem")
    mesh = Mesh(*(folder / name for name in names))
    mesh.ca_file.write_text(authority.bundle_pem)
    mesh.ca_key_file.write_bytes(authority.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    for file, path in (
        (mesh.proxy_file, "/proxy"),
        (mesh.caller_file, "/caller"),
        (mesh.app_file, _path(APP)),
        (mesh.exit_file, _path(EXIT)),
    ):
        pair = issue(authority, SpiffeId(TRUST_DOMAIN, path), LIFE, now).pair
        file.write_bytes(pair.chain_pem + pair.key_pem)
    return mesh


def _path(workload: str) -> str:
    """Kuma's default: ``MeshIdentity``, ``spec.spiffeID.path``."""
    return f"/workload/{workload}"


EXIT_ID = f"spiffe://{TRUST_DOMAIN}{_path(EXIT)}"


def server_name(service: Service) -> str:
    """By which a zone egress knows a service, where the mesh and the zone are named ``default``."""
    return f"sni.extsvc.default.default.{service.name}.{MATCH_PORT}"


@contextmanager
def calling(mesh: Mesh, services: Iterable[Service], folder: Path, cores: Set[int]) -> Iterator[dict[str, int]]:
    """The port that leads to each of these services, by name."""
    ports = {service.name: free_port() for service in services}
    sections = [CALLER]
    for service in services:
        server = f"server proxy 127.0.0.1:{service.port} ssl verify required ca-file {mesh.ca_file}"
        server += f" crt {mesh.caller_file} ssl-min-ver TLSv1.3" + (" alpn h2" if service.is_http2 else "")
        sections.append(f"listen {service.name}\n    bind 127.0.0.1:{ports[service.name]}\n    {server}\n")
    config = folder / "caller.cfg"
    config.write_text("\n".join(sections))
    command = [find("haproxy"), "-f", str(config), "-db"]
    with running(command, cores, lambda: all(map(accepts, ports.values())), folder / "caller.log"):
        yield ports
