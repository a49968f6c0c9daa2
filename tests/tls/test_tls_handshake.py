"""Nothing unverified may forward a byte: every combination of certificate, mode and names, against a real server."""

from __future__ import annotations

import ssl

import pytest
from cryptography import x509

from tests.kit.ca import CLIENT, EXPIRED, NOT_YET, SERVER, Authority, Identity, only_dns, self_signed
from tests.tls.duet import (
    HOST,
    V10,
    V11,
    V12,
    V13,
    Server,
    client_certificate,
    now,
    originate,
    read_all,
    server_context,
    shake,
)
from tls import handshake
from tls.handshake import MAX_SERVER_JUDGES, ClientHandshake, Refused, sni_of
from tls.policy import MatchType, Mode, Origination, SanMatcher
from tls.sessions import SessionCache
from tls.verdict import Cause

ROOT = Authority.root("Koguma Root")
OTHER = Authority.root("Another Root")
ISSUING = ROOT.intermediate("Koguma Issuing CA")
SPIFFE = "spiffe://example.test/ns/production/svc"


def exact(value: str) -> SanMatcher:
    return SanMatcher(MatchType.EXACT, value)


def prefix(value: str) -> SanMatcher:
    return SanMatcher(MatchType.PREFIX, value)


GOOD = ROOT.leaf(HOST)

# name: (certificate, the cause under a check of chain / of names; None: passes)
SERVERS: dict[str, tuple[Identity, Cause | None, Cause | None]] = {
    "right": (GOOD, None, None),
    "under an intermediate": (ISSUING.leaf(HOST), None, None),
    "wildcard": (ROOT.leaf("*.example.test"), None, None),
    "other name": (ROOT.leaf("other.example.test"), None, Cause.SAN_MISMATCH),
    "common name only": (ROOT.leaf(common_name=HOST), None, Cause.NO_SAN),
    "other root": (OTHER.leaf(HOST), Cause.UNTRUSTED_ISSUER, None),
    "other root, other name": (
        OTHER.leaf("other.example.test"),
        Cause.UNTRUSTED_ISSUER,
        Cause.SAN_MISMATCH,
    ),
    "self-signed": (self_signed(HOST), Cause.SELF_SIGNED, None),
    "expired": (ROOT.leaf(HOST, window=EXPIRED), Cause.EXPIRED, None),
    "not yet valid": (ROOT.leaf(HOST, window=NOT_YET), Cause.NOT_YET_VALID, None),
    "expired intermediate": (
        ROOT.intermediate("Old Issuing CA", window=EXPIRED).leaf(HOST),
        Cause.ISSUER_EXPIRED,
        None,
    ),
    "client usage only": (ROOT.leaf(HOST, usages=(CLIENT,)), Cause.WRONG_PURPOSE, None),
    "server usage only": (ROOT.leaf(HOST, usages=(SERVER,)), None, None),
    "no usage": (ROOT.leaf(HOST, usages=None), None, None),
    "name constraint": (
        ROOT.intermediate("Constrained CA", constraints=only_dns("elsewhere.test")).leaf(HOST),
        Cause.NAME_CONSTRAINT,
        None,
    ),
    "issuer is no CA": (ROOT.intermediate("no CA", is_ca=False).leaf(HOST), Cause.INVALID_CHAIN, None),
    "path too long": (
        ROOT.intermediate("A", path_length=0).intermediate("B").leaf(HOST),
        Cause.INVALID_CHAIN,
        None,
    ),
    "small key": (ROOT.leaf(HOST, key_type="rsa1024"), Cause.WEAK_KEY_OR_SIGNATURE, None),
    "malformed name": (ROOT.leaf(x509.DNSName("svc.example.test\0.evil.test")), None, Cause.MALFORMED),
    "IP only": (ROOT.leaf("127.0.0.1"), None, Cause.SAN_MISMATCH),
    "URI only": (ROOT.leaf(SPIFFE), None, Cause.SAN_MISMATCH),
}


@pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])
@pytest.mark.parametrize("explain", [True, False], ids=["explain", "quiet"])
@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("kind", SERVERS)
def test_certificate_by_mode(kind: str, mode: Mode, explain: bool, version: ssl.TLSVersion) -> None:
    identity, chain_cause, name_cause = SERVERS[kind]
    duet = shake(
        originate(ROOT.pem, mode=mode),
        server_context(identity, versions=(version, version)),
        explain=explain,
    )
    expected = (chain_cause if mode.checks_chain else None) or (name_cause if mode.checks_names else None)
    if expected is None and kind == "small key":
        expected = Cause.WEAK_KEY_OR_SIGNATURE  # OpenSSL's security level is no matter of trust
    if expected is None:
        established = duet.accepted
        assert established.peer.sha256 == identity.sha256
        assert (established.matched is not None) == mode.checks_names
        return
    if not explain and expected is Cause.ISSUER_EXPIRED:
        expected = Cause.EXPIRED  # without the chain, the leaf is the one to name
    if expected is Cause.WEAK_KEY_OR_SIGNATURE and not mode.checks_chain:
        assert duet.verdict is None or duet.verdict.cause is expected
        return
    verdict = duet.refused
    assert verdict.cause is expected, verdict.as_text()
    assert verdict.advice
    if explain:
        assert verdict.chain[0].sha256 == identity.sha256
        assert len(verdict.chain) == 1 + len(identity.intermediates)


NAMES: list[tuple[list[str | x509.GeneralName], str | None, bool, str | None, tuple[SanMatcher, ...], bool]] = [
    # SANs of the leaf, host, is_dns, serverName, subjectAltNames, accepted
    ([HOST], HOST, True, None, (), True),
    ([HOST], "elsewhere.test", True, None, (), False),
    ([HOST], "elsewhere.test", True, HOST, (), True),
    ([HOST], HOST, True, "elsewhere.test", (), False),
    (["127.0.0.1"], "127.0.0.1", False, None, (), True),
    ([x509.DNSName("127.0.0.1")], "127.0.0.1", False, None, (), False),
    (["127.0.0.1"], "127.0.0.1", False, HOST, (), False),
    (["::1"], "0:0:0:0:0:0:0:1", False, None, (), True),
    ([HOST], None, False, HOST, (), True),
    ([SPIFFE], HOST, True, HOST, (exact(SPIFFE),), True),
    ([SPIFFE], HOST, True, HOST, (prefix("spiffe://example.test/ns/production/"),), True),
    ([SPIFFE], HOST, True, HOST, (prefix("spiffe://example.test/ns/staging/"),), False),
    # a list replaces serverName and the endpoint's own name: it narrows
    ([HOST], HOST, True, HOST, (exact("only.example.test"),), False),
    (["only.example.test"], HOST, True, HOST, (exact("nope.test"), exact("only.example.test")), True),
    ([HOST], None, False, None, (exact(HOST),), True),
]


@pytest.mark.parametrize("mode", [Mode.SECURED, Mode.SKIP_CA])
@pytest.mark.parametrize("row", range(len(NAMES)))
def test_expected_names(row: int, mode: Mode) -> None:
    sans, host, is_dns, server_name, matchers, accepted = NAMES[row]
    duet = shake(
        originate(ROOT.pem, mode=mode, server_name=server_name, sans=matchers),
        server_context(ROOT.leaf(*sans)),
        host=host,
        is_dns=is_dns,
    )
    if accepted:
        assert duet.accepted.matched is not None
    else:
        assert duet.refused.cause is Cause.SAN_MISMATCH


def test_unix_socket_without_any_name_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="no name to expect"):
        shake(originate(ROOT.pem), server_context(GOOD), host=None, is_dns=False)


@pytest.mark.parametrize(
    ("server_name", "host", "is_dns", "sni"),
    [
        (None, HOST, True, HOST),
        (None, f"{HOST}.", True, HOST),
        ("name.example.test", HOST, True, "name.example.test"),
        ("name.example.test", "127.0.0.1", False, "name.example.test"),
        (None, "127.0.0.1", False, None),
        ("127.0.0.1", HOST, True, None),
        ("name.example.test", None, False, "name.example.test"),
    ],
)
def test_server_name_on_the_wire(server_name: str, host: str, is_dns: bool, sni: str | None) -> None:
    origination = originate(None, mode=Mode.SKIP_ALL, server_name=server_name)
    duet = shake(origination, server_context(GOOD), host=host, is_dns=is_dns)
    assert duet.server.sni == sni
    assert duet.accepted.sni == sni


