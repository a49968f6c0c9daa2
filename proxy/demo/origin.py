"""Services outside the mesh: small HTTP servers, in threads, over TLS that demands a client certificate or over a unix
socket. Each keeps what it saw of every request, which is the evidence that the demo shows.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from proxy.demo.pki import Pair

TIMEOUT_S = 5.0
MAX_HEAD_BYTES = 16 * 1024
POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as the origin saw it; without TLS the last three are ``None``."""

    request: str
    version: str | None = None
    sni: str | None = None
    client: str | None = None
    """The common name of the client certificate."""


class Origin:
    """Serves from entry to exit. ``at`` is ``(host, port)``, or the path of a unix socket (``@name``: abstract)."""

    def __init__(self, name: str, at: tuple[str, int] | str, context: ssl.SSLContext | None = None) -> None:
        self.name = name
        self.seen: list[Seen] = []
        self._context = context
        self._handshake = threading.local()
        if context is not None:
            context.sni_callback = self._note_sni
        origin = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                origin._serve(self.request)

        self._server: socketserver.BaseServer
        if isinstance(at, str):
            self._server = _UnixServer("\0" + at[1:] if at.startswith("@") else at, Handler)
        else:
            self._server = _TcpServer(at, Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(POLL_S,), name=name, daemon=True)

    @property
    def port(self) -> int:
        address = self._server.server_address
        assert isinstance(address, tuple), "a unix socket has no port"
        return int(address[1])

    def __enter__(self) -> Origin:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join(TIMEOUT_S)
        self._server.server_close()

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(TIMEOUT_S)
        with contextlib.suppress(OSError):  # a client that goes away, or that the handshake turned away
            if self._context is None:
                self._answer(sock)
                return
            with self._context.wrap_socket(sock, server_side=True) as tls:
                self._answer(tls)
                tls.unwrap()

    def _answer(self, sock: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            data = sock.recv(MAX_HEAD_BYTES)
            if not data or len(head) > MAX_HEAD_BYTES:
                return
            head += data
        request = head.partition(b"\r\n")[0].decode("latin-1")
        if isinstance(sock, ssl.SSLSocket):
            seen = Seen(request, sock.version(), getattr(self._handshake, "sni", None), _common_name(sock))
        else:
            seen = Seen(request)
        self.seen.append(seen)
        body = f"hello from {self.name}\n".encode()
        sock.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    def _note_sni(self, _sock: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        self._handshake.sni = name  # the handshake runs in the connection's own thread


class _TcpServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def demanding(pair: Pair, ca_pem: str, version: ssl.TLSVersion, folder: Path) -> ssl.SSLContext:
    """A server's context that speaks exactly this version and takes only clients with a certificate of this CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=ca_pem)
    path = folder / "origin.pem"  # ``ssl`` takes keys from files only
    path.touch(mode=0o600)
    try:
        path.write_text(pair.key + pair.certificate)
        context.load_cert_chain(path)
    finally:
        path.unlink()
    return context


def _common_name(sock: ssl.SSLSocket) -> str | None:
    subject = (sock.getpeercert() or {}).get("subject", ())
    for attribute in subject:
        for pair in attribute:
            if pair[0] == "commonName":
                return str(pair[1])
    return None
