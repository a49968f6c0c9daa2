"""Nobody but a trust domain's own CAs speaks for it: every kind of client certificate against real handshakes.

Guarantee: an :class:`Accepted` exists only for a peer whose leaf is an X.509-SVID and whose trust domain's own bundle
vouches for it, in full and in resumed handshakes, whatever the other bundles hold.
"""

from __future__ import annotations

import hashlib
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.kit.ca import CLIENT, EXPIRED, NOT_YET, SERVER, Authority, Identity, Window, self_signed
from tests.tls.duet import V12, V13, now
from tests.tls.inbound import INBOUND, MESH_CA, accepting, bundle, client_context, visit
from tls import inbound_verdict
from tls import server_context as contexts
from tls.bundles import TrustBundle, TrustBundles
from tls.cause import Cause
from tls.inbound_verdict import MAX_QUOTED_CHARS
from tls.names import load_certificate
from tls.server_context import MAX_JUDGES, MAX_SERVER_CONTEXTS
from tls.server_handshake import ALERT_CERTIFICATE_UNKNOWN, ServerHandshake
from tls.svid import MAX_PATH_DEPTH, MAX_REMEMBERED, SvidJudge, read_svid, recheck, verify_against
from tls.verdict import Refused

A, B = Authority.root("CA of A"), Authority.root("CA of B")
ISSUING_A, ISSUING_B = A.intermediate("Issuing A"), B.intermediate("Issuing B")
OLD_C, NEW_C = Authority.root("CA of C"), Authority.root("CA of C")
ROOT_D = Authority.root("Root D")
ISSUING_D = ROOT_D.intermediate("Issuing D")
EXPIRED_E = Authority.root("CA of E", window=EXPIRED)
SHARED = Authority.root("Corporate Root")
SHARED_1, SHARED_2 = SHARED.intermediate("Zone 1"), SHARED.intermediate("Zone 2")
ED25519 = Authority.root("CA of Ed", key_type="ed25519")
RSA = Authority.root("CA of RSA", key_type="rsa")

BUNDLES = (
    bundle("domain-a", A),
    bundle("domain-b", B),
    bundle("domain-c", OLD_C, NEW_C),
    bundle("domain-d", ISSUING_D),
    bundle("domain-e", EXPIRED_E),
    bundle("corporate", SHARED),
    bundle("zone-1", SHARED_1),
    bundle("ed", ED25519),
    bundle("rsa", RSA),
    bundle("domain-a.sub", B),
)
ANYBODY = accepting(*BUNDLES)

SVID = "spiffe://domain-a/workload/x"


def usage(**bits: bool) -> x509.KeyUsage:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
    return x509.KeyUsage(**{name: bits.get(name, False) for name in names})


def uri(text: str) -> x509.UniformResourceIdentifier:
    """One that need not be well-formed."""
    return x509.UniformResourceIdentifier._init_without_validation(text)


def without_chain(identity: Identity) -> Identity:
    return Identity(identity.certificate, identity.key, ())


def with_chain(identity: Identity, *chain: Authority) -> Identity:
    return Identity(identity.certificate, identity.key, tuple(one.certificate for one in chain))


SIGNS = usage(digital_signature=True)
SIGNS_CERTIFICATES = usage(digital_signature=True, key_cert_sign=True)
SIGNS_CRLS = usage(digital_signature=True, crl_sign=True)
LEAF = A.leaf(SVID)
MALICIOUS = B.intermediate("CA of A")  # B's CA under the name of A's

