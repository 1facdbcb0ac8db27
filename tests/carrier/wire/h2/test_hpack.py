"""HPACK (RFC 7541), with the hpack package as the reference."""

from __future__ import annotations

import random

import pytest
from hpack import Decoder, Encoder, HPACKError, NeverIndexedHeaderTuple

from carrier.wire.h2.frames import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, Fault
from carrier.wire.h2.hpack import EMPTY_TABLE, TABLE_SIZE, State, Table, decode, encode, integer

START = State((), 0, TABLE_SIZE, TABLE_SIZE)
MOST = 1 << 20


def fields(block: bytes, state: State = START) -> list[tuple[bytes, bytes]]:
    return decode(state, block, MOST)[0]


def refused(block: bytes, state: State = START) -> str:
    with pytest.raises(Fault) as caught:
        decode(state, block, MOST)
    assert caught.value.code == COMPRESSION_ERROR
    return caught.value.detail


def chosen(random: random.Random) -> list[tuple[bytes, bytes]]:
    """Fields as real ones: names that come again, values old and new, some long."""
    names = (b":method", b":path", b"accept", b"cookie", b"x-user", b"x-trace-id", b"content-type", b"x-" + b"n" * 70)
    values = (b"", b"GET", b"/", b"a=b", b"john", bytes(range(33, 127)), bytes(range(256)), b"v" * 200, b"v" * 5000)
    made = [(random.choice(names), random.choice(values)) for _ in range(random.randrange(12))]
    return [(name, value + b"%d" % random.randrange(1000) if random.random() < 0.4 else value) for name, value in made]


def test_what_the_reference_encodes_is_decoded_and_the_tables_stay_the_same():
    chance = random.Random(7541)
    for _ in range(20):
        encoder, state, reference = Encoder(), START, Decoder(MOST)
        for _ in range(20):
            if chance.random() < 0.2:
                encoder.header_table_size = chance.choice((0, 100, 1000, 4096))
            said = chosen(chance)
            block = encoder.encode(said, huffman=chance.random() < 0.7)
            read, size, _, state = decode(state, block, MOST)
            assert read == said == [tuple(pair) for pair in reference.decode(block, raw=True)]
            assert size == sum(len(name) + len(value) + 32 for name, value in said)
            assert list(state.entries) == list(reference.header_table.dynamic_entries)
            assert state.limit == reference.header_table_size


def test_damaged_blocks_are_refused_or_mean_what_they_mean_to_the_reference():
    chance = random.Random(9113)
    taken = 0
    for _ in range(400):
        encoder, reference, state = Encoder(), Decoder(MOST), START
        block = bytearray(encoder.encode(chosen(chance)))
        for _ in range(chance.randrange(1, 4)):
            if block:
                block[chance.randrange(len(block))] = chance.randrange(256)
        data = bytes(block[: chance.randrange(len(block) + 1)] if chance.random() < 0.3 else block)
        try:
            expected = [tuple(pair) for pair in reference.decode(data, raw=True)]
        except (HPACKError, IndexError):
            expected = None
        try:
            read, _, _, state = decode(state, data, MOST)
        except Fault:
            continue
        assert read == expected, data.hex()
        assert list(state.entries) == list(reference.header_table.dynamic_entries)
        taken += 1
    assert taken > 50


def test_what_we_encode_the_reference_decodes_and_puts_nothing_into_its_table():
    chance = random.Random(1)
    reference = Decoder(MOST)
    for _ in range(100):
        said = chosen(chance)
        assert [tuple(pair) for pair in reference.decode(encode(said), raw=True)] == said
    assert not reference.header_table.dynamic_entries


def test_a_state_never_changes_and_the_same_block_leads_to_the_same_next_one():
    block = Encoder().encode([(b"x-user", b"john")])
    _, _, _, first = decode(START, block, MOST)
    _, _, _, second = decode(START, block, MOST)
    assert START.entries == () and first.entries == second.entries == ((b"x-user", b"john"),)
    assert decode(first, b"\xbe", MOST)[0] == [(b"x-user", b"john")]
    assert decode(first, b"\xbe", MOST)[3] is first


def test_an_entry_larger_than_the_table_empties_it():
    _, _, _, state = decode(START, Encoder().encode([(b"x-user", b"john")]), MOST)
    _, _, _, state = decode(state, b"\x40\x01x\x7f\x81\x1f" + b"v" * 4096, MOST)
    assert (state.entries, state.size) == ((), 0)


def test_the_oldest_entries_go_when_the_table_is_full():
    state = START
    for n in range(40):
        _, _, _, state = decode(state, b"\x40\x01x\x64" + b"%04d" % n * 25, MOST)
    assert state.size <= TABLE_SIZE and len(state.entries) == TABLE_SIZE // 133
    assert state.entries[0] == (b"x", b"0039" * 25)


