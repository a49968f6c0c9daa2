"""mTLS on an accepted connection: from its first byte to a verified peer, and then out of the way.

A connection has three protocols in turn: :class:`TlsAcceptor` until the peer is verified and permitted, then
:class:`~proxy.tls_stream.TlsStream` with the connection that the listener would have made without TLS above it. That
one is told of its connection only then, so no byte of an unverified peer reaches it, and it opens no upstream for
one.

A permissive inbound looks at the first bytes: plaintext goes to the connection itself, TLS that is not the mesh's to a
relay of bytes. A peer that waits for the server to speak first is taken for plaintext when :data:`SNIFF_TIMEOUT_S` is
over. A handshake takes at most :data:`HANDSHAKE_TIMEOUT_S`.

What went wrong is for the log and the counters; the peer's connection just ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from config.plan import Protocol
from proxy.acceptor import Acceptor
from proxy.caller import Caller
from proxy.clock import wall_clock
from proxy.tls_stream import TlsStream
from tls import inbound_verdict
from tls.acceptance import Acceptance, InboundMode
from tls.cause import Cause
from tls.client_hello import Traffic, sniff
from tls.material import MaterialError
from tls.server_context import server_context
from tls.server_handshake import Accepted, ServerHandshake
from tls.svid import recheck
from tls.verdict import Refused, Verdict

if TYPE_CHECKING:
    from proxy.listener import Listener

log = logging.getLogger("koguma.inbound")

HANDSHAKE_TIMEOUT_S = 10.0
SNIFF_TIMEOUT_S = 5.0


class TlsAcceptor(Acceptor):
    """See the module."""

    __slots__ = ("_acceptance", "_answered", "_handshake", "_head", "_now")

    def __init__(self, listener: Listener, acceptance: Acceptance, now: Callable[[], datetime] = wall_clock) -> None:
        super().__init__(listener)
        self._acceptance = acceptance
        self._now = now
        self._handshake: ServerHandshake | None = None
        self._head = b""
        self._answered = False

    def _begin(self) -> None:
        is_permissive = self._acceptance.mode is InboundMode.PERMISSIVE
        self._set_timer(SNIFF_TIMEOUT_S if is_permissive else HANDSHAKE_TIMEOUT_S)
        if not is_permissive:
            self._start()

    def data_received(self, data: bytes) -> None:
        if self._handshake is None:
            self._head += data
            data = self._head
            match sniff(data):
                case None:
                    return
                case Traffic.PLAINTEXT:
                    self._pass_through(is_opaque=False)
                    return
                case Traffic.OTHER_TLS:
                    self._pass_through(is_opaque=True)
                    return
            self._set_timer(HANDSHAKE_TIMEOUT_S)
            self._start()
        self._feed(data)

    def _start(self) -> None:
        try:
            self._handshake = ServerHandshake(server_context(self._acceptance), now=self._now())
        except MaterialError as error:  # it was usable when it was planned
            self._refuse(Refused(inbound_verdict.unusable_material(error)))

    def _feed(self, data: bytes) -> None:
        handshake, raw = self._handshake, self._raw
        if handshake is None or raw is None or raw.is_closing():
            return
        try:
            answer = handshake.feed(data)
        except Refused as refused:
            if handshake.farewell:
                raw.write(handshake.farewell)
            self._refuse(refused)
            return
        if answer:
            self._answered = True
            raw.write(answer)
        if handshake.accepted is not None:
            self._admit(handshake.accepted)

    def _admit(self, accepted: Accepted) -> None:
        """The peer is who it says."""
        listener, raw = self._listener, self._raw
        assert raw is not None
        today = listener.plan.acceptance
        if today is not None and today is not self._acceptance:  # trust may have changed during the handshake
            try:
                recheck(accepted.peer, today.bundles)
            except Refused as refused:
                self._refuse(refused)
                return
        stats = listener.stats
        stats.ssl_handshake += 1
        stats.ssl_session_reused += accepted.resumed
        caller = Caller(accepted, is_named=not listener.plan.door)
        if listener.plan.protocol is Protocol.TCP and not caller.passes(listener):
            # A peer that speaks HTTP is told so instead, request by request.
            stream = TlsStream(raw, accepted, asyncio.Protocol(), self._now)
            raw.set_protocol(stream)
            self._end()
            stream.close()
            return
        connection = listener.connection(caller=caller)
        stream = TlsStream(raw, accepted, connection, self._now)
        raw.set_protocol(stream)
        self._end()
        connection.connection_made(stream)
        stream.deliver_pending()

    def _pass_through(self, *, is_opaque: bool) -> None:
        """Without mTLS, as a permissive inbound may."""
        raw = self._raw
        assert raw is not None
        connection = self._listener.connection(is_opaque=is_opaque)
        raw.set_protocol(connection)
        self._end()
        connection.connection_made(raw)
        if self._head and not raw.is_closing():
            connection.data_received(self._head)

    def _refuse(self, refused: Refused) -> None:
        verdict = refused.verdict
        stats = self._listener.stats
        if verdict.cause is Cause.NO_CERTIFICATE:
            stats.ssl_fail_verify_no_cert += 1
        elif verdict.cause.is_chain_failure:
            stats.ssl_fail_verify_error += 1
        else:
            stats.ssl_connection_error += 1
        self._say(verdict)
        assert self._raw is not None
        self._raw.close()

    def _say(self, verdict: Verdict) -> None:
        name = self._listener.plan.name
        if self._listener.may_say(f"{name} {verdict.cause}"):
            event = {"event": "peer_refused", "listener": name, "verdict": verdict.as_dict()}
            log.warning("%s: a peer was refused: %s", name, verdict.message, extra=event)

    def drain(self) -> None:
        """A peer that has our answer holds its connection for made (TLS 1.3), and may have used it already."""
        if not self._answered:
            self.abort()

    def eof_received(self) -> None:
        if self._handshake is None:
            return
        try:
            self._handshake.eof()
        except Refused as refused:
            self._refuse(refused)

    def _time_out(self) -> None:
        raw = self._raw
        if raw is None or raw.is_closing():
            return
        if self._handshake is None:
            self._pass_through(is_opaque=False)
            return
        self._refuse(self._handshake.broken(TimeoutError(f"{HANDSHAKE_TIMEOUT_S:g} s")))
        raw.abort()
