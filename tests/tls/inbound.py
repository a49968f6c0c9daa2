"""A real ``ssl`` client against our server handshake, in memory: bytes are carried by hand, nothing waits."""

from __future__ import annotations

import os
import ssl
import tempfile
from dataclasses import dataclass, field
from datetime import datetime

from tests.kit.ca import Authority, Identity
from tests.tls.duet import V12, V13, client_certificate, now
from tls.acceptance import Acceptance
from tls.bundles import TrustBundle, TrustBundles, parse_bundle
from tls.server_context import ServerContext, server_context
from tls.server_handshake import Accepted, ServerHandshake
from tls.verdict import Refused, Verdict

MESH_CA = Authority.root("Mesh CA")
INBOUND = MESH_CA.leaf("spiffe://mesh.test/workload/inbound")


def bundle(domain: str, *authorities: Authority) -> TrustBundle:
    pem = "".join(authority.pem for authority in authorities)
    return parse_bundle(domain, pem.encode(), f"MeshTrust {domain}")[0]


def accepting(
    *bundles: TrustBundle,
    identity: Identity = INBOUND,
    versions: tuple[ssl.TLSVersion, ssl.TLSVersion] = (V12, V13),
    alpn: tuple[str, ...] = (),
    ciphers: tuple[str, ...] = (),
) -> ServerContext:
    return server_context(
        Acceptance(
            identity=client_certificate(identity),
            bundles=TrustBundles.of(bundles),
            min_version=versions[0],
            max_version=versions[1],
            alpn=alpn,
            ciphers=ciphers,
        )
    )


def client_context(
    identity: Identity | None,
    *,
    version: ssl.TLSVersion | None = None,
    alpn: tuple[str, ...] = (),
    trusts: str | None = None,
    chain_pem: str | None = None,
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    if trusts is None:
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(cadata=trusts)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if identity is not None:
        descriptor, path = tempfile.mkstemp()
        try:
            os.write(descriptor, ((chain_pem or identity.chain_pem) + identity.key_pem).encode())
            context.load_cert_chain(path)
        finally:
            os.close(descriptor)
            os.unlink(path)
    return context


@dataclass
class Visit:
    """The end of a handshake: exactly one of ``accepted`` and ``verdict``; and what the client saw of it."""

    client: ssl.SSLObject
    to_client: ssl.MemoryBIO
    from_client: ssl.MemoryBIO
    welcome: Accepted | None = None
    verdict: Verdict | None = None
    sent: list[bytes] = field(default_factory=list)

    @property
    def accepted(self) -> Accepted:
        assert self.verdict is None, self.verdict.as_text() if self.verdict else ""
        assert self.welcome is not None
        return self.welcome

    @property
    def refused(self) -> Verdict:
        assert self.verdict is not None, "the peer was accepted"
        assert self.welcome is None
        return self.verdict

    def client_reads(self) -> bytes:
        """What the client decrypts. Raises what its TLS raises: an alert, or the end of the stream."""
        data = b""
        try:
            while chunk := self.client.read(65536):
                data += chunk
        except ssl.SSLWantReadError:
            pass
        return data

    def sees_the_end(self) -> bool:
        """Whether the client is told that it is over: by an alert, or under TLS 1.3 by ``close_notify``."""
        try:
            while self.client.read(65536):
                pass
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError:
            return True
        return True


def visit(
    inbound: ServerContext,
    context: ssl.SSLContext,
    *,
    session: ssl.SSLSession | None = None,
    at: datetime | None = None,
    early_data: bytes = b"",
    chunk_bytes: int = 1 << 20,
) -> Visit:
    """Run a handshake to its end. ``early_data`` is written by the client as soon as it may."""
    to_client, from_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, from_client, session=session)
    handshake = ServerHandshake(inbound, now=at or now())
    outcome = Visit(client, to_client, from_client)
    done = False
    try:
        while handshake.accepted is None:
            try:
                if not done:
                    client.do_handshake()
                    done = True
                    if early_data:
                        client.write(early_data)
            except ssl.SSLError:
                pass  # it wants to read, or has an alert to send
            flight = from_client.read()
            if not flight:
                handshake.eof()
            for start in range(0, len(flight), chunk_bytes):
                answer = handshake.feed(flight[start : start + chunk_bytes])
                outcome.sent.append(answer)
                to_client.write(answer)
        outcome.welcome = handshake.accepted
        if not done:
            client.do_handshake()
    except Refused as refused:
        assert handshake.accepted is None
        outcome.verdict = refused.verdict
        outcome.sent.append(handshake.farewell)
        to_client.write(handshake.farewell)
    return outcome
