"""RFC 7541, both directions: our encoder against hpack's decoder, our decoder against hpack's encoder and the RFC's
examples; and what our encoder promises beyond: settled bytes, no eviction, nothing secret or changing in the table.
"""

from __future__ import annotations

import hpack
import pytest
from hpack.exceptions import HPACKError
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire import Field
from proxy.wire.h2 import FieldBlock, compress, decompress, literal
from proxy.wire.h2.compress import STATIC, Encoder, integer
from proxy.wire.h2.decompress import BadBlock, Decoder, Inflated
from tests.differential.depth import laws

Fields = list[tuple[bytes, bytes]]

names = st.sampled_from(
    [b"x-a", b"x-b", b"user-agent", b"cookie", b"authorization", b"date", b"content-type", b"grpc-status", b"x" * 130]
)
values = st.sampled_from(
    [b"", b"a", b"text/plain", b"\xff\x80 obs", b"v" * 126, b"v" * 127, b"v" * 128, b"w" * 300, b"u" * 4100]
)
pseudo = st.sampled_from(
    [[], [(b":status", b"200")], [(b":status", b"418")], [(b":method", b"GET"), (b":path", b"/x")]]
)
blocks = st.builds(lambda first, rest: [*first, *rest], pseudo, st.lists(st.tuples(names, values), max_size=8))


def read(decoder: hpack.Decoder, block: bytes) -> Fields:
    return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]


