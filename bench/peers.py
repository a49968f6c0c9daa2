"""The proxies that are compared, each configured as its own experts would for the same job, on one core.

A peer has four ports: TCP to the origin's plain port, TCP to verified TLS 1.3 to its TLS port, and both again with each
HTTP/1.1 request routed by itself over pooled connections.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a peer listens for each job: layer 4 to the plain and to the TLS origin, and HTTP/1.1 to both."""

    plain: int
    tls: int
    http: int
    https: int
    admin: int


@dataclass(frozen=True, slots=True)
class Origin:
    plain: int
    tls: int
    ca_file: Path


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    command: list[str]
    version: str


def koguma(folder: Path, ports: Ports, origin: Origin) -> Peer:
    resources = folder / "koguma.yaml"
    ca = origin.ca_file.read_text()
    services = [
        _service("plain", "tcp", origin.plain, None),
        _service("secure", "tcp", origin.tls, ca),
        _service("http", "http", origin.plain, None),
        _service("https", "http", origin.tls, ca),
    ]
    resources.write_text("\n---\n".join(json.dumps(service) for service in services))
    dataplane = folder / "dataplane.yaml"
    outbounds = [
        {"port": port, "backendRef": {"kind": "MeshExternalService", "name": name}}
        for port, name in (
            (ports.plain, "plain"),
            (ports.tls, "secure"),
            (ports.http, "http"),
            (ports.https, "https"),
        )
    ]
    networking = {"address": "127.0.0.1", "outbound": outbounds}
    dataplane.write_text(
        json.dumps({"type": "Dataplane", "mesh": "default", "name": "bench", "networking": networking})
    )
    command = [sys.executable, "-m", "proxy", "run", "-d", str(dataplane), "-r", str(resources)]
    return Peer("koguma", [*command, "--admin-port", str(ports.admin)], f"Python {sys.version.split()[0]}")


def _service(name: str, protocol: str, port: int, ca: str | None) -> dict[str, object]:
    spec: dict[str, object] = {
        "match": {"port": 80, "protocol": protocol},
        "endpoints": [{"address": "127.0.0.1", "port": port}],
    }
    if ca is not None:
        verification = {"serverName": "localhost", "caCert": {"inlineString": ca}}
        spec["tls"] = {"enabled": True, "version": {"min": "TLS13"}, "verification": verification}
    return {"type": "MeshExternalService", "mesh": "default", "name": name, "spec": spec}


def envoy(folder: Path, ports: Ports, origin: Origin) -> Peer | None:
    binary = shutil.which("envoy") or shutil.which("envoy", path=str(Path(sys.executable).parent))
    if binary is None:
        return None
    tls = {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": "localhost",
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
                "validation_context": {
                    "trusted_ca": {"filename": str(origin.ca_file)},
                    "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "localhost"}}],
                },
            },
        },
    }
    config = {
        "admin": {"address": _envoy_address(ports.admin)},
        "static_resources": {
            "listeners": [
                _envoy_listener("plain", ports.plain, _tcp_proxy("plain")),
                _envoy_listener("secure", ports.tls, _tcp_proxy("secure")),
                _envoy_listener("http", ports.http, _http_manager("plain")),
                _envoy_listener("https", ports.https, _http_manager("secure")),
            ],
            "clusters": [_envoy_cluster("plain", origin.plain), _envoy_cluster("secure", origin.tls, tls)],
        },
    }
    path = folder / "envoy.json"
    path.write_text(json.dumps(config))
    version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    return Peer("envoy", [binary, "-c", str(path), "--concurrency", "1", "-l", "error"], version.split("/")[1])


def _envoy_address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _envoy_listener(name: str, port: int, network_filter: dict[str, object]) -> dict[str, object]:
    return {"name": name, "address": _envoy_address(port), "filter_chains": [{"filters": [network_filter]}]}


def _tcp_proxy(cluster: str) -> dict[str, object]:
    kind = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
    return {
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {"@type": kind, "stat_prefix": cluster, "cluster": cluster},
    }


def _http_manager(cluster: str) -> dict[str, object]:
    """As Kuma configures it: no access log, one route, the request id generated."""
    prefix = "type.googleapis.com/envoy.extensions.filters."
    route = {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{prefix}network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": cluster,
            "http_filters": [
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": f"{prefix}http.router.v3.Router"},
                }
            ],
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        },
    }


def _envoy_cluster(name: str, port: int, transport_socket: dict[str, object] | None = None) -> dict[str, object]:
    endpoint = {"endpoint": {"address": _envoy_address(port)}}
    cluster: dict[str, object] = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    if transport_socket is not None:
        cluster["transport_socket"] = transport_socket
    return cluster


def haproxy(folder: Path, ports: Ports, origin: Origin) -> Peer | None:
    binary = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if binary is None:
        return None
    path = folder / "haproxy.cfg"
    verified = (
        f"ssl verify required ca-file {origin.ca_file} sni str(localhost) verifyhost localhost ssl-min-ver TLSv1.3"
    )
    path.write_text(
        textwrap.dedent(f"""\
        global
            nbthread 1
            maxconn 4096
        defaults
            mode tcp
            timeout connect 5s
            timeout client 1h
            timeout server 1h
        listen plain
            bind 127.0.0.1:{ports.plain}
            server origin 127.0.0.1:{origin.plain}
        listen secure
            bind 127.0.0.1:{ports.tls}
            server origin 127.0.0.1:{origin.tls} {verified}
        listen http
            mode http
            option http-keep-alive
            http-reuse always
            bind 127.0.0.1:{ports.http}
            server origin 127.0.0.1:{origin.plain}
        listen https
            mode http
            option http-keep-alive
            http-reuse always
            bind 127.0.0.1:{ports.https}
            server origin 127.0.0.1:{origin.tls} {verified}
        """)
    )
    version = subprocess.run([binary, "-v"], capture_output=True, text=True, check=True).stdout.split()[2]
    return Peer("haproxy", [binary, "-f", str(path), "-db"], version)


PEERS: dict[str, Callable[[Path, Ports, Origin], Peer | None]] = {
    "koguma": koguma,
    "envoy": envoy,
    "haproxy": haproxy,
}
