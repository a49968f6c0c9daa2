"""Guarantee: what a reader is shown stays as it is while the reader looks at it, whoever else reads meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from proxy.large_reads import LARGE_READ_BYTES, READ_BYTES, SMALL_READ_BYTES, SMALL_READS, LargeReads


class Transport:
    def __init__(self) -> None:
        self.protocol: asyncio.BaseProtocol | None = None

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol


class Reader(asyncio.Protocol):
    """``looks``: what it does while it is shown something."""

    def __init__(self, looks: Callable[[], None] = lambda: None) -> None:
        self.looks = looks
        self.read = b""
        self.transport = Transport()

    def below(self, *, is_brief: bool = False) -> LargeReads:
        return LargeReads(self, cast("asyncio.Transport", self.transport), is_brief=is_brief)

    def large_read(self, data: memoryview) -> None:
        self.looks()
        self.read += bytes(data)


def arrive(below: LargeReads, data: bytes, hint: int = -1) -> memoryview:
    buffer = below.get_buffer(hint)
    buffer[: len(data)] = data
    below.buffer_updated(len(data))
    return buffer


def test_all_read_into_one_buffer() -> None:
    one, other = Reader(), Reader()
    below, beside = one.below(), other.below()
    first = arrive(below, b"a" * 100)
    assert len(first) == READ_BYTES
    assert arrive(beside, b"b" * 100).obj is first.obj
    assert len(arrive(beside, b"c" * 100, READ_BYTES + 1)) > READ_BYTES
    assert (one.read, other.read) == (b"a" * 100, b"b" * 100 + b"c" * 100)


def test_who_reads_while_another_looks_has_a_buffer_for_itself() -> None:
    nested = Reader()
    beside = nested.below()
    one = Reader(lambda: cast("None", arrive(beside, b"b" * 100_000, 300_000)))
    below = one.below()
    arrive(below, b"a" * 100_000)
    assert one.read == b"a" * 100_000
    assert nested.read == b"b" * 100_000
    one.looks = lambda: None
    assert arrive(beside, b"c").obj is arrive(below, b"d").obj, "afterwards there is one again"


def test_a_brief_reader_makes_room_at_once() -> None:
    above = Reader()
    beside = above.below()
    buffers: list[memoryview] = []
    one = Reader(lambda: buffers.append(arrive(beside, b"b" * 10)))
    assert arrive(one.below(is_brief=True), b"a" * 100).obj is buffers[0].obj
    assert above.read == b"b" * 10


def test_it_leaves_after_some_small_reads_in_a_row() -> None:
    reader = Reader()
    below = reader.below()
    for size in (LARGE_READ_BYTES, *[10] * (SMALL_READS - 1), SMALL_READ_BYTES, *[10] * (SMALL_READS - 1)):
        arrive(below, b"x" * size)
        assert reader.transport.protocol is None
    arrive(below, b"last")
    assert reader.transport.protocol is reader
    assert reader.read.endswith(b"last")
