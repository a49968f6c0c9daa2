"""The door of a zone egress: whose connection is this? Before anything is decrypted, the server name says so.

A connection has one protocol more than on an inbound: :class:`DoorAcceptor` until the ClientHello is there, then
:class:`~proxy.tls_accept.TlsAcceptor` for the route that was found, which is fed what has been read. So the handshake
is made, and the peer judged, by the terms of that one service: its mesh's MeshTrusts, its permissions, its counters.

A route is looked up in a dict, however many there are. What has no route (no server name, one that nobody has, no
ClientHello that can be read, none within :data:`HELLO_TIMEOUT_S`) is reset without a word, as Envoy does where no
filter chain matches: counted, and named in the log.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, cast

from proxy.acceptor import Acceptor
from proxy.relay import ByteTransport, reset
from proxy.tls_accept import TlsAcceptor
from tls.client_hello import BadHello, ClientHello, HelloFault, read_client_hello

if TYPE_CHECKING:
    from proxy.listener import Listener

log = logging.getLogger("koguma.egress")

HELLO_TIMEOUT_S = 10.0
MAX_QUOTED_CHARS = 128


class DoorAcceptor(Acceptor):
    """See the module."""

    __slots__ = ("_head", "_wanted")

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener)
        self._head = bytearray()
        self._wanted = 0

    def _begin(self) -> None:
        self._set_timer(HELLO_TIMEOUT_S)

    def data_received(self, data: bytes) -> None:
        head = self._head
        head += data
        if len(head) < self._wanted or self._timer is None:
            return
        try:
            hello = read_client_hello(head)
        except BadHello as bad:
            self._refuse_hello(bad)
        else:
            if isinstance(hello, int):
                self._wanted = hello
            else:
                self._lead(hello)

    def _lead(self, hello: ClientHello) -> None:
        listener, raw = self._listener, self._raw
        assert raw is not None
        stats, name = listener.stats, hello.server_name
        if name is None:
            stats.tls_inspector_sni_not_found += 1
            self._refuse("no server name is asked for", "no_server_name")
            return
        stats.tls_inspector_sni_found += 1
        route = listener.routes.get(name)
        if route is None or route.plan.acceptance is None:
            quoted = name if len(name) <= MAX_QUOTED_CHARS else f"{name[:MAX_QUOTED_CHARS]}..."
            self._refuse(f"no service has the server name {quoted!r}", "unknown_server_name")
            return
        acceptor = TlsAcceptor(route, route.plan.acceptance)
        raw.set_protocol(acceptor)
        self._end()
        acceptor.connection_made(raw)
        if not raw.is_closing():
            acceptor.data_received(bytes(self._head))

    def _refuse_hello(self, bad: BadHello) -> None:
        stats = self._listener.stats
        match bad.fault:
            case HelloFault.NOT_TLS:
                stats.tls_inspector_tls_not_found += 1
            case HelloFault.TOO_LARGE:
                stats.tls_inspector_client_hello_too_large += 1
            case HelloFault.MALFORMED:
                stats.tls_inspector_client_hello_malformed += 1
        self._refuse(str(bad), bad.fault)

    def _refuse(self, why: str, cause: str) -> None:
        listener, raw = self._listener, self._raw
        assert raw is not None
        listener.stats.no_filter_chain_match += 1
        name = listener.plan.name
        if listener.may_say(f"{name} {cause}"):
            event = {"event": "connection_refused", "listener": name, "cause": str(cause)}
            log.warning("%s: a connection was refused: %s", name, why, extra=event)
        self._end()
        reset(cast("ByteTransport", raw))

    def _time_out(self) -> None:
        self._listener.stats.downstream_pre_cx_timeout += 1
        self._refuse(f"no ClientHello came within {HELLO_TIMEOUT_S:g} s", "timed_out")
