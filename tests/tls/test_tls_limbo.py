"""Names as C2SP/x509-limbo has them. Its chains are OpenSSL's affair (and of other years); its names are ours."""

from __future__ import annotations

import json
import lzma
import ssl
from pathlib import Path
from typing import Any

import pytest

from tls.names import MalformedNames, find_match, read_names
from tls.policy import MatchType, SanMatcher

CASES_FILE = Path(__file__).parents[3] / "shared" / "data" / "x509-limbo.json.xz"

DIVERGENCES = {
    "rfc5280::san::noncritical-with-empty-subject": "how the extension is marked does not change who is named",
    "webpki::san::san-critical-with-nonempty-subject": "how the extension is marked does not change who is named",
    "rfc5280::san::underscore-dns": "hosts with underscores exist, and Envoy serves them",
    "webpki::san::public-suffix-multi-label-wildcard-san": "no public suffix list: two labels bound a wildcard",
    "webpki::san::public-suffix-private-namespace-wildcard-san": "no public suffix list",
}


def _cases() -> list[dict[str, Any]]:
    if not CASES_FILE.exists():
        return []
    cases = json.loads(lzma.decompress(CASES_FILE.read_bytes()))["testcases"]
    return [case for case in cases if "::san::" in case["id"] and case["expected_peer_name"]]


CASES = _cases()


def test_the_cases_are_there() -> None:
    if not CASES:
        pytest.skip("x509-limbo is not beside the repository (shared/data/x509-limbo.json.xz)")
    assert {case["id"] for case in CASES} >= set(DIVERGENCES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_names(case: dict[str, Any]) -> None:
    der = ssl.PEM_cert_to_DER_cert(case["peer_certificate"])
    try:
        matched = find_match(read_names(der), [SanMatcher(MatchType.EXACT, case["expected_peer_name"]["value"])])
    except MalformedNames:
        matched = None
    expected = case["expected_result"] == "SUCCESS" or case["id"] in DIVERGENCES
    assert (matched is not None) == expected
