"""Which of three kinds of traffic is this? What a permissive inbound has to know before it answers.

===========  ======================================  ===========================================================
kind         how a connection begins                 what Kuma does with it
===========  ======================================  ===========================================================
plaintext    not with a TLS handshake record         passes to the application, unverified
other TLS    a ClientHello that does not offer the   passes through to the application, which has TLS of its own
             protocol ``kuma`` (ALPN)
mesh TLS     a ClientHello that does                 mTLS ends here
===========  ======================================  ===========================================================

Only what is needed is parsed, and nothing is answered: the bytes go on to whoever speaks next. A ClientHello may come
in any number of TCP segments, and in several records (RFC 8446 §5.1); one that cannot be read, that is longer than
:data:`MAX_CLIENT_HELLO_BYTES` or in more than :data:`MAX_RECORDS`, is other TLS, for the application to refuse. So is
the work bounded that a peer can cause by sending it byte by byte, for each segment is another look at the whole.
"""

from __future__ import annotations

from enum import StrEnum

MESH_ALPN = b"kuma"

MAX_CLIENT_HELLO_BYTES = 16 * 1024
"""Looked at before the kind is decided. With post-quantum key shares a ClientHello has about 2 KB."""

MAX_RECORDS = 32

_HANDSHAKE_RECORD = 0x16
_CLIENT_HELLO = b"\x01"
_ALPN_EXTENSION = 16  # RFC 7301 §3.1


class Traffic(StrEnum):
    PLAINTEXT = "plaintext"
    OTHER_TLS = "other_tls"
    MESH_TLS = "mesh_tls"


def sniff(head: bytes) -> Traffic | None:
    """The kind of a connection that begins with ``head``; ``None``: more of it is needed."""
    if head[:1] not in (b"", bytes((_HANDSHAKE_RECORD,))) or head[1:2] not in (b"", b"\x03"):
        return Traffic.PLAINTEXT
    try:
        return Traffic.MESH_TLS if MESH_ALPN in _offered_protocols(_handshake_bytes(head)) else Traffic.OTHER_TLS
    except _NeedMore:
        return None if len(head) <= MAX_CLIENT_HELLO_BYTES else Traffic.OTHER_TLS
    except _Malformed:
        return Traffic.OTHER_TLS


class _NeedMore(Exception):
    """The bytes end before the ClientHello does."""


class _Malformed(Exception):
    """No ClientHello that can be read."""


def _handshake_bytes(head: bytes) -> bytes:
    """The body of the ClientHello, put together from its records."""
    message = b""
    position = 0
    for _ in range(MAX_RECORDS):
        if _is_whole(message):
            return message[4 : 4 + int.from_bytes(message[1:4])]
        if len(head) < position + 5:
            raise _NeedMore
        if head[position] != _HANDSHAKE_RECORD or head[position + 1] != 3:
            raise _Malformed
        length = int.from_bytes(head[position + 3 : position + 5])
        if length == 0:
            raise _Malformed  # RFC 8446 §5.1: no empty fragments of handshake types
        fragment = head[position + 5 : position + 5 + length]
        message += fragment
        if message[:1] not in (b"", _CLIENT_HELLO):
            raise _Malformed
        if len(fragment) < length and not _is_whole(message):
            raise _NeedMore
        position += 5 + length
    raise _Malformed


def _is_whole(message: bytes) -> bool:
    return len(message) >= 4 and len(message) >= 4 + int.from_bytes(message[1:4])


def _offered_protocols(hello: bytes) -> list[bytes]:
    """The ALPN protocols of a ClientHello (RFC 8446 §4.1.2)."""
    reader = _Reader(hello)
    reader.take(2 + 32)  # legacy_version, random
    reader.vector(1)  # legacy_session_id
    reader.vector(2)  # cipher_suites
    reader.vector(1)  # legacy_compression_methods
    if reader.is_empty:
        return []  # extensions may be left out before TLS 1.3
    extensions = _Reader(reader.vector(2))
    while not extensions.is_empty:
        kind = int.from_bytes(extensions.take(2))
        content = _Reader(extensions.vector(2))
        if kind == _ALPN_EXTENSION:
            names = _Reader(content.vector(2))
            protocols: list[bytes] = []
            while not names.is_empty:
                protocols.append(names.vector(1))
            return protocols
    return []


class _Reader:
    """Takes a structure of RFC 8446 §3 apart. Raises :class:`_Malformed` where it is shorter than it says."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def is_empty(self) -> bool:
        return self._position >= len(self._data)

    def take(self, count: int) -> bytes:
        end = self._position + count
        if end > len(self._data):
            raise _Malformed
        taken = self._data[self._position : end]
        self._position = end
        return taken

    def vector(self, length_bytes: int) -> bytes:
        """A variable-length vector, whose length is written in so many bytes."""
        return self.take(int.from_bytes(self.take(length_bytes)))
