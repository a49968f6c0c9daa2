"""A peer that renegotiates may become somebody else: refused unless allowed, and then verified again.

Python's ``ssl`` cannot renegotiate as a server, so the peer here is the OpenSSL inside ``cryptography``, by its raw
binding. TLS 1.2 only: TLS 1.3 has no renegotiation.
"""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from cryptography.hazmat.bindings.openssl.binding import Binding

from tests.kit.ca import Authority, Identity
from tests.tls.duet import HOST, now, originate
from tls.handshake import ClientHandshake, Established, Refused, recheck
from tls.policy import Mode, Origination
from tls.sessions import SessionCache
from tls.verdict import Cause, Phase, classify

ROOT = Authority.root("Koguma Root")
SERVER = ROOT.leaf(HOST)
_binding = Binding()
lib: Any = _binding.lib
ffi: Any = _binding.ffi


class RenegotiatingServer:
    """A TLS 1.2 server in memory whose certificate can change between two handshakes."""

    def __init__(self, identity: Identity) -> None:
        self._context = ffi.gc(lib.SSL_CTX_new(lib.TLS_server_method()), lib.SSL_CTX_free)
        lib.SSL_CTX_set_max_proto_version(self._context, lib.TLS1_2_VERSION)
        # Without tickets and cache each renegotiation is a full handshake, with a certificate in it.
        lib.SSL_CTX_set_options(self._context, lib.SSL_OP_NO_TICKET)
        lib.SSL_CTX_set_session_cache_mode(self._context, lib.SSL_SESS_CACHE_OFF)
        self._ssl = ffi.gc(lib.SSL_new(self._context), lib.SSL_free)
        self._incoming, self._outgoing = lib.BIO_new(lib.BIO_s_mem()), lib.BIO_new(lib.BIO_s_mem())
        lib.SSL_set_bio(self._ssl, self._incoming, self._outgoing)  # which owns them from here on
        self.become(identity)
        lib.SSL_set_accept_state(self._ssl)

    def become(self, identity: Identity) -> None:
        certificate = ffi.gc(self._read(lib.PEM_read_bio_X509, identity.pem), lib.X509_free)
        key = ffi.gc(self._read(lib.PEM_read_bio_PrivateKey, identity.key_pem), lib.EVP_PKEY_free)
        assert lib.SSL_use_certificate(self._ssl, certificate) == 1
        assert lib.SSL_use_PrivateKey(self._ssl, key) == 1

    @staticmethod
    def _read(reader: Any, pem: str) -> Any:
        data = pem.encode()
        source = ffi.gc(lib.BIO_new_mem_buf(data, len(data)), lib.BIO_free)
        return reader(source, ffi.NULL, ffi.NULL, ffi.NULL)

    def feed(self, data: bytes) -> bytes:
        """Bytes in, bytes out; a read drives whatever handshake is under way."""
        lib.BIO_write(self._incoming, data, len(data))
        lib.SSL_read(self._ssl, ffi.new("char[]", 16384), 16384)
        lib.ERR_clear_error()
        return self._take()

    def renegotiate(self) -> bytes:
        assert lib.SSL_renegotiate(self._ssl) == 1
        lib.SSL_do_handshake(self._ssl)
        return self._take()

    def send(self, data: bytes) -> bytes:
        assert lib.SSL_write(self._ssl, data, len(data)) == len(data)
        return self._take()

    def _take(self) -> bytes:
        buffer = ffi.new("char[]", 1 << 16)
        count = lib.BIO_read(self._outgoing, buffer, 1 << 16)
        return bytes(ffi.buffer(buffer, max(count, 0)))


def connect(origination: Origination, server: RenegotiatingServer) -> Established:
    handshake = ClientHandshake(
        origination,
        host=HOST,
        is_dns=True,
        explain=False,
        sessions=SessionCache(),
        session_key="key",
        now=now(),
    )
    to_server = handshake.start()
    while not handshake.done:
        to_server = handshake.feed(server.feed(to_server))
    assert handshake.established is not None
    return handshake.established


def renegotiate(established: Established, server: RenegotiatingServer) -> bytes:
    """Renegotiation to its end, then a word from the server. Returns what the client read."""
    received = b""
    to_client = server.renegotiate()
    for _ in range(6):
        established.incoming.write(to_client)
        try:
            received += established.sslobj.read(16384)
        except ssl.SSLWantReadError:
            pass
        to_client = server.feed(established.outgoing.read())
        if not to_client:
            break
    established.incoming.write(server.send(b"after"))
    return received + established.sslobj.read(16384)


def test_refused_by_default() -> None:
    server = RenegotiatingServer(SERVER)
    established = connect(originate(ROOT.pem), server)
    assert not established.renegotiation_allowed
    recheck(established)
    with pytest.raises(ssl.SSLError) as error:
        renegotiate(established, server)
    verdict = classify(error.value, Phase.ESTABLISHED, originate(ROOT.pem), now=now())
    assert verdict.cause is Cause.ALERT
    assert verdict.field == "spec.tls.allowRenegotiation"


def test_allowed_with_the_same_certificate() -> None:
    server = RenegotiatingServer(SERVER)
    established = connect(originate(ROOT.pem, allow_renegotiation=True), server)
    assert established.renegotiation_allowed
    recheck(established)
    assert renegotiate(established, server) == b"after"
    recheck(established)
    assert established.peer.sha256 == SERVER.sha256


def test_allowed_with_another_certificate_for_the_same_name() -> None:
    server, renewed = RenegotiatingServer(SERVER), ROOT.leaf("*.example.test")
    established = connect(originate(ROOT.pem, allow_renegotiation=True), server)
    server.become(renewed)
    renegotiate(established, server)
    recheck(established)
    assert established.peer.sha256 == renewed.sha256
    assert established.matched is not None
    assert established.matched.presented == "*.example.test"
    assert established.chain == (renewed.der,)
    recheck(established)


@pytest.mark.parametrize("mode", [Mode.SECURED, Mode.SKIP_CA])
def test_another_name_is_refused(mode: Mode) -> None:
    server = RenegotiatingServer(SERVER)
    established = connect(originate(ROOT.pem, mode=mode, allow_renegotiation=True), server)
    server.become(ROOT.leaf("other.example.test"))
    renegotiate(established, server)
    for _ in range(2):  # and it stays refused
        with pytest.raises(Refused) as refused:
            recheck(established)
        assert refused.value.verdict.cause is Cause.SAN_MISMATCH
    assert established.peer.sha256 == SERVER.sha256


@pytest.mark.parametrize("mode", [Mode.SECURED, Mode.SKIP_SAN])
def test_another_issuer_is_refused_by_openssl(mode: Mode) -> None:
    server = RenegotiatingServer(SERVER)
    established = connect(originate(ROOT.pem, mode=mode, allow_renegotiation=True), server)
    server.become(Authority.root("Another").leaf(HOST))
    with pytest.raises(ssl.SSLCertVerificationError):
        renegotiate(established, server)


def test_another_name_where_names_are_not_checked() -> None:
    server, other = RenegotiatingServer(SERVER), ROOT.leaf("other.example.test")
    established = connect(originate(ROOT.pem, mode=Mode.SKIP_SAN, allow_renegotiation=True), server)
    server.become(other)
    renegotiate(established, server)
    recheck(established)
    assert established.peer.sha256 == other.sha256