class TestEncoder:
    @laws(40)
    @given(st.lists(st.tuples(blocks, st.sampled_from([None, 0, 64, 500, 4096, 1 << 20])), max_size=12))
    def test_hpack_reads_what_we_write(self, messages: list[tuple[Fields, int | None]]) -> None:
        encoder, decoder = Encoder(), hpack.Decoder(max_header_list_size=1 << 20)
        shared = [FieldBlock(fields) for fields, _ in messages]
        for _ in range(3):
            for block, (fields, size) in zip(shared, messages, strict=True):
                if size is not None:
                    encoder.resize(size)
                    decoder.max_allowed_table_size = size
                encoded = encoder.remembered.get(block) or encoder.encode(block)
                assert read(decoder, encoded) == fields
                assert decoder.header_table._current_size <= min(4096, decoder.header_table_size)

    def test_c_5_1_static_and_literal(self) -> None:
        """RFC 7541 C.2.4, C.6.1: where we write what the examples write."""
        encoder = Encoder()
        assert encoder.encode(FieldBlock([(b":method", b"GET")])) == b"\x82"
        assert encoder.encode(FieldBlock([(b":path", b"/sample/path")])) == b"\x04\x0c/sample/path"  # C.2.2
        assert literal(b"cache-control", b"private") == b"\x0f\x09\x07private"

    @pytest.mark.parametrize(
        ("value", "bits", "octets"), [(10, 5, b"\x0a"), (1337, 5, b"\x1f\x9a\x0a"), (42, 8, b"\x2a")]
    )
    def test_c_1_integers(self, value: int, bits: int, octets: bytes) -> None:
        assert integer(value, bits) == octets

    def test_what_repeats_settles_at_an_index_each(self) -> None:
        encoder = Encoder()
        block = FieldBlock([(b":status", b"200"), (b"server", b"somebody"), (b"x-same", b"always")])
        sizes = [len(encoder.encode(block)) for _ in range(4)]
        assert sizes[0] > 20
        assert sizes[2:] == [3, 3]
        assert encoder.remembered == {block: encoder.encode(block)}

    def test_an_insertion_moves_what_was_remembered(self) -> None:
        encoder, decoder = Encoder(), hpack.Decoder()
        first, second = FieldBlock([(b"x-a", b"1")]), FieldBlock([(b"x-b", b"2")])
        for block in [first] * 3 + [second] * 3 + [first] * 2:
            assert read(decoder, encoder.remembered.get(block) or encoder.encode(block)) == list(block.fields)
        assert len(decoder.header_table.dynamic_entries) == 2

    def test_a_full_table_is_left_alone(self) -> None:
        encoder, decoder = Encoder(), hpack.Decoder()
        for number in range(500):
            block = FieldBlock([(b"x-%d" % number, b"value")])
            for _ in range(3):
                read(decoder, encoder.encode(block))
        assert 4096 - 60 < decoder.header_table._current_size <= 4096
        assert decoder.header_table.dynamic_entries[-1] == (b"x-0", b"value")
        assert encoder.encode(FieldBlock([(b"x-0", b"value")])) == integer(
            61 + len(decoder.header_table.dynamic_entries), 7, 0x80
        )

    def test_what_comes_once_is_not_inserted(self) -> None:
        encoder, decoder = Encoder(), hpack.Decoder()
        for number in range(1000):
            read(decoder, encoder.encode(FieldBlock([(b"x-id", b"%d" % number)])))
        assert not decoder.header_table.dynamic_entries
        assert len(encoder._seen) <= 128

    @pytest.mark.parametrize("name", [b"authorization", b"cookie", b"set-cookie", b"proxy-authorization"])
    def test_secrets_are_never_indexed(self, name: bytes) -> None:
        encoder, decoder = Encoder(), hpack.Decoder()
        block = FieldBlock([(name, b"secret")])
        for _ in range(3):
            (field,) = decoder.decode(encoder.encode(block), raw=True)
            assert not field.indexable
            (field,) = decoder.decode(literal(name, b"secret"), raw=True)
            assert not field.indexable
        assert not decoder.header_table.dynamic_entries

    @pytest.mark.parametrize("name", [b":path", b"date", b"content-length", b"x-request-id", b"etag", b"grpc-timeout"])
    def test_what_changes_is_not_inserted(self, name: bytes) -> None:
        encoder, decoder = Encoder(), hpack.Decoder()
        for _ in range(3):
            read(decoder, encoder.encode(FieldBlock([(name, b"1")])))
        assert not decoder.header_table.dynamic_entries

    def test_large_fields_are_not_inserted(self) -> None:
        encoder, decoder = Encoder(), hpack.Decoder()
        for _ in range(3):
            read(decoder, encoder.encode(FieldBlock([(b"x-large", b"v" * 300)])))
        assert not decoder.header_table.dynamic_entries

    def test_a_smaller_table_is_announced_at_the_next_block(self) -> None:
        encoder, decoder = Encoder(), hpack.Decoder()
        block = FieldBlock([(b"x-a", b"1")])
        for _ in range(3):
            read(decoder, encoder.encode(block))
        encoder.resize(50)
        decoder.max_allowed_table_size = 50
        encoded = encoder.encode(block)
        assert encoded.startswith(b"\x20\x3f\x13")  # RFC 7541 §4.2: to 0, then to 50
        assert read(decoder, encoded) == [(b"x-a", b"1")]
        assert decoder.header_table_size == 50
        encoder.resize(1 << 20)
        assert encoder.encode(block).startswith(b"\x20\x3f\xe1\x1f")  # 4096 is as much as we use

    def test_what_is_remembered_is_bounded(self) -> None:
        encoder = Encoder()
        for _ in range(1000):
            encoder.encode(FieldBlock([(b":status", b"200")]))
        assert len(encoder.remembered) <= 128


class TestFieldBlock:
    @pytest.mark.parametrize(
        "field",
        [
            (b"X-Upper", b"a"), (b"", b"a"), (b"a b", b"c"), (b"a:b", b"c"), (b"a", b"b\r\nc: d"), (b"a", b"b\n"),
            (b"a\n", b"b"), (b"a", b"\0"), (b"a", b" b"), (b"a", b"b\t"), (b"a", b"\x7f"), (b"connection", b"close"),
            (b"keep-alive", b"1"), (b"proxy-connection", b"x"), (b"transfer-encoding", b"chunked"),
            (b"upgrade", b"websocket"), (b":path", b"/a b"), (b":path", b"/\n"), (b"a", b"b\nc\nd"),
        ],
    )  # fmt: skip
    def test_what_http_2_does_not_carry(self, field: Field) -> None:
        with pytest.raises(ValueError, match="does not carry"):
            FieldBlock([field])

    def test_pseudo_fields_come_first(self) -> None:
        with pytest.raises(ValueError, match="does not carry"):
            FieldBlock([(b"a", b"b"), (b":status", b"200")])

    @pytest.mark.parametrize("value", [b" a", b"a ", b"a\nb", b"\r", b"\0", b"\x1f"])
    def test_a_literal_neither(self, value: bytes) -> None:
        with pytest.raises(ValueError, match="does not carry"):
            literal(b"x-request-id", value)

    @laws(50)
    @given(
        st.sampled_from([b"x-request-id", b"date", b"age", b"x" * 200]),
        st.sampled_from([b"", b"a", b"b" * 127, b"c" * 2000]),
    )
    def test_a_literal_touches_no_table(self, name: bytes, value: bytes) -> None:
        decoder = hpack.Decoder()
        assert read(decoder, literal(name, value)) == [(name, value)]
        assert not decoder.header_table.dynamic_entries

    def test_the_names_of_literals_are_bounded(self) -> None:
        for number in range(600):
            literal(b"x-%d" % number, b"a")
        assert len(compress._literal_names) <= 256


