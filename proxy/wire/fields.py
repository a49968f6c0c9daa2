"""Rules about fields that every version of HTTP shares: names, values, hop-by-hop, authorities, trailers.

A field line is judged in two steps, because the first is also needed for a head that is not complete yet: its *bytes*
(:func:`refuse_bytes`: no control characters, no CR or LF outside a CRLF), then its *shape* (``FIELD_LINE``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from proxy.wire import BadMessage, Field

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
"""A character of a token (RFC 9110 §5.6.2), for use in a pattern."""

VALUE: Final = rb"[\t -~\x80-\xff]"
"""A character of a field value (RFC 9110 §5.5), HTAB and obs-text included, for use in a pattern."""

TOKEN_IN_LOWER_CASE: Final = rb"[!#$%&'*+\-.^_`|~0-9a-z]++"
"""A field's name in HTTP/2 (RFC 9113 §8.2.1), and in our heads."""

TRIMMED_VALUE: Final = rb"(?![\t ])" + VALUE + rb"*+(?<![\t ])"
"""A whole value without blanks around it."""

TARGET: Final = rb"[!\"$-~]"
"""A character of a request's target: visible ASCII without ``#``, since RFC 9112 §3.2 has no fragment. Percent escapes
are the origin's to judge."""

FIELD_LINE: Final = TOKEN + rb"++:" + VALUE + rb"*+\r\n"

FIELDS: Final = re.compile(rb"([^:]++):[ \t]*+([^\r]*+)\r\n")
"""Name and value of each line of a block whose shape has been checked; blanks before the CRLF are still there."""

TOKENS: Final = re.compile(TOKEN + rb"++")

_FIELD_LINES: Final = re.compile(rb"(?:" + FIELD_LINE + rb")*+")
_RENDERED_NAMES: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z,]*+")  # joined with commas

