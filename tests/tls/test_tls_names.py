"""A certificate speaks for exactly the names in it: RFC 6125, as design.md's decision 8 narrows it."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.ca import Authority
from tls.names import (
    MAX_NAMES_COMPARED_FOR_NEAREST,
    CertificateNames,
    MalformedNames,
    find_match,
    host_name,
    nearest_miss,
    read_names,
)
from tls.policy import MatchType, SanMatcher

ROOT = Authority.root()


def names(*texts: str) -> CertificateNames:
    """``dns:``, ``uri:`` and ``ip:`` in front of each."""
    kinds: dict[str, list[str]] = {"dns": [], "uri": [], "ip": []}
    for text in texts:
        kind, _, value = text.partition(":")
        kinds[kind].append(value)
    return CertificateNames(tuple(kinds["dns"]), tuple(kinds["uri"]), tuple(map(ip_address, kinds["ip"])))


EXACT = [
    # value, names, accepted
    ("svc.example.test", "dns:svc.example.test", True),
    ("SVC.Example.TEST", "dns:svc.example.test", True),
    ("svc.example.test", "dns:SVC.Example.TEST", True),
    ("svc.example.test.", "dns:svc.example.test", True),
    ("svc.example.test", "dns:svc.example.test.", True),
    ("svc.example.test..", "dns:svc.example.test", False),
    ("svc.example.test", "dns:svc.example.test.evil.test", False),
    ("example.test", "dns:svc.example.test", False),
    ("svc.example.test", "dns:*.example.test", True),
    ("svc.example.test", "dns:*.EXAMPLE.test.", True),
    ("example.test", "dns:*.example.test", False),
    ("a.svc.example.test", "dns:*.example.test", False),
    (".example.test", "dns:*.example.test", False),
    ("svc.example.test", "dns:s*.example.test", False),
    ("svc.example.test", "dns:*c.example.test", False),
    ("svc.example.test", "dns:svc.*.test", False),
    ("svc.example.test", "dns:*.*.test", False),
    ("example.test", "dns:*.test", False),
    ("test", "dns:*", False),
    ("svc.example.test", "dns:*", False),
    ("*.example.test", "dns:svc.example.test", False),
    ("*.example.test", "dns:*.example.test", True),
    ("*.svc.example.test", "dns:*.example.test", False),
    ("localhost", "dns:localhost", True),
    ("under_score.example.test", "dns:under_score.example.test", True),
    ("münchen.example.test", "dns:xn--mnchen-3ya.example.test", True),
    ("xn--mnchen-3ya.example.test", "dns:*.example.test", True),
    ("127.0.0.1", "ip:127.0.0.1", True),
    ("127.0.0.1", "dns:127.0.0.1", False),
    ("127.0.0.1", "dns:*.0.0.1", False),
    ("127.1", "dns:127.1", False),
    ("0x7f.0x1", "dns:0x7f.0x1", False),
    ("2001:DB8:0::1", "ip:2001:db8::1", True),
    ("2001:db8::2", "ip:2001:db8::1", False),
    ("::ffff:127.0.0.1", "ip:127.0.0.1", False),
    ("127.0.0.1", "uri:127.0.0.1", False),
    ("spiffe://example.test/a", "uri:spiffe://example.test/a", True),
    ("spiffe://example.test/A", "uri:spiffe://example.test/a", False),
    ("spiffe://example.test/a", "uri:spiffe://example.test/a/b", False),
    ("spiffe://example.test/a", "dns:spiffe://example.test/a", False),
    ("svc.example.test", "uri:https://svc.example.test", False),
    ("", "dns:svc.example.test", False),
    ("a b.example.test", "dns:*.example.test", False),
    ("ü" * 80 + ".test", "dns:*.example.test", False),
]


@pytest.mark.parametrize(("value", "presented", "accepted"), EXACT)
def test_exact(value: str, presented: str, accepted: bool) -> None:
    found = find_match(names(presented), [SanMatcher(MatchType.EXACT, value)])
    assert (found is not None) == accepted


PREFIX = [
    ("svc.", "dns:svc.example.test", True),
    ("SVC.", "dns:svc.example.test", True),
    ("svc.", "dns:SVC.example.test", True),
    ("vc.", "dns:svc.example.test", False),
    ("svc.", "dns:*.example.test", False),
    ("*.", "dns:*.example.test", True),
    ("spiffe://example.test/ns/production", "uri:spiffe://example.test/ns/production/a", True),
    ("spiffe://example.test/ns/production", "uri:spiffe://example.test/ns/production-evil", True),
    ("spiffe://example.test/ns/production/", "uri:spiffe://example.test/ns/production-evil", False),
    ("SPIFFE://example.test/", "uri:spiffe://example.test/ns", False),
    ("127.", "ip:127.0.0.1", True),
    ("2001:db8:", "ip:2001:db8::1", True),
    ("2001:DB8:", "ip:2001:db8::1", False),
    ("", "dns:svc.example.test", False),
]


@pytest.mark.parametrize(("value", "presented", "accepted"), PREFIX)
def test_prefix(value: str, presented: str, accepted: bool) -> None:
    found = find_match(names(presented), [SanMatcher(MatchType.PREFIX, value)])
    assert (found is not None) == accepted


def test_the_match_says_what_met_what() -> None:
    matchers = [SanMatcher(MatchType.EXACT, "nope.test"), SanMatcher(MatchType.PREFIX, "spiffe://a/")]
    found = find_match(names("dns:svc.test", "uri:spiffe://a/b"), matchers)
    assert found is not None
    assert (found.matcher, found.presented) == (matchers[1], "spiffe://a/b")


def test_nothing_matches_nothing() -> None:
    assert find_match(CertificateNames(), [SanMatcher(MatchType.PREFIX, "a")]) is None
    assert find_match(names("dns:svc.test"), []) is None


def test_reading() -> None:
    leaf = ROOT.leaf("svc.test", "*.svc.test", "spiffe://a/b", "10.0.0.1", "::1", common_name="cn.test")
    found = read_names(leaf.der)
    assert found == names("dns:svc.test", "dns:*.svc.test", "uri:spiffe://a/b", "ip:10.0.0.1", "ip:::1")
    assert found.texts == ("svc.test", "*.svc.test", "spiffe://a/b", "10.0.0.1", "::1")


def test_common_name_is_no_name() -> None:
    assert read_names(ROOT.leaf(common_name="svc.test").der) == CertificateNames()


@pytest.mark.parametrize(
    "name",
    [
        x509.DNSName("svc.test\0.evil.test"),
        x509.DNSName("svc.test evil.test"),
        x509.DNSName(""),
        x509.UniformResourceIdentifier("spiffe://a/\x01"),
    ],
)
def test_malformed_names_spoil_the_certificate(name: x509.GeneralName) -> None:
    with pytest.raises(MalformedNames):
        read_names(ROOT.leaf("svc.test", name).der)


@pytest.mark.parametrize("spoiled", [b"\xe4vc", b"svc"])
def test_non_ascii_name(spoiled: bytes) -> None:
    der = ROOT.leaf("svc.example.test").der.replace(b"svc.example", spoiled + b".example", 1)
    if spoiled == b"svc":
        assert read_names(der).dns == ("svc.example.test",)
    else:
        with pytest.raises(MalformedNames):
            read_names(der)


def test_what_is_no_certificate() -> None:
    with pytest.raises(MalformedNames):
        read_names(b"\x30\x03abc")


def test_nearest_miss() -> None:
    presented = names("dns:api.example.test", "dns:unrelated.org")
    assert nearest_miss(presented, [SanMatcher(MatchType.EXACT, "apo.example.test")]) == "api.example.test"
    assert nearest_miss(presented, [SanMatcher(MatchType.EXACT, "zzz")]) is None
    assert nearest_miss(CertificateNames(), [SanMatcher(MatchType.EXACT, "zzz")]) is None


def test_the_nearest_is_looked_for_among_the_first_names() -> None:
    wanted = [SanMatcher(MatchType.EXACT, "api.example.test")]
    others = [f"dns:{number}.org" for number in range(MAX_NAMES_COMPARED_FOR_NEAREST)]
    assert nearest_miss(names(*others[1:], "dns:apo.example.test"), wanted) == "apo.example.test"
    assert nearest_miss(names(*others, "dns:apo.example.test"), wanted) is None


def test_nearest_of_several_expected() -> None:
    matchers = [SanMatcher(MatchType.EXACT, "aqi.exomple.tost"), SanMatcher(MatchType.EXACT, "unrelated.com")]
    assert nearest_miss(names("dns:api.example.test", "dns:unrelated.org"), matchers) == "unrelated.org"


LABEL = st.from_regex(r"[a-z](?:[a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)


@given(st.lists(LABEL, min_size=1, max_size=5), st.lists(LABEL, min_size=1, max_size=5))
def test_a_wildcard_stands_for_one_label(parent: list[str], host: list[str]) -> None:
    presented = CertificateNames(dns=("*." + ".".join(parent),))
    found = find_match(presented, [SanMatcher(MatchType.EXACT, ".".join(host))])
    assert (found is not None) == (len(parent) >= 2 and host[1:] == parent)


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_is_compared_without_error(value: str, presented: str) -> None:
    holder = CertificateNames(dns=(presented,), uris=(presented,))
    for kind in MatchType:
        found = find_match(holder, [SanMatcher(kind, value)])
        if kind is MatchType.EXACT and value != presented:
            assert found is None or host_name(value) is not None
