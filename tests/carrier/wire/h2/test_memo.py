"""Blocks that were read before."""

from __future__ import annotations

import gc
import random
import tracemalloc

import pytest
from hpack import Encoder

from carrier.wire.h2 import Limits, Memo, encode
from carrier.wire.h2.fields import read
from carrier.wire.h2.frames import frame
from carrier.wire.h2.hpack import size_of
from carrier.wire.h2.memo import RICH
from tests.h2talk import GET, server

LIMITS = Limits()


def requests(encoder: Encoder, *more: list[tuple[bytes, bytes]]) -> list[bytes]:
    """HEADERS frames of a client that fills its table."""
    return [frame(1, 5, 2 * n + 1, encoder.encode([*GET, *fields])) for n, fields in enumerate(more)]


def test_a_client_of_the_same_kind_is_read_without_decoding():
    memo = Memo(LIMITS)
    said = [(b"user-agent", b"x/1"), (b"x-user", b"john")]
    first, heard = server(LIMITS, memo)
    first.feed(b"".join(requests(Encoder(), said, said, said)), 0.0)
    size = memo.size
    second, also = server(LIMITS, memo)
    second.feed(b"".join(requests(Encoder(), said, said, said)), 0.0)
    assert memo.size == size
    assert [mine is other for mine, other in zip(heard.sections, also.sections, strict=True)] == [True] * 3
    assert second._state is first._state


def test_the_same_bytes_after_another_table_are_another_section():
    memo, second = Memo(LIMITS), []
    for user in (b"john", b"mary"):
        engine, heard = server(LIMITS, memo)
        wire = requests(Encoder(), [(b"x-user", user)], [(b"x-user", user)])
        engine.feed(b"".join(wire), 0.0)
        assert [section.get(b"x-user") for section in heard.sections] == [user, user]
        second.append(wire[1])
    assert second[0] == second[1], "the bytes are the same, what they mean is not"


def test_an_eviction_is_another_table():
    memo = Memo(LIMITS)
    encoder = Encoder()
    engine, heard = server(LIMITS, memo)
    wire, asked = b"", []
    for n in range(60):
        value = b"%04d" % (n % 7) * 100
        asked.append(value)
        wire += frame(1, 5, 2 * n + 1, encoder.encode([*GET, (b"x-user", value)]))
    engine.feed(wire, 0.0)
    assert [section.get(b"x-user") for section in heard.sections] == asked


def traced(encoder: Encoder, number: int, *more: tuple[bytes, bytes]) -> bytes:
    """A request with a trace id that no other has."""
    return frame(1, 5, 2 * number + 1, encoder.encode([*GET, *more, (b"x-trace-id", b"%032d" % number)]))


def test_heads_that_differ_in_a_trace_id_are_known_by_their_shape():
    memo = Memo(LIMITS)
    engine, heard = server(LIMITS, memo)
    encoder = Encoder()
    heard.then["head"] = lambda stream: stream.reset()
    for n in range(400):
        engine.feed(traced(encoder, n, (b"x-user", b"john")), 0.0)
    assert [section.get(b"x-trace-id") for section in heard.sections] == [b"%032d" % n for n in range(400)]
    assert all(section.get(b"x-user") == b"john" and section.path == b"/x" for section in heard.sections)
    sizes = {section.size for section in heard.sections}
    assert len(sizes) == 1, "each counts as much"
    assert sum(section.shape is not None for section in heard.sections) > 380
    assert len(memo.shapes) < 10


def test_what_is_read_by_its_shape_is_what_reading_it_anew_gives():
    chance = random.Random(17)
    memo = Memo(LIMITS)
    engine, heard = server(LIMITS, memo)
    encoder = Encoder()
    heard.then["head"] = lambda stream: stream.reset()
    said = []
    for n in range(600):
        fields = [*GET, (b"a", b"%d" % chance.randrange(3)), (b"x-trace-id", b"%d" % n * chance.randrange(1, 9))]
        fields += [(b"x-twice", b"%d" % chance.randrange(10**6))] * chance.randrange(3)
        fields += [(b"cookie", b"c%d=%d" % (i, chance.randrange(9))) for i in range(chance.randrange(3))]
        said.append(fields)
        engine.feed(frame(1, 5, 2 * n + 1, encoder.encode(fields, huffman=chance.random() < 0.5)), 0.0)
    assert len(heard.sections) == 600
    for section, fields in zip(heard.sections, said, strict=True):
        fresh = read(fields, size_of(fields), (), LIMITS, False)
        for name in ("method", "scheme", "authority", "path", "fields", "length", "size", "problem", "excess", "status", "never"):
            assert getattr(section, name) == getattr(fresh, name), name
    assert sum(section.shape is not None for section in heard.sections) > 100


