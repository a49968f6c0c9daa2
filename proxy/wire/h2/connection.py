"""The connection (RFC 9113), both roles: what arrives becomes calls on streams, what is to be sent collects in ``out``.

How receiving works
    ``receive`` cuts frames out of what arrives. DATA and HEADERS that are whole and plain are dealt with in the loop;
    all others have a method. Data is handed on as it arrives, a frame's parts one by one; every other frame is
    gathered until it is whole (at most 16 KiB), and a field block until its last CONTINUATION (``max_block_bytes``).
    A block that has come before and that no change of the dynamic table lies behind is not decoded again:
    ``_requests``, ``_responses`` and ``_trailers`` know what it meant.

Who is at fault for what
    A rule about the connection ends it: GOAWAY goes to ``out`` and :class:`Broken` is raised. A rule about a stream
    resets that stream. What is still under way to a stream that we reset is dropped, for as long as we remember that
    (``RESETS_REMEMBERED``); a frame for a stream that ended otherwise breaks the connection (RFC 9113 §5.1).

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

Sending order
    Frames of one stream keep their order; streams that wait take turns, one frame of at most 16 KiB each. Nobody
    overtakes them: as long as one is ready to go on, whatever else is sent queues as well.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, NoReturn, Protocol, TypeVar

from proxy.wire import BadMessage, Field, RequestHead, ResponseHead
from proxy.wire.h2.budget import Allowance
from proxy.wire.h2.codes import Broken, ErrorCode, known_code
from proxy.wire.h2.compress import Encoder, FieldBlock
from proxy.wire.h2.decompress import BadBlock, Decoder, Inflated, list_size
from proxy.wire.h2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    FIRST_WINDOW,
    FRAME_BYTES,
    GOAWAY,
    HEAD_BYTES,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    LARGEST_FRAME_BYTES,
    LARGEST_ID,
    LARGEST_WINDOW,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    SETTINGS_ACK,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    frame,
    goaway_frame,
    pack_head,
    ping_frame,
    read_settings,
    rst_stream_frame,
    settings_frame,
    unpack_head,
    unpack_long,
    window_update_frame,
)
from proxy.wire.h2.heads import (
    Malformed,
    request_head,
    request_trailers,
    response_head,
    response_trailers,
)
from proxy.wire.h2.limits import H2Limits, Settings
from proxy.wire.h2.passing import pass_on
from proxy.wire.h2.stream import NO_HEAD_YET, UNKNOWN, Stream

BLOCKS_REMEMBERED: Final = 128
LARGEST_REMEMBERED_BYTES: Final = 1024
RESETS_REMEMBERED: Final = 1024
SKIPS_REMEMBERED: Final = 16
STREAMS_BEFORE_SETTINGS: Final = 100
"""What a client opens before it knows what the server allows. RFC 9113 §6.5.2 advises servers to allow as many."""

_FAREWELL: Final = b"farewell"
"""The PING behind a first GOAWAY: when it comes back, whatever the peer had sent before it saw that has arrived."""

# What is at hand of a frame, between two reads.
_BETWEEN: Final = 0
_PREFACE: Final = 1  # of the client, some of it in _partial
_FIRST: Final = 2  # a first frame, which must be SETTINGS
_PARTIAL: Final = 3  # some of a frame, in _partial
_IN_DATA: Final = 4  # _body_left bytes of DATA are missing, and of _padding_left of padding


T = TypeVar("T")


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
        "_aged_id", "_body_left", "_body_stream", "_continuations", "_decoder", "_dropped", "_empty", "_expected_id",
        "_forgotten_id", "_gathered", "_gathering", "_goaway_final", "_grant_at", "_held", "_ignored", "_kept",
        "_limits", "_mode", "_new_stream", "_next_id", "_opened", "_padding_left", "_partial", "_peer_stream_window",
        "_pings", "_pumping", "_requests", "_reset_streams", "_resets", "_responses", "_settings", "_settings_frames",
        "_skipped", "_stopped", "_stream_grant_at", "_tells_capacity", "_trailers", "_unsent", "_used", "_windows",
        "closed", "draining", "encoder", "handler", "malformed", "max_streams", "out", "paused", "ready",
        "send_window", "settled", "streams", "useful",
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
        self._decoder = Decoder(limits.max_inflation * limits.max_fields)
        self._requests: tuple[dict[bytes, RequestHead], ...] = ({}, {})  # without and with END_STREAM
        self._responses: tuple[dict[bytes, ResponseHead], ...] = ({}, {}, {}, {})  # and, behind them, to HEAD
        self._trailers: dict[bytes, list[Field]] = {}
        self._used = self._held = 0  # of the connection's window, as in a stream
        self._grant_at = settings.connection_window_bytes // 2
        self._stream_grant_at = settings.stream_window_bytes // 2

        # Streams.
        self._expected_id = 1  # of the client's next stream; for a client, no stream
        self._next_id = 1 if new_stream is None else LARGEST_ID + 1  # of ours
        self.max_streams = settings.max_concurrent_streams if new_stream else STREAMS_BEFORE_SETTINGS
        self.settled = False  # the peer's SETTINGS have come
        self._goaway_final = False
        self._opened = self._dropped = 0
        self._aged_id = 0  # streams below it were there when refill was called last
        self._reset_streams: dict[int, bool] = {}  # whether it was us
        self._forgotten_id = 0
        self._skipped: list[range] = []

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
        return self._held >= self._grant_at

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
        self._pump()

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """Serve what has come and nothing more. Without an error, a server does it in two steps (RFC 9113 §6.8): what
        is on its way is still served, until a PING has gone round or this is called again.
        """
        if self.closed or self._goaway_final:
            return
        if self._new_stream is not None and code is ErrorCode.NO_ERROR and not self.draining:
            self.draining = self._tells_capacity = True
            self.write(goaway_frame(LARGEST_ID, code) + ping_frame(_FAREWELL, ack=False))
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
                    self._receive_odd_headers(stream_id, flags, data[start:end])
                    at = end
                    continue
                block = data[start:end]
                ended = flags & END_STREAM
                stream = streams.get(stream_id)
                if stream is None:
                    head = requests[ended].get(block)
                    if head is not None and stream_id == self._expected_id and len(streams) < self.max_streams:
                        self._expected_id = stream_id + 2
                        self._begin(stream_id, ended, head)
                    else:
                        self._receive_block(stream_id, ended, block)
                elif stream._left == NO_HEAD_YET:
                    self._receive_response(stream, ended, block)
                else:
                    self._receive_block(stream_id, ended, block)
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
        """Give the connection's window back, once half of what is not held is owed. ``held_next``: what is going to be
        held of what has just come.
        """
        if self._used > self._settings.connection_window_bytes:
            self._break(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window lets in")
        owed = self._used - self._held - held_next
        if owed and 2 * owed >= self._settings.connection_window_bytes - self._held:
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

    # Receiving: HEADERS and CONTINUATION (RFC 9113 §6.2 and §6.10)

    def _receive_odd_headers(self, stream_id: int, flags: int, payload: bytes) -> None:
        """HEADERS that are padded, have a priority, or go on in CONTINUATION."""
        start, end = 0, len(payload)
        depends_on_itself = False
        if flags & PADDED:
            start = 1
        if flags & WITH_PRIORITY:
            start += 5
        if start > end:
            self._break(ErrorCode.FRAME_SIZE_ERROR, "HEADERS without room for what its flags announce")
        if flags & PADDED:
            end -= payload[0]
            if start > end:
                self._break(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
        if flags & WITH_PRIORITY:
            # RFC 7540 §5.3.1. RFC 9113 §5.3.2 leaves nothing of priorities but their bytes; still nobody means this.
            depends_on_itself = unpack_long(payload, start - 5)[0] & LARGEST_ID == stream_id
        block = payload[start:end]
        ended = bool(flags & END_STREAM)
        if flags & END_HEADERS:
            self._receive_block(stream_id, ended, block, depends_on_itself)
            return
        if not block:
            self._spend(self._empty, "empty frames")
        self._gathering = stream_id, ended, depends_on_itself
        self._gathered += block
        self._continuations = 0

    def _receive_continuation(self, stream_id: int, flags: int, payload: bytes) -> None:
        gathering = self._gathering
        if gathering is None or gathering[0] != stream_id:
            self._break(ErrorCode.PROTOCOL_ERROR, "CONTINUATION that continues nothing")
        if not payload and not flags & END_HEADERS:
            self._spend(self._empty, "empty frames")
        self._continuations += 1
        self._gathered += payload
        if self._continuations > self._limits.max_continuations or len(self._gathered) > self._limits.max_block_bytes:
            self._break(ErrorCode.ENHANCE_YOUR_CALM, "field block too large", over_budget=True)
        if flags & END_HEADERS:
            block = bytes(self._gathered)
            self._gathered.clear()
            self._gathering = None
            self._receive_block(*gathering[:2], block, gathering[2])

    def _receive_block(self, stream_id: int, ended: int, block: bytes, depends_on_itself: bool = False) -> None:
        """A whole field block: a request, a response or trailers."""
        stream = self.streams.get(stream_id)
        if stream is None:
            if self._new_stream is None or stream_id < self._expected_id or not stream_id & 1:
                self._decode(block)
                self._refuse_stray(stream_id, HEADERS)
            else:
                self._receive_request(stream_id, ended, block, depends_on_itself)
            return
        if stream.remote_ended or depends_on_itself:
            self._decode(block)
            if stream.remote_ended:  # RFC 9113 §5.1: half-closed (remote)
                self._fail(stream, ErrorCode.STREAM_CLOSED, "HEADERS behind the end of the stream")
            else:
                self._fail(stream, ErrorCode.PROTOCOL_ERROR, "stream that depends on itself")
        elif stream._left == NO_HEAD_YET:
            self._receive_response(stream, ended, block)
        else:
            self._receive_trailers(stream, ended, block)

    def _receive_request(self, stream_id: int, ended: int, block: bytes, depends_on_itself: bool) -> None:
        assert self._new_stream is not None
        if stream_id != self._expected_id:
            self._note_skip(stream_id)
        self._expected_id = stream_id + 2
        head = self._requests[ended].get(block)
        refused: BadMessage | None = None
        if head is None:
            changes = self._decoder.changes
            fields = self._decode(block)
            size = list_size(fields)
            try:
                self._refuse_size(fields, size)
                head = request_head(fields, bool(ended), size)
            except BadMessage as bad:
                refused = bad
            except Malformed:
                self.malformed += 1
                self._reset_unopened(stream_id, ErrorCode.PROTOCOL_ERROR)
                return
            else:
                self._remember(self._requests[ended], block, head, changes)
        if self._goaway_final:
            self._note_reset(stream_id, by_us=True)  # RFC 9113 §6.8: ignored
            return
        if len(self.streams) >= self.max_streams:
            # RFC 9113 §5.1.2; the client may not have seen our SETTINGS yet.
            self._reset_unopened(stream_id, ErrorCode.REFUSED_STREAM)
            return
        if depends_on_itself:
            self.malformed += 1
            self._reset_unopened(stream_id, ErrorCode.PROTOCOL_ERROR)
            return
        self._begin(stream_id, ended, head, refused)

    def _begin(self, stream_id: int, ended: int, head: RequestHead | None, refused: BadMessage | None = None) -> None:
        """A request, or one that is not served."""
        stream = self._new_stream()  # type: ignore[misc] # there is one: we are the server
        stream.id = stream_id
        stream._connection = self
        stream._grant_at = self._stream_grant_at
        stream._window = self._peer_stream_window
        self.streams[stream_id] = stream
        self._opened += 1
        self.useful += 1
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

    def _receive_response(self, stream: Stream, ended: int, block: bytes) -> None:
        heads = self._responses[ended + 2 * stream._head_asked]
        head = heads.get(block)
        if head is None:
            changes = self._decoder.changes
            fields = self._decode(block)
            size = list_size(fields)
            try:
                self._refuse_size(fields, size)
                head = response_head(fields, bool(ended), stream._head_asked, size)
            except (BadMessage, Malformed) as bad:
                self._fail(stream, ErrorCode.PROTOCOL_ERROR, str(bad))
                return
            self._remember(heads, block, head, changes)
        self.useful += 1
        if head.status < 200:
            stream._interim += 1
            if stream._interim > self._limits.max_interim_responses:
                self._fail(stream, ErrorCode.ENHANCE_YOUR_CALM, "too many interim responses")
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
            self._forget(stream)
        stream.on_head(head)
        if not stream._deaf:
            stream.on_end(None)
        if over:
            self._stream_over()

    def _receive_trailers(self, stream: Stream, ended: int, block: bytes) -> None:
        trailers = self._trailers.get(block)
        if trailers is None:
            changes = self._decoder.changes
            fields = self._decode(block)
            try:
                self._refuse_size(fields, list_size(fields))
                trailers = response_trailers(fields) if self._new_stream is None else request_trailers(fields)
            except (BadMessage, Malformed) as bad:
                self._fail(stream, ErrorCode.PROTOCOL_ERROR, str(bad))
                return
            self._remember(self._trailers, block, trailers, changes)
        if not ended:
            # RFC 9113 §8.1: "A HEADERS frame ... after the header section without the END_STREAM flag".
            self._fail(stream, ErrorCode.PROTOCOL_ERROR, "HEADERS in the middle of a message")
        elif stream._left > 0:
            self._fail(stream, ErrorCode.PROTOCOL_ERROR, "body of another length than content-length says")
        else:
            self._end_remote(stream, b"", trailers)

    def _decode(self, block: bytes) -> list[Field]:
        """Every block passes through here, or through the tables that this keeps right."""
        if len(block) > self._limits.max_block_bytes:
            self._break(ErrorCode.ENHANCE_YOUR_CALM, "field block too large", over_budget=True)
        decoder = self._decoder
        changes = decoder.changes
        try:
            fields = decoder.decode(block)
        except BadBlock:
            self._break(ErrorCode.COMPRESSION_ERROR, "field block that cannot be decompressed")
        except Inflated:
            self._break(ErrorCode.ENHANCE_YOUR_CALM, "field block that inflates too much", over_budget=True)
        if decoder.changes != changes:
            for requests in self._requests:
                requests.clear()
            for responses in self._responses:
                responses.clear()
            self._trailers.clear()
        return fields

    def _refuse_size(self, fields: list[Field], size: int) -> None:
        limits = self._limits
        if size > limits.max_inflation * limits.max_header_list_bytes:
            self._break(ErrorCode.ENHANCE_YOUR_CALM, "field block that inflates too much", over_budget=True)
        if len(fields) > limits.max_fields:
            raise BadMessage(431, "http2.too_many_headers", f"more than {limits.max_fields} fields")
        if size > limits.max_header_list_bytes:
            raise BadMessage(431, "http2.headers_too_large", f"header list over {limits.max_header_list_bytes} bytes")

    def _remember(self, table: dict[bytes, T], block: bytes, meaning: T, changes: int) -> None:
        if self._decoder.changes == changes and len(block) <= LARGEST_REMEMBERED_BYTES:
            if len(table) >= BLOCKS_REMEMBERED:
                table.clear()
            table[block] = meaning

    # Receiving: the other frames

    def _receive_priority(self, stream_id: int, flags: int, payload: bytes) -> None:
        """RFC 9113 §6.3: checked and ignored."""
        if not stream_id:
            self._break(ErrorCode.PROTOCOL_ERROR, "PRIORITY without a stream")
        self._spend(self._ignored, "PRIORITY frames")
        if len(payload) != 5:
            self._fail_or_break(stream_id, ErrorCode.FRAME_SIZE_ERROR, "PRIORITY that is not 5 bytes long")
        elif unpack_long(payload)[0] & LARGEST_ID == stream_id:
            self._fail_or_break(stream_id, ErrorCode.PROTOCOL_ERROR, "stream that depends on itself")

    def _receive_rst_stream(self, stream_id: int, flags: int, payload: bytes) -> None:
        if len(payload) != 4:
            self._break(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM that is not 4 bytes long")  # RFC 9113 §6.4
        stream = self.streams.get(stream_id)
        if stream is None:
            self._refuse_stray(stream_id, RST_STREAM)
            return
        if stream_id >= self._aged_id:  # who waited for a while has a reason
            self._spend_reset()
        code = known_code(unpack_long(payload)[0])
        self._drop(stream, by_us=False)
        stream.on_reset(code, code is ErrorCode.REFUSED_STREAM)
        self._stream_over()

    def _receive_settings(self, stream_id: int, flags: int, payload: bytes) -> None:
        if stream_id:
            self._break(ErrorCode.PROTOCOL_ERROR, "SETTINGS of a stream")  # RFC 9113 §6.5
        self._spend(self._settings_frames, "SETTINGS frames")
        if flags & ACK:
            if payload:
                self._break(ErrorCode.FRAME_SIZE_ERROR, "acknowledgement of SETTINGS with a payload")
            return
        if len(payload) % 6:
            self._break(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS that is not a multiple of 6 bytes long")
        values = dict(self._checked_settings(payload))  # the last of each holds; the first streams see none of it
        if HEADER_TABLE_SIZE in values:
            self.encoder.resize(values[HEADER_TABLE_SIZE])
        if INITIAL_WINDOW_SIZE in values:
            self._change_stream_windows(values[INITIAL_WINDOW_SIZE])
        self._answer(SETTINGS_ACK)
        is_first, self.settled = not self.settled, True
        if self._new_stream is None:
            before = self.max_streams
            ours = self._settings.max_concurrent_streams
            if MAX_CONCURRENT_STREAMS in values:
                self.max_streams = min(values[MAX_CONCURRENT_STREAMS], ours)
            elif is_first:
                self.max_streams = ours
            if self.max_streams > before:
                self.handler.on_capacity()
        self._pump()

    def _checked_settings(self, payload: bytes) -> list[tuple[int, int]]:
        """RFC 9113 §6.5.2; unknown ones may have any value."""
        settings = read_settings(payload)
        for setting, value in settings:
            if setting == INITIAL_WINDOW_SIZE:
                if value > LARGEST_WINDOW:
                    self._break(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE above 2^31-1")
            elif setting == MAX_FRAME_SIZE:
                if not FRAME_BYTES <= value <= LARGEST_FRAME_BYTES:
                    self._break(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE out of range")
            elif setting == ENABLE_PUSH and value > (self._new_stream is not None):
                self._break(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH out of range")  # a server's may only be 0
        return settings

    def _change_stream_windows(self, window: int) -> None:
        """RFC 9113 §6.9.2: those of open streams move along, maybe below 0."""
        delta = window - self._peer_stream_window
        self._peer_stream_window = window
        for stream in self.streams.values():
            stream._window += delta
            if stream._window > LARGEST_WINDOW:
                self._break(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE that takes a window above 2^31-1")
            if stream.queued:
                self._make_ready(stream)

    def _receive_push_promise(self, stream_id: int, flags: int, payload: bytes) -> None:
        # RFC 9113 §8.4: a client does not push, and to us nobody may (ENABLE_PUSH is 0 from the first frame on).
        self._break(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE")

    def _receive_ping(self, stream_id: int, flags: int, payload: bytes) -> None:
        if stream_id:
            self._break(ErrorCode.PROTOCOL_ERROR, "PING of a stream")  # RFC 9113 §6.7
        if len(payload) != 8:
            self._break(ErrorCode.FRAME_SIZE_ERROR, "PING that is not 8 bytes long")
        self._spend(self._pings, "PING frames")
        if not flags & ACK:
            self._answer(ping_frame(payload, ack=True))
        elif payload == _FAREWELL and self.draining:
            self.go_away()

    def _receive_goaway(self, stream_id: int, flags: int, payload: bytes) -> None:
        if stream_id:
            self._break(ErrorCode.PROTOCOL_ERROR, "GOAWAY of a stream")  # RFC 9113 §6.8
        if len(payload) < 8:
            self._break(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY that is less than 8 bytes long")
        if self._new_stream is not None:  # a client says that it takes no pushes, of which there are none
            self._spend(self._ignored, "GOAWAY frames")
            return
        last_id = unpack_long(payload)[0] & LARGEST_ID
        if not self.draining:
            self.draining = True
            self.handler.on_goaway()
        else:
            self._spend(self._ignored, "GOAWAY frames")
        unprocessed = [stream for stream in self.streams.values() if stream.id > last_id]
        for stream in unprocessed:
            if not stream.closed:
                self._drop(stream, by_us=False)
                stream.on_reset(ErrorCode.REFUSED_STREAM, True)
                self._stream_over()

    def _receive_window_update(self, stream_id: int, flags: int, payload: bytes) -> None:
        if len(payload) != 4:
            self._break(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE that is not 4 bytes long")  # RFC 9113 §6.9
        self._spend(self._windows, "WINDOW_UPDATE frames")
        increment = unpack_long(payload)[0] & LARGEST_WINDOW
        if not stream_id:
            if not increment:
                self._break(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
            self.send_window += increment
            if self.send_window > LARGEST_WINDOW:
                self._break(ErrorCode.FLOW_CONTROL_ERROR, "window above 2^31-1")  # RFC 9113 §6.9.1
            self._pump()
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            self._refuse_stray(stream_id, WINDOW_UPDATE)
        elif not increment:
            self._fail(stream, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
        elif stream._window + increment > LARGEST_WINDOW:
            self._fail(stream, ErrorCode.FLOW_CONTROL_ERROR, "window above 2^31-1")
        else:
            stream._window += increment
            if stream.queued:
                self._make_ready(stream)
                self._pump()

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
        self._note_reset(stream.id, by_us)

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
        self._note_reset(stream_id, by_us=True)
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
        by_us = self._reset_streams.get(stream_id)
        if by_us or stream_id <= self._forgotten_id:
            return
        if by_us is False:
            self._reset_unopened(stream_id, ErrorCode.STREAM_CLOSED)
        elif any(stream_id in skipped for skipped in self._skipped):
            # RFC 9113 §5.1.1: "An endpoint that receives an unexpected stream identifier".
            self._break(ErrorCode.PROTOCOL_ERROR, "stream below one that was opened before")
        else:
            self._break(ErrorCode.STREAM_CLOSED, "frame behind the end of a stream")

    def _note_reset(self, stream_id: int, by_us: bool) -> None:
        resets = self._reset_streams
        resets[stream_id] = by_us
        if len(resets) > RESETS_REMEMBERED:
            oldest = next(iter(resets))
            del resets[oldest]
            self._forgotten_id = max(self._forgotten_id, oldest)

    def _note_skip(self, stream_id: int) -> None:
        self._skipped.append(range(self._expected_id, stream_id, 2))
        if len(self._skipped) > SKIPS_REMEMBERED:
            self._skipped.pop(0)

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
            self.write(_split(stream_id, encoded, end))
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
        self._make_ready(stream)
        self._pump()

    def _make_ready(self, stream: Stream) -> None:
        if not stream._ready and stream._window > 0:
            stream._ready = True
            self.ready.append(stream)

    def _pump(self) -> None:
        """Send what waits, in turns, as far as windows and transport let it go."""
        if self._pumping:
            return
        self._pumping = True
        try:
            self._pump_in_turns()
        finally:
            self._pumping = False

    def _pump_in_turns(self) -> None:
        ready = self.ready
        while ready and self.send_window > 0 and not self.paused:
            stream = ready.popleft()
            size = min(stream._window, self.send_window, FRAME_BYTES, stream.queued)
            if size <= 0:  # its window shrank
                stream._ready = False
                continue
            data = stream._dequeue(size)
            stream._window -= size
            self.send_window -= size
            self.useful += 1
            drained = not stream.queued
            ends = drained and stream.local_ended and stream._tail is None
            self.write(pack_head(size >> 8, size & 0xFF, DATA, ends, stream.id) + data)
            if not drained:
                if stream._window > 0:
                    ready.append(stream)
                else:
                    stream._ready = False
                continue
            stream._ready = False
            if ends:
                stream._sent_end = True
            elif stream._tail is not None:
                stream._send_tail(stream._tail)
            finished = stream._sent_end and stream.remote_ended
            if finished:
                self._forget(stream)
            stream.on_drained()
            if finished:
                self._stream_over()

    def write(self, data: bytes) -> None:
        """Send this, which is whole frames."""
        out = self.out
        out.append(data)
        if len(out) == 1:
            self.handler.on_output()


def _split(stream_id: int, block: bytes, end: bool) -> bytes:
    """A block that is too large for one frame (RFC 9113 §4.3)."""
    frames = [frame(HEADERS, end, stream_id, block[:FRAME_BYTES])]
    for at in range(FRAME_BYTES, len(block), FRAME_BYTES):
        flags = END_HEADERS if at + FRAME_BYTES >= len(block) else 0
        frames.append(frame(CONTINUATION, flags, stream_id, block[at : at + FRAME_BYTES]))
    return b"".join(frames)


_RECEIVE: Final[dict[int, Callable[[Connection, int, int, bytes], None]]] = {
    PRIORITY: Connection._receive_priority,
    RST_STREAM: Connection._receive_rst_stream,
    SETTINGS: Connection._receive_settings,
    PUSH_PROMISE: Connection._receive_push_promise,
    PING: Connection._receive_ping,
    GOAWAY: Connection._receive_goaway,
    WINDOW_UPDATE: Connection._receive_window_update,
    CONTINUATION: Connection._receive_continuation,
}
