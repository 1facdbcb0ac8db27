"""An HTTP/2 connection between two reads: what its owner asks of it, and how it ends."""

from __future__ import annotations

import gc
import weakref

import pytest

from carrier.errors import Error
from carrier.wire.h2 import PREFACE, Limits, Memo, encode
from carrier.wire.h2.frames import (
    ACK,
    GOAWAY,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    PING,
    RST_STREAM,
    SETTINGS,
    STREAM_MAX,
    frame,
    goaway_frame,
    read_goaway,
    read_settings,
    rst_frame,
    settings_frame,
)
from tests.h2talk import GET, OK, POST, carry, client, data, frames, goaway, head, resets, server, windows


def test_a_server_says_its_settings_first():
    engine, _ = server(Limits(streams=7, window=70_000, head=9_000, table=100), greeted=False)
    wire = engine.take()
    assert dict(read_settings(frames(wire)[0][3])) == {3: 7, 4: 70_000, 6: 9_000, 1: 100, 8: 1}
    assert windows(wire) == [(0, 1024 * 1024 - 65535)]
    assert engine.take() == b""


def test_a_client_says_the_preface_and_wants_no_push():
    engine, _ = client(greeted=False)
    wire = engine.take()
    assert wire.startswith(PREFACE)
    settings = dict(read_settings(frames(wire[24:])[0][3]))
    assert settings[2] == 0 and 3 not in settings


def test_a_client_opens_odd_streams_in_their_order_while_there_are_places():
    engine, _ = client()
    engine.feed(settings_frame({3: 2}), 0.0)
    assert engine.places == 2
    assert [engine.request(encode(GET)).id for _ in range(2)] == [1, 3]
    assert engine.places == 0
    with pytest.raises(Error) as caught:
        engine.request(encode(GET))
    assert "2 are open, the peer allows 2" in caught.value.detail and caught.value.retry == "yes"


def test_numbers_of_streams_end():
    engine, _ = client()
    engine._next = STREAM_MAX
    assert engine.request(encode(GET)).id == STREAM_MAX
    assert engine.places == 0


def test_a_server_that_drains_says_so_and_sets_the_last_stream_when_that_was_read():
    engine, heard = server()
    engine.feed(head(1, GET), 0.0)
    engine.drain()
    (kind, _, _, said), ping = frames(engine.take())
    assert (kind, read_goaway(said)[:2]) == (GOAWAY, (STREAM_MAX, 0))
    engine.feed(head(3, GET), 0.0)
    assert heard.says[-1] == ("head", 3, b"/x", True), "on its way when we said so: it is served"
    engine.feed(frame(PING, ACK, 0, ping[3]), 0.0)
    assert [read_goaway(payload)[0] for kind, *_, payload in frames(engine.take()) if kind == GOAWAY] == [3]
    engine.feed(head(5, GET) + head(7, POST, last=False) + data(7, b"x"), 0.0)
    assert heard.says[-1] == ("head", 3, b"/x", True) and engine.take() == b"" and not engine.finished
    for n in (1, 3):
        heard.streams[n].send_message(encode(OK), b"bye")
    assert engine.finished and engine.failure is None


def test_a_server_may_drain_at_once():
    engine, _ = server()
    engine.feed(head(1, GET), 0.0)
    engine.drain(at_once=True)
    engine.drain()
    assert [read_goaway(payload)[:2] for *_, payload in frames(engine.take())] == [(1, 0)]


def test_a_client_that_drains_opens_no_more_and_keeps_what_is_open():
    engine, heard = client()
    stream = engine.request(encode(GET), True)
    engine.drain()
    assert engine.places == 0 and not engine.finished
    engine.feed(head(stream.id, OK), 0.0)
    assert heard.says == [("head", 1, 200, True)] and engine.finished


def test_goaway_gives_back_what_the_peer_has_not_seen():
    engine, heard = client()
    for _ in range(3):
        engine.request(encode(GET), True)
    engine.feed(goaway_frame(3, 0, "later"), 0.0)
    assert heard.says == [("reset", 5, 7), ("goaway", 3, 0)]
    assert sorted(engine.streams) == [1, 3] and engine.places == 0
    engine.feed(head(1, OK) + head(3, OK), 0.0)
    assert engine.finished


def test_a_failure_resets_every_stream_and_ends_with_goaway():
    engine, heard = server()
    engine.feed(head(1, GET) + head(3, GET), 0.0)
    engine.feed(b"\0\0\1\x08\0\0\0\0\0x", 0.0)
    assert [says for says in heard.says if says[0] == "reset"] == [("reset", 1, 6), ("reset", 3, 6)]
    wire = engine.take()
    assert read_goaway(frames(wire)[-1][3]) == (3, 6, '"WINDOW_UPDATE of 1 bytes, it has 4"')
    assert engine.failure.reason == "frame-size-error"


def test_close_ends_it_from_our_side_even_from_within_a_call():
    engine, heard = server()
    heard.then["head"] = lambda stream: engine.close(2, "broken", "internal")
    engine.feed(head(1, GET) + head(3, GET), 0.0)
    assert heard.says == [("head", 1, b"/x", True), ("reset", 1, 2)]
    assert goaway(engine.take()) == 2 and engine.failure.reason == "internal"


def test_a_transport_that_is_gone_resets_every_stream_and_nothing_is_left_to_send():
    engine, heard = client()
    engine.request(encode(GET), True)
    engine.lost("reset by peer")
    engine.lost("again")
    assert heard.says == [("reset", 1, 8)] and engine.take() == b"" and not engine.streams


