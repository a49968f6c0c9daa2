"""What the peer showed during a handshake, kept even when the handshake failed.

The ``ssl`` module forgets the peer's certificates the moment verification fails, which is when people ask for them.
OpenSSL hands every protocol message, already decrypted, to a message callback; ``ssl.SSLContext`` has one for
debugging. Its documented wrapper turns each number into an enum, so we set the C attribute below it. It is private:
where it is missing, everything works but explanations (and renegotiation, see ``context.py``) go without the chain.

The callback runs inside OpenSSL, once or twice a record. It never raises: what it cannot parse it leaves out, and
OpenSSL, which parses the same bytes, is the one to judge them.
"""

from __future__ import annotations

import _ssl
import ssl
from typing import Any, Final

MAX_CHAIN = 32
"""Certificates kept of one presented chain. OpenSSL itself stops at 100 KiB of them."""

_TLS13: Final = 0x0304
_ALERT_RECORD: Final = 21
_HANDSHAKE_RECORD: Final = 22
# Handshake types (RFC 8446 §4 and RFC 5246 §7.4)
_CERTIFICATE: Final = 11
_CERTIFICATE_REQUEST: Final = 13
_FINISHED: Final = 20

_HOOK: Final[Any] = getattr(getattr(_ssl, "_SSLContext", None), "_msg_callback", None)


class Presented:
    """The evidence of one connection. ``chain`` is DER, leaf first, as sent; ``certificate_requested`` says whether
    the peer asked for a client certificate (``None``: not observed); ``alert`` is the code of the last alert that the
    peer sent; ``handshakes`` counts the peer's Finished messages, so it moves with every renegotiation.
    """

    __slots__ = ("alert", "certificate_requested", "chain", "handshakes")

    def __init__(self, *, observed: bool) -> None:
        self.chain: tuple[bytes, ...] = ()
        self.certificate_requested: bool | None = False if observed else None
        self.alert: int | None = None
        self.handshakes = 0

    def note(self, version: int, content_type: int, message_type: int, data: bytes) -> None:
        """Take in one message that the peer sent. ``version`` is that of the protocol (0x0304 for TLS 1.3)."""
        if content_type == _ALERT_RECORD and len(data) == 2:
            self.alert = data[1]
        elif content_type != _HANDSHAKE_RECORD:
            return
        elif message_type == _CERTIFICATE:
            self.chain = parse_certificate_message(data, is_tls13=version == _TLS13)
        elif message_type == _CERTIFICATE_REQUEST:
            self.certificate_requested = True
        elif message_type == _FINISHED:
            self.handshakes += 1


class ObservedObject(ssl.SSLObject):
    """An SSL object of a context that :func:`observe` prepared; it carries its own evidence."""

    presented: Presented | None = None


def can_observe() -> bool:
    """Whether this Python has the hook."""
    return _HOOK is not None


def observe(context: ssl.SSLContext) -> None:
    """Make every connection of this context fill its ``presented``. Only where :func:`can_observe`."""
    context.sslobject_class = ObservedObject
    _HOOK.__set__(context, _on_message)


def _on_message(
    connection: ObservedObject, direction: str, version: int, content_type: int, message_type: int, data: bytes
) -> None:
    if direction == "read" and connection.presented is not None:
        connection.presented.note(version, content_type, message_type, data)


def parse_certificate_message(message: bytes, *, is_tls13: bool) -> tuple[bytes, ...]:
    """The DER certificates of a Certificate message with its 4-byte handshake header (RFC 5246 §7.4.2, RFC 8446
    §4.4.2). Stops at the first length that does not fit, and at :data:`MAX_CHAIN`.
    """
    position = 4
    if is_tls13:
        position += 1 + (message[4] if len(message) > 4 else 0)  # certificate_request_context
    position += 3  # length of the list; the message's own end bounds it as well
    chain: list[bytes] = []
    while len(chain) < MAX_CHAIN and position + 3 <= len(message):
        start = position + 3
        end = start + int.from_bytes(message[position:start])
        if end == start or end > len(message):
            break
        chain.append(bytes(message[start:end]))
        position = end
        if is_tls13:
            position += 2 + int.from_bytes(message[end : end + 2])  # extensions of this entry
    return tuple(chain)
