"""An HTTP/1.1 origin that trusts nobody: it keeps every byte of every connection and reads them by the letter.

    with Witness() as witness: ...
    witness.requests        # what came whole, in order of arrival
    witness.faults          # what came and is not a request as one may be written, or could be read in two ways

Independent of the proxy's codec, and stricter than any recipient has to be: names in lower case, one Host, at most one
of the two framings, ``chunked`` and nothing like it, plain chunk sizes without extensions. It answers each request with
its own start line, so that a client sees which request a response belongs to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.kit.peers import Peer, Visit

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9a-z]+"
_HEAD = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([!-~]+) HTTP/1\.1\r\n((?:" + _TOKEN + rb": [\t -~\x80-\xff]*\r\n)*)\r\n"
)
_CHUNK_SIZE = re.compile(rb"([0-9a-f]{1,16})\r\n")
_TRAILERS = re.compile(rb"((?:" + _TOKEN + rb": [\t -~\x80-\xff]*\r\n)*)\r\n")
_FRAMING = (b"content-length", b"transfer-encoding")


@dataclass(frozen=True, slots=True)
class Read:
    """A request that came whole: its head's lines, the fields in order, and what the body holds."""

    line: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def values(self, name: bytes) -> list[bytes]:
        return [value for field, value in self.fields if field == name]


class Ambiguous(Exception):
    """Bytes that are no request, or more than one."""


class Witness(Peer):
    def __init__(self) -> None:
        self.streams: list[bytearray] = []
        self.requests: list[Read] = []
        self.faults: list[str] = []
        super().__init__(self._visited)

    @property
    def lines(self) -> list[tuple[bytes, bytes]]:
        """The start line, without the version, and the body of each request."""
        return [(request.line.removesuffix(b" HTTP/1.1"), request.body) for request in self.requests]

    def _visited(self, visit: Visit) -> None:
        stream = bytearray()
        self.streams.append(stream)
        at = 0
        while data := visit.recv():
            stream += data
            try:
                while (found := take(bytes(stream), at)) is not None:
                    request, at = found
                    self.requests.append(request)
                    visit.send(answer(request))
            except Ambiguous as fault:
                self.faults.append(f"{fault}: {bytes(stream[at:])!r}")
                return


def answer(request: Read) -> bytes:
    body = b"" if request.line.startswith(b"HEAD ") else b"<" + request.line + b">"
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def take(data: bytes, at: int) -> tuple[Read, int] | None:
    """The request that starts at ``at``, and where it ends; ``None`` while it is incomplete."""
    end = data.find(b"\r\n\r\n", at)
    if end < 0:
        return None
    head = _HEAD.fullmatch(data, at, end + 4)
    if head is None:
        raise Ambiguous("not a head")
    fields = tuple((name, value.strip(b" \t")) for name, _, value in (
        line.partition(b":") for line in head[3].split(b"\r\n")[:-1]
    ))  # fmt: skip
    if [name for name, _ in fields].count(b"host") != 1:
        raise Ambiguous("not one Host")
    framings = [(name, value) for name, value in fields if name in _FRAMING]
    if len(framings) > 1:
        raise Ambiguous("more than one framing")
    line, at = b"%b %b HTTP/1.1" % (head[1], head[2]), head.end()
    if not framings:
        return Read(line, fields, b""), at
    ((name, value),) = framings
    if name == b"content-length":
        if not re.fullmatch(rb"0|[1-9][0-9]{0,18}", value):
            raise Ambiguous("length")
        return (
            (Read(line, fields, data[at : at + int(value)]), at + int(value)) if len(data) - at >= int(value) else None
        )
    if value != b"chunked":
        raise Ambiguous("coding")
    body = b""
    while True:
        found = _chunk(data, at)
        if found is None:
            return None
        chunk, at = found
        body += chunk
        if not chunk:
            return Read(line, fields, body), at


def _chunk(data: bytes, at: int) -> tuple[bytes, int] | None:
    """A chunk and where it ends; the last one is empty and ends behind the trailers."""
    end = data.find(b"\r\n", at)
    if end < 0:
        return None
    size = _CHUNK_SIZE.fullmatch(data, at, end + 2)
    if size is None:
        raise Ambiguous("chunk size")
    at, count = size.end(), int(size[1], 16)
    if count == 0:
        trailers = _TRAILERS.match(data, at)
        if trailers is None and b"\r\n\r\n" in data[at - 2 :]:
            raise Ambiguous("trailers")
        return (b"", trailers.end()) if trailers is not None else None
    if len(data) < at + count + 2:
        return None
    if data[at + count : at + count + 2] != b"\r\n":
        raise Ambiguous("end of a chunk")
    return data[at : at + count], at + count + 2
