"""Frames of HTTP/2 by state, size and stream: what each wrong one is answered with (RFC 9113 sections 5 and 6)."""

from __future__ import annotations

import pytest

from carrier.wire.h2 import Limits, encode
from carrier.wire.h2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_MAX,
    WINDOW_UPDATE,
    frame,
    rst_frame,
    settings_frame,
    window_frame,
)
from tests.h2talk import GET, OK, POST, client, continued, data, frames, goaway, head, resets, server

PROTOCOL, FLOW, CLOSED, SIZE, COMPRESSION = 1, 3, 5, 6, 9
BLOCK = encode(GET)
ONE = head(1, POST, last=False)
ENDED = head(1, GET)
DEPENDS = b"\0\0\0\1\x10"
INDEPENDENT = b"\0\0\0\0\x10"


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (data(1, b"x"), PROTOCOL),
        (rst_frame(1, 8), PROTOCOL),
        (window_frame(1, 1), PROTOCOL),
        (frame(CONTINUATION, 4, 1, BLOCK), PROTOCOL),
        (head(2, GET), PROTOCOL),
        (head(5, GET) + head(3, GET), PROTOCOL),
        (data(0, b"x"), PROTOCOL),
        (head(0, GET), PROTOCOL),
        (frame(PRIORITY, 0, 0, INDEPENDENT), PROTOCOL),
        (rst_frame(0, 8), PROTOCOL),
        (frame(SETTINGS, 0, 1), PROTOCOL),
        (frame(PING, 0, 1, b"12345678"), PROTOCOL),
        (frame(GOAWAY, 0, 1, b"\0" * 8), PROTOCOL),
        (frame(CONTINUATION, 4, 0, BLOCK), PROTOCOL),
        (frame(PUSH_PROMISE, 4, 1, b"\0\0\0\2" + BLOCK), PROTOCOL),
        (ONE + frame(RST_STREAM, 0, 1, b"\0\0\0"), SIZE),
        (ONE + frame(WINDOW_UPDATE, 0, 1, b"\0\0\0"), SIZE),
        (frame(PING, 0, 0, b"1234567"), SIZE),
        (frame(SETTINGS, ACK, 0, b"\0\0\0\0\0\0"), SIZE),
        (frame(SETTINGS, 0, 0, b"\0\0\0"), SIZE),
        (frame(GOAWAY, 0, 0, b"\0\0\0"), SIZE),
        (b"\0\x40\1\0\0\0\0\0\1", SIZE),
        (b"\xff\xff\xff\xc8\0\0\0\0\1", SIZE),
        (frame(HEADERS, 37, 1, b"\0\0\0"), SIZE),
        (ONE + frame(DATA, 8, 1, b"\x05abcd"), PROTOCOL),
        (frame(HEADERS, 13, 1, b"\xff" + BLOCK), PROTOCOL),
        (window_frame(0, 0), PROTOCOL),
        (window_frame(0, WINDOW_MAX), FLOW),
        (settings_frame({4: 1 << 31}), FLOW),
        (ONE + window_frame(1, 1000) + settings_frame({4: WINDOW_MAX}), FLOW),
        (frame(HEADERS, 5, 1, BLOCK[:-1]), COMPRESSION),
        (frame(HEADERS, 5, 1, b"\xbe"), COMPRESSION),
        (frame(HEADERS, 1, 1, BLOCK) + frame(PRIORITY, 0, 1, INDEPENDENT), PROTOCOL),
        (frame(HEADERS, 1, 1, BLOCK) + frame(200, 0, 1), PROTOCOL),
        (frame(HEADERS, 1, 1, BLOCK) + head(3, GET), PROTOCOL),
        (frame(HEADERS, 1, 1, BLOCK) + frame(CONTINUATION, 4, 3, b""), PROTOCOL),
        (ENDED + frame(CONTINUATION, 4, 1, BLOCK), PROTOCOL),
        (frame(PRIORITY, 0, 1, DEPENDS), PROTOCOL),
        (frame(PRIORITY, 0, 1, b"\0" * 4), SIZE),
    ],
)
def test_what_breaks_the_connection_gets_goaway(wire, code):
    engine, _ = server()
    engine.feed(wire, 0.0)
    assert goaway(engine.take()) == code, engine.failure


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (ENDED + data(1, b"x"), CLOSED),
        (ENDED + head(1, [(b"a", b"b")]), CLOSED),
        (ONE + rst_frame(1, 8) + data(1, b"x"), CLOSED),
        (ONE + rst_frame(1, 8) + head(1, [(b"a", b"b")]), CLOSED),
        (ONE + window_frame(1, 0), PROTOCOL),
        (ONE + window_frame(1, WINDOW_MAX), FLOW),
        (ONE + frame(PRIORITY, 0, 1, DEPENDS), PROTOCOL),
        (frame(HEADERS, 37, 1, DEPENDS + BLOCK), PROTOCOL),
        (frame(HEADERS, 33, 1, DEPENDS + BLOCK) + frame(CONTINUATION, 4, 1, b""), PROTOCOL),
        (ONE + frame(PRIORITY, 0, 1, b"\0" * 6), SIZE),
        (ONE + head(1, [(b"a", b"b")], last=False), PROTOCOL),
        (ONE + head(1, POST), PROTOCOL),
        (ONE + head(1, [(b"A", b"b")]), PROTOCOL),
        (head(1, [*GET, (b"connection", b"close")]), PROTOCOL),
        (head(1, [(b"a", b"b")]), PROTOCOL),
        (head(1, [*GET, (b"content-length", b"5")]), PROTOCOL),
        (head(1, [*POST, (b"content-length", b"5")], last=False) + data(1, b"123456"), PROTOCOL),
        (head(1, [*POST, (b"content-length", b"5")], last=False) + data(1, b"1234", last=True), PROTOCOL),
        (head(1, [*POST, (b"content-length", b"5")], last=False) + data(1, b"123") + data(1, b"", last=True), PROTOCOL),
        (head(1, [*POST, (b"content-length", b"5")], last=False) + data(1, b"1234") + head(1, [(b"a", b"b")]), PROTOCOL),
        (head(1, [*POST, (b"content-length", b"0")], last=False) + data(1, b"1"), PROTOCOL),
    ],
)
def test_what_breaks_a_stream_resets_it_and_the_connection_goes_on(wire, code):
    engine, heard = server()
    engine.feed(wire, 0.0)
    assert resets(engine.take()) == [(1, code)] and engine.failure is None
    engine.feed(head(9, GET), 0.0)
    assert heard.says[-1] == ("head", 9, b"/x", True)


