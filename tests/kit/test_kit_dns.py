"""The DNS server answers from its zone, and the zone may change."""

from __future__ import annotations

import dns.exception
import dns.resolver
import pytest

from tests.kit.dns import DnsServer


def resolver(server: DnsServer) -> dns.resolver.Resolver:
    ours = dns.resolver.Resolver(configure=False)
    host, port = server.address.split(":")
    ours.nameservers = [host]
    ours.port = int(port)
    ours.lifetime = 2
    return ours


def addresses(server: DnsServer, name: str, rdtype: str = "A") -> list[str]:
    return sorted(record.to_text() for record in resolver(server).resolve(name, rdtype))


def test_answers_follow_the_zone() -> None:
    with DnsServer({"api.example.test": ["127.0.0.2", "127.0.0.3", "::1"]}, ttl_s=7) as server:
        assert addresses(server, "api.example.test") == ["127.0.0.2", "127.0.0.3"]
        assert addresses(server, "API.example.test", "AAAA") == ["::1"]
        answer = resolver(server).resolve("api.example.test", "A")
        assert answer.rrset is not None
        assert answer.rrset.ttl == 7
        server.zone["api.example.test"] = ["127.0.0.4"]
        assert addresses(server, "api.example.test") == ["127.0.0.4"]
        assert server.asked["api.example.test"] == 4


def test_absent_names_and_failures() -> None:
    with DnsServer({"v4.example.test": ["127.0.0.1"]}) as server:
        with pytest.raises(dns.resolver.NXDOMAIN):
            addresses(server, "absent.example.test")
        with pytest.raises(dns.resolver.NoAnswer):
            addresses(server, "v4.example.test", "AAAA")
        server.failing = True
        with pytest.raises(dns.exception.DNSException):
            addresses(server, "v4.example.test")