def test_an_index_beyond_the_table_and_index_0_are_refused():
    assert "index 62" in refused(b"\xbe")
    assert "index 0" in refused(b"\x80")
    assert "index 70" in refused(b"\x7f\x07\x01v")


def test_a_block_of_table_sizes_is_a_flood_of_them():
    assert decode(START, b"\x20\x3f\xe1\x1f" * 4 + b"\x82", 1000)[0] == [(b":method", b"GET")]
    assert "more than 8 table sizes" in refused(b"\x20" * 9 + b"\x82")


def test_a_table_size_stands_first_and_within_what_we_allow():
    assert fields(b"\x3f\xe1\x1f\x82") == [(b":method", b"GET")]
    assert "behind a field" in refused(b"\x82\x20")
    assert "4097" in refused(b"\x3f\xe2\x1f\x82")


def test_after_we_allow_less_the_next_block_has_to_obey():
    _, _, _, state = decode(START, Encoder().encode([(b"x-user", b"john")]), MOST)
    less = state.allowing(1000)
    assert "no table size" in refused(b"\x82", less)
    assert "no table size" in refused(b"", less)
    _, _, _, after = decode(less, b"\x3f\xc9\x07\x82", MOST)
    assert (after.limit, after.due, after.entries) == (1000, False, ((b"x-user", b"john"),))
    assert decode(less, EMPTY_TABLE, MOST)[3].entries == ()


def test_to_allow_more_asks_for_nothing():
    more = START.allowing(8192)
    assert fields(b"\x82", more) == [(b":method", b"GET")]
    assert decode(more, b"\x3f\xe1\x3f", MOST)[3].limit == 8192
    assert START.allowing(8192) is more


def test_a_table_that_changes_reads_as_states_do():
    chance = random.Random(11)
    for _ in range(8):
        encoder, state, table = Encoder(), START, Table(START)
        for _ in range(20):
            block = encoder.encode(chosen(chance))
            read, _, never, state = decode(state, block, MOST)
            found, literals, said = table.read(block)
            assert (found, said) == (read, never)
            assert all(0 <= i < len(found) for i in literals)
            after = table.state()
            assert (after.entries, after.size, after.limit) == (state.entries, state.size, state.limit)


def test_a_table_is_told_as_a_state_is_that_we_allow_less():
    table = Table(START)
    table.read(Encoder().encode([(b"x-user", b"john")]))
    table.allow(1000)
    with pytest.raises(Fault, match="no table size"):
        table.read(b"\x82")
    assert table.read(b"\x3f\xc9\x07\x82")[0] == [(b":method", b"GET")] and not table.due


def test_integers_that_are_cut_off_or_too_large_are_refused():
    assert integer(b"\x1f\x9a\x0a", 0, 5) == (1337, 3)
    for wrong in (b"\xff", b"\xff\x80\x80", b"\xff" + b"\x80" * 9 + b"\x01", b"\xff\xff\xff\xff\xff\x7f"):
        assert refused(wrong)


def test_strings_that_are_cut_off_are_refused():
    for block in (b"\x40", b"\x40\x05ab", b"\x40\x01a", b"\x40\x01a\x05ab", b"\x00\xff"):
        assert refused(block)


def test_names_that_are_never_to_be_indexed_are_told_and_kept_so():
    block = Encoder().encode([NeverIndexedHeaderTuple(b"x-key", b"secret"), (b"a", b"b")])
    assert decode(START, block, MOST)[2] == [b"x-key"]
    assert decode(START, encode([(b"x-key", b"s"), (b"a", b"b")], frozenset((b"x-key",))), MOST)[2] == [b"x-key"]
    assert decode(START, encode([(b"authorization", b"s"), (b"cookie", b"a")]), MOST)[2] == [b"authorization", b"cookie"]


def test_beyond_the_bound_fields_are_counted_but_not_kept_and_the_table_stays_exact():
    block = Encoder().encode([(b"a", b"v" * 100)] * 3 + [(b"x-user", b"john")])
    read, size, _, state = decode(START, block, 200)
    assert len(read) == 1 and size == 3 * 133 + 42
    assert state.entries == decode(START, block, MOST)[3].entries


def test_a_bomb_ends_the_connection_before_it_has_grown():
    _, _, _, state = decode(START, b"\x40\x01x\x7f\x81\x1d" + b"v" * 3840, MOST)
    with pytest.raises(Fault) as caught:
        decode(state, b"\xbe" * 60000, 32768)
    assert (caught.value.code, caught.value.reason) == (ENHANCE_YOUR_CALM, "heads-too-large")
