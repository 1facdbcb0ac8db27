"""An HTTP/2 connection as its owner sees it: bytes in, calls out (RFC 9113)."""

from __future__ import annotations

from carrier.wire.h2 import PREFACE, Limits, Memo, encode
from carrier.wire.h2.frames import ACK, PING, SETTINGS, frame
from tests.h2talk import GET, HELLO, OK, POST, carry, client, content, data, frames, goaway, head, server


def test_a_request_is_told_with_its_fields():
    engine, heard = server()
    engine.feed(head(1, [*GET, (b"x-user", b"john")]), 0.0)
    section = heard.sections[0]
    assert heard.says == [("head", 1, b"/x", True)]
    assert (section.method, section.scheme, section.authority, section.path) == (b"GET", b"http", b"a.example", b"/x")
    assert section.fields == ((b"x-user", b"john"),)


def test_an_answer_is_a_head_and_its_content_in_one_write():
    engine, heard = server()
    heard.then["head"] = lambda stream: stream.send_message(encode(OK), b"hello")
    engine.feed(head(1, GET), 0.0)
    wire = engine.take()
    assert [(kind, flags) for kind, flags, *_ in frames(wire)] == [(1, 4), (0, 1)]
    assert content(wire, 1) == b"hello"
    assert engine.streams == {} and engine.take() == b""


def test_content_comes_piece_by_piece_and_says_when_it_ends():
    engine, heard = server()
    engine.feed(head(1, POST, last=False) + data(1, b"hel") + data(1, b"lo", last=True), 0.0)
    assert heard.says[1:] == [("data", 1, b"hel", False), ("data", 1, b"lo", True)]


def test_two_engines_talk_to_each_other():
    (asks, told), (answers, heard) = client(greeted=False), server(greeted=False)
    stream = asks.request(encode(POST), owner="mine")
    stream.send_data(b"what?")
    stream.send_trailers(encode([(b"x-sum", b"1")]))
    carry(asks, answers)
    assert heard.says == [("head", 1, b"/x", False), ("data", 1, b"what?", False), ("trailers", 1, ((b"x-sum", b"1"),))]
    heard.streams[1].send_head(encode([(b":status", b"103")]))
    heard.streams[1].send_message(encode(OK), b"that", last=False)
    heard.streams[1].send_trailers(encode([(b"grpc-status", b"0")]))
    carry(asks, answers)
    assert told.says == [
        ("head", 1, 103, False),
        ("head", 1, 200, False),
        ("data", 1, b"that", False),
        ("trailers", 1, ((b"grpc-status", b"0"),)),
    ]
    assert asks.streams == {} and answers.streams == {}


def test_what_comes_byte_by_byte_is_told_the_same():
    wire = HELLO + head(1, POST, last=False) + data(1, b"hello", last=True) + frame(PING, 0, 0, b"12345678")
    engine, heard = server(greeted=False)
    engine.take()
    for i in range(len(wire)):
        engine.feed(wire[i : i + 1], 0.0)
    assert heard.says == [("head", 1, b"/x", False), ("data", 1, b"hello", True)]
    assert frames(engine.take()) == [(SETTINGS, ACK, 0, b""), (PING, ACK, 0, b"12345678")]


def test_a_client_that_speaks_something_else_gets_goaway():
    engine, _ = server(greeted=False)
    engine.take()
    engine.feed(b"GET / HTTP/1.1\r\n", 0.0)
    assert goaway(engine.take()) == 1
    assert "GET / HTTP/1.1" in engine.failure.detail


def test_a_preface_that_is_not_whole_waits():
    engine, _ = server(greeted=False)
    engine.feed(PREFACE[:10], 0.0)
    assert engine.failure is None


def test_a_wake_up_handles_so_many_frames_and_says_that_more_wait():
    engine, heard = server(Limits(frames=10))
    wire = head(1, POST, last=False) + b"".join(data(1, b"x" * 8) for _ in range(25))
    assert engine.feed(wire, 0.0)
    assert len(heard.says) == 10
    assert engine.feed(b"", 0.0)
    assert not engine.feed(b"", 0.0)
    assert len(heard.says) == 26


def test_a_block_that_comes_again_is_the_same_section():
    limits = Limits()
    memo = Memo(limits)
    for _ in range(2):
        engine, heard = server(limits, memo)
        engine.feed(head(1, GET) + head(3, GET), 0.0)
        heard.sections[0].owner = heard.sections[0].owner or object()
        assert heard.sections[0] is heard.sections[1]
    assert heard.sections[0].owner is not None
