"""The event loops under which transports are tested: the one that we run on, and the standard one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import uvloop

from tests.proxy.rig import LoopThread


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def loop(request: pytest.FixtureRequest) -> Iterator[LoopThread]:
    with LoopThread(request.param) as thread:
        yield thread


@pytest.fixture
def one_loop() -> Iterator[LoopThread]:
    """For what does not depend on transports."""
    with LoopThread(uvloop.new_event_loop) as thread:
        yield thread
