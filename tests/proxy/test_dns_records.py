"""Guarantee: a name of ours is answered from the plan, in every type; a name in the mesh's domain that is not there is
denied; whatever is not ours is left to others, and leaves nothing behind.
"""

from __future__ import annotations

import dns.message
import dns.name
import dns.reversename
import pytest
from dns.rcode import Rcode
from dns.rdatatype import RdataType
from hypothesis import given
from hypothesis import strategies as st

from proxy.dns.message import name_to_wire, parse, reply
from proxy.dns.records import ABSENT_TTL_S, MAX_RECORDS, Records
from tests.proxy.dns_rig import names

HTTPBIN, BOTH, ELSEWHERE = "httpbin.extsvc.mesh.local", "both.extsvc.mesh.local", "api.partner.test"
RECORDS = names(
    {
        HTTPBIN: ["242.0.0.1"],
        BOTH: ["242.0.0.2", "fd00::2"],
        "six.extsvc.mesh.local": ["fd00::6"],
        ELSEWHERE: ["242.0.0.1"],
        "deep.a.b.mesh.local": ["242.0.0.9"],
    }
)


def ask(records: Records, name: str, rdtype: str = "A") -> dns.message.Message | None:
    """The reply as a client sees it; ``None``: for others to answer."""
    query = parse(dns.message.make_query(name, rdtype).to_wire())
    answer = records.answer(query.name, query.qtype)
    return dns.message.from_wire(reply(query, answer)) if answer is not None else None


def found(name: str, rdtype: str = "A", records: Records = RECORDS) -> list[str]:
    message = ask(records, name, rdtype)
    assert message is not None
    assert message.rcode() == Rcode.NOERROR
    if not message.answer:
        assert message.authority[0].rdtype == RdataType.SOA
    return sorted(record.to_text() for rrset in message.answer for record in rrset)


@pytest.mark.parametrize(
    ("name", "rdtype", "records"),
    [
        (HTTPBIN, "A", ["242.0.0.1"]),
        (HTTPBIN, "AAAA", []),
        ("six.extsvc.mesh.local", "A", []),
        ("six.extsvc.mesh.local", "AAAA", ["fd00::6"]),
        (BOTH, "A", ["242.0.0.2"]),
        (BOTH, "AAAA", ["fd00::2"]),
        ("HttpBin.EXTSVC.mesh.Local", "A", ["242.0.0.1"]),
        (HTTPBIN, "MX", []),
        (HTTPBIN, "HTTPS", []),
        (HTTPBIN, "TYPE65280", []),
        (ELSEWHERE, "A", ["242.0.0.1"]),
        (ELSEWHERE, "TXT", []),
        ("1.0.0.242.in-addr.arpa", "PTR", [f"{ELSEWHERE}.", f"{HTTPBIN}."]),
        ("1.0.0.242.IN-ADDR.arpa", "PTR", [f"{ELSEWHERE}.", f"{HTTPBIN}."]),
        ("2.0.0.242.in-addr.arpa", "A", []),
        (dns.reversename.from_address("fd00::2").to_text(), "PTR", [f"{BOTH}."]),
    ],
)
def test_what_is_ours(name: str, rdtype: str, records: list[str]) -> None:
    assert found(name, rdtype) == records
    assert found(name, rdtype) == records, "also when it was packed before"


@pytest.mark.parametrize(
    "name",
    [
        "partner.test", "www.api.partner.test", "other.partner.test", "test", ".", "local", "printer.local",
        "notmesh.local", "xmesh.local", "mesh.local.test", "3.0.0.242.in-addr.arpa", "0.0.242.in-addr.arpa",
        "0.1.0.0.242.in-addr.arpa", "x.0.0.242.in-addr.arpa", "in-addr.arpa", "300.0.0.242.in-addr.arpa", "ip6.arpa",
        "f.ip6.arpa", dns.reversename.from_address("fd00::3").to_text(),
        r"httpbin\.extsvc.mesh.local.test", r"x\.mesh.local", r"api\.partner.test",
    ],
)  # fmt: skip
def test_what_is_not_ours(name: str) -> None:
    assert ask(RECORDS, name) is None
    assert ask(RECORDS, name, "PTR") is None


@pytest.mark.parametrize("name", ["mesh.local", "extsvc.mesh.local", "b.mesh.local", "a.b.mesh.local"])
def test_names_above_ours_exist(name: str) -> None:
    assert found(name) == []


@pytest.mark.parametrize("name", ["typo.extsvc.mesh.local", "x.httpbin.extsvc.mesh.local", "svc.MESH.local"])
def test_the_rest_of_the_mesh_is_denied(name: str) -> None:
    message = ask(RECORDS, name)
    assert message is not None
    assert (message.rcode(), message.answer) == (Rcode.NXDOMAIN, [])
    (soa,) = message.authority
    assert soa.name == dns.name.from_text("mesh.local")
    assert (soa.ttl, soa[0].minimum) == (ABSENT_TTL_S, ABSENT_TTL_S)


def test_no_names_at_all() -> None:
    records = names({})
    assert len(records) == 0
    assert found("mesh.local", records=records) == []
    assert ask(records, "partner.test") is None
    assert ask(records, "1.0.0.242.in-addr.arpa", "PTR") is None


def test_the_ttl_is_the_plans() -> None:
    records = names({HTTPBIN: ["242.0.0.1"]}, ttl_s=7)
    for name, rdtype in ((HTTPBIN, "A"), (HTTPBIN, "AAAA"), ("1.0.0.242.in-addr.arpa", "PTR")):
        message = ask(records, name, rdtype)
        assert message is not None
        assert (message.answer or message.authority)[0].ttl == 7


def test_an_answer_fits_a_message() -> None:
    longest = [f"{'a' * 60}.{'b' * 63}.{'c' * 63}.{number:03}{'d' * 50}.test" for number in range(200)]
    records = names({name: ["242.0.0.1"] for name in longest})
    query = parse(dns.message.make_query("1.0.0.242.in-addr.arpa", "PTR").to_wire(), over_tcp=True)
    answer = records.answer(query.name, query.qtype)
    assert answer is not None
    assert len(dns.message.from_wire(reply(query, answer)).answer[0]) == MAX_RECORDS


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=5))
def test_what_is_not_ours_leaves_nothing_behind(labels: list[bytes]) -> None:
    records = names({HTTPBIN: ["242.0.0.1"]})
    records.answer(dns.name.Name([*labels, b""]).to_digestable(), RdataType.A)
    records.answer(dns.name.Name([*labels, b"mesh", b"local", b""]).to_digestable(), RdataType.A)
    assert not records._packed


def test_answers_are_packed_once() -> None:
    wire = name_to_wire(HTTPBIN)
    assert RECORDS.answer(wire, RdataType.A) is RECORDS.answer(wire, RdataType.A)
