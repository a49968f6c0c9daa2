"""Guarantee: the rivals that are Python programs really lead where they were told to, and refuse an origin whose
authority they were not told to trust.
"""

from __future__ import annotations

import http.client
import os
from pathlib import Path

import pytest
import trustme

from bench import mesh, origin
from bench.__main__ import missing_programs
from bench.machine import this_machine
from bench.origin import MESSAGE
from bench.peers import PEERS, Service, Speaks
from bench.process import accepts, free_port, running


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two cores are needed")
@pytest.mark.parametrize("name", [name for name, peer in PEERS.items() if peer.is_slow])
def test_python_rivals(tmp_path: Path, name: str) -> None:
    if missing := missing_programs():
        pytest.skip(f"not installed: {', '.join(missing)}")
    kind = PEERS[name]
    if kind.version() is None:
        pytest.skip(f"not installed: {name} (make bench installs it)")
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)  # nginx's worker is another user
    cores = this_machine()
    stranger = tmp_path / "stranger.pem"
    stranger.write_bytes(trustme.CA().cert_pem.bytes())
    with origin.start(tmp_path, cores.load) as outside:
        for ca_file in (outside.ca_file, stranger):
            services = [
                Service(f"{speaks}{tls}", speaks, tls, "127.0.0.1", free_port(), outside.tls if tls else outside.plain)
                for speaks in (Speaks.TCP, Speaks.HTTP1)
                for tls in (False, True)
            ]
            folder = tmp_path / ca_file.stem
            folder.mkdir()
            peer = kind(folder, services, ca_file, mesh.make(folder), 1, free_port())
            able = list(peer.services.values())
            assert able

            def is_ready(able: list[Service] = able) -> bool:
                return all(accepts(service.port) for service in able)

            with running(peer.configure(), cores.proxy, is_ready, peer.log_file()):
                answers = {service.name: _answers(service.port) for service in able}
            assert answers == {service.name: not service.tls or ca_file == outside.ca_file for service in able}


def _answers(port: int) -> bool:
    """Whether two requests on one connection are answered as the origin does."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        for _ in range(2):
            connection.request("GET", "/small")
            if connection.getresponse().read() != MESSAGE:
                return False
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True
