"""The DNS server's sockets: UDP and TCP on one address and port.

Both give each message to :meth:`DnsServer.take` with a way to send its reply, which is used at most once, at once or
later. Over UDP that is all: what the kernel does not take of a reply is lost, as UDP may. Over TCP a connection may
send several questions and gets each reply as soon as there is one, in any order (RFC 7766 section 6.2.1.1); it is not
read while ``MAX_PENDING`` of its questions are open or it does not take its replies. A connection that is idle, slow
with its question or with our replies for ``IDLE_S`` ends, and so does one that sends what is no question.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import ip_address
from typing import Any, cast

from proxy.dns.forward import Forwarder, refuse_loop
from proxy.dns.message import MAX_QUERY_BYTES, Ignored, Packed, Query, Refused, is_truncated, parse, reply
from proxy.dns.records import Records
from proxy.lookup import Resolver
from proxy.resolution import Nameserver, show
from proxy.sockets import StartError, bind, reason
from proxy.stats import DnsStats
from proxy.throttle import Throttle

log = logging.getLogger("koguma.dns")

BACKLOG = 256
IDLE_S = 10.0
SWEEP_INTERVAL_S = 2.0
MAX_CONNECTIONS = 128
MAX_PENDING = 64
"""Questions of one TCP connection that wait for their answers."""
PORT_TRIES = 16
"""For port 0: the port that is free for TCP must be free for UDP too."""

Send = Callable[[bytes], None]


class DnsServer:
    """Answers for ``records``, which may be replaced at any time; the resolvers of ``resolver`` answer the rest."""

    def __init__(self, resolver: Resolver, stats: DnsStats, throttle: Throttle) -> None:
        self.stats = stats
        self.connections: set[_Stream] = set()
        self._records = Records({})
        self._resolver = resolver
        self._throttle = throttle
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self.soon = self._loop.call_soon
        self._own: Nameserver = ("", 0)
        self._forwarder: Forwarder | None = None
        self._udp: asyncio.DatagramTransport | None = None
        self._datagrams = _Datagrams(self)
        self._tcp: asyncio.Server | None = None
        self._sweep: asyncio.TimerHandle | None = None

    @property
    def records(self) -> Records:
        return self._records

    @records.setter
    def records(self, records: Records) -> None:
        self._records = records
        self.stats.names = len(records)

    @property
    def own(self) -> Nameserver:
        """Where it listens."""
        return self._own

    async def start(self, address: str, port: int, upstreams: Sequence[Nameserver] = ()) -> None:
        """Listen; port 0 picks one. ``upstreams``: the resolvers that the command line names.

        Raises :class:`StartError`, also where a resolver is this server.
        """
        tcp, udp = _bind_both(address, port)
        self._own = own = (address, int(tcp.getsockname()[1]))
        if not ip_address(address).is_loopback:
            log.warning("DNS is served at %s to everybody who can reach it, forwarded questions included", show(own))
        try:
            refuse_loop(own, upstreams, self._resolver.nameservers())
            self._forwarder = Forwarder(self._resolver, own, self.stats, self._throttle, self.now)
            self._tcp = await self._loop.create_server(lambda: _Stream(self), sock=tcp, backlog=BACKLOG)
            self._udp, _ = await self._loop.create_datagram_endpoint(lambda: self._datagrams, sock=udp)
        except OSError as exc:
            await self.close()
            raise StartError(f"cannot listen on {show(own)}: {reason(exc)}") from exc
        finally:
            if self._udp is None:
                udp.close()
            if self._tcp is None:
                tcp.close()
        self._schedule_sweep()

    async def close(self) -> None:
        """Stop listening, drop what waits. May be called twice."""
        if self._sweep is not None:
            self._sweep.cancel()
        if self._tcp is not None:
            self._tcp.close()
        if self._udp is not None:
            self._datagrams.shut()
            self._udp.abort()
        for stream in tuple(self.connections):
            stream.abort()

    def take(self, data: bytes, send: Send, *, over_tcp: bool) -> bool:
        """Answer one message by ``send``, at once or later. ``False``: there will be no reply."""
        stats = self.stats
        try:
            query = parse(data, over_tcp=over_tcp)
        except Ignored:
            stats.ignored += 1
            return False
        except Refused as refused:
            stats.refused += 1
            send(refused.reply)
            return True
        answer = self._records.answer(query.name, query.qtype)
        if answer is not None:
            stats.answered += 1
            self._reply(query, send, answer)
        else:
            assert self._forwarder is not None
            stats.forwarded += 1
            self._forwarder.ask(query, partial(self._reply, query, send))
        return True

    def _reply(self, query: Query, send: Send, answer: Packed) -> None:
        message = reply(query, answer)
        if is_truncated(message):
            self.stats.truncated += 1
        send(message)

    def end_idle(self, now: float) -> None:
        """End the connections that did nothing for ``IDLE_S``."""
        for stream in tuple(self.connections):
            if stream.active_s < now - IDLE_S:
                stream.abort()

    def _schedule_sweep(self) -> None:
        self._sweep = self._loop.call_later(SWEEP_INTERVAL_S, self._end_idle_for_ever)

    def _end_idle_for_ever(self) -> None:
        self.end_idle(self.now())
        self._schedule_sweep()


def _bind_both(address: str, port: int) -> tuple[socket.socket, socket.socket]:
    """(TCP, UDP) on the same port. Raises :class:`StartError`."""
    tries = 1 if port else PORT_TRIES
    while True:
        tries -= 1
        tcp = bind(address, port)
        try:
            return tcp, bind(address, int(tcp.getsockname()[1]), socket.SOCK_DGRAM)
        except StartError as exc:
            tcp.close()
            cause = exc.__cause__
            if not tries or not isinstance(cause, OSError) or cause.errno != errno.EADDRINUSE:
                raise


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._send: Callable[[bytes, Any], None] = _drop
        self._sendto: Callable[[bytes, Any], None] = _drop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._sendto = self._send = cast("asyncio.DatagramTransport", transport).sendto

    def datagram_received(self, data: bytes, addr: Any) -> None:
        server = self._server
        server.stats.udp_queries += 1
        server.take(data, lambda message: self._send(message, addr), over_tcp=False)

    def error_received(self, exc: Exception) -> None:
        """A client has closed its socket before the reply came."""

    def pause_writing(self) -> None:
        self._send = _drop

    def resume_writing(self) -> None:
        self._send = self._sendto

    def connection_lost(self, exc: Exception | None) -> None:
        self.shut()

    def shut(self) -> None:
        """Nothing is sent any more."""
        self._send = self._sendto = _drop


def _drop(message: bytes, addr: Any) -> None:
    """The way to the clients is closed, or full: they ask again."""


class _Stream(asyncio.Protocol):
    """One TCP connection: messages, each behind its length in two bytes (RFC 1035 section 4.2.2)."""

    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._pending = 0
        self._is_paused = False
        self._is_full = False
        """The client does not take its replies."""
        self._at_end = False
        """The client sends nothing more."""
        self.active_s = server.now()
        """When it last sent a whole question, or was sent a reply (loop seconds)."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        server = self._server
        self._transport = cast("asyncio.Transport", transport)
        if len(server.connections) >= MAX_CONNECTIONS:
            server.stats.tcp_overflow += 1
            self._transport.abort()
            return
        server.connections.add(self)
        server.stats.tcp_active = len(server.connections)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._server.connections.discard(self)
        self._server.stats.tcp_active = len(self._server.connections)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._serve()

    def eof_received(self) -> bool:
        """``True`` keeps the connection for the replies that are still to come."""
        self._at_end = True
        return self._pending > 0

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self._serve()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _serve(self) -> None:
        """Take what is complete, as far as it may be taken now."""
        buffer = self._buffer
        while self._is_open and not self._is_held and len(buffer) >= 2:
            size = int.from_bytes(buffer[:2], "big")
            if size > MAX_QUERY_BYTES:
                self.abort()
                return
            if len(buffer) < 2 + size:
                break
            message = bytes(buffer[2 : 2 + size])
            del buffer[: 2 + size]
            self._take(message)
        if self._is_open and self._is_held != self._is_paused:
            assert self._transport is not None
            self._is_paused = self._is_held
            if self._is_paused:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    @property
    def _is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def _is_held(self) -> bool:
        return self._is_full or self._pending >= MAX_PENDING

    def _take(self, message: bytes) -> None:
        server = self._server
        server.stats.tcp_queries += 1
        self.active_s = server.now()
        self._pending += 1
        if not server.take(message, self._send, over_tcp=True):
            self.abort()

    def _send(self, message: bytes) -> None:
        transport = self._transport
        was_held = self._is_held
        self._pending -= 1
        if transport is None or transport.is_closing():
            return
        self.active_s = self._server.now()
        transport.write(len(message).to_bytes(2, "big") + message)
        if self._at_end and not self._pending:
            transport.close()
        elif was_held and not self._is_held:
            self._server.soon(self._serve)
