"""HTTP/2 on both ends by the ``h2`` package, which judges every frame that it gets: a client, and a scripted origin.

    with H2Client(koguma.port("app")) as client:
        answer = client.ask("POST", "/", ("x-a", "1"), body=b"hello", trailers=[("x-sum", "1")])
        assert (answer.status, answer.body, answer.trailers) == (200, b"hello", [("x-sum", "1")])

    def script(visit: H2Visit, request: Message) -> None:      # for each request that came whole
        visit.answer(request, 200, ("x-b", "2"), body=request.body)

    with H2Origin(script) as origin: ...                       # origin.requests: all that came

A breach of the protocol raises ``h2.exceptions.ProtocolError`` where it is read. GOAWAY is kept from ``h2``, which
takes it for the end of everything: ``goaways`` lists what came.
"""

from __future__ import annotations

import hashlib
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    Event,
    InformationalResponseReceived,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame, SettingsFrame

from tests.kit import client, poll
from tests.kit.peers import Peer, Visit
from tests.kit.streams import Stream

Fields = list[tuple[str, str]]

FRAME_HEAD_BYTES = 9
GOAWAY_TYPE = 7
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_STREAM_ID = 2**31 - 1
DEFAULT_WINDOW_BYTES = 65_535
WINDOW_BYTES = 1024 * 1024
CONNECTION_WINDOW_BYTES = 16 * WINDOW_BYTES
"""So large that a stream whose data is not taken leaves room for others."""


@dataclass(slots=True)
class Message:
    """A request or a response, as it came on a stream."""

    stream_id: int
    head: Fields = field(default_factory=list)
    """With the pseudo-fields."""
    interim: list[Fields] = field(default_factory=list)
    """Heads of 1xx responses."""
    body: bytearray = field(default_factory=bytearray)
    trailers: Fields = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    """What came, in order: ``head``, ``data``, ``trailers``, ``end``."""
    reset: int | None = None
    """The code, if the stream was reset."""

    @property
    def is_whole(self) -> bool:
        return "end" in self.parts

    @property
    def is_over(self) -> bool:
        return self.is_whole or self.reset is not None

    @property
    def status(self) -> int:
        return int(self[":status"])

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.head if key == name]

    def __getitem__(self, name: str) -> str:
        """The only value of a field."""
        (value,) = self.values(name)
        return value

    def __contains__(self, name: str) -> bool:
        return bool(self.values(name))


