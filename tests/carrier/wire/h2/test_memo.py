"""Blocks that were read before."""

from __future__ import annotations

import tracemalloc

from hpack import Encoder

from carrier.wire.h2 import Limits, Memo
from carrier.wire.h2.frames import frame
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


def test_heads_that_are_always_new_are_soon_kept_no_longer():
    memo = Memo(LIMITS)
    engine, heard = server(LIMITS, memo)
    encoder = Encoder()
    for n in range(400):
        heard.then["head"] = lambda stream: stream.reset()
        engine.feed(frame(1, 5, 2 * n + 1, encoder.encode([*GET, (b"x-trace-id", b"%032d" % n)])), 0.0)
    assert len(heard.sections) == 400
    assert sum(section.kept for section in heard.sections) < 8 + 400 // 16 + 1


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
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert memo.size / 4 < used < memo.size, "the rest is for what owners keep"
