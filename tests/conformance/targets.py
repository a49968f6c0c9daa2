"""The servers that are judged."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from tests.kit.apps import App, find
from tests.kit.koguma import Koguma

PAGE = b"<html>conformance</html>\n"
BIG_PATH = "/big"
BIG_BYTES = 8 * 1024 * 1024


class Target(StrEnum):
    NGHTTPD = "nghttpd"
    KOGUMA = "koguma"
    ELSEWHERE = "elsewhere"


class Nghttpd(App):
    """nghttp2's server: HTTP/2 by prior knowledge, ``PAGE`` on ``/``, and ``BIG_BYTES`` on ``BIG_PATH``."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.binary = find("nghttpd")

    def prepare(self) -> None:
        (self.directory / "index.html").write_bytes(PAGE)
        with (self.directory / BIG_PATH.lstrip("/")).open("wb") as big:
            big.truncate(BIG_BYTES)  # a hole: it takes no room

    def command(self) -> list[str]:
        return [self.binary, "--no-tls", "-a", "127.0.0.1", "-d", str(self.directory), str(self.port)]


def koguma_before(origin: App, directory: Path) -> Koguma:
    """A proxy with the service ``app`` of protocol ``http2``, not started."""
    koguma = Koguma(directory)
    koguma.service("app", [origin.endpoint], protocol="http2")
    return koguma