class Session:
    """One side of one connection. Nothing happens in the background: what waits, reads."""

    def __init__(self, stream: Stream, *, is_client: bool, max_streams: int | None = None) -> None:
        self.messages: dict[int, Message] = {}
        self.goaways: list[tuple[int, int]] = []
        """(last stream id, code) of each GOAWAY that came."""
        self.is_over = False
        """The other side has closed the connection."""
        self.last_stream_id = MAX_STREAM_ID
        """Of the GOAWAY that we have sent."""
        self.takes_data = True
        """Whether what comes is acknowledged, so that more may come."""
        self._stream = stream
        self._rest = bytearray()
        self._preface_left = 0 if is_client else len(PREFACE)
        config = H2Configuration(
            client_side=is_client,
            header_encoding="latin-1",
            validate_outbound_headers=False,  # what is wrong is sent on purpose
            normalize_outbound_headers=False,
            normalize_inbound_headers=False,
        )
        self._h2 = H2Connection(config)
        settings = {SettingCodes.INITIAL_WINDOW_SIZE: WINDOW_BYTES}
        self._h2.local_settings = Settings(client=is_client, initial_values=settings)
        self._h2.initiate_connection()
        if max_streams is not None:  # told at once, and for ``h2`` a rule from the acknowledgement on, as it must be
            self._h2.clear_outbound_data_buffer()
            told = {**settings, SettingCodes.MAX_CONCURRENT_STREAMS: max_streams}
            self._stream.send(SettingsFrame(settings=told).serialize())
            self._h2.local_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = max_streams
        self._h2.increment_flow_control_window(CONNECTION_WINDOW_BYTES - DEFAULT_WINDOW_BYTES)
        self.flush()

    def flush(self) -> None:
        data = self._h2.data_to_send()
        if data:
            self._stream.send(data)

    def read(self) -> bool:
        """Some bytes, and what they mean. ``False`` at the end of the connection."""
        data = b"" if self.is_over else self._stream.recv()
        if not data:
            self.is_over = True
            return False
        for frame in self._frames(data):
            for event in self._h2.receive_data(frame):
                self._note(event)
        self.flush()
        return True

    def read_until(self, is_so: Callable[[], bool], what: str, *, within_s: float = client.TIMEOUT_S) -> None:
        deadline = time.monotonic() + within_s
        while not is_so():
            assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
            assert self.read(), f"the connection ended before {what}; GOAWAYs: {self.goaways}"

    def read_to_end(self) -> None:
        """Until the other side closes."""
        try:
            while self.read():
                pass
        except ConnectionResetError:
            self.is_over = True

    def send_head(self, stream_id: int, fields: Sequence[tuple[str, str]], *, end: bool = False) -> None:
        self._h2.send_headers(stream_id, _encoded(fields), end_stream=end)
        self.flush()

    def send_data(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """As the windows allow, reading meanwhile. Stops early if the stream is reset."""
        rest = data
        while rest and not self._was_reset(stream_id):
            sent = self.send_what_fits(stream_id, rest)
            rest = rest[sent:]
            if sent == 0 and not self.read():
                raise ConnectionResetError("the connection ended while data waited")
        if end and not self._was_reset(stream_id):
            self._h2.end_stream(stream_id)
            self.flush()

    def send_what_fits(self, stream_id: int, data: bytes) -> int:
        """What the windows allow without reading; how many bytes that was."""
        sent = 0
        while sent < len(data):
            room = min(self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size)
            if room <= 0:
                break
            frame = data[sent : sent + room]
            self._h2.send_data(stream_id, frame)
            self.flush()
            sent += len(frame)
        return sent

    def _was_reset(self, stream_id: int) -> bool:
        message = self.messages.get(stream_id)
        return message is not None and message.reset is not None

    def send_trailers(self, stream_id: int, fields: Sequence[tuple[str, str]]) -> None:
        if not self._was_reset(stream_id):
            self._h2.send_headers(stream_id, _encoded(fields), end_stream=True)
            self.flush()

    def reset(self, stream_id: int, code: int = 8) -> None:
        """RST_STREAM, CANCEL if nothing else is said."""
        self._h2.reset_stream(stream_id, code)
        self.flush()

    def go_away(self, last_stream_id: int, code: int = 0) -> None:
        """GOAWAY alone: the connection and its streams go on, up to that one."""
        self.last_stream_id = last_stream_id
        self._stream.send(GoAwayFrame(last_stream_id=last_stream_id, error_code=code).serialize())

    def send_raw(self, data: bytes) -> None:
        self._stream.send(data)

    @property
    def peer_settings(self) -> dict[int, int]:
        return dict(self._h2.remote_settings)

    def _frames(self, data: bytes) -> Iterator[bytes]:
        """The frames that are complete, without GOAWAY; the client's preface as it is."""
        if self._preface_left:
            preface = data[: self._preface_left]
            self._preface_left -= len(preface)
            yield preface
            data = data[len(preface) :]
        self._rest += data
        while len(self._rest) >= FRAME_HEAD_BYTES:
            size = FRAME_HEAD_BYTES + int.from_bytes(self._rest[:3], "big")
            if len(self._rest) < size:
                return
            frame = bytes(self._rest[:size])
            del self._rest[:size]
            if frame[3] == GOAWAY_TYPE:
                body = frame[FRAME_HEAD_BYTES:]
                self.goaways.append((int.from_bytes(body[:4], "big"), int.from_bytes(body[4:8], "big")))
            else:
                yield frame

    def _note(self, event: Event) -> None:
        match event:
            case RequestReceived() | ResponseReceived():
                self._message(event.stream_id).head = _fields(event.headers)
                self._message(event.stream_id).parts.append("head")
            case InformationalResponseReceived():
                self._message(event.stream_id).interim.append(_fields(event.headers))
            case DataReceived():
                message = self._message(event.stream_id)
                if event.data:
                    message.body += event.data
                    message.parts.append("data")
                if self.takes_data and event.flow_controlled_length:
                    self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case TrailersReceived():
                self._message(event.stream_id).trailers = _fields(event.headers)
                self._message(event.stream_id).parts.append("trailers")
            case StreamEnded():
                self._message(event.stream_id).parts.append("end")
            case StreamReset():
                self._message(event.stream_id).reset = int(event.error_code)
            case _:
                pass

    def _message(self, stream_id: int | None) -> Message:
        assert stream_id is not None
        return self.messages.setdefault(stream_id, Message(stream_id))


def _encoded(fields: Sequence[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]


def _fields(headers: Sequence[tuple[object, object]] | None) -> Fields:
    return [(str(name), str(value)) for name, value in headers or ()]


class H2Client(Session):
    """A client by prior knowledge, on one connection."""

    def __init__(self, port: int, *, timeout_s: float = client.TIMEOUT_S, tls: ssl.SSLContext | None = None) -> None:
        self.sock = client.connect(port, timeout_s=timeout_s)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock)
        super().__init__(Stream(self.sock), is_client=True)

    def begin(
        self,
        method: str = "GET",
        path: str = "/",
        *fields: tuple[str, str],
        authority: str = "app.test",
        end: bool = True,
    ) -> int:
        """Opens a stream with a request's head; its id."""
        pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", authority)]
        return self.begin_with([*pseudo, *fields], end=end)

    def begin_with(self, fields: Sequence[tuple[str, str]], *, end: bool = True) -> int:
        """As :meth:`begin`, with exactly these fields."""
        stream_id = self._h2.get_next_available_stream_id()
        self.send_head(stream_id, fields, end=end)
        return stream_id

    def ask(
        self,
        method: str = "GET",
        path: str = "/",
        *fields: tuple[str, str],
        authority: str = "app.test",
        body: bytes = b"",
        trailers: Sequence[tuple[str, str]] = (),
    ) -> Message:
        """A whole request, and its response."""
        has_more = bool(body or trailers)
        stream_id = self.begin(method, path, *fields, authority=authority, end=not has_more)
        if has_more:
            self.send_data(stream_id, body, end=not trailers)
        if trailers:
            self.send_trailers(stream_id, trailers)
        return self.wait(stream_id)

    def wait(self, stream_id: int) -> Message:
        """The response, whole or reset."""
        self.read_until(lambda: self._message(stream_id).is_over, f"the end of stream {stream_id}")
        return self._message(stream_id)

    def wait_for_any_head(self, stream_id: int) -> Message:
        """Until there is a head, an interim one or the final one."""
        message = self._message(stream_id)
        self.read_until(lambda: bool(message.head or message.interim or message.is_over), "a head")
        return message

    def wait_for_head(self, stream_id: int) -> Message:
        self.read_until(
            lambda: bool(self._message(stream_id).head) or self._message(stream_id).is_over,
            f"the head on stream {stream_id}",
        )
        return self._message(stream_id)

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> H2Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class H2Visit(Session):
    """One connection, as an origin's script sees it. ``number`` counts connections from 0."""

    def __init__(self, origin: H2Origin, visit: Visit, number: int) -> None:
        self.origin = origin
        self.number = number
        self.answered = 0
        self._done: set[int] = set()
        super().__init__(_VisitStream(visit), is_client=False, max_streams=origin.max_streams)

    def answer(
        self,
        request: Message,
        status: int = 200,
        *fields: tuple[str, str],
        body: bytes = b"",
        trailers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """A whole response."""
        has_more = bool(body or trailers)
        self.send_head(request.stream_id, [(":status", str(status)), *fields], end=not has_more)
        if has_more:
            self.send_data(request.stream_id, body, end=not trailers)
        if trailers:
            self.send_trailers(request.stream_id, trailers)

    def serve(self, script: H2Script) -> None:
        """Until the client leaves, or a GOAWAY of ours is fulfilled: each request once, in the order in which they came
        (whole, or with their heads).
        """
        while not self._is_fulfilled():
            ready = [one for one in self._begun() if self._is_ready(one)]
            if not ready and not self.read():
                return
            for request in ready:
                if request.stream_id <= self.last_stream_id:  # which the script may lower meanwhile
                    self._done.add(request.stream_id)
                    self.origin.requests.append(request)
                    self.origin.connection_of.append(self.number)
                    script(self, request)
                    self.answered += 1
        self._stream.end()
        self.read_to_end()  # else what has not been read would make a reset of our end

    def _begun(self) -> list[Message]:
        """What is not answered yet, without what comes behind our GOAWAY."""
        begun = self.messages.values()
        return [one for one in begun if one.stream_id <= self.last_stream_id and one.stream_id not in self._done]

    def _is_ready(self, request: Message) -> bool:
        return ("head" if self.origin.is_early else "end") in request.parts

    def _is_fulfilled(self) -> bool:
        return self.last_stream_id != MAX_STREAM_ID and not self._begun()


class _VisitStream(Stream):
    """A visit as the stream that a session works on, so that what it reads is recorded."""

    def __init__(self, visit: Visit) -> None:
        super().__init__(visit.stream.sock)
        self._visit = visit

    def recv(self, max_bytes: int = 64 * 1024) -> bytes:
        return self._visit.recv(max_bytes)

    def send(self, data: bytes) -> None:
        self._visit.send(data)

    def end(self) -> None:
        self._visit.end()


H2Script = Callable[[H2Visit, Message], None]


class H2Origin(Peer):
    """An HTTP/2 server that follows a script. ``is_early``: the script runs for a head, before the body is there.

    With TLS, the context must offer ``h2`` by ALPN (:func:`tests.kit.peers.server_tls`, then ``set_alpn_protocols``).
    """

    def __init__(
        self,
        script: H2Script,
        *,
        at: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        max_streams: int | None = None,
        is_early: bool = False,
    ) -> None:
        self.requests: list[Message] = []
        self.connection_of: list[int] = []
        self.visits: list[H2Visit] = []
        self.max_streams = max_streams
        self.is_early = is_early
        self._script = script
        super().__init__(self._visited, at=at, port=port, tls=tls)

    def _visited(self, visit: Visit) -> None:
        session = H2Visit(self, visit, len(self.visits))
        self.visits.append(session)
        session.serve(self._script)

    @property
    def connections(self) -> int:
        return len(self.visits)

    @property
    def last(self) -> Message:
        return self.requests[-1]

    def wait_for_requests(self, count: int) -> list[Message]:
        poll.until(lambda: len(self.requests) >= count, f"{count} requests at the origin")
        return self.requests


def respond(
    status: int = 200, *fields: tuple[str, str], body: bytes = b"", trailers: Sequence[tuple[str, str]] = ()
) -> H2Script:
    """The same for each request."""
    return lambda visit, request: visit.answer(request, status, *fields, body=body, trailers=trailers)


def echo(visit: H2Visit, request: Message) -> None:
    """The body and the trailers come back."""
    visit.answer(request, 200, body=bytes(request.body), trailers=request.trailers)
