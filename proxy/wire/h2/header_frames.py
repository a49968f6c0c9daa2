"""HEADERS and CONTINUATION (RFC 9113 §6.2 and §6.10), received: the functions of a :class:`Connection` for them.

Here the pieces of a field block are put together; it is decided what the block is to its stream, which may be none;
and the stream opens, hears its head or ends. What a block means is found out in ``blocks``.

``Connection._read`` deals itself with a request that has come before, and comes straight to :func:`receive_response`
with what must be one. Everything else goes through :func:`receive_block`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.wire import BadMessage, RequestHead
from proxy.wire.h2.blocks import Unreadable
from proxy.wire.h2.codes import ErrorCode
from proxy.wire.h2.frames import END_HEADERS, END_STREAM, HEADERS, LARGEST_ID, PADDED, WITH_PRIORITY, unpack_long
from proxy.wire.h2.heads import Malformed
from proxy.wire.h2.stream import NO_HEAD_YET, UNKNOWN, Stream

if TYPE_CHECKING:
    from proxy.wire.h2.connection import Connection


def receive_odd_headers(connection: Connection, stream_id: int, flags: int, payload: bytes) -> None:
    """HEADERS that are padded, have a priority, or go on in CONTINUATION."""
    start, end = 0, len(payload)
    depends_on_itself = False
    if flags & PADDED:
        start = 1
    if flags & WITH_PRIORITY:
        start += 5
    if start > end:
        connection._break(ErrorCode.FRAME_SIZE_ERROR, "HEADERS without room for what its flags announce")
    if flags & PADDED:
        end -= payload[0]
        if start > end:
            connection._break(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
    if flags & WITH_PRIORITY:
        # RFC 7540 §5.3.1. RFC 9113 §5.3.2 leaves nothing of priorities but their bytes; still nobody means this.
        depends_on_itself = unpack_long(payload, start - 5)[0] & LARGEST_ID == stream_id
    block = payload[start:end]
    ended = bool(flags & END_STREAM)
    if flags & END_HEADERS:
        receive_block(connection, stream_id, ended, block, depends_on_itself)
        return
    if not block:
        connection._spend(connection._empty, "empty frames")
    connection._gathering = stream_id, ended, depends_on_itself
    connection._gathered += block
    connection._continuations = 0


def receive_continuation(connection: Connection, stream_id: int, flags: int, payload: bytes) -> None:
    gathering = connection._gathering
    if gathering is None or gathering[0] != stream_id:
        connection._break(ErrorCode.PROTOCOL_ERROR, "CONTINUATION that continues nothing")
    if not payload and not flags & END_HEADERS:
        connection._spend(connection._empty, "empty frames")
    connection._continuations += 1
    connection._gathered += payload
    limits = connection._limits
    if connection._continuations > limits.max_continuations or len(connection._gathered) > limits.max_block_bytes:
        connection._break(ErrorCode.ENHANCE_YOUR_CALM, "field block too large", over_budget=True)
    if flags & END_HEADERS:
        block = bytes(connection._gathered)
        connection._gathered.clear()
        connection._gathering = None
        receive_block(connection, *gathering[:2], block, gathering[2])


def receive_block(
    connection: Connection, stream_id: int, ended: int, block: bytes, depends_on_itself: bool = False
) -> None:
    """A whole field block: a request, a response or trailers."""
    stream = connection.streams.get(stream_id)
    if stream is None:
        if connection._new_stream is not None and stream_id >= connection._expected_id and stream_id & 1:
            _receive_request(connection, stream_id, ended, block, depends_on_itself)
            return
    elif not stream.remote_ended and not depends_on_itself:
        if stream._left == NO_HEAD_YET:
            receive_response(connection, stream, ended, block)
        else:
            _receive_trailers(connection, stream, ended, block)
        return
    try:
        connection._blocks.decode(block)  # nobody hears of it, but the next ones may build on it
    except Unreadable as bad:
        connection._break(bad.code, bad.detail, bad.over_budget)
    if stream is None:
        connection._refuse_stray(stream_id, HEADERS)
    elif stream.remote_ended:  # RFC 9113 §5.1: half-closed (remote)
        connection._fail(stream, ErrorCode.STREAM_CLOSED, "HEADERS behind the end of the stream")
    else:
        connection._fail(stream, ErrorCode.PROTOCOL_ERROR, "stream that depends on itself")


def _receive_request(connection: Connection, stream_id: int, ended: int, block: bytes, depends_on_itself: bool) -> None:
    assert connection._new_stream is not None
    if stream_id != connection._expected_id:
        connection._past.note_skip(connection._expected_id, stream_id)
    connection._expected_id = stream_id + 2
    head = connection._requests[ended].get(block)
    refused: BadMessage | None = None
    if head is None:
        try:
            head = connection._blocks.read_request(block, ended)
        except BadMessage as bad:
            refused = bad
        except Malformed:
            connection.malformed += 1
            connection._reset_unopened(stream_id, ErrorCode.PROTOCOL_ERROR)
            return
        except Unreadable as bad:
            connection._break(bad.code, bad.detail, bad.over_budget)
    if connection._goaway_final:
        connection._past.note_reset(stream_id, by_us=True)  # RFC 9113 §6.8: ignored
        return
    if len(connection.streams) >= connection.max_streams:
        # RFC 9113 §5.1.2; the client may not have seen our SETTINGS yet.
        connection._reset_unopened(stream_id, ErrorCode.REFUSED_STREAM)
        return
    if depends_on_itself:
        connection.malformed += 1
        connection._reset_unopened(stream_id, ErrorCode.PROTOCOL_ERROR)
        return
    begin_stream(connection, stream_id, ended, head, refused)


def begin_stream(
    connection: Connection, stream_id: int, ended: int, head: RequestHead | None, refused: BadMessage | None = None
) -> None:
    """A stream of the client's opens, with a request or with one that is not served (``refused``)."""
    stream = connection._new_stream()  # type: ignore[misc] # there is one: we are the server
    stream.id = stream_id
    stream._connection = connection
    stream._grant_at = connection._stream_grant_at
    stream._window = connection._peer_stream_window
    connection.streams[stream_id] = stream
    connection._opened += 1
    connection.useful += 1
    if ended:
        stream.remote_ended = True
    if head is not None:
        body = head.body
        stream._left = body if body >= 0 else body + 1  # NONE: 0. CHUNKED: UNKNOWN
        stream.on_head(head)
    elif refused is not None:
        stream._left = UNKNOWN
        stream.on_refused(refused)
    if ended and not stream._deaf:
        stream.on_end(None)


