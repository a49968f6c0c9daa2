"""Guarantee: whatever arrives, what is parsed is a question that dnspython reads alike, what is refused gets a
well-formed reply with its id, and a packed answer fits every client that asks.
"""

from __future__ import annotations

import struct

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from dns.rcode import Rcode
from dns.rdatatype import RdataType
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.dns.message import (
    CD,
    FAILED,
    MAX_LABEL_BYTES,
    MAX_NAME_BYTES,
    MAX_QUERY_BYTES,
    MAX_TCP_REPLY_BYTES,
    MAX_UDP_REPLY_BYTES,
    QR,
    Ignored,
    Packed,
    Query,
    Refused,
    name_to_text,
    name_to_wire,
    no_data,
    no_such_name,
    pack_records,
    pack_reply,
    parse,
    reply,
)

QUESTION = b"\x07partner\x06extsvc\x04mesh\x05local\x00\x00\x01\x00\x01"
HEADER = struct.Struct("!HHHHHH")


def header(flags: int = 0x0100, counts: tuple[int, int, int, int] = (1, 0, 0, 0), ident: int = 0x1234) -> bytes:
    return HEADER.pack(ident, flags, *counts)


def opt(room: int = 1232, version: int = 0, flags: int = 0, options: bytes = b"") -> bytes:
    return b"\x00" + struct.pack("!HHBBHH", 41, room, 0, version, flags, len(options)) + options


WITH_OPT = header(counts=(1, 0, 0, 1)) + QUESTION


def ask(name: str, rdtype: str = "A", *, over_tcp: bool = False, **more: object) -> Query:
    return parse(dns.message.make_query(name, rdtype, **more).to_wire(), over_tcp=over_tcp)  # type: ignore[arg-type]


def read(message: bytes) -> dns.message.QueryMessage:
    found = dns.message.from_wire(message)
    assert isinstance(found, dns.message.QueryMessage)
    return found


# Questions


def test_a_question() -> None:
    query = parse(header(0x0110) + b"\x07PartneR\x04mEsh\x00\x00\x1c\x00\x01")
    assert (query.id, query.qtype, query.name) == (0x1234, RdataType.AAAA, b"\x07partner\x04mesh\x00")
    assert query.question == b"\x07PartneR\x04mEsh\x00\x00\x1c\x00\x01"
    assert (query.opt, query.dnssec_ok, query.checking_disabled, query.max_reply_bytes) == (b"", False, True, 512)


@pytest.mark.parametrize(
    ("message", "over_tcp", "room"),
    [
        (header() + QUESTION, False, 512),
        (header() + QUESTION, True, 65535),
        (WITH_OPT + opt(0), False, 512),
        (WITH_OPT + opt(511), False, 512),
        (WITH_OPT + opt(900), False, 900),
        (WITH_OPT + opt(65535), False, MAX_UDP_REPLY_BYTES),
        (WITH_OPT + opt(600), True, 65535),
    ],
)
def test_how_much_a_client_takes(message: bytes, over_tcp: bool, room: int) -> None:
    assert parse(message, over_tcp=over_tcp).max_reply_bytes == room


def test_dnssec_ok_is_given_back() -> None:
    query = parse(WITH_OPT + opt(flags=0x8000))
    assert query.dnssec_ok
    assert read(reply(query, FAILED)).ednsflags & dns.flags.DO


def test_options_of_other_hops_are_passed_over() -> None:
    cookie = struct.pack("!HH", 10, 8) + bytes(8)
    padding = struct.pack("!HH", 12, 0)
    assert parse(WITH_OPT + opt(options=cookie + padding)).opt == opt()


@given(st.lists(st.binary(min_size=1, max_size=63), max_size=4), st.integers(1, 127), st.booleans())
def test_names_of_any_bytes(labels: list[bytes], qtype: int, edns: bool) -> None:
    name = dns.name.Name([*labels, b""])
    wire = dns.message.make_query(name, qtype, use_edns=0 if edns else False).to_wire()
    if qtype == RdataType.OPT:
        return
    query = parse(wire)
    assert dns.name.from_wire(query.name, 0)[0] == name
    assert query.name == name.to_digestable()
    assert bool(query.opt) is edns


# Refusals

