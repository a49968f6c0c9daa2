"""Guarantee: when an upstream cannot be reached or trusted, the proxy knows why and says so to the operator
(in ``/resources`` and in the log), and to the application only by closing the connection.

Each case is a real peer with one fault, and a service of one process. The verdict names the cause, what was
expected, what was presented, the field that decides, and what to do about it.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.e2e.upstreams import ROOT, SERVER, SERVER_NAME, STRANGER, trusting
from tests.kit import client, peers, poll
from tests.kit.ca import CLIENT, EXPIRED, NOT_YET, Authority, Identity, only_dns, self_signed
from tests.kit.koguma import Koguma
from tests.kit.peers import Peer
from tests.kit.ports import free_port
from tests.kit.yamlkit import Document, inline_string

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
APP = ROOT.leaf("spiffe://example.test/app")
STRANGE_APP = STRANGER.leaf("spiffe://example.test/app")

MakePeer = Callable[[], Peer]


def showing(identity: Identity, **more: Any) -> MakePeer:
    """A peer with this certificate; further settings go to :func:`peers.server_tls`."""
    return lambda: Peer(peers.echo, tls=peers.server_tls(identity, **more))


def speaking(behaviour: peers.Behaviour) -> MakePeer:
    """A peer without TLS."""
    return lambda: Peer(behaviour)


def with_root(authority: Authority, identity: Identity) -> Identity:
    """The identity with its root in the chain that it presents."""
    return Identity(identity.certificate, identity.key, (*identity.intermediates, authority.certificate))


@dataclass(frozen=True)
class Case:
    peer: MakePeer
    cause: str
    tls: Document = field(default_factory=lambda: trusting(server_name=SERVER_NAME))
    expected: str | None = None
    presented: str | None = None
    decided_by: str | None = None


def for_app(identity: Identity) -> Document:
    return trusting(client_cert=inline_string(identity.chain_pem), client_key=inline_string(identity.key_pem))


CASES = {
    "wrong name": Case(
        showing(ROOT.leaf("other.example.test", "spiffe://example.test/other")),
        "san_mismatch",
        expected=SERVER_NAME,
        presented="other.example.test",
    ),
    "wrong name in the list": Case(
        showing(SERVER),
        "san_mismatch",
        tls=trusting(sans=[("Exact", "spiffe://example.test/api")]),
        expected="spiffe://example.test/api",
        presented=SERVER_NAME,
        decided_by="spec.tls.verification.subjectAltNames",
    ),
    "no names at all": Case(showing(ROOT.leaf(common_name=SERVER_NAME)), "no_san", expected=SERVER_NAME),
    "untrusted issuer": Case(
        showing(with_root(STRANGER, STRANGER.leaf(SERVER_NAME))),
        "untrusted_issuer",
        decided_by="spec.tls.verification.caCert",
    ),
    "self-signed": Case(showing(self_signed(SERVER_NAME)), "self_signed"),
    "missing intermediate": Case(
        showing(ROOT.intermediate().leaf(SERVER_NAME), send_chain=False), "missing_intermediate"
    ),
    "expired": Case(showing(ROOT.leaf(SERVER_NAME, window=EXPIRED)), "expired"),
    "not yet valid": Case(showing(ROOT.leaf(SERVER_NAME, window=NOT_YET)), "not_yet_valid"),
    "expired issuer": Case(showing(ROOT.intermediate("Old", window=EXPIRED).leaf(SERVER_NAME)), "issuer_expired"),
    "name constraint": Case(
        showing(ROOT.intermediate("Narrow", constraints=only_dns("other.test")).leaf(SERVER_NAME)),
        "name_constraint",
    ),
    "wrong purpose": Case(showing(ROOT.leaf(SERVER_NAME, usages=[CLIENT])), "wrong_purpose"),
    "issuer is no CA": Case(showing(ROOT.intermediate("No CA", is_ca=False).leaf(SERVER_NAME)), "invalid_chain"),
    "version": Case(showing(SERVER, minimum=TLS13), "protocol_version", tls=trusting(maximum="TLS12")),
    "no client certificate, TLS 1.2": Case(
        showing(SERVER, client_ca_pem=ROOT.pem, maximum=TLS12),
        "client_certificate_required",
        decided_by="spec.tls.verification.clientCert",
    ),
    "no client certificate, TLS 1.3": Case(
        showing(SERVER, client_ca_pem=ROOT.pem, minimum=TLS13),
        "client_certificate_required",
        decided_by="spec.tls.verification.clientCert",
    ),
    "client certificate of a stranger, TLS 1.2": Case(
        showing(SERVER, client_ca_pem=ROOT.pem, maximum=TLS12),
        "client_certificate_rejected",
        tls=for_app(STRANGE_APP),
    ),
    "client certificate of a stranger, TLS 1.3": Case(
        showing(SERVER, client_ca_pem=ROOT.pem, minimum=TLS13),
        "client_certificate_rejected",
        tls=for_app(STRANGE_APP),
    ),
    "not TLS": Case(speaking(peers.plaintext_where_tls_is_expected), "not_tls"),
    "closed in the handshake": Case(speaking(peers.close_after_first_bytes), "closed"),
    "reset in the handshake": Case(speaking(peers.reset_after(1)), "reset"),
}


def conversation_with_fault(koguma: Koguma, name: str) -> dict[str, Any]:
    """Fails to converse, and returns the verdict. Once more where the peer's alert was overtaken by its reset."""

    def converse() -> list[dict[str, Any]]:
        assert not client.fate(koguma.port(name))
        return koguma.verdicts(name)

    (verdict,) = poll.until(converse, "a verdict")
    return verdict


