"""Threaded servers on loopback with one behaviour each, plain or TLS, that record what they saw.

    with Peer(echo) as peer: ...                                   # 127.0.0.1
    with Peer(echo, tls=server_tls(identity)) as peer: ...         # TLS
    with Peer(banner(b"220 ready\\r\\n"), at="::1") as peer: ...     # IPv6
    with Peer(echo, at=str(path)) as peer: ...                     # a unix socket; "@name": abstract

A behaviour is a function of a :class:`Visit`; it may raise ``OSError`` freely, which ends up in
``seen.ending``. Any other exception is a mistake in the test and is raised when the peer closes.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import socket
import ssl
import tempfile
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.kit import payload, poll
from tests.kit.ca import Identity
from tests.kit.streams import CHUNK_BYTES, Stream, TlsStream

THREAD_STACK_BYTES = 256 * 1024
JOIN_S = 10.0


@dataclass(slots=True)
class Seen:
    """What one connection showed. The TLS fields stay empty until the handshake is complete."""

    received_bytes: int = 0
    ending: str = "open"
    """``open``, ``eof`` (they ended), ``reset``, ``truncated`` (TLS without close_notify), ``done`` (we left
    first), or the text of another error."""
    handshake_error: str | None = None
    sni: str | None = None
    version: str | None = None
    resumed: bool = False
    client_der: bytes | None = None
    client_sans: tuple[str, ...] = ()
    _hasher: Any = field(default_factory=hashlib.sha256, repr=False)

    @property
    def sha256(self) -> str:
        return str(self._hasher.hexdigest())

    def note(self, data: bytes) -> None:
        self.received_bytes += len(data)
        self._hasher.update(data)


class Visit:
    """One connection, as a behaviour sees it: a stream that records."""

    def __init__(self, stream: Stream, seen: Seen) -> None:
        self.stream = stream
        self.seen = seen

    def recv(self, max_bytes: int = CHUNK_BYTES) -> bytes:
        data = self.stream.recv(max_bytes)
        if data:
            self.seen.note(data)
        else:
            self.seen.ending = "eof"
        return data

    def read_to_end(self) -> None:
        while self.recv():
            pass

    def send(self, data: bytes) -> None:
        self.stream.send(data)

    def end(self) -> None:
        self.stream.end()

    def reset(self) -> None:
        self.stream.reset()


Behaviour = Callable[[Visit], None]


def echo(visit: Visit) -> None:
    """Everything back, in order; ends when they end."""
    while data := visit.recv():
        visit.send(data)
    visit.end()


def discard(visit: Visit) -> None:
    """Reads to the end and says nothing."""
    visit.read_to_end()
    visit.end()


def answer_after_end(visit: Visit) -> None:
    """Reads to the end, and only then answers ``<bytes> <sha256>``: works only if half-close passes
    through.
    """
    visit.read_to_end()
    visit.send(f"{visit.seen.received_bytes} {visit.seen.sha256}".encode())
    visit.end()


def end_then_read(farewell: bytes) -> Behaviour:
    """Sends ``farewell``, ends its own direction at once, and goes on reading."""

    def behave(visit: Visit) -> None:
        visit.send(farewell)
        visit.end()
        visit.read_to_end()

    return behave


def banner(text: bytes) -> Behaviour:
    """Speaks first, then echoes."""

    def behave(visit: Visit) -> None:
        visit.send(text)
        echo(visit)

    return behave


def source(total_bytes: int) -> Behaviour:
    """Sends :func:`payload.blocks`, ends, then reads to the end."""

    def behave(visit: Visit) -> None:
        for block in payload.blocks(total_bytes):
            visit.send(block)
        visit.end()
        visit.read_to_end()

    return behave


def greeting(text: bytes) -> Behaviour:
    """Tells its name and ends: which peer answered?"""

    def behave(visit: Visit) -> None:
        visit.send(text)
        visit.end()
        visit.read_to_end()

    return behave


def reset_at_once(visit: Visit) -> None:
    visit.reset()


def reset_after(received_bytes: int) -> Behaviour:
    """Reads that many bytes, then resets the connection."""

    def behave(visit: Visit) -> None:
        while visit.seen.received_bytes < received_bytes and visit.recv():
            pass
        visit.reset()

    return behave


def close_after_first_bytes(visit: Visit) -> None:
    """Closes when the first bytes (a ClientHello, where TLS is spoken) have come."""
    visit.recv()


def silent(visit: Visit) -> None:
    """Never answers: hangs in the handshake where TLS is expected."""
    visit.read_to_end()


def plaintext_where_tls_is_expected(visit: Visit) -> None:
    visit.recv()
    visit.send(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")


def holding(release: threading.Event) -> Behaviour:
    """Does not read a byte until released (or for 10 s), then reads to the end."""

    def behave(visit: Visit) -> None:
        release.wait(JOIN_S)
        visit.read_to_end()
        visit.end()

    return behave


def server_tls(
    identity: Identity,
    *,
    client_ca_pem: str | None = None,
    minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
    maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    send_chain: bool = True,
) -> ssl.SSLContext:
    """A server's context. ``client_ca_pem`` demands a client certificate of that CA; ``send_chain=False``
    forgets the intermediates, as misconfigured servers do. Versions below 1.2 really work.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if minimum < ssl.TLSVersion.TLSv1_2:
        context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TLS 1.0 and 1.1 are the point of some tests
        context.minimum_version = minimum
        context.maximum_version = maximum
    load_identity(context, identity, send_chain=send_chain)
    if client_ca_pem is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=client_ca_pem)
    return context


