"""Connections that the kernel redirected to us: where did they mean to go?

    application -> 242.7.8.9:80     netfilter REDIRECT     listener on redirectPortOutbound
        -> the listener of that virtual IP, which need not have a socket of its own; or
        -> passthrough to the very destination, where the mesh allows it; or
        -> closed.

    peer -> the application's port  netfilter REDIRECT     listener on redirectPortInbound
        -> the inbound of that address and port, with its mTLS; or
        -> passthrough to the application, where that is allowed (``InboundTerms.lets_undeclared_pass``); or
        -> closed.

The kernel remembers the destination with the connection (``SO_ORIGINAL_DST``). A connection that was not redirected has
none: then it counts where it arrived, which is right for TPROXY. One that meant the redirecting port itself is closed,
since passing it on would lead here again, and again. Our own connections must be exempt from the redirect, as in Kuma:
by the user that we run as.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, cast

from proxy.balance import Endpoint
from proxy.outcome import Outcome
from proxy.relay import ByteTransport, Downstream

if TYPE_CHECKING:
    from proxy.listener import Listener

SO_ORIGINAL_DST = 80
"""``linux/netfilter_ipv4.h``; ``IP6T_SO_ORIGINAL_DST`` has the same number."""
_SOCKADDR_IN = struct.Struct("!2xH4s8x")
_SOCKADDR_IN6 = struct.Struct("!2xH4x16s4x")

Destination = tuple[str, int]


def original_destination(sock: socket.socket) -> Destination:
    """(IP text, port) that the peer connected to, before any redirect. Raises ``OSError``."""
    try:
        if sock.family == socket.AF_INET6:
            raw = sock.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, _SOCKADDR_IN6.size)
            port, address = _SOCKADDR_IN6.unpack(raw)
            return socket.inet_ntop(socket.AF_INET6, address), port
        port, address = _SOCKADDR_IN.unpack(sock.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, _SOCKADDR_IN.size))
        return socket.inet_ntop(socket.AF_INET, address), port
    except OSError:  # not redirected, or the kernel does not track connections
        host, port, *_ = sock.getsockname()
        return host, port


class Redirected(asyncio.Protocol):
    """Lives for the moment between accepting and knowing whose the connection is; then that listener's protocol takes
    the transport over.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        listener = self._listener
        sock = cast("socket.socket", transport.get_extra_info("socket"))
        try:
            destination = listener.destination_of(sock)
        except OSError:  # gone already
            destination = ("", 0)
        owner = listener.owner_of(destination)
        protocol: asyncio.Protocol
        if owner is not None:
            protocol = owner.accept()
        else:
            passed = Downstream(listener)
            passed.destination = Endpoint(destination, destination[0], False)
            if destination[1] in (0, listener.port):
                passed.outcome = Outcome.NO_CLUSTER
            protocol = passed
        cast("asyncio.Transport", transport).set_protocol(protocol)
        protocol.connection_made(transport)
        if isinstance(protocol, Downstream) and protocol.outcome is Outcome.NO_CLUSTER:
            cast("ByteTransport", transport).close()
