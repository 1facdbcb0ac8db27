"""Heads of HTTP/1.1 as blocks of HTTP/2."""

from __future__ import annotations

from hpack import Decoder

from carrier.wire.h2.encoder import Encoder

WIRE = b"HTTP/1.1 200 OK\r\nContent-Type:  text/plain \r\nx-user: john\r\ncontent-length: 5\r\n\r\n"


def said(block: bytes) -> list[tuple[bytes, bytes]]:
    return [tuple(pair) for pair in Decoder().decode(block, raw=True)]


def test_an_answer_has_its_status_and_its_fields_in_lower_case():
    assert said(Encoder().answer(200, WIRE)) == [
        (b":status", b"200"),
        (b"content-type", b"text/plain"),
        (b"x-user", b"john"),
        (b"content-length", b"5"),
    ]


def test_what_belongs_to_a_connection_of_http1_is_left_out():
    lines = (
        b"Connection: close\r\nKeep-Alive: 1\r\nTransfer-Encoding: chunked\r\nUpgrade: x\r\nProxy-Connection: a\r\nHost: a\r\nTE: gzip\r\n"
    )
    assert said(Encoder().answer(404, b"HTTP/1.1 404 No\r\n" + lines + b"a: b\r\n\r\n")) == [(b":status", b"404"), (b"a", b"b")]


def test_a_request_has_its_pseudo_fields_first_and_host_as_authority():
    wire = b"GET /x HTTP/1.1\r\nhost: a.example\r\nx-user: john\r\n\r\n"
    assert said(Encoder().request(b"GET", b"http", b"a.example", b"/x", wire)) == [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":path", b"/x"),
        (b":authority", b"a.example"),
        (b"x-user", b"john"),
    ]


def test_a_request_may_ask_for_trailers():
    assert said(Encoder().request(b"POST", b"http", b"a", b"/", b"POST / HTTP/1.1\r\n\r\n", te=True))[-1] == (b"te", b"trailers")


def test_connect_has_only_its_authority_and_extended_connect_has_all():
    wire = b"CONNECT a:1 HTTP/1.1\r\n\r\n"
    assert said(Encoder().request(b"CONNECT", b"http", b"a:1", b"", wire)) == [(b":method", b"CONNECT"), (b":authority", b"a:1")]
    names = [name for name, _ in said(Encoder().request(b"CONNECT", b"https", b"a", b"/chat", wire, b"websocket"))]
    assert names == [b":method", b":protocol", b":scheme", b":path", b":authority"]


def test_what_is_remembered_is_bounded_in_bytes():
    encoder = Encoder(most=40_000)
    for n in range(5000):
        wire = b"HTTP/1.1 200 OK\r\nx-n: %d\r\n\r\n" % n
        assert said(encoder.answer(200, wire))[1] == (b"x-n", b"%d" % n)
    assert len(encoder._lines) < 200


def test_what_came_as_never_indexed_goes_on_as_such():
    encoder = Encoder()
    wire = b"GET / HTTP/1.1\r\nX-Key: secret\r\na: b\r\n\r\n"
    for never in (frozenset(), frozenset((b"x-key",)), frozenset()):
        block = encoder.request(b"GET", b"http", b"a", b"/", wire, never=never)
        found = {bytes(pair[0]): pair.indexable for pair in Decoder().decode(block, raw=True)}
        assert found[b"x-key"] is not bool(never) and found[b"a"]
    assert encoder.answer(200, WIRE, frozenset((b"x-user",))) != encoder.answer(200, WIRE)
