"""DATA that only passes through: out of the buffer that it was read into, frame and all, to another connection.

What bulk costs is frames, each of which is otherwise cut out, judged, handed up, framed again and joined with others.
Here a frame stays where it is. Its length is checked against every window that it counts for, here and there, its head
gets the other stream's number, and neighbours that go to one connection leave together, in one copy.

Only what needs no decision goes this way: a whole frame with neither flag nor padding, of a stream whose ``onward``
takes it at once, and that moves no window past the point where something must be said about it. At the first frame of
another kind we stop, with nothing done about it; ``Connection.receive`` knows all rules.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from proxy.wire.h2.frames import DATA, FRAME_BYTES, HEAD_BYTES, unpack_head

if TYPE_CHECKING:
    from proxy.wire.h2.connection import Connection

_STREAM_ID_AT: Final = 5
_put_stream_id: Final = Struct(">L").pack_into


def pass_on(connection: Connection, buffer: memoryview, at: int) -> int:
    """Deal with the frames from ``buffer[at:]`` on that only pass through; ``at`` is where a frame begins. Return where
    the first one begins that does not. ``buffer`` is written to.
    """
    size = len(buffer)
    streams = connection.streams
    run_at = at
    run_to: Connection | None = None  # whose output the frames from run_at on go to
    while size - at >= HEAD_BYTES:
        high, low, kind, flags, stream_id = unpack_head(buffer, at)
        length = high << 8 | low
        end = at + HEAD_BYTES + length
        if kind != DATA or flags or end > size:
            break
        stream = streams.get(stream_id)
        if stream is None or stream.remote_ended or (onward := stream.onward) is None:
            break
        if onward.queued or onward.closed or onward.local_ended:
            break
        other = onward._connection
        if other.paused or other.ready:
            break
        room = min(
            connection._grant_at - connection._used - 1,
            stream._grant_at - stream._used - 1,
            other.send_window,
            onward._window,
        )
        if 0 <= stream._left < room:
            room = stream._left
        if other is not run_to:
            if run_to is not None:
                run_to.write(bytes(buffer[run_at:at]))
            run_to, run_at = other, at
        sent, passed, onward_id = 0, 0, onward.id
        while 0 < length <= FRAME_BYTES and sent + length <= room:
            _put_stream_id(buffer, at + _STREAM_ID_AT, onward_id)
            sent += length
            passed += 1
            at = end
            if size - at < HEAD_BYTES:
                break
            high, low, kind, flags, next_id = unpack_head(buffer, at)
            length = high << 8 | low
            end = at + HEAD_BYTES + length
            if next_id != stream_id or kind != DATA or flags or end > size:
                break
        if not passed:
            break
        connection._used += sent
        connection.useful += passed
        stream._used += sent
        if stream._left >= 0:
            stream._left -= sent
        onward._window -= sent
        other.send_window -= sent
        other.useful += passed
        stream.on_passed(sent)
    if at > run_at and run_to is not None:
        run_to.write(bytes(buffer[run_at:at]))
    return at
