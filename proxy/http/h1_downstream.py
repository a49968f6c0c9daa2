"""A client's connection, speaking HTTP/1.1 (and 1.0): requests in, one exchange at a time, responses out in order.

Pipelined requests wait in the reader, and the connection is not read from while they do. What the client may not do
ends the connection with an answer that says so (400, 405, 408, 414, 431, 501, 505), and nothing of it reaches an
endpoint.

How it closes: after a last response the write side ends first, and what the client still sends is read and dropped for
a moment (``LINGER_S``), since closing with unread bytes would reset the connection and might take the response with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from config.plan import Protocol
from proxy.http.affinity import PeerName
from proxy.http.exchange import Exchange
from proxy.http.h2_downstream import Http2Downstream
from proxy.http.headers import rendered_response, rendered_switch
from proxy.http.replies import render_reply, reply_fields
from proxy.http.timeouts import IDLE_TIMEOUT_S, LINGER_S, STREAM_IDLE_TIMEOUT_S
from proxy.outcome import Outcome
from proxy.relay import ByteTransport
from proxy.wire import CHUNKED, NONE, UNTIL_CLOSE, BadMessage, Field, Framing, NotHttp, RequestHead, ResponseHead
from proxy.wire.body import chunk, last_chunk
from proxy.wire.h1 import RequestReader
from proxy.wire.h2 import PREFACE

if TYPE_CHECKING:
    from proxy.caller import Caller
    from proxy.http.h2_output import Http2Output
    from proxy.listener import Listener

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
PREFACE_SIZE = len(PREFACE)


class Http1Downstream(asyncio.Protocol):
    """See the module. ``outcome`` is what ended the connection, as far as it was us. ``congested``: the client does not
    take what is written.
    """

    __slots__ = (
        "_bytes_seen", "_closing", "_framing", "_head_since", "_last_change", "_last_response", "_pending",
        "_reader", "_reading_paused", "_request_over", "_sniffed", "_waits_for_client", "caller", "congested",
        "exchange", "listener", "now", "outcome", "received", "sent", "started_s", "transport", "tunnel",
    )  # fmt: skip

    transport: ByteTransport
    defers_head = True
    output: Http2Output | None = None

    def __init__(self, listener: Listener, caller: Caller | None = None) -> None:
        self.listener = listener
        self.caller = caller
        self.now = listener.now
        self.exchange: Exchange | None = None
        self.outcome: Outcome | None = None
        self.received = 0
        self.sent = 0
        self.tunnel = False
        self.congested = False
        self._reader = RequestReader(self)
        self._pending = b""  # a response's head, which waits for the first data
        self._framing: Framing = NONE
        self._sniffed = b""  # a beginning that may become the preface of HTTP/2
        self._closing = False
        self._last_response = False
        self._reading_paused = False
        self._request_over = True
        self._head_since = 0.0
        self._waits_for_client = False
        self._bytes_seen = 0
        self._last_change = 0.0

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("ByteTransport", transport)
        self.started_s = self._last_change = self.listener.opened(self)

    def data_received(self, data: bytes) -> None:
        received = self.received
        self.received = received + len(data)
        if self._closing:
            return
        if received < PREFACE_SIZE and self._may_be_http2(received, data):
            return
        try:
            self._reader.receive(data)
        except BadMessage as bad:
            self._refuse(bad)
            return
        if self._reader.pending:
            self.pause_reading()
        elif self.exchange is None:
            self._note_head()

    def _may_be_http2(self, received: int, data: bytes) -> bool:
        """Look at a connection's first bytes: True while they are, or may become, the preface of HTTP/2."""
        if received and not self._sniffed:
            return False
        start = self._sniffed + data
        if not start.startswith(PREFACE[: len(start)]):
            if self._sniffed:  # a request after all, which came in pieces
                self._sniffed = b""
                self.received = 0
                self.data_received(start)
                return True
            self.listener.http.downstream_cx_http1_total += 1
            return False
        self._sniffed = start
        if len(start) >= PREFACE_SIZE:
            successor = Http2Downstream(self.listener, self.received - len(start), self.started_s, self.caller)
            self.listener.replaced(self, successor)
            transport = cast("asyncio.Transport", self.transport)
            transport.set_protocol(successor)
            successor.connection_made(transport)
            successor.data_received(start)
        elif not self._head_since:
            self._head_since = self.now()
        return True

    def _note_head(self) -> None:
        """Remember when the head that is incomplete began."""
        if not self._reader.started:
            self._head_since = 0.0
        elif not self._head_since:
            self._head_since = self.now()

    def eof_received(self) -> bool:
        """A client that has no more to send may still wait for its response."""
        if self._closing:
            return False
        if self.tunnel:
            assert self.exchange is not None
            self.exchange.tunnel_client_ended()
            return True
        if self.exchange is None or not self._request_over:
            if self.exchange is not None:
                self.listener.http.downstream_rq_rx_reset += 1
                self.exchange.cancel(Outcome.DOWNSTREAM_RESET)
                self.exchange = None
            return False
        self._last_response = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._reader.stop()
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            self.listener.http.downstream_rq_rx_reset += 1
            exchange.cancel(Outcome.DOWNSTREAM_RESET)
        if self.outcome is None:
            self.outcome = Outcome.COMPLETED if exc is None else Outcome.DOWNSTREAM_RESET
        self.listener.closed(self)

    def pause_writing(self) -> None:
        self.congested = True
        if self.exchange is not None and self.exchange.upstream is not None:
            self.exchange.upstream.pause_reading()

    def resume_writing(self) -> None:
        self.congested = False
        if self._waits_for_client:
            self._next_request()
        elif self.exchange is not None and self.exchange.upstream is not None:
            self.exchange.upstream.resume_reading()

    def pause_reading(self) -> None:
        self._reading_paused = True
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._reader.pending and not self._closing:
            self._reading_paused = False
            self.transport.resume_reading()

    @property
    def peer(self) -> PeerName:
        return cast("PeerName", self.transport.get_extra_info("peername"))

    # Requests

    def on_head(self, head: RequestHead) -> None:
        self._request_over = False
        self._head_since = 0.0
        if head.expects_continue:
            self._write(CONTINUE)
        exchange = self.exchange = Exchange(self, self.listener, head, self.now())
        exchange.begin()

    def on_data(self, data: bytes) -> None:
        if self.exchange is not None:
            self.exchange.request_data(data)

    def on_end(self, trailers: list[Field] | None) -> None:
        self._request_over = True
        if self.tunnel:
            return
        if self.exchange is not None:
            self.exchange.request_end(trailers)
        elif not self._closing:
            self._next_request()  # it was answered before it had ended

    def _refuse(self, bad: BadMessage) -> None:
        """The client broke the rules of HTTP."""
        self.listener.http.downstream_cx_protocol_error += 1
        exchange, self.exchange = self.exchange, None
        self.outcome = Outcome.REQUEST_REFUSED
        if isinstance(bad, NotHttp) and not self.sent and self.listener.plan.protocol is not Protocol.HTTP:
            # RFC 9113 §3.4: an invalid preface, whose sender would not understand an answer in HTTP/1.
            self.listener.note_refusal("http2.protocol_error", "no HTTP/2 preface")
        elif exchange is None or exchange.status == 0:
            if exchange is not None:
                exchange.status = bad.status
            else:
                self.listener.refused(bad)
            self._answer(bad.status, b"")
        if exchange is not None:
            exchange.cancel(Outcome.REQUEST_REFUSED)
        self._say_goodbye(linger=True)

    def _answer(self, status: int, body: bytes) -> None:
        """The last word to a client without a request that could be told apart."""
        self._write(render_reply(status, reply_fields(bool(body), None), body, close=True))

    # Responses

    def _write(self, data: bytes) -> None:
        self.sent += len(data)
        self.transport.write(data)

    def is_last(self, head: RequestHead) -> bool:
        """Whether the connection ends with the response to this request."""
        return self._last_response or not head.keep_alive or not self.listener.listening

    def response_head(self, head: ResponseHead, elapsed_ms: int) -> None:
        exchange = self.exchange
        assert exchange is not None
        request = exchange.head
        if not exchange.request_ended:
            self._last_response = True  # the rest of the request will not be read
        is_last = self._last_response or not request.keep_alive or not self.listener.listening
        self._pending, self._framing = rendered_response(head, elapsed_ms, request.version == (1, 0), is_last)
        if self._framing == UNTIL_CLOSE:
            self._last_response = True

    def response_data(self, data: bytes, last: bool) -> None:
        pending = self._pending
        if self._framing == CHUNKED and not self.tunnel:
            size, data, end = chunk(data)
            self.sent += len(pending) + len(size) + len(data) + len(end)
            self.transport.writelines([pending + size, data, end])
        else:
            if pending:
                data = pending + data
            self.sent += len(data)
            self.transport.write(data)
        self._pending = b""

    @property
    def takes_as_it_comes(self) -> Http1Downstream | None:
        return None if self._framing == CHUNKED or self._pending else self

    def passed_by(self, nbytes: int) -> None:
        self.sent += nbytes

    def socket_broke(self) -> None:
        if self.outcome is None:
            self.outcome = Outcome.DOWNSTREAM_RESET
        self.transport.abort()

    def response_flush(self) -> None:
        if self._pending:
            self._write(self._pending)
            self._pending = b""

    def response_end(self, trailers: Sequence[Field] | None) -> None:
        tail = self._pending
        if self._framing == CHUNKED:
            tail += last_chunk(trailers)
        if tail:
            self._write(tail)
            self._pending = b""

    def retract_head(self) -> bool:
        waits = bool(self._pending)
        self._pending = b""
        return waits

    def reply(self, status: int, fields: list[Field], body: bytes) -> None:
        exchange = self.exchange
        assert exchange is not None
        if not exchange.request_ended:
            self._last_response = True
        self._pending = b""
        close = self.is_last(exchange.head)
        self._write(render_reply(status, fields, body, close=close, without_body=exchange.head.method == b"HEAD"))

    def exchange_over(self) -> None:
        """The response has gone out whole."""
        exchange, self.exchange = self.exchange, None
        assert exchange is not None
        if self._last_response or not exchange.head.keep_alive or not self.listener.listening:
            if not self._request_over:
                self.listener.http.downstream_rq_response_before_rq_complete += 1
            self._say_goodbye(linger=not self._request_over)
        elif self._request_over:
            self._last_change = self.now()
            self._next_request()

    def _next_request(self) -> None:
        """Take up the next request, once the client takes its responses: they would pile up here."""
        self._waits_for_client = self.congested
        if self._closing or self.congested:
            return
        had_paused = self._reading_paused
        try:
            self._reader.next_message()
        except BadMessage as bad:
            self._refuse(bad)
            return
        if had_paused and self._reader.pending:
            self.pause_reading()  # who began the request may have resumed it for the body, before what is behind it
        elif self._reading_paused:
            self.resume_reading()
            if self.exchange is None:
                self._note_head()  # it had waited

    def cut(self) -> None:
        """The response cannot be finished: the connection ends here, and the client sees that something is missing."""
        self.exchange = None
        self._closing = True
        self.transport.close()

    def close(self) -> None:
        self.exchange = None
        self._closing = True
        self.transport.close()

    def _say_goodbye(self, *, linger: bool) -> None:
        """End our side and close; ``linger``: when the client does, or soon, and drop what still comes."""
        if self._closing:
            return
        self._closing = True
        self._reader.stop()
        if self.transport.is_closing():
            return
        if not linger:
            self.transport.close()
            return
        self.transport.write_eof()
        self.transport.resume_reading()
        asyncio.get_running_loop().call_later(LINGER_S, self.transport.close)

    # Upgrades

    def switch_protocol(self, head: ResponseHead) -> None:
        self._write(rendered_switch(head))
        self.tunnel = True
        self._reader.switch_protocol()
        self.resume_reading()

    def write_eof(self) -> None:
        """The origin's side of a tunnel has ended."""
        if not self.transport.is_closing():
            self.transport.write_eof()

    # The listener

    def end(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self._closing = True
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.cancel(outcome)
        self.transport.close()

    def abort(self) -> None:
        self.transport.abort()

    def drain(self) -> None:
        """No more requests: now if there is none, else after the one that is being answered."""
        self._last_response = True
        if self.exchange is None and not self._reader.started and not self._reader.pending and not self._closing:
            self._closing = True
            self.transport.close()

    def _bytes_moved(self) -> int:
        """Without what waits in the transport, which may be as much as a stream's window lets in (4 MiB)."""
        return self.received + self.sent - self.transport.get_write_buffer_size()

    def still_since(self, now: float) -> float:
        return self._last_change if self._bytes_moved() == self._bytes_seen else now

    def check_times(self, now: float) -> None:
        """Look at the time limits."""
        seen = self._bytes_moved()
        if seen != self._bytes_seen:
            self._bytes_seen, self._last_change = seen, now
        idle_s = now - self._last_change
        if self._closing:
            if idle_s > STREAM_IDLE_TIMEOUT_S:
                self.transport.abort()  # the client does not take what is left for it
            return
        stats = self.listener.http
        head_deadline_s = self.listener.plan.request_headers_timeout_s
        if head_deadline_s and self._head_since and now - self._head_since > head_deadline_s:
            stats.downstream_rq_header_timeout += 1
            self.outcome = Outcome.HEAD_TIMEOUT
            self._answer(408, b"request header timeout")
            self._say_goodbye(linger=True)
            return
        exchange = self.exchange
        if exchange is None:
            if idle_s > IDLE_TIMEOUT_S:
                stats.downstream_cx_idle_timeout += 1
                self.end(Outcome.IDLE_TIMEOUT)
            return
        limit_s = IDLE_TIMEOUT_S if self.tunnel else exchange.idle_timeout_s
        if limit_s and idle_s > limit_s:
            stats.downstream_rq_idle_timeout += 1
            exchange.idle_out()
