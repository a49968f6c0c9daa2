"""``x-request-id``: random UUIDs (RFC 9562 version 4), cheap enough for one a request."""

from __future__ import annotations

import os
from typing import Final

_BATCH = 256
_VARIANTS = "89ab"


class RequestIds:
    """Hands out UUIDs as text bytes; the system's randomness is fetched for many at once."""

    __slots__ = ("_hex", "_offset")

    def __init__(self) -> None:
        self._hex = ""
        self._offset = 0

    def next(self) -> bytes:
        offset = self._offset
        if offset >= len(self._hex):
            self._hex = os.urandom(16 * _BATCH).hex()
            offset = 0
        self._offset = offset + 32
        h = self._hex[offset : offset + 32]
        variant = _VARIANTS[int(h[16], 16) & 3]
        return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-{variant}{h[17:20]}-{h[20:]}".encode("ascii")


next_id: Final = RequestIds().next
"""The ids of this process."""
