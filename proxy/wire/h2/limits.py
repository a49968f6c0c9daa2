"""What we announce, and how much a peer may make us do or hold. Each number has its source; a limit is inclusive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from proxy.wire.h2.frames import FIRST_WINDOW, LARGEST_WINDOW
from proxy.wire.limits import KIB

MIB: Final = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Settings:
    """Ours, for one connection. Frame and table sizes stay what RFC 9113 §6.5.2 begins with."""

    max_concurrent_streams: int = 1024
    """A server announces it; a client opens no more, whatever its peer allows. Envoy's."""

    stream_window_bytes: int = 1 * MIB
    """What a peer may send on a stream that is not read from. At least 65,535, which holds before SETTINGS arrive."""

    connection_window_bytes: int = 16 * MIB
    """The same for all streams together."""

    def __post_init__(self) -> None:
        for window in (self.stream_window_bytes, self.connection_window_bytes):
            if not FIRST_WINDOW <= window <= LARGEST_WINDOW:
                raise ValueError(f"a window of {window} bytes")


SERVER_SETTINGS: Final = Settings()
CLIENT_SETTINGS: Final = Settings(stream_window_bytes=4 * MIB)


@dataclass(frozen=True, slots=True)
class H2Limits:
    """Bounds for what the peer of one connection does.

    The ``max_…`` refuse a message or end the connection. The ``…_allowance`` are what a peer may do on credit: each
    such deed spends one, useful work earns them back (see ``budget.py``), and so does time; a peer that has
    none left is sent away with ENHANCE_YOUR_CALM.
    """

    max_header_list_bytes: int = 60 * KIB
    """Names, values and 32 for each field (RFC 9113 §6.5.2, where it is announced). More: 431. Envoy's number."""

    max_fields: int = 100
    """Of a head, pseudo-fields among them, or of trailers. More: 431. Envoy's ``max_headers_count``."""

    max_block_bytes: int = 64 * KIB
    """A field block as it is sent, compressed. It has to be held until it is whole. More ends the connection."""

    max_inflation: int = 4
    """Times ``max_header_list_bytes`` and ``max_fields`` that a block may decompress to (HPACK bombs). More ends the
    connection: up to here it can be answered with 431."""

    max_continuations: int = 32
    """CONTINUATION frames of one block. A full block needs four."""

    max_interim_responses: int = 16
    """1xx responses before a final one; more resets the stream."""

    max_unsent_answers: int = 1000
    """Answers (to PING, SETTINGS and broken rules) that wait while the peer reads nothing. Envoy's number."""

    reset_allowance: int = 500
    """Streams that the client resets, or that we reset because it broke a rule (rapid reset, made-you-reset) or opened
    too many. A completed stream earns one. All may come in one read, and others wait until it is worked through: some
    50 ms. Envoy ends a connection after 500 streams, if more than half were reset early."""

    settings_allowance: int = 100
    """SETTINGS frames, acknowledgements among them."""

    ping_allowance: int = 1000
    """PING frames. gRPC measures bandwidth with one for each round trip that carries data, which earns them."""

    empty_allowance: int = 100
    """DATA, HEADERS and CONTINUATION frames that neither carry nor end anything."""

    window_allowance: int = 10_000
    """WINDOW_UPDATE frames. A DATA frame earns four: nobody needs more than two. But grpcio may send several for each
    of its streams, a thousand at once."""

    ignored_allowance: int = 1000
    """PRIORITY frames, frames of unknown types, and those on streams that are no more. Four for each useful frame."""


REQUEST_LIMITS: Final = H2Limits()
RESPONSE_LIMITS: Final = H2Limits(max_header_list_bytes=80 * KIB)
"""As with HTTP/1: 80 KiB of head from an upstream."""
