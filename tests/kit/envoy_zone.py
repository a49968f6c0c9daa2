"""Envoy as Kuma configures it for external services: a sidecar that leaves through a zone egress, and that egress.

The facts are those of Kuma's generators: at the egress TLS inspector and a filter chain for each server name, a client
certificate demanded and judged by the SPIFFE validator; at the sidecar ALPN ``kuma``, the workload's certificate, and
the egress's SPIFFE ID as the only name that will do.
"""

from __future__ import annotations

import json
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

from cryptography import x509

from tests.kit import poll
from tests.kit.ca import Authority, Identity
from tests.kit.ports import free_port
from tests.kit.program import Program
from tests.kit.zone import CA, TRUST_DOMAIN

BINARY = shutil.which("envoy") or shutil.which("envoy", path=str(Path(sys.executable).parent))

_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
_FILTERS = "type.googleapis.com/envoy.extensions.filters"
_VALIDATOR = "envoy.tls.cert_validator.spiffe"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

EXIT_ID = f"spiffe://{TRUST_DOMAIN}/workload/exit"
_SIGNS = x509.KeyUsage(
    digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
    key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
)  # fmt: skip
"""Envoy's SPIFFE validator takes no leaf without it."""


def svid(workload: str, authority: Authority = CA) -> Identity:
    return authority.leaf(f"spiffe://{TRUST_DOMAIN}/workload/{workload}", key_usage=_SIGNS)


class Envoy:
    """One Envoy with listeners and clusters, as a context manager."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._listeners: list[dict[str, Any]] = []
        self._clusters: list[dict[str, Any]] = []
        self._program: Program | None = None

    def outbound(
        self, name: str, protocol: str, egress_port: int, *, sni: str, identity: Identity, ca: Authority, egress_id: str
    ) -> int:
        """As a sidecar: a port that leads to a service through the egress."""
        port = free_port()
        context = {
            "common_tls_context": {
                **_certificate(identity),
                "alpn_protocols": ["kuma"],
                "validation_context": {
                    "trusted_ca": {"inline_string": ca.pem},
                    "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": egress_id}}],
                },
                "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
            },
            "sni": sni,
        }
        socket_ = {"name": "tls", "typed_config": {"@type": f"{_TLS}.UpstreamTlsContext", **context}}
        self._clusters.append(_cluster(name, protocol, [egress_port], socket_))
        self._listeners.append(_listener(f"out-{name}", port, [{"filters": _filters(name, protocol)}]))
        return port

    def egress(
        self, port: int, services: dict[str, tuple[str, str, int]], *, identity: Identity, ca: Authority, domain: str
    ) -> None:
        """As a zone egress: server name -> (cluster, protocol, port of the plaintext endpoint)."""
        validator = {
            "@type": f"{_TLS}.SPIFFECertValidatorConfig",
            "trust_domains": [{"name": domain, "trust_bundle": {"inline_string": ca.pem}}],
        }
        context = {
            "require_client_certificate": True,
            "common_tls_context": {
                **_certificate(identity),
                "validation_context": {"custom_validator_config": {"name": _VALIDATOR, "typed_config": validator}},
            },
        }
        chains = []
        for sni, (name, protocol, target) in services.items():
            self._clusters.append(_cluster(name, protocol, [target], None))
            chains.append(
                {
                    "filter_chain_match": {"transport_protocol": "tls", "server_names": [sni]},
                    "filters": _filters(name, protocol),
                    "transport_socket": {
                        "name": "tls",
                        "typed_config": {"@type": f"{_TLS}.DownstreamTlsContext", **context},
                    },
                }
            )
        inspector = {
            "name": "inspector",
            "typed_config": {"@type": f"{_FILTERS}.listener.tls_inspector.v3.TlsInspector"},
        }
        self._listeners.append({**_listener("egress", port, chains), "listener_filters": [inspector]})

    def __enter__(self) -> Envoy:
        assert BINARY is not None
        config = {
            "admin": {"address": _address(free_port())},
            "static_resources": {"listeners": self._listeners, "clusters": self._clusters},
        }
        file = self.directory / "envoy.json"
        file.write_text(json.dumps(config))
        command = [BINARY, "-c", str(file), "--concurrency", "1", "-l", "warning", "--disable-hot-restart"]
        self._program = Program(command, env={}, cwd=self.directory)
        for listener in self._listeners:
            port = listener["address"]["socket_address"]["port_value"]
            poll.until(lambda port=port: self._answers(port), f"Envoy on port {port}", within_s=20.0)
        return self

    def _answers(self, port: int) -> bool:
        assert self._program is not None
        assert self._program.is_running, self._program.describe()
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    def __exit__(self, *_: object) -> None:
        if self._program is not None:
            self._program.close()


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _certificate(identity: Identity) -> dict[str, Any]:
    chain, key = {"inline_string": identity.chain_pem}, {"inline_string": identity.key_pem}
    return {"tls_certificates": [{"certificate_chain": chain, "private_key": key}]}


def _listener(name: str, port: int, chains: list[dict[str, Any]]) -> dict[str, Any]:
    return {"name": name, "address": _address(port), "filter_chains": chains}


def _cluster(name: str, protocol: str, ports: list[int], socket_: dict[str, Any] | None) -> dict[str, Any]:
    endpoints = [{"endpoint": {"address": _address(port)}} for port in ports]
    cluster: dict[str, Any] = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    }
    if protocol != "tcp":
        options = "http_protocol_options" if protocol == "http" else "http2_protocol_options"
        cluster["typed_extension_protocol_options"] = {
            _HTTP_OPTIONS: {
                "@type": f"type.googleapis.com/{_HTTP_OPTIONS}",
                "explicit_http_config": {options: {}},
            }
        }
    if socket_ is not None:
        cluster["transport_socket"] = socket_
    return cluster


def _filters(cluster: str, protocol: str) -> list[dict[str, Any]]:
    if protocol == "tcp":
        proxy = {"@type": f"{_FILTERS}.network.tcp_proxy.v3.TcpProxy", "stat_prefix": cluster, "cluster": cluster}
        return [{"name": "tcp", "typed_config": proxy}]
    route = {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}
    manager = {
        "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": cluster,
        "internal_address_config": {},
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{_FILTERS}.http.router.v3.Router"}},
        ],
    }
    return [{"name": "http", "typed_config": manager}]
