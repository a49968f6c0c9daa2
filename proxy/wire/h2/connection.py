"""The connection (RFC 9113), both roles: what arrives becomes calls on streams, what is to be sent collects in ``out``.

What is here, and what is not
    Here is what the connection knows; what its owner and its streams tell it; how frames are cut out of what arrives;
    DATA and the windows for it; and how streams, and the connection, end. The other frames are received by functions
    that take the connection, and are as much at home in it as its methods: ``header_frames`` and ``control_frames``.
    So are ``turns``, which sends what had to wait, and ``passing``. Two parts stand on their own: ``blocks`` knows what
    field blocks mean, ``past`` how streams ended.

How receiving works
    ``receive`` cuts frames out of what arrives. DATA and HEADERS that are whole and plain are dealt with in the loop;
    all others have a function. Data is handed on as it arrives, a frame's parts one by one; every other frame is
    gathered until it is whole (at most 16 KiB), and a field block until its last CONTINUATION (``max_block_bytes``).

Who is at fault for what
    A rule about the connection ends it: GOAWAY goes to ``out`` and :class:`Broken` is raised. A rule about a stream
    resets that stream. What is still under way to a stream that we reset is dropped, for as long as we remember that
    (``past.RESETS_REMEMBERED``); a frame for a stream that ended otherwise breaks the connection (RFC 9113 §5.1).

Streams
    state                in streams  remote_ended  local_ended  DATA, HEADERS            RST_STREAM, WINDOW_UPDATE
    idle                 no                                     PROTOCOL_ERROR, opens    PROTOCOL_ERROR
    open                 yes         no            no           heard                    heard
    half-closed, ours    yes         no            yes          heard                    heard
    half-closed, peer's  yes         yes           no           STREAM_CLOSED (stream)   heard
    closed, both ended   no                                     STREAM_CLOSED            ignored
    closed, peer reset   no                                     STREAM_CLOSED (stream)   ignored
    closed, we reset     no                                     ignored                  ignored
    skipped              no                                     PROTOCOL_ERROR           ignored

What bounds memory
    Received data is not held here. Windows bound what a paused stream can be sent: it earns nothing, and what it was
    sent meanwhile is held back from the connection's window too. Sent data queues in its stream without bound: whoever
    sends looks at ``queued``. Answers to the peer are counted while it does not read. What the peer may do to no
    purpose is bounded by allowances (``budget.py``). There is no clock: ``refill`` is one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, NoReturn, Protocol

from proxy.wire import Field
from proxy.wire.h2.blocks import BlockReader
from proxy.wire.h2.budget import Allowance
from proxy.wire.h2.codes import Broken, ErrorCode
from proxy.wire.h2.compress import Encoder, FieldBlock
from proxy.wire.h2.control_frames import CONTROL_FRAMES, FAREWELL
from proxy.wire.h2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    FIRST_WINDOW,
    FRAME_BYTES,
    HEAD_BYTES,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    LARGEST_ID,
    MAX_CONCURRENT_STREAMS,
    MAX_HEADER_LIST_SIZE,
    PADDED,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    goaway_frame,
    headers_frames,
    pack_head,
    ping_frame,
    rst_stream_frame,
    settings_frame,
    unpack_head,
    window_update_frame,
)
from proxy.wire.h2.header_frames import (
    begin_stream,
    receive_block,
    receive_continuation,
    receive_odd_headers,
    receive_response,
)
from proxy.wire.h2.limits import H2Limits, Settings
from proxy.wire.h2.passing import pass_on
from proxy.wire.h2.past import PastStreams
from proxy.wire.h2.stream import NO_HEAD_YET, UNKNOWN, Stream
from proxy.wire.h2.turns import make_ready, pump

STREAMS_BEFORE_SETTINGS: Final = 100
"""What a client opens before it knows what the server allows. RFC 9113 §6.5.2 advises servers to allow as many."""

# What is at hand of a frame, between two reads.
_BETWEEN: Final = 0
_PREFACE: Final = 1  # of the client, some of it in _partial
_FIRST: Final = 2  # a first frame, which must be SETTINGS
_PARTIAL: Final = 3  # some of a frame, in _partial
_IN_DATA: Final = 4  # _body_left bytes of DATA are missing, and of _padding_left of padding


class Handler(Protocol):
    """The owner of the connection."""

    def on_output(self) -> None:
        """``out`` was empty and is no longer: see that it is taken. Not called again until it was."""

    def on_goaway(self) -> None:
        """Client: the server goes away. No stream may be opened any more; those that it will not serve are reset."""

    def on_capacity(self) -> None:
        """Client: a stream ended, or the server allows more. Both, while draining: a stream ended."""


class Connection:
    """See the module. ``new_stream``: makes the streams of a server; without it the role is the client's.

    ``streams``: those that are open. ``max_streams``: how many may be. ``draining``: no more will be. ``settled``: the
    peer's SETTINGS have come. ``closed``: nothing is heard any more. ``malformed``: requests that were reset before
    there was a stream for them (RFC 9113 §8.1.1). ``encoder``, ``send_window``, ``useful``, ``ready``, ``paused`` and
    the methods in the last section are for streams.
    """

    __slots__ = (
        "_aged_id", "_blocks", "_body_left", "_body_stream", "_continuations", "_dropped", "_empty", "_expected_id",
        "_gathered", "_gathering", "_goaway_final", "_grant_at", "_held", "_ignored", "_kept", "_limits", "_mode",
        "_new_stream", "_next_id", "_opened", "_padding_left", "_partial", "_past", "_peer_stream_window", "_pings",
        "_pumping", "_requests", "_resets", "_responses", "_settings", "_settings_frames", "_stopped",
        "_stream_grant_at", "_tells_capacity", "_trailers", "_unsent", "_used", "_windows", "closed", "draining",
        "encoder", "handler", "malformed", "max_streams", "out", "paused", "ready", "send_window", "settled",
        "streams", "useful",
    )  # fmt: skip

    def __init__(
        self,
        handler: Handler,
        new_stream: Callable[[], Stream] | None,
        settings: Settings,
        limits: H2Limits,
    ) -> None:
        self.handler = handler
        self.streams: dict[int, Stream] = {}
        self.out: list[bytes] = []
        self.draining = self.closed = False
        self._tells_capacity = new_stream is None
        self.malformed = 0
        self._new_stream = new_stream
        self._settings = settings
        self._limits = limits

        # Receiving.
        self._mode = _FIRST if new_stream is None else _PREFACE
        self._partial = bytearray()
        self._stopped = False  # closed, or on hold
        self._kept = b""
        self._body_left = self._padding_left = 0
        self._body_stream: tuple[int, int] = (0, 0)  # its id, the frame's flags
        self._gathering: tuple[int, bool, bool] | None = None  # stream, END_STREAM, depends on itself
        self._gathered = bytearray()
        self._continuations = 0
        self._blocks = blocks = BlockReader(new_stream is not None, limits)
        self._requests = blocks.requests  # its tables, to look into at once
        self._responses = blocks.responses
        self._trailers = blocks.trailers
        self._used = self._held = 0  # of the connection's window, as in a stream
        self._grant_at = settings.connection_window_bytes // 4
        self._stream_grant_at = settings.stream_window_bytes // 2

        # Streams.
        self._expected_id = 1  # of the client's next stream; for a client, no stream
        self._next_id = 1 if new_stream is None else LARGEST_ID + 1  # of ours
        self.max_streams = settings.max_concurrent_streams if new_stream else STREAMS_BEFORE_SETTINGS
        self.settled = False  # the peer's SETTINGS have come
        self._goaway_final = False
        self._opened = self._dropped = 0
        self._aged_id = 0  # streams below it were there when refill was called last
        self._past = PastStreams()

        # Sending.
        self.encoder = Encoder()
        self.send_window = FIRST_WINDOW
        self._peer_stream_window = FIRST_WINDOW
        self.ready: deque[Stream] = deque()
        self.paused = False
        self._pumping = False
        self._unsent = 0

        # Allowances; and what earns them back, besides streams that were completed.
        self.useful = 0
        self._resets = Allowance(limits.reset_allowance, 1)
        self._settings_frames = Allowance(limits.settings_allowance, 0)
        self._pings = Allowance(limits.ping_allowance, 1)
        self._empty = Allowance(limits.empty_allowance, 1)
        self._windows = Allowance(limits.window_allowance, 4)
        self._ignored = Allowance(limits.ignored_allowance, 4)

    # The owner's

    def start(self) -> None:
        """Say what comes first (RFC 9113 §3.4)."""
        settings = self._settings
        values = {INITIAL_WINDOW_SIZE: settings.stream_window_bytes}
        if self._new_stream is None:
            values[ENABLE_PUSH] = 0
        else:
            values[MAX_CONCURRENT_STREAMS] = settings.max_concurrent_streams
        values[MAX_HEADER_LIST_SIZE] = self._limits.max_header_list_bytes
        first = settings_frame(values)
        if self._new_stream is None:
            first = PREFACE + first
        more = settings.connection_window_bytes - FIRST_WINDOW
        if more:
            first += window_update_frame(0, more)
        self.write(first)

    def take(self) -> list[bytes]:
        """Hand over what is to be sent, and forget it."""
        out, self.out = self.out, []
        return out

    @property
    def said_goodbye(self) -> bool:
        """Whether the GOAWAY is out that names the last stream to be served."""
        return self._goaway_final

    @property
    def can_open(self) -> bool:
        """Client: may a stream be opened now?"""
        return len(self.streams) < self.max_streams and not self.draining and self._next_id <= LARGEST_ID

    @property
    def is_clogged(self) -> bool:
        """Is half of the window for all streams together used up by streams that are not read from? Soon nobody gets
        anything here.
        """
        return self._held >= 2 * self._grant_at

    @property
    def is_nearly_blocked(self) -> bool:
        """Are three quarters?"""
        return self._held >= 3 * self._grant_at

    def open(self, stream: Stream, method: bytes, block: FieldBlock, late: bytes = b"", end: bool = False) -> None:
        """Client: send a request. ``method`` as in ``block``. ``end``: it has no body. Look at ``can_open`` first."""
        if len(self.streams) >= self.max_streams or self.draining or self._next_id > LARGEST_ID:
            raise RuntimeError("no stream may be opened here")
        stream_id = stream.id = self._next_id
        self._next_id = stream_id + 2
        self.streams[stream_id] = stream
        self._opened += 1
        stream._connection = self
        stream._grant_at = self._stream_grant_at
        stream._window = self._peer_stream_window
        if method == b"HEAD":
            stream._head_asked = True
        if end:
            stream.local_ended = stream._sent_end = True
        self.send_block(stream_id, block, late, end)

    def pause(self) -> None:
        """The transport takes no more: data waits."""
        self.paused = True

    def resume(self) -> None:
        """It takes again."""
        self.paused = False
        self._unsent = 0
        pump(self)

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """Serve what has come and nothing more. Without an error, a server does it in two steps (RFC 9113 §6.8): what
        is on its way is still served, until a PING has gone round or this is called again.
        """
        if self.closed or self._goaway_final:
            return
        if self._new_stream is not None and code is ErrorCode.NO_ERROR and not self.draining:
            self.draining = self._tells_capacity = True
            self.write(goaway_frame(LARGEST_ID, code) + ping_frame(FAREWELL, ack=False))
            return
        self.draining = self._goaway_final = self._tells_capacity = True
        self.write(goaway_frame(max(self._expected_id - 2, 0), code))

    def abandon(self, code: ErrorCode = ErrorCode.INTERNAL_ERROR) -> None:
        """The connection is lost, and with it every stream."""
        self.closed = self.draining = self._stopped = True
        self._kept = b""
        streams = list(self.streams.values())
        self.streams.clear()
        self.ready.clear()
        self._held = 0
        for stream in streams:
            stream.closed = stream._deaf = True
            stream._held = 0
            stream.queued = 0
            stream._queue = None
        for stream in streams:
            stream.on_reset(code, False)

    def refill(self) -> None:
        """To be called every few seconds: time earns allowances too, and whoever resets an older stream spends none."""
        self._aged_id = self._expected_id
        self._resets.refill()
        self._settings_frames.refill()
        self._pings.refill()
        self._empty.refill()
        self._windows.refill()
        self._ignored.refill()

    # Receiving: cutting frames

    def receive(self, data: bytes) -> None:
        """Raises Broken, and what the streams and the handler raise."""
        at, size = 0, len(data)
        while self._mode != _BETWEEN and at < size and not self._stopped:
            at = self._go_on(data, at)
        if at < size and not self.closed:
            self._read(data, at)

    def receive_large(self, buffer: memoryview) -> None:
        """As :meth:`receive`, for much. ``buffer`` may be written to, and is the caller's again afterwards."""
        at, size = 0, len(buffer)
        while at < size and not self.closed:
            mode, end = self._mode, size
            if self._stopped or self._gathering is not None:
                pass
            elif mode == _BETWEEN:
                at = pass_on(self, buffer, at)
                if size - at >= HEAD_BYTES:
                    high, low, *_ = unpack_head(buffer, at)
                    end = at + HEAD_BYTES + (high << 8 | low)
            elif mode == _IN_DATA:
                end = at + self._body_left + self._padding_left
            elif mode == _PARTIAL and len(self._partial) < HEAD_BYTES:
                end = at + HEAD_BYTES - len(self._partial)
            self.receive(bytes(buffer[at:end]))
            at = end

    def hold(self) -> None:
        """Keep what comes behind the frame that is being received until :meth:`let_go`. Meanwhile the peer should
        not be read from.
        """
        self._stopped = True

    def let_go(self) -> bytes:
        """No longer on hold. What was kept, to be received before anything else."""
        self._stopped = self.closed
        kept, self._kept = self._kept, b""
        return kept

    @property
    def is_on_hold(self) -> bool:
        return self._stopped and not self.closed

    def _read(self, data: bytes, at: int) -> None:
        """Work through ``data[at:]``, which starts with a frame, and keep what is incomplete of the last one."""
        size = len(data)
        streams = self.streams
        requests = self._requests
        while size - at >= HEAD_BYTES and not self._stopped:
            high, low, kind, flags, stream_id = unpack_head(data, at)
            length = high << 8 | low
            if length > FRAME_BYTES:
                self._break(ErrorCode.FRAME_SIZE_ERROR, "frame over 16,384 bytes")  # RFC 9113 §4.2
            if stream_id > LARGEST_ID:
                stream_id &= LARGEST_ID  # RFC 9113 §4.1: the reserved bit is ignored
            if self._gathering is not None and kind != CONTINUATION:
                self._break(ErrorCode.PROTOCOL_ERROR, "frame within a field block")  # RFC 9113 §4.3
            start = at + HEAD_BYTES
            end = start + length
            if kind == DATA:
                stream = streams.get(stream_id)
                if stream is None or stream.remote_ended or flags & PADDED or end > size or not length:
                    at = self._read_odd_data(data, start, length, flags, stream_id)
                    continue
                if self._admit(stream, length, length, flags):
                    self.useful += 1
                    if flags & END_STREAM:
                        self._end_remote(stream, data[start:end], None)
                    else:
                        stream.on_data(data[start:end])
            elif end > size:
                break
            elif kind == HEADERS:
                if flags & (END_HEADERS | PADDED | WITH_PRIORITY) != END_HEADERS:
                    receive_odd_headers(self, stream_id, flags, data[start:end])
                    at = end
                    continue
                block = data[start:end]
                ended = flags & END_STREAM
                stream = streams.get(stream_id)
                if stream is None:
                    head = requests[ended].get(block)
                    if head is not None and stream_id == self._expected_id and len(streams) < self.max_streams:
                        self._expected_id = stream_id + 2
                        begin_stream(self, stream_id, ended, head)
                    else:
                        receive_block(self, stream_id, ended, block)
                elif stream._left == NO_HEAD_YET:
                    receive_response(self, stream, ended, block)
                else:
                    receive_block(self, stream_id, ended, block)
            elif kind <= CONTINUATION:
                _RECEIVE[kind](self, stream_id, flags, data[start:end])
            else:
                self._spend(self._ignored, "unknown frames")  # RFC 9113 §4.1: ignored
            at = end
        if at < size and not self.closed:
            if self._stopped:
                self._kept += data[at:]
            else:
                self._mode = _PARTIAL
                self._partial += data[at:]

    def _go_on(self, data: bytes, at: int) -> int:
        """Take from ``data[at:]`` what was missing of a frame or of the preface, and return where it ended."""
        mode = self._mode
        if mode == _IN_DATA:
            return self._go_on_with_data(data, at)
        partial = self._partial
        if mode == _PREFACE:
            end = at + len(PREFACE) - len(partial)
            partial += data[at:end]
            if not PREFACE.startswith(partial):
                self._break(ErrorCode.PROTOCOL_ERROR, "no HTTP/2 preface")  # RFC 9113 §3.4
            if len(partial) == len(PREFACE):
                partial.clear()
                self._mode = _FIRST
            return min(end, len(data))
        if len(partial) < HEAD_BYTES:
            end = at + HEAD_BYTES - len(partial)
            partial += data[at:end]
            at = min(end, len(data))
            if len(partial) < HEAD_BYTES:
                return at
        high, low, kind, flags, _ = unpack_head(partial)
        if mode == _FIRST:
            if kind != SETTINGS or flags & ACK:
                self._break(ErrorCode.PROTOCOL_ERROR, "first frame that is not SETTINGS")  # RFC 9113 §3.4
            self._mode = _PARTIAL
        length = high << 8 | low
        if kind == DATA:
            length = min(length, 1) if flags & PADDED else 0  # what _read needs to begin with it
        if length <= FRAME_BYTES:
            end = at + HEAD_BYTES + length - len(partial)
            partial += data[at:end]
            at = min(end, len(data))
            if len(partial) < HEAD_BYTES + length:
                return at
        whole = bytes(partial)
        partial.clear()
        self._mode = _BETWEEN
        self._read(whole, 0)
        return at

    # Receiving: DATA (RFC 9113 §6.1)

    def _admit(self, stream: Stream, length: int, size: int, flags: int) -> bool:
        """May a DATA frame with ``length`` bytes, ``size`` of them data, come now? If not, the stream is over."""
        self._used = used = self._used + length
        if used >= self._grant_at:
            self._grant(length if stream._paused else 0)
        stream._used = used = stream._used + length
        if used >= stream._grant_at and not self._grant_stream(stream, length, flags):
            return False
        left = stream._left
        if left != UNKNOWN:
            left -= size
            if left < 0 or (left and flags & END_STREAM):
                # RFC 9113 §8.1 and §8.1.1.
                self._fail(stream, ErrorCode.PROTOCOL_ERROR, "body of another length than content-length says")
                return False
            stream._left = left
        return True

    def _read_odd_data(self, data: bytes, start: int, length: int, flags: int, stream_id: int) -> int:
        """A DATA frame that is padded, incomplete, empty, or for a stream that takes none."""
        size, padding = length, 0
        if flags & PADDED:
            if not length:
                self._break(ErrorCode.FRAME_SIZE_ERROR, "padded DATA without its pad length")  # RFC 9113 §4.2
            if start == len(data):
                self._mode = _PARTIAL
                self._partial += data[start - HEAD_BYTES :]
                return start
            padding = data[start]
            if padding >= length:
                self._break(ErrorCode.PROTOCOL_ERROR, "more padding than frame")  # RFC 9113 §6.1
            start += 1
            size = length - 1 - padding
        if not size and not flags & END_STREAM:
            self._spend(self._empty, "empty frames")
        stream = self.streams.get(stream_id)
        if stream is None or stream.remote_ended:
            self._used += length  # RFC 9113 §5.1: it counts for the connection all the same
            self._grant()
            if stream is None:
                self._refuse_stray(stream_id, DATA)
            else:  # RFC 9113 §5.1: half-closed (remote)
                self._fail(stream, ErrorCode.STREAM_CLOSED, "DATA behind the end of the stream")
        else:
            self._admit(stream, length, size, flags)  # if not, it is not found when the data is to be handed on
        self._mode = _IN_DATA
        self._body_left, self._padding_left = size, padding
        self._body_stream = stream_id, flags & END_STREAM
        if not size:
            self._hand_on(b"", flags & END_STREAM)
        return self._go_on_with_data(data, start)

    def _go_on_with_data(self, data: bytes, at: int) -> int:
        """Take what ``data[at:]`` has of the DATA frame that is being read; return where it stopped."""
        left = self._body_left
        if left and at < len(data):
            piece = data[at : at + left]
            at += len(piece)
            self._body_left = left = left - len(piece)
            self._hand_on(piece, 0 if left else self._body_stream[1])
        if not left:
            skipped = min(self._padding_left, len(data) - at)
            self._padding_left -= skipped
            at += skipped
            if not self._padding_left:
                self._mode = _BETWEEN
        return at

    def _hand_on(self, piece: bytes, ends: int) -> None:
        stream = self.streams.get(self._body_stream[0])
        if stream is None:  # it was reset, before or meanwhile
            return
        if piece:
            self.useful += 1
        if ends:
            self._end_remote(stream, piece, None)
        elif piece:
            stream.on_data(piece)

    # Receiving: windows (RFC 9113 §5.2)

    def _grant(self, held_next: int = 0) -> None:
        """Give the connection's window back, once a quarter of what is not held is owed: by then little of the rest may
        be left, as sockets hold some of it. ``held_next``: what is going to be held of what has just come.
        """
        if self._used > self._settings.connection_window_bytes:
            self._break(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window lets in")
        owed = self._used - self._held - held_next
        if owed and 4 * owed >= self._settings.connection_window_bytes - self._held:
            self._used -= owed
            self.write(window_update_frame(0, owed))

    def _grant_stream(self, stream: Stream, length: int, flags: int) -> bool:
        """The same for a stream, of which ``length`` bytes came now. False: it had no right to send them."""
        if stream._used > self._settings.stream_window_bytes:
            self._fail(stream, ErrorCode.FLOW_CONTROL_ERROR, "more data than the stream's window lets in")
            return False
        if stream._paused:
            stream._held += length
            self._held += length
        elif not flags & END_STREAM:
            self.write(window_update_frame(stream.id, stream._used))
            stream._used = 0
        return True

    # Ends

    def _end_remote(self, stream: Stream, data: bytes, trailers: list[Field] | None) -> None:
        """The peer's side is complete with this; it is known while the last piece is heard."""
        stream.remote_ended = True
        over = stream._sent_end
        if over:
            self._forget(stream)
        if data:
            stream.on_data(data)
        if not stream._deaf:
            stream.on_end(trailers)
        if over:
            self._stream_over()

    def _forget(self, stream: Stream) -> None:
        """It is closed."""
        del self.streams[stream.id]
        stream.closed = True
        if stream._held:
            self._held -= stream._held
            stream._held = 0
            self._grant()

    def _stream_over(self) -> None:
        if self._tells_capacity:
            self.handler.on_capacity()

    def _drop(self, stream: Stream, by_us: bool) -> None:
        self._dropped += 1
        stream._deaf = True
        self._forget(stream)
        if stream._ready:
            stream._ready = False
            self.ready.remove(stream)
        stream.queued = 0
        stream._queue = None
        self._past.note_reset(stream.id, by_us)

    def _fail(self, stream: Stream, code: ErrorCode, fault: str) -> None:
        """The stream's peer broke a rule (RFC 9113 §5.4.2)."""
        self._spend_reset()
        stream.fault = fault
        self._drop(stream, by_us=True)
        self._answer(rst_stream_frame(stream.id, code))
        stream.on_reset(code, False)
        self._stream_over()

    def _fail_or_break(self, stream_id: int, code: ErrorCode, fault: str) -> None:
        """RFC 9113 §5.4.2: where there is no stream to reset, it is the connection's fault."""
        stream = self.streams.get(stream_id)
        if stream is None:
            self._break(code, fault)
        self._fail(stream, code, fault)

    def _reset_unopened(self, stream_id: int, code: ErrorCode) -> None:
        """A stream that never was one of ours."""
        self._spend_reset()
        self._past.note_reset(stream_id, by_us=True)
        self._answer(rst_stream_frame(stream_id, code))

    def _break(self, code: ErrorCode, detail: str, over_budget: bool = False) -> NoReturn:
        """RFC 9113 §5.4.1."""
        self.closed = self.draining = self._stopped = True
        self.write(goaway_frame(max(self._expected_id - 2, 0), code))
        raise Broken(code, detail, over_budget)

    # Streams that are no more (RFC 9113 §5.1)

    def _refuse_stray(self, stream_id: int, kind: int) -> None:
        """A frame for a stream that is not open, and that does not open it."""
        if not stream_id:
            self._break(ErrorCode.PROTOCOL_ERROR, "frame without a stream")
        if not stream_id & 1 or stream_id >= (self._next_id if self._new_stream is None else self._expected_id):
            self._break(ErrorCode.PROTOCOL_ERROR, "frame for an idle stream")
        if kind in (RST_STREAM, WINDOW_UPDATE):
            self._spend(self._ignored, "frames for closed streams")
            return
        past = self._past
        by_us = past.resets.get(stream_id)
        if by_us or stream_id <= past.forgotten_id:
            return
        if by_us is False:
            self._reset_unopened(stream_id, ErrorCode.STREAM_CLOSED)
        elif past.was_skipped(stream_id):
            # RFC 9113 §5.1.1: "An endpoint that receives an unexpected stream identifier".
            self._break(ErrorCode.PROTOCOL_ERROR, "stream below one that was opened before")
        else:
            self._break(ErrorCode.STREAM_CLOSED, "frame behind the end of a stream")

    # Allowances

    def _spend(self, allowance: Allowance, on: str) -> None:
        if not allowance.spend(self.useful):
            self._break(ErrorCode.ENHANCE_YOUR_CALM, f"too many {on}", over_budget=True)

    def _spend_reset(self) -> None:
        """Only clients attack this way: a server that resets costs nobody but its own client."""
        if self._new_stream is not None and not self._resets.spend(self._opened - len(self.streams) - self._dropped):
            self._break(ErrorCode.ENHANCE_YOUR_CALM, "too many resets", over_budget=True)

    def _answer(self, answer: bytes) -> None:
        """Send what the peer made us say: not without end, if it does not read."""
        if self.paused:
            self._unsent += 1
            if self._unsent > self._limits.max_unsent_answers:
                self._break(ErrorCode.ENHANCE_YOUR_CALM, "too many answers that are not read", over_budget=True)
        self.write(answer)

    # For streams

    def send_block(self, stream_id: int, block: FieldBlock, late: bytes, end: bool) -> None:
        """HEADERS, and CONTINUATION where one frame does not do."""
        encoder = self.encoder
        encoded = (encoder.remembered.get(block) or encoder.encode(block)) + late
        size = len(encoded)
        if size > FRAME_BYTES:
            self.write(headers_frames(stream_id, encoded, end))
            return
        out = self.out
        out.append(pack_head(size >> 8, size & 0xFF, HEADERS, END_HEADERS | end, stream_id) + encoded)
        if len(out) == 1:
            self.handler.on_output()

    def finish(self, stream: Stream) -> None:
        """Both sides have ended, and ours has gone out."""
        self._forget(stream)
        self._stream_over()

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        self._drop(stream, by_us=True)
        self.write(rst_stream_frame(stream.id, code))
        self._stream_over()

    def release(self, stream: Stream) -> None:
        """It is read from again."""
        was_clogged = self.is_clogged
        self._held -= stream._held
        stream._held = 0
        stream._grant_at = self._stream_grant_at
        self._grant()
        if stream._used >= stream._grant_at and not stream.remote_ended:
            self.write(window_update_frame(stream.id, stream._used))
            stream._used = 0
        if was_clogged and not self.is_clogged:
            self._stream_over()

    def enqueue(self, stream: Stream) -> None:
        """It has data that could not go."""
        make_ready(self, stream)
        pump(self)

    def write(self, data: bytes) -> None:
        """Send this, which is whole frames."""
        out = self.out
        out.append(data)
        if len(out) == 1:
            self.handler.on_output()


_RECEIVE: Final = {**CONTROL_FRAMES, CONTINUATION: receive_continuation}