def load_identity(context: ssl.SSLContext, identity: Identity, *, send_chain: bool = True) -> None:
    """Certificate chain and key into a context; ``ssl`` takes them from files only."""
    with tempfile.TemporaryDirectory() as directory:
        pem = Path(directory, "identity.pem")
        pem.write_text(identity.key_pem + (identity.chain_pem if send_chain else identity.pem))
        context.load_cert_chain(pem)


class Peer:
    """A server with one behaviour. ``seen`` holds a record for each connection, in the order of arrival."""

    def __init__(
        self, behaviour: Behaviour, *, at: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
    ):
        self.seen: list[Seen] = []
        self._behaviour = behaviour
        self._tls = tls
        self._sni_of_thread: dict[int, str | None] = {}
        self._streams: set[Stream] = set()
        self._mistakes: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self._closing = False
        self._at = at
        self._listener = _listen(at, port)
        if tls is not None:
            tls.sni_callback = self._note_sni
        self._acceptor = _thread(self._accept, f"peer {at} accepts")

    @property
    def port(self) -> int:
        """The port; 0 for a unix socket."""
        name = self._listener.getsockname()
        return int(name[1]) if isinstance(name, tuple) else 0

    @property
    def endpoint(self) -> dict[str, Any]:
        """As an entry of ``spec.endpoints``."""
        if self._listener.family == socket.AF_UNIX:
            return {"address": f"unix://{self._at}"}
        return {"address": self._at, "port": self.port}

    def endpoint_as(self, address: str, **more: Any) -> dict[str, Any]:
        """The same port under another name."""
        return {"address": address, "port": self.port, **more}

    def wait_for(self, connections: int, *, within_s: float = 10.0) -> list[Seen]:
        """The records once there are at least so many."""
        poll.until(lambda: len(self.seen) >= connections, f"{connections} connections at the peer", within_s=within_s)
        return list(self.seen)

    def wait_for_ending(self, connection: int = 0, *, within_s: float = 10.0) -> str:
        """How that connection ended, once it has."""
        self.wait_for(connection + 1, within_s=within_s)
        poll.until(
            lambda: self.seen[connection].ending != "open",
            f"connection {connection} to end",
            within_s=within_s,
        )
        return self.seen[connection].ending

    @property
    def open_connections(self) -> int:
        return len(self._streams)

    def stop_listening(self) -> None:
        """From now on connections are refused; those that exist go on."""
        if not self._closing:
            self._closing = True
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
            self._acceptor.join(JOIN_S)
            self._listener.close()

    def close(self) -> None:
        """Ends everything and waits for the threads; raises what a behaviour did wrong."""
        self.stop_listening()
        for stream in list(self._streams):
            stream.interrupt()
        for thread in self._threads:
            thread.join(JOIN_S)
        stuck = [thread.name for thread in self._threads if thread.is_alive()]
        if not self._at.startswith("@") and "/" in self._at:
            Path(self._at).unlink(missing_ok=True)
        assert not stuck, f"peer threads did not end: {stuck}"
        if self._mistakes:
            raise self._mistakes[0]

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            if self._closing:
                sock.close()
                return
            seen = Seen()
            self.seen.append(seen)
            self._threads.append(_thread(functools.partial(self._serve, sock, seen), "peer visit"))

    def _serve(self, sock: socket.socket, seen: Seen) -> None:
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = Stream(sock) if self._tls is None else TlsStream(sock, self._tls, server_side=True)
        self._streams.add(stream)
        try:
            if isinstance(stream, TlsStream):
                self._shake_hands(stream, seen)
            self._behaviour(Visit(stream, seen))
            if seen.ending == "open":
                seen.ending = "done"
        except OSError as error:
            seen.ending = _ending(error)
        except BaseException as error:
            seen.ending = f"mistake: {error!r}"
            self._mistakes.append(error)
        finally:
            stream.close()
            self._streams.discard(stream)

    def _shake_hands(self, stream: TlsStream, seen: Seen) -> None:
        me = threading.get_ident()
        try:
            stream.handshake()
        except OSError as error:
            seen.sni = self._sni_of_thread.pop(me, None)
            seen.handshake_error = _handshake_error(error)
            raise
        seen.sni = self._sni_of_thread.pop(me, None)
        seen.version = stream.tls.version()
        seen.resumed = bool(stream.tls.session_reused)
        seen.client_der = stream.tls.getpeercert(binary_form=True)
        certificate = stream.tls.getpeercert() or {}
        names: Any = certificate.get("subjectAltName", ())
        seen.client_sans = tuple(str(value) for _, value in names)

    def _note_sni(self, _tls: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        self._sni_of_thread[threading.get_ident()] = name


def _listen(at: str, port: int) -> socket.socket:
    if at.startswith("@") or "/" in at:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind("\0" + at[1:] if at.startswith("@") else at)
    else:
        listener = socket.socket(socket.AF_INET6 if ":" in at else socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((at, port))
    listener.listen(2048)
    return listener


def _thread(run: Callable[[], None], name: str) -> threading.Thread:
    before = threading.stack_size(THREAD_STACK_BYTES)
    try:
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
    finally:
        threading.stack_size(before)
    return thread


def _ending(error: OSError) -> str:
    match error:
        case ConnectionResetError() | BrokenPipeError():
            return "reset"
        case ssl.SSLEOFError():
            return "truncated"
        case _:
            return str(error)


def _handshake_error(error: OSError) -> str:
    return error.reason or str(error) if isinstance(error, ssl.SSLError) else _ending(error)