REFUSALS = {
    "two questions": (header(counts=(2, 0, 0, 0)) + QUESTION * 2, Rcode.FORMERR),
    "no question": (header(counts=(0, 0, 0, 0)), Rcode.FORMERR),
    "an answer": (header(counts=(1, 1, 0, 0)) + QUESTION + QUESTION[:-4] + bytes(10), Rcode.FORMERR),
    "an authority record": (header(counts=(1, 0, 1, 0)) + QUESTION, Rcode.FORMERR),
    "two additional records": (header(counts=(1, 0, 0, 2)) + QUESTION + opt() * 2, Rcode.FORMERR),
    "an additional record that is no OPT": (WITH_OPT + b"\x00" + struct.pack("!HHIH", 16, 1, 0, 0), Rcode.FORMERR),
    "an OPT with a name": (WITH_OPT + b"\x01a" + opt(), Rcode.FORMERR),
    "a promised OPT that is missing": (WITH_OPT, Rcode.FORMERR),
    "an OPT that is cut off": (WITH_OPT + opt()[:-1], Rcode.FORMERR),
    "an OPT longer than the message": (WITH_OPT + opt(options=bytes(4))[:-4], Rcode.FORMERR),
    "an option longer than its OPT": (WITH_OPT + opt(options=b"\x00\x0a\x00\x08abc"), Rcode.FORMERR),
    "half an option": (WITH_OPT + opt(options=b"\x00\x0a\x00"), Rcode.FORMERR),
    "bytes behind the question": (header() + QUESTION + b"\x00", Rcode.FORMERR),
    "bytes behind the OPT": (WITH_OPT + opt() + b"\x00", Rcode.FORMERR),
    "an empty body": (header(), Rcode.FORMERR),
    "a name without an end": (header() + b"\x07partner", Rcode.FORMERR),
    "a label cut off": (header() + b"\x3fpartner\x00\x00\x01\x00\x01", Rcode.FORMERR),
    "no type": (header() + QUESTION[:-4], Rcode.FORMERR),
    "half a class": (header() + QUESTION[:-1], Rcode.FORMERR),
    "a pointer to itself": (header() + b"\xc0\x0c\x00\x01\x00\x01", Rcode.FORMERR),
    "a pointer behind a label": (header() + b"\x01a\xc0\x0c\x00\x01\x00\x01", Rcode.FORMERR),
    "an extended label": (header() + b"\x41\x01a\x00\x00\x01\x00\x01", Rcode.FORMERR),
    "a label of 64 bytes": (header() + b"\x40" + bytes(64) + b"\x00\x00\x01\x00\x01", Rcode.FORMERR),
    "a pointer that could be a label": (header() + b"\xc0" + bytes(192) + b"\x00\x00\x01\x00\x01", Rcode.FORMERR),
    "a name of 256 bytes": (header() + b"\x01a" * 126 + b"\x02aa\x00" + b"\x00\x01\x00\x01", Rcode.FORMERR),
    "more than a question needs": (WITH_OPT + opt(options=struct.pack("!HH", 12, 4200) + bytes(4200)), Rcode.FORMERR),
    "an inverse query": (header(1 << 11) + QUESTION, Rcode.NOTIMP),
    "STATUS": (header(2 << 11) + QUESTION, Rcode.NOTIMP),
    "NOTIFY": (header(4 << 11) + QUESTION, Rcode.NOTIMP),
    "UPDATE": (header(5 << 11) + QUESTION, Rcode.NOTIMP),
    "type 0": (header() + QUESTION[:-4] + b"\x00\x00\x00\x01", Rcode.REFUSED),
    "type OPT": (header() + QUESTION[:-4] + b"\x00\x29\x00\x01", Rcode.REFUSED),
    "TSIG": (header() + QUESTION[:-4] + b"\x00\xfa\x00\x01", Rcode.REFUSED),
    "IXFR": (header() + QUESTION[:-4] + b"\x00\xfb\x00\x01", Rcode.REFUSED),
    "AXFR": (header() + QUESTION[:-4] + b"\x00\xfc\x00\x01", Rcode.REFUSED),
    "MAILB": (header() + QUESTION[:-4] + b"\x00\xfd\x00\x01", Rcode.REFUSED),
    "ANY": (header() + QUESTION[:-4] + b"\x00\xff\x00\x01", Rcode.REFUSED),
    "class CHAOS": (header() + QUESTION[:-2] + b"\x00\x03", Rcode.REFUSED),
    "class ANY": (header() + QUESTION[:-2] + b"\x00\xff", Rcode.REFUSED),
    "EDNS version 1": (WITH_OPT + opt(version=1), Rcode.BADVERS),
}


