"""Connections to the admin interface: HTTP/1.1 over ``h11``, with a bound on everything that a peer could stretch.

One task a connection, for this is not the data path. A request must be complete within ``IDLE_S`` of the moment from
which we wait for it, an answer must make progress within the same; heads, bodies and connections are limited.

Three guards against web pages, which can reach loopback through the browser of whoever works on the machine: a name
that somebody made point at 127.0.0.1 (DNS rebinding) is told by its ``Host``, a form that posts across sites by its
``Origin``, and whatever else another page fetches by its ``Sec-Fetch-Site`` (W3C Fetch Metadata).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from email.utils import format_datetime
from http import HTTPStatus
from ipaddress import ip_address

import h11

from proxy.admin import routes
from proxy.admin.context import AdminContext
from proxy.admin.http import Refusal, Request, Response, text
from proxy.sockets import StartError, bind

log = logging.getLogger("koguma.admin")

MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024
MAX_CONNECTIONS = 64
IDLE_S = 30.0
CLOSE_S = 1.0
"""How long answers that are under way may take once the server closes."""

READ_BYTES = 16 * 1024
WRITE_HIGH_WATER_BYTES = 64 * 1024

_COMMON = (("cache-control", "no-cache, max-age=0"), ("x-content-type-options", "nosniff"), ("server", "koguma"))
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class AdminServer:
    """See the module. Create, :meth:`start`, :meth:`close`."""

    def __init__(self, context: AdminContext) -> None:
        self._context = context
        self._server: asyncio.Server | None = None
        self._connections: dict[_Connection, asyncio.Task[object]] = {}
        self._is_closing = False
        self._is_loopback = True
        self._port = 0

    async def start(self, address: str, port: int) -> None:
        """Listen. Raises :class:`proxy.sockets.StartError` when the address cannot be bound."""
        sock = bind(address, port)
        host, self._port = sock.getsockname()[:2]
        self._is_loopback = ip_address(host).is_loopback
        try:
            self._server = await asyncio.start_server(self._serve, sock=sock, limit=READ_BYTES)
        except OSError as exc:  # another socket came to listen between bind and listen
            sock.close()
            raise StartError(f"cannot listen on {address}:{port}: {exc.strerror or exc}") from exc

    @property
    def port(self) -> int:
        """The port in use."""
        return self._port

    async def close(self) -> None:
        """Stop listening; answers under way may finish within ``CLOSE_S``. May be called twice."""
        server, self._server = self._server, None
        self._is_closing = True
        if server is None:
            return
        server.close()
        for connection, task in self._connections.items():
            if not connection.is_answering:
                task.cancel()
        if self._connections:
            _, late = await asyncio.wait(self._connections.values(), timeout=CLOSE_S)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= MAX_CONNECTIONS or self._is_closing:
            writer.write(_BUSY)
            writer.close()
            return
        connection = _Connection(self._context, reader, writer, needs_literal_host=self._is_loopback)
        self._connections[connection] = task
        try:
            while await connection.exchange() and not self._is_closing:
                pass
        except (OSError, TimeoutError, asyncio.CancelledError):
            # The peer went away or was too slow, or we close: nothing is owed to it any more. The task is the
            # connection's own and ends here.
            writer.transport.abort()
        finally:
            del self._connections[connection]
            writer.close()


class _Connection:
    """One connection: request, answer, and again."""

    def __init__(
        self,
        context: AdminContext,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        needs_literal_host: bool,
    ) -> None:
        self.is_answering = False
        self._context = context
        self._reader = reader
        self._writer = writer
        self._needs_literal_host = needs_literal_host
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        writer.transport.set_write_buffer_limits(WRITE_HIGH_WATER_BYTES)

    async def exchange(self) -> bool:
        """Whether another may follow. Raises ``OSError`` or ``TimeoutError`` when the peer is gone or too slow."""
        self.is_answering = False
        try:
            async with asyncio.timeout(IDLE_S):
                head = await self._receive()
        except h11.RemoteProtocolError as error:
            await self._refuse(Refusal(error.error_status_hint, f"{error}\n"))
            return False
        except Refusal as refusal:
            await self._refuse(refusal)
            return False
        if head is None:
            return False
        self.is_answering = True
        await self._send(head, await self._answer(head))
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    async def _receive(self) -> h11.Request | None:
        """The next request, its body read and let go; ``None`` at the end of the stream."""
        head: h11.Request | None = None
        body_bytes = 0
        while True:
            match self._http.next_event():
                case h11.NEED_DATA:
                    if self._http.they_are_waiting_for_100_continue:
                        await self._write(self._http.send(h11.InformationalResponse(status_code=100, headers=[])))
                    self._http.receive_data(await self._reader.read(READ_BYTES))
                case h11.Request() as event:
                    if _size(event) > MAX_HEAD_BYTES:  # h11 only bounds a head while it is incomplete
                        raise Refusal(431, f"a head may have {MAX_HEAD_BYTES} bytes\n")
                    head = event
                case h11.Data(data=data):
                    body_bytes += len(data)
                    if body_bytes > MAX_BODY_BYTES:
                        raise Refusal(413, f"a body may have {MAX_BODY_BYTES} bytes\n")
                case h11.EndOfMessage():
                    return head
                case _:  # ConnectionClosed, or PAUSED before an upgrade that we do not offer
                    return None

    async def _answer(self, head: h11.Request) -> Response:
        try:
            request = Request.parse(head.method.decode("ascii"), head.target.decode("ascii"))
            self._check_host(head)
            route = routes.find(request)
            _check_site(head, request)
            if route.changes:
                _check_origin(head)
            return await routes.answer(route, self._context, request)
        except Refusal as refusal:
            return _as_response(refusal)
        except Exception:
            # A view that fails must cost neither the proxy nor the other views.
            log.exception("%s failed", head.target.decode("ascii"))
            return text("internal error: see the log\n", 500)

    def _check_host(self, head: h11.Request) -> None:
        host = _header(head, b"host")
        if self._needs_literal_host and host is not None and not is_literal(host):
            raise Refusal(403, "refused: the Host is neither localhost nor an IP address\n")

    async def _refuse(self, refusal: Refusal) -> None:
        """Answer something that was no proper request, and end the connection."""
        self.is_answering = True
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._send(None, _as_response(refusal))

    async def _send(self, head: h11.Request | None, response: Response) -> None:
        body = response.body
        headers = [
            ("content-type", response.content_type),
            *_COMMON,
            ("date", format_datetime(self._context.utc_now(), usegmt=True)),
            *response.headers,
        ]
        if isinstance(body, bytes):
            headers.append(("content-length", str(len(body))))
        if head is None:
            headers.append(("connection", "close"))
        reason = HTTPStatus(response.status).phrase
        start = self._http.send(h11.Response(status_code=response.status, headers=headers, reason=reason.encode()))
        if head is not None and head.method == b"HEAD":
            await self._write(start, self._http.send(h11.EndOfMessage()))
        elif isinstance(body, bytes):
            await self._write(start, self._http.send(h11.Data(data=body)), self._http.send(h11.EndOfMessage()))
        else:
            await self._write(start)
            await self._stream(body)

    async def _stream(self, pieces: AsyncGenerator[bytes, None]) -> None:
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    if piece:
                        await self._write(self._http.send(h11.Data(data=piece)))
        except OSError:
            raise
        except Exception as error:
            # Half an answer is out: cutting it off is the one way left to say that it is not whole.
            log.exception("an answer failed half-way")
            raise ConnectionAbortedError from error
        await self._write(self._http.send(h11.EndOfMessage()))

    async def _write(self, *pieces: bytes | None) -> None:
        self._writer.write(b"".join(piece for piece in pieces if piece))
        async with asyncio.timeout(IDLE_S):
            await self._writer.drain()


def is_literal(host: str) -> bool:
    """Whether a ``Host`` is ``localhost`` or an IP address, with or without a port."""
    if host.startswith("["):
        name = host[1:].partition("]")[0]
    else:
        name = host.rpartition(":")[0] if host.count(":") == 1 else host
    if name.lower().rstrip(".") == "localhost":
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _check_site(head: h11.Request, request: Request) -> None:
    """A link from elsewhere may lead here, but no other page may fetch from here, nor choose a ``filter`` for us."""
    if _header(head, b"sec-fetch-site") in ("cross-site", "same-site") and (
        _header(head, b"sec-fetch-mode") != "navigate" or request.query
    ):
        raise Refusal(403, "refused: the request comes from another site's page\n")


def _check_origin(head: h11.Request) -> None:
    """A browser names the page that posts; a page of ours has our own address. Other clients send no ``Origin``."""
    origin, host = _header(head, b"origin"), _header(head, b"host")
    if origin is not None and origin != f"http://{host}":
        raise Refusal(403, "refused: the request comes from another site's page\n")


def _size(head: h11.Request) -> int:
    fields = sum(len(name) + len(value) + len(": \r\n") for name, value in head.headers)
    return len(head.method) + len(head.target) + fields


def _header(head: h11.Request, name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in head.headers if key == name), None)


def _as_response(refusal: Refusal) -> Response:
    headers = (("allow", refusal.allow),) if refusal.allow is not None else ()
    return Response(refusal.text.encode(), status=refusal.status, headers=headers)
