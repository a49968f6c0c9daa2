"""What h11 and llhttp (through httptools) make of the same bytes, in one form."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import h11
import httptools

Fields = list[tuple[bytes, bytes]]


class Refused(Exception):
    """The oracle does not accept the message, or does not see its end."""


@dataclass
class Read:
    """One message. Names are in lower case, values without blanks around them."""

    start: tuple[bytes, ...] = ()
    """Method and target, or the status."""
    version: bytes = b""
    fields: Fields = field(default_factory=list)
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    size: int = 0
    """Where the message ended."""


def _fields(raw: Iterable[tuple[bytes, bytes]]) -> Fields:
    """Codings are in lower case too: h11 lowers them, llhttp does not."""
    fields = [(bytes(name).lower(), bytes(value).strip(b" \t")) for name, value in raw]
    return [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in fields]


def h11_read(data: bytes, request_method: bytes | None = None, eof: bool = False) -> Read:
    """The first message of ``data``: a request, or the response to ``request_method``."""
    if request_method is None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    else:
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        connection.send(h11.Request(method=request_method, target=b"/", headers=[(b"host", b"a")]))
        connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    if eof:
        connection.receive_data(b"")
    read = Read()
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                read.start = event.method, event.target
            elif isinstance(event, h11.Response):
                read.start = (b"%d" % event.status_code,)
            if isinstance(event, (h11.Request, h11.Response)):
                read.version = event.http_version
                read.fields = _fields(event.headers)
            elif isinstance(event, h11.Data):
                read.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                read.trailers = _fields(event.headers)
                read.size = len(data) - len(connection.trailing_data[0])
                return read
            elif not isinstance(event, h11.InformationalResponse):
                raise Refused(f"h11 stops at {event!r}")
    except h11.RemoteProtocolError as error:
        raise Refused(f"h11: {error}") from error


class _Listener:
    """httptools' callbacks."""

    def __init__(self, is_request: bool) -> None:
        self.parser = httptools.HttpRequestParser(self) if is_request else httptools.HttpResponseParser(self)
        self.read = Read()
        self.url = b""
        self.reading_head = True
        self.ended = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.ended:
            (self.read.fields if self.reading_head else self.read.trailers).extend(_fields([(name, value)]))

    def on_headers_complete(self) -> None:
        if isinstance(self.parser, httptools.HttpRequestParser) or self.parser.get_status_code() >= 200:
            self.reading_head = False
        else:
            self.read.fields.clear()

    def on_body(self, body: bytes) -> None:
        self.read.body += body

    def on_message_complete(self) -> None:
        self.ended = self.ended or not self.reading_head


def llhttp_read(data: bytes, size: int, is_request: bool = True) -> Read:
    """The message that ``data[:size]`` is. Refused unless it ends there, with the last of these bytes."""
    read = Read()
    for end in (size - 1, size):
        listener = _Listener(is_request)
        parser = listener.parser
        try:
            parser.feed_data(data[:end])
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError as error:
            raise Refused(f"llhttp: {error!r}") from error
        if listener.ended != (end == size):
            raise Refused("llhttp: the message ends elsewhere")
        read = listener.read
        if isinstance(parser, httptools.HttpRequestParser):
            read.start = parser.get_method(), listener.url
        else:
            read.start = (b"%d" % parser.get_status_code(),)
        read.version = parser.get_http_version().encode()
    read.size = size
    return read