@pytest.mark.parametrize("name", ["x" * 64 + ".test", "a..test", "nul\0.test", "."])
def test_server_name_that_cannot_be_sent(name: str) -> None:
    verdict = shake(originate(None, mode=Mode.SKIP_ALL, server_name=name), server_context(GOOD)).refused
    assert verdict.cause is Cause.MALFORMED
    assert verdict.field == "spec.tls.verification.serverName"


def test_sni_of_nothing() -> None:
    assert sni_of(originate(ROOT.pem), None) is None


@pytest.mark.parametrize("explain", [True, False])
@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])
def test_client_certificate_is_sent_in_every_mode(version: ssl.TLSVersion, mode: Mode, explain: bool) -> None:
    clients = Authority.root("Client Root")
    duet = shake(
        originate(ROOT.pem, mode=mode, client=clients.intermediate().leaf("caller.test")),
        server_context(GOOD, versions=(version, version), client_ca=clients.pem),
        explain=explain,
    )
    established = duet.accepted
    assert duet.server.error is None
    established.sslobj.write(b"hello")
    duet.server.feed(established.outgoing.read())
    assert duet.server.received == b"hello"


@pytest.mark.parametrize("explain", [True, False])
def test_missing_client_certificate_tls12(explain: bool) -> None:
    context = server_context(GOOD, versions=(V12, V12), client_ca=ROOT.pem)
    verdict = shake(originate(ROOT.pem), context, explain=explain).refused
    assert verdict.cause is Cause.CLIENT_CERTIFICATE_REQUIRED
    assert verdict.field == "spec.tls.verification.clientCert"


@pytest.mark.parametrize("explain", [True, False])
def test_unknown_client_certificate_tls12(explain: bool) -> None:
    context = server_context(GOOD, versions=(V12, V12), client_ca=ROOT.pem)
    verdict = shake(originate(ROOT.pem, client=OTHER.leaf("caller.test")), context, explain=explain).refused
    assert verdict.cause is Cause.CLIENT_CERTIFICATE_REJECTED
    assert verdict.alert == "unknown_ca"


def test_expired_client_certificate_tls12() -> None:
    context = server_context(GOOD, versions=(V12, V12), client_ca=ROOT.pem)
    verdict = shake(originate(ROOT.pem, client=ROOT.leaf("caller.test", window=EXPIRED)), context).refused
    assert (verdict.cause, verdict.alert) == (Cause.CLIENT_CERTIFICATE_REJECTED, "certificate_expired")


OFFERS = [(V10, V10), (V11, V11), (V12, V12), (V13, V13), (V10, V13), (V12, V13), (V10, V12)]


@pytest.mark.parametrize("offer", OFFERS, ids=lambda pair: f"{pair[0].name}-{pair[1].name}")
@pytest.mark.parametrize("peer", [V10, V11, V12, V13], ids=lambda version: version.name)
@pytest.mark.parametrize("key_type", ["ec", "rsa"])
def test_versions(peer: ssl.TLSVersion, offer: tuple[ssl.TLSVersion, ssl.TLSVersion], key_type: str) -> None:
    identity = GOOD if key_type == "ec" else ROOT.leaf(HOST, key_type="rsa")
    duet = shake(originate(ROOT.pem, versions=offer), server_context(identity, versions=(peer, peer)))
    if offer[0] <= peer <= offer[1]:
        assert duet.accepted.version == peer.name.replace("_", ".")
        return
    # A peer below 1.2 that is offered no suite of its own complains of the suites first.
    complains_of_suites = peer < V12 <= offer[0] and duet.refused.alert == "handshake_failure"
    expected = Cause.NO_SHARED_CIPHER if complains_of_suites else Cause.PROTOCOL_VERSION
    assert duet.refused.cause is expected, duet.refused.as_text()
    assert duet.refused.field == "spec.tls.version"


