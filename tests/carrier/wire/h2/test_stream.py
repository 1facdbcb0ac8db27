"""What is sent on a stream, and what window it gives back (RFC 9113 5.2, 6.9)."""

from __future__ import annotations

import pytest

from carrier.wire.h2 import Limits, Stream, encode
from carrier.wire.h2.encoder import Encoder
from carrier.wire.h2.frames import PADDED, SETTINGS, frame, settings_frame, window_frame
from carrier.wire.h2.heads import framed_answer
from carrier.wire.http import LENGTH, Head
from tests.h2talk import GET, OK, POST, client, content, data, frames, head, resets, server, windows

BLOCK = encode(OK)


def asked(window: int = 65535, streams: int = 1, limits: Limits = Limits()):  # noqa: B008
    """A server whose client has opened streams and lets `window` bytes out on each."""
    engine, heard = server(limits)
    engine.feed(settings_frame({4: window}), 0.0)
    for n in range(streams):
        engine.feed(head(2 * n + 1, GET), 0.0)
    engine.take()
    return engine, heard


def test_content_beyond_the_stream_window_is_held_until_there_is_more():
    engine, heard = asked(window=10)
    stream = heard.streams[1]
    engine.now = 5.0
    assert not stream.send_message(BLOCK, b"0123456789abcdef")
    assert content(engine.take(), 1) == b"0123456789" and stream.blocked_since == 5.0
    engine.feed(window_frame(1, 3), 6.0)
    assert content(engine.take(), 1) == b"abc" and stream.blocked_since == 6.0
    engine.feed(window_frame(1, 100), 7.0)
    wire = engine.take()
    assert content(wire, 1) == b"def" and frames(wire)[-1][1] == 1
    assert ("drained", 1) in heard.says and engine.streams == {} and stream.blocked_since == 0.0


def test_content_as_large_as_the_window_goes_at_once():
    engine, heard = asked(window=5)
    assert heard.streams[1].send_message(BLOCK, b"hello")
    assert content(engine.take(), 1) == b"hello"


def framed(content: bytes):
    made = framed_answer(Head(b"HTTP/1.1 200 OK\r\nx-a: b\r\n\r\n", status=200, body=LENGTH, length=len(content)), Encoder())
    assert made is not None
    return made


def test_a_whole_answer_that_was_framed_before_leaves_as_any_other_and_ends_its_stream():
    (engine, heard), (other, others) = asked(streams=2), asked(streams=2)
    for n in (1, 3):
        assert heard.streams[n].send_framed(framed(b"hello"), b"hello")
        others.streams[n].send_message(encode([(b":status", b"200"), (b"x-a", b"b")]), b"hello")
    assert engine.take() == other.take()
    assert (engine.streams, engine.window, engine.credit) == ({}, other.window, other.credit)
    assert heard.streams[1].ended and not heard.streams[1].send_framed(framed(b"x"), b"x") and not engine.out


@pytest.mark.parametrize(
    "why", ["the stream's window", "the connection's", "the transport", "a table that shrinks", "a request that goes on", "an end"]
)
def test_a_framed_answer_is_not_sent_where_it_would_have_to_wait(why):
    engine, heard = asked(window=4 if why == "the stream's window" else 65535)
    if why == "a request that goes on":
        engine.feed(head(3, POST, last=False), 0.0)
    stream = heard.streams[3 if why == "a request that goes on" else 1]
    if why == "the connection's":
        engine.window = 4
    elif why == "the transport":
        engine.hold()
    elif why == "a table that shrinks":
        engine.feed(settings_frame({1: 0}), 0.0)
    elif why == "an end":
        stream.reset()
    engine.take()
    assert not stream.send_framed(framed(b"hello"), b"hello") and not engine.out


def test_a_whole_call_leaves_as_its_three_parts_would():
    (engine, heard), (other, others) = asked(), asked()
    trailers = encode([(b"grpc-status", b"0")])
    assert heard.streams[1].send_call(BLOCK, b"hello", trailers) and heard.streams[1].ended
    others.streams[1].send_message(BLOCK, b"hello", last=False)
    others.streams[1].send_trailers(trailers)
    assert engine.take() == other.take()
    assert (engine.streams, engine.window, engine.credit) == ({}, other.window, other.credit)
    assert not heard.streams[1].send_call(BLOCK, b"again", trailers) and not engine.out


@pytest.mark.parametrize("length", [0, 16385])
def test_an_answer_that_is_not_two_frames_is_not_framed(length):
    assert framed_answer(Head(b"HTTP/1.1 200 OK\r\n\r\n", status=200, body=LENGTH, length=length), Encoder()) is None


