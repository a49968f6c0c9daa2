"""Guarantee: a client of HTTP/2 that attacks costs nobody else anything. Its connection ends with ENHANCE_YOUR_CALM
where what it does is of no use, others are answered within 100 ms meanwhile, and memory stays bounded.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable
from types import TracebackType

import pytest

from tests.conformance import expect
from tests.conformance.targets import BIG_PATH
from tests.kit import poll
from tests.kit.h2frames import (
    Code,
    Frames,
    Kind,
    Setting,
    continuation,
    data,
    dependency,
    frame,
    headers,
    ping,
    priority,
    rst_stream,
    settings,
    window_update,
)
from tests.kit.koguma import Koguma

MAX_WAIT_S = 0.1

MAX_FRAMES_OF_A_FLOOD = 200_000
FRAMES_PER_WRITE = 200
MAX_GROWTH_BYTES = 48 * 1024 * 1024
ALL_ANSWERS_BYTES = 1024**3
SLOW_STREAMS = 50
"""Fewer than nghttpd lets be open on one connection: the bystander is on the same."""

RESETS = 400
MANY = 900
UNKNOWN_KIND = 0x16

Attack = Callable[[Frames], None]


class Bystander:
    """Another client, which asks for one thing after the other while the block runs. ``worst_s`` is the longest that
    the proxy was at work before it had an answer: processor time, so that what else the machine does is not counted.
    An answer that never comes ends the block with an error.
    """

    def __init__(self, koguma: Koguma) -> None:
        self.worst_s = 0.0
        self.answers = 0
        self._koguma = koguma
        self._frames = Frames(koguma.port("app"), patience_s=10)
        self._frames.handshake()
        self._frames.send(window_update(0, ALL_ANSWERS_BYTES))
        self._ids = itertools.count(1, 2)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bystander")
        self._error: BaseException | None = None

    def __enter__(self) -> Bystander:
        self._ask()  # a connection to the origin is there
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._frames.sock.close()
        if error is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                before_s = self._koguma.cpu_s()
                self._ask()
                self.worst_s = max(self.worst_s, self._koguma.cpu_s() - before_s)
                self.answers += 1
        except BaseException as error:
            self._error = error

    def _ask(self) -> None:
        self._frames.send(self._frames.get(next(self._ids)))
        expect.end_of_stream(self._frames)


def flood(attacker: Frames, *frames: bytes, times: int = MAX_FRAMES_OF_A_FLOOD) -> None:
    """The same frames again and again, without reading, until the proxy takes no more or says that it is enough."""
    chunk = b"".join(frames) * FRAMES_PER_WRITE
    with contextlib.suppress(BrokenPipeError, ConnectionResetError, TimeoutError):
        for _ in range(0, times, FRAMES_PER_WRITE):
            attacker.sock.sendall(chunk)


def flood_streams(attacker: Frames, beginning: Callable[[int], list[bytes]]) -> None:
    """The same on one new stream after the other."""
    ids = itertools.count(1, 2)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError, TimeoutError):
        for _ in range(0, MAX_FRAMES_OF_A_FLOOD, FRAMES_PER_WRITE):
            attacker.sock.sendall(b"".join(part for _ in range(FRAMES_PER_WRITE) for part in beginning(next(ids))))


def indexed_request(attacker: Frames) -> bytes:
    """A field block of four bytes, which may be sent again and again."""
    attacker.send(attacker.get(1, end=True))
    expect.end_of_stream(attacker)
    return attacker.encode(attacker.request())


def rapid_reset(attacker: Frames) -> None:
    block = indexed_request(attacker)
    flood_streams(attacker, lambda stream_id: [headers(stream_id + 2, block), rst_stream(stream_id + 2)])


def made_you_reset(attacker: Frames) -> None:
    """CVE-2025-8671: the proxy is made to reset, which counts for as much."""
    block = indexed_request(attacker)
    flood_streams(
        attacker, lambda stream_id: [headers(stream_id + 2, block, end=False), window_update(stream_id + 2, 0)]
    )


def malformed_requests(attacker: Frames) -> None:
    block = indexed_request(attacker)
    flood_streams(attacker, lambda stream_id: [headers(stream_id + 2, block[:2])])


def settings_flood(attacker: Frames) -> None:
    flood(attacker, settings((Setting.INITIAL_WINDOW_SIZE, 65_535)))


def ping_flood(attacker: Frames) -> None:
    flood(attacker, ping())


def priority_flood(attacker: Frames) -> None:
    flood(attacker, priority(1, dependency(0)))


def window_update_flood(attacker: Frames) -> None:
    flood(attacker, window_update(0, 1))


def unknown_frame_flood(attacker: Frames) -> None:
    flood(attacker, frame(UNKNOWN_KIND))


def empty_data_flood(attacker: Frames) -> None:
    attacker.send(attacker.post())
    flood(attacker, data(1, b""))


def padded_empty_data_flood(attacker: Frames) -> None:
    attacker.send(attacker.post())
    flood(attacker, data(1, b"", padding=bytes(1)), times=50_000)


def continuation_flood(attacker: Frames) -> None:
    attacker.send(attacker.get(end_headers=False))
    flood(attacker, continuation(1, attacker.encode([("x", "y" * 500)]), end_headers=False), times=20_000)


def empty_continuation_flood(attacker: Frames) -> None:
    attacker.send(attacker.get(end_headers=False))
    flood(attacker, continuation(1, b"", end_headers=False))


def hpack_bomb(attacker: Frames) -> None:
    """One large field in the table, and as many references to it as go into a frame: 47 MB out of 16 kB."""
    large = ("x-large", "z" * 3900)
    block = attacker.encode(attacker.request(large)) + attacker.encode([large]) * 12_000
    attacker.send(headers(1, block))


FLOODS: list[Attack] = [
    rapid_reset,
    made_you_reset,
    malformed_requests,
    settings_flood,
    ping_flood,
    priority_flood,
    window_update_flood,
    unknown_frame_flood,
    empty_data_flood,
    padded_empty_data_flood,
    continuation_flood,
    empty_continuation_flood,
    hpack_bomb,
]


@pytest.mark.parametrize("attack", FLOODS)
def test_a_flood(koguma: Koguma, attack: Attack) -> None:
    before_bytes = koguma.resident_bytes()
    with Bystander(koguma) as bystander, Frames(koguma.port("app")) as attacker:
        attacker.handshake()
        attack(attacker)
        expect.connection_error(attacker, Code.ENHANCE_YOUR_CALM)
        poll.until(lambda: bystander.answers > 0, "an answer for others")
    assert bystander.worst_s < MAX_WAIT_S
    assert koguma.resident_bytes() - before_bytes < MAX_GROWTH_BYTES


def test_responses_that_are_not_taken(koguma: Koguma) -> None:
    """Many streams, a window of 0: neither is memory filled with what waits, nor do others wait with it, although they
    share connections to the origin.
    """
    before_bytes = koguma.resident_bytes()
    with Bystander(koguma) as bystander, Frames(koguma.port("app"), patience_s=10) as attacker:
        attacker.handshake((Setting.INITIAL_WINDOW_SIZE, 0))
        for number in range(SLOW_STREAMS):
            attacker.send(headers(1 + 2 * number, attacker.encode(attacker.request(path=BIG_PATH))))
        for _ in range(SLOW_STREAMS):
            expect.frame(attacker, Kind.HEADERS)
        seen = bystander.answers
        poll.until(lambda: bystander.answers > seen + 100, "answers for others while responses wait")
        attacker.send(ping())
        expect.pong(attacker, bytes(8))
        assert koguma.resident_bytes() - before_bytes < MAX_GROWTH_BYTES
    assert bystander.worst_s < MAX_WAIT_S


def test_what_is_reset_in_the_same_read_costs_an_endpoint_nothing(koguma: Koguma) -> None:
    with Frames(koguma.port("app")) as attacker:
        attacker.handshake()
        block = indexed_request(attacker)
        before = koguma.stat("app", "upstream_rq_total")
        attacker.send(b"".join(headers(3 + 2 * n, block) + rst_stream(3 + 2 * n) for n in range(RESETS)), ping())
        expect.pong(attacker, bytes(8))
        poll.until(lambda: koguma.stat("app", "upstream_rq_active") == 0, "the exchanges to end")
    assert koguma.stat("app", "upstream_rq_total") - before < RESETS / 2  # it may take more than one read


def test_many_requests_at_once(koguma: Koguma) -> None:
    """No attack: all are answered, and others in between."""
    with Bystander(koguma) as bystander, Frames(koguma.port("app"), patience_s=10) as client:
        client.handshake()
        block = indexed_request(client)
        client.send(b"".join(headers(3 + 2 * n, block) for n in range(MANY)))
        for _ in range(MANY):
            expect.end_of_stream(client)
    assert bystander.worst_s < MAX_WAIT_S


def test_a_window_that_opens_by_single_bytes(koguma: Koguma) -> None:
    """Slow, and not forbidden: it costs the client as much as the proxy."""
    with Frames(koguma.port("app")) as client:
        client.handshake((Setting.INITIAL_WINDOW_SIZE, 0))
        client.send(client.get())
        expect.response(client, 1)
        for _ in range(20):
            client.send(window_update(1, 1))
            assert len(expect.frame(client, Kind.DATA).payload) == 1


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([(f"x-{number}", "v") for number in range(97)], id="too many fields"),
        pytest.param([(f"x-{number}", "v" * 900) for number in range(70)], id="too many bytes"),
    ],
)
def test_a_field_section_above_the_limit(koguma: Koguma, fields: list[tuple[str, str]]) -> None:
    """Refused with 431, and the connection goes on with its tables intact."""
    with Frames(koguma.port("app")) as client:
        client.handshake()
        block = client.encode(client.request(*fields))
        parts = [block[at : at + 16_000] for at in range(0, len(block), 16_000)]
        client.send(headers(1, parts[0], end_headers=len(parts) == 1))
        for part in parts[1:]:
            client.send(continuation(1, part, end_headers=part is parts[-1]))
        assert client.decode(expect.frame(client, Kind.HEADERS))[":status"] == "431"
        client.send(client.get(3))
        assert client.decode(expect.frame(client, Kind.HEADERS))[":status"] == "200"