def test_no_shared_cipher() -> None:
    context = server_context(GOOD, versions=(V12, V12), ciphers="AES128-SHA:@SECLEVEL=0")
    assert shake(originate(ROOT.pem), context).refused.cause is Cause.NO_SHARED_CIPHER


def test_alpn_is_offered_and_reported() -> None:
    context = server_context(GOOD)
    context.set_alpn_protocols(["h2", "http/1.1"])
    assert shake(originate(ROOT.pem, alpn=("h2",)), context).accepted.alpn == "h2"
    assert shake(originate(ROOT.pem), context).accepted.alpn is None


@pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])
def test_byte_by_byte(version: ssl.TLSVersion) -> None:
    context = server_context(GOOD, versions=(version, version))
    assert shake(originate(ROOT.pem), context, chunk_bytes=1).accepted.peer.sha256 == GOOD.sha256


def _fresh() -> ClientHandshake:
    return ClientHandshake(
        originate(ROOT.pem),
        host=HOST,
        is_dns=True,
        explain=True,
        sessions=SessionCache(),
        session_key="key",
        now=now(),
    )


@pytest.mark.parametrize(
    ("first_bytes", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "in HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "in SSH"),
        (b"220 mail.example.test ESMTP\r\n", "SMTP or FTP"),
        (b"-", "does not speak TLS"),
        (b"\x16\x00nonsense", "does not speak TLS"),
        (b"\x00\x00\x00\x08", "does not speak TLS"),
    ],
)
def test_plaintext_peer(first_bytes: bytes, words: str) -> None:
    handshake = _fresh()
    handshake.start()
    with pytest.raises(Refused) as refused:
        handshake.feed(first_bytes)
    assert refused.value.verdict.cause is Cause.NOT_TLS
    assert words in refused.value.verdict.message
    assert not handshake.done


def test_plaintext_after_a_byte_that_could_be_tls() -> None:
    handshake = _fresh()
    handshake.start()
    assert handshake.feed(b"\x16") == b""
    with pytest.raises(Refused) as refused:
        handshake.feed(b"plain text, and a good deal of it")
    assert refused.value.verdict.cause in (Cause.NOT_TLS, Cause.MALFORMED)


def test_garbage_in_a_record() -> None:
    handshake = _fresh()
    handshake.start()
    with pytest.raises(Refused) as refused:
        handshake.feed(b"\x16\x03\x03\x00\x08\x02\x00\x00\x04oops")
    assert refused.value.verdict.cause is Cause.MALFORMED
    assert handshake.farewell[:1] == b"\x15"


def test_peer_closes() -> None:
    handshake = _fresh()
    handshake.start()
    with pytest.raises(Refused) as refused:
        handshake.eof()
    assert refused.value.verdict.cause is Cause.CLOSED


def test_refusal_of_a_chain_reaches_the_peer_as_an_alert() -> None:
    duet = shake(originate(OTHER.pem), server_context(GOOD, versions=(V13, V13)))
    assert duet.refused.cause is Cause.UNTRUSTED_ISSUER
    assert duet.server.error is not None
    assert duet.server.error.reason == "TLSV1_ALERT_UNKNOWN_CA"


def test_refusal_of_a_name_reaches_the_peer_as_an_alert_and_never_our_certificate() -> None:
    context = server_context(GOOD, versions=(V13, V13), client_ca=OTHER.pem)
    duet = shake(originate(ROOT.pem, server_name="nope.test", client=OTHER.leaf("caller.test")), context)
    assert duet.refused.cause is Cause.SAN_MISMATCH
    assert not duet.server.done
    assert duet.server.error is not None
    assert duet.server.error.reason == "SSLV3_ALERT_CERTIFICATE_UNKNOWN"


def test_refusal_of_a_name_closes_tls12_properly() -> None:
    duet = shake(originate(ROOT.pem, server_name="nope.test"), server_context(GOOD, versions=(V12, V12)))
    assert duet.refused.cause is Cause.SAN_MISMATCH
    assert duet.farewell[:1] == b"\x15"
    assert duet.server.received == b""


