"""The server's side of mTLS, sans I/O: bytes from the peer in, bytes for the peer out.

The security argument, in the order of the code:

1. The context decides about versions and ciphers, demands a certificate, and ends the handshake itself when no valid
   path leads from it to any CA of any trusted domain (``server_context.py``).
2. When OpenSSL is content, and before :attr:`ServerHandshake.accepted` is set, the judge decides whether the peer's own
   trust domain vouches for it (``svid.py``), of a resumed session as well.
3. Only then is there an :class:`Accepted`, and without one nobody has anything to read from or write to: what a peer
   sends behind its handshake stays encrypted in ``incoming``.

Whatever goes wrong raises :class:`~tls.verdict.Refused`; ``farewell`` then holds the bytes, if any, that end it for the
peer. They say nothing of the reason: OpenSSL's own alert where it has refused; ``certificate_unknown`` where our judge
has (TLS 1.2, whose last flight of ours is thrown away); else ``close_notify``, since a TLS 1.3 client has finished its
handshake by then. It may come with a session ticket, which helps a refused peer as little as its certificate did.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn

from tls import inbound_verdict as verdict
from tls.cause import Phase
from tls.presented import ObservedObject, Presented
from tls.server_context import ServerContext
from tls.svid import Peer, presented_chain, verified_path
from tls.verdict import Refused

_HANDSHAKE_RECORD = 0x16  # a client opens with a ClientHello (RFC 8446 §5.1)

ALERT_CERTIFICATE_UNKNOWN = bytes((0x15, 3, 3, 0, 2, 2, 46))
"""A fatal alert in clear: for a TLS 1.2 client that waits for our Finished, we have sent nothing encrypted yet."""


@dataclass(slots=True, eq=False)
class Accepted:
    """A verified connection. Application data may already wait in ``incoming``: read before waiting for more.

    ``leaf`` is the peer's certificate, DER; ``alpn`` the protocol that was selected, if any; ``local_id`` the SPIFFE ID
    that we presented.
    """

    sslobj: ssl.SSLObject
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    version: str
    cipher: str
    alpn: str | None
    resumed: bool
    peer: Peer
    leaf: bytes
    local_id: str
    renegotiation_allowed: bool = False

    def remember(self, now: datetime) -> None:
        """The client keeps the session; there is nothing to save here."""


class ServerHandshake:
    """One handshake: :meth:`feed` until :attr:`accepted` is set. ``now`` is wall time, UTC."""

    __slots__ = ("_context", "_incoming", "_now", "_outgoing", "_presented", "_received", "_sslobj", "accepted",
                 "farewell")  # fmt: skip

    def __init__(self, context: ServerContext, *, now: datetime) -> None:
        self._context = context
        self._now = now
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._presented = Presented(observed=False)
        self._received = b""
        self._sslobj = context.handshake.wrap_bio(self._incoming, self._outgoing, server_side=True)
        if isinstance(self._sslobj, ObservedObject):
            self._presented = self._sslobj.presented = Presented(observed=True)
        self.accepted: Accepted | None = None
        self.farewell = b""

    def feed(self, data: bytes) -> bytes:
        """Take in bytes from the peer; returns bytes for the peer, maybe none. Raises :class:`Refused`."""
        if len(self._received) < 2:
            self._received += data[: 2 - len(self._received)]
            # A short plaintext greeting would leave OpenSSL waiting for the rest of a record header.
            if self._received[:1] not in (b"", bytes((_HANDSHAKE_RECORD,))) or self._received[1:] not in (b"", b"\x03"):
                raise Refused(verdict.not_tls(data))
        self._incoming.write(data)
        try:
            self._sslobj.do_handshake()
        except ssl.SSLWantReadError:
            return self._outgoing.read()
        except ssl.SSLError as error:
            self.farewell = self._outgoing.read()
            raise self._refused(error) from error
        try:
            self.accepted = self._accept()
        except Refused:
            self.farewell = self._part()
            raise
        return self._outgoing.read()

    def eof(self) -> NoReturn:
        """The peer has closed its side before the handshake was done."""
        raise Refused(verdict.closed_in_handshake(self._presented))

    def broken(self, error: OSError) -> Refused:
        """What to raise where the connection broke, or time ran out, before the handshake was done."""
        return self._refused(error)

    def _refused(self, error: OSError) -> Refused:
        context = self._context.quiet
        versions = f"{context.minimum_version.name} to {context.maximum_version.name}"
        bundles = self._context.judge.bundles
        why = verdict.classify(error, Phase.HANDSHAKE, bundles, self._presented, now=self._now, versions=versions)
        return Refused(why)

    def _accept(self) -> Accepted:
        sslobj, judge = self._sslobj, self._context.judge
        leaf = sslobj.getpeercert(binary_form=True)
        if not leaf:
            raise Refused(verdict.no_certificate())
        is_resumed = bool(sslobj.session_reused)
        if is_resumed:
            peer = judge.judge_resumed(leaf, self._now)
        else:
            peer = judge.judge(leaf, verified_path(sslobj), presented_chain(sslobj), self._now)
        if self._context.quiet is not self._context.handshake:
            sslobj.context = self._context.quiet  # later records cost no callback
        cipher = sslobj.cipher()
        return Accepted(
            sslobj=sslobj,
            incoming=self._incoming,
            outgoing=self._outgoing,
            version=sslobj.version() or "",
            cipher=cipher[0] if cipher is not None else "",
            alpn=sslobj.selected_alpn_protocol(),
            resumed=is_resumed,
            peer=peer,
            leaf=leaf,
            local_id=self._context.local_id,
        )

    def _part(self) -> bytes:
        """Say goodbye to a peer whose certificate we do not accept, though OpenSSL did."""
        if self._sslobj.version() != "TLSv1.3" and not self._sslobj.session_reused:
            self._outgoing.read()  # our ticket and our Finished: not for this peer
            return ALERT_CERTIFICATE_UNKNOWN
        try:
            self._sslobj.unwrap()
        except ssl.SSLError:
            pass  # it has queued our close_notify and wants the peer's, for which nobody waits
        return self._outgoing.read()
