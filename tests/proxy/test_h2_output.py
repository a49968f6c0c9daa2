"""Guarantee: a turn's output goes to the transport, joined if it is little, as it is if it is much."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from proxy.http.h2_output import JOINED_BYTES, Http2Output


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

    def writelines(self, data: list[bytes]) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False


@pytest.mark.parametrize(
    ("sizes", "writes"),
    [
        ((), []),
        ((9, 100), [109]),
        ((JOINED_BYTES - 9, 9), [JOINED_BYTES]),
        ((JOINED_BYTES, 9), [JOINED_BYTES, 9]),
        ((9, 100, 2 * JOINED_BYTES), [9, 100, 2 * JOINED_BYTES]),
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
