"""Whom the conformance tests judge: ``nghttpd`` itself, Koguma before an ``nghttpd``, and any server whose port is
in ``HTTP2_TARGET_PORT`` (it must answer GET, HEAD and POST of ``/`` with some bytes).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.conformance.targets import Nghttpd, Target, koguma_before
from tests.kit.h2frames import Frames

ELSEWHERE = "HTTP2_TARGET_PORT"
TARGETS = [
    Target.NGHTTPD,
    pytest.param(Target.KOGUMA, marks=pytest.mark.skip("HTTP/2 is not served yet")),
    *([Target.ELSEWHERE] if ELSEWHERE in os.environ else []),
]


@pytest.fixture(scope="session", params=TARGETS, ids=str)
def target(request: pytest.FixtureRequest) -> Target:
    return Target(request.param)


@pytest.fixture(scope="session")
def port(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where the target listens."""
    if target is Target.ELSEWHERE:
        yield int(os.environ[ELSEWHERE])
        return
    with ExitStack() as running:
        origin = running.enter_context(Nghttpd(tmp_path_factory.mktemp("nghttpd")))
        if target is Target.NGHTTPD:
            yield origin.port
        else:
            koguma = running.enter_context(koguma_before(origin, tmp_path_factory.mktemp("koguma")))
            yield koguma.port("app")


@pytest.fixture
def newcomer(port: int) -> Iterator[Frames]:
    """A TCP connection on which nothing has been sent."""
    with Frames(port) as frames:
        yield frames


@pytest.fixture
def peer(newcomer: Frames) -> Frames:
    """A connection after the exchange of SETTINGS."""
    newcomer.handshake()
    return newcomer
