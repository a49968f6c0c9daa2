"""HTTP/2 (RFC 9113), both roles: bytes in, calls out, no I/O and no clock.

A :class:`Connection` takes bytes by ``receive`` and collects what is to be sent in ``out``; its owner is a
:class:`Handler`. What is heard of one request and its response goes to a :class:`Stream`, which is subclassed by
whoever speaks through it and takes what is to be sent. Heads are the neutral ones of ``proxy.wire``, and shared.
Fields that are sent are a :class:`FieldBlock`, encoded once as long as it is used again.

    connection      what everything meets in            codes        error codes, Broken
    header_frames   HEADERS and CONTINUATION            limits       what we announce, what we put up with
    control_frames  all others but DATA                 budget       what a peer may do on credit
    turns           what had to wait is sent            frames       their layout
    passing         DATA that only passes through       compress     HPACK: blocks to bytes
    past            how streams ended                   decompress   HPACK: bytes to fields
    stream          one request and its response        heads        fields to heads and trailers
                                                        blocks       bytes to heads and trailers
"""

from __future__ import annotations

from proxy.wire.h2.codes import Broken, ErrorCode
from proxy.wire.h2.compress import FieldBlock, literal
from proxy.wire.h2.connection import Connection, Handler
from proxy.wire.h2.frames import PREFACE
from proxy.wire.h2.limits import CLIENT_SETTINGS, REQUEST_LIMITS, RESPONSE_LIMITS, SERVER_SETTINGS, H2Limits, Settings
from proxy.wire.h2.stream import Stream

__all__ = [
    "CLIENT_SETTINGS",
    "PREFACE",
    "REQUEST_LIMITS",
    "RESPONSE_LIMITS",
    "SERVER_SETTINGS",
    "Broken",
    "Connection",
    "ErrorCode",
    "FieldBlock",
    "H2Limits",
    "Handler",
    "Settings",
    "Stream",
    "literal",
]
