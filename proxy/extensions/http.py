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
"""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from proxy.extensions.api import Context
from proxy.options import duration

DEFAULT_INTERVAL = "30s"
MIN_INTERVAL_S = 1.0
TIMEOUT_S = 5.0
MAX_ANSWER_BYTES = 1024 * 1024

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class HttpDiscovery:
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
        while True:
            async with asyncio.timeout(2 * TIMEOUT_S):
                answer = await asyncio.to_thread(_get, request)
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


def _get(request: urllib.request.Request) -> bytes:
    """Raises ``OSError`` and ``http.client.HTTPException``."""
    opener = urllib.request.OpenerDirector()  # with nothing but HTTP: a redirect must not lead to a file
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    response = opener.open(request, timeout=TIMEOUT_S)
    assert response is not None
    with response:
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
