"""A pooled connection to an endpoint, speaking HTTP/2: many exchanges at a time, each on a stream of its own.

    Http2Upstream    the connection: bytes to and from the engine, and what becomes of it
    OriginStream     a stream as an exchange sees it

What is to be sent for all clients in one turn of the loop is written once (``h2_output``).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, cast

from config.plan import Protocol
from proxy.balance import Endpoint
from proxy.http.h2_lockstep import Lockstep
from proxy.http.h2_output import Http2Output
from proxy.http.headers import request_block, request_id_field
from proxy.http.pool import PooledConnection
from proxy.http.request_id import next_id
from proxy.large_reads import SMALL_READ_BYTES, LargeReads
from proxy.outcome import Outcome
from proxy.wire import NONE, BadMessage, Field, ResponseHead
from proxy.wire.h2 import CLIENT_SETTINGS, RESPONSE_LIMITS, Broken, Connection, ErrorCode, Stream
from tls.handshake import Refused

if TYPE_CHECKING:
    from proxy.http.exchange import Exchange
    from proxy.http.h2_pool import Http2Pool
    from tls.policy import Origination

REFILL_INTERVAL_S = 5.0
STALLED_S = 5.0
"""How long a response may stand still, because its client does not take it, while others wait for what it holds up."""


class OriginStream(Stream):
    """One request and its response. ``wants_end``: the request has a body, whose end is to be said. ``full_since``:
    when its client had enough for now, if it still has.
    """

    __slots__ = (
        "_grpc_status", "_is_untouched", "_owner", "_speaks_grpc", "endpoint", "exchange", "full_since", "wants_end",
    )  # fmt: skip

    may_refuse = True
    ended = False  # an upgrade is not known to HTTP/2

    def __init__(self, connection: Http2Upstream) -> None:
        super().__init__()
        self._owner = connection
        self._is_untouched = True
        self._speaks_grpc = connection.speaks_grpc
        self._grpc_status: bytes | None = None
        self.endpoint = connection.endpoint
        self.exchange: Exchange | None = None
        self.wants_end = False
        self.full_since: float | None = None

    @property
    def reuses(self) -> bool:
        return self._owner.served > 1

    @property
    def is_untouched(self) -> bool:
        return self._is_untouched

    # The exchange

    def begin(self, exchange: Exchange) -> None:
        self.exchange = exchange
        head = exchange.head
        connection = self._owner
        connection.served += 1
        lockstep, output = connection.lockstep, exchange.client.output
        if output is not lockstep.client and (lockstep.client is not None or not connection.engine.streams):
            lockstep.change(output, is_only=not connection.engine.streams)
        caller = exchange.client.caller
        rendered = request_block(head, self.endpoint.authority, connection.scheme, caller is not None)
        request_id = exchange.request_id
        if request_id is None:
            request_id = exchange.request_id = rendered.request_id or next_id()
        is_whole = head.body == NONE or head.body == 0
        self.wants_end = not is_whole
        late = request_id_field(request_id)
        if caller is not None:
            late += caller.http2_field
        connection.engine.open(self, head.method, rendered.block, late, is_whole)

    def send(self, data: bytes, last: bool) -> None:
        self.send_data(data, last)
        if last:
            self.wants_end = False
        if self.queued and self.exchange is not None:
            self.exchange.client.pause_reading()

    def send_end(self, trailers: Sequence[Field] | None) -> None:
        self.send_trailers(trailers or ())

    def cancel(self) -> None:
        self.exchange = None
        self.reset(ErrorCode.CANCEL)

    def pause_reading(self) -> None:
        if self.full_since is None:
            self.full_since = self._owner.now()
        self.pause()

    def resume_reading(self) -> None:
        self.full_since = None
        self.resume()

    def write_eof(self) -> None:
        raise RuntimeError("HTTP/2 has no tunnels")

    def close(self) -> None:
        raise RuntimeError("HTTP/2 has no tunnels")

    # The engine

    def on_head(self, head: ResponseHead) -> None:
        self._is_untouched = False
        exchange = self.exchange
        assert exchange is not None
        if head.status < 200:
            self._owner.pool.interim(head.status)
            return
        if self._speaks_grpc and (head.body == NONE or head.body == 0):
            self._grpc_status = next((value for name, value in head.fields if name == b"grpc-status"), None)
        exchange.response_head(head)
        if exchange.client.defers_head:
            self._owner.deferred.append(exchange)

    def on_data(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            return
        exchange.response_data(data, self.remote_ended)
        if not self.remote_ended and self.onward is None and isinstance(exchange.client, Stream):
            self.onward = exchange.client

    def on_passed(self, size: int) -> None:
        assert self.exchange is not None
        self.exchange.sent += size

    def on_end(self, trailers: list[Field] | None) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            return
        if not self.local_ended:
            self.reset(ErrorCode.NO_ERROR)  # the origin wants no more of the request
        if self._speaks_grpc and trailers:
            self._grpc_status = next((value for name, value in trailers if name == b"grpc-status"), None)
        exchange.response_end(trailers, self._grpc_status)

    def on_reset(self, code: ErrorCode, unprocessed: bool) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            return
        connection = self._owner
        if self.fault is not None:
            exchange.upstream_broke(BadMessage(502, "http2.violation.of.messaging.rule", self.fault))
        elif connection.broken is not None:
            exchange.upstream_broke(connection.broken)
        elif connection.lost is not None:
            # A server begins with SETTINGS (RFC 9113 §3.4). One that said nothing has not taken the connection up: it
            # lay in the backlog of a listener that is no more, as of a server that restarts.
            was_never_open = connection.lost is Outcome.UPSTREAM_CLOSED and not connection.engine.settled
            exchange.upstream_lost(connection.lost, unprocessed=was_never_open)
        elif code == ErrorCode.PROTOCOL_ERROR:
            exchange.upstream_broke(BadMessage(502, "http2.remote_reset", "the origin calls the request malformed"))
        else:
            is_refused = code == ErrorCode.REFUSED_STREAM
            outcome = Outcome.UPSTREAM_STREAM_REFUSED if is_refused else Outcome.UPSTREAM_STREAM_RESET
            exchange.upstream_lost(outcome, unprocessed=unprocessed)

    def on_drained(self) -> None:
        if self.exchange is not None:
            self.exchange.client.resume_reading()


class Http2Upstream(PooledConnection):
    """``is_pooled``: the pool's list of those with room has it. ``broken``: how the origin broke the protocol.
    ``lost``: what took the connection away.
    """

    __slots__ = (
        "_loop", "_output", "_refill", "broken", "deferred", "engine", "is_pooled", "lockstep", "lost", "now",
        "on_output", "pool", "scheme", "speaks_grpc",
    )  # fmt: skip

    def __init__(self, pool: Http2Pool, endpoint: Endpoint, policy: Origination | None) -> None:
        super().__init__(endpoint, policy)
        self.pool = pool
        self.scheme = b"http" if policy is None else b"https"
        self.speaks_grpc = pool.cluster.plan.protocol is Protocol.GRPC
        self.engine = Connection(self, None, CLIENT_SETTINGS, RESPONSE_LIMITS)
        self._output = Http2Output(self.engine)
        self.on_output = self._output.begin
        self.deferred: list[Exchange] = []
        """Exchanges whose heads came in this read, and wait for data."""
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self._refill: asyncio.TimerHandle | None = None
        self.lockstep = Lockstep()
        self.is_pooled = False
        self.broken: BadMessage | None = None
        self.lost: Outcome | None = None

    @property
    def sent(self) -> int:
        return self._output.sent

    # Life

    def _opened(self) -> None:
        self._output.transport = self.lockstep.transport = self.transport
        self.engine.start()
        self._schedule_refill()
        self.pool.opened(self)

    def _schedule_refill(self) -> None:
        self._refill = self._loop.call_later(REFILL_INTERVAL_S, self._refill_budgets)

    def _refill_budgets(self) -> None:
        engine = self.engine
        engine.refill()
        if engine.is_nearly_blocked and not all(stream.clogs for stream in engine.streams.values()):
            self.end_stalled()  # else little of the window is left for those who take what they get
        self._schedule_refill()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.connected:
            return
        self.failure = exc
        self.retired = True
        self.lockstep.end()
        if self._refill is not None:
            self._refill.cancel()
        is_tls = isinstance(exc, (ssl.SSLError, Refused))
        self.lost = Outcome.UPSTREAM_TLS_FAILED if is_tls else Outcome.UPSTREAM_CLOSED
        self.pool.lost(self, self.lost if is_tls else None)
        self.engine.abandon()

    def close(self) -> None:
        """Say goodbye and end. For a connection without exchanges."""
        self.retired = True
        self.engine.go_away()
        self._output.flush()
        self.transport.close()

    def retire(self) -> None:
        self.retired = True
        self.pool.withdraw(self)
        if not self.engine.streams:
            self.close()

    def idle_out(self) -> None:
        if not self.engine.streams:
            self.close()

    @property
    def has_room(self) -> bool:
        """Whether another exchange can begin. Not where clients that do not take their responses have used up most of
        the window that all share.
        """
        engine = self.engine
        return not self.retired and engine.can_open and not engine.is_clogged and not self.transport.is_closing()

    def end_stalled(self) -> bool:
        """End exchanges whose clients have taken nothing for :data:`STALLED_S`, the one that stands still the longest
        first, as long as they clog the connection. Whether they no longer do. That nothing moved before there was
        anything to take (an origin that thinks, a gRPC stream that had nothing to say) is not the client's doing.
        """
        engine, now = self.engine, self.now()
        stalled: list[tuple[float, Exchange]] = []
        for stream in cast("Iterable[OriginStream]", engine.streams.values()):
            exchange, full_since = stream.exchange, stream.full_since
            if stream.clogs and exchange is not None and full_since is not None:
                stalled.append((max(exchange.client.still_since(now), full_since), exchange))
        for since, exchange in sorted(stalled, key=itemgetter(0)):
            if not engine.is_clogged or now - since < STALLED_S:
                break
            exchange.listener.http.downstream_rq_idle_timeout += 1
            exchange.idle_out()
        return not engine.is_clogged

    # Bytes

    def data_received(self, data: bytes | memoryview) -> None:
        self.received += len(data)
        receive: Callable[[Any], None] = self.engine.receive
        if type(data) is memoryview:
            receive = self.engine.receive_large
        elif len(data) >= SMALL_READ_BYTES:
            transport = cast("asyncio.Transport", self.transport)
            transport.set_protocol(LargeReads(self, transport))
        self._output.is_held = True
        try:
            receive(data)
        except Broken as broken:
            self._break(broken)
            return
        finally:
            self._output.is_held = False
        if self.deferred:
            self._flush_heads()
        if self.engine.settled:
            self.endpoint.max_streams = self.engine.max_streams
        if self.engine.out:
            self._output.flush()
        client = self.lockstep.client
        if client is not None and type(data) is memoryview:
            client.flush_early()
        if client is not None and client.is_full:
            self.lockstep.wait()

    large_read = data_received

    def _flush_heads(self) -> None:
        deferred, self.deferred = self.deferred, []
        for exchange in deferred:
            if not exchange.over:
                exchange.client.response_flush()

    def _break(self, broken: Broken) -> None:
        """The origin broke the protocol: every exchange here is over, and the connection."""
        self.broken = BadMessage(502, "http2.protocol_error", broken.detail)
        self.retired = True
        self._output.flush()
        self.engine.abandon()
        self.transport.close()

    def eof_received(self) -> bool:
        self.ended = True
        return False

    def pause_writing(self) -> None:
        self.engine.pause()

    def resume_writing(self) -> None:
        self.engine.resume()

    # The engine

    def on_goaway(self) -> None:
        self.pool.cluster.stats.upstream_cx_close_notify += 1
        self.retire()

    def on_capacity(self) -> None:
        if self.retired:
            if not self.engine.streams and not self.transport.is_closing():
                self.close()
        elif not self.is_pooled or self.pool.waiting_count:
            self.pool.has_room(self)
