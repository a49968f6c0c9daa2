"""Whom the conformance tests judge: ``nghttpd`` itself, Koguma before an ``nghttpd``, and any server whose port is
in ``HTTP2_TARGET_PORT`` (it must answer GET, HEAD and POST of ``/`` with some bytes).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.conformance.targets import Target, koguma_before, nghttpd
from tests.kit.apps import Nghttpd
from tests.kit.h2frames import Frames
from tests.kit.koguma import Koguma

ELSEWHERE = "HTTP2_TARGET_PORT"
TARGETS = [Target.NGHTTPD, Target.KOGUMA, *([Target.ELSEWHERE] if ELSEWHERE in os.environ else [])]


@pytest.fixture(scope="session")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nghttpd]:
    origin = nghttpd(tmp_path_factory.mktemp("nghttpd"))
    with origin:
        yield origin


@pytest.fixture(scope="session")
def koguma(origin: Nghttpd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Koguma]:
    """Started, with ``origin`` as the service ``app``."""
    with koguma_before(origin, tmp_path_factory.mktemp("koguma")) as koguma:
        yield koguma


@pytest.fixture(scope="session", params=TARGETS, ids=str)
def target(request: pytest.FixtureRequest) -> Target:
    return Target(request.param)


@pytest.fixture(scope="session")
def port(target: Target, request: pytest.FixtureRequest) -> int:
    """Where the target listens."""
    if target is Target.ELSEWHERE:
        return int(os.environ[ELSEWHERE])
    if target is Target.KOGUMA:
        return int(request.getfixturevalue("koguma").port("app"))
    return int(request.getfixturevalue("origin").port)


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