def test_a_value_with_blanks_around_it_is_read_anew_and_is_no_pattern_for_others():
    memo = Memo(LIMITS)
    engine, heard = server(LIMITS, memo)
    encoder = Encoder()
    heard.then["head"] = lambda stream: stream.reset()
    said = [b"%d" % n if n % 3 else b" %d " % n for n in range(60)]
    for n, value in enumerate(said):
        more = [(b"x-kind", b"%d" % (n // 10))]  # each kind is met first with blanks, or without
        engine.feed(frame(1, 5, 2 * n + 1, encoder.encode([*GET, *more, (b"x-trace-id", value)])), 0.0)
    assert [section.get(b"x-trace-id") for section in heard.sections] == [value.strip() for value in said]
    assert any(section.shape is not None for section in heard.sections)


@pytest.mark.parametrize("value", [b"a\nb", b"\x00", b"v" * 9000])
def test_a_value_that_may_not_be_is_refused_however_well_its_shape_is_known(value):
    memo = Memo(LIMITS)
    engine, heard = server(LIMITS, memo)
    encoder = Encoder()
    heard.then["head"] = lambda stream: stream.reset()
    for n in range(40):
        engine.feed(traced(encoder, n), 0.0)
    assert heard.sections[-1].shape is not None
    engine.feed(frame(1, 5, 81, encode([*GET, (b"x-trace-id", value)])), 0.0)
    assert heard.says[-1][0] == "refused" and len(heard.sections) == 40


def test_fields_with_a_meaning_are_never_taken_for_what_differs():
    memo = Memo(LIMITS)
    engine, heard = server(LIMITS, memo)
    encoder = Encoder()
    heard.then["head"] = lambda stream: stream.reset()
    for n in range(60):
        fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/%d" % n), (b":authority", b"a%d" % n), (b"cookie", b"%d" % n)]
        fields += [(b"content-type", b"t/%d" % n), (b"te", b"trailers"), (b"x-carrier-hops", b"%d" % n), (b"authorization", b"NTLM %d" % n)]
        engine.feed(frame(1, 5, 2 * n + 1, encoder.encode(fields)), 0.0)
    assert not memo.differ
    assert [section.path for section in heard.sections] == [b"/%d" % n for n in range(60)]


def test_a_connection_whose_heads_come_again_reads_by_states_again():
    memo = Memo(LIMITS)
    engine, heard = server(LIMITS, memo)
    encoder = Encoder()
    heard.then["head"] = lambda stream: stream.reset()
    for n in range(20):
        engine.feed(traced(encoder, n), 0.0)
    assert engine._table is not None
    for n in range(20, 20 + RICH + 8):
        engine.feed(frame(1, 5, 2 * n + 1, encoder.encode([*GET, (b"x-user", b"john")])), 0.0)
    assert engine._table is None
    assert all(section.get(b"x-user") == b"john" for section in heard.sections[20:])
    assert heard.sections[-1] is heard.sections[-2]


def test_heads_whose_like_never_comes_are_soon_kept_no_longer():
    memo = Memo(LIMITS)
    engine, heard = server(LIMITS, memo)
    encoder = Encoder()
    heard.then["head"] = lambda stream: stream.reset()
    for n in range(400):
        fields = [*GET[:2], (b":path", b"/%d" % n), *GET[3:]]
        engine.feed(frame(1, 5, 2 * n + 1, encoder.encode(fields)), 0.0)
    assert len(heard.sections) == 400
    assert len(memo.shapes) < 8 + 400 // 16 + 2


def test_what_is_kept_is_bounded_in_bytes_and_all_stays_right():
    memo = Memo(LIMITS, most=20_000)
    for n in range(100):
        engine, heard = server(LIMITS, memo)
        engine.feed(b"".join(requests(Encoder(), [(b"x-user", b"%d" % n)], [(b"x-user", b"%d" % n)])), 0.0)
        assert [section.get(b"x-user") for section in heard.sections] == [b"%d" % n] * 2
        assert memo.size <= 20_000


def test_a_connection_goes_on_when_all_was_forgotten():
    memo = Memo(LIMITS)
    engine, heard = server(LIMITS, memo)
    one, two = requests(Encoder(), [(b"x-user", b"john")], [(b"x-user", b"john")])
    engine.feed(one, 0.0)
    memo.clear()
    engine.feed(two, 0.0)
    assert memo.size > 0 and heard.sections[1].get(b"x-user") == b"john"
    assert heard.sections[0] is not heard.sections[1]


def test_what_is_malformed_or_too_large_is_not_kept():
    memo = Memo(Limits(fields=6))
    engine, _ = server(memo.limits, memo)
    engine.feed(b"".join(requests(Encoder(), [(b"X", b"a")], [(b"a", b"b")] * 9)), 0.0)
    assert memo.size == 0


def test_the_bound_is_that_of_the_memory_that_is_used():
    tracemalloc.start()
    try:
        memo, before = Memo(LIMITS), tracemalloc.get_traced_memory()[0]
        for n in range(200):
            engine, _ = server(LIMITS, memo)
            engine.feed(requests(Encoder(), [(b"x-trace-id", b"%032d" % n)])[0], 0.0)
        del engine
        gc.collect()  # engines lie in circles
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert memo.size / 4 < used < memo.size, "the rest is for what owners keep"
