"""Endpoints of a service from a text file, one HOST:PORT on a line, read again when it changes.

    type: MeshExternalService
    mesh: default
    name: listed
    spec:
      match: {port: 8080, protocol: tcp}
      extension:
        type: file                                # the name of the entry point
        config: {path: /etc/koguma/listed.txt}    # whatever the extension understands

The whole contract is in `proxy/extensions/api.py` of Koguma; nothing of it has to be imported.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOOK_S = 1.0
MAX_BYTES = 64 * 1024


class FileDiscovery:
    def validate(self, config: Any) -> Iterator[str]:
        """Say what is wrong with ``spec.extension.config``: one sentence for each fault. Do no I/O here."""
        if not isinstance(config, dict) or not isinstance(config.get("path"), str):
            yield "path: must be the path of a file"
            return
        for key in config.keys() - {"path", "tls"}:
            yield f'unknown field "{key}"'

    async def watch(self, context: Any) -> None:
        """Publish the endpoints of one service whenever they change, until cancelled.

        What is raised here is shown at the service; the watch is started again a little later, and the endpoints that
        were published last stay in force.
        """
        path = Path(context.config["path"])
        before = None
        while True:
            text = await asyncio.to_thread(read, path)  # the other services of this type share the event loop
            if text != before:
                context.publish(parse(text), context.config.get("tls"))
                before = text
            await asyncio.sleep(LOOK_S)


def read(path: Path) -> str:
    with path.open() as file:
        return file.read(MAX_BYTES)


def parse(text: str) -> list[dict[str, Any]]:
    """Endpoints in the words of ``spec.endpoints``: address, port and, if you like, priority."""
    endpoints = []
    for line in text.split():
        host, _, port = line.rpartition(":")
        endpoints.append({"address": host.strip("[]"), "port": int(port)})
    return endpoints
