"""Guarantee: through the zone egress, and only through it, a sidecar's application reaches the outside, by all four
protocols; and what the egress may not do, it does not.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.upstreams import SERVER, trusting
from tests.kit import client, peers
from tests.kit.peers import Peer
from tests.kit.zone import Zone


@pytest.fixture(params=[False, True], ids=["3.x", "2.x"])
def zone(tmp_path: Path, request: pytest.FixtureRequest) -> Zone:
    return Zone(tmp_path, legacy=request.param)


def test_tcp(zone: Zone) -> None:
    with Peer(peers.echo, tls=peers.server_tls(SERVER)) as peer:
        zone.service("app", [peer.endpoint], tls=trusting())
        with zone.egress() as egress, zone.sidecar("web", "app") as sidecar:
            assert client.ask(sidecar.port("app")) == b"ping"
            assert egress.stat("app", "ssl.handshake") == 1
            assert sidecar.stat("app", "ssl.handshake") == 1
            assert egress.door_stat("ssl.handshake") == 1
            print(egress.log_text)
