"""One request and its response, whatever the two sides speak.

    downstream -> request_data, request_end, cancel        upstream -> response_head, response_data, response_end
    pool -> start, fail                                     upstream -> upstream_lost, upstream_broke

What bounds memory: nothing is kept of a body but what came before there was a connection, and a copy of a small one for
as long as the request may have to be sent again (``MAX_HELD_BYTES`` each). Beyond that the client is not read from.

A request is sent again, on another connection, where it is certain that this does no harm: its method is idempotent
(RFC 9110 §9.2.2), all of it is still at hand, the connection had served before (an origin may close an idle one at any
moment, RFC 9112 §9.5), and not one byte of a response has come.

How it ends: once, in :meth:`_end`, with an :class:`Outcome`, a status (0 where no response was begun) and its accounts.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from config.plan import Access
from proxy.http.headers import rendered_request, rendered_response, rendered_switch, request_id_of
from proxy.http.replies import REPLIES, render_reply
from proxy.http.request_id import RequestIds
from proxy.outcome import Outcome
from proxy.wire import CHUNKED, NONE, UNTIL_CLOSE, BadMessage, Field, Framing, RequestHead, ResponseHead
from proxy.wire.body import chunk, last_chunk

if TYPE_CHECKING:
    from proxy.balance import Endpoint
    from proxy.cluster import Cluster
    from proxy.http.downstream import HttpDownstream
    from proxy.http.upstream import HttpUpstream

log = logging.getLogger("koguma.http")

MAX_HELD_BYTES = 64 * 1024
MAX_ATTEMPTS = 3
IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"})

_ids = RequestIds()


class Exchange:
    """See the module. Created by a downstream for each request head, then :meth:`begin`."""

    __slots__ = (
        "_attempts", "_began_upstream_s", "_client_ended", "_framing", "_held", "_held_bytes", "_pending", "_trailers",
        "_tunnel", "began_s", "cluster", "downstream", "endpoint", "head", "outcome", "over", "received",
        "request_ended", "request_id", "sent", "status", "upstream", "upstream_time_s",
    )  # fmt: skip

    def __init__(self, downstream: HttpDownstream, head: RequestHead, now: float) -> None:
        self.downstream = downstream
        self.head = head
        self.began_s = now
        self.cluster: Cluster | None = downstream.listener.cluster
        self.upstream: HttpUpstream | None = None
        self.endpoint: Endpoint | None = None
        self.upstream_time_s: float | None = None
        self.request_id: bytes | None = None
        self.request_ended = head.body == NONE or head.body == 0
        self.over = False
        self.outcome = Outcome.COMPLETED
        self.status = 0
        self.received = 0
        self.sent = 0
        self._attempts = 0
        self._began_upstream_s = now
        self._framing: Framing = NONE
        self._held: list[bytes] | None = [] if head.body != NONE else None
        self._held_bytes = 0
        self._pending = b""
        self._trailers: list[Field] | None = None
        self._tunnel = False
        self._client_ended = False

    def begin(self) -> None:
        listener = self.downstream.listener
        stats = listener.http
        stats.downstream_rq_total += 1
        stats.downstream_rq_active += 1
        cluster = self.cluster
        if listener.plan.access is Access.FORBID:
            listener.deny()
            self.fail(Outcome.FORBIDDEN)
        elif cluster is None:
            stats.no_cluster += 1
            self.fail(Outcome.NO_CLUSTER)
        else:
            cluster.stats.upstream_rq_active += 1
            cluster.http.lease(self)

    # The pool

    def start(self, upstream: HttpUpstream) -> None:
        """Send the request, as far as it has come, on a connection that is ours until the response has ended."""
        head, cluster = self.head, self.cluster
        assert cluster is not None
        endpoint = self.endpoint = upstream.endpoint
        self.upstream = upstream
        self._attempts += 1
        self._began_upstream_s = self.downstream.now()
        stats = cluster.stats
        stats.upstream_rq_total += 1
        endpoint.rq_total += 1
        rendered = rendered_request(head, endpoint.authority)
        request_id = self.request_id
        if request_id is None:
            request_id = self.request_id = rendered.request_id or _ids.next()
        upstream.begin(self, rendered.before + request_id + rendered.after, head.method)
        if self._held is not None:
            self.downstream.resume_reading()  # first: what is sent now may fill the upstream, which pauses again
            for data in self._held:
                self._send_body(data)
            self._release_held()
            if self.request_ended and head.body == CHUNKED:
                upstream.send(last_chunk(self._trailers))

    def _release_held(self) -> None:
        """What has been sent is kept on only where it may have to be sent again."""
        if self.head.method not in IDEMPOTENT or self._held_bytes > MAX_HELD_BYTES:
            self._held = None

    def fail(self, outcome: Outcome) -> None:
        """There is no connection, or there may be none: answer the client ourselves."""
        status, body = REPLIES[outcome]
        self._reply(status, body, outcome)

    # The request

    def request_data(self, data: bytes) -> None:
        self.received += len(data)
        held = self._held
        if held is not None:
            held.append(data)
            self._held_bytes += len(data)
            if self._held_bytes > MAX_HELD_BYTES:
                if self.upstream is None:
                    self.downstream.pause_reading()
                else:
                    self._held = None
        if self.upstream is not None:
            self._send_body(data)

    def _send_body(self, data: bytes) -> None:
        assert self.upstream is not None
        if self.head.body == CHUNKED and not self._tunnel:
            self.upstream.send_all(chunk(data))
        else:
            self.upstream.send(data)

    def request_end(self, trailers: list[Field] | None) -> None:
        self.request_ended = True
        self._trailers = trailers
        if self.upstream is not None and self.head.body == CHUNKED:
            self.upstream.send(last_chunk(trailers))

    def cancel(self, outcome: Outcome) -> None:
        """The client has gone, or is sent away."""
        if self.over:
            return
        upstream, self.upstream = self.upstream, None
        if self.cluster is not None:
            self.cluster.stats.upstream_rq_cancelled += upstream is None
            self.cluster.stats.upstream_rq_tx_reset += upstream is not None
        if upstream is not None:
            upstream.cancel()
        self._end(outcome)

    def idle_out(self) -> None:
        """Not a byte went either way for too long: 408 if the client is slow, else 504; cut if too late."""
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            upstream.cancel()
        if self.status and not self._pending:
            self._end(Outcome.STREAM_IDLE)
            self.downstream.cut()
        elif self.request_ended:
            self.fail(Outcome.STREAM_IDLE)
        else:
            self._reply(408, b"stream timeout", Outcome.STREAM_IDLE)

    # The response

    def response_head(self, head: ResponseHead) -> None:
        downstream = self.downstream
        self.status = head.status
        self._held = None
        elapsed_s = self.upstream_time_s = downstream.now() - self._began_upstream_s
        if not self.request_ended:
            downstream.close_after()  # the rest of the request will not be read
        self._pending, self._framing = rendered_response(
            head, int(elapsed_s * 1000), self.head.version == (1, 0), downstream.is_last(self.head)
        )
        if self._framing == UNTIL_CLOSE:
            downstream.close_after()

    def response_data(self, data: bytes) -> None:
        self.sent += len(data)
        downstream = self.downstream
        if self._framing == CHUNKED and not self._tunnel:
            size, data, end = chunk(data)
            downstream.write_all([self._pending + size, data, end])
        elif self._pending:
            downstream.write(self._pending + data)
        else:
            downstream.write(data)
        self._pending = b""

    def flush(self) -> None:
        """Nothing more came with the head: send it."""
        if self._pending:
            pending, self._pending = self._pending, b""
            self.downstream.write(pending)

    def response_end(self, trailers: list[Field] | None) -> None:
        """The response is whole; its connection is the pool's again."""
        self.upstream = None
        tail = self._pending
        if self._framing == CHUNKED:
            tail += last_chunk(trailers)
        if tail:
            self.downstream.write(tail)
        self._pending = b""
        self._end(Outcome.COMPLETED)
        self.downstream.exchange_over()

    def upstream_broke(self, bad: BadMessage) -> None:
        """The origin's response broke the rules of HTTP."""
        assert self.cluster is not None
        self.cluster.stats.upstream_cx_protocol_error += 1
        self._log_failure(f"broke the protocol: {bad}")
        self._upstream_gone(Outcome.UPSTREAM_PROTOCOL_ERROR)

    def upstream_lost(self, outcome: Outcome) -> None:
        """The connection was lost before the response was whole."""
        upstream, self.upstream = self.upstream, None
        assert upstream is not None
        assert self.cluster is not None
        if self._tunnel:
            self._end(Outcome.COMPLETED)
            self.downstream.close()
            return
        if self._may_send_again(upstream):
            self.cluster.stats.upstream_rq_retry += 1
            self.cluster.http.lease(self)
            return
        self.cluster.stats.upstream_rq_rx_reset += 1
        self._log_failure("closed the connection before the response was whole")
        # Part of a head is no answer, and more than none: Envoy calls it a protocol error.
        is_closed = outcome is Outcome.UPSTREAM_CLOSED
        self._upstream_gone(outcome if upstream.is_untouched or not is_closed else Outcome.UPSTREAM_PROTOCOL_ERROR)

    def _may_send_again(self, upstream: HttpUpstream) -> bool:
        return (
            self.status == 0
            and upstream.served > 1
            and upstream.is_untouched
            and self._attempts < MAX_ATTEMPTS
            and self.head.method in IDEMPOTENT
            and (self.head.body == NONE or self._held is not None)
        )

    def _upstream_gone(self, outcome: Outcome) -> None:
        self.upstream = None
        if self.status == 0 or self._pending:
            self._pending = b""
            self.fail(outcome)
        else:  # the client has the head: it must learn that the rest is missing
            self._end(Outcome.RESPONSE_CUT_SHORT)
            self.downstream.cut()

    def _log_failure(self, what: str) -> None:
        """Under the request id, for whoever asks what became of it; the client is told no more than Envoy tells."""
        assert self.cluster is not None
        if self.downstream.listener.may_say(f"{self.cluster.plan.name} {what}"):
            log.warning(
                "%s: the endpoint %s",
                self.cluster.plan.name,
                what,
                extra={
                    "event": "upstream_failed",
                    "cluster": self.cluster.plan.name,
                    "request_id": (self.request_id or b"").decode("latin-1"),
                },
            )

    # Upgrades

    def switched(self, head: ResponseHead) -> None:
        """101: what follows in either direction is not HTTP."""
        self.status = 101
        self._tunnel = True
        self._held = None
        stats = self.downstream.listener.http
        stats.downstream_cx_upgrades_total += 1
        stats.downstream_cx_upgrades_active += 1
        self.downstream.write(rendered_switch(head))
        self.downstream.switch_protocol()

    def tunnel_ended(self) -> None:
        """The origin has no more to send."""
        if self._client_ended:
            assert self.upstream is not None
            self.upstream.close()
        else:
            self.downstream.write_eof()

    def tunnel_client_ended(self) -> None:
        self._client_ended = True
        assert self.upstream is not None
        if self.upstream.ended:
            self.upstream.close()
        else:
            self.upstream.transport.write_eof()

    # The end

    def _reply(self, status: int, body: bytes, outcome: Outcome) -> None:
        downstream = self.downstream
        if not self.request_ended:
            downstream.close_after()
        self.status = status
        if self.request_id is None:
            self.request_id = request_id_of(self.head) or _ids.next()
        sent_body = b"" if self.head.method == b"HEAD" else body
        reply = render_reply(
            status,
            body,
            request_id=self.request_id,
            close=downstream.is_last(self.head),
            overloaded=outcome is Outcome.OVERFLOW,
        )
        self.sent += len(sent_body)
        downstream.write(reply[: len(reply) - len(body) + len(sent_body)])
        self._end(outcome)
        downstream.exchange_over()

    def _end(self, outcome: Outcome) -> None:
        """The accounts, once."""
        self.over = True
        self.outcome = outcome
        downstream = self.downstream
        elapsed_ms = (downstream.now() - self.began_s) * 1000
        status = self.status
        stats = downstream.listener.http
        stats.downstream_rq_active -= 1
        stats.downstream_rq_completed += 1
        stats.downstream_rq_time.record(elapsed_ms)
        if self._tunnel:
            stats.downstream_cx_upgrades_active -= 1
        match status // 100:
            case 2:
                stats.downstream_rq_2xx += 1
            case 5:
                stats.downstream_rq_5xx += 1
            case 4:
                stats.downstream_rq_4xx += 1
            case 3:
                stats.downstream_rq_3xx += 1
            case 1:
                stats.downstream_rq_1xx += 1
        cluster = self.cluster
        if cluster is not None and outcome is not Outcome.FORBIDDEN:
            cluster_stats = cluster.stats
            cluster_stats.upstream_rq_active -= 1
            if status:
                cluster_stats.upstream_rq_completed += 1
                cluster_stats.upstream_rq_time.record(elapsed_ms)
                codes = cluster_stats.codes
                codes[status] = codes.get(status, 0) + 1
        access_log = downstream.listener.access_log
        if access_log is not None:
            access_log.exchange(downstream.listener, self)
