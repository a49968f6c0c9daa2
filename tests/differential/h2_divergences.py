"""Where our engine and the h2 package react to a frame in different ways: each with its name and its reason.

The law in ``test_http2_laws.py`` leaves these out, and nothing else. Each has an example, and a test that it is still
so: a new release of h2 that agrees with us takes its divergence away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proxy.wire.h2 import ErrorCode
from tests.differential.h2_pairs import Reaction, Step, plain
from tests.wire.h2.h2_rig import (
    DATA,
    GET,
    GOAWAY,
    OK,
    POST,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    goaway,
    raw,
    rst_stream,
    window_update,
)

BROKEN = "connection", ErrorCode.PROTOCOL_ERROR
MALFORMED = "stream", ErrorCode.PROTOCOL_ERROR
CLOSED = "stream", ErrorCode.STREAM_CLOSED


@dataclass(frozen=True)
class Divergence:
    """``applies`` is asked of the frame's type, our reaction and theirs. ``example``: the last frame is the one."""

    name: str
    reason: str
    applies: Callable[[int, Reaction, Reaction], bool]
    role: str
    example: list[Step]


def _same_code(kind: int, ours: Reaction, theirs: Reaction) -> bool:
    return ours.error is not None and theirs.error == ("connection", ours.error[1]) and ours.error[0] == "stream"


DIVERGENCES = [
    Divergence(
        "a stream's fault stays with the stream",
        "RFC 9113 §8.1.1 (malformed messages), §6.3, §6.9: stream errors. h2 ends the connection with all its streams",
        _same_code,
        "server",
        [plain(1, [*GET, (b"connection", b"close")])],
    ),
    Divergence(
        "RST_STREAM of an idle stream",
        "RFC 9113 §6.4: a connection error. h2 ignores it",
        lambda kind, ours, theirs: kind == RST_STREAM and ours.error == BROKEN and not theirs.error,
        "server",
        [plain(1, GET), rst_stream(7)],
    ),
    Divergence(
        "an acknowledgement of SETTINGS with a payload",
        "RFC 9113 §6.5: FRAME_SIZE_ERROR. h2 says PROTOCOL_ERROR",
        lambda kind, ours, theirs: ours.error == ("connection", ErrorCode.FRAME_SIZE_ERROR) and theirs.error == BROKEN,
        "server",
        [raw(SETTINGS, 1, 0, bytes(6))],
    ),
    Divergence(
        "a stream that was skipped",
        "RFC 9113 §5.1.1 closes it when a later one is opened. Who sends on a stream that it never opened has lost "
        "count, as with HEADERS there; h2 resets the stream",
        lambda kind, ours, theirs: ours.error == BROKEN and theirs.error == CLOSED,
        "server",
        [plain(5, GET), raw(DATA, 0, 1, b"x")],
    ),
    Divergence(
        "behind the end of a stream",
        "RFC 9113 §5.1: a frame for a stream that both sides ended is a connection error of type STREAM_CLOSED; h2 "
        "resets what has been closed before",
        lambda kind, ours, theirs: ours.error == ("connection", ErrorCode.STREAM_CLOSED) and theirs.error == CLOSED,
        "server",
        [plain(1, GET), ("respond", 1, True), raw(DATA, 0, 1, b"x")],
    ),
    Divergence(
        "what is under way to a stream that we reset",
        "RFC 9113 §5.1: discarded. h2 resets the stream with each frame again",
        lambda kind, ours, theirs: not ours.error and not ours.heard and theirs.error == CLOSED,
        "server",
        [plain(1, POST, False), ("reset", 1), raw(DATA, 0, 1, b"x")],
    ),
    Divergence(
        "WINDOW_UPDATE by 0 for a stream that is no more",
        "RFC 9113 §5.1: ignored, whatever it says. h2 judges it before it looks for the stream",
        lambda kind, ours, theirs: kind == WINDOW_UPDATE and not ours.error and theirs.error == BROKEN,
        "server",
        [plain(1, GET), ("respond", 1, True), window_update(1, 0)],
    ),
    Divergence(
        "content-length of a body that does not come",
        "RFC 9113 §8.1.1: malformed. h2 compares it with DATA frames only",
        lambda kind, ours, theirs: ours.error == MALFORMED
        and [heard[0] for heard in theirs.heard] == ["head", "end"],
        "server",
        [plain(1, [*GET, (b"content-length", b"5")])],
    ),
    Divergence(
        "control characters",
        "RFC 9110 §5.5: refused, as in HTTP/1, where such a field may have to go. h2 refuses NUL, CR and LF",
        lambda kind, ours, theirs: ours.error == MALFORMED
        and any(heard[0] == "head" and b"\x01" in heard[2][-1][0][1] for heard in theirs.heard),
        "server",
        [plain(1, [*GET, (b"a", b"\x01")])],
    ),
    Divergence(
        "host that is not :authority",
        "RFC 9113 §8.3.1: an intermediary replaces host. h2 refuses it",
        lambda kind, ours, theirs: theirs.error == BROKEN
        and any(heard[0] == "head" for heard in ours.heard),
        "server",
        [plain(1, [*GET, (b"host", b"other")])],
    ),
    Divergence(
        "te in a response",
        "It means nothing there, and is dropped. h2 refuses it as in a request",
        lambda kind, ours, theirs: theirs.error == BROKEN
        and any(heard[0] == "head" for heard in ours.heard),
        "client",
        [("open", True), plain(1, [*OK, (b"te", b"gzip")])],
    ),
    Divergence(
        "streams beyond the last of a GOAWAY",
        "RFC 9113 §6.8: they were not processed, and whoever waits for them is told. h2 leaves that to its user",
        lambda kind, ours, theirs: kind == GOAWAY and not theirs.heard and not ours.error and not theirs.error
        and {heard[0] for heard in ours.heard} == {"reset"},
        "client",
        [("open", True), goaway(0)],
    ),
]  # fmt: skip
