"""The upstream that most tests want: one service named ``app``, behind it one peer, plain or TLS, all of it
sound.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.kit import peers, yamlkit
from tests.kit.ca import Authority
from tests.kit.koguma import Koguma
from tests.kit.peers import Behaviour, Peer
from tests.kit.yamlkit import Document

ROOT = Authority.root("End-to-end Root")
STRANGER = Authority.root("Stranger Root")
SERVER_NAME = "api.example.test"
SERVER = ROOT.leaf(SERVER_NAME, "127.0.0.1", "::1")


def trusting(**more: object) -> Document:
    """``spec.tls`` that trusts :data:`ROOT`; the endpoint's own address must be in the certificate."""
    return yamlkit.tls(ca=yamlkit.inline_string(ROOT.pem), **more)  # type: ignore[arg-type]


@contextmanager
def serving(koguma: Koguma, behaviour: Behaviour, *, tls: bool = False) -> Iterator[Peer]:
    """The proxy runs, its service ``app`` leads to a peer with this behaviour."""
    context = peers.server_tls(SERVER) if tls else None
    with Peer(behaviour, tls=context) as peer:
        koguma.service("app", [peer.endpoint], tls=trusting() if tls else None)
        with koguma:
            yield peer
