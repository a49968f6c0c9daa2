"""One request and its response, whatever the two sides speak.

    client -> request_data, request_end, cancel          origin -> response_head, response_data, response_end
    pool -> start, fail                                   origin -> upstream_lost, upstream_broke

Each side is a :class:`Client` or an :class:`Origin`: a connection of HTTP/1, or a stream of HTTP/2. They render heads
and frame bodies; what is here is the same for all four combinations.

What bounds memory: nothing is kept of a body but what came before there was a connection, and a copy of a small one for
as long as the request may have to be sent again (``MAX_HELD_BYTES`` each). Beyond that the client is not read from.

A request is sent again, on another connection, where it is certain that this does no harm, all of it is still at hand,
and not one byte of a response has come: the origin says that it did nothing with it (RFC 9113 §8.7), or has said
nothing at all, not even the SETTINGS that a server of HTTP/2 begins with (§3.4); or the method is idempotent (RFC 9110
§9.2.2) and the connection had served before (an origin may close an idle one at any moment, RFC 9112 §9.5). Beyond
that, a policy decides (``retries``): then a response that it covers is dropped at its head, and any failure before one
may be tried again after a wait, in which there is no upstream.

How it ends: once, in :meth:`_end`, with an :class:`Outcome`, a status (0 where no response was begun) and its accounts.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from config.plan import Access
from proxy.http.affinity import PeerName, key_of, with_cookies
from proxy.http.headers import request_id_of
from proxy.http.replies import REPLIES, RETRIED, grpc_reply, grpc_status_of, is_grpc, reply_fields
from proxy.http.request_id import next_id
from proxy.http.retries import Retry, retry_for
from proxy.http.timeouts import STREAM_IDLE_TIMEOUT_S
from proxy.outcome import Outcome
from proxy.peer_counts import REQUESTS
from proxy.splicing import End
from proxy.wire import NONE, BadMessage, Field, RequestHead, ResponseHead

if TYPE_CHECKING:
    from proxy.balance import Endpoint
    from proxy.caller import Caller
    from proxy.cluster import Cluster
    from proxy.http.deadlines import Deadlines
    from proxy.http.h2_output import Http2Output
    from proxy.listener import Listener
    from proxy.relay import ByteTransport

log = logging.getLogger("koguma.http")

MAX_HELD_BYTES = 64 * 1024
MAX_ATTEMPTS = 3
IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"})


class Client(Protocol):
    """The side that asks. ``defers_head``: a response's head waits for :meth:`response_flush` or the first data.
    ``congested``: it does not take what it is sent, and more would pile up. ``caller``: who it is, where that has been
    verified. ``output``: of its connection, where that has other requests as well.
    """

    defers_head: bool
    caller: Caller | None
    output: Http2Output | None

    @property
    def congested(self) -> bool: ...
    def still_since(self, now: float) -> float:
        """When a byte last went either way (loop time), as far as that is known, which is every few seconds; if one
        has gone since, ``now``.
        """
        ...

    @property
    def peer(self) -> PeerName: ...
    @property
    def takes_as_it_comes(self) -> Recipient | None:
        """Where a body may be written without being framed, or looked at."""

    def response_head(self, head: ResponseHead, elapsed_ms: int) -> None:
        """The final head, ``elapsed_ms`` after the request was sent on. May wait for the first data."""

    def response_data(self, data: bytes, last: bool) -> None:
        """``last``: it is known that nothing follows but :meth:`response_end`, without trailers."""

    def response_flush(self) -> None:
        """Nothing more came with the head."""

    def response_end(self, trailers: Sequence[Field] | None) -> None: ...

    def retract_head(self) -> bool:
        """Whether the head still waits; then it is forgotten."""
        ...

    def reply(self, status: int, fields: list[Field], body: bytes) -> None:
        """A whole response of ours."""

    def cut(self) -> None:
        """The rest of a response that was begun is missing, and the client must see that."""

    def exchange_over(self) -> None:
        """The response has gone out whole."""

    def pause_reading(self) -> None:
        """Take no more of the request for now."""

    def resume_reading(self) -> None: ...
    def switch_protocol(self, head: ResponseHead) -> None: ...
    def write_eof(self) -> None:
        """The origin's side of a tunnel has ended."""

    def close(self) -> None:
        """A tunnel has ended."""


class Recipient(End, Protocol):
    """A client's connection, whose response does not pass by its protocol."""

    @property
    def transport(self) -> ByteTransport: ...
    def passed_by(self, nbytes: int) -> None:
        """So many bytes of the response's body."""


