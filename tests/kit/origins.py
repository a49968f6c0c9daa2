"""A scripted HTTP origin: it records the exact bytes that it received and answers with exact bytes.

    with Origin(always(ok(b"hello"))) as origin: ...          # any number of requests, any number of connections
    with Origin(in_turn(ok(b"1"), ok(b"2"))) as origin: ...      # two on each connection, which then closes
    origin.requests[0].head                                   # of all connections, in the order of their ends

A script is a function of a :class:`Conversation`, run for each connection; when it returns, the connection closes.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable

from tests.kit import poll
from tests.kit.peers import Peer, Visit
from tests.kit.rawhttp import Message, MessageReader


class Conversation:
    """One connection, as a script sees it. ``number`` counts connections from 0."""

    def __init__(self, origin: Origin, visit: Visit, number: int) -> None:
        self._origin = origin
        self._visit = visit
        self.number = number
        self.reader = MessageReader(visit.recv)

    def request(self) -> Message | None:
        """The next request, whole and recorded; ``None`` at the end, or if that cuts one short."""
        message = self.reader.read()
        if message is None or not message.is_whole:
            return None
        self._origin.requests.append(message)
        self._origin.connection_of.append(self.number)
        return message

    def send(self, data: bytes) -> None:
        self._visit.send(data)

    def recv(self) -> bytes:
        """Some bytes, whatever they are: what came with the last request first."""
        if self.reader.rest:
            data = bytes(self.reader.rest)
            self.reader.rest.clear()
            return data
        return self._visit.recv()

    def read_to_end(self) -> None:
        self._visit.read_to_end()

    def end(self) -> None:
        self._visit.end()

    def reset(self) -> None:
        self._visit.reset()


Script = Callable[[Conversation], None]
Answer = bytes | Callable[[Message], bytes]


class Origin(Peer):
    """A peer that follows a script. ``requests`` are those that came whole; ``connection_of`` says on which each."""

    def __init__(self, script: Script, *, at: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None):
        self.requests: list[Message] = []
        self.connection_of: list[int] = []
        self._script = script
        self._visits = 0
        super().__init__(self._visited, at=at, port=port, tls=tls)

    def _visited(self, visit: Visit) -> None:
        number, self._visits = self._visits, self._visits + 1
        self._script(Conversation(self, visit, number))

    @property
    def connections(self) -> int:
        """How many connections there were, with a handshake where TLS is spoken."""
        return self._visits

    @property
    def last(self) -> Message:
        return self.requests[-1]

    def wait_for_requests(self, count: int) -> list[Message]:
        poll.until(lambda: len(self.requests) >= count, f"{count} requests at the origin")
        return self.requests


def ok(body: bytes = b"", *fields: str, status: str = "200 OK") -> bytes:
    """A response with a length."""
    lines = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *fields, f"content-length: {len(body)}"))
    return f"{lines}\r\n".encode("latin-1") + body


def always(answer: Answer) -> Script:
    """The same for each request, keeping the connection."""

    def converse(one: Conversation) -> None:
        while (request := one.request()) is not None:
            one.send(answer if isinstance(answer, bytes) else answer(request))

    return converse


def in_turn(*answers: Answer) -> Script:
    """One answer for each request of a connection; behind the last the connection closes."""

    def converse(one: Conversation) -> None:
        for answer in answers:
            request = one.request()
            if request is None:
                return
            one.send(answer if isinstance(answer, bytes) else answer(request))

    return converse


def by_connection(*scripts: Script) -> Script:
    """Another script for each connection; the last one for all that follow."""

    def converse(one: Conversation) -> None:
        scripts[min(one.number, len(scripts) - 1)](one)

    return converse
