"""Layer-4 relay: bytes from an application to an endpoint and back.

Who does what
    A :class:`Downstream` is an accepted connection and owns the whole relay: its accounting, its upstream and its end.
    An :class:`Upstream` is the other side, over plain TCP, a unix socket, or a :class:`proxy.tls_stream.TlsStream`; it
    cannot tell which. Both are a :class:`Side`: what arrives on one is written to the other, in the same call.

What much costs
    A direction that has much to pass on, where neither side is TLS, is taken over by the kernel for as long as it has
    (``splicing``).

What bounds memory
    A side whose write buffer passes the high-water mark stops the *reading* of the other (and a buffer below the
    low-water mark resumes it), so at most one buffer and one read (256 KiB) wait per direction.

How it ends
    End of stream is passed on as a half-close, and the other direction goes on; when both have ended, both close. A
    reset is passed on as a reset. Bytes are never invented, reordered or dropped before an orderly end.

What bounds time
    Connecting is bounded by the cluster; afterwards ``idle_timeout_s`` without a byte either way ends the relay. There
    is no timer per connection: the cluster looks at the byte counts of all its relays a few times per timeout.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, cast

from proxy.dialled import ClusterConnection, Idleness
from proxy.large_reads import LARGE_READ_BYTES
from proxy.outcome import Outcome
from proxy.splicing import LARGE_READS
from proxy.tasks import spawn
from tls.handshake import Refused

if TYPE_CHECKING:
    from proxy.balance import Endpoint
    from proxy.caller import Caller
    from proxy.cluster import Cluster
    from proxy.listener import Listener
    from proxy.splicing import Splice

_LINGER_RESET = struct.pack("ii", 1, 0)


class ByteTransport(Protocol):
    """The part of an asyncio transport that a relay uses; ``TlsStream`` has it too."""

    def write(self, data: bytes | memoryview[int]) -> None: ...
    def writelines(self, data: list[bytes]) -> None: ...
    def get_write_buffer_size(self) -> int: ...
    def write_eof(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def is_closing(self) -> bool: ...
    def get_extra_info(self, name: str, default: object = None) -> object: ...


def reset(transport: ByteTransport) -> None:
    """Close with a RST, so that the peer learns that the stream did not end in order."""
    sock = cast("socket.socket | None", transport.get_extra_info("socket"))
    if sock is not None and not transport.is_closing() and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
    transport.abort()


class Side(asyncio.Protocol, ABC):
    """One end of a relay. ``forward`` and ``forward_all`` write to the other; ``received`` counts bytes read here.
    ``splice``: who reads them instead, for now.
    """

    __slots__ = (
        "_cluster", "_large_reads", "closed", "ended", "forward", "forward_all", "other", "received", "splice",
        "transport",
    )  # fmt: skip

    transport: ByteTransport
    forward: Callable[[bytes], None]
    forward_all: Callable[[list[bytes]], None]

    def __init__(self) -> None:
        self.other: Side | None = None
        self.received = 0
        self.ended = False
        self.closed = False
        self.splice: Splice | None = None
        self._large_reads = 0
        self._cluster: Cluster | None = None

    def much_received(self) -> None:
        """Called after it was written on. Several such reads are a sign that more will come."""
        self._large_reads += 1
        self._begins_splice()

    def _begins_splice(self) -> bool:
        if self._large_reads < LARGE_READS or self.other is None or self._cluster is None:
            return False
        begins = self._cluster.splice(self, self.other)
        if begins:
            self._large_reads = 0
        return begins

    @abstractmethod
    def socket_broke(self) -> None: ...

    def spliced(self, nbytes: int) -> None:
        self.received += nbytes

    def chunks_received(self, chunks: list[bytes]) -> None:
        """What one read brought in several pieces (TLS records): written on without joining them."""
        self.received += sum(map(len, chunks))
        self.forward_all(chunks)

    def join(self, other: Side, cluster: Cluster) -> None:
        self.other = other
        self._cluster = cluster
        self.forward = other.transport.write
        self.forward_all = other.transport.writelines

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        other = self.other
        if other is not None and other.splice is None and not other.ended and not other._begins_splice():
            other.transport.resume_reading()

    def eof_received(self) -> bool:
        """End of stream: passed on as a half-close. True keeps our writing direction open."""
        self.ended = True
        other = self.other
        if other is None or other.closed:
            return other is None
        if other.ended:
            other.transport.close()
            return False
        other.transport.write_eof()
        return True


class Upstream(Side, ClusterConnection):
    """The side towards the endpoint.

    ``connected`` from the moment in which the connection is ours; ``abandoned`` once the dialer gave up on it: if it
    comes about all the same, it is aborted. ``failure`` is what the connection ended with.
    """

    __slots__ = ("abandoned", "connected", "downstream", "endpoint", "failure", "idleness", "opened_s")

    def __init__(self, downstream: Downstream, endpoint: Endpoint) -> None:
        super().__init__()
        self.downstream = downstream
        self.endpoint = endpoint
        self.idleness = Idleness()
        self.connected = False
        self.abandoned = False
        self.failure: Exception | None = None

    def data_received(self, data: bytes) -> None:
        """Each side has its own: CPython remembers one class for each place in the code that it makes fast."""
        size = len(data)
        self.received += size
        forward = self.forward
        forward(data)
        if size >= LARGE_READ_BYTES:
            self.much_received()

    def socket_broke(self) -> None:
        if self.downstream.outcome is None:
            self.downstream.outcome = Outcome.UPSTREAM_RESET
        self.transport.abort()

    def abandon(self) -> None:
        self.abandoned = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("ByteTransport", transport)
        if self.abandoned:
            self.transport.abort()
            return
        self.connected = self.downstream.upstream_connected(self)

    @property
    def sent(self) -> int:
        return self.downstream.received

    def idle_out(self) -> None:
        if self.downstream.outcome is Outcome.IDLE_TIMEOUT:
            self.downstream.abort()  # a tick ago it was asked to end, and somebody does not take what is left
        else:
            self.downstream.end(Outcome.IDLE_TIMEOUT)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.failure = exc
        if self.other is not None:
            self.downstream.upstream_lost(exc)


class Downstream(Side):
    """The side towards the application, and the relay itself."""

    __slots__ = (
        "_connecting", "_held", "caller", "cluster", "destination", "listener", "outcome", "started_s", "upstream",
    )  # fmt: skip

    def __init__(self, listener: Listener, caller: Caller | None = None) -> None:
        super().__init__()
        self.listener = listener
        self.caller = caller
        self.cluster: Cluster | None = None
        self.destination: Endpoint | None = None
        """Where it has to go, of a connection that is only passed through; else the cluster knows."""
        self.upstream: Upstream | None = None
        self.outcome: Outcome | None = None
        self.forward = self._hold
        self._held: list[bytes] = []
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("ByteTransport", transport)
        self.started_s = self.listener.opened(self)
        if self.outcome is None:
            self._connecting = spawn(self._connect(), f"connect {self.listener.plan.name}")

    def data_received(self, data: bytes) -> None:
        """Each side has its own: CPython remembers one class for each place in the code that it makes fast."""
        size = len(data)
        self.received += size
        forward = self.forward
        forward(data)
        if size >= LARGE_READ_BYTES:
            self.much_received()

    def socket_broke(self) -> None:
        if self.outcome is None:
            self.outcome = Outcome.DOWNSTREAM_RESET
        self.transport.abort()

    def _hold(self, data: bytes) -> None:
        """Until the upstream is there: keep what one read brought and read no more."""
        self._held.append(data)
        self.transport.pause_reading()

    async def _connect(self) -> None:
        cluster = self.cluster = self.listener.cluster
        if cluster is None:
            self.end(Outcome.NO_CLUSTER)
            return
        try:
            outcome = await cluster.connect(self)
        except Exception:  # a fault of ours, which the task logs: the application must not wait for it for ever
            self.end(Outcome.UPSTREAM_CONNECT_FAILED)
            raise
        self._connecting = None
        if outcome is not None:
            self.end(outcome)

    def upstream_connected(self, upstream: Upstream) -> bool:
        """Called by the upstream's transport, before any byte of the upstream can arrive. False: we have gone."""
        if self.closed or self.transport.is_closing():
            upstream.transport.abort()
            return False
        assert self.cluster is not None
        self.cluster.connections.add(upstream)
        self.upstream = upstream
        upstream.join(self, self.cluster)
        self.join(upstream, self.cluster)
        if self._held:
            if not self.ended:
                self.transport.resume_reading()  # first: what is written now may fill the upstream, which pauses again
            held, self._held = self._held, []
            for data in held:
                upstream.transport.write(data)
        if self.ended:
            upstream.transport.write_eof()
        return True

    @property
    def sent(self) -> int:
        """Bytes handed to the application's transport."""
        return self.upstream.received if self.upstream is not None else 0

    def drain(self) -> None:
        """The listener is closing: a relay ends when its two sides say so, so there is nothing to do."""

    def end(self, outcome: Outcome) -> None:
        """End the relay for a reason of ours. Closes what is open; accounting follows when the transports are gone."""
        if self.outcome is None:
            self.outcome = outcome
        self._unsplice()
        if self.upstream is not None and not self.upstream.closed:
            self.upstream.transport.close()
        if not self.closed:
            self.transport.close()

    def _unsplice(self) -> None:
        """A side is lost, or about to be closed."""
        for side in (self, self.upstream):
            if side is not None and side.splice is not None:
                side.splice.hand_back()

    def abort(self) -> None:
        """After :meth:`end`, for peers that do not take what is left for them."""
        if self.upstream is not None and not self.upstream.closed:
            self.upstream.transport.abort()
        if not self.closed:
            self.transport.abort()

    def upstream_lost(self, exc: Exception | None) -> None:
        if self.outcome is None:
            if exc is None:
                self.outcome = Outcome.COMPLETED
            elif isinstance(exc, (ssl.SSLError, Refused)):
                self.outcome = Outcome.UPSTREAM_TLS_FAILED
            else:
                self.outcome = Outcome.UPSTREAM_RESET
        if self.splice is not None or (self.upstream is not None and self.upstream.splice is not None):
            self._unsplice()
        if not self.closed:
            if self.outcome is Outcome.UPSTREAM_RESET:
                reset(self.transport)
            else:
                self.transport.close()
        self._settle()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        upstream = self.upstream
        if upstream is None:
            if self._connecting is not None:
                self._connecting.cancel()
            if self.outcome is None:
                self.outcome = Outcome.DOWNSTREAM_CLOSED_EARLY
        else:
            if self.outcome is None:
                self.outcome = Outcome.COMPLETED if exc is None else Outcome.DOWNSTREAM_RESET
            if self.splice is not None or upstream.splice is not None:
                self._unsplice()
            if not upstream.closed:
                if self.outcome is Outcome.DOWNSTREAM_RESET:
                    reset(upstream.transport)
                else:
                    upstream.transport.close()
        self._settle()

    def _settle(self) -> None:
        """Account for the relay once, when both transports are gone."""
        upstream = self.upstream
        if not self.closed or (upstream is not None and not upstream.closed):
            return
        assert self.outcome is not None
        if upstream is not None:
            assert self.cluster is not None
            self.cluster.closed(upstream, self.outcome)
        self.listener.closed(self)
        # Each side holds the other: untie them, so that a relay is freed at once and not by the collector.
        if upstream is not None:
            self.other = self.upstream = upstream.other = None
            del self.forward_all, upstream.forward, upstream.forward_all
        del self.forward
