"""What may come back. Each function reads until it is decided, and fails with everything that came.

Where RFC 9113 asks for an error, an orderly close without GOAWAY is accepted as well (section 5.4.1: "might not be
possible" to send one); a GOAWAY with another code is not, and neither is a TCP reset, which takes a GOAWAY that is
still on its way along with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from tests.kit.h2frames import Code, Ending, Event, Frame, Frames, Kind


def connection_error(peer: Frames, *codes: Code) -> None:
    """GOAWAY with one of the codes, or the end of the connection."""

    def judge(event: Event) -> bool:
        if isinstance(event, Frame) and event.kind == Kind.GOAWAY:
            assert event.code in codes, f"{event}"
            return True
        return event is Ending.CLOSED

    _until(peer, judge, f"GOAWAY {_names(codes)} or the end of the connection")


def stream_error(peer: Frames, *codes: Code) -> None:
    """RST_STREAM with one of the codes, or the connection error that a peer may make of it."""

    def judge(event: Event) -> bool:
        if isinstance(event, Frame) and event.kind == Kind.GOAWAY:
            assert event.code in codes, f"{event}"
            return True
        if isinstance(event, Frame) and event.kind == Kind.RST_STREAM:
            return event.code in codes
        return event is Ending.CLOSED

    _until(peer, judge, f"RST_STREAM or GOAWAY {_names(codes)}, or the end of the connection")


def end_of_connection(peer: Frames) -> None:
    _until(peer, lambda event: event is Ending.CLOSED, "the end of the connection")


def end_of_stream(peer: Frames) -> None:
    """The response is complete."""

    def judge(event: Event) -> bool:
        if isinstance(event, Frame) and event.kind == Kind.RST_STREAM:
            return event.code == Code.NO_ERROR
        return isinstance(event, Frame) and event.ends_stream

    _until(peer, judge, "the end of a stream")


def frame(peer: Frames, kind: Kind) -> Frame:
    """The first of its kind."""
    found: list[Frame] = []

    def judge(event: Event) -> bool:
        if isinstance(event, Frame) and event.kind == kind:
            found.append(event)
        return bool(found)

    _until(peer, judge, kind.name)
    return found[0]


def response(peer: Frames, stream_id: int) -> None:
    """The first HEADERS that come are on this stream."""
    received = frame(peer, Kind.HEADERS)
    assert received.stream_id == stream_id, f"a response on another stream: {received}"


def settings_ack(peer: Frames) -> None:
    received = frame(peer, Kind.SETTINGS)
    assert received.is_ack, f"not an acknowledgement: {received}"


def pong(peer: Frames, opaque: bytes) -> None:
    """The first PING is the answer to ours."""
    received = frame(peer, Kind.PING)
    assert received.is_ack, f"not an answer: {received}"
    assert received.payload == opaque


def pong_or_end(peer: Frames, opaque: bytes) -> None:
    def judge(event: Event) -> bool:
        if isinstance(event, Frame) and event.kind == Kind.PING:
            return event.is_ack and event.payload == opaque
        return event is Ending.CLOSED

    _until(peer, judge, "the answer to a PING, or the end of the connection")


def _until(peer: Frames, judge: Callable[[Event], bool], wanted: str) -> None:
    seen: list[Event] = []
    for event in peer.events():
        seen.append(event)
        if judge(event):
            return
    _fail(wanted, seen)


def _fail(wanted: str, seen: list[Event]) -> NoReturn:
    told = ", ".join(event.value if isinstance(event, Ending) else str(event) for event in seen)
    raise AssertionError(f"wanted {wanted}; got: {told}")


def _names(codes: tuple[Code, ...]) -> str:
    return " or ".join(code.name for code in codes)
