"""A tiny DNS server on loopback with a zone that the test may change while it runs.

with DnsServer({"api.example.test": ["127.0.0.1"]}, ttl_s=1) as dns:
    Koguma(tmp_path, args=["--dns-upstream", dns.address])
    dns.zone["api.example.test"] = ["127.0.0.2"]
"""

from __future__ import annotations

import socketserver
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from types import TracebackType
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

JOIN_S = 10.0


class DnsServer:
    """Answers A and AAAA over UDP from ``zone``, and SRV from ``services`` (``"0 0 443 api.example.test."``); names are
    without the trailing dot. A name that is not there is NXDOMAIN; ``failing`` makes every answer SERVFAIL. ``asked``
    counts the questions by name.
    """

    def __init__(self, zone: Mapping[str, Sequence[str]], *, ttl_s: int = 30) -> None:
        self.zone = dict(zone)
        self.services: dict[str, list[str]] = {}
        self.ttl_s = ttl_s
        self.failing = False
        self.asked: Counter[str] = Counter()
        answer = self._answer

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                question, sock = self.request
                sock.sendto(answer(question), self.client_address)

        self._server = socketserver.UDPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="dns server", daemon=True
        )
        self._thread.start()

    @property
    def address(self) -> str:
        """``127.0.0.1:PORT``, as ``--dns-upstream`` takes it."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(JOIN_S)
        self._server.server_close()

    def __enter__(self) -> DnsServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self, wire: bytes) -> bytes:
        query: Any = dns.message.from_wire(wire)
        response: Any = dns.message.make_response(query)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        self.asked[name] += 1
        if self.failing:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif name in self.services:
            if question.rdtype == dns.rdatatype.SRV:
                records = self.services[name]
                response.answer.append(dns.rrset.from_text(question.name, self.ttl_s, "IN", "SRV", *records))
        elif name not in self.zone:
            response.set_rcode(dns.rcode.NXDOMAIN)
        else:
            version = 6 if question.rdtype == dns.rdatatype.AAAA else 4
            texts = [text for text in self.zone[name] if ip_address(text).version == version]
            if texts and question.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
                response.answer.append(dns.rrset.from_text(question.name, self.ttl_s, "IN", question.rdtype, *texts))
        return bytes(response.to_wire())