# What the peer presents, and why it is refused (None: it passes).
MATRIX: dict[str, tuple[Identity, Cause | None]] = {
    # The right domain
    "A by A": (A.leaf(SVID), None),
    "B by B": (B.leaf("spiffe://domain-b/x"), None),
    "C by the old CA": (OLD_C.leaf("spiffe://domain-c/x"), None),
    "C by the new CA": (NEW_C.leaf("spiffe://domain-c/x"), None),
    "no subject": (A.leaf(SVID, common_name=" "), None),
    "DNS SAN beside the URI": (A.leaf(SVID, "svc.example.test", "127.0.0.1"), None),
    "Ed25519": (ED25519.leaf("spiffe://ed/x", key_type="ed25519"), None),
    "RSA": (RSA.leaf("spiffe://rsa/x", key_type="rsa"), None),
    "P-384": (A.leaf(SVID, key_type="ec384"), None),
    # Another domain's CA
    "A by B": (B.leaf(SVID), Cause.WRONG_TRUST_DOMAIN),
    "B by A": (A.leaf("spiffe://domain-b/x"), Cause.WRONG_TRUST_DOMAIN),
    "A by B's intermediate": (ISSUING_B.leaf(SVID), Cause.WRONG_TRUST_DOMAIN),
    "A by B's CA of A's name": (MALICIOUS.leaf(SVID), Cause.WRONG_TRUST_DOMAIN),
    "A by B, A's root sent along": (with_chain(B.leaf(SVID), A), Cause.WRONG_TRUST_DOMAIN),
    "A by B, both roots sent along": (with_chain(B.leaf(SVID), B, A), Cause.WRONG_TRUST_DOMAIN),
    "A by that CA, A's root sent along": (with_chain(MALICIOUS.leaf(SVID), A, MALICIOUS), Cause.WRONG_TRUST_DOMAIN),
    "unknown CA": (Authority.root("Elsewhere").leaf(SVID), Cause.UNTRUSTED_ISSUER),
    "unknown domain": (A.leaf("spiffe://domain-x/x"), Cause.UNKNOWN_TRUST_DOMAIN),
    "unknown domain, unknown CA": (Authority.root("Elsewhere").leaf("spiffe://domain-x/x"), Cause.UNKNOWN_TRUST_DOMAIN),
    "self-signed": (self_signed(SVID), Cause.SELF_SIGNED),
    "expired CA": (EXPIRED_E.leaf("spiffe://domain-e/x"), Cause.ISSUER_EXPIRED),
    # A domain that is a prefix of another, both ways
    "prefix domain by the longer one's CA": (B.leaf("spiffe://domain-a/sub"), Cause.WRONG_TRUST_DOMAIN),
    "longer domain by the prefix's CA": (A.leaf("spiffe://domain-a.sub/x"), Cause.WRONG_TRUST_DOMAIN),
    "longer domain by its own CA": (B.leaf("spiffe://domain-a.sub/x"), None),
    "longer domain, unknown": (A.leaf("spiffe://domain-a.evil/x"), Cause.UNKNOWN_TRUST_DOMAIN),
    # Intermediates
    "intermediate": (ISSUING_A.leaf(SVID), None),
    "intermediate not sent": (without_chain(ISSUING_A.leaf(SVID)), Cause.UNTRUSTED_ISSUER),
    "intermediate and root": (with_chain(ISSUING_A.leaf(SVID), ISSUING_A, A), None),
    "intermediate and an unrelated CA": (with_chain(ISSUING_A.leaf(SVID), ISSUING_B, ISSUING_A), None),
    "intermediate expired": (A.intermediate("Old", window=EXPIRED).leaf(SVID), Cause.ISSUER_EXPIRED),
    "intermediate is no CA": (A.intermediate("Not", is_ca=False).leaf(SVID), Cause.INVALID_CHAIN),
    "issued by a leaf": (Authority(LEAF.certificate, LEAF.key, (LEAF.certificate,)).leaf(SVID), Cause.INVALID_CHAIN),
    "path too long": (A.intermediate("P", path_length=0).intermediate("Q").leaf(SVID), Cause.INVALID_CHAIN),
    "bundle of an intermediate alone": (ISSUING_D.leaf("spiffe://domain-d/x"), None),
    "the same, intermediate not sent": (without_chain(ISSUING_D.leaf("spiffe://domain-d/x")), None),
    "the root above that intermediate": (ROOT_D.leaf("spiffe://domain-d/x"), Cause.UNTRUSTED_ISSUER),
    # Bundles that overlap: zone-1 trusts an intermediate below the root that corporate trusts
    "corporate by the root": (SHARED.leaf("spiffe://corporate/x"), None),
    "corporate by zone 1's intermediate": (SHARED_1.leaf("spiffe://corporate/x"), None),
    "corporate by another intermediate": (SHARED_2.leaf("spiffe://corporate/x"), None),
    "zone 1 by its intermediate": (SHARED_1.leaf("spiffe://zone-1/x"), None),
    "zone 1 by the root": (SHARED.leaf("spiffe://zone-1/x"), Cause.WRONG_TRUST_DOMAIN),
    "zone 1 by another intermediate": (SHARED_2.leaf("spiffe://zone-1/x"), Cause.WRONG_TRUST_DOMAIN),
    # Cross-signed roots
    "A's root cross-signed by B": (B.cross_sign(A).leaf(SVID), None),
    "B's ID under A's root, cross-signed by B": (B.cross_sign(A).leaf("spiffe://domain-b/x"), None),
    "B's root cross-signed by a stranger": (Authority.root("X").cross_sign(B).leaf("spiffe://domain-b/x"), None),
    # Not exactly one URI
    "two URIs of A": (A.leaf(SVID, "spiffe://domain-a/y"), Cause.NOT_AN_SVID),
    "the same URI twice": (A.leaf(SVID, SVID), Cause.NOT_AN_SVID),
    "A and B by A": (A.leaf(SVID, "spiffe://domain-b/x"), Cause.NOT_AN_SVID),
    "B and A by A": (A.leaf("spiffe://domain-b/x", SVID), Cause.NOT_AN_SVID),
    "https and A": (A.leaf("https://domain-a/x", SVID), Cause.NOT_AN_SVID),
    "DNS only": (A.leaf("domain-a"), Cause.NOT_AN_SVID),
    "e-mail only": (A.leaf(x509.RFC822Name("x@domain-a")), Cause.NOT_AN_SVID),
    "no SAN, the ID as common name": (A.leaf(common_name=SVID), Cause.NOT_AN_SVID),
    # Odd IDs
    **{
        f"ID {text!r}": (A.leaf(uri(text)), Cause.INVALID_SPIFFE_ID)
        for text in (
            "https://domain-a/x", "SPIFFE://domain-a/x", "spiffe:/domain-a/x", "spiffe://DOMAIN-A/x", "spiffe://Domain-a/x",
            "spiffe://domain-a:8443/x", "spiffe://user@domain-a/x", "spiffe://domain%2Da/x", "spiffe:///x", "spiffe://",
            "spiffe://domain-a", "spiffe://domain-a/", "spiffe://domain-a/x/", "spiffe://domain-a//x", "spiffe://domain-a/../x",
            "spiffe://domain-a/./x", "spiffe://domain-a/x?y", "spiffe://domain-a/x#y", "spiffe://domain-a?x/y", "",
            "spiffe://domain-a/%41", "spiffe://domain-a/a b", "spiffe://domain-a/x\0", "spiffe://domain-a\0.evil/x",
            f"spiffe://domain-a/{'x' * 3000}",
        )
    },
    "ID with a dot behind the domain": (A.leaf("spiffe://domain-a./x"), Cause.UNKNOWN_TRUST_DOMAIN),
    "ID of the longest length": (A.leaf("spiffe://domain-a/" + "x" * (2048 - 18)), None),
    # Not a leaf
    "CA as leaf": (A.leaf(SVID, is_ca=True), Cause.NOT_AN_SVID),
    "may sign certificates": (A.leaf(SVID, key_usage=SIGNS_CERTIFICATES), Cause.NOT_AN_SVID),
    "may sign revocation lists": (A.leaf(SVID, key_usage=SIGNS_CRLS), Cause.NOT_AN_SVID),
    "the root itself": (Identity(A.certificate, A.key, ()), Cause.NOT_AN_SVID),
    # Usage
    "key usage for signatures": (A.leaf(SVID, key_usage=SIGNS), None),
    "no key usage": (A.leaf(SVID, key_usage=None), None),
    "key usage without signatures": (A.leaf(SVID, key_usage=usage(key_agreement=True)), Cause.NOT_AN_SVID),
    "no extended key usage": (A.leaf(SVID, usages=None), None),
    "for clients": (A.leaf(SVID, usages=(CLIENT,)), None),
    "for clients and servers": (A.leaf(SVID, usages=(SERVER, CLIENT)), None),
    "for servers only": (A.leaf(SVID, usages=(SERVER,)), Cause.WRONG_PURPOSE),
    "for code signing": (A.leaf(SVID, usages=(ExtendedKeyUsageOID.CODE_SIGNING,)), Cause.WRONG_PURPOSE),
    # Time and strength
    "expired": (A.leaf(SVID, window=EXPIRED), Cause.EXPIRED),
    "not yet valid": (A.leaf(SVID, window=NOT_YET), Cause.NOT_YET_VALID),
    "RSA of 1024 bits": (A.leaf(SVID, key_type="rsa1024"), Cause.WEAK_KEY_OR_SIGNATURE),
}  # fmt: skip


@pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])
@pytest.mark.parametrize("kind", MATRIX)
def test_client_certificate(kind: str, version: ssl.TLSVersion) -> None:
    identity, cause = MATRIX[kind]
    outcome = visit(ANYBODY, client_context(identity, version=version), early_data=b"before anybody judged")
    if cause is None:
        accepted = outcome.accepted
        assert accepted.leaf == identity.der
        assert accepted.peer.leaf_sha256 == identity.sha256
        assert accepted.sslobj.context is ANYBODY.quiet
        return
    verdict = outcome.refused
    assert verdict.cause is cause, verdict.as_text()
    assert verdict.advice
    assert verdict.chain[0].sha256 == identity.sha256
    assert outcome.sees_the_end()


@pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])
def test_no_certificate(version: ssl.TLSVersion) -> None:
    assert visit(ANYBODY, client_context(None, version=version)).refused.cause is Cause.NO_CERTIFICATE


def test_the_judge_says_nothing_of_its_reasons() -> None:
    outcome = visit(ANYBODY, client_context(B.leaf(SVID), version=V12))
    assert outcome.sent[-1] == ALERT_CERTIFICATE_UNKNOWN
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_UNKNOWN"):
        outcome.client_reads()


def test_application_data_behind_the_handshake_waits() -> None:
    accepted = visit(ANYBODY, client_context(A.leaf(SVID), version=V13), early_data=b"hello").accepted
    assert accepted.sslobj.read(100) == b"hello"


