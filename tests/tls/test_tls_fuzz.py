"""Whatever bytes a peer sends, a handshake goes on, ends well with the very peer that was meant, or is refused."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.ca import Authority
from tests.tls.duet import HOST, V12, V13, Server, now, originate, server_context
from tls.handshake import ClientHandshake, Refused
from tls.policy import Mode
from tls.sessions import SessionCache

ROOT = Authority.root("Koguma Root")
SERVER = ROOT.leaf(HOST)
CONTEXTS = {version: server_context(SERVER, versions=(version, version)) for version in (V12, V13)}


def begin(mode: Mode) -> ClientHandshake:
    return ClientHandshake(
        originate(ROOT.pem, mode=mode),
        host=HOST,
        is_dns=True,
        explain=True,
        sessions=SessionCache(),
        session_key="key",
        now=now(),
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=4), st.booleans())
def test_garbage(chunks: list[bytes], is_framed: bool) -> None:
    handshake = begin(Mode.SKIP_ALL)
    handshake.start()
    try:
        for chunk in chunks:
            handshake.feed(b"\x16\x03\x03" + len(chunk).to_bytes(2) + chunk if is_framed else chunk)
    except Refused:
        pass  # the one way to fail
    assert not handshake.done


@pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])
@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 3000), flipped=st.integers(1, 255), which=st.integers(0, 2))
def test_one_byte_flipped_on_the_way(version: ssl.TLSVersion, position: int, flipped: int, which: int) -> None:
    handshake, server = begin(Mode.SECURED), Server(CONTEXTS[version])
    to_server = handshake.start()
    try:
        for flight in range(4):
            to_client = bytearray(server.feed(to_server))
            if flight == which and to_client:
                to_client[position % len(to_client)] ^= flipped
            to_server = handshake.feed(bytes(to_client))
            if handshake.done or not to_client:
                break
    except Refused:
        assert not handshake.done
    if handshake.done:
        assert handshake.established is not None
        assert handshake.established.peer.sha256 == SERVER.sha256