def test_a_stream_that_is_used_again_is_as_a_new_one():
    engine, heard = asked()
    engine.feed(head(3, POST, last=False) + frame(0, PADDED, 3, b"\x03hello\0\0\0"), 1.0)
    used = heard.streams[3]
    used.pause()
    used.stalled = True
    engine.feed(data(3, b"more", last=True), 2.0)
    assert used.send_framed(framed(b"hello"), b"hello")
    used.owner = "who had it before"
    engine.spare.append(used)
    engine.change({4: 1000})
    engine.feed(settings_frame({4: 500}) + frame(SETTINGS, 1, 0), 3.0)
    engine.feed(head(5, POST, last=False), 4.0)
    assert heard.streams[5] is used and not engine.spare and used.owner == "who had it before"
    new = Stream(engine, 5)
    new.heard = True
    assert [(name, getattr(used, name)) for name in Stream.__slots__ if name != "owner"] == [
        (name, getattr(new, name)) for name in Stream.__slots__ if name != "owner"
    ]


def test_streams_that_were_used_before_are_not_taken_where_a_new_one_has_to_be_looked_at():
    engine, heard = asked(limits=Limits(streams=2))
    engine.spare += [Stream(engine, 0) for _ in range(3)]
    engine.feed(head(3, GET), 0.0)
    engine.feed(head(5, GET), 0.0)
    assert ("refused", 5, "overload", "2 streams are open, at most 2") in heard.says and len(engine.spare) == 2
    heard.streams[3].send_framed(framed(b"hello"), b"hello")
    engine.feed(settings_frame({4: 0}), 0.0)
    engine.feed(head(7, GET), 0.0)
    assert heard.streams[7].stalled and len(engine.spare) == 2
    heard.streams[7].send_head(BLOCK, True)
    engine.feed(settings_frame({4: 65535}), 0.0)
    engine.drain(at_once=True)
    engine.feed(head(9, GET), 0.0)
    assert 9 not in heard.streams and len(engine.spare) == 2


def test_an_end_without_content_needs_no_window():
    engine, heard = asked(window=0)
    heard.streams[1].send_head(BLOCK)
    heard.streams[1].end()
    assert frames(engine.take())[-1] == (0, 1, 1, b"")
    assert engine.streams == {}


def test_trailers_follow_what_is_held():
    engine, heard = asked(window=2)
    stream = heard.streams[1]
    stream.send_message(BLOCK, b"hello", last=False)
    stream.send_trailers(encode([(b"grpc-status", b"0")]))
    assert [kind for kind, *_ in frames(engine.take())] == [1, 0]
    engine.feed(window_frame(1, 9), 0.0)
    assert [(kind, flags) for kind, flags, *_ in frames(engine.take())] == [(0, 0), (1, 5)]
    assert engine.streams == {}


def test_a_window_below_zero_takes_as_much_to_open_again():
    engine, heard = asked(window=10)
    stream = heard.streams[1]
    stream.send_message(BLOCK, b"x" * 25, last=False)
    engine.take()
    engine.feed(settings_frame({4: 3}), 0.0)
    assert stream.window == -7
    engine.feed(window_frame(1, 7), 0.0)
    assert content(engine.take(), 1) == b""
    engine.feed(window_frame(1, 1), 0.0)
    assert content(engine.take(), 1) == b"x"
    engine.feed(settings_frame({4: 100}), 0.0)
    assert content(engine.take(), 1) == b"x" * 14


def test_streams_take_turns_when_the_connection_has_window_again():
    engine, heard = asked(window=1_000_000, streams=3)
    for n in (1, 3, 5):
        heard.streams[n].send_message(BLOCK, b"%d" % n * 100_000)
    engine.take()
    engine.feed(window_frame(0, 3 * 16384), 0.0)
    sent = [(stream, len(payload)) for kind, _, stream, payload in frames(engine.take()) if kind == 0]
    assert sent == [(1, 16384), (3, 16384), (5, 16384)]
    engine.feed(window_frame(0, 16384), 0.0)
    engine.feed(window_frame(0, 16384), 0.0)
    assert [stream for kind, _, stream, _ in frames(engine.take()) if kind == 0] == [1, 3]
    engine.feed(window_frame(0, 1_000_000), 0.0)
    assert engine.waiting == {}


def test_a_slow_stream_stops_no_other():
    engine, heard = asked(window=100, streams=2)
    heard.streams[1].send_message(BLOCK, b"s" * 1000)
    assert heard.streams[3].send_message(BLOCK, b"fast")
    assert content(engine.take(), 3) == b"fast"


def test_a_frame_is_never_larger_than_the_peer_takes():
    engine, heard = asked(window=60_000)
    heard.streams[1].send_message(BLOCK, b"x" * 50_000)
    assert max(len(payload) for *_, payload in frames(engine.take())) == 16384
    engine, heard = asked(window=60_000)
    engine.feed(settings_frame({5: 40_000}), 0.0)
    heard.streams[1].send_message(BLOCK, b"x" * 50_000)
    assert max(len(payload) for *_, payload in frames(engine.take())) == 40_000


def test_a_stream_that_is_paused_gets_no_window_and_the_connection_does():
    engine, heard = server(Limits(window=65535, connection_window=65535))
    engine.feed(head(1, POST, last=False), 0.0)
    heard.streams[1].pause()
    engine.feed(b"".join(data(1, b"x" * 16000) for _ in range(4)), 0.0)
    assert [stream for stream, _ in windows(engine.take())] == [0]
    heard.streams[1].resume()
    assert windows(engine.take()) == [(1, 64000)]


