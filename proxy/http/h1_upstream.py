"""A pooled connection to an endpoint, speaking HTTP/1.1. It carries one exchange at a time, or waits in the pool.

It goes back to the pool only when the response ended where its framing said, the request was sent whole, both sides
want to go on, and not one byte came beyond the response: whatever an origin sends unasked would otherwise be taken for
the answer to somebody else's request. Nor does it while bytes of the request wait unsent, for the next would wait
behind them.

A large body whose length was given is spliced (``splicing``) to a client that has it as it is: all but its last bytes,
which come here again, so that a message ends in one place only.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING

from proxy.balance import Endpoint
from proxy.http.headers import asks_for_upgrade, rendered_request
from proxy.http.pool import PooledConnection
from proxy.http.request_id import next_id
from proxy.large_reads import LARGE_READ_BYTES
from proxy.outcome import Outcome
from proxy.splicing import SMALL_BYTES
from proxy.wire import UNTIL_CLOSE, BadMessage, Field, ResponseHead
from proxy.wire.body import chunk, last_chunk
from proxy.wire.h1 import ResponseReader
from tls.handshake import Refused

if TYPE_CHECKING:
    from proxy.http.exchange import Exchange
    from proxy.http.h1_pool import Http1Pool
    from proxy.splicing import Splice
    from tls.policy import Origination


SPLICED_BYTES = 512 * 1024
"""If no more than this is left of a body, it is not worth the beginning."""


class Http1Upstream(PooledConnection):
    """See the module."""

    __slots__ = (
        "_congested", "_finished", "_keep", "_pool", "_reader", "_received_before", "_trailers", "_tunnel", "exchange",
        "sent_bytes", "splice", "wants_end",
    )  # fmt: skip

    may_refuse = False

    def __init__(self, pool: Http1Pool, endpoint: Endpoint, policy: Origination | None) -> None:
        super().__init__(endpoint, policy)
        self._pool = pool
        self._reader = ResponseReader(self)
        self._congested = False
        self._finished = False
        self._keep = False
        self._received_before = 0
        self._trailers: list[Field] | None = None
        self._tunnel = False
        self.exchange: Exchange | None = None
        self.sent_bytes = 0
        self.splice: Splice | None = None
        self.wants_end = False

    @property
    def sent(self) -> int:
        return self.sent_bytes

    # Life

    def _opened(self) -> None:
        self._pool.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.connected:
            return
        self.failure = exc
        if self.splice is not None:
            self.splice.hand_back()
        exchange, self.exchange = self.exchange, None
        is_tls = isinstance(exc, (ssl.SSLError, Refused))
        self._pool.lost(self, Outcome.UPSTREAM_TLS_FAILED if is_tls else None)
        if exchange is not None:
            exchange.upstream_lost(Outcome.UPSTREAM_TLS_FAILED if is_tls else Outcome.UPSTREAM_CLOSED)

    def close(self) -> None:
        self.retired = True
        self.transport.close()

    def retire(self) -> None:
        self.retired = True
        if self.exchange is None:
            self.close()

    def idle_out(self) -> None:
        if self.exchange is None:
            self.close()

    # Requests

    def begin(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.served += 1
        self._received_before = self.received
        head = exchange.head
        self._reader.next_message(head.method)
        caller = exchange.client.caller
        rendered = rendered_request(head, self.endpoint.authority, caller is not None)
        self.wants_end = rendered.is_chunked
        request_id = exchange.request_id
        if request_id is None:
            request_id = exchange.request_id = rendered.request_id or next_id()
        if caller is None:
            block = rendered.before + request_id + rendered.after
        else:
            block = rendered.before + request_id + caller.http1_field + rendered.after
        self.sent_bytes += len(block)
        self.transport.write(block)

    @property
    def reuses(self) -> bool:
        return self.served > 1

    @property
    def is_untouched(self) -> bool:
        return self.received == self._received_before

    def send(self, data: bytes, last: bool) -> None:
        if self.wants_end and not self._tunnel:
            pieces = chunk(data)
            self.sent_bytes += sum(map(len, pieces))
            self.transport.writelines(list(pieces))
        else:
            self.sent_bytes += len(data)
            self.transport.write(data)

    def send_end(self, trailers: Sequence[Field] | None) -> None:
        data = last_chunk(trailers)
        self.sent_bytes += len(data)
        self.transport.write(data)

    def cancel(self) -> None:
        """The exchange is over before its response: the connection cannot be used any more."""
        if self.splice is not None:
            self.splice.end()
        self.exchange = None
        self._reader.stop()
        self.retired = True
        self.transport.abort()

    def pause_writing(self) -> None:
        self._congested = True
        if self.exchange is not None:
            self.exchange.client.pause_reading()

    def resume_writing(self) -> None:
        self._congested = False
        if self.exchange is not None:
            self.exchange.client.resume_reading()

    def write_eof(self) -> None:
        self.transport.write_eof()

    # Responses

    def pause_reading(self) -> None:
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self.splice is None and not self._begins_splice():
            self.transport.resume_reading()

    def _begins_splice(self) -> bool:
        exchange, left = self.exchange, self._reader.body_left
        if left < SPLICED_BYTES or exchange is None:
            return False
        client = exchange.client.takes_as_it_comes
        return client is not None and self._pool.cluster.splice(self, client, left - SMALL_BYTES)

    def spliced(self, nbytes: int) -> None:
        self.received += nbytes
        self._reader.passed_by(nbytes)
        assert self.exchange is not None
        self.exchange.response_passed_by(nbytes)

    def socket_broke(self) -> None:
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        exchange = self.exchange
        if exchange is None:
            self.close()  # nobody asked for this
            return
        try:
            self._reader.receive(data)
        except BadMessage as bad:
            self.exchange = None
            self.close()
            exchange.upstream_broke(bad)
            return
        if self._finished:
            self._finish()
            return
        exchange.client.response_flush()
        if len(data) >= LARGE_READ_BYTES:
            self._begins_splice()

    def chunks_received(self, chunks: list[bytes]) -> None:
        """Parts of a body go on as they are; only what may hold something else is joined and read."""
        size = sum(map(len, chunks))
        exchange = self.exchange
        recipient = exchange.client.takes_as_it_comes if exchange is not None else None
        if exchange is None or recipient is None or self._reader.body_left <= size:
            super().chunks_received(chunks)
            return
        self.received += size
        self._reader.passed_by(size)
        exchange.response_passed_by(size)
        recipient.transport.writelines(chunks)

    def eof_received(self) -> bool:
        self.ended = True
        exchange = self.exchange
        if exchange is None:
            return False
        try:
            self._reader.eof()
        except BadMessage:
            return False  # connection_lost says so to the exchange
        if self._tunnel:
            return True
        if self._finished:
            self._keep = False
            self._finish()
        return False

    def on_head(self, head: ResponseHead) -> None:
        exchange = self.exchange
        assert exchange is not None
        if head.status >= 200:
            self._keep = head.keep_alive and head.body != UNTIL_CLOSE
            exchange.response_head(head)
        elif head.status == 101:
            if head.upgrade is None or not exchange.request_ended or not asks_for_upgrade(exchange.head):
                raise BadMessage(502, "http1.codec_error", "101 to a request that asked for no upgrade")
            self._tunnel = True
            exchange.switched(head)
            self._reader.switch_protocol()
        else:  # ends here, as in Envoy: 100 was answered by us already
            self._pool.interim(head.status)

    def on_data(self, data: bytes) -> None:
        assert self.exchange is not None
        self.exchange.response_data(data)

    def on_end(self, trailers: list[Field] | None) -> None:
        if self._tunnel:
            assert self.exchange is not None
            self.exchange.tunnel_ended()
            return
        self._finished = True
        self._trailers = trailers

    def _finish(self) -> None:
        """The response is whole. Called when all that came with it was looked at."""
        exchange, trailers = self.exchange, self._trailers
        assert exchange is not None
        self._finished = False
        self._trailers = None
        self.exchange = None
        if self._keep and exchange.request_ended and not self._congested and not self._reader.pending:
            if exchange.client.congested:
                self.transport.resume_reading()  # that client is slow to take the response: no matter of the next one
            self._pool.release(self)
        else:
            self.close()
        exchange.response_end(trailers)
