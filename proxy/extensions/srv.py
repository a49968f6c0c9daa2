"""``type: srv``: the endpoints of a service from a DNS SRV record (RFC 2782), asked again when its TTL is over.

    extension:
      type: srv
      config:
        name: _ldap._tcp.example.com
        tls: {enabled: true}          # optional, as spec.tls

Priorities of the record become priorities of the endpoints, in their order; weights are not looked at. Targets are
names, which the proxy resolves and verifies as if they stood in the resource. No record, or a target of ``.``, is a
failure: what was known last stays.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype

from proxy.dnsquery import describe, exchange
from proxy.extensions.api import Context
from proxy.lookup import ask_in_turn
from proxy.resolution import Kind, Nameserver, ResolutionError

MIN_TTL_S = 5.0
MAX_TTL_S = 300.0
JITTER = 0.05
TRY_TIMEOUT_S = 2.0
TOTAL_TIMEOUT_S = 8.0
MAX_LEVELS = 128
"""Of priority, as a resource may have."""


class SrvDiscovery:
    def validate(self, config: Any) -> Iterator[str]:
        if not isinstance(config, dict):
            yield "must be an object with a name"
            return
        for key in config.keys() - {"name", "tls"}:
            yield f'unknown field "{key}"'
        name = config.get("name")
        if not isinstance(name, str) or not name:
            yield "name: must be the name of an SRV record"
        else:
            try:
                dns.name.from_text(name)
            except (dns.exception.DNSException, UnicodeError) as exc:
                yield f"name: is not a DNS name: {exc}"
        if not isinstance(config.get("tls"), dict | None):
            yield "tls: must be an object"

    async def watch(self, context: Context) -> None:
        name, tls = dns.name.from_text(context.config["name"]), context.config.get("tls")
        loop, rng = asyncio.get_running_loop(), random.Random()
        while True:
            deadline = loop.time() + TOTAL_TIMEOUT_S
            endpoints, ttl_s = await ask_in_turn(
                context.nameservers(),
                lambda server: _ask(server, name),
                lambda server: describe(name, dns.rdatatype.SRV, server),
                clock=loop.time,
                deadline=deadline,
                try_timeout_s=TRY_TIMEOUT_S,
            )
            context.publish(endpoints, tls)
            await asyncio.sleep(min(max(ttl_s, MIN_TTL_S), MAX_TTL_S) * rng.uniform(1 - JITTER, 1 + JITTER))


async def _ask(server: Nameserver, name: dns.name.Name) -> tuple[list[dict[str, Any]], float]:
    """The endpoints, in an order that does not depend on that of the answer, and the TTL in seconds."""
    question = describe(name, dns.rdatatype.SRV, server)
    reply = await exchange(server, dns.message.make_query(name, dns.rdatatype.SRV), question)
    if reply.rcode() == dns.rcode.NXDOMAIN:
        raise ResolutionError(Kind.NXDOMAIN, f"{question}: no such name")
    if reply.rcode() != dns.rcode.NOERROR:
        raise ResolutionError(Kind.SERVFAIL, f"{question}: {dns.rcode.to_text(reply.rcode())}")
    try:
        chain = reply.resolve_chaining()
    except dns.exception.DNSException as exc:
        raise ResolutionError(Kind.MALFORMED, f"{question}: malformed answer: {exc}") from exc
    records = [record for record in chain.answer or () if record.target != dns.name.root]
    if not records:
        raise ResolutionError(Kind.NO_DATA, f"{question}: the service is not offered there")
    levels = {priority: level for level, priority in enumerate(sorted({record.priority for record in records}))}
    found = {
        (min(levels[record.priority], MAX_LEVELS), record.target.to_text(omit_final_dot=True), record.port)
        for record in records
    }
    endpoints = [{"address": address, "port": port, "priority": level} for level, address, port in sorted(found)]
    return endpoints, float(chain.minimum_ttl)
