"""curl, nghttp and h2load as clients: one call each, with what they say of it. Skips where they are not installed."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.kit.apps import find

RUN_S = 60.0
PRIOR_KNOWLEDGE = "--http2-prior-knowledge"


@dataclass(frozen=True, slots=True)
class Curled:
    """One transfer. ``version`` is curl's: ``1.1`` or ``2``; ``head`` as it came, with interim ones."""

    status: int
    version: str
    head: str
    body: bytes


def curl(url: str, directory: Path, *options: str) -> Curled:
    """Raises if curl says that anything went wrong."""
    body, head = directory / "curl-body", directory / "curl-head"
    body.write_bytes(b"")
    words = [find("curl"), "-q", "-sS", "--noproxy", "*", "-o", str(body), "-D", str(head)]
    said = run([*words, "-w", "%{http_code} %{http_version}", *options, url])
    status, version = said.split()
    return Curled(int(status), version, head.read_bytes().decode("latin-1"), body.read_bytes())


def nghttp(*words: str) -> str:
    """What nghttp prints."""
    return run([find("nghttp"), *words])


@dataclass(frozen=True, slots=True)
class Loaded:
    """The counts of h2load."""

    succeeded: int
    failed: int
    errored: int
    by_class: dict[str, int]
    """Responses by ``2xx`` to ``5xx``."""

    @property
    def is_clean(self) -> bool:
        """Every request was answered by a 2xx."""
        return self.failed == self.errored == 0 and self.succeeded == self.by_class["2xx"] > 0


def h2load(url: str, *options: str, within_s: float = RUN_S) -> Loaded:
    said = run([find("h2load"), *options, url], within_s=within_s)
    counts = re.search(r"^requests: .* (\d+) succeeded, (\d+) failed, (\d+) errored", said, re.MULTILINE)
    classes = re.search(r"^status codes: (.*)$", said, re.MULTILINE)
    assert counts is not None, said
    assert classes is not None, said
    by_class = {name: int(count) for count, name in re.findall(r"(\d+) (\dxx)", classes[1])}
    return Loaded(int(counts[1]), int(counts[2]), int(counts[3]), by_class)


def run(words: list[str], *, within_s: float = RUN_S) -> str:
    done = subprocess.run(words, capture_output=True, stdin=subprocess.DEVNULL, timeout=within_s, check=False)
    said = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, f"{' '.join(words)}: exit code {done.returncode}\n{said}{done.stderr.decode()}"
    return said