def test_a_stream_that_has_ended_on_both_sides_is_closed_for_good():
    for late in (data(1, b"x"), head(1, [(b"a", b"b")])):
        engine, heard = server()
        heard.then["head"] = lambda stream: stream.send_message(encode(OK), b"hello")
        engine.feed(ENDED + late, 0.0)
        assert goaway(engine.take()) == CLOSED
    engine, heard = server()
    heard.then["head"] = lambda stream: stream.send_message(encode(OK), b"hello")
    engine.feed(ENDED + window_frame(1, 1) + rst_frame(1, 8) + frame(PRIORITY, 0, 1, INDEPENDENT), 0.0)
    assert engine.failure is None, "on their way when the stream closed"


@pytest.mark.parametrize(
    "wire",
    [
        frame(200, 255, 0, b"what") + frame(200, 255, 7, b""),
        frame(PING, 0xFE, 0x80000000, b"12345678"),
        frame(PRIORITY, 0, 5, INDEPENDENT) + frame(PRIORITY, 0, 4, INDEPENDENT),
        frame(SETTINGS, 0, 0, b"\x12\x34\0\0\0\0"),
        ONE + rst_frame(1, 0xFFFF),
        frame(GOAWAY, 0, 0, b"\0\0\0\0\0\0\xff\xff"),
        frame(SETTINGS, ACK, 0),
        frame(HEADERS, 0xF5 & ~8, 1, INDEPENDENT + BLOCK),
        frame(HEADERS, 13, 1, b"\x04" + BLOCK + b"\0" * 4),
        continued(1, BLOCK, 3),
        head(1, [*POST, (b"content-length", b"5")], last=False) + data(1, b"12") + data(1, b"345") + head(1, [(b"a", b"b")]),
        ONE + data(1, b"x" * 16384),
    ],
)
def test_what_is_odd_but_legal_passes(wire):
    engine, heard = server()
    engine.feed(wire, 0.0)
    said = engine.take()
    assert engine.failure is None and resets(said) == []
    engine.feed(head(9, GET), 0.0)
    assert heard.says[-1] == ("head", 9, b"/x", True)


@pytest.mark.parametrize("first", [frame(PING, 0, 0, b"12345678"), head(1, GET), frame(SETTINGS, ACK, 0), window_frame(0, 1)])
def test_settings_come_first(first):
    engine, _ = server(greeted=False)
    engine.feed(PREFACE + first, 0.0)
    assert goaway(engine.take()) == PROTOCOL and "before SETTINGS" in engine.failure.detail
    engine, _ = client(greeted=False)
    engine.request(encode(GET), True)
    engine.take()
    engine.feed(first, 0.0)
    assert goaway(engine.take()) == PROTOCOL