@pytest.mark.parametrize(("message", "rcode"), REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize("over_tcp", [False, True], ids=["udp", "tcp"])
def test_refused(message: bytes, rcode: Rcode, over_tcp: bool) -> None:
    with pytest.raises(Refused) as caught:
        parse(message, over_tcp=over_tcp)
    assert caught.value.rcode == rcode
    answer = dns.message.from_wire(caught.value.reply)
    assert (answer.id, answer.rcode()) == (0x1234, rcode)
    assert answer.flags & dns.flags.QR
    assert answer.opcode() == HEADER.unpack_from(message)[1] >> 11
    assert len(caught.value.reply) <= len(message) + len(opt()), "a refusal amplifies nothing"


def test_the_longest_name_and_the_longest_message_are_taken() -> None:
    longest = b"\x01a" * 127 + b"\x00"
    assert len(longest) == MAX_NAME_BYTES
    assert parse(header() + longest + b"\x00\x01\x00\x01").name == longest
    room = MAX_QUERY_BYTES - len(WITH_OPT) - len(opt()) - 4
    parse(WITH_OPT + opt(options=struct.pack("!HH", 12, room) + bytes(room)))


@pytest.mark.parametrize("message", [b"", b"\x12\x34", header()[:-1], header(QR) + QUESTION, header(0x8180) + QUESTION])
def test_ignored(message: bytes) -> None:
    with pytest.raises(Ignored):
        parse(message)


def damaged() -> st.SearchStrategy[bytes]:
    """Good questions with some of their bytes changed, left out or repeated."""
    sound = st.sampled_from([header() + QUESTION, WITH_OPT + opt(), WITH_OPT + opt(options=b"\x00\x0a\x00\x01x")])

    def change(message: bytes, at: int, to: bytes, gone: int) -> bytes:
        at %= len(message) + 1
        return message[:at] + to + message[at + gone :]

    return st.builds(change, sound, st.integers(0, 200), st.binary(max_size=4), st.integers(0, 4))


@given(st.one_of(st.binary(max_size=600), st.binary(max_size=80).map(lambda tail: header() + tail), damaged()))
@example(header() + b"\xc0\x0c\x00\x01\x00\x01")
def test_garbage(message: bytes) -> None:
    try:
        query = parse(message)
    except Ignored:
        return
    except Refused as refused:
        answer = dns.message.from_wire(refused.reply)
    else:
        answer = read(reply(query, no_data(30)))
        seen = dns.message.from_wire(message, question_only=True)
        asked = [(one.name, one.rdtype) for one in seen.question]
        assert asked == [(dns.name.from_wire(query.name, 0)[0], query.qtype)]
        assert answer.question == seen.question
    assert answer.id == HEADER.unpack_from(message)[0]


# Replies


def test_flags_of_a_reply() -> None:
    own = read(reply(ask("a.mesh.local"), no_data(30)))
    assert own.flags == dns.flags.QR | dns.flags.AA | dns.flags.RD | dns.flags.RA
    other = reply(parse(header(CD) + QUESTION), FAILED)
    assert HEADER.unpack_from(other)[1] == dns.flags.QR | dns.flags.RA | dns.flags.CD | Rcode.SERVFAIL


def test_the_clients_spelling_of_the_name_is_kept() -> None:
    answer = pack_records(RdataType.A, [bytes([242, 0, 0, 1])], 30)
    for spelling in ("partner.mesh.local.", "PARTNER.mesh.Local."):
        message = read(reply(ask(spelling), answer))
        assert message.question[0].name.to_text() == spelling
        assert message.answer[0].to_text() == f"{spelling} 30 IN A 242.0.0.1"


def test_denials_carry_an_soa() -> None:
    absent = read(reply(ask("b.a.mesh.local"), no_data(30)))
    assert (absent.rcode(), absent.answer) == (Rcode.NOERROR, [])
    assert absent.authority[0].to_text().startswith("b.a.mesh.local. 30 IN SOA b.a.mesh.local. nobody.invalid. 1 ")
    assert absent.resolve_chaining().minimum_ttl == 30
    unknown = read(reply(ask("b.a.mesh.local"), no_such_name(12 + 4, 5)))
    assert unknown.rcode() == Rcode.NXDOMAIN
    assert unknown.authority[0].to_text().startswith("mesh.local. 5 IN SOA mesh.local. nobody.invalid. 1 ")


def test_what_is_too_large_is_left_out_and_said() -> None:
    answer = pack_records(RdataType.A, [bytes([242, 0, 0, n]) for n in range(70)], 30)
    for query in (ask("a.test"), ask("a.test", use_edns=0, payload=1000)):
        message = reply(query, answer)
        assert len(message) <= query.max_reply_bytes
        seen = read(message)
        assert seen.flags & dns.flags.TC
        assert (seen.answer, seen.edns) == ([], 0 if query.opt else -1)
    for query in (ask("a.test", over_tcp=True), ask("a.test", use_edns=0, payload=4096)):
        seen = read(reply(query, answer))
        assert len(seen.answer[0]) == 70
        assert not seen.flags & dns.flags.TC


def test_the_boundary_of_truncation() -> None:
    query = ask("a.test")
    body = query.max_reply_bytes - len(reply(query, FAILED))
    assert len(reply(query, Packed(0, (0, 0, 0), bytes(body)))) == 512
    assert len(reply(query, Packed(0, (0, 0, 0), bytes(body + 1)))) < 100


def test_the_boundary_of_truncation_over_tcp() -> None:
    """The length in front of a message has 16 bits."""
    query = ask("a.test", over_tcp=True)
    body = MAX_TCP_REPLY_BYTES - len(reply(query, FAILED))
    assert len(reply(query, Packed(0, (0, 0, 0), bytes(body)))) == MAX_TCP_REPLY_BYTES
    assert len(reply(query, Packed(0, (0, 0, 0), bytes(body + 1)))) < 100


# Answers of others


def packed(*lines: str, rcode: Rcode = Rcode.NOERROR, authority: tuple[str, ...] = ()) -> Packed:
    """The answer of a server to ``www.example.test A``."""
    message = dns.message.make_response(dns.message.make_query("www.example.test", "A"))
    message.set_rcode(rcode)
    message.answer = [dns.rrset.from_text(*line.split(" ", 4)) for line in lines]  # type: ignore[arg-type]
    message.authority = [dns.rrset.from_text(*line.split(" ", 4)) for line in authority]  # type: ignore[arg-type]
    return pack_reply(message.to_wire())


CHAIN = (
    "www.example.test. 300 IN CNAME web.example.test.",
    "web.example.test. 20 IN A 127.0.0.1",
    "web.example.test. 20 IN A 127.0.0.2",
)


def test_an_answer_of_others_fits_every_spelling() -> None:
    answer = packed(*CHAIN)
    seen = read(reply(ask("WWW.Example.test", use_edns=0), answer))
    chain = seen.resolve_chaining()
    assert chain.answer is not None
    assert sorted(record.address for record in chain.answer) == ["127.0.0.1", "127.0.0.2"]
    assert not seen.flags & dns.flags.AA
    assert seen.edns == 0


@pytest.mark.parametrize(("age_s", "ttls"), [(0, (300, 20)), (7, (293, 13)), (20, (280, 0)), (1000, (0, 0))])
def test_ttls_run_down(age_s: int, ttls: tuple[int, int]) -> None:
    answer = packed(*CHAIN)
    seen = read(reply(ask("www.example.test"), answer.aged(age_s)))
    assert tuple(rrset.ttl for rrset in seen.answer) == ttls
    assert [rrset.ttl for rrset in read(reply(ask("www.example.test"), answer)).answer] == [300, 20], "not in place"


def test_ttls_of_every_section() -> None:
    soa = "example.test. 900 IN SOA a.example.test. b.example.test. 1 2 3 4 5"
    answer = packed(rcode=Rcode.NXDOMAIN, authority=(soa,))
    assert (answer.flags, answer.counts) == (Rcode.NXDOMAIN, (0, 1, 0))
    assert read(reply(ask("www.example.test"), answer.aged(100))).authority[0].ttl == 800


# Names


@pytest.mark.parametrize("name", ["a", "a.b", "a" * MAX_LABEL_BYTES + ".mesh.local", "a." * 126 + "a", "_x.y-z"])
def test_names_there_and_back(name: str) -> None:
    assert name_to_text(name_to_wire(name)) == name
    assert dns.name.from_wire(name_to_wire(name), 0)[0] == dns.name.from_text(name)


@pytest.mark.parametrize("name", ["", ".", "a.", "a..b", "a" * (MAX_LABEL_BYTES + 1), "a." * 126 + "aa", "é"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - a sentence of its own, or the codec's
        name_to_wire(name)


def test_a_dot_in_a_label_separates_nothing() -> None:
    assert name_to_text(b"\x03a.b\x00") is None
    assert name_to_text(b"\x02\xc3\xa9\x00") is None
    assert name_to_text(b"\x00") == ""
