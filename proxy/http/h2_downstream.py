"""A client's connection, speaking HTTP/2: many exchanges at a time, each on a stream of its own.

    Http2Downstream    the connection: bytes to and from the engine, time limits, drain
    ClientStream       a stream as an exchange sees it

It begins where ``h1_downstream`` has seen the preface of HTTP/2 instead of a request. What is to be sent in one turn of
the loop is written once (``h2_output``).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from proxy.http.affinity import PeerName
from proxy.http.exchange import Exchange
from proxy.http.h2_output import Http2Output
from proxy.http.h2_turns import HALF_SPENT
from proxy.http.headers import late_fields, response_block
from proxy.http.replies import reply_fields
from proxy.http.timeouts import IDLE_TIMEOUT_S, LINGER_S, SETTINGS_DEADLINE_S, STREAM_IDLE_TIMEOUT_S
from proxy.large_reads import SMALL_READ_BYTES, LargeReads
from proxy.outcome import Outcome
from proxy.relay import ByteTransport
from proxy.wire import NONE, BadMessage, Field, RequestHead, ResponseHead
from proxy.wire.h2 import REQUEST_LIMITS, SERVER_SETTINGS, Broken, Connection, ErrorCode, FieldBlock, Stream

if TYPE_CHECKING:
    from proxy.caller import Caller
    from proxy.listener import Listener

_CONTINUE = FieldBlock([(b":status", b"100")])


class ClientStream(Stream):
    """One request and its response."""

    __slots__ = ("_bytes_seen", "_last_change", "_owner", "caller", "exchange", "output")

    defers_head = False

    def __init__(self, connection: Http2Downstream) -> None:
        super().__init__()
        self._owner = connection
        self.caller = connection.caller
        self.output: Http2Output | None = connection.output
        self.exchange: Exchange | None = None
        self._bytes_seen = 0
        self._last_change = 0.0

    # The engine

    def on_head(self, head: RequestHead) -> None:
        connection = self._owner
        listener = connection.listener
        now = self._last_change = listener.now()
        listener.http.downstream_rq_http2_total += 1
        if head.method == b"CONNECT":
            self.on_refused(BadMessage(405, "connect_refused", "CONNECT"))
            return
        if head.expects_continue:
            self.send_head(_CONTINUE)
        exchange = self.exchange = Exchange(self, listener, head, now)
        turns = connection.turns
        left = turns.left
        if left and not connection.begun:
            turns.left = left - 1
            if left == HALF_SPENT:
                turns.go_round()
            exchange.begin()
        else:
            connection.begin_later(exchange)

    def on_refused(self, bad: BadMessage) -> None:
        """There is no request that could be told apart."""
        self._owner.listener.refused(bad, (2, 0))
        fields = [(b":status", b"%d" % bad.status), *reply_fields(False, None)]
        self.send_head(FieldBlock(fields), b"", True)
        if not self.remote_ended:
            self.reset(ErrorCode.NO_ERROR)

    def on_data(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            return
        exchange.request_data(data, self.remote_ended)
        if not self.remote_ended and self.onward is None and not exchange.keeps_request:
            upstream = exchange.upstream
            if isinstance(upstream, Stream):
                self.onward = upstream

    def on_passed(self, size: int) -> None:
        assert self.exchange is not None
        self.exchange.received += size

    def on_end(self, trailers: list[Field] | None) -> None:
        if self.exchange is not None:
            self.exchange.request_end(trailers)

    def on_reset(self, code: ErrorCode, unprocessed: bool) -> None:
        exchange, self.exchange = self.exchange, None
        stats = self._owner.listener.http
        if self.fault is not None:
            stats.downstream_cx_protocol_error += 1
            self._owner.listener.note_refusal("http2.violation.of.messaging.rule", self.fault)
        if exchange is None:
            return
        stats.downstream_rq_rx_reset += 1
        if self.fault is not None:
            exchange.cancel(Outcome.REQUEST_REFUSED)
        else:
            exchange.cancel(self._owner.outcome or Outcome.DOWNSTREAM_STREAM_RESET)

    def on_drained(self) -> None:
        exchange = self.exchange
        if exchange is None:
            if not self.remote_ended:
                self._ask_for_no_more()
        elif exchange.upstream is not None:
            exchange.upstream.resume_reading()

    # The exchange

    @property
    def congested(self) -> bool:
        return self.queued > 0

    @property
    def peer(self) -> PeerName:
        return cast("PeerName", self._owner.transport.get_extra_info("peername"))

    @property
    def takes_as_it_comes(self) -> None:
        return None

    def response_head(self, head: ResponseHead, elapsed_ms: int) -> None:
        rendered = response_block(head)
        is_whole = head.body == NONE or head.body == 0
        self.send_head(rendered.block, late_fields(rendered.is_dated, elapsed_ms), is_whole)

    def response_data(self, data: bytes, last: bool) -> None:
        self.send_data(data, last)
        if self.queued:
            exchange = self.exchange
            if exchange is not None and exchange.upstream is not None:
                exchange.upstream.pause_reading()

    def response_flush(self) -> None:
        """A head is never kept here."""

    def response_end(self, trailers: Sequence[Field] | None) -> None:
        if not self.local_ended:
            self.send_trailers(trailers or ())

    def retract_head(self) -> bool:
        return False

    def reply(self, status: int, fields: list[Field], body: bytes) -> None:
        exchange = self.exchange
        assert exchange is not None
        fields = [(b":status", b"%d" % status), *fields]
        if body:
            fields.append((b"content-length", b"%d" % len(body)))
            if exchange.head.method == b"HEAD":
                body = b""
        self.send_head(FieldBlock(fields), b"", not body)
        if body:
            self.send_data(body, True)

    def cut(self) -> None:
        self.exchange = None
        self.reset(ErrorCode.INTERNAL_ERROR)

    def exchange_over(self) -> None:
        self.exchange = None
        if not self.remote_ended:
            self._owner.listener.http.downstream_rq_response_before_rq_complete += 1
            self._ask_for_no_more()

    def _ask_for_no_more(self) -> None:
        """The response has said all there is to say; the rest of the request is not wanted (RFC 9113 §8.1)."""
        if not self.queued:
            self.reset(ErrorCode.NO_ERROR)

    def pause_reading(self) -> None:
        self.pause()

    def resume_reading(self) -> None:
        self.resume()

    def switch_protocol(self, head: ResponseHead) -> None:
        raise RuntimeError("HTTP/2 has no tunnels")

    def write_eof(self) -> None:
        raise RuntimeError("HTTP/2 has no tunnels")

    def close(self) -> None:
        raise RuntimeError("HTTP/2 has no tunnels")

    # Time

    def _bytes_moved(self) -> int:
        exchange = self.exchange
        return self.queued if exchange is None else exchange.received + exchange.sent - self.queued

    def still_since(self, now: float) -> float:
        return self._last_change if self._bytes_moved() == self._bytes_seen else now

    def check_time(self, now: float) -> None:
        """End an exchange that stands still, and a response that is not taken."""
        exchange = self.exchange
        seen = self._bytes_moved()
        if seen != self._bytes_seen:
            self._bytes_seen, self._last_change = seen, now
            return
        limit_s = STREAM_IDLE_TIMEOUT_S if exchange is None else exchange.idle_timeout_s
        if limit_s and now - self._last_change > limit_s:
            self._owner.listener.http.downstream_rq_idle_timeout += 1
            if exchange is None:
                self.reset(ErrorCode.CANCEL)
            else:
                exchange.idle_out()


class Http2Downstream(asyncio.Protocol):
    """See the module. ``outcome`` is what ended the connection, as far as it was us. ``begun``: exchanges that are to
    ask for a connection to an endpoint when it is their turn (``turns``).
    """

    __slots__ = (
        "_closing", "_last_change", "_loop", "_may_take", "_received_seen", "begun", "caller", "engine",
        "listener", "now", "on_output", "outcome", "output", "received", "started_s", "transport", "turns",
    )  # fmt: skip

    output: Http2Output
    transport: ByteTransport

    def __init__(self, listener: Listener, received: int, started_s: float, caller: Caller | None = None) -> None:
        """``received`` and ``started_s`` of the connection as it was before its protocol was known."""
        self.listener = listener
        self.caller = caller
        self.now = listener.now
        self.outcome: Outcome | None = None
        self.received = received
        self.started_s = started_s
        self.engine = Connection(self, self._new_stream, SERVER_SETTINGS, REQUEST_LIMITS)
        self.output = Http2Output(self.engine, self._flush_later)
        self.on_output = self.output.begin
        self._loop = asyncio.get_running_loop()
        self.turns = listener.turns
        self.begun: deque[Exchange] = deque()
        self._may_take = 0
        self._closing = False
        self._received_seen = 0
        self._last_change = started_s

    @property
    def sent(self) -> int:
        return self.output.sent

    def _new_stream(self) -> ClientStream:
        return ClientStream(self)

    def begin_later(self, exchange: Exchange) -> None:
        """It is somebody else's turn. See ``h2_turns``."""
        exchange.begin(self.begun)
        self._may_take -= 1
        if self._may_take <= 0 and not self.engine.is_on_hold:
            self.engine.hold()
            self.transport.pause_reading()
        self.turns.wait(self)

    def go_on(self, requests: int) -> bool:
        """``Turns``."""
        begun = self.begun
        if self._closing:
            begun.clear()
            return False
        ready = min(requests, len(begun))
        if self.engine.is_on_hold:
            kept = self.engine.let_go()
            self.received -= len(kept)
            self._may_take = requests
            self.data_received(kept)
            self._may_take = 0
            if not self._closing and not self.engine.is_on_hold:
                self.transport.resume_reading()
        for _ in range(ready):
            begun.popleft().lease()
        return bool(begun) or self.engine.is_on_hold

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = self.output.transport = cast("ByteTransport", transport)
        self.listener.http.downstream_cx_http2_total += 1
        self.engine.start()

    def data_received(self, data: bytes | memoryview) -> None:
        self.received += len(data)
        if self._closing:
            return
        receive: Callable[[Any], None] = self.engine.receive
        if type(data) is memoryview:
            receive = self.engine.receive_large
        elif len(data) >= SMALL_READ_BYTES:
            transport = cast("asyncio.Transport", self.transport)
            transport.set_protocol(LargeReads(self, transport))
        self.output.is_held = True
        try:
            receive(data)
        except Broken as broken:
            self._refuse(broken)
            return
        finally:
            self.output.is_held = False
        if self.engine.out:
            self.output.flush()
        if self.engine.draining:
            self._close_if_done()

    large_read = data_received

    def _flush_later(self) -> None:
        self.output.flush()
        if self.engine.draining:
            self._close_if_done()

    def _refuse(self, broken: Broken) -> None:
        """The client broke the rules of HTTP/2. GOAWAY is the last word."""
        self.outcome = Outcome.REQUEST_REFUSED
        self.listener.http.downstream_cx_protocol_error += 1
        code = "http2.too_many_frames" if broken.over_budget else "http2.protocol_error"
        self.listener.note_refusal(code, broken.detail)
        self.output.flush()
        self._closing = True
        self.engine.abandon()
        self._linger()

    def _linger(self) -> None:
        """End our side, and close when the client does, or soon: what it still sends is dropped."""
        if not self.transport.is_closing():
            self.transport.write_eof()
            self.transport.resume_reading()
            self._loop.call_later(LINGER_S, self.transport.close)

    def eof_received(self) -> bool:
        """The client is gone: without its WINDOW_UPDATEs most responses could not end, and an exchange that waits for
        its origin would not notice.
        """
        self._closing = True
        if self.outcome is None and self.engine.streams:
            self.outcome = Outcome.DOWNSTREAM_RESET
        self.engine.abandon()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        if self.outcome is None:
            self.outcome = Outcome.COMPLETED if exc is None and not self.engine.streams else Outcome.DOWNSTREAM_RESET
        self.engine.abandon()
        self.output.end()
        self.listener.closed(self)

    def pause_writing(self) -> None:
        self.output.pause()

    def resume_writing(self) -> None:
        self.output.resume()

    # The engine

    def on_goaway(self) -> None:
        """The client opens no more streams; it closes when it has its answers."""

    def on_capacity(self) -> None:
        """A client's streams are the client's to count."""

    # The listener

    def _close_when_done(self) -> None:
        if not self._closing:
            self.engine.go_away()
            self.output.flush()
            self._close_if_done()

    def _close_if_done(self) -> None:
        """What the client has sent before it saw our GOAWAY is still served; what it sends afterwards must not make a
        reset of our end.
        """
        engine = self.engine
        if not engine.streams and engine.said_goodbye and not engine.is_on_hold and not self._closing:
            self._closing = True
            self._linger()

    def drain(self) -> None:
        """No more requests: after those that are on their way or being answered. A client that does not say that it has
        seen our GOAWAY is not waited for.
        """
        self._close_when_done()
        self._loop.call_later(LINGER_S, self._close_when_done)

    def end(self, outcome: Outcome) -> None:
        self.outcome = outcome
        if not self._closing:
            self.engine.go_away()
            self.output.flush()
        self._closing = True
        self.engine.abandon()
        self.transport.close()

    def abort(self) -> None:
        self.transport.abort()

    def check_times(self, now: float) -> None:
        """Look at the time limits, and give the budgets their share of time."""
        engine = self.engine
        engine.refill()
        seen = self.received + self.sent
        if seen != self._received_seen:
            self._received_seen, self._last_change = seen, now
        idle_s = now - self._last_change
        if self._closing:
            if idle_s > STREAM_IDLE_TIMEOUT_S:
                self.transport.abort()  # the client does not take what is left for it
        elif engine.streams:
            for stream in tuple(engine.streams.values()):
                cast("ClientStream", stream).check_time(now)
        elif not engine.settled:
            if now - self.started_s > SETTINGS_DEADLINE_S:
                self.listener.http.downstream_rq_header_timeout += 1
                self.end(Outcome.HEAD_TIMEOUT)
        elif idle_s > IDLE_TIMEOUT_S:
            self.listener.http.downstream_cx_idle_timeout += 1
            self.end(Outcome.IDLE_TIMEOUT)