@pytest.mark.parametrize("chunk_bytes", [1, 7, 300])
def test_any_segmentation(chunk_bytes: int) -> None:
    assert visit(ANYBODY, client_context(A.leaf(SVID)), chunk_bytes=chunk_bytes).accepted.peer.id.path == "/workload/x"


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x02abc", b"\x00", b"\x80\x2e\x01"])
def test_plaintext_is_named(first: bytes) -> None:
    for chunks in ([first], [first[index : index + 1] for index in range(len(first))]):
        handshake = ServerHandshake(ANYBODY, now=now())
        verdict = None
        for chunk in chunks:
            try:
                assert handshake.feed(chunk) == b""
            except Refused as refused:
                verdict = refused.verdict
                break
        assert verdict is not None
        assert verdict.cause is Cause.NOT_TLS
        assert handshake.accepted is None
        assert handshake.farewell == b""


def test_a_peer_that_leaves_is_named() -> None:
    handshake = ServerHandshake(ANYBODY, now=now())
    with pytest.raises(Refused) as refused:
        handshake.eof()
    assert refused.value.verdict.cause is Cause.CLOSED
    assert handshake.broken(TimeoutError("late")).verdict.cause is Cause.TIMED_OUT
    assert handshake.broken(ConnectionResetError()).verdict.cause is Cause.RESET


def test_our_side_of_it() -> None:
    """The peer sees our identity, and the protocol that the application speaks where it offers it."""
    inbound = accepting(bundle("domain-a", A), alpn=("h2",))
    outcome = visit(inbound, client_context(A.leaf(SVID), alpn=("kuma",), trusts=MESH_CA.pem))
    assert outcome.accepted.alpn is None
    assert outcome.client.getpeercert(binary_form=True) == INBOUND.der
    assert visit(inbound, client_context(A.leaf(SVID), alpn=("h2", "http/1.1"))).accepted.alpn == "h2"
    assert visit(inbound, client_context(A.leaf(SVID))).accepted.alpn is None


def test_versions_and_ciphers() -> None:
    only_13 = accepting(bundle("domain-a", A), versions=(V13, V13))
    verdict = visit(only_13, client_context(A.leaf(SVID), version=V12)).refused
    assert verdict.cause is Cause.PROTOCOL_VERSION
    suite = "ECDHE-ECDSA-AES256-GCM-SHA384"
    picky = accepting(bundle("domain-a", A), versions=(V12, V12), ciphers=(suite,))
    assert visit(picky, client_context(A.leaf(SVID))).accepted.cipher == suite
    context = client_context(A.leaf(SVID), version=V12)
    context.set_ciphers("ECDHE-ECDSA-CHACHA20-POLY1305")
    assert visit(picky, context).refused.cause is Cause.NO_SHARED_CIPHER


@pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])
def test_a_peer_that_rejects_us_is_named(version: ssl.TLSVersion) -> None:
    verdict = visit(ANYBODY, client_context(A.leaf(SVID), trusts=B.pem, version=version)).refused
    assert verdict.cause is Cause.CLIENT_CERTIFICATE_REJECTED
    assert verdict.alert == "unknown_ca"