class Origin(Protocol):
    """The side that answers. ``wants_end``: it must be told that the request's body is over. ``reuses``: whether it
    served others before on the same connection. ``may_refuse``: it can say that it did nothing with a request.
    ``is_untouched``: not one byte has come in answer.
    """

    endpoint: Endpoint
    wants_end: bool
    may_refuse: bool
    ended: bool

    @property
    def reuses(self) -> bool: ...
    @property
    def is_untouched(self) -> bool: ...
    def begin(self, exchange: Exchange) -> None:
        """Send the request's head, and take what comes next for its response."""

    def send(self, data: bytes, last: bool) -> None:
        """``last``: it is known that neither more nor trailers follow; then ``wants_end`` is over."""

    def send_end(self, trailers: Sequence[Field] | None) -> None: ...
    def cancel(self) -> None:
        """The exchange is over before its response."""

    def pause_reading(self) -> None:
        """Take no more of the response for now."""

    def resume_reading(self) -> None: ...
    def write_eof(self) -> None:
        """The client's side of a tunnel has ended."""

    def close(self) -> None: ...


class Exchange:
    """See the module. Created by a client for each request head, then :meth:`begin`. ``request_id``: the client's own,
    else one of ours, chosen at the first attempt. ``endpoint``: the one that it was sent to last. ``tried``: those that
    did not do, where a policy has it sent again. ``key``: a hash of what decides about its endpoint.
    """

    __slots__ = (
        "_attempts", "_began_upstream_s", "_busy", "_client_ended", "_cookies", "_deadlines", "_held",
        "_held_bytes", "_retry", "_stream_deadlines", "_trailers", "_try_deadlines", "_tunnel", "began_s", "client",
        "cluster", "endpoint", "head", "key", "listener", "outcome", "over", "received", "request_ended", "request_id",
        "sent", "status", "tried", "upstream", "upstream_time_s",
    )  # fmt: skip

    def __init__(self, client: Client, listener: Listener, head: RequestHead, now: float) -> None:
        self.client = client
        self.listener = listener
        self.head = head
        self.began_s = now
        self.cluster: Cluster | None = listener.cluster
        self.upstream: Origin | None = None
        self.endpoint: Endpoint | None = None
        self.upstream_time_s: float | None = None
        self.request_id: bytes | None = None
        self.request_ended = head.body == NONE or head.body == 0
        self.over = False
        self.outcome = Outcome.COMPLETED
        self.status = 0
        self.received = 0
        self.sent = 0
        self.tried: tuple[Endpoint, ...] = ()
        self.key: int | None = None
        self._attempts = 0
        self._cookies: tuple[bytes, ...] = ()
        self._busy: Endpoint | None = None  # it counts us among its requests
        self._retry: Retry | None = None
        self._try_deadlines: Deadlines | None = None
        self._stream_deadlines: Deadlines | None = None
        self._began_upstream_s = now
        self._deadlines: Deadlines | None = None
        self._held: list[bytes] | None = [] if head.body != NONE else None
        self._held_bytes = 0
        self._trailers: Sequence[Field] | None = None
        self._tunnel = False
        self._client_ended = False

    def begin(self, queue: deque[Exchange] | None = None) -> None:
        """``queue``: where to wait until somebody calls :meth:`lease`, instead of at once."""
        listener = self.listener
        stats = listener.http
        stats.downstream_rq_total += 1
        stats.downstream_rq_active += 1
        cluster = self.cluster
        caller = self.client.caller
        if listener.plan.access is Access.FORBID:
            listener.deny()
            self.fail(Outcome.FORBIDDEN)
        elif caller is not None and not caller.passes(listener):
            self.fail(Outcome.FORBIDDEN)
        elif cluster is None:
            stats.no_cluster += 1
            self.fail(Outcome.NO_CLUSTER)
        else:
            cluster_stats = cluster.stats
            cluster_stats.upstream_rq_active += 1
            if cluster_stats.upstream_rq_active > cluster.plan.max_requests:
                cluster_stats.upstream_rq_active_overflow += 1
                self.fail(Outcome.OVERFLOW)
                return
            if self.request_ended and cluster.deadlines is not None:
                self._start_the_clock(cluster.deadlines)
            if cluster.plan.retry is not None:
                self._retry = retry_for(cluster, cluster.plan.retry, self.head)
            if cluster.hash_policies:
                self.key, self._cookies = key_of(cluster.hash_policies, self.head, self.client.peer)
            if queue is None:
                cluster.http.lease(self)
            else:
                queue.append(self)

    def lease(self) -> None:
        """Ask for a connection, after having waited: in a queue, or for another try."""
        if not self.over:
            assert self.cluster is not None
            self.cluster.http.lease(self)

    def _start_the_clock(self, deadlines: Deadlines) -> None:
        """From the end of the request, as Envoy's route timeout: over all attempts, waiting included."""
        self._deadlines = deadlines
        deadlines.add(self)

    def _start_the_try(self, deadlines: Deadlines) -> None:
        self._try_deadlines = deadlines
        deadlines.add(self)

    def _stop_the_try(self) -> None:
        if self._try_deadlines is not None:
            self._try_deadlines.discard(self)
            self._try_deadlines = None

    def _end_attempt(self) -> None:
        """The endpoint works on it no more, and the times of the attempt are off."""
        if self._busy is not None:
            self._busy.rq_active -= 1
            self._busy = None
        self._stop_the_try()
        if self._stream_deadlines is not None:
            self._stream_deadlines.discard(self)
            self._stream_deadlines = None

    # The pool

    def start(self, upstream: Origin) -> None:
        """Send the request, as far as it has come, on a connection that is ours until the response has ended."""
        cluster = self.cluster
        assert cluster is not None
        endpoint = self.endpoint = upstream.endpoint
        self.upstream = upstream
        self._attempts += 1
        self._began_upstream_s = self.listener.now()
        cluster.stats.upstream_rq_total += 1
        endpoint.rq_total += 1
        endpoint.rq_active += 1
        self._busy = endpoint
        if cluster.stream_deadlines is not None:
            self._stream_deadlines = cluster.stream_deadlines
            self._stream_deadlines.add(self)
        if cluster.try_deadlines is not None and self.request_ended:
            self._start_the_try(cluster.try_deadlines)
        upstream.begin(self)
        held = self._held
        if held is not None:
            self.client.resume_reading()  # first: what is sent now may fill the upstream, which pauses again
            for data in held:
                upstream.send(data, False)
            if self.request_ended and upstream.wants_end:
                upstream.send_end(self._trailers)
            # What has been sent is kept on only where it may have to be sent again.
            if self._held_bytes > MAX_HELD_BYTES:
                self._let_go()
            elif self._retry is None and not (upstream.may_refuse or self.head.method in IDEMPOTENT):
                self._held = None

    def _let_go(self) -> None:
        """Too much of the body has come to keep it."""
        self._held = None
        if self._retry is not None and self.cluster is not None:
            self.cluster.stats.retry_or_shadow_abandoned += 1

    def fail(self, outcome: Outcome) -> None:
        """There is no connection, or there may be none: try again if a policy says so, else answer the client."""
        if not self._tries_again(outcome):
            self._answer(outcome)

    def _answer(self, outcome: Outcome) -> None:
        status, body = REPLIES[outcome]
        self._reply(status, body if self._retry is None or not self._retry.count else RETRIED[outcome], outcome)

    # Another try

    def _tries_again(self, outcome: Outcome) -> bool:
        """After a failure: whether the request is going to be sent again."""
        retry = self._retry
        return retry is not None and retry.covers_failure(outcome) and self._try_again(retry)

    def _try_again(self, retry: Retry) -> bool:
        """Where the policy wants it: not once a response was begun, or what was sent is no longer at hand."""
        if self.status or (self.head.body != NONE and self._held is None) or not retry.may_go_on():
            return False
        if self._busy is not None and self._busy not in self.tried:
            self.tried = (*self.tried, self._busy)
        self._end_attempt()
        retry.wait(self.lease)
        return True

    def try_timed_out(self) -> None:
        """An attempt had its time, while the request may have some left."""
        assert self.cluster is not None
        self.cluster.stats.upstream_rq_per_try_timeout += 1
        self._give_up(Outcome.REQUEST_TIMEOUT, *REPLIES[Outcome.REQUEST_TIMEOUT], again=True)

    def lasted_too_long(self) -> None:
        """A request and its response may not go on for ever."""
        assert self.cluster is not None
        self.cluster.stats.upstream_rq_max_duration_reached += 1
        status, body = REPLIES[Outcome.MAX_STREAM_DURATION]
        self._give_up(Outcome.MAX_STREAM_DURATION, status if self.request_ended else 408, body, again=True)

    # The request

    @property
    def keeps_request(self) -> bool:
        """Whether what comes of the body is held, so that it can be sent, or sent again."""
        return self._held is not None

    def request_data(self, data: bytes, last: bool = False) -> None:
        """``last``: it is known that nothing follows but :meth:`request_end`, without trailers."""
        self.received += len(data)
        held = self._held
        if held is not None:
            held.append(data)
            self._held_bytes += len(data)
            if self._held_bytes > MAX_HELD_BYTES:
                if self.upstream is None:
                    self.client.pause_reading()
                else:
                    self._let_go()
        if self.upstream is not None:
            self.upstream.send(data, last)

    def request_end(self, trailers: Sequence[Field] | None) -> None:
        upstream = self.upstream
        if not self.request_ended:
            self.request_ended = True
            cluster = self.cluster
            if cluster is not None and cluster.deadlines is not None and not self._tunnel:
                self._start_the_clock(cluster.deadlines)
            if cluster is not None and cluster.try_deadlines is not None and upstream is not None and not self.status:
                self._start_the_try(cluster.try_deadlines)
        self._trailers = trailers
        if upstream is not None and upstream.wants_end:
            upstream.send_end(trailers)

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
        if self.request_ended:
            self._give_up(Outcome.STREAM_IDLE, *REPLIES[Outcome.STREAM_IDLE])
        else:
            self._give_up(Outcome.STREAM_IDLE, 408, b"stream timeout")

    def time_out(self) -> None:
        """The service had its time for a whole response."""
        assert self.cluster is not None
        self._deadlines = None
        self.cluster.stats.upstream_rq_timeout += 1
        self._give_up(Outcome.REQUEST_TIMEOUT, *REPLIES[Outcome.REQUEST_TIMEOUT])

    def _give_up(self, outcome: Outcome, status: int, body: bytes, *, again: bool = False) -> None:
        """``again``: unless a policy has it tried once more."""
        self._drop_upstream()
        if not self.status and outcome is Outcome.REQUEST_TIMEOUT:
            self._blame(504)
        if again and self._tries_again(outcome):
            return
        if self.status and not self.client.retract_head():
            self._end(outcome)
            self.client.cut()
        else:
            self._reply(status, body, outcome)

    # The response

    def response_head(self, head: ResponseHead) -> None:
        busy, cluster = self._busy, self.cluster
        if busy is not None and cluster is not None and (busy.ejections or cluster.balancer.judges_responses):
            cluster.answered(busy, head.status)
        retry = self._retry
        if retry is not None:
            if retry.covers_response(head):
                if self._try_again(retry):
                    self._drop_upstream()
                    return
            else:
                retry.settled()
        self.status = head.status
        if self._try_deadlines is not None:
            self._stop_the_try()  # a response that has begun may take all the time that the request has
        if self._held is not None:
            self._held = None  # it is not sent again
        if self._cookies:
            head = with_cookies(head, self._cookies)
        elapsed_s = self.upstream_time_s = self.listener.now() - self._began_upstream_s
        self.client.response_head(head, int(elapsed_s * 1000))

    def _drop_upstream(self) -> None:
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            upstream.cancel()

    def response_data(self, data: bytes, last: bool = False) -> None:
        self.sent += len(data)
        self.client.response_data(data, last)

    def response_passed_by(self, nbytes: int) -> None:
        """So much of the body went to the client without having been here."""
        self.sent += nbytes
        recipient = self.client.takes_as_it_comes
        assert recipient is not None
        recipient.passed_by(nbytes)

    def response_end(self, trailers: Sequence[Field] | None, grpc_status: bytes | None = None) -> None:
        """The response is whole; its connection is the pool's again. ``grpc_status``: what a gRPC service said."""
        self.upstream = None
        self.client.response_end(trailers)
        if grpc_status is not None and self.cluster is not None:
            self.cluster.stats.count_grpc(grpc_status)
        self._end(Outcome.COMPLETED)
        self.client.exchange_over()

    def upstream_broke(self, bad: BadMessage) -> None:
        """The origin's response broke the rules of HTTP."""
        assert self.cluster is not None
        self.cluster.stats.upstream_cx_protocol_error += 1
        self._log_failure(f"broke the protocol: {bad}")
        self._upstream_gone(Outcome.UPSTREAM_PROTOCOL_ERROR)

    def upstream_lost(self, outcome: Outcome, *, unprocessed: bool = False) -> None:
        """The response will not become whole: the connection was lost, or the origin has reset the stream.
        ``unprocessed``: the origin did nothing with the request.
        """
        upstream, self.upstream = self.upstream, None
        assert upstream is not None
        assert self.cluster is not None
        if self._tunnel:
            self._end(Outcome.COMPLETED)
            self.client.close()
            return
        if self._may_send_again(upstream, unprocessed):
            self.cluster.stats.upstream_rq_retry += 1
            self._end_attempt()
            self.cluster.http.lease(self)
            return
        self.cluster.stats.upstream_rq_rx_reset += 1
        if outcome in (Outcome.UPSTREAM_STREAM_RESET, Outcome.UPSTREAM_STREAM_REFUSED):
            self._log_failure("reset the stream before the response was whole")
        else:
            self._log_failure("closed the connection before the response was whole")
        # Part of a head is no answer, and more than none: Envoy calls it a protocol error.
        is_closed = outcome is Outcome.UPSTREAM_CLOSED
        self._upstream_gone(outcome if upstream.is_untouched or not is_closed else Outcome.UPSTREAM_PROTOCOL_ERROR)

    def _may_send_again(self, upstream: Origin, unprocessed: bool) -> bool:
        return (
            self.status == 0
            and self._attempts < MAX_ATTEMPTS
            and (self.head.body == NONE or self._held is not None)
            and (unprocessed or (upstream.reuses and upstream.is_untouched and self.head.method in IDEMPOTENT))
        )

    def _blame(self, status: int) -> None:
        """Tell the balancer of a request without a response, as if it had been ``status``."""
        busy, cluster = self._busy, self.cluster
        if busy is not None and cluster is not None and cluster.balancer.judges_responses:
            cluster.answered(busy, status)

    def _upstream_gone(self, outcome: Outcome) -> None:
        self.upstream = None
        self._blame(500)
        if self._tries_again(outcome):
            return
        if self.status == 0 or self.client.retract_head():
            self._answer(outcome)
        else:  # the client has the head: it must learn that the rest is missing
            self._end(Outcome.RESPONSE_CUT_SHORT)
            self.client.cut()

    def _log_failure(self, what: str) -> None:
        """Under the request id, for whoever asks what became of it; the client is told no more than Envoy tells."""
        assert self.cluster is not None
        if self.listener.may_say(f"{self.cluster.plan.name} {what}"):
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
        self._stop_the_clock()
        stats = self.listener.http
        stats.downstream_cx_upgrades_total += 1
        stats.downstream_cx_upgrades_active += 1
        self.client.switch_protocol(head)

    def tunnel_ended(self) -> None:
        """The origin has no more to send."""
        if self._client_ended:
            assert self.upstream is not None
            self.upstream.close()
        else:
            self.client.write_eof()

    def tunnel_client_ended(self) -> None:
        self._client_ended = True
        assert self.upstream is not None
        if self.upstream.ended:
            self.upstream.close()
        else:
            self.upstream.write_eof()

    @property
    def flags(self) -> str:
        """Envoy's, for the access log."""
        own, extra = self.outcome.flag, "" if self._retry is None else self._retry.flag
        return own if not extra else extra if own == "-" else f"{extra},{own}"

    @property
    def idle_timeout_s(self) -> float:
        """How long not a byte may go either way; 0 for ever."""
        return STREAM_IDLE_TIMEOUT_S if self.cluster is None else self.cluster.plan.stream_idle_timeout_s

    # The end

    def _reply(self, status: int, body: bytes, outcome: Outcome) -> None:
        self.status = status
        if self.request_id is None:
            self.request_id = request_id_of(self.head) or next_id()
        overloaded = outcome is Outcome.OVERFLOW
        if is_grpc(self.head):
            fields = grpc_reply(status, body, self.request_id, overloaded=overloaded)
            self.status, body = 200, b""
            if self.cluster is not None:
                self.cluster.stats.count_grpc(grpc_status_of(status))
        else:
            fields = reply_fields(bool(body), self.request_id, overloaded=overloaded)
        if self.head.method != b"HEAD":
            self.sent += len(body)
        self.client.reply(self.status, fields, body)
        self._end(outcome)
        self.client.exchange_over()

    def _stop_the_clock(self) -> None:
        if self._deadlines is not None:
            self._deadlines.discard(self)
            self._deadlines = None

    def _end(self, outcome: Outcome) -> None:
        """The accounts, once."""
        self.over = True
        self.outcome = outcome
        if self._deadlines is not None:
            self._stop_the_clock()
        busy = self._busy
        if busy is not None:
            busy.rq_active -= 1
            self._busy = None
        if self._try_deadlines is not None or self._stream_deadlines is not None:
            self._end_attempt()
        if self._retry is not None:
            self._retry.release()
        listener = self.listener
        elapsed_ms = (listener.now() - self.began_s) * 1000
        status = self.status
        stats = listener.http
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
        if listener.peer_counts is not None and self.client.caller is not None:
            listener.peer_counts.count(self.client.caller.id, REQUESTS)
        if listener.access_log is not None:
            listener.access_log.exchange(listener, self)
