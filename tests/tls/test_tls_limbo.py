"""What C2SP/x509-limbo says of names, of chains in handshakes, and of the second verifier of the SVID direction.

Guarantee: wherever we accept what limbo refuses, or the other way round, a reason is written here; a divergence that
appears or disappears fails. The data lie beside the repository (``shared/data/x509-limbo.json.xz``).

Limbo's leaves are of the web, so the SVID direction as a whole refuses them all (one test says so): what can be scored
of it is path building against one bundle, whose caller has judged the leaf.
"""

from __future__ import annotations

import json
import lzma
import ssl
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pytest

from tests.kit.ca import Identity
from tests.tls.duet import now, server_context, shake
from tls.bundles import TrustBundles, parse_bundle
from tls.cause import Cause
from tls.material import MaterialError, parse_anchors
from tls.names import MalformedNames, find_match, load_certificate, read_names
from tls.policy import MatchType, Mode, Origination, SanMatcher
from tls.svid import SvidJudge, verify_against
from tls.verdict import Refused

CASES_FILE = Path(__file__).parents[3] / "shared" / "data" / "x509-limbo.json.xz"

Case = dict[str, Any]


def _cases() -> list[Case]:
    return json.loads(lzma.decompress(CASES_FILE.read_bytes()))["testcases"] if CASES_FILE.exists() else []


def by_id(groups: dict[str, str]) -> dict[str, str]:
    """Reasons by case, from the cases by reason."""
    return {case: reason for reason, cases in groups.items() for case in cases.split()}


NAMES = {
    "rfc5280::san::noncritical-with-empty-subject": "how the extension is marked does not change who is named",
    "webpki::san::san-critical-with-nonempty-subject": "how the extension is marked does not change who is named",
    "rfc5280::san::underscore-dns": "hosts with underscores exist, and Envoy serves them",
    "webpki::san::public-suffix-multi-label-wildcard-san": "no public suffix list: two labels bound a wildcard",
    "webpki::san::public-suffix-private-namespace-wildcard-san": "no public suffix list",
}

_KEY_IDENTIFIERS = "key identifiers help to find an issuer; that they are missing or odd proves nothing wrong"
_DEPTH = "no limit on depth is asked for"
_FORM = "a fault of form that OpenSSL tolerates outside its strict mode, and private CAs are full of them"
_WEB = "a rule of the web's CAs only, not of RFC 5280"

HANDSHAKES = NAMES | by_id(
    {
        _KEY_IDENTIFIERS: """rfc5280::aki::leaf-missing-aki rfc5280::aki::intermediate-missing-aki
            rfc5280::aki::cross-signed-root-missing-aki rfc5280::ski::root-missing-ski
            rfc5280::ski::intermediate-missing-ski webpki::aki::root-with-aki-missing-keyidentifier
            webpki::aki::root-with-aki-authoritycertissuer webpki::aki::root-with-aki-authoritycertserialnumber
            webpki::aki::root-with-aki-all-fields webpki::aki::root-with-aki-ski-mismatch""",
        _DEPTH: "pathlen::max-chain-depth-0-exhausted pathlen::max-chain-depth-1-exhausted",
        _FORM: """rfc5280::nc::permitted-dns-match-noncritical rfc5280::nc::not-allowed-in-ee-noncritical
            rfc5280::nc::not-allowed-in-ee-critical rfc5280::pc::ica-noncritical-pc rfc5280::serial::too-long
            rfc5280::serial::zero rfc5280::ca-empty-subject rfc5280::root-missing-basic-constraints
            rfc5280::root-non-critical-basic-constraints rfc5280::nc::invalid-dnsname-leading-period
            webpki::nc::intermediate-permitted-excluded-subtrees-both-null
            webpki::nc::intermediate-permitted-excluded-subtrees-both-empty-sequences""",
        "a CA may be a server too: trust in its key is not the question": """rfc5280::leaf-ku-keycertsign
            webpki::ee-basicconstraints-ca""",
        _WEB: """webpki::eku::ee-anyeku webpki::eku::ee-critical-eku webpki::eku::ee-without-eku
            webpki::eku::root-has-eku webpki::forbidden-rsa-not-divisible-by-8-in-root
            webpki::forbidden-rsa-key-not-divisible-by-8-in-leaf webpki::forbidden-dsa-root""",
        "the common name is never read": """webpki::cn::ipv4-hex-mismatch webpki::cn::ipv4-leading-zeros-mismatch
            webpki::cn::ipv6-uppercase-mismatch webpki::cn::ipv6-uncompressed-mismatch
            webpki::cn::ipv6-non-rfc5952-mismatch webpki::cn::punycode-not-in-san
            webpki::cn::utf8-vs-punycode-mismatch webpki::cn::not-in-san webpki::cn::case-mismatch""",
        "OpenSSL holds a wildcard or a malformed name against name constraints as text": """cve::cve-2025-61727
            rfc5280::nc::nc-permits-invalid-dns-san rfc5280::nc::nc-forbids-dnsname-wildcard-san""",
        "OpenSSL takes a CA for a server only if its key usage or purpose says so": """rfc5280::ca-as-leaf
            pathlen::validation-ignores-pathlen-in-leaf""",
        "OpenSSL builds one path, and does not try another when that one fails": """
            rfc5280::nc::nc-forbids-alternate-chain-ica rfc5280::nc::nc-forbids-same-chain-ica""",
    }
)

