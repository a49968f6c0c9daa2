"""Why streams and connections end (RFC 9113 §7)."""

from __future__ import annotations

from enum import IntEnum


class ErrorCode(IntEnum):
    """RFC 9113 §7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


_KNOWN = {int(code): code for code in ErrorCode}


def known_code(number: int) -> ErrorCode:
    """RFC 9113 §7: an unknown code may be treated as INTERNAL_ERROR."""
    return _KNOWN.get(number, ErrorCode.INTERNAL_ERROR)


class Broken(Exception):
    """The peer broke a rule that holds for the connection: it is over, and its GOAWAY is in ``out``.

    ``detail`` says what was wrong and never repeats what a peer sent. ``over_budget``: no rule of the protocol was
    broken, the peer did too much of what is allowed.
    """

    def __init__(self, code: ErrorCode, detail: str, over_budget: bool = False) -> None:
        super().__init__(f"{code.name}: {detail}")
        self.code = code
        self.detail = detail
        self.over_budget = over_budget
