"""Guarantee: a turn's output goes to the transport in order and in pieces of bounded size."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from proxy.http.h2_output import MAX_WRITE_BYTES, Http2Output


class Engine:
    """Has this to send, once."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)

    def take(self) -> list[bytes]:
        pieces, self.pieces = self.pieces, []
        return pieces


class Transport:
    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return False


@pytest.mark.parametrize(
    ("sizes", "writes"),
    [
        ((), []),
        ((9, 100), [109]),
        ((MAX_WRITE_BYTES,), [MAX_WRITE_BYTES]),
        ((MAX_WRITE_BYTES, 1), [MAX_WRITE_BYTES, 1]),
        ((1000, 2 * MAX_WRITE_BYTES), [MAX_WRITE_BYTES, MAX_WRITE_BYTES, 1000]),
    ],
)
def test_a_turns_output(sizes: tuple[int, ...], writes: list[int]) -> None:
    pieces = [bytes([65 + number]) * size for number, size in enumerate(sizes)]

    async def flush() -> tuple[list[bytes], int]:
        output = Http2Output(cast("Any", Engine(*pieces)))
        transport = Transport()
        output.transport = cast("Any", transport)
        output.flush()
        return transport.written, output.sent

    written, sent = asyncio.run(flush())
    assert list(map(len, written)) == writes
    assert b"".join(written) == b"".join(pieces)
    assert sent == sum(sizes)