# RFC 3986 §3.2.2 and §3.2.3, narrower: no userinfo (RFC 9110 §4.2.4), no comma (two Hosts that somebody joined), no
# IPvFuture and no zone (neither means anything to another host).
AUTHORITY: Final = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|(?:[A-Za-z0-9\-._~!$&'()*+;=]|%[0-9A-Fa-f]{2})++)(?::[0-9]{0,5})?"
)

_MAX_LENGTH_DIGITS: Final = 19  # below 2**63 or so: what every recipient's integers can hold

_BAD_BYTES: Final = re.compile(rb"(?<!\r)\n|\r(?=[^\n])|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

HOP_BY_HOP: Final = frozenset(
    (b"connection", b"http2-settings", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade")
)
"""Fields about one connection (RFC 9110 §7.6.1): never forwarded, whether ``connection`` names them or not."""

_FRAMING: Final = frozenset((b"content-length", b"transfer-encoding"))

_PROTECTED: Final = _FRAMING | {
    b"authorization", b"content-encoding", b"content-range", b"content-type", b"cookie", b"forwarded", b"host",
    b"set-cookie", b"via", b"x-real-ip", b"x-request-id",
}  # fmt: skip
_PROTECTED_PREFIXES: Final = (b"x-forwarded-", b"x-envoy-")

# RFC 9110 §6.5.1: framing, routing, modifiers of the request, authentication, control of the response, and what says
# how to read the content. Digests of the content (RFC 9530) are what trailers are for, and pass.
_NOT_IN_TRAILERS: Final = (
    HOP_BY_HOP
    | _PROTECTED
    | {
        b"age", b"authentication-info", b"cache-control", b"content-disposition", b"content-language",
        b"content-location", b"date", b"expect", b"expires", b"if-match", b"if-modified-since", b"if-none-match",
        b"if-range", b"if-unmodified-since", b"location", b"max-forwards", b"pragma", b"proxy-authenticate",
        b"proxy-authentication-info", b"proxy-authorization", b"range", b"retry-after", b"trailer", b"vary",
        b"warning", b"www-authenticate",
    }
)  # fmt: skip


def refuse_bytes(block: bytes | bytearray, start: int, end: int) -> None:
    """Raise for the first byte of ``block[start:end]`` that may be nowhere in a head; a CR at ``end`` may be right."""
    bad = _BAD_BYTES.search(block, start, end)
    if bad is None:
        return
    if bad[0] in b"\r\n":
        # RFC 9112 §2.2 lets a recipient take a lone LF for a line end. The next hop may not, so we do not.
        raise BadMessage(400, "http1.codec_error", "CR or LF that is not part of a CRLF")
    raise BadMessage(400, "http1.invalid_characters", "control character")


def refuse_field_line(line: bytes) -> None:
    """Raise for a field line (without its CRLF) that has not the shape ``name:value``."""
    name, colon, _ = line.partition(b":")
    if line[:1] in (b" ", b"\t"):
        # RFC 9112 §5.2: obs-fold is refused, not unfolded.
        raise BadMessage(400, "http1.codec_error", "line folding")
    if not colon:
        raise BadMessage(400, "http1.codec_error", "field line without a colon")
    if not TOKENS.fullmatch(name):
        # RFC 9112 §5.1: also for a blank between name and colon, "MUST reject ... 400".
        raise BadMessage(400, "http1.codec_error", "field name that is not a token")


def list_members(value: bytes) -> list[bytes]:
    """The members of a comma-separated list (RFC 9110 §5.6.1) in lower case; empty ones do not count."""
    return [member for part in value.lower().split(b",") if (member := part.strip(b" \t"))]


def parse_length(before: int | None, value: bytes) -> int:
    """RFC 9112 §6.3: one Content-Length, of digits. A list of equal values could be repaired; it is refused."""
    if before is not None:
        raise BadMessage(400, "http1.codec_error", "more than one Content-Length")
    if not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS:
        raise BadMessage(400, "http1.codec_error", "Content-Length that is not a number")
    return int(value)


def is_protected(name: bytes) -> bool:
    """May ``connection`` not take this field (lower case) away? It is for the recipient, not for the next hop."""
    return name in _PROTECTED or name.startswith(_PROTECTED_PREFIXES)


def refuse_nominations(nominated: Iterable[bytes]) -> None:
    """Raise where a request's ``connection`` names what is not its to remove, or what is no field name at all."""
    for name in nominated:
        if is_protected(name) or not TOKENS.fullmatch(name):
            raise BadMessage(400, "http1.connection_header_rejected", "Connection names a protected field")


def without(fields: Sequence[Field], nominated: Iterable[bytes]) -> list[Field]:
    """``fields`` less those that ``connection`` nominated."""
    names = set(nominated)
    return [field for field in fields if field[0] not in names]


def asks_for_trailers(te: bytes) -> bool:
    """Does a ``te`` value hold ``trailers``? It is the only member that a proxy may pass on (RFC 9110 §10.1.4)."""
    return b"trailers" in list_members(te)


def parse_trailers(block: bytes, max_fields: int) -> list[Field]:
    """The fields of a trailer section, given without its empty line. Raises for what no trailer may be."""
    if not _FIELD_LINES.fullmatch(block):
        refuse_bytes(block, 0, len(block))
        for line in block.split(b"\r\n"):  # the last is empty and would be refused too: nothing gets past this
            refuse_field_line(line)
    fields = [(name.lower(), value.rstrip(b" \t")) for name, value in FIELDS.findall(block)]
    if len(fields) > max_fields:
        raise BadMessage(431, "http1.too_many_headers", f"more than {max_fields} trailers")
    refuse_trailers(fields)
    return fields


def refuse_trailers(fields: Iterable[Field]) -> None:
    """Raise where a trailer has a name (lower case) that only makes sense in a head (RFC 9110 §6.5.1)."""
    for name, _ in fields:
        if name in _NOT_IN_TRAILERS or name.startswith(_PROTECTED_PREFIXES):
            raise BadMessage(400, "http1.codec_error", "field that may not be a trailer")


def render_trailers(trailers: Sequence[Field]) -> bytes:
    """The lines of a trailer section. Raises ValueError for what would not be read back as it was given."""
    block = b"".join([b"%b: %b\r\n" % trailer for trailer in trailers])
    check_rendered(block, [name for name, _ in trailers], len(trailers))
    try:
        refuse_trailers(trailers)
    except BadMessage as bad:
        raise ValueError(bad.detail) from None
    if not _FIELD_LINES.fullmatch(block):
        raise ValueError("trailer that would not be read back as it was given")
    return block


def check_rendered(block: bytes, names: Sequence[bytes], lines: int) -> None:
    """Raise ValueError if a value brought a line of its own, or a name has a colon or a capital.

    With the grammar of the block, which the caller checks, this leaves no way to read other fields than these. (Blanks
    around a value are no part of it, RFC 9110 §5.5, and are lost.)
    """
    if block.count(b"\r\n") != lines or not _RENDERED_NAMES.fullmatch(b",".join(names)):
        raise ValueError("field that would not be read back as it was given")