# Resumption ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])
@pytest.mark.parametrize("issuer", [A, ISSUING_A], ids=["root", "intermediate"])
def test_a_resumed_peer_is_judged(issuer: Authority, version: ssl.TLSVersion) -> None:
    inbound = accepting(bundle("domain-a", A), bundle("domain-b", B))
    context = client_context(issuer.leaf(SVID), version=version)
    first = visit(inbound, context)
    assert not first.accepted.resumed
    first.client_reads()
    second = visit(inbound, context, session=first.client.session)
    assert second.accepted.resumed
    assert second.accepted.peer == first.accepted.peer


@pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])
def test_a_resumed_session_does_not_outlive_its_leaf(version: ssl.TLSVersion) -> None:
    inbound = accepting(bundle("domain-a", A))
    context = client_context(A.leaf(SVID, window=Window(timedelta(hours=-1), timedelta(hours=1))), version=version)
    first = visit(inbound, context)
    first.client_reads()
    later = visit(inbound, context, session=first.client.session, at=now() + timedelta(hours=2))
    assert later.client.session_reused
    assert later.refused.cause is Cause.EXPIRED


@pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])
def test_a_session_does_not_outlive_the_trust_that_it_was_made_in(version: ssl.TLSVersion) -> None:
    before = accepting(bundle("domain-a", A), bundle("domain-b", B))
    context = client_context(A.leaf(SVID), version=version)
    first = visit(before, context)
    first.client_reads()
    revoked = accepting(bundle("domain-a", NEW_C), bundle("domain-b", B))
    assert visit(revoked, context, session=first.client.session).refused.cause is Cause.UNTRUSTED_ISSUER
    moved = accepting(bundle("domain-a", B), bundle("domain-b", A))  # the same union of CAs
    after = visit(moved, context, session=first.client.session)
    assert not after.client.session_reused
    assert after.refused.cause is Cause.WRONG_TRUST_DOMAIN


@pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])
def test_a_refused_peer_gains_nothing_by_resuming(version: ssl.TLSVersion) -> None:
    inbound = accepting(bundle("domain-a", A), bundle("domain-b", B))
    context = client_context(B.leaf(SVID), version=version)
    first = visit(inbound, context)
    assert first.refused.cause is Cause.WRONG_TRUST_DOMAIN
    assert first.sees_the_end()
    second = visit(inbound, context, session=first.client.session)
    assert second.refused.cause is Cause.WRONG_TRUST_DOMAIN


def test_a_forgotten_peer_is_judged_by_its_leaf_alone() -> None:
    bundles = TrustBundles.of([bundle("domain-a", A)])
    judge = SvidJudge(bundles, max_remembered=1)
    direct, below = A.leaf(SVID), ISSUING_A.leaf(SVID)
    judge.judge(below.der, (below.der, ISSUING_A_DER, A_DER), (below.der, ISSUING_A_DER), now())
    assert judge.judge_resumed(below.der, now()).id.trust_domain == "domain-a"
    judge.judge(direct.der, (direct.der, A_DER), (direct.der,), now())  # ``below`` is forgotten
    with pytest.raises(Refused):
        judge.judge_resumed(below.der, now())
    assert SvidJudge(bundles).judge_resumed(direct.der, now()).leaf_sha256 == direct.sha256


def test_no_more_peers_are_remembered_than_the_limit() -> None:
    judge = SvidJudge(TrustBundles.of([bundle("domain-a", A)]))
    peer = judge.judge_resumed(LEAF.der, now())
    first = hashlib.sha256(LEAF.der).digest()
    for number in range(MAX_REMEMBERED - 1):
        judge._remember(number.to_bytes(32, "big"), peer)
    assert judge._recall(first, now()) is peer, "which makes it the last that is forgotten"
    judge._remember(b"one more", peer)
    assert judge._recall((0).to_bytes(32, "big"), now()) is None
    assert judge._recall(first, now()) is peer


def test_no_more_contexts_and_judges_are_kept_than_the_limits() -> None:
    """A judge may have 8 MB of peers, and there is a new one for each state of the bundles."""
    assert contexts._server_context.cache_parameters()["maxsize"] == MAX_SERVER_CONTEXTS
    assert contexts._judge.cache_parameters()["maxsize"] == MAX_JUDGES


A_DER = Identity(A.certificate, A.key, ()).der
ISSUING_A_DER = Identity(ISSUING_A.certificate, ISSUING_A.key, ()).der


# The second verifier -----------------------------------------------------------------------------------------------


