"""A client and an origin that speak either version of HTTP and show the same of it: what a test says and asserts does
not depend on who speaks what.

    origin = EitherOrigin("h2")
    origin.answer = lambda request: Answer(200, body=request.body)
    got = ask("h1", port, "POST", body=b"x", trailers=[("x-sum", "1")])
    assert (got.body, origin.last.trailers) == (b"x", [("x-sum", "1")])

Field names are lower-case, pseudo-fields and Host stand apart, and framing (``content-length``,
``transfer-encoding``) is among the fields as it came.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Any, Literal

from tests.kit import rawhttp
from tests.kit.http2_peers import Fields, H2Client, H2Origin, H2Visit
from tests.kit.http2_peers import Message as H2Message
from tests.kit.origins import Conversation, Origin
from tests.kit.rawhttp import Wire

Version = Literal["h1", "h2"]
Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Seen:
    """A message as it came. A response has no method, path and authority; a request has status 0."""

    fields: Fields
    body: bytes
    trailers: Fields
    method: str = ""
    path: str = ""
    authority: str = ""
    status: int = 0
    interim: list[int] = field(default_factory=list)
    """The statuses of the 1xx responses before it."""

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key == name]

    def __getitem__(self, name: str) -> str:
        """The only value of a field."""
        (value,) = self.values(name)
        return value

    def __contains__(self, name: str) -> bool:
        return bool(self.values(name))


@dataclass(frozen=True, slots=True)
class Answer:
    """A response to send. ``is_sized``: with its length; else in chunks, or until END_STREAM. ``interim``: the 1xx
    before it, each with a field.
    """

    status: int = 200
    fields: Pairs = ()
    body: bytes = b""
    trailers: Pairs = ()
    is_sized: bool = True
    interim: Sequence[int] = ()


def ask(
    version: Version,
    port: int,
    method: str = "GET",
    path: str = "/",
    *,
    fields: Pairs = (),
    body: bytes = b"",
    trailers: Pairs = (),
    authority: str = "app.test",
    is_sized: bool = True,
) -> Seen:
    """One request on a connection of its own. ``is_sized``: a body is sent with its length."""
    sized = [("content-length", str(len(body)))] if body and is_sized else []
    if version == "h2":
        with H2Client(port) as client:
            got = client.ask(method, path, *fields, *sized, authority=authority, body=body, trailers=trailers)
            assert got.is_whole, f"the stream was reset with {got.reset}"
            return _from_h2(got)
    with Wire(port) as wire:
        is_chunked = bool(trailers or (body and not is_sized))
        framing = [("transfer-encoding", "chunked")] if is_chunked else sized
        head = _lines([("host", authority), *fields, *framing])
        wire.send(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1"))
        wire.send(_chunked(body, trailers) if is_chunked else body)
        return _response(wire, method, [])


def ask_expecting(version: Version, port: int, body: bytes) -> tuple[list[int], Seen]:
    """A POST that says ``expect: 100-continue`` and sends its body only when something has come: the statuses of that,
    and the response.
    """
    fields = [("expect", "100-continue"), ("content-length", str(len(body)))]
    if version == "h2":
        with H2Client(port) as client:
            stream_id = client.begin("POST", "/", *fields, end=False)
            message = client.wait_for_any_head(stream_id)
            came = [int(dict(head)[":status"]) for head in message.interim]
            client.send_data(stream_id, body, end=True)
            return came, _from_h2(client.wait(stream_id))
    with Wire(port) as wire:
        wire.send(f"POST / HTTP/1.1\r\n{_lines([('host', 'app.test'), *fields])}\r\n".encode())
        came = [wire.response().status]
        wire.send(body)
        return came, _response(wire, "POST", [])


def _response(wire: Wire, method: str, interim: list[int]) -> Seen:
    while True:
        got = wire.response(method)
        if got.status >= 200:
            assert got.is_whole, "the response was cut short"
            return _from_h1(got, status=got.status, interim=interim)
        interim.append(got.status)


class EitherOrigin:
    """An origin that answers each request by ``answer``, which a test may replace at any time."""

    def __init__(self, version: Version, *, tls: ssl.SSLContext | None = None) -> None:
        self.version = version
        self.answer: Callable[[Seen], Answer] = lambda _: Answer()
        self.requests: list[Seen] = []
        if tls is not None:
            tls.set_alpn_protocols(["h2"] if version == "h2" else ["http/1.1"])
        self.peer = H2Origin(self._serve_h2, tls=tls) if version == "h2" else Origin(self._serve_h1, tls=tls)

    @property
    def endpoint(self) -> dict[str, Any]:
        return self.peer.endpoint

    @property
    def last(self) -> Seen:
        return self.requests[-1]

    def _serve_h2(self, visit: H2Visit, message: H2Message) -> None:
        request = _from_h2(message)
        self.requests.append(request)
        answer = self.answer(request)
        for status in answer.interim:
            visit.send_head(message.stream_id, [(":status", str(status)), ("x-interim", "1")])
        fields = [*answer.fields, *_length(answer)]
        body = b"" if request.method == "HEAD" else answer.body
        visit.answer(message, answer.status, *fields, body=body, trailers=answer.trailers)

    def _serve_h1(self, one: Conversation) -> None:
        while (message := one.request()) is not None:
            method, path, _ = message.start_line.split(" ")
            request = _from_h1(message, method=method, path=path)
            self.requests.append(request)
            answer = self.answer(request)
            for status in answer.interim:
                one.send(f"HTTP/1.1 {status} Interim\r\nx-interim: 1\r\n\r\n".encode())
            is_chunked = bool(answer.trailers or not answer.is_sized)
            framing = [("transfer-encoding", "chunked")] if is_chunked else _length(answer)
            start = f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n"
            one.send(f"{start}{_lines([*answer.fields, *framing])}\r\n".encode("latin-1"))
            if request.method != "HEAD":
                one.send(_chunked(answer.body, answer.trailers) if is_chunked else answer.body)

    def __enter__(self) -> EitherOrigin:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.peer.close()


def _length(answer: Answer) -> Fields:
    """204 and 304 have no length of a body to tell."""
    if not answer.is_sized or answer.trailers or answer.status in (204, 304):
        return []
    return [("content-length", str(len(answer.body)))]


def _from_h2(message: H2Message) -> Seen:
    pseudo = {name: value for name, value in message.head if name.startswith(":")}
    assert "host" not in message, "the authority is told once"
    return Seen(
        fields=[one for one in message.head if not one[0].startswith(":")],
        body=bytes(message.body),
        trailers=message.trailers,
        method=pseudo.get(":method", ""),
        path=pseudo.get(":path", ""),
        authority=pseudo.get(":authority", ""),
        status=int(pseudo.get(":status", "0")),
        interim=[int(dict(head)[":status"]) for head in message.interim],
    )


def _from_h1(message: rawhttp.Message, **more: Any) -> Seen:
    lines = message.trailers.decode("latin-1").split("\r\n")[:-1]
    trailers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    fields = [one for one in message.fields if one[0] != "host"]
    authority = "".join(message.values("host"))
    return Seen(fields=fields, body=message.body, trailers=trailers, authority=authority, **more)


def _lines(fields: Pairs) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in fields)


def _chunked(body: bytes, trailers: Pairs) -> bytes:
    chunks = [body[start : start + 50_000] for start in range(0, len(body), 50_000)]
    data = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return data + b"0\r\n" + _lines(trailers).encode("latin-1") + b"\r\n"
