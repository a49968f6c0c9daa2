"""Guarantee: the server name is read from any ClientHello that OpenSSL would take, in any segmentation; whatever else
comes is refused for a reason that has a name, after no more work than it has records, and never by another exception.
"""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tls.test_tls_client_hello import client_hello, in_records
from tls.client_hello import (
    MAX_CLIENT_HELLO_BYTES,
    MAX_RECORDS,
    BadHello,
    ClientHello,
    HelloFault,
    read_client_hello,
)

GREASE = (0x0A0A, 0x1A1A, 0xFAFA)


def extension(kind: int, content: bytes) -> bytes:
    return kind.to_bytes(2) + len(content).to_bytes(2) + content


def server_names(*names: bytes, kind: int = 0) -> bytes:
    entries = b"".join(bytes((kind,)) + len(name).to_bytes(2) + name for name in names)
    return extension(0, len(entries).to_bytes(2) + entries)


def hello(*extensions: bytes) -> bytes:
    body = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
    block = b"".join(extensions)
    body += len(block).to_bytes(2) + block
    message = b"\x01" + len(body).to_bytes(3) + body
    return b"\x16\x03\x01" + len(message).to_bytes(2) + message


def name_in(head: bytes) -> str | None:
    found = read_client_hello(head)
    assert isinstance(found, ClientHello)
    return found.server_name


def fault_of(head: bytes) -> HelloFault:
    with pytest.raises(BadHello) as caught:
        read_client_hello(head)
    return caught.value.fault


@pytest.mark.parametrize("records_of", [None, 100, 61])
def test_openssls_own(records_of: int | None) -> None:
    whole = client_hello("kuma", sni="Sni.ExtSvc.default.svc.80")
    head = whole if records_of is None else in_records(whole, records_of)
    assert name_in(head) == "sni.extsvc.default.svc.80"
    assert name_in(head + b"more") == "sni.extsvc.default.svc.80"
    assert name_in(client_hello(sni=None)) is None


def test_it_asks_for_no_more_looks_than_there_are_records() -> None:
    """Sent byte by byte: how often is it worth looking?"""
    head = in_records(client_hello(sni="svc.test"), 61)
    looks = wanted = 0
    for end in range(len(head) + 1):
        if end < wanted:
            continue
        looks += 1
        found = read_client_hello(head[:end])
        if not isinstance(found, int):
            break
        assert found > end
        wanted = found
    assert looks <= 2 * MAX_RECORDS + 1


def test_grease() -> None:
    """RFC 8701: extensions that nobody knows, before, between and after."""
    padding = [extension(kind, b"\x00") for kind in GREASE]
    assert name_in(hello(padding[0], server_names(b"svc.test"), padding[1], padding[2])) == "svc.test"


def test_no_extensions_at_all() -> None:
    body = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
    message = b"\x01" + len(body).to_bytes(3) + body
    assert name_in(b"\x16\x03\x01" + len(message).to_bytes(2) + message) is None


@pytest.mark.parametrize(
    "extensions",
    [
        [server_names(b"a.test", b"b.test")],
        [server_names(b"a.test"), server_names(b"a.test")],
        [server_names(b"")],
        [server_names(b"a\x00.test")],
        [server_names("ä.test".encode())],
        [extension(0, b"\x00\x09\x00\x00\x06a.test\x00")],
        [extension(0, b"\x00\x20\x00\x00\x06a.test")],
        [extension(0, b"")],
        [b"\x00"],
    ],
    ids=["two", "twice", "empty", "NUL", "not ASCII", "something behind", "too short", "no list", "half an extension"],
)
def test_a_name_that_two_readers_could_read_differently(extensions: list[bytes]) -> None:
    assert fault_of(hello(*extensions)) is HelloFault.MALFORMED


def test_a_name_of_another_type_is_no_host_name() -> None:
    assert name_in(hello(server_names(b"x", kind=7))) is None


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\n", b"\x00", b"PRI * HTTP/2.0", b"\x16\x02", b"SSH-2.0-x"])
def test_not_tls(head: bytes) -> None:
    assert fault_of(head) is HelloFault.NOT_TLS


def test_too_large() -> None:
    padded = hello(server_names(b"a.test"), extension(21, bytes(MAX_CLIENT_HELLO_BYTES - 200)))
    assert name_in(padded) == "a.test"
    too_long = hello(server_names(b"a.test"), extension(21, bytes(MAX_CLIENT_HELLO_BYTES)))
    assert fault_of(too_long[:9]) is HelloFault.TOO_LARGE, "its length says it"
    assert fault_of(in_records(hello(extension(21, bytes(300))), 1)) is HelloFault.MALFORMED, "too many records"


@given(st.binary(max_size=300), st.integers(0, 200))
def test_nothing_else_comes_of_it(noise: bytes, kept: int) -> None:
    for head in (noise, b"\x16\x03\x01" + noise, client_hello()[:kept] + noise):
        try:
            found = read_client_hello(head)
        except BadHello:
            continue
        assert isinstance(found, ClientHello) or len(head) < found <= MAX_CLIENT_HELLO_BYTES


def test_openssl_agrees_about_two_names() -> None:
    """What we refuse as ambiguous, OpenSSL would not serve either."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    incoming = ssl.MemoryBIO()
    incoming.write(hello(server_names(b"a.test", b"b.test")))
    server = context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)
    with pytest.raises(ssl.SSLError) as caught:
        server.do_handshake()
    assert not isinstance(caught.value, ssl.SSLWantReadError)
