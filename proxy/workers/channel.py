"""Messages between the supervisor and a worker.

    frame = length of the rest (4 bytes, big-endian) | pickle of one message

The channel is a socket pair that only these two processes hold. Secrets (keys, in plans) pass here and nowhere else:
neither the arguments nor the environment of a process has any. Both ends run the same program, so values may be
pickled; still, a pickle is a program, and a worker reads what strangers send. So only values are built: dataclasses,
enumerations and statistics of ``proxy``, ``config`` and ``tls``, and a few types of the standard library. What is
anything else, too long or cut off ends the channel.
"""

from __future__ import annotations

import asyncio
import io
import pickle
import socket
import sys
from dataclasses import is_dataclass
from datetime import datetime, timedelta, timezone
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import PosixPath
from ssl import TLSVersion
from typing import Any

from proxy.stats import Histogram, Stats
from tls.policy import TrustAnchors

MAX_FRAME_BYTES = 256 * 1024 * 1024
MAX_SHARED_ANCHORS = 256

_HEADER_BYTES = 4
_VALUES = (Enum, Stats, Histogram)
_PACKAGES = frozenset({"proxy", "config", "tls"})
_OTHERS = frozenset(
    # By the names that pickles have for them: that of a path has changed from one Python to the next.
    (kind.__module__, kind.__qualname__)
    for kind in (
        datetime,
        timedelta,
        timezone,
        IPv4Address,
        IPv4Network,
        IPv6Address,
        IPv6Network,
        PosixPath,
        TLSVersion,
    )
)


class ChannelError(Exception):
    """What came is no message, or what was to go is too long."""


@lru_cache(maxsize=MAX_SHARED_ANCHORS)
def shared_anchors(pem: bytes, source: str) -> TrustAnchors:
    """Equal bundles are one object, as they are in the plan from which they were sent: the system's has 200 KB."""
    return TrustAnchors(pem, source)


def encode(message: object) -> bytes:
    """A frame. Raises :class:`ChannelError` if it would be longer than ``MAX_FRAME_BYTES``."""
    buffer = io.BytesIO()
    buffer.write(bytes(_HEADER_BYTES))
    _Pickler(buffer, protocol=5).dump(message)
    length = buffer.tell() - _HEADER_BYTES
    if length > MAX_FRAME_BYTES:
        raise ChannelError(f"a message has {length} bytes, {MAX_FRAME_BYTES} are allowed")
    buffer.seek(0)
    buffer.write(length.to_bytes(_HEADER_BYTES, "big"))
    return buffer.getvalue()


def decode(data: bytes) -> object:
    """What follows the length of a frame. Raises :class:`ChannelError` for whatever :func:`encode` did not make."""
    try:
        return _Unpickler(io.BytesIO(data)).load()
    except ChannelError:
        raise
    except Exception as exc:  # pickle promises nothing about what it raises for garbage
        raise ChannelError(f"not a message: {type(exc).__name__}") from exc


class Channel:
    """One end. Messages go and come in order; several tasks may send."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._sending = asyncio.Lock()

    @classmethod
    async def open(cls, sock: socket.socket) -> Channel:
        """Takes over a connected unix socket."""
        return cls(*await asyncio.open_unix_connection(sock=sock))

    async def send(self, message: object) -> None:
        """Returns when the other side takes what was sent. Raises :class:`ChannelError`, ``OSError`` if it is gone."""
        frame = encode(message)
        async with self._sending:
            self._writer.write(frame)
            await self._writer.drain()

    async def receive(self) -> object | None:
        """The next message; ``None`` when the other side has ended, in the middle of one too. Raises
        :class:`ChannelError`.
        """
        try:
            length = int.from_bytes(await self._reader.readexactly(_HEADER_BYTES), "big")
            if length > MAX_FRAME_BYTES:
                raise ChannelError(f"a message of {length} bytes is announced, {MAX_FRAME_BYTES} are allowed")
            return decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError):
            return None

    def close(self) -> None:
        self._writer.close()


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: object) -> Any:
        if type(value) is TrustAnchors:
            return shared_anchors, (value.pem, value.source)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (shared_anchors.__module__, shared_anchors.__name__):
            return shared_anchors
        if (module, name) in _OTHERS:
            return super().find_class(module, name)
        if module.partition(".")[0] in _PACKAGES and name.isidentifier():
            __import__(module)
            found = vars(sys.modules[module]).get(name)
            if isinstance(found, type) and (is_dataclass(found) or issubclass(found, _VALUES)):
                return found
        raise ChannelError(f"{module}.{name} does not belong into a message")
