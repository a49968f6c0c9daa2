"""``type: http``: the endpoints of a service from JSON that a web server gives, asked again and again.

    extension:
      type: http
      config:
        url: http://discovery.internal/services/billing
        interval: 30s                 # optional
        headers: {X-Token: abc}       # optional
        tls: {enabled: true}          # optional, as spec.tls; a tls in the answer beats it

Two forms of answer are read: Kuma's, ``{"endpoints": [{"address": ..., "port": ..., "priority": ...}], "tls": ...}``,
and that of Prometheus' HTTP service discovery, ``[{"targets": ["host:port", ...], "labels": {...}}]``, so that what
feeds Prometheus can feed this. ``https`` is verified against the system's CAs. Whatever else is answered is a failure:
what was known last stays.

``urllib`` blocks, so each request has a thread; only so many requests are under way, and one at a time for a service. A
thread ends by itself: every wait for the server, be it for one byte, is cut to what is left of the whole request's
time. Only how long a host's name may take is up to the system's resolver.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import re
import socket
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, closing
from functools import partial
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from proxy.extensions.api import Context
from proxy.options import duration

DEFAULT_INTERVAL = "30s"
MIN_INTERVAL_S = 1.0
TRY_TIMEOUT_S = 5.0
"""Each wait for the server."""
TOTAL_TIMEOUT_S = 10.0
"""One request, with the redirects that it follows."""
MAX_ANSWER_BYTES = 1024 * 1024
MAX_REQUESTS = 32
"""At a time, of all services."""

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class HttpDiscovery:
    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(MAX_REQUESTS)

    def validate(self, config: Any) -> Iterator[str]:
        if not isinstance(config, dict):
            yield "must be an object with a url"
            return
        for key in config.keys() - {"url", "interval", "headers", "tls"}:
            yield f'unknown field "{key}"'
        url = config.get("url")
        if not isinstance(url, str) or not _is_web(url):
            yield "url: must be an http or https URL"
        try:
            if duration(str(config.get("interval", DEFAULT_INTERVAL))) < MIN_INTERVAL_S:
                yield f"interval: must be at least {MIN_INTERVAL_S:g}s"
        except ValueError as exc:
            yield f"interval: {exc}"
        headers = config.get("headers", {})
        if not isinstance(headers, dict) or not all(_is_header(name, value) for name, value in headers.items()):
            yield "headers: must be an object of header names and their text"
        if not isinstance(config.get("tls"), dict | None):
            yield "tls: must be an object"

    async def watch(self, context: Context) -> None:
        config = context.config
        interval_s = duration(config.get("interval", DEFAULT_INTERVAL))
        request = urllib.request.Request(
            config["url"], headers={"Accept": "application/json"} | config.get("headers", {})
        )
        clock = asyncio.get_running_loop().time
        while True:
            async with self._slots:
                answer = await _in_thread(lambda: _get(request, _Deadline(clock)))
            endpoints, tls = parse_answer(answer)
            context.publish(endpoints, tls if tls is not None else config.get("tls"))
            await asyncio.sleep(interval_s)


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _is_header(name: object, value: object) -> bool:
    return (
        isinstance(name, str) and bool(_HEADER_NAME.fullmatch(name)) and isinstance(value, str) and value.isprintable()
    )


async def _in_thread(ask: Callable[[], bytes]) -> bytes:
    """As ``asyncio.to_thread``, but in a thread that nobody waits for: not the next request, nor the process's end."""
    answer: Future[bytes] = Future()

    def run() -> None:
        answer.set_running_or_notify_cancel()
        try:
            answer.set_result(ask())
        except Exception as exc:
            answer.set_exception(exc)

    Thread(target=run, name="extension http: request", daemon=True).start()
    return await asyncio.wrap_future(answer)