_LEAF = "the leaf is judged before (read_svid), and its key by OpenSSL in the handshake"

PATHS = by_id(
    {
        _KEY_IDENTIFIERS: """rfc5280::aki::critical-aki rfc5280::aki::leaf-missing-aki
            rfc5280::aki::intermediate-missing-aki rfc5280::aki::cross-signed-root-missing-aki
            rfc5280::ski::critical-ski rfc5280::ski::root-missing-ski rfc5280::ski::intermediate-missing-ski
            webpki::aki::root-with-aki-missing-keyidentifier webpki::aki::root-with-aki-all-fields
            webpki::aki::root-with-aki-ski-mismatch""",
        _DEPTH: "pathlen::max-chain-depth-0-exhausted pathlen::max-chain-depth-1-exhausted",
        _FORM: """rfc5280::nc::permitted-dns-match-noncritical rfc5280::nc::not-allowed-in-ee-noncritical
            rfc5280::nc::not-allowed-in-ee-critical rfc5280::pc::ica-noncritical-pc rfc5280::serial::zero
            rfc5280::root-non-critical-basic-constraints rfc5280::ee-critical-aia-invalid webpki::malformed-aia
            webpki::nc::intermediate-permitted-excluded-subtrees-both-null
            webpki::nc::intermediate-permitted-excluded-subtrees-both-empty-sequences""",
        _LEAF: """rfc5280::eku::ee-wrong-eku rfc5280::eku::ee-eku-empty webpki::eku::ee-anyeku
            webpki::eku::ee-critical-eku webpki::eku::ee-without-eku rfc5280::leaf-ku-keycertsign
            webpki::ee-basicconstraints-ca webpki::ca-as-leaf webpki::forbidden-p192-leaf webpki::forbidden-dsa-leaf
            webpki::forbidden-weak-rsa-in-leaf rfc5280::ca-as-leaf-wrong-san""",
        _WEB: """webpki::forbidden-rsa-not-divisible-by-8-in-root
            webpki::forbidden-rsa-key-not-divisible-by-8-in-leaf""",
        "no certificate of the chain is refused for the number of its names": "pathological::nc-dos-3",
        "self-issued certificates count as depth": "pathlen::self-issued-certs-pathlen",
        "the verifier knows no name constraints on directory names": "rfc5280::nc::permitted-dn-match",
        "the CAs may vouch for servers only, and it is clients that are judged here": """online::microsoft.com
            online::bing.com""",
    }
)
"""Names are the leaf's affair (``::san::``, ``::cn::``), and there is no revocation here (``crl::``)."""

