"""The client's side of TLS, sans I/O: bytes from the peer in, bytes for the peer out.

The security argument, in the order of the code:

1. The context decides about versions, ciphers and the chain (``context.py``). Where the mode checks the chain, OpenSSL
   ends the handshake itself when it does not reach an anchor.
2. A session is offered only under the very terms that it was made under (``sessions.py``).
3. When OpenSSL is content, and before :attr:`ClientHandshake.done` is set, the leaf must exist and, where the mode
   checks names, one of its names must match (``names.py``). A resumed session carries its leaf and is checked as well.
   A peer of the mesh must be an SVID that its own trust domain vouches for, too (``svid.py``).
4. Only then is there an :class:`Established`, and without one nobody has anything to write to. A TLS 1.3 client's last
   flight, with the client certificate, is thrown away rather than sent to a peer whose name is wrong.

Whatever goes wrong raises :class:`Refused` with a verdict; ``farewell`` then holds the bytes, if any, that tell the
peer (an alert). After a refusal the handshake is of no further use.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import NoReturn

from tls import inbound_verdict as mesh_verdict
from tls import verdict
from tls.bundles import TrustBundles
from tls.context import observing_context, quiet_context, renegotiates
from tls.material import CertificateFacts, MaterialError, describe_certificate
from tls.names import MalformedNames, Match, as_ip, find_match, read_names
from tls.policy import Origination, SanMatcher
from tls.presented import ObservedObject, Presented
from tls.sessions import SessionCache
from tls.svid import SERVER, SvidJudge, presented_chain, verified_path
from tls.verdict import Phase
from tls.verdict import Refused as Refused

MAX_SERVER_JUDGES = 4
"""States of the bundles whose judges of servers are kept: one for each mesh, and the one before."""

_FIRST_RECORDS = (0x15, 0x16)  # a server opens with an alert or a handshake record (RFC 8446 §5.1)

_ALERT_CERTIFICATE_UNKNOWN = bytes((0x15, 3, 3, 0, 2, 2, 46))
"""A fatal alert in clear. Allowed here by RFC 8446 §5.1: we have sent nothing encrypted yet."""


@dataclass(slots=True, eq=False)
class Established:
    """A verified connection. Application data may already wait in ``incoming``: read before waiting for more.

    ``matched`` is the name that was verified (``None`` where the mode checks no names); ``chain`` is what the peer
    sent, DER and leaf first, where this handshake was observed.
    """

    sslobj: ssl.SSLObject
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    version: str
    cipher: str
    alpn: str | None
    sni: str | None
    resumed: bool
    peer: CertificateFacts
    matched: Match | None
    chain: tuple[bytes, ...]
    renegotiation_allowed: bool
    _origination: Origination = field(repr=False)
    _leaf: bytes = field(repr=False)
    _matchers: tuple[SanMatcher, ...] = field(repr=False)
    _presented: Presented | None = field(repr=False)
    _handshakes: int = field(repr=False)
    _sessions: SessionCache = field(repr=False)
    _session_key: str = field(repr=False)

    def remember(self, now: datetime) -> None:
        """Save the session if one is wanted. TLS 1.2 has been seen to when the handshake was done. A TLS 1.3 server
        sends its tickets afterwards: call it after the first read, and at the end.
        """
        not_after = self.peer.not_after
        if not_after is None or not self._sessions.wants(self._session_key, now):
            return
        session = self.sslobj.session
        can_resume = session is not None and (session.has_ticket or (bool(session.id) and self.version != "TLSv1.3"))
        kept = session if can_resume else None
        self._sessions.fetched(self._session_key, kept, self.sslobj.context, not_after, now)


class ClientHandshake:
    """One handshake: :meth:`start`, then :meth:`feed` until :attr:`done`.

    ``host`` is the endpoint's DNS name (``is_dns``) or IP address as text, ``None`` for a unix socket. ``explain``
    keeps what the peer presents and forgoes resumption: for an endpoint's first connection, and after a failure.
    ``now`` is wall time, UTC.
    """

    __slots__ = (
        "_explain", "_incoming", "_matchers", "_now", "_offered", "_origination", "_outgoing", "_presented",
        "_received", "_session_key", "_sessions", "_sni", "_sslobj", "done", "established", "farewell",
    )  # fmt: skip

    def __init__(
        self,
        origination: Origination,
        *,
        host: str | None,
        is_dns: bool,
        explain: bool,
        sessions: SessionCache,
        session_key: str,
        now: datetime,
    ) -> None:
        self._origination = origination
        self._matchers = origination.names_for(host)
        self._sni = sni_of(origination, host if is_dns else None)
        self._explain = explain
        self._sessions = sessions
        self._session_key = session_key
        self._now = now
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._presented = Presented(observed=False)
        self._received = False
        self._offered = False
        self._sslobj: ssl.SSLObject | None = None
        self.done = False
        self.established: Established | None = None
        self.farewell = b""

    def start(self) -> bytes:
        """The ClientHello. Raises :class:`Refused` where OpenSSL refuses our material or the server name."""
        # Where renegotiation is allowed the connection stays observed for life: see recheck().
        observed = self._explain or self._origination.allow_renegotiation
        try:
            context = observing_context(self._origination) if observed else quiet_context(self._origination)
        except MaterialError as error:
            raise Refused(verdict.unusable_material(error)) from error
        session = None if self._explain else self._sessions.take(self._session_key, context, self._now)
        self._offered = session is not None
        try:
            self._sslobj = context.wrap_bio(self._incoming, self._outgoing, server_hostname=self._sni, session=session)
        except (TypeError, ValueError) as error:  # too long, empty label, NUL
            raise Refused(verdict.bad_server_name(self._sni or "")) from error
        if isinstance(self._sslobj, ObservedObject):
            self._presented = self._sslobj.presented = Presented(observed=True)
        return self._advance()

    def feed(self, data: bytes) -> bytes:
        """Take in bytes from the peer; returns bytes for the peer, maybe none. Raises :class:`Refused`."""
        if not self._received and data:
            self._received = True
            # A short plaintext greeting would leave OpenSSL waiting for the rest of a record header.
            if data[0] not in _FIRST_RECORDS or data[1:2] not in (b"", b"\x03"):
                self._sessions.forget(self._session_key)
                raise Refused(verdict.not_tls(data))
        self._incoming.write(data)
        return self._advance()

    def eof(self) -> NoReturn:
        """The peer has closed its side before the handshake was done."""
        raise Refused(verdict.closed_in_handshake(self._presented))

    def broken(self, error: OSError) -> Refused:
        """What to raise where the connection broke, or time ran out, before the handshake was done."""
        return Refused(verdict.classify(error, Phase.HANDSHAKE, self._origination, self._presented, now=self._now))

    def _advance(self) -> bytes:
        sslobj = self._sslobj
        assert sslobj is not None, "start() comes first"
        try:
            sslobj.do_handshake()
        except ssl.SSLWantReadError:
            return self._outgoing.read()
        except ssl.SSLError as error:
            self.farewell = self._outgoing.read()
            self._sessions.forget(self._session_key)
            raise Refused(self._judge_failure(error, sslobj)) from error
        try:
            self.established = self._accept(sslobj)
        except Refused:
            self.farewell = self._part(sslobj)
            self._sessions.forget(self._session_key)
            raise
        self.done = True
        return self._outgoing.read()

    def _judge_failure(self, error: ssl.SSLError, sslobj: ssl.SSLObject) -> verdict.Verdict:
        origination, presented = self._origination, self._presented
        if isinstance(error, ssl.SSLCertVerificationError) and origination.bundles is not None:
            return mesh_verdict.classify(
                error, Phase.HANDSHAKE, origination.bundles, presented, now=self._now, purpose=SERVER.name
            )
        agreed = sslobj.cipher() is not None
        return verdict.classify(error, Phase.HANDSHAKE, origination, presented, now=self._now, cipher_agreed=agreed)

    def _accept(self, sslobj: ssl.SSLObject) -> Established:
        leaf = _leaf_of(sslobj)
        if self._origination.bundles is None:
            matched = _verify_names(leaf, self._matchers, self._presented.chain, self._origination)
        else:
            matched = self._verify_svid(sslobj, leaf, self._origination.bundles)
        allowed = renegotiates(self._origination)
        if self._explain and not allowed:
            sslobj.context = quiet_context(self._origination)  # later records cost no callback
        cipher = sslobj.cipher()
        if self._offered and not sslobj.session_reused:
            self._sessions.forget(self._session_key)
        established = Established(
            sslobj=sslobj,
            incoming=self._incoming,
            outgoing=self._outgoing,
            version=sslobj.version() or "",
            cipher=cipher[0] if cipher is not None else "",
            alpn=sslobj.selected_alpn_protocol(),
            sni=self._sni,
            resumed=bool(sslobj.session_reused),
            peer=describe_certificate(leaf),
            matched=matched,
            chain=self._presented.chain,
            renegotiation_allowed=allowed,
            _origination=self._origination,
            _leaf=leaf,
            _matchers=self._matchers,
            _presented=self._presented if allowed else None,
            _handshakes=self._presented.handshakes,
            _sessions=self._sessions,
            _session_key=self._session_key,
        )
        if established.version != "TLSv1.3":
            established.remember(self._now)
        return established

    def _verify_svid(self, sslobj: ssl.SSLObject, leaf: bytes, bundles: TrustBundles) -> Match:
        """The peer is who it says, by its own trust domain, and the one that is expected. Raises :class:`Refused`."""
        judge = _judge(bundles)
        if sslobj.session_reused:
            peer = judge.judge_resumed(leaf, self._now)
        else:
            peer = judge.judge(leaf, verified_path(sslobj), presented_chain(sslobj), self._now)
        matched = _match(leaf, self._matchers)
        if matched is None:
            raise Refused(mesh_verdict.unexpected_identity(peer.id, self._matchers, leaf))
        return matched

    def _part(self, sslobj: ssl.SSLObject) -> bytes:
        """Say goodbye to a peer whose certificate we do not accept, though OpenSSL did."""
        if sslobj.version() == "TLSv1.3":
            self._outgoing.read()  # our last flight, with the client certificate: not for this peer
            return _ALERT_CERTIFICATE_UNKNOWN
        try:
            sslobj.unwrap()
        except ssl.SSLError:
            pass  # it has queued our close_notify and wants the peer's, for which nobody waits
        return self._outgoing.read()


def recheck(established: Established) -> None:
    """Verify again after a renegotiation: the peer may have changed its certificate. Call it after each read where
    ``renegotiation_allowed``, before using what was read; it costs next to nothing when nothing happened. The chain
    was OpenSSL's to check; here the names are. Raises :class:`Refused`.
    """
    presented = established._presented
    if presented is None or presented.handshakes == established._handshakes:
        return
    leaf = _leaf_of(established.sslobj)
    if leaf != established._leaf:
        established.matched = _verify_names(leaf, established._matchers, presented.chain, established._origination)
        established.peer = describe_certificate(leaf)
        established.chain = presented.chain
        established._leaf = leaf
    established._handshakes = presented.handshakes


def sni_of(origination: Origination, dns_name: str | None) -> str | None:
    """The server name to put on the wire: never an IP address, never with a trailing dot (RFC 6066 §3)."""
    name = origination.sni_for(dns_name)
    if name is None or as_ip(name) is not None:
        return None
    return name.removesuffix(".")


def _leaf_of(sslobj: ssl.SSLObject) -> bytes:
    leaf = sslobj.getpeercert(binary_form=True)
    if not leaf:
        raise Refused(verdict.no_certificate())
    return leaf


def _verify_names(
    leaf: bytes, matchers: tuple[SanMatcher, ...], chain: tuple[bytes, ...], origination: Origination
) -> Match | None:
    """The name that speaks for the peer, ``None`` where none is asked for. Raises :class:`Refused`."""
    if not origination.mode.checks_names:
        return None
    try:
        matched = _match(leaf, matchers)
    except MalformedNames as error:
        raise Refused(verdict.malformed_names(str(error), chain or (leaf,))) from error
    if matched is None:
        raise Refused(verdict.name_mismatch(read_names(leaf), matchers, chain or (leaf,), origination))
    return matched


@lru_cache(maxsize=MAX_SERVER_JUDGES)
def _judge(bundles: TrustBundles) -> SvidJudge:
    return SvidJudge(bundles, purpose=SERVER)


@lru_cache(maxsize=1024)
def _match(leaf: bytes, matchers: tuple[SanMatcher, ...]) -> Match | None:
    return find_match(read_names(leaf), matchers)