def receive_response(connection: Connection, stream: Stream, ended: int, block: bytes) -> None:
    head = connection._responses[ended + 2 * stream._head_asked].get(block)
    if head is None:
        try:
            head = connection._blocks.read_response(block, ended, stream._head_asked)
        except (BadMessage, Malformed) as bad:
            connection._fail(stream, ErrorCode.PROTOCOL_ERROR, str(bad))
            return
        except Unreadable as bad:
            connection._break(bad.code, bad.detail, bad.over_budget)
    connection.useful += 1
    if head.status < 200:
        stream._interim += 1
        if stream._interim > connection._limits.max_interim_responses:
            connection._fail(stream, ErrorCode.ENHANCE_YOUR_CALM, "too many interim responses")
        else:
            stream.on_head(head)
        return
    body = head.body
    stream._left = body if body >= 0 else body + 1
    if not ended:
        stream.on_head(head)
        return
    stream.remote_ended = True
    over = stream._sent_end
    if over:
        connection._forget(stream)
    stream.on_head(head)
    if not stream._deaf:
        stream.on_end(None)
    if over:
        connection._stream_over()


def _receive_trailers(connection: Connection, stream: Stream, ended: int, block: bytes) -> None:
    trailers = connection._trailers.get(block)
    if trailers is None:
        try:
            trailers = connection._blocks.read_trailers(block)
        except (BadMessage, Malformed) as bad:
            connection._fail(stream, ErrorCode.PROTOCOL_ERROR, str(bad))
            return
        except Unreadable as bad:
            connection._break(bad.code, bad.detail, bad.over_budget)
    if not ended:
        # RFC 9113 §8.1: "A HEADERS frame ... after the header section without the END_STREAM flag".
        connection._fail(stream, ErrorCode.PROTOCOL_ERROR, "HEADERS in the middle of a message")
    elif stream._left > 0:
        connection._fail(stream, ErrorCode.PROTOCOL_ERROR, "body of another length than content-length says")
    else:
        connection._end_remote(stream, b"", trailers)
