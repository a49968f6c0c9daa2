"""A client handshake of ours against a real ``ssl`` server, in memory: bytes are carried by hand, nothing waits."""

from __future__ import annotations

import os
import ssl
import tempfile
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime

from tests.kit.ca import Identity
from tls.handshake import ClientHandshake, Established, Refused
from tls.policy import ClientCertificate, Mode, Origination, SanMatcher, TrustAnchors
from tls.sessions import SessionCache, session_key
from tls.verdict import Verdict

HOST = "svc.example.test"
V10, V11 = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


def now() -> datetime:
    return datetime.now(UTC)


def anchors(pem: str, source: str = "caCert") -> TrustAnchors:
    return TrustAnchors(pem.encode(), source)


def client_certificate(identity: Identity) -> ClientCertificate:
    return ClientCertificate(identity.chain_pem.encode(), identity.key_pem.encode(), "clientCert")


def originate(
    ca: str | None,
    *,
    mode: Mode = Mode.SECURED,
    sans: tuple[SanMatcher, ...] = (),
    server_name: str | None = None,
    client: Identity | None = None,
    versions: tuple[ssl.TLSVersion, ssl.TLSVersion] = (V12, V13),
    alpn: tuple[str, ...] = (),
    allow_renegotiation: bool = False,
) -> Origination:
    return Origination(
        mode=mode,
        server_name=server_name,
        sans=sans,
        anchors=None if ca is None else anchors(ca),
        client=None if client is None else client_certificate(client),
        min_version=versions[0],
        max_version=versions[1],
        alpn=alpn,
        allow_renegotiation=allow_renegotiation,
    )


def server_context(
    identity: Identity,
    *,
    versions: tuple[ssl.TLSVersion, ssl.TLSVersion] = (V12, V13),
    client_ca: str | None = None,
    ciphers: str | None = None,
    chain_pem: str | None = None,
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(ciphers or "DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version, context.maximum_version = versions
    descriptor, path = tempfile.mkstemp()
    try:
        os.write(descriptor, ((chain_pem or identity.chain_pem) + identity.key_pem).encode())
        context.load_cert_chain(path)
    finally:
        os.close(descriptor)
        os.unlink(path)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=client_ca)
    return context


class Server:
    """The server's end. ``error`` is what ended it."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.sni: str | None = None
        context.sni_callback = self._note_sni
        self.sslobj = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.done = False
        self.error: ssl.SSLError | None = None
        self.received = b""

    def _note_sni(self, _: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
        self.sni = name

    def feed(self, data: bytes) -> bytes:
        self._incoming.write(data)
        try:
            if not self.done:
                self.sslobj.do_handshake()
                self.done = True
            while chunk := self.sslobj.read(65536):
                self.received += chunk
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.error = error
        return self._outgoing.read()

    def send(self, data: bytes) -> bytes:
        self.sslobj.write(data)
        return self._outgoing.read()


@dataclass
class Duet:
    """The end of a handshake: exactly one of ``established`` and ``verdict``."""

    server: Server
    established: Established | None = None
    verdict: Verdict | None = None
    farewell: bytes = b""

    @property
    def accepted(self) -> Established:
        assert self.verdict is None, self.verdict.as_text() if self.verdict else ""
        assert self.established is not None
        return self.established

    @property
    def refused(self) -> Verdict:
        assert self.verdict is not None, "the peer was accepted"
        assert self.established is None
        return self.verdict


def shake(
    origination: Origination,
    context: ssl.SSLContext,
    *,
    host: str | None = HOST,
    is_dns: bool = True,
    explain: bool = True,
    sessions: SessionCache | None = None,
    key: str | None = None,
    chunk_bytes: int = 1 << 20,
    at: datetime | None = None,
) -> Duet:
    """Run a handshake to its end, the peer's bytes cut into chunks."""
    sessions = SessionCache() if sessions is None else sessions
    handshake = ClientHandshake(
        origination,
        host=host,
        is_dns=is_dns,
        explain=explain,
        sessions=sessions,
        session_key=key or session_key(origination, "192.0.2.1:443", host),
        now=at or now(),
    )
    server = Server(context)
    duet = Duet(server)
    try:
        to_server = handshake.start()
        while not handshake.done:
            to_client = server.feed(to_server)
            if not to_client:
                handshake.eof()
            to_server = b""
            for start in range(0, len(to_client), chunk_bytes):
                to_server += handshake.feed(to_client[start : start + chunk_bytes])
        to_client = server.feed(to_server)
        handshake.established.incoming.write(to_client)  # type: ignore[union-attr]
        duet.established = handshake.established
    except Refused as refused:
        assert not handshake.done
        duet.verdict = refused.verdict
        duet.farewell = handshake.farewell
        server.feed(handshake.farewell)
    return duet


def read_all(established: Established) -> bytes:
    """What the peer has sent, decrypted."""
    data = b""
    try:
        while chunk := established.sslobj.read(65536):
            data += chunk
    except ssl.SSLWantReadError:
        pass
    return data
