"""The servers that are judged."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from tests.kit.apps import App, Nghttpd
from tests.kit.koguma import Koguma

PAGE = b"<html>conformance</html>\n"
BIG_PATH = "/big"
BIG_BYTES = 8 * 1024 * 1024


class Target(StrEnum):
    NGHTTPD = "nghttpd"
    KOGUMA = "koguma"
    ELSEWHERE = "elsewhere"


def nghttpd(directory: Path) -> Nghttpd:
    """With ``PAGE`` on ``/`` and ``BIG_BYTES`` on ``BIG_PATH``, not started."""
    (directory / "index.html").write_bytes(PAGE)
    with (directory / BIG_PATH.lstrip("/")).open("wb") as big:
        big.truncate(BIG_BYTES)  # a hole: it takes no room
    return Nghttpd(directory)


def koguma_before(origin: App, directory: Path) -> Koguma:
    """A proxy with the service ``app`` of protocol ``http2``, not started."""
    koguma = Koguma(directory)
    koguma.service("app", [origin.endpoint], protocol="http2")
    return koguma
