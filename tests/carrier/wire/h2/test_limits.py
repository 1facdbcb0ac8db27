"""What one connection may cost: floods end with ENHANCE_YOUR_CALM, and honest peers never meet it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hpack import Encoder

from carrier.wire.h2 import REASONS, Limits, encode
from carrier.wire.h2.frames import ACK, CONTINUATION, HEADERS, PING, frame, rst_frame, settings_frame, window_frame
from tests.h2talk import GET, OK, POST, client, content, data, frames, goaway, head, server

CALM = 11


def resets() -> Iterator[bytes]:
    for n in range(1, 100_000, 2):
        yield head(n, GET) + rst_frame(n, 8)


def resets_of_answers_that_have_begun() -> Iterator[bytes]:
    yield settings_frame({4: 300})
    for n in range(1, 100_000, 2):
        yield head(n, GET) + rst_frame(n, 8)


def pings() -> Iterator[bytes]:
    while True:
        yield frame(PING, 0, 0, b"12345678")


def unasked_acknowledgements() -> Iterator[bytes]:
    while True:
        yield frame(PING, ACK, 0, b"12345678")


def settings() -> Iterator[bytes]:
    while True:
        yield settings_frame({3: 100, 4: 65535})


def priorities() -> Iterator[bytes]:
    while True:
        yield frame(2, 0, 1, b"\0\0\0\0\x10")


def window_updates() -> Iterator[bytes]:
    while True:
        yield window_frame(0, 1)


def window_dribble() -> Iterator[bytes]:
    yield settings_frame({4: 0}) + head(1, GET)
    while True:
        yield window_frame(1, 1)


def empty_content() -> Iterator[bytes]:
    yield head(1, POST, last=False)
    while True:
        yield data(1, b"")


def tiny_content() -> Iterator[bytes]:
    yield head(1, POST, last=False)
    while True:
        yield data(1, b"x")


def continuations() -> Iterator[bytes]:
    yield frame(HEADERS, 1, 1, encode(GET))
    while True:
        yield frame(CONTINUATION, 0, 1, b"")


def large_continuations() -> Iterator[bytes]:
    yield frame(HEADERS, 1, 1, encode(GET))
    while True:
        yield frame(CONTINUATION, 0, 1, encode([(b"x", b"y" * 900)]))


def large_heads() -> Iterator[bytes]:
    for n in range(1, 100_000, 2):
        yield head(n, [*GET, *[(b"cookie", b"a=b")] * 220])


def bombs() -> Iterator[bytes]:
    encoder = Encoder()
    yield frame(HEADERS, 5, 1, encoder.encode([*GET, (b"x-bomb", b"z" * 3900)]))
    yield frame(HEADERS, 5, 3, encode(GET) + b"\xbe" * 15000)


def malformed_heads() -> Iterator[bytes]:
    for n in range(1, 100_000, 2):
        yield head(n, [*GET, (b"connection", b"close")])


def streams_without_end() -> Iterator[bytes]:
    for n in range(1, 100_000, 2):
        yield head(n, POST, last=False)


def unknown_frames() -> Iterator[bytes]:
    while True:
        yield frame(200, 0, 0, b"what")


def late_frames() -> Iterator[bytes]:
    yield head(1, POST, last=False)
    while True:
        yield rst_frame(1, 8)


def resets_of_one_that_has_ended() -> Iterator[bytes]:
    yield head(1, GET)
    while True:
        yield rst_frame(1, 8)


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (resets, "rapid-reset"),
        (resets_of_answers_that_have_begun, "rapid-reset"),
        (pings, "ping-flood"),
        (unasked_acknowledgements, "ping-flood"),
        (settings, "settings-flood"),
        (priorities, "priority-flood"),
        (window_updates, "window-update-flood"),
        (window_dribble, "window-update-flood"),
        (empty_content, "empty-frame-flood"),
        (tiny_content, "tiny-data-flood"),
        (continuations, "empty-frame-flood"),
        (large_continuations, "heads-too-large"),
        (large_heads, "heads-too-large"),
        (bombs, "heads-too-large"),
        (malformed_heads, "bad-streams"),
        (streams_without_end, "streams-over-limit"),
        (unknown_frames, "unknown-frame-flood"),
        (late_frames, "frames-on-closed-streams"),
        (resets_of_one_that_has_ended, "rapid-reset"),
    ],
)
def test_a_flood_ends_the_connection_and_the_reason_is_said_and_countable(attack, reason):
    engine, heard = server()
    heard.then["head"] = lambda stream: stream.send_message(encode(OK), b"0123456789" * 100)
    heard.then["refused"] = lambda stream: stream.send_head(encode([(b":status", b"431")]), True)
    flood, taken = attack(), 0
    while engine.failure is None:
        piece = next(flood)
        engine.feed(piece, 0.0)
        taken += len(piece)
        assert taken < 4_000_000, "never ended"
    wire = engine.take()
    assert engine.failure.reason == reason in REASONS
    assert goaway(wire) == CALM and frames(wire)[-1][3][8:] == reason.encode()
    assert engine.streams == engine.waiting == {}
    assert not engine.feed(next(flood, b""), 0.0) and engine.take() == b""


def stalled() -> Iterator[bytes]:
    yield settings_frame({4: 0})
    for n in range(1, 100_000, 2):
        yield head(n, GET)


def made_resets_by_windows() -> Iterator[bytes]:
    """CVE-2025-8671: it is we who are made to reset."""
    for n in range(1, 100_000, 2):
        yield head(n, GET) + frame(8, 0, n, b"\0\0\0\0")


def made_resets_by_priorities() -> Iterator[bytes]:
    for n in range(1, 100_000, 2):
        yield head(n, GET) + frame(2, 0, n, b"\0\0\0\0")


def padded_nothing() -> Iterator[bytes]:
    yield head(1, POST, last=False)
    while True:
        yield frame(0, 8, 1, b"\x05\0\0\0\0\0")


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (resets, "rapid-reset"),
        (stalled, "stalled-streams"),
        (made_resets_by_windows, "bad-streams"),
        (made_resets_by_priorities, "bad-streams"),
        (padded_nothing, "empty-frame-flood"),
    ],
)
def test_a_flood_ends_the_connection_however_fast_the_upstream_is(attack, reason):
    """Each stream has been answered, and has ended in order, before the rest of the flood is read."""
    engine, heard = server()
    heard.then["head"] = lambda stream: stream.send_head(encode([(b":status", b"204")]), True)
    for taken, piece in enumerate(attack()):
        engine.feed(piece, 0.0)
        engine.take()
        if engine.failure is not None:
            break
        assert taken < 5_000, "never ended"
    assert engine.failure.reason == reason in REASONS


@pytest.mark.parametrize(
    ("attack", "reason"),
    [(made_resets_by_windows, "bad-streams"), (made_resets_by_priorities, "bad-streams"), (stalled, "streams-over-limit")],
)
def test_a_flood_ends_the_connection_however_slow_the_upstream_is(attack, reason):
    engine, _ = server()
    for taken, piece in enumerate(attack()):
        engine.feed(piece, 0.0)
        engine.take()
        if engine.failure is not None:
            break
        assert taken < 1_000, "never ended"
    assert engine.failure.reason == reason


def test_who_opens_windows_one_by_one_is_no_attacker():
    """A client whose streams begin without a window, and get one each when it is ready to read (JDK, Jetty: manual flow control)."""
    engine, heard = server()
    heard.then["head"] = lambda stream: stream.send_message(encode(OK), b"x" * 300)
    engine.feed(settings_frame({4: 0}), 0.0)
    for n in range(1, 20_000, 2):
        engine.feed(head(n, GET) + window_frame(n, 1000) + window_frame(0, 300), 0.0)
        engine.take()
    assert engine.failure is None and not engine.streams


def test_a_window_for_all_streams_counts_for_those_that_were_opened_without_one():
    engine, heard = server()
    heard.then["head"] = lambda stream: stream.send_message(encode(OK), b"x" * 30)
    for n in range(1, 4000, 2):
        engine.feed(settings_frame({4: 0}) + head(n, GET) + settings_frame({4: 65535}) + window_frame(0, 30), n / 10)
        engine.take()
    assert engine.failure is None and not engine.streams


def test_replies_that_nobody_reads_are_bounded():
    engine, _ = server(Limits(budget=10**9))
    engine.hold()
    for _ in range(100_000):
        engine.feed(frame(PING, 0, 0, b"12345678"), 0.0)
        if engine.failure:
            break
    assert engine.failure.reason == "unread-replies"
    assert sum(map(len, engine.out)) < 70_000


def test_time_gives_points():
    engine, _ = server()
    now = 0.0
    for _ in range(20_000):
        engine.feed(frame(PING, 0, 0, b"12345678"), now)
        now += 0.01
    assert engine.failure is None


def test_who_resets_as_many_as_end_in_order_is_no_attacker():
    engine, heard = server()
    heard.then["head"] = lambda stream: stream.id % 4 == 1 and stream.send_message(encode(OK), b"hello")
    for n in range(1, 20_000, 2):
        engine.feed(head(n, GET) + (rst_frame(n, 8) if n % 4 == 3 else b""), 0.0)
    assert engine.failure is None


def test_deadlines_that_pass_late_are_no_rapid_resets():
    engine, _ = server()
    for n in range(1, 4000, 2):
        engine.feed(head(n, GET), n / 10)
        engine.feed(rst_frame(n, 8), n / 10 + 0.6)
    assert engine.failure is None


def test_a_thousand_small_messages_a_stream_with_pings_and_windows_are_no_flood():
    """As gRPC clients do: a small message each way, a ping and two window updates for each."""
    engine, heard = server()
    heard.then["data"] = lambda stream: stream.send_data(b"\0\0\0\0\0")
    for n in range(1, 41, 2):
        engine.feed(head(n, POST, last=False), 0.0)
        heard.streams[n].send_head(encode(OK))
        for _ in range(1000):
            engine.feed(data(n, b"\0\0\0\0\0") + frame(PING, 0, 0, b"12345678") + window_frame(0, 5) + window_frame(n, 5), 0.0)
            engine.take()
        assert engine.failure is None, engine.failure


def test_an_upstream_that_refuses_and_resets_is_no_attacker():
    engine, heard = client()
    for _ in range(1500):
        stream = engine.request(encode(GET), True)
        engine.feed(rst_frame(stream.id, 7), 0.0)
    assert engine.failure is None and heard.says[-1] == ("reset", stream.id, 7)


def test_interim_answers_without_end_are_a_flood():
    engine, _ = client()
    stream = engine.request(encode(GET), True)
    while engine.failure is None:
        engine.feed(head(stream.id, [(b":status", b"103")], last=False), 0.0)
    assert engine.failure.reason == "interim-answers"


def test_what_a_flood_may_hold_is_small():
    """A client that never reads what it asked for: each stream holds its answer, no more streams are taken than the limit says."""
    engine, heard = server(Limits(streams=10))
    heard.then["head"] = lambda stream: stream.send_message(encode(OK), b"x" * 1000)
    engine.feed(settings_frame({4: 0}), 0.0)
    for n in range(1, 401, 2):
        engine.feed(head(n, GET), 0.0)
        if engine.failure:
            break
    assert len({n for what, n, *_ in heard.says if what == "head"}) == 10
    assert content(engine.take(), 1) == b""


def test_content_on_its_way_to_a_stream_that_we_reset_is_nobodys_fault():
    engine, _ = client()
    for _ in range(20):
        stream = engine.request(encode(GET), True)
        engine.feed(head(stream.id, OK, last=False), 0.0)
        stream.reset()
        engine.feed(data(stream.id, b"x" * 100) * 600, 0.0)
        while engine.feed(b"", 0.0):
            pass
    assert engine.failure is None