CASES = _cases()
NAME_CASES = [case for case in CASES if "::san::" in case["id"] and case["expected_peer_name"]]
HANDSHAKE_CASES = [
    case
    for case in CASES
    if case["validation_kind"] == "SERVER" and case.get("peer_certificate_key") and not case["validation_time"]
]
PATH_CASES = [case for case in CASES if not any(part in case["id"] for part in ("::san::", "::cn::", "crl::"))]


def is_expected(case: Case, divergences: dict[str, str]) -> bool:
    return bool((case["expected_result"] == "SUCCESS") != (case["id"] in divergences))


@pytest.mark.parametrize(
    ("cases", "divergences"),
    [(NAME_CASES, NAMES), (HANDSHAKE_CASES, HANDSHAKES), (PATH_CASES, PATHS)],
    ids=["names", "handshakes", "paths"],
)
def test_the_cases_are_there(cases: list[Case], divergences: dict[str, str]) -> None:
    if not CASES:
        pytest.skip("x509-limbo is not beside the repository (shared/data/x509-limbo.json.xz)")
    assert {case["id"] for case in cases} >= set(divergences)


@pytest.mark.parametrize("case", NAME_CASES, ids=lambda case: case["id"])
def test_names(case: Case) -> None:
    der = ssl.PEM_cert_to_DER_cert(case["peer_certificate"])
    try:
        matched = find_match(read_names(der), [SanMatcher(MatchType.EXACT, case["expected_peer_name"]["value"])])
    except MalformedNames:
        matched = None
    assert (matched is not None) == is_expected(case, NAMES)


class _Limbo:
    """A case's leaf in the form of the kit."""

    def __init__(self, case: Case) -> None:
        self.chain_pem = case["peer_certificate"] + "".join(case["untrusted_intermediates"])
        self.key_pem = case["peer_certificate_key"]


@pytest.mark.parametrize("case", HANDSHAKE_CASES, ids=lambda case: case["id"])
def test_handshakes(case: Case) -> None:
    name = case["expected_peer_name"]
    try:
        anchors, _ = parse_anchors("".join(case["trusted_certs"]).encode(), "limbo", now())
        server = server_context(cast("Identity", _Limbo(case)))
    except (MaterialError, ssl.SSLError):  # unusable for us, or for whoever would like to be the server
        assert not is_expected(case, HANDSHAKES)
        return
    origination = Origination(
        mode=Mode.SECURED if name else Mode.SKIP_SAN,
        sans=(SanMatcher(MatchType.EXACT, name["value"]),) if name else (),
        anchors=anchors,
    )
    assert (shake(origination, server).established is not None) == is_expected(case, HANDSHAKES)


@pytest.mark.parametrize("case", PATH_CASES, ids=lambda case: case["id"])
def test_paths_of_the_second_verifier(case: Case) -> None:
    at = datetime.fromisoformat(case["validation_time"]) if case["validation_time"] else now()
    intermediates = [ssl.PEM_cert_to_DER_cert(pem) for pem in case["untrusted_intermediates"]]
    try:
        bundle, _ = parse_bundle("limbo", "".join(case["trusted_certs"]).encode(), "limbo")
        path = verify_against(
            bundle, load_certificate(ssl.PEM_cert_to_DER_cert(case["peer_certificate"])), intermediates, at
        )
    except (MaterialError, ValueError):
        path = None
    assert (path is not None) == is_expected(case, PATHS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_no_certificate_of_the_web_is_an_svid(case: Case) -> None:
    judge = SvidJudge(TrustBundles.of(()))
    leaf = ssl.PEM_cert_to_DER_cert(case["peer_certificate"])
    with pytest.raises(Refused) as refused:
        judge.judge(leaf, (leaf,), (leaf,), now())
    assert refused.value.verdict.cause in (Cause.NOT_AN_SVID, Cause.MALFORMED)