def test_a_stream_that_we_reset_may_still_send_what_was_on_its_way():
    engine, heard = server()
    engine.feed(head(1, POST, last=False), 0.0)
    heard.streams[1].reset()
    engine.take()
    engine.feed(data(1, b"late") + head(1, [(b"x-sum", b"1")]) + rst_frame(1, 8), 0.0)
    assert engine.failure is None and resets(engine.take()) == [] and heard.says == [("head", 1, b"/x", False)]


def test_a_stream_that_the_peer_reset_is_closed_for_it():
    engine, _ = server()
    engine.feed(head(1, POST, last=False) + rst_frame(1, 8) + data(1, b"late"), 0.0)
    assert engine.failure is None and resets(engine.take()) == [(1, 5)]


def test_of_many_resets_the_old_ones_are_treated_kindly():
    engine, heard = server(Limits(budget=10**6))
    heard.then["head"] = lambda stream: stream.reset()
    for n in range(1, 1001, 2):
        engine.feed(head(n, POST, last=False), 0.0)
    engine.take()
    engine.feed(data(1, b"late") + data(999, b"late"), 0.0)
    assert engine.failure is None and resets(engine.take()) == []
    assert len(engine._resets) <= 128


def test_changed_settings_hold_once_they_are_acknowledged():
    engine, heard = server()
    engine.feed(head(1, POST, last=False), 0.0)
    engine.now = 3.0
    engine.change({INITIAL_WINDOW_SIZE: 100, HEADER_TABLE_SIZE: 0})
    stream = heard.streams[1]
    assert (stream.room, engine.settings_since) == (65535, 3.0)
    engine.feed(frame(SETTINGS, ACK, 0), 4.0)
    assert (stream.room, engine.our_window, engine.settings_since) == (100, 100, 0.0)
    engine.feed(head(3, GET), 4.0)
    assert engine.failure.reason == "compression-error" and "no table size" in engine.failure.detail


def test_owners_see_since_when_something_is_waited_for():
    engine, _ = server(greeted=False)
    assert engine.begun_since == engine.settings_since > 0.0
    engine.feed(PREFACE + settings_frame({}) + frame(SETTINGS, ACK, 0), 2.0)
    assert engine.begun_since == engine.settings_since == 0.0
    wire = frame(1, 1, 1, encode(GET))
    engine.feed(wire[:12], 3.0)
    assert engine.begun_since == 3.0
    engine.feed(wire[12:], 4.0)
    assert engine.begun_since == 4.0, "CONTINUATION is to come"
    engine.feed(frame(9, 4, 1, b""), 5.0)
    assert engine.begun_since == 0.0
    engine.feed(head(3, GET)[:15], 6.0)
    engine.feed(head(3, GET)[15:], 7.0)
    assert engine.begun_since == 0.0


def test_a_head_that_is_too_large_is_answered_and_the_stream_goes():
    engine, heard = server(Limits(fields=10))
    heard.then["refused"] = lambda stream: stream.send_head(encode([(b":status", b"431")]), True)
    engine.feed(head(1, [*POST, *[(b"a", b"b")] * 20], last=False) + data(1, b"dropped", last=True), 0.0)
    assert heard.says[0][:3] == ("refused", 1, "headers-too-large") and len(heard.says) == 1
    wire = engine.take()
    assert [kind for kind, *_ in frames(wire)] == [1, RST_STREAM] and resets(wire) == [(1, 0)]
    assert engine.streams == {} and engine.failure is None


def test_a_refused_stream_may_be_sent_again_and_says_so():
    (asks, told), (answers, heard) = client(greeted=False), server(Limits(streams=1), greeted=False)
    first, second = asks.request(encode(GET)), asks.request(encode(GET), True)
    carry(asks, answers)
    assert told.says == [("reset", second.id, 7)]
    assert heard.says[1][:3] == ("refused", 3, "overload")
    assert sorted(asks.streams) == [first.id]


@pytest.mark.parametrize("wire", [b"", frame(PING, 0, 1, b"12345678"), head(3, [(b"A", b"b")]), rst_frame(1, 8)])
def test_what_is_gone_is_gone_at_once(wire):
    """No ring of an engine, its target and its failure waits for the collector."""
    gc.disable()
    try:
        engine, heard = server()
        heard.engine = engine
        engine.feed(head(1, GET), 0.0)
        heard.streams[1].owner = heard
        engine.feed(wire, 0.0)
        engine.close(2, "over")
        engine.lost("closed")
        there = weakref.ref(heard)
        del engine, heard
        assert there() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("fields", [20, 200], ids=["too large", "over the limit of streams"])
def test_of_a_request_that_was_refused_nothing_more_is_told(fields):
    engine, heard = server(Limits(fields=10, streams=1 if fields == 200 else 9))
    if fields == 200:
        engine.feed(head(1, GET), 0.0)
        engine.feed(head(3, GET), 0.0)
        heard.streams[3].send_message(encode(OK), b"nobody wants it")
        assert resets(engine.take()) == [(3, 7)] and heard.says[-1][:3] == ("refused", 3, "overload")
        return
    engine.feed(head(1, [*POST, *[(b"a", b"b")] * fields], last=False) + rst_frame(1, 8), 0.0)
    assert [says[:3] for says in heard.says] == [("refused", 1, "headers-too-large")]


def test_a_memo_of_the_other_side_is_refused():
    with pytest.raises(ValueError, match="other side"):
        server(memo=Memo(Limits(), client=True))
    with pytest.raises(ValueError, match="other limits"):
        server(Limits(streams=1), Memo(Limits()))
