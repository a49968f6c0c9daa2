"""Sending what had to wait, in turns: DATA for which a window was closed, or that the transport would not take.

A stream that has some, and whose own window lets it go, is in the connection's ``ready``; each that comes up sends one
frame of at most 16 KiB and goes to the end of the line. As long as somebody is there nobody overtakes: whatever else is
sent queues as well (``Stream.send_data``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.wire.h2.frames import DATA, FRAME_BYTES, pack_head
from proxy.wire.h2.stream import Stream

if TYPE_CHECKING:
    from proxy.wire.h2.connection import Connection


def make_ready(connection: Connection, stream: Stream) -> None:
    """It has data that waits: let it stand in line, if its window allows any."""
    if not stream._ready and stream._window > 0:
        stream._ready = True
        connection.ready.append(stream)


def pump(connection: Connection) -> None:
    """Send what waits, as far as windows and transport let it go."""
    if connection._pumping:  # a stream that has drained queues more
        return
    connection._pumping = True
    try:
        _pump_in_turns(connection)
    finally:
        connection._pumping = False


def _pump_in_turns(connection: Connection) -> None:
    ready = connection.ready
    while ready and connection.send_window > 0 and not connection.paused:
        stream = ready.popleft()
        size = min(stream._window, connection.send_window, FRAME_BYTES, stream.queued)
        if size <= 0:  # its window shrank
            stream._ready = False
            continue
        data = stream._dequeue(size)
        stream._window -= size
        connection.send_window -= size
        connection.useful += 1
        drained = not stream.queued
        ends = drained and stream.local_ended and stream._tail is None
        connection.write(pack_head(size >> 8, size & 0xFF, DATA, ends, stream.id) + data)
        if not drained:
            if stream._window > 0:
                ready.append(stream)
            else:
                stream._ready = False
            continue
        stream._ready = False
        if ends:
            stream._sent_end = True
        elif stream._tail is not None:
            stream._send_tail(stream._tail)
        finished = stream._sent_end and stream.remote_ended
        if finished:
            connection._forget(stream)
        stream.on_drained()
        if finished:
            connection._stream_over()
