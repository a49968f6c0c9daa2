"""The three kinds of traffic on a permissive inbound, told apart from real ClientHellos in any segmentation."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tls.client_hello import MAX_RECORDS, Traffic, sniff


def client_hello(*alpn: str, sni: str | None = "svc.example.test") -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if alpn:
        context.set_alpn_protocols(list(alpn))
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=sni)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def in_records(hello: bytes, size: int) -> bytes:
    """The same ClientHello in records of so many bytes."""
    body = hello[5:]
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2) + piece for piece in pieces)


KINDS = {
    "mesh": (client_hello("kuma"), Traffic.MESH_TLS),
    "mesh among others": (client_hello("h2", "kuma", "http/1.1"), Traffic.MESH_TLS),
    "no ALPN": (client_hello(), Traffic.OTHER_TLS),
    "no SNI": (client_hello(sni=None), Traffic.OTHER_TLS),
    "other ALPN": (client_hello("h2", "http/1.1"), Traffic.OTHER_TLS),
    "nearly the mesh's": (client_hello("kuma2", "kum", "KUMA"), Traffic.OTHER_TLS),
}


@pytest.mark.parametrize("kind", KINDS)
def test_real_client_hellos(kind: str) -> None:
    hello, expected = KINDS[kind]
    for head in (hello, in_records(hello, 100), in_records(hello, len(hello) // (MAX_RECORDS - 4))):
        for end in range(len(head)):
            assert sniff(head[:end]) is None
        assert sniff(head) is expected
        assert sniff(head + b"more") is expected


@pytest.mark.parametrize(
    "head", [b"GET / HTTP/1.1", b"\x00", b"\x16\x02", b"\x16H", b"\x17\x03", b"\x80\x2e\x01\x03\x01"]
)
def test_plaintext(head: bytes) -> None:
    assert sniff(head) is Traffic.PLAINTEXT


def test_nothing_yet() -> None:
    assert sniff(b"") is None
    assert sniff(b"\x16") is None


@pytest.mark.parametrize(
    "head",
    [
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        b"\x16\x03\x01\x00\x04\x01\x00\x00\x00",
        b"\x16\x03\x01\x00\x08\x01\x00\x00\x04\x03\x03\x00\x00",
        b"\x16\x03\x01\x00\x05\x01\x00\x01\x00\x03\x17\x03\x03\x00\x01",
    ],
)
def test_what_cannot_be_read_is_for_the_application(head: bytes) -> None:
    assert sniff(head) is Traffic.OTHER_TLS


def test_it_is_bounded() -> None:
    assert sniff(in_records(KINDS["mesh"][0], 1)) is Traffic.OTHER_TLS
    endless = b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(16380)
    assert sniff(endless[:4]) is None
    assert sniff(endless[:5]) is Traffic.OTHER_TLS, "it says how long it will be"


@given(st.binary(max_size=400))
def test_anything_else(noise: bytes) -> None:
    for head in (noise, b"\x16\x03" + noise, KINDS["mesh"][0][:60] + noise):
        assert sniff(head) in (None, *Traffic)
