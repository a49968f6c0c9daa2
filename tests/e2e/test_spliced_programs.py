"""Guarantee: a download that the kernel moves is the file, for the programs that people have: nginx, which sends files
by sendfile(2), and curl, which takes it slowly, resumes, asks for a head or for a part, or speaks HTTP/1.0.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import payload
from tests.kit.apps import App, Nginx, find
from tests.kit.koguma import Koguma
from tests.kit.payload import MIB

SIZE = 24 * MIB
PART = 9 * MIB + 1


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with Nginx(tmp_path_factory.mktemp("nginx"), body_bytes=b"".join(payload.blocks(SIZE))) as app:
        yield app


class Downloads:
    """Of one service. Each file that is asked for is the payload, or the test fails."""

    def __init__(self, koguma: Koguma, directory: Path) -> None:
        self._curl = find("curl")
        self._koguma = koguma
        self._directory = directory
        self._spliced = 0

    def url(self, path: str = "/big") -> str:
        return f"http://127.0.0.1:{self._koguma.port('files')}{path}"

    def curl(self, *words: str) -> str:
        """What it prints."""
        command = [self._curl, "-q", "-sS", "--fail", "--noproxy", "*", "--max-time", "30", *words]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, cwd=self._directory)
        return done.stdout

    def fetch(self, *words: str, path: str = "/big") -> str:
        said = self.curl(*words, "--output", "file", self.url(path))
        self.check("file")
        return said

    def check(self, *parts: str) -> None:
        data = b"".join((self._directory / part).read_bytes() for part in parts)
        assert (len(data), hashlib.sha256(data).hexdigest()) == (SIZE, payload.sha256(SIZE))

    @property
    def were_spliced(self) -> bool:
        """Whether any was, since it was asked before."""
        before, self._spliced = self._spliced, self._koguma.stat("files", "upstream_cx_spliced_total")
        return self._spliced > before


@pytest.mark.parametrize("protocol", ["tcp", "http"])
def test_downloads(koguma: Koguma, nginx: App, protocol: str, tmp_path: Path) -> None:
    koguma.service("files", [nginx.endpoint], protocol=protocol)
    with koguma:
        downloads = Downloads(koguma, tmp_path)
        downloads.fetch()
        assert downloads.were_spliced
        downloads.fetch("--limit-rate", "40M")
        assert downloads.were_spliced
        downloads.fetch(path="/limited")
        downloads.fetch("--http1.0")

        file = tmp_path / "file"
        file.write_bytes(file.read_bytes()[:PART])
        assert downloads.fetch("--continue-at", "-", "--write-out", "%{http_code}") == "206"
        for part in (f"0-{PART - 1}", f"{PART}-"):
            downloads.curl("--range", part, "--output", part, downloads.url())
        downloads.check(f"0-{PART - 1}", f"{PART}-")
        assert downloads.were_spliced

        head = downloads.curl("--head", downloads.url(), downloads.url("/"))
        assert f"content-length: {SIZE}" in head.lower(), "and another response on the same connection"
        names = ("one", "two", "three")
        said = downloads.curl(
            "--write-out", "%{num_connects}", *(word for name in names for word in ("--output", name, downloads.url()))
        )
        assert said == "100", "one connection for all of them"
        for name in names:
            downloads.check(name)
        assert downloads.were_spliced
        assert koguma.stat("files", "upstream_cx_rx_bytes_total") > 9 * SIZE - PART


def test_an_upload_is_spliced_where_it_is_no_http(koguma: Koguma, nginx: App, tmp_path: Path) -> None:
    koguma.service("files", [nginx.endpoint], protocol="tcp")
    (tmp_path / "upload").write_bytes(b"".join(payload.blocks(SIZE)))
    with koguma:
        downloads = Downloads(koguma, tmp_path)
        downloads.curl("--upload-file", "upload", downloads.url("/uploads/it"))
        assert downloads.were_spliced
        assert (nginx.directory / "uploads" / "it").read_bytes() == (tmp_path / "upload").read_bytes()
