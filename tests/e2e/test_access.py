"""Guarantee: a Mesh that forbids access to its external services by default is obeyed: the application's
connection is closed without a byte, the upstream never hears of it, and the switch works while the proxy
runs.
"""

from __future__ import annotations

import pytest

from tests.kit import client, peers, yamlkit
from tests.kit.koguma import Koguma
from tests.kit.peers import Peer
from tests.kit.yamlkit import Document, Form


def mesh(forbid: bool, *, name: str = "default", form: Form = Form.UNIVERSAL) -> Document:
    return yamlkit.mesh(name, routing={"defaultForbidMeshExternalServiceAccess": forbid}, form=form)


@pytest.mark.parametrize("form", list(Form))
def test_forbidden(koguma: Koguma, form: Form) -> None:
    with Peer(peers.echo) as peer:
        koguma.service("app", [peer.endpoint])
        koguma.write("mesh.yaml", mesh(True, form=form))
        with koguma:
            assert client.gets_nowhere(koguma.port("app"))
            assert len(peer.seen) == 0
            assert koguma.admin("/ready").status == 200


@pytest.mark.parametrize("document", [mesh(False), yamlkit.mesh(), mesh(True, name="other")])
def test_not_forbidden(koguma: Koguma, document: Document) -> None:
    with Peer(peers.echo) as peer:
        koguma.service("app", [peer.endpoint])
        koguma.write("mesh.yaml", document)
        with koguma:
            assert client.ask(koguma.port("app")) == b"ping"


def test_the_switch_works_both_ways_at_run_time(koguma: Koguma) -> None:
    with Peer(peers.echo) as peer:
        koguma.service("app", [peer.endpoint])
        koguma.write("mesh.yaml", mesh(False))
        with koguma:
            assert client.ask(koguma.port("app")) == b"ping"
            koguma.rewrite("mesh.yaml", mesh(True))
            assert client.gets_nowhere(koguma.port("app"))
            assert len(peer.seen) == 1
            koguma.rewrite("mesh.yaml", mesh(False))
            assert client.ask(koguma.port("app")) == b"ping"
