"""What gets into a trust bundle: CA certificates, all of them, and nothing else."""

from __future__ import annotations

import pytest

from tests.kit.ca import EXPIRED, NOT_YET, Authority, Identity
from tests.tls.duet import now
from tls.bundles import MAX_ANCHORS, TrustBundle, TrustBundles, parse_bundle, validity_of
from tls.material import MaterialError
from tls.spiffe import MalformedSpiffeId

ROOT = Authority.root("Root")
ISSUING = ROOT.intermediate("Issuing")
LEAF = ROOT.leaf("spiffe://a/x")
CRL = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"
JUNK = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def der(authority: Authority) -> bytes:
    return Identity(authority.certificate, authority.key, ()).der


def parse(pem: str) -> tuple[TrustBundle, list[str]]:
    return parse_bundle("a", pem.encode(), "MeshTrust a")


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        ("", "no CA certificate in it"),
        ("just words", "no CA certificate in it"),
        (ROOT.pem + LEAF.key_pem, "PEM block 2 is a private key"),
        (LEAF.key_pem, "PEM block 1 is a private key"),
        (ROOT.pem + CRL, "PEM block 2 is a CRL"),
        (ROOT.pem + JUNK, "PEM block 2 is not a readable certificate"),
        (ROOT.pem.replace("CERTIFICATE", "TRUSTED CERTIFICATE"), "PEM block 1 is a TRUSTED CERTIFICATE"),
        (ROOT.pem[:-20], "begins and never ends"),
        (LEAF.pem, "is not a CA certificate"),
        (Authority.root("no CA", is_ca=False).pem, "is not a CA certificate"),
    ],
)
def test_refused(pem: str, message: str) -> None:
    with pytest.raises(MaterialError, match=message) as error:
        parse(pem)
    assert error.value.which == "caBundles"
    assert "PRIVATE" not in str(error.value)


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        (ROOT.pem + ROOT.pem, "PEM block 2 repeats an earlier one"),
        (ROOT.pem + LEAF.pem, "PEM block 2 is not a CA certificate: left out"),
        (ROOT.pem + Authority.root("Old", window=EXPIRED).pem, "expired on"),
        (ROOT.pem + Authority.root("New", window=NOT_YET).pem, "not valid before"),
        (ROOT.pem + Authority.root("Weak", key_type="rsa1024").pem, r"its key \(RSA 1024\) is too weak"),
    ],
)
def test_warnings(pem: str, message: str) -> None:
    bundle, warnings = parse(pem)
    warnings += validity_of(bundle, now())
    assert der(ROOT) in bundle.anchors
    assert LEAF.der not in bundle.anchors
    with pytest.raises(AssertionError, match=message):
        raise AssertionError("\n".join(warnings))


def test_roots_and_intermediates_anchor_alike() -> None:
    bundle, warnings = parse(ROOT.pem + "a comment between\n" + ISSUING.pem)
    assert bundle.anchors == (der(ROOT), der(ISSUING))
    assert not warnings
    assert parse(ISSUING.pem)[0].anchors == (der(ISSUING),)
    assert bundle.expires >= now()


def test_sources_of_one_domain_add_up() -> None:
    bundles = TrustBundles.of([parse(ROOT.pem)[0], parse(ISSUING.pem)[0], parse(ROOT.pem)[0]])
    bundle = bundles.get("a")
    assert bundle is not None
    assert bundle.anchors == (der(ROOT), der(ISSUING))
    assert bundle.sources == ("MeshTrust a",)


def test_the_digest_is_that_of_who_is_trusted_for_what() -> None:
    one, two = der(ROOT), der(ISSUING)

    def digest(*bundles: TrustBundle) -> str:
        return TrustBundles.of(bundles).digest

    base = digest(TrustBundle("a", (one, two)), TrustBundle("b", ()))
    assert base == digest(TrustBundle("b", ()), TrustBundle("a", (two, one), ("elsewhere",)))
    assert base != digest(TrustBundle("a", (one,)), TrustBundle("b", (two,)))
    assert base != digest(TrustBundle("a", (one,)), TrustBundle("b", ()))
    assert digest(TrustBundle("a", (one,))) != digest(TrustBundle("b", (one,)))


def test_bounds_and_names() -> None:
    many = tuple(str(number).encode() for number in range(MAX_ANCHORS + 1))
    with pytest.raises(MaterialError, match="more than"):
        TrustBundles.of([TrustBundle("a", many)])
    with pytest.raises(MalformedSpiffeId):
        TrustBundles.of([TrustBundle("A", ())])
    assert not TrustBundles.of([])
