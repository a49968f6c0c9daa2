"""How much a peer may make a codec hold. Each number has its source; a limit is inclusive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

KIB: Final = 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds for one direction of one connection. The status is the answer when a request passes the bound."""

    max_head_bytes: int = 60 * KIB
    """Start line, fields and the empty line (431). Envoy's ``max_request_headers_kb``."""

    max_start_line_bytes: int = 16 * KIB
    """Request or status line without its CRLF (414). RFC 9112 §3 asks for 8000 octets at least."""

    max_fields: int = 100
    """Field lines of a head, Host among them, or of the trailers (431). Envoy's ``max_headers_count``."""

    max_chunk_line_bytes: int = 4 * KIB
    """A chunk's size, its extensions and the CRLF (400). HAProxy and Envoy set bounds of this order."""

    max_chunk_extensions: int = 16
    """Extensions of one chunk (400). They are dropped, so no sender gains anything by more."""

    max_trailer_bytes: int = 8 * KIB
    """The trailer section with its empty line (431)."""

    max_pending_bytes: int = 1024 * KIB
    """What may arrive after a message's end while the next is not asked for (400). The layer above stops reading at
    the first such byte, so that a few reads are all that can come."""

    max_interim_responses: int = 16
    """1xx responses before a final one (502)."""


REQUEST_LIMITS: Final = Limits()
RESPONSE_LIMITS: Final = Limits(max_head_bytes=80 * KIB)
"""Envoy takes 80 KiB of head from an upstream."""