C_3 = [  # RFC 7541 C.3 (and C.4 with Huffman codes): three requests on a connection
    ("828684410f7777772e6578616d706c652e636f6d", "828684418cf1e3c2e5f23a6ba0ab90f4ff"),
    ("828684be58086e6f2d6361636865", "828684be5886a8eb10649cbf"),
    ("828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565", "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf"),
]
REQUEST: Fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")]
C_3_FIELDS: list[Fields] = [
    REQUEST,
    [*REQUEST, (b"cache-control", b"no-cache")],
    [
        (b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/index.html"), (b":authority", b"www.example.com"),
        (b"custom-key", b"custom-value"),
    ],
]  # fmt: skip


class TestDecoder:
    def test_the_static_table(self) -> None:
        assert len(STATIC) == 61
        assert Decoder(100_000).decode(bytes(0x80 | index for index in range(1, 62))) == list(STATIC)

    @pytest.mark.parametrize(
        ("block", "field", "changes"),
        [
            ("400a637573746f6d2d6b65790d637573746f6d2d686561646572", (b"custom-key", b"custom-header"), True),  # C.2.1
            ("040c2f73616d706c652f70617468", (b":path", b"/sample/path"), False),  # C.2.2
            ("100870617373776f726406736563726574", (b"password", b"secret"), False),  # C.2.3
            ("82", (b":method", b"GET"), False),  # C.2.4
        ],
    )
    def test_c_2_representations(self, block: str, field: Field, changes: bool) -> None:
        decoder = Decoder(100_000)
        assert decoder.decode(bytes.fromhex(block)) == [field]
        assert bool(decoder.changes) == changes

    @pytest.mark.parametrize("huffman", [False, True])
    def test_c_3_and_c_4_requests(self, huffman: bool) -> None:
        decoder = Decoder(100_000)
        for block, fields in zip(C_3, C_3_FIELDS, strict=True):
            assert decoder.decode(bytes.fromhex(block[huffman])) == fields
        assert decoder._table[62:] == [
            (b"custom-key", b"custom-value"), (b"cache-control", b"no-cache"), (b":authority", b"www.example.com"),
        ]  # fmt: skip
        assert decoder._size == 164

    def test_c_5_eviction(self) -> None:
        """RFC 7541 C.5: responses, with a table of 256 bytes."""
        decoder = Decoder(100_000)
        decoder.decode(b"\x3f\xe1\x01")
        first = (
            "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d54"
            "6e1768747470733a2f2f7777772e6578616d706c652e636f6d"
        )
        assert decoder.decode(bytes.fromhex(first)) == [
            (b":status", b"302"), (b"cache-control", b"private"), (b"date", b"Mon, 21 Oct 2013 20:13:21 GMT"),
            (b"location", b"https://www.example.com"),
        ]  # fmt: skip
        assert decoder._size == 222
        assert decoder.decode(bytes.fromhex("4803333037c1c0bf"))[0] == (b":status", b"307")
        assert (decoder._size, decoder._table[-1]) == (222, (b"cache-control", b"private"))

    @laws(40)
    @given(st.lists(st.tuples(blocks, st.booleans(), st.sampled_from([None, 0, 40, 200, 4096])), max_size=12))
    def test_we_read_what_hpack_writes(self, messages: list[tuple[Fields, bool, int | None]]) -> None:
        encoder, decoder = hpack.Encoder(), Decoder(100_000)
        for fields, huffman, size in messages:
            if size is not None:
                encoder.header_table_size = size
            changes = decoder.changes
            before = list(decoder._table)
            assert decoder.decode(encoder.encode(fields, huffman=huffman)) == fields
            assert decoder.changes != changes or decoder._table == before
            assert decoder._table[62:] == list(encoder.header_table.dynamic_entries)
            assert decoder._size == encoder.header_table._current_size

    @laws(300)
    @given(st.lists(st.binary(max_size=12), max_size=4))
    def test_any_bytes_mean_the_same_to_us_and_to_hpack(self, messages: list[bytes]) -> None:
        theirs, ours = hpack.Decoder(max_header_list_size=1 << 30), Decoder(100_000)
        for block in messages:
            try:
                expected: Fields | None = read(theirs, block)
            except (HPACKError, IndexError):
                expected = None
            try:
                found: Fields | None = ours.decode(block)
            except BadBlock:
                found = None
            assert found == expected
            if found is None:
                return

    @pytest.mark.parametrize(
        "block",
        [
            b"\x80", b"\xbe", b"\x7e\x01a", b"\x41", b"\x41\x05a", b"\x40\x81", b"\x41\x81\x00",
            b"\x41\x84\xff\xff\xff\xff", b"\xff\x80\x80\x80\x80\x80\x01", b"\x82\x20", b"\x3f\xe2\x1f", b"\xff",
            b"\x00\x01a\x7f\xff\xff\xff\xff\x0f",
        ],
    )  # fmt: skip
    def test_what_is_wrong(self, block: bytes) -> None:
        with pytest.raises(BadBlock):
            Decoder(100_000).decode(block)

    def test_more_fields_than_anybody_means(self) -> None:
        decoder = Decoder(3)
        assert len(decoder.decode(b"\x82" * 3)) == 3
        with pytest.raises(Inflated):
            decoder.decode(b"\x82" * 4)

    def test_texts_are_remembered_and_bounded(self) -> None:
        encoder, decoder = hpack.Encoder(), Decoder(10)
        for number in range(3000):
            assert decoder.decode(encoder.encode([(b"x", b"%d" % (number // 2))])) == [(b"x", b"%d" % (number // 2))]
        assert len(decompress._texts) <= 1024
        long = encoder.encode([(b"x", b"a" * 1000)])
        before = len(decompress._texts)
        decoder.decode(long)
        assert len(decompress._texts) == before

    def test_sizes_without_end(self) -> None:
        Decoder(1).decode(b"\x20" * 16)
        with pytest.raises(BadBlock):
            Decoder(1).decode(b"\x20" * 17)

    def test_an_entry_larger_than_the_table_empties_it(self) -> None:
        decoder = Decoder(100_000)
        decoder.decode(literal_inserted(b"a", b"b"))
        decoder.decode(literal_inserted(b"a", b"b" * 5000))
        assert (decoder._table[62:], decoder._size) == ([], 0)

    def test_a_name_of_an_entry_that_goes(self) -> None:
        """RFC 7541 §4.4: the entry may be evicted by what refers to it."""
        decoder = Decoder(100_000)
        decoder.decode(literal_inserted(b"x-name", b"v" * 4000))
        assert decoder.decode(b"\x7e" + integer(4000, 7) + b"w" * 4000) == [(b"x-name", b"w" * 4000)]
        assert decoder._table[62:] == [(b"x-name", b"w" * 4000)]

    def test_a_bomb_costs_pointers(self) -> None:
        decoder = Decoder(100_000)
        decoder.decode(literal_inserted(b"x", b"v" * 4000))
        fields = decoder.decode(b"\xbe" * 60_000)
        assert len({id(field) for field in fields}) == 1
        assert len(fields) == 60_000


def literal_inserted(name: bytes, value: bytes) -> bytes:
    return b"\x40" + integer(len(name), 7) + name + integer(len(value), 7) + value