class _Deadline:
    """When a request must be over."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._deadline = clock() + TOTAL_TIMEOUT_S

    def wait_s(self) -> float:
        """How long the next wait may be. Raises ``TimeoutError`` when the time is up."""
        left_s = self._deadline - self._clock()
        if left_s <= 0:
            raise TimeoutError(f"no whole answer within {TOTAL_TIMEOUT_S:g} s")
        return min(TRY_TIMEOUT_S, left_s)


class _Incoming(io.RawIOBase):
    """What a socket receives until the deadline."""

    def __init__(self, sock: socket.socket, deadline: _Deadline) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._deadline.wait_s())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """Comes before the deadline, and is not read beyond the limit, as ``urllib`` does before it follows a redirect."""

    def __init__(self, deadline: _Deadline, sock: socket.socket, **options: Any) -> None:
        super().__init__(sock, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_Incoming(sock, deadline))

    def read(self, amt: int | None = None) -> bytes:
        return super().read(MAX_ANSWER_BYTES + 1 if amt is None else amt)


class _Handler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Of one request, with all that it is redirected to. ``opened`` takes what is to be closed in the end."""

    def __init__(self, deadline: _Deadline, opened: ExitStack) -> None:
        super().__init__()
        self._deadline = deadline
        self._opened = opened

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(self._timely, http.client.HTTPConnection), request)

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(self._timely, http.client.HTTPSConnection), request)

    def _timely(self, kind: type[http.client.HTTPConnection], host: str, **options: Any) -> http.client.HTTPConnection:
        connection = kind(host, **options)
        connection._create_connection = self._connected  # type: ignore[attr-defined]
        connection.response_class = self._response  # type: ignore[assignment]
        return connection

    def _response(self, sock: socket.socket, **options: Any) -> _Response:
        return self._opened.enter_context(closing(_Response(self._deadline, sock, **options)))

    def _connected(self, address: tuple[str, int], *_: object) -> socket.socket:
        """As ``socket.create_connection``, which would give each address of the host the whole time."""
        fault = OSError(f"{address[0]} has no address")
        for family, kind, protocol, _name, where in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(self._deadline.wait_s())
                sock.connect(where)
                sock.settimeout(self._deadline.wait_s())  # for the handshake of TLS
                return sock
            except OSError as exc:
                sock.close()
                fault = exc
        raise fault


def _get(request: urllib.request.Request, deadline: _Deadline) -> bytes:
    """Raises ``OSError`` and ``http.client.HTTPException``."""
    opener = urllib.request.OpenerDirector()  # with nothing but HTTP: a redirect must not lead to a file
    with ExitStack() as opened:
        for handler in (
            urllib.request.ProxyHandler(),
            _Handler(deadline, opened),
            urllib.request.HTTPRedirectHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.UnknownHandler(),
        ):
            opener.add_handler(handler)
        response = opener.open(request)
        assert response is not None
        data: bytes = response.read(MAX_ANSWER_BYTES + 1)
    if len(data) > MAX_ANSWER_BYTES:
        raise ValueError(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
    return data


def parse_answer(data: bytes) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """The endpoints, and TLS settings if the answer has some. Raises ``ValueError``."""
    try:
        tree = json.loads(data)
    except RecursionError:
        raise ValueError("the answer is nested too deeply") from None
    if isinstance(tree, dict):
        endpoints, tls = tree.get("endpoints"), tree.get("tls")
        if not isinstance(endpoints, list) or not all(isinstance(one, dict) for one in endpoints):
            raise ValueError('the answer has no list of "endpoints"')
        if not isinstance(tls, dict | None):
            raise ValueError('"tls" is not an object')
        return endpoints, tls
    if isinstance(tree, list):
        groups = [group.get("targets") if isinstance(group, dict) else None for group in tree]
        if all(isinstance(targets, list) for targets in groups):
            return [_target(target) for targets in groups if targets is not None for target in targets], None
    raise ValueError('the answer is neither {"endpoints": [...]} nor [{"targets": [...]}]')


def _target(text: object) -> dict[str, Any]:
    """``host:port``, IPv6 in brackets."""
    host, colon, port = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    if not host or not colon or not port.isdecimal() or len(port) > 5:
        raise ValueError(f"{text!r:.80} is not HOST:PORT")
    return {"address": host.removeprefix("[").removesuffix("]"), "port": int(port)}