def test_the_second_verifier_knows_one_bundle_only() -> None:
    leaf = load_certificate(ISSUING_B.leaf(SVID).der)
    issuing = Identity(ISSUING_B.certificate, ISSUING_B.key, ()).der
    assert verify_against(bundle("domain-b", B), leaf, [issuing], now()) is not None
    assert verify_against(bundle("domain-a", A), leaf, [issuing], now()) is None
    assert verify_against(bundle("domain-b", B), leaf, [b"junk"], now()) is None


@pytest.mark.parametrize(
    "intermediate",
    [
        A.intermediate("no CA", is_ca=False),
        A.intermediate("expired", window=EXPIRED),
        A.intermediate("not yet", window=NOT_YET),
        A.intermediate("P", path_length=0).intermediate("too deep"),
        B.intermediate("foreign"),
    ],
    ids=lambda one: one.certificate.subject.rfc4514_string(),
)
def test_what_the_second_verifier_refuses(intermediate: Authority) -> None:
    identity = intermediate.leaf(SVID)
    ders = [one.public_bytes(serialization.Encoding.DER) for one in identity.intermediates]
    assert verify_against(bundle("domain-a", A), identity.certificate, ders, now()) is None


@pytest.mark.parametrize("depth", [MAX_PATH_DEPTH, MAX_PATH_DEPTH + 1])
def test_the_second_verifier_follows_so_many_intermediates(depth: int) -> None:
    issuing = A
    for number in range(depth):
        issuing = issuing.intermediate(f"Issuing {number}")
    identity = issuing.leaf(SVID)
    ders = [one.public_bytes(serialization.Encoding.DER) for one in identity.intermediates]
    assert len(ders) == depth
    path = verify_against(bundle("domain-a", A), identity.certificate, ders, now())
    assert (path is not None) == (depth == MAX_PATH_DEPTH)


def test_time_is_that_of_the_caller() -> None:
    leaf = load_certificate(A.leaf(SVID).der)
    assert verify_against(bundle("domain-a", A), leaf, [], now()) is not None
    assert verify_against(bundle("domain-a", A), leaf, [], datetime(2100, 1, 1, tzinfo=UTC)) is None


@pytest.mark.parametrize("chars", [MAX_QUOTED_CHARS, MAX_QUOTED_CHARS + 1, 16_000])
def test_of_what_a_peer_wrote_so_much_is_quoted(chars: int) -> None:
    wrong = "spiffe://" + "X" * (chars - len("spiffe://"))
    leaf = A.leaf(SVID)
    verdict = inbound_verdict.bad_spiffe_id(wrong, "it is wrong", leaf.der)
    quoted = wrong if chars == MAX_QUOTED_CHARS else wrong[:MAX_QUOTED_CHARS] + "..."
    assert f", '{quoted}', is not a SPIFFE ID" in verdict.message


def test_an_unreadable_leaf_is_refused() -> None:
    with pytest.raises(Refused) as refused:
        read_svid(b"0\x03\x02\x01\x00")
    assert refused.value.verdict.cause is Cause.MALFORMED


def test_bundles_are_only_ever_their_own() -> None:
    bundles = TrustBundles.of([bundle("x", A), bundle("y", B), bundle("x", OLD_C), TrustBundle("z", ())])
    assert bundles.get("x") is not None
    assert len(bundles.by_domain["x"].anchors) == 2
    assert bundles.union_pem.count("BEGIN CERTIFICATE") == 3
    assert bundles.vouched_by(A_DER) == ("x",)
    assert bundles.get("xx") is None


# Peers that were accepted before trust changed


def test_a_peer_is_trusted_while_an_anchor_of_its_path_is() -> None:
    root, other = Authority.root("Re-root"), Authority.root("Re-other")
    issuing = root.intermediate("Re-issuing")
    both = accepting(bundle("a", root))
    peer = visit(both, client_context(issuing.leaf("spiffe://a/x"))).accepted.peer
    for anchors in ([root], [issuing], [other, root]):
        recheck(peer, TrustBundles.of([bundle("a", *anchors), bundle("b", other)]))
    for bundles, cause in (
        ([bundle("a", other)], Cause.WRONG_TRUST_DOMAIN),
        ([bundle("a", other), bundle("b", root)], Cause.WRONG_TRUST_DOMAIN),
        ([bundle("b", root)], Cause.UNKNOWN_TRUST_DOMAIN),
    ):
        with pytest.raises(Refused) as refused:
            recheck(peer, TrustBundles.of(bundles))
        assert refused.value.verdict.cause is cause