def service_of(case: str) -> str:
    return re.sub(r"\W+", "-", case.lower())


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Koguma]:
    """A service for each case."""
    koguma = Koguma(tmp_path_factory.mktemp("verdicts"))
    with ExitStack() as stack:
        for name, case in CASES.items():
            koguma.service(service_of(name), [stack.enter_context(case.peer()).endpoint], tls=case.tls)
        yield stack.enter_context(koguma)


@pytest.mark.parametrize("name", CASES)
def test_the_verdict_names_the_cause(faulty: Koguma, name: str) -> None:
    case = CASES[name]
    verdict = conversation_with_fault(faulty, service_of(name))
    assert verdict["cause"] == case.cause, verdict
    assert verdict["message"]
    if case.expected is not None:
        assert case.expected in " ".join(verdict["expected"])
    if case.presented is not None:
        assert case.presented in " ".join(verdict["presented"])
    if case.decided_by is not None:
        assert verdict["field"] == case.decided_by
    kri = faulty.resource(service_of(name))["kri"]

    def logged() -> set[str]:
        said = faulty.events("upstream_failed")
        return {entry["verdict"]["cause"] for entry in said if entry["cluster"].startswith(kri)}

    poll.until(lambda: case.cause in logged(), f"{case.cause} in the log")


@pytest.mark.parametrize("name", ["wrong name", "untrusted issuer", "expired"])
def test_the_verdict_keeps_the_chain_and_gives_advice(faulty: Koguma, name: str) -> None:
    verdict = conversation_with_fault(faulty, service_of(name))
    assert verdict["advice"]
    leaf = verdict["chain"][0]
    assert "leaf" in leaf["subject"]
    assert "Root" in leaf["issuer"]


def test_the_nearest_miss_is_shown(koguma: Koguma) -> None:
    with Peer(peers.echo, tls=peers.server_tls(ROOT.leaf("zebra.test", "apl.example.test"))) as peer:
        koguma.service("app", [peer.endpoint], tls=trusting(server_name=SERVER_NAME))
        with koguma:
            assert "apl.example.test" in conversation_with_fault(koguma, "app")["nearest"]


@pytest.mark.parametrize("tls", [None, trusting()], ids=["plain", "tls"])
def test_a_refused_connection(koguma: Koguma, tls: Document | None) -> None:
    port = free_port()
    koguma.service("app", [{"address": "127.0.0.1", "port": port}], tls=tls)
    with koguma:
        verdict = conversation_with_fault(koguma, "app")
        assert verdict["cause"] == "refused"
        assert f"127.0.0.1:{port}" in str(koguma.resource("app")["status"]["endpoints"][0]["address"])


def test_the_reason_stays_with_the_operator(faulty: Koguma) -> None:
    assert client.fate(faulty.port(service_of("wrong name"))) in (b"", None)


def test_a_sound_client_certificate_leaves_no_verdict(koguma: Koguma) -> None:
    with Peer(peers.echo, tls=peers.server_tls(SERVER, client_ca_pem=ROOT.pem)) as peer:
        koguma.service("app", [peer.endpoint], tls=for_app(APP))
        with koguma:
            assert client.ask(koguma.port("app")) == b"ping"
            assert koguma.verdicts("app") == []
