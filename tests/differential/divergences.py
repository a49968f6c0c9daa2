"""Where we accept what an oracle does not, or the two read it differently: each with its name and its reason.

The laws in ``test_http1_laws.py`` leave these out, and nothing else. Each has an example, and a test that it is still
so: a new release of an oracle that agrees with us takes its divergence away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import httptools

from tests.differential.oracles import Read


def _llhttp_knows(method: bytes) -> bool:
    parser = httptools.HttpRequestParser(object())
    try:
        parser.feed_data(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        return False
    return True


@dataclass(frozen=True)
class Divergence:
    """``applies`` is asked of what h11 read (llhttp, by whose refusal the others are known, read nothing)."""

    name: str
    reason: str
    applies: Callable[[bytes, Read], bool]
    example: bytes


LLHTTP_REFUSES_REQUESTS = [
    Divergence(
        "method that llhttp does not know",
        "RFC 9110 §9.1 leaves methods open, and a proxy has no business with their meaning: any token is forwarded",
        lambda data, read: not _llhttp_knows(read.start[0]),
        b"FOO-BAR / HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
]
