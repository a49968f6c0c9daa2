"""``/certs``: the certificates in force, and what the other expiry figures are made of.

Ten thousand services commonly share a handful of bundles: each bundle is parsed once and remembered.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Literal

from config.plan import ClusterPlan, Plan
from proxy.admin.context import AdminContext
from proxy.admin.http import SLICE, Request, Response, json_response
from proxy.balance import Endpoint
from tls.material import CertificateFacts, describe_certificate
from tls.policy import ClientCertificate, TrustAnchors

Role = Literal["ca", "client", "peer_leaf"]

NO_CERTIFICATE = 0xFFFF_FFFF
"""What Envoy shows in ``server.days_until_first_cert_expiring`` when there is nothing to expire."""

_END = b"-----END CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class Expiry:
    """The certificate of one service that expires first among those of one role."""

    mesh: str
    service: str
    role: Role
    subject: str
    not_after: datetime


def view(context: AdminContext, request: Request) -> Response:
    """Envoy's shape, an entry for each distinct pair of anchors and client certificate; ``peers`` is ours: the leaf
    with which each endpoint was last verified, ``identity`` what inbounds present, ``trust`` by what they judge their
    peers.
    """
    now = context.utc_now()
    seen: set[tuple[str, str]] = set()
    certificates: list[dict[str, object]] = []
    for plan in _plans(context):
        anchors, client = _material(plan)
        key = (anchors.digest if anchors else "", client.digest if client else "")
        if key in seen or key == ("", ""):
            continue
        seen.add(key)
        certificates.append(
            {
                "ca_cert": [_as_json(one, anchors.source, now) for one in facts(anchors.pem)] if anchors else [],
                "cert_chain": [_as_json(one, client.source, now) for one in facts(client.chain_pem)] if client else [],
            }
        )
    peers = [
        {"cluster": cluster.plan.name, "endpoint": endpoint_text(endpoint)} | _as_json(endpoint.peer, "", now)
        for cluster in context.runtime.clusters.values()
        for endpoint in cluster.balancer
        if endpoint.peer is not None
    ]
    running = context.runtime.plan
    ours = {"trust": _trust(running, now), "identity": _identity(running, now)}
    return json_response({"certificates": certificates, "peers": peers} | ours)


def _trust(plan: Plan, now: datetime) -> list[dict[str, object]]:
    return [
        {
            "trust_domain": name,
            "generation": plan.trust_generations.get(name, 0),
            "expiration_time": _iso(bundle.expires),
            "ca_cert": [_as_json(one, ", ".join(bundle.sources), now) for one in bundle.certificates],
        }
        for name, bundle in plan.trust.by_domain.items()
    ]


def _identity(plan: Plan, now: datetime) -> dict[str, object] | None:
    identity = plan.identity
    if identity is None:
        return None
    acceptances = (listener.acceptance for listener in plan.listeners.values())
    pair = next((one.identity for one in acceptances if one is not None), None)
    return {
        "spiffe_id": identity.id,
        "resource": identity.resource,
        "renewal_time": _iso(identity.renew_at),
        "fault": identity.fault or None,
        "cert_chain": [_as_json(one, pair.source, now) for one in facts(pair.chain_pem)] if pair is not None else [],
    }


def endpoint_text(endpoint: Endpoint) -> str:
    """As Envoy prints it: ``ip:port``, ``[ip]:port``, or the bare path of a unix socket."""
    return endpoint.where.removeprefix("unix://")


@lru_cache(maxsize=64)
def facts(pem: bytes) -> tuple[CertificateFacts, ...]:
    """The certificates of normalised PEM, in order."""
    blocks = (block + _END for block in pem.split(_END)[:-1])
    return tuple(describe_certificate(ssl.PEM_cert_to_DER_cert(block.decode("ascii").strip())) for block in blocks)


async def expiries(context: AdminContext) -> list[Expiry]:
    """Of each service: the anchor, the client certificate and the peer's leaf that expire first. The system's own
    bundle is left out: it always has something that is about to expire, and it is not the user's to renew.
    """
    found: list[Expiry] = []
    for number, cluster in enumerate(tuple(context.runtime.clusters.values()), start=1):
        plan = cluster.plan
        anchors, client = _material(plan)
        if anchors is not None and not is_system(anchors):
            found += _first(plan, "ca", iter(facts(anchors.pem)))
        if client is not None:
            found += _first(plan, "client", iter(facts(client.chain_pem)))
        found += _first(plan, "peer_leaf", (one.peer for one in cluster.balancer if one.peer is not None))
        if number % SLICE == 0:
            await asyncio.sleep(0)
    return found


async def days_until_first_expiry(context: AdminContext) -> int:
    """Of our own certificates and of the anchors that the user gave; 0 once one is expired. The identity's certificate
    is left out: it is renewed without anybody's help.
    """
    moments = [expiry.not_after for expiry in await expiries(context) if expiry.role != "peer_leaf"]
    bundles = context.runtime.plan.trust.by_domain.values()
    moments += [one.not_after for bundle in bundles for one in bundle.certificates if one.not_after is not None]
    return _days(min(moments), context.utc_now()) if moments else NO_CERTIFICATE


def is_system(anchors: TrustAnchors) -> bool:
    """Whether they are the system's bundle, which :func:`tls.material.load_system_anchors` marks by its source."""
    return anchors.source.startswith("system (")


def _plans(context: AdminContext) -> Iterator[ClusterPlan]:
    return (cluster.plan for cluster in context.runtime.clusters.values())


def _material(plan: ClusterPlan) -> tuple[TrustAnchors | None, ClientCertificate | None]:
    return (plan.tls.anchors, plan.tls.client) if plan.tls is not None else (None, None)


def _first(plan: ClusterPlan, role: Role, certificates: Iterator[CertificateFacts]) -> list[Expiry]:
    dated = ((one.not_after, one.subject) for one in certificates if one.not_after is not None)
    first = min(dated, default=None)
    return [] if first is None else [Expiry(plan.mesh, plan.service, role, first[1], first[0])]


def _days(moment: datetime, now: datetime) -> int:
    return max(0, (moment - now).days)


def _as_json(certificate: CertificateFacts, path: str, now: datetime) -> dict[str, object]:
    """``envoy.admin.v3.CertificateDetails``, with the subject and the digest beside it."""
    kinds = {"DNS": "dns", "URI": "uri", "IP": "ip_address"}
    names = [name.partition(":") for name in certificate.sans]
    since, until = certificate.not_before, certificate.not_after
    return {
        "path": path,
        "serial_number": certificate.serial,
        "subject_alt_names": [{kinds[kind]: value} for kind, _, value in names],
        "days_until_expiration": str(_days(until, now)) if until is not None else "0",
        "valid_from": _iso(since),
        "expiration_time": _iso(until),
        "subject": certificate.subject,
        "sha256": certificate.sha256,
    }


def _iso(moment: datetime | None) -> str | None:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment is not None else None
