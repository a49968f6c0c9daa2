"""RFC 7541: what a decoder must refuse."""

from __future__ import annotations

import pytest

from tests.conformance import expect
from tests.kit.h2frames import Code, Frames, Setting, headers

DEFAULT_TABLE_BYTES = 4096
SIZE_UPDATE_PREFIX = 31


@pytest.mark.parametrize(
    "representation",
    [
        pytest.param("c6", id="2.3.3 an indexed field beyond both tables"),
        pytest.param("7f0700", id="2.3.3 a name beyond both tables"),
        pytest.param("21", id="4.2 a table size update after fields"),
        pytest.param("00 85f2b24a84ff 8449509fff", id="5.2 Huffman padding of more than 7 bits"),
        pytest.param("00 85f2b24a84ff 83495090", id="5.2 Huffman padding of zeros"),
        pytest.param("00 85f2b24a84ff 874951fffffffa7f", id="5.2 the end of string within a string"),
        pytest.param("80", id="6.1 index 0"),
    ],
)
def test_a_representation_that_is_wrong(peer: Frames, representation: str) -> None:
    peer.send(headers(1, peer.encode(peer.request()) + bytes.fromhex(representation)))
    expect.connection_error(peer, Code.COMPRESSION_ERROR)


def test_a_table_size_above_the_limit(peer: Frames) -> None:  # 6.3
    limit_bytes = peer.peer_settings.get(Setting.HEADER_TABLE_SIZE, DEFAULT_TABLE_BYTES)
    peer.send(headers(1, table_size_update(limit_bytes + 1) + peer.encode(peer.request())))
    expect.connection_error(peer, Code.COMPRESSION_ERROR)


def table_size_update(size_bytes: int) -> bytes:
    """RFC 7541 section 6.3, the integer as in section 5.1; ``size_bytes`` is above what the prefix holds."""
    encoded = bytearray([0x20 | SIZE_UPDATE_PREFIX])
    rest = size_bytes - SIZE_UPDATE_PREFIX
    while rest >= 128:
        encoded.append(0x80 | rest & 0x7F)
        rest >>= 7
    return bytes([*encoded, rest])
