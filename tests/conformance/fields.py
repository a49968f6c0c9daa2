"""Fields that more than one section sends."""

from __future__ import annotations

BIG_VALUE = "x" * 4000
"""3,500 bytes in Huffman code: five of them do not fit into a frame of the least maximum size."""


def big_fields(count: int) -> list[tuple[str, str]]:
    return [(f"x-dummy{number}", BIG_VALUE) for number in range(count)]
