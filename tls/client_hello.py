"""What a client says before anything is decrypted: its ClientHello, read without answering it.

Two listeners need it. One with permissive mTLS has to know which of three kinds of traffic this is (:func:`sniff`):

===========  ======================================  ===========================================================
kind         how a connection begins                 what Kuma does with it
===========  ======================================  ===========================================================
plaintext    not with a TLS handshake record         passes to the application, unverified
other TLS    a ClientHello that does not offer the   passes through to the application, which has TLS of its own
             protocol ``kuma`` (ALPN)
mesh TLS     a ClientHello that does                 mTLS ends here
===========  ======================================  ===========================================================

A zone egress has to know for which service the connection is (:func:`read_client_hello`): the server name says so.

Only what is needed is parsed, and nothing is answered: the bytes go on to whoever speaks next. A ClientHello may come
in any number of TCP segments, and in several records (RFC 8446 §5.1); one that is longer than
:data:`MAX_CLIENT_HELLO_BYTES` or in more than :data:`MAX_RECORDS` is not read. While it is incomplete, the reader says
how many bytes there have to be before another look is worth it, so a peer that sends it byte by byte causes no more
looks than it has records.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

MESH_ALPN = b"kuma"

MAX_CLIENT_HELLO_BYTES = 16 * 1024
"""Looked at before the kind is decided. With post-quantum key shares a ClientHello has about 2 KB."""

MAX_RECORDS = 32

_HANDSHAKE_RECORD = 0x16
_CLIENT_HELLO = b"\x01"
_RECORD_HEADER_BYTES = 5
_SERVER_NAME_EXTENSION = 0  # RFC 6066 §3
_HOST_NAME = b"\x00"
_ALPN_EXTENSION = 16  # RFC 7301 §3.1


class Traffic(StrEnum):
    PLAINTEXT = "plaintext"
    OTHER_TLS = "other_tls"
    MESH_TLS = "mesh_tls"


@dataclass(frozen=True, slots=True)
class ClientHello:
    """``server_name`` is lower case, and ``None`` where the client names none. ``protocols``: its ALPN offer."""

    server_name: str | None
    protocols: tuple[bytes, ...]


class HelloFault(StrEnum):
    """Why there is no ClientHello to be had."""

    NOT_TLS = "not_tls"
    TOO_LARGE = "too_large"
    MALFORMED = "malformed"


class BadHello(Exception):
    """The bytes do not begin with a ClientHello that can be read."""

    def __init__(self, fault: HelloFault, detail: str) -> None:
        super().__init__(detail)
        self.fault = fault


def read_client_hello(head: bytes | bytearray) -> ClientHello | int:
    """The ClientHello that ``head`` begins with; or, where it is incomplete, how many bytes ``head`` must have before
    more can be said. Raises :class:`BadHello`.
    """
    if not _may_be_tls(head):
        raise BadHello(HelloFault.NOT_TLS, f"the first bytes are {bytes(head[:16])!r}")
    try:
        return _parse(_handshake_bytes(head))
    except _NeedMore as more:
        if more.at_least > MAX_CLIENT_HELLO_BYTES:
            text = f"the ClientHello is longer than {MAX_CLIENT_HELLO_BYTES} bytes"
            raise BadHello(HelloFault.TOO_LARGE, text) from None
        return more.at_least
    except _Malformed as error:
        raise BadHello(HelloFault.MALFORMED, str(error)) from None


def sniff(head: bytes) -> Traffic | None:
    """The kind of a connection that begins with ``head``; ``None``: more of it is needed."""
    try:
        hello = read_client_hello(head)
    except BadHello as bad:
        return Traffic.PLAINTEXT if bad.fault is HelloFault.NOT_TLS else Traffic.OTHER_TLS
    if isinstance(hello, int):
        return None
    return Traffic.MESH_TLS if MESH_ALPN in hello.protocols else Traffic.OTHER_TLS


class _NeedMore(Exception):
    """The bytes end before the ClientHello does."""

    def __init__(self, at_least: int) -> None:
        super().__init__(at_least)
        self.at_least = at_least


class _Malformed(Exception):
    """No ClientHello that can be read."""


def _may_be_tls(head: bytes | bytearray) -> bool:
    return head[:1] in (b"", bytes((_HANDSHAKE_RECORD,))) and head[1:2] in (b"", b"\x03")


def _handshake_bytes(head: bytes | bytearray) -> bytes:
    """The body of the ClientHello, put together from its records."""
    message = b""
    position = 0
    for _ in range(MAX_RECORDS):
        if _is_whole(message):
            return message[4 : 4 + int.from_bytes(message[1:4])]
        if len(head) < position + _RECORD_HEADER_BYTES:
            raise _NeedMore(position + _RECORD_HEADER_BYTES)
        if head[position] != _HANDSHAKE_RECORD or head[position + 1] != 3:
            raise _Malformed("another kind of record before the ClientHello is whole")
        length = int.from_bytes(head[position + 3 : position + 5])
        if length == 0:
            raise _Malformed("an empty handshake record")  # RFC 8446 §5.1: no empty fragments of handshake types
        position += _RECORD_HEADER_BYTES
        fragment = bytes(head[position : position + length])
        message += fragment
        if message[:1] not in (b"", _CLIENT_HELLO):
            raise _Malformed("a handshake message that is no ClientHello")
        if len(message) >= 4 and int.from_bytes(message[1:4]) > MAX_CLIENT_HELLO_BYTES:
            raise _NeedMore(position + int.from_bytes(message[1:4]))
        if len(fragment) < length and not _is_whole(message):
            raise _NeedMore(position + length)
        position += length
    raise _Malformed(f"the ClientHello is in more than {MAX_RECORDS} records")


def _is_whole(message: bytes) -> bool:
    return len(message) >= 4 and len(message) >= 4 + int.from_bytes(message[1:4])


def _parse(hello: bytes) -> ClientHello:
    """RFC 8446 §4.1.2."""
    reader = _Reader(hello)
    reader.take(2 + 32)  # legacy_version, random
    reader.vector(1)  # legacy_session_id
    reader.vector(2)  # cipher_suites
    reader.vector(1)  # legacy_compression_methods
    if reader.is_empty:
        return ClientHello(None, ())  # extensions may be left out before TLS 1.3
    extensions = _Reader(reader.vector(2))
    found: dict[int, bytes] = {}
    while not extensions.is_empty:
        kind = int.from_bytes(extensions.take(2))
        content = extensions.vector(2)
        if kind in (_SERVER_NAME_EXTENSION, _ALPN_EXTENSION):
            if kind in found:  # RFC 8446 §4.2; what one reader takes from the first, another takes from the last
                raise _Malformed("an extension that comes twice")
            found[kind] = content
    return ClientHello(
        _server_name(found[_SERVER_NAME_EXTENSION]) if _SERVER_NAME_EXTENSION in found else None,
        _protocols(found[_ALPN_EXTENSION]) if _ALPN_EXTENSION in found else (),
    )


def _server_name(extension: bytes) -> str | None:
    """RFC 6066 §3: a list, in which each type of name comes at most once; there is one type."""
    names = _Reader(_only_vector(extension, 2))
    host: bytes | None = None
    while not names.is_empty:
        kind = names.take(1)
        name = names.vector(2)
        if kind == _HOST_NAME:
            if host is not None:
                raise _Malformed("two server names")
            host = name
    if host is None:
        return None
    if not host or b"\x00" in host or not host.isascii():
        raise _Malformed("a server name that is no host name")
    return host.decode("ascii").lower()


def _protocols(extension: bytes) -> tuple[bytes, ...]:
    names = _Reader(_only_vector(extension, 2))
    protocols: list[bytes] = []
    while not names.is_empty:
        protocols.append(names.vector(1))
    return tuple(protocols)


def _only_vector(content: bytes, length_bytes: int) -> bytes:
    """A vector with nothing behind it."""
    reader = _Reader(content)
    vector = reader.vector(length_bytes)
    if not reader.is_empty:
        raise _Malformed("an extension with something behind its end")
    return vector


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
            raise _Malformed("a length that leads past the end")
        taken = self._data[self._position : end]
        self._position = end
        return taken

    def vector(self, length_bytes: int) -> bytes:
        """A variable-length vector, whose length is written in so many bytes."""
        return self.take(int.from_bytes(self.take(length_bytes)))
