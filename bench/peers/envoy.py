"""Envoy, as Kuma configures it where that matters: a listener and a cluster for each service, clusters discovered.

Clusters come from a file that Envoy watches (filesystem xDS): its way to a change without a control plane. One file
for each cluster's endpoints would be a smaller change, but takes an inotify instance each, of which the kernel gives
128 to a user. Envoy's TLS client stops at 1.2 unless told otherwise; here everybody speaks 1.3.

As a sidecar it leaves with ALPN ``kuma``, the workload's certificate, and the egress's SPIFFE ID as the only name that
will do. As a zone egress it has a TLS inspector, and a filter chain for each server name, a client certificate demanded
and judged by the SPIFFE validator; the RBAC filter by which Kuma permits traffic is left out, to its advantage.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.mesh import EXIT_ID, TRUST_DOMAIN, server_name
from bench.peers.peer import Peer, Service, Speaks, find_program, installed, version_words

EXTENSIONS = "type.googleapis.com/envoy.extensions"
CLUSTERS = "clusters.json"
Json = dict[str, Any]


class Envoy(Peer):
    name = "envoy"
    demands_mtls = True

    @classmethod
    def version(cls) -> str | None:
        words = version_words(find_program("envoy"))
        return words[2].split("/")[1] if words is not None else None

    def configure(self) -> list[str]:
        clusters = self._write_clusters(CLUSTERS)
        source = {"resource_api_version": "V3", "path_config_source": {"path": str(clusters)}}
        config = {
            "node": {"id": "bench", "cluster": "bench"},
            "admin": {"address": _address("127.0.0.1", self.admin_port)},
            "dynamic_resources": {"cds_config": source},
            "static_resources": {"listeners": self._listeners()},
        }
        path = self.folder / "envoy.json"
        path.write_text(json.dumps(config))
        return [
            installed("envoy"),
            "-c",
            str(path),
            "--concurrency",
            str(self.workers),
            "--use-dynamic-base-id",
            "-l",
            "error",
        ]

    def prepare(self, service: Service) -> Callable[[], None]:
        self.services[service.name] = service
        new = self._write_clusters("new")

        def put() -> None:
            new.rename(self.folder / CLUSTERS)  # a move into its place is what Envoy watches for

        return put

    def _write_clusters(self, name: str) -> Path:
        clusters = [self._cluster(service) for service in self.services.values()]
        path = self.folder / name
        path.write_text(json.dumps({"resources": clusters}))
        return path

    def _cluster(self, service: Service) -> Json:
        endpoint = {"endpoint": {"address": _address("127.0.0.1", self._upstream_port(service))}}
        cluster: Json = {
            "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            "name": service.name,
            "type": "STATIC",
            "connect_timeout": "5s",
            "load_assignment": {"cluster_name": service.name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        }
        if service.is_http2:
            cluster["typed_extension_protocol_options"] = {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": f"{EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": {"http2_protocol_options": {}},
                }
            }
        tls = self._upstream_tls(service)
        if tls is not None:
            cluster["transport_socket"] = _upstream_socket(tls)
        return cluster

    def _upstream_port(self, service: Service) -> int:
        return service.origin_port

    def _listeners(self) -> list[Json]:
        return [self._listener(service) for service in self.services.values()]

    def _listener(self, service: Service) -> Json:
        chain: Json = {"filters": [_network_filter(service)]}
        if service.mtls:
            chain["transport_socket"] = self._mtls(self.mesh.proxy_file)
        return {"name": service.name, "address": _address(service.address, service.port), "filter_chains": [chain]}

    def _mtls(self, identity_file: Path) -> Json:
        """As Kuma has it: a client certificate is demanded, judged by SPIFFE trust domain; no ALPN."""
        identity = {"filename": str(identity_file)}
        judge = {
            "@type": f"{EXTENSIONS}.transport_sockets.tls.v3.SPIFFECertValidatorConfig",
            "trust_domains": [{"name": TRUST_DOMAIN, "trust_bundle": {"filename": str(self.mesh.ca_file)}}],
        }
        config = {
            "@type": f"{EXTENSIONS}.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": True,
            "common_tls_context": {
                "tls_params": _TLS_1_3,
                "tls_certificates": [{"certificate_chain": identity, "private_key": identity}],
                "validation_context": {
                    "custom_validator_config": {"name": "envoy.tls.cert_validator.spiffe", "typed_config": judge}
                },
            },
        }
        return {"name": "envoy.transport_sockets.tls", "typed_config": config}

    def _upstream_tls(self, service: Service) -> Json | None:
        """The server name, and what it is verified by; ``None`` for plaintext."""
        if not service.tls:
            return None
        context = {"tls_params": _TLS_1_3, "validation_context": _verify(self.ca_file, "DNS", "localhost")}
        alpn = {"alpn_protocols": ["h2"]} if service.is_http2 else {}
        return {"sni": "localhost", "common_tls_context": {**context, **alpn}}


class EnvoySidecar(Envoy):
    name = "envoy-sidecar"

    def _upstream_port(self, service: Service) -> int:
        return service.door

    def _upstream_tls(self, service: Service) -> Json:
        identity = {"filename": str(self.mesh.app_file)}
        context = {
            "tls_params": _TLS_1_3,
            "alpn_protocols": ["kuma"],
            "tls_certificates": [{"certificate_chain": identity, "private_key": identity}],
            "validation_context": _verify(self.mesh.ca_file, "URI", EXIT_ID),
        }
        return {"sni": server_name(service), "common_tls_context": context}


class EnvoyEgress(Envoy):
    name = "envoy-egress"

    def _listeners(self) -> list[Json]:
        (door,) = {service.door for service in self.services.values()}
        chains = [
            {
                "filter_chain_match": {"transport_protocol": "tls", "server_names": [server_name(service)]},
                "filters": [_network_filter(service)],
                "transport_socket": self._mtls(self.mesh.exit_file),
            }
            for service in self.services.values()
        ]
        inspector = {
            "name": "envoy.filters.listener.tls_inspector",
            "typed_config": {"@type": f"{EXTENSIONS}.filters.listener.tls_inspector.v3.TlsInspector"},
        }
        address = _address("127.0.0.1", door)
        return [{"name": "egress", "address": address, "listener_filters": [inspector], "filter_chains": chains}]


Envoy.hops = (EnvoySidecar, EnvoyEgress)

_TLS_1_3: Json = {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}


def _verify(ca_file: Path, kind: str, name: str) -> Json:
    names = [{"san_type": kind, "matcher": {"exact": name}}]
    return {"trusted_ca": {"filename": str(ca_file)}, "match_typed_subject_alt_names": names}


def _upstream_socket(tls: Json) -> Json:
    config = {"@type": f"{EXTENSIONS}.transport_sockets.tls.v3.UpstreamTlsContext", **tls}
    return {"name": "envoy.transport_sockets.tls", "typed_config": config}


def _network_filter(service: Service) -> Json:
    return _tcp_proxy(service) if service.speaks is Speaks.TCP else _http_manager(service)


def _address(address: str, port: int) -> Json:
    return {"socket_address": {"address": address, "port_value": port}}


def _tcp_proxy(service: Service) -> Json:
    config = {
        "@type": f"{EXTENSIONS}.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": service.name,
        "cluster": service.name,
    }
    return {"name": "envoy.filters.network.tcp_proxy", "typed_config": config}


_FORWARD_CALLER: Json = {
    "forward_client_cert_details": "SANITIZE_SET",
    "set_current_client_cert_details": {"uri": True},
}


def _http_manager(service: Service) -> Json:
    """One route, the request id generated, no access log."""
    route = {"match": {"prefix": "/"}, "route": {"cluster": service.name, "timeout": "0s"}}
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": f"{EXTENSIONS}.filters.http.router.v3.Router"},
    }
    config = {
        "@type": f"{EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": service.name,
        "http_filters": [router],
        **(_FORWARD_CALLER if service.mtls else {}),
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}],
            "validate_clusters": False,  # they come later
        },
    }
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": config}
