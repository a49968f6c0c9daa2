"""The proxies that are compared, each configured as its own experts would for the same job."""

from __future__ import annotations

from bench.peers.envoy import Envoy
from bench.peers.haproxy import HAProxy
from bench.peers.koguma import Koguma
from bench.peers.mitmproxy import Mitmproxy
from bench.peers.nginx import Nginx
from bench.peers.peer import Peer, Service, Speaks
from bench.peers.pproxy import Pproxy
from bench.peers.proxypy import ProxyPy

PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (Koguma, Envoy, HAProxy, Nginx, Mitmproxy, Pproxy, ProxyPy)}

__all__ = ["PEERS", "Envoy", "Peer", "Service", "Speaks"]