def test_window_is_given_back_once_half_of_it_is_used():
    engine, _ = server(Limits(window=65535, connection_window=1 << 20))
    engine.feed(head(1, POST, last=False) + data(1, b"x" * 16000) + data(1, b"x" * 16000), 0.0)
    assert windows(engine.take()) == []
    engine.feed(data(1, b"x" * 1000), 0.0)
    assert windows(engine.take()) == [(1, 33000)]


def test_padding_uses_window_and_it_is_given_back_too():
    engine, _ = server(Limits(window=65535))
    engine.feed(head(1, POST, last=False), 0.0)
    for _ in range(400):
        engine.feed(frame(0, 8, 1, b"\xff" + b"hello" + b"\0" * 255), 0.0)
    assert engine.failure is None and sum(n for stream, n in windows(engine.take()) if stream == 1) > 65535


def test_a_stream_that_was_reset_sends_nothing_more():
    engine, heard = asked(window=2)
    stream = heard.streams[1]
    stream.send_message(BLOCK, b"hello")
    engine.take()
    stream.reset(2)
    stream.send_data(b"more")
    stream.send_trailers(BLOCK)
    stream.send_head(BLOCK)
    stream.end()
    assert frames(engine.take()) == [(3, 0, 1, b"\0\0\0\2")]
    assert engine.streams == engine.waiting == {} and heard.says[-1] != ("drained", 1)


def test_what_follows_the_end_is_ignored():
    engine, heard = asked()
    stream = heard.streams[1]
    stream.send_message(BLOCK, b"hello")
    engine.take()
    stream.send_data(b"more", True)
    stream.reset()
    assert engine.take() == b""


def test_the_owner_is_let_go_when_the_stream_has_closed():
    engine, heard = asked(streams=2)
    heard.streams[1].owner = heard.streams[3].owner = object()
    heard.streams[1].send_message(BLOCK, b"hello")
    assert heard.streams[1].owner is None
    engine.feed(frame(3, 0, 3, b"\0\0\0\x08"), 0.0)
    assert heard.streams[3].owner is None


def test_an_early_answer_leaves_the_request_open_until_it_ends_or_is_reset():
    engine, heard = server()
    engine.feed(head(1, POST, last=False), 0.0)
    heard.streams[1].send_message(BLOCK, b"enough")
    engine.feed(data(1, b"more"), 0.0)
    assert heard.says[-1] == ("data", 1, b"more", False)
    heard.streams[1].reset(0)
    assert resets(engine.take()) == [(1, 0)] and engine.streams == {}


def test_a_smaller_table_of_the_peer_is_acknowledged_in_the_next_block_and_never_again():
    from hpack import Decoder

    engine, heard = server()
    engine.feed(head(1, GET) + head(3, GET), 0.0)
    engine.feed(settings_frame({1: 0}), 0.0)
    decoder = Decoder()
    decoder.max_allowed_table_size = 0
    engine.take()
    heard.streams[1].send_message(BLOCK, b"hello")
    heard.streams[3].send_message(BLOCK, b"hello")
    blocks = [payload for kind, _, _, payload in frames(engine.take()) if kind == 1]
    assert blocks == [b"\x20" + BLOCK, BLOCK]
    assert [decoder.decode(block, raw=True) for block in blocks] == [OK, OK]
    engine.feed(frame(SETTINGS, 0, 0, b"\0\1\0\0\x10\0" + b"\0\1\0\0\0\0"), 0.0)
    assert engine.table_update == b""


def test_what_the_transport_does_not_take_is_held():
    engine, heard = asked(streams=2)
    engine.hold()
    assert not heard.streams[1].send_message(BLOCK, b"hello")
    assert heard.streams[1].held is not None
    engine.take()
    engine.release()
    assert content(engine.take(), 1) == b"hello" and ("drained", 1) in heard.says


def test_a_request_goes_out_with_its_content_and_its_trailers():
    engine, _ = client()
    stream = engine.request(encode(POST), owner="mine")
    stream.send_data(b"hello")
    stream.send_trailers(encode([(b"x-sum", b"1")]))
    assert [(kind, flags) for kind, flags, *_ in frames(engine.take())] == [(1, 4), (0, 0), (1, 5)]
    assert stream.owner == "mine" and stream.ended and engine.streams == {1: stream}


def test_a_client_uses_a_stream_again_as_a_new_one():
    engine, told = client()
    stream = engine.request(encode([(b":method", b"HEAD"), *POST[1:]]), owner="first", head_only=True)
    engine.feed(settings_frame({4: 3}), 1.0)
    stream.pause()
    stream.send_data(b"hello", last=True)
    engine.feed(window_frame(1, 9) + head(1, [*OK, (b"content-length", b"5")], last=False) + data(1, b"", last=True), 2.0)
    assert not engine.streams and stream.owner is None
    again = engine.request(encode(POST), owner="second", used=stream)
    new = Stream(engine, 3)
    new.owner = "second"
    assert again is stream and [getattr(again, name) for name in Stream.__slots__] == [getattr(new, name) for name in Stream.__slots__]
    engine.feed(head(3, OK), 3.0)
    assert told.says[-1] == ("head", 3, 200, True)
