"""Bytes whose loss, repetition or reordering shows: numbered blocks with a known hash."""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Iterator

BLOCK_BYTES = 256 * 1024
MIB = 1024 * 1024


@functools.cache
def _noise() -> bytes:
    return random.Random(20260).randbytes(BLOCK_BYTES - 8)


def blocks(total_bytes: int) -> Iterator[bytes]:
    """``total_bytes`` in blocks of at most :data:`BLOCK_BYTES`, each opening with its own number."""
    sent = 0
    number = 0
    while sent < total_bytes:
        block = number.to_bytes(8, "big") + _noise()
        block = block[: total_bytes - sent]
        yield block
        sent += len(block)
        number += 1


@functools.cache
def sha256(total_bytes: int) -> str:
    """The hash of all of :func:`blocks`."""
    hasher = hashlib.sha256()
    for block in blocks(total_bytes):
        hasher.update(block)
    return hasher.hexdigest()
