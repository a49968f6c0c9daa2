"""An HTTP listener before scripted origins, inside the test process."""

from __future__ import annotations

import functools
from typing import Any

from config.plan import Protocol
from proxy.http.h1_downstream import Http1Downstream
from proxy.outcome import Outcome
from proxy.stats import HttpStats
from tests.kit.rawhttp import Wire
from tests.proxy.rig import Rig

HttpRig = functools.partial(Rig, protocol=Protocol.HTTP)

BEFORE_HEADERS = b"upstream connect error or disconnect/reset before headers. reset reason: "


def open_wire(rig: Rig, **more: Any) -> Wire:
    return Wire(rig.port, **more)


def stats_of(rig: Rig) -> HttpStats:
    return rig.listener.http


def connection_of(rig: Rig) -> Http1Downstream:
    """The only client connection."""
    (connection,) = rig.loop.look(lambda: list(rig.listener.connections))
    assert isinstance(connection, Http1Downstream)
    return connection


def wait_for_endings(rig: Rig, count: int = 1) -> list[Outcome | None]:
    """What ended so many client connections."""
    rig.loop.until(lambda: len(rig.ended) >= count, f"{count} connections to end")
    return list(rig.ended)


def wait_until_idle(rig: Rig) -> None:
    """Until no exchange is under way."""
    stats, upstream = rig.listener.http, rig.cluster.stats
    rig.loop.until(lambda: stats.downstream_rq_active == upstream.upstream_rq_active == 0, "the exchanges to end")
