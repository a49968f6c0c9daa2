"""An inbound with mTLS inside the test process: a listener before an application, and peers with certificates."""

from __future__ import annotations

import socket
import ssl
from dataclasses import replace

from tests.kit.ca import Authority, Identity
from tests.proxy.rig import Rig
from tests.tls.duet import V13, client_certificate
from tests.tls.inbound import INBOUND, bundle, client_context
from tls.acceptance import Acceptance, InboundMode
from tls.bundles import TrustBundles
from tls.permissions import IdMatch, Permissions
from tls.policy import MatchType

A, B = Authority.root("A"), Authority.root("B")
GOOD = A.leaf("spiffe://a/x")
FOREIGN = B.leaf("spiffe://a/x")
ACCEPTANCE = Acceptance(client_certificate(INBOUND), TrustBundles.of([bundle("a", A), bundle("b", B)]))
PERMISSIVE = replace(ACCEPTANCE, mode=InboundMode.PERMISSIVE)


class Inbound(Rig):
    """A listener that demands mTLS, in front of an application."""

    def demand(self, acceptance: Acceptance = ACCEPTANCE, permissions: Permissions | None = None) -> None:
        def change() -> None:
            plan = self.listener.plan
            self.listener.plan = replace(plan, acceptance=acceptance, permissions=permissions)

        self.loop.look(change)

    def call(
        self, identity: Identity | None, question: bytes = b"ping", version: ssl.TLSVersion = V13, alpn: str = "kuma"
    ) -> bytes:
        """What comes back to a peer with this certificate: nothing, if it is not let in."""
        context = client_context(identity, version=version, alpn=(alpn,))
        try:
            with socket.create_connection(("127.0.0.1", self.port), 10) as raw, context.wrap_socket(raw) as sock:
                sock.sendall(question)
                sock.settimeout(10)
                return sock.recv(65536)
        except (ssl.SSLError, ConnectionError):
            return b""


def allowing(*ids: str) -> Permissions:
    return Permissions(allow=tuple(IdMatch(MatchType.EXACT, one) for one in ids))
