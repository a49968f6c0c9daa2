"""What the codec costs, in Python calls (which do not depend on the machine), and that hostile input costs no more."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from proxy.wire import CHUNKED, body, fields, head
from proxy.wire.h1 import RequestReader, ResponseReader, forget_heads
from proxy.wire.h2 import compress, heads
from proxy.wire.head import parse_request_head, render_request, render_response
from tests.wire.recorder import read_requests, read_responses

GET_13 = (
    b"GET /api/v1/things/42?full=true&lang=en HTTP/1.1\r\nHost: api.example.com:8080\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/140.0\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9\r\nAccept-Language: en-GB,en;q=0.5\r\n"
    b"Accept-Encoding: gzip, deflate, br, zstd\r\nConnection: keep-alive\r\n"
    b"Cookie: session=0123456789abcdef; theme=dark\r\nCache-Control: no-cache\r\nPragma: no-cache\r\n"
    b"X-Request-Id: 5e7e3c1e-2f2b-4d4e-9a2a-7b1c9d1e0f00\r\nX-Forwarded-For: 10.0.0.1\r\n"
    b"Sec-Fetch-Mode: navigate\r\nPriority: u=0\r\n\r\n"
)
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
OK = b"HTTP/1.1 200 OK\r\nServer: x\r\nDate: now\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"


class Quiet:
    def on_head(self, head: object, /) -> None: ...
    def on_data(self, data: bytes, /) -> None: ...
    def on_end(self, trailers: object, /) -> None: ...


def calls(work: Callable[[], Any]) -> tuple[int, int]:
    """Calls of Python functions, and of C functions, that ``work`` makes (its own frame left out)."""
    counts = {"call": -1, "c_call": -1}  # the frame of work; sys.setprofile

    def count(frame: FrameType, event: str, argument: object) -> None:
        if event in counts:
            counts[event] += 1

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return counts["call"], counts["c_call"]


def request(data: bytes, known: bool) -> tuple[int, int]:
    forget_heads()
    reader = RequestReader(Quiet())
    if known:
        reader.receive(data)
        reader.next_message()
    return calls(lambda: reader.receive(data))


def response(data: bytes, known: bool) -> tuple[int, int]:
    forget_heads()
    reader = ResponseReader(Quiet())
    reader.next_message(b"GET")
    if known:
        reader.receive(data)
        reader.next_message(b"GET")
    return calls(lambda: reader.receive(data))


def test_a_known_request_costs_a_look_up() -> None:
    assert request(GET_13, known=True) <= (3, 1)  # receive, on_head, on_end


def test_a_new_request_costs_one_parse() -> None:
    python, c = request(GET_13, known=False)
    assert python <= 10
    assert c <= 45  # two of them for each of 13 fields: lower, append


def test_a_small_body_costs_a_few_calls() -> None:
    assert request(POST, known=True) <= (6, 5)
    python, c = request(POST, known=False)
    assert python <= 11
    assert c <= 25


def test_a_response_with_a_small_body() -> None:
    assert response(OK, known=True) <= (5, 4)
    python, c = response(OK, known=False)
    assert python <= 10
    assert c <= 35


def test_data_within_a_body_is_two_calls_in_and_one_out() -> None:
    reader = RequestReader(Quiet())
    reader.receive(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
    assert calls(lambda: reader.receive(b"x" * 1000)) <= (3, 1)


def test_rendering_costs_a_handful() -> None:
    parsed = parse_request_head(GET_13)
    python, c = calls(lambda: render_request(parsed.method, parsed.path, parsed.authority, parsed.fields, parsed.body))
    assert python <= 4
    assert c <= 30
    python, c = calls(lambda: render_response(200, parsed.fields, CHUNKED))
    assert python <= 4
    assert c <= 30


HOSTILE_REQUESTS: dict[str, Callable[[int], bytes]] = {
    "fields": lambda n: b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a:b\r\n" * n,
    "empty values": lambda n: b"GET / HTTP/1.1\r\nHost: a\r\nx:" + b" \t" * n + b"\r\n\r\n",
    "connection options": lambda n: b"GET / HTTP/1.1\r\nHost: a\r\nConnection: " + b"a," * n + b"\r\n\r\n",
    "name": lambda n: b"GET / HTTP/1.1\r\n" + b"a" * n,
    "target": lambda n: b"GET /" + b"/" * n,
    "blanks": lambda n: b" " * n,
    "line ends": lambda n: b"\r\n" * n,
    "chunks": lambda n: b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * n,
    "extensions": lambda n: b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1" + b";a" * n,
    "trailers": lambda n: b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"a:\r\n" * n,
    "requests": lambda n: b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * n,
}


def steps(data: bytes, piece: int) -> int:
    pieces = [data[at : at + piece] for at in range(0, len(data), piece)]
    forget_heads()
    return sum(calls(lambda: (read_requests(pieces), read_responses(pieces, [b"GET"]))))


@pytest.mark.parametrize("make", HOSTILE_REQUESTS.values(), ids=HOSTILE_REQUESTS)
@pytest.mark.parametrize("piece", [1, 1 << 20])
def test_steps_grow_with_the_input_and_no_faster(make: Callable[[int], bytes], piece: int) -> None:
    one, four = steps(make(400), piece), steps(make(1600), piece)
    assert four <= 4.4 * one + 200


PATTERNS = {
    f"{module.__name__}.{name}": value
    for module in (body, compress, fields, head, heads)
    for name, value in vars(module).items()
    if isinstance(value, re.Pattern)
}


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_no_pattern_backtracks(pattern: re.Pattern[bytes]) -> None:
    """Every repeat of more than one is possessive or bounded, and no capture is within a possessive one.

    The second half is not about time: CPython 3.11 may lose a capture there (gh-101955, gh-106052).
    """
    parser = re._parser  # type: ignore[attr-defined]

    def walk(node: Any, possessive: bool) -> None:
        if isinstance(node, (list, tuple, parser.SubPattern)):
            items = list(node)
            if items and str(items[0]) == "MAX_REPEAT":
                assert items[1][1] <= 64, "an unbounded greedy repeat"
            assert not items or str(items[0]) != "MIN_REPEAT"
            if items and str(items[0]) == "SUBPATTERN" and items[1][0] is not None:
                assert not possessive, "a capture within a possessive repeat"
            within = possessive or bool(items and str(items[0]) == "POSSESSIVE_REPEAT")
            for item in items:
                walk(item, within)

    walk(parser.parse(pattern.pattern), False)