def test_ping_and_settings_are_answered_in_their_order():
    engine, _ = server()
    engine.feed(frame(PING, 0, 0, b"12345678") + settings_frame({3: 1}) + frame(PING, 0, 0, b"abcdefgh"), 0.0)
    assert [(kind, flags, payload) for kind, flags, _, payload in frames(engine.take())] == [
        (PING, ACK, b"12345678"),
        (SETTINGS, ACK, b""),
        (PING, ACK, b"abcdefgh"),
    ]


def test_more_content_than_the_stream_window_resets_the_stream():
    engine, heard = server(Limits(window=65535))
    engine.feed(ONE, 0.0)
    heard.streams[1].pause()
    engine.feed(data(1, b"x" * 16384) * 4, 0.0)
    assert resets(engine.take()) == [(1, FLOW)]


def test_more_content_than_the_connection_window_ends_the_connection():
    engine, _ = server(Limits(window=1 << 20, connection_window=65535))
    engine.room = 10_000
    engine.feed(ONE + data(1, b"x" * 10_001), 0.0)
    assert goaway(engine.take()) == FLOW


def test_content_of_streams_that_are_gone_uses_the_connection_window_and_it_is_given_back():
    engine, heard = server(Limits(connection_window=65535))
    engine.feed(ONE, 0.0)
    heard.streams[1].reset()
    for _ in range(20):
        engine.feed(data(1, b"x" * 16000), 0.0)
    assert engine.failure is None and engine.room > 20_000


# -- what a client is told -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wire",
    [
        data(1, b"x"),
        head(1, [(b"a", b"b")]),
        head(1, [(b":status", b"103")]),
        head(1, GET),
        head(1, OK, last=False) + head(1, OK),
        head(1, OK, last=False) + head(1, [(b"a", b"b")], last=False),
        head(1, [*OK, (b"content-length", b"5")]),
        head(1, [*OK, (b"content-length", b"5")], last=False) + data(1, b"1234", last=True),
        head(1, [(b":status", b"204")], last=False) + data(1, b"x"),
        head(1, [*OK, (b"connection", b"close")]),
        head(1, [*OK, *[(b"a", b"b")] * 200]),
    ],
)
def test_an_answer_that_http_does_not_allow_resets_its_stream(wire):
    engine, heard = client()
    engine.request(encode(GET), True)
    engine.take()
    engine.feed(wire, 0.0)
    assert resets(engine.take()) == [(1, PROTOCOL)] and heard.says[-1] == ("reset", 1, PROTOCOL)
    assert engine.failure is None and engine.streams == {}


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (frame(PUSH_PROMISE, 4, 1, b"\0\0\0\2" + encode(GET)), PROTOCOL),
        (head(2, OK), PROTOCOL),
        (head(3, OK), PROTOCOL),
        (settings_frame({2: 1}), PROTOCOL),
    ],
)
def test_what_no_server_may_do_ends_the_connection(wire, code):
    engine, _ = client()
    engine.request(encode(GET), True)
    engine.take()
    engine.feed(wire, 0.0)
    assert goaway(engine.take()) == code


def test_answers_to_head_and_304_have_a_length_and_no_content():
    engine, heard = client()
    engine.request(encode([(b":method", b"HEAD"), *GET[1:]]), True, head_only=True)
    engine.request(encode(GET), True)
    engine.feed(head(1, [*OK, (b"content-length", b"5")]) + head(3, [(b":status", b"304"), (b"content-length", b"5")]), 0.0)
    assert heard.says == [("head", 1, 200, True), ("head", 3, 304, True)] and engine.streams == {}


def test_an_answer_to_head_with_content_is_refused():
    engine, heard = client()
    engine.request(encode([(b":method", b"HEAD"), *GET[1:]]), True, head_only=True)
    engine.feed(head(1, OK, last=False) + data(1, b"x"), 0.0)
    assert heard.says[-1] == ("reset", 1, PROTOCOL)


def test_a_server_that_has_answered_may_stop_the_request():
    engine, heard = client()
    stream = engine.request(encode(POST))
    engine.feed(head(1, OK) + rst_frame(1, 0), 0.0)
    assert heard.says == [("head", 1, 200, True), ("reset", 1, 0)]
    stream.send_data(b"more")
    assert engine.streams == {}


def test_the_peers_settings_are_there_to_be_asked():
    engine, _ = client()
    engine.feed(settings_frame({3: 5, 4: 1000, 5: 20_000, 6: 9_000, 8: 1}), 0.0)
    assert (engine.peer_streams, engine.peer_window, engine.frame_max, engine.peer_head, engine.peer_connect) == (
        5,
        1000,
        20_000,
        9_000,
        True,
    )
