"""The grammar of SPIFFE IDs and trust domains: what is one, what is none, and that no two spellings are the same ID."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tls.spiffe import MAX_ID_BYTES, MAX_TRUST_DOMAIN_BYTES, MalformedSpiffeId, check_trust_domain, parse_spiffe_id

DOMAINS = ["a", "domain-a", "default.zone-1.mesh.local", "under_score", "1.2.3.4", "trailing.", "-", "a" * 255]
NO_DOMAINS = {
    "": "trust domain is missing",
    "A": "characters",
    "Domain": "characters",
    "a b": "characters",
    "a:1": "characters",
    "u@a": "characters",
    "a%2Db": "characters",
    "ä": "characters",
    "xn--ä": "characters",
    "a\n": "characters",
    "a\0": "characters",
    "a/b": "characters",
    "[::1]": "characters",
    "\udc80": "characters",
    "a" * 256: "longer than 255 bytes",
}
PATHS = ["", "/x", "/ns/default/sa/app", "/workload/x", "/A.b-c_D", "/...", "/.x", "/x.", f"/{'x' * 2000}"]
NO_PATHS = {
    "/": "trailing slash",
    "/x/": "trailing slash",
    "//x": "empty segments",
    "//": "empty segments",
    "/x//y": "empty segments",
    "/.": "dot segments",
    "/..": "dot segments",
    "/x/../y": "dot segments",
    "/./x": "dot segments",
    "/x y": "characters",
    "/%41": "characters",
    "/x?y": "characters",
    "/x#y": "characters",
    "/x:y": "characters",
    "/x\\y": "characters",
    "/ü": "characters",
    "/x\n": "characters",
    "/x\0": "characters",
    f"/{'x' * 2048}": "longer than 2048 bytes",
}
NO_IDS = {
    "": "cannot be empty",
    "spiffe": "scheme",
    "spiffe:/a/x": "scheme",
    "SPIFFE://a/x": "scheme",
    "Spiffe://a/x": "scheme",
    " spiffe://a/x": "scheme",
    "https://a/x": "scheme",
    "//a/x": "scheme",
    "spiffe://": "trust domain is missing",
    "spiffe:///x": "trust domain is missing",
    "spiffe://a?x/y": "characters",
    "spiffe://a#/y": "characters",
}


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("path", PATHS)
def test_valid(domain: str, path: str) -> None:
    text = f"spiffe://{domain}{path}"
    if len(text) > MAX_ID_BYTES:
        pytest.skip("too long together")
    parsed = parse_spiffe_id(text)
    assert (parsed.trust_domain, parsed.path, str(parsed)) == (domain, path, text)
    assert check_trust_domain(domain) == domain


@pytest.mark.parametrize(("domain", "why"), NO_DOMAINS.items())
def test_no_trust_domain(domain: str, why: str) -> None:
    with pytest.raises(MalformedSpiffeId, match=why):
        check_trust_domain(domain)
    with pytest.raises(MalformedSpiffeId):
        parse_spiffe_id(f"spiffe://{domain}/..")


@pytest.mark.parametrize(("path", "why"), NO_PATHS.items())
def test_no_path(path: str, why: str) -> None:
    with pytest.raises(MalformedSpiffeId, match=why):
        parse_spiffe_id(f"spiffe://a{path}")


@pytest.mark.parametrize(("text", "why"), NO_IDS.items())
def test_no_id(text: str, why: str) -> None:
    with pytest.raises(MalformedSpiffeId, match=why):
        parse_spiffe_id(text)


@given(st.text(alphabet=string.printable + "\0ä\udc80", max_size=64))
def test_an_id_has_one_spelling(text: str) -> None:
    """Whatever is accepted is spelled back as it was: nothing is repaired, so nothing is compared after a repair."""
    for candidate in (text, f"spiffe://{text}", f"spiffe://a/{text}"):
        try:
            parsed = parse_spiffe_id(candidate)
        except MalformedSpiffeId:
            continue
        assert str(parsed) == candidate
        assert len(parsed.trust_domain) <= MAX_TRUST_DOMAIN_BYTES
        assert parsed.path == "" or parsed.path.startswith("/")