def test_mismatch_is_explained() -> None:
    verdict = shake(originate(ROOT.pem), server_context(ROOT.leaf("scv.example.test", SPIFFE))).refused
    assert verdict.expected == (HOST,)
    assert verdict.presented == ("scv.example.test", SPIFFE)
    assert verdict.nearest == "scv.example.test"
    assert verdict.advice is not None
    assert "spec.tls.verification.serverName: scv.example.test" in verdict.advice


def test_data_that_comes_with_the_handshake_waits() -> None:
    server = Server(server_context(GOOD, versions=(V12, V12)))
    handshake = _fresh()
    to_client = server.feed(handshake.start())
    to_client = server.feed(handshake.feed(to_client)) + server.send(b"banner")
    handshake.feed(to_client)
    assert handshake.done
    assert handshake.established is not None
    assert read_all(handshake.established) == b"banner"


def test_anchor_kinds() -> None:
    """An intermediate alone anchors, and so does the leaf itself (design.md, decision 8)."""
    identity = ISSUING.leaf(HOST)
    for pem in (ISSUING.pem, identity.pem, OTHER.pem + ROOT.pem):
        shake(originate(pem), server_context(identity)).accepted  # noqa: B018
    signed = self_signed(HOST)
    shake(originate(signed.pem), server_context(signed)).accepted  # noqa: B018


def test_expired_anchor() -> None:
    old = Authority.root("Old Root", window=EXPIRED)
    verdict = shake(originate(old.pem), server_context(old.leaf(HOST))).refused
    assert verdict.cause is Cause.ISSUER_EXPIRED
    assert verdict.advice == "renew the certificate in spec.tls.verification.caCert"


def test_missing_intermediate() -> None:
    identity = ISSUING.leaf(HOST)
    context = server_context(identity, chain_pem=identity.pem)
    verdict = shake(originate(ROOT.pem), context).refused
    assert verdict.cause is Cause.MISSING_INTERMEDIATE
    assert "Koguma Issuing CA" in verdict.message


def test_same_name_other_key() -> None:
    verdict = shake(originate(Authority.root("Koguma Root").pem), server_context(GOOD)).refused
    assert verdict.cause is Cause.UNTRUSTED_ISSUER
    assert "another key" in verdict.message


def test_root_sent_along_but_unknown() -> None:
    identity = OTHER.leaf(HOST)
    context = server_context(identity, chain_pem=identity.pem + OTHER.pem)
    verdict = shake(originate(ROOT.pem), context).refused
    assert verdict.cause is Cause.UNTRUSTED_ISSUER
    assert len(verdict.chain) == 2


def test_a_peer_without_a_certificate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cipher on offer allows it; should OpenSSL ever come to it, the handshake still fails closed."""
    monkeypatch.setattr(ssl.SSLObject, "getpeercert", lambda self, binary_form=False: None)
    verdict = shake(originate(None, mode=Mode.SKIP_ALL), server_context(GOOD)).refused
    assert verdict.cause is Cause.NO_CERTIFICATE


def test_no_more_judges_of_servers_are_kept_than_the_limit() -> None:
    assert handshake._judge.cache_parameters()["maxsize"] == MAX_SERVER_JUDGES


def test_secrets_stay_out_of_reprs() -> None:
    identity = ROOT.leaf("caller.test")
    origination = originate(ROOT.pem, client=identity)
    established = shake(origination, server_context(GOOD)).accepted
    for text in (repr(origination), repr(established), repr(client_certificate(identity))):
        assert "PRIVATE KEY" not in text


def test_origination_without_anchors_is_impossible() -> None:
    with pytest.raises(ValueError, match="no trust anchors"):
        Origination(mode=Mode.SECURED)


@pytest.mark.parametrize("explain", [True, False])
def test_material_that_openssl_refuses_is_a_verdict(explain: bool) -> None:
    weak = originate(ROOT.pem, client=ROOT.leaf("caller.test", key_type="rsa1024"))
    verdict = shake(weak, server_context(GOOD), explain=explain).refused
    assert (verdict.cause, verdict.field) == (Cause.WEAK_KEY_OR_SIGNATURE, "spec.tls.verification.clientCert")
    verdict = shake(originate("no PEM"), server_context(GOOD), explain=explain).refused
    assert (verdict.cause, verdict.field) == (Cause.MALFORMED, "spec.tls.verification.caCert")
