"""What the engine costs, in Python calls (which do not depend on the machine), and that hostile input costs no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hpack
import pytest

from proxy.wire import ResponseHead
from proxy.wire.h2 import (
    CLIENT_SETTINGS,
    REQUEST_LIMITS,
    RESPONSE_LIMITS,
    SERVER_SETTINGS,
    Broken,
    Connection,
    FieldBlock,
    Stream,
    heads,
    literal,
)
from tests.wire.h2.h2_rig import CONTINUATION, DATA, GET, HEADERS, PING, PREFACE, raw, settings
from tests.wire.test_wire_cost import calls

FIELDS = [*GET, (b"user-agent", b"somebody/1.0"), (b"accept", b"*/*"), (b"x-tenant", b"one")]
ANSWER = FieldBlock([(b":status", b"200"), (b"server", b"somebody"), (b"content-length", b"5")])


class Quiet:
    def on_output(self) -> None: ...
    def on_goaway(self) -> None: ...
    def on_capacity(self) -> None: ...


class Origin(Stream):
    def on_end(self, trailers: object) -> None:
        self.send_head(ANSWER)
        self.send_data(b"hello", True)


class Up(Stream):
    """The upstream half of the least proxy that there could be."""

    down: Stream

    def on_head(self, head: ResponseHead) -> None:
        if head.memo is None:
            head.memo = FieldBlock([(b":status", b"%d" % head.status), *head.fields, (b"content-length", b"5")])
        assert isinstance(head.memo, FieldBlock)
        self.down.send_head(head.memo, literal(b"x-envoy-upstream-service-time", b"1"))

    def on_data(self, data: bytes) -> None:
        self.down.send_data(data, self.remote_ended)


class Duet:
    """A client, a proxy of two engines, and an origin."""

    def __init__(self) -> None:
        quiet = Quiet()
        duet = self

        class Down(Stream):
            def on_head(self, head: Any) -> None:
                if head.memo is None:
                    pseudo = [(b":method", head.method), (b":scheme", b"http"), (b":path", head.path)]
                    head.memo = FieldBlock([*pseudo, (b":authority", head.authority), *head.fields])
                up = Up()
                up.down = self
                duet.up.open(up, head.method, head.memo, literal(b"x-request-id", b"0123456789abcdef"), True)

        self.client = Connection(quiet, None, CLIENT_SETTINGS, RESPONSE_LIMITS)
        self.down = Connection(quiet, Down, SERVER_SETTINGS, REQUEST_LIMITS)
        self.up = Connection(quiet, None, CLIENT_SETTINGS, RESPONSE_LIMITS)
        self.origin = Connection(quiet, Origin, SERVER_SETTINGS, REQUEST_LIMITS)
        for connection in (self.client, self.down, self.up, self.origin):
            connection.start()
        self.request = FieldBlock(FIELDS)
        for _ in range(5):
            self.turn(1)

    def turn(self, count: int) -> list[int]:
        """Calls of Python and of C functions, within the proxy."""
        for _ in range(count):
            self.client.open(Stream(), b"GET", self.request, b"", True)
        there = b"".join(self.client.take())
        first = calls(lambda: self.down.receive(there))
        self.origin.receive(b"".join(self.up.take()))
        back = b"".join(self.origin.take())
        second = calls(lambda: self.up.receive(back))
        self.client.receive(b"".join(self.down.take()))
        return [one + other for one, other in zip(first, second, strict=True)]


def test_a_proxied_request_that_repeats() -> None:
    """Both sides of the proxy, a response with a body, and all that the proxy above does itself."""
    python, c = Duet().turn(100)
    assert python <= 25 * 100
    assert c <= 32 * 100


def server() -> Connection:
    connection = Connection(Quiet(), Stream, SERVER_SETTINGS, REQUEST_LIMITS)
    connection.receive(PREFACE + settings())
    return connection


def test_a_request_that_is_new_and_one_that_is_not() -> None:
    heads.forget_heads()
    connection, encoder = server(), hpack.Encoder()
    fields = [*FIELDS, (b"x-a", b"b")]

    def cost(stream_id: int, block: bytes) -> tuple[int, int]:
        return calls(lambda: connection.receive(raw(HEADERS, 5, stream_id, block)))

    python, c = cost(1, encoder.encode(fields))
    assert python <= 80  # Huffman codes; the table; the head
    assert c <= 350
    moved = encoder.encode(fields)
    python, c = cost(3, moved)  # the list is known
    assert python <= 20
    assert c <= 60
    assert cost(5, moved) <= (10, 11)


def test_data_costs_two_calls_a_frame() -> None:
    connection = server()
    connection.receive(raw(HEADERS, 4, 1, b"\x83\x86\x84\x01\x01a"))
    python, c = calls(lambda: connection.receive(raw(DATA, 0, 1, bytes(1000)) * 100))
    assert python <= 2 * 100 + 5
    assert c <= 3 * 100 + 15


HOSTILE: dict[str, Callable[[int], bytes]] = {
    "streams": lambda n: b"".join(raw(HEADERS, 5, 1 + 2 * i, b"\x82\x86\x84\x01\x01a") for i in range(n // 2)),
    "fields": lambda n: raw(HEADERS, 5, 1, b"\x82\x86\x84\x01\x01a" + b"\x00\x01a\x00" * n),
    "indexed fields": lambda n: raw(HEADERS, 5, 1, b"\x82\x86\x84\x01\x01a" + b"\x90" * n),
    "insertions": lambda n: raw(HEADERS, 5, 1, b"\x82\x86\x84\x01\x01a" + b"\x40\x01a\x01b" * n),
    "sizes of the table": lambda n: raw(HEADERS, 5, 1, b"\x20\x3f\xe1\x1f" * n + b"\x82\x86\x84\x01\x01a"),
    "cookies": lambda n: raw(HEADERS, 5, 1, b"\x82\x86\x84\x01\x01a" + b"\x60\x01b" * (n // 20)),
    "continuations": lambda n: raw(HEADERS, 0, 1) + raw(CONTINUATION, 0, 1, b"\x82") * n,
    "data": lambda n: raw(HEADERS, 4, 1, b"\x83\x86\x84\x01\x01a") + raw(DATA, 0, 1, b"x") * n,
    "padding": lambda n: raw(HEADERS, 4, 1, b"\x83\x86\x84\x01\x01a") + raw(DATA, 8, 1, b"\x01x\0") * n,
    "pings": lambda n: raw(PING, 0, 0, bytes(8)) * n,
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("piece", [1, 1 << 20])
def test_steps_grow_with_the_input_and_no_faster(make: Callable[[int], bytes], piece: int) -> None:
    def steps(count: int) -> int:
        data = PREFACE + settings() + make(count)
        heads.forget_heads()

        def read() -> None:
            connection = Connection(Quiet(), Stream, SERVER_SETTINGS, REQUEST_LIMITS)
            try:
                for at in range(0, len(data), piece):
                    connection.receive(data[at : at + piece])
            except Broken:
                return

        return sum(calls(read))

    one, four = steps(400), steps(1600)
    assert four <= 4.4 * one + 200
