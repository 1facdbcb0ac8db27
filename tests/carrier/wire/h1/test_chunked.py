"""Chunked bodies: payload out, whatever the cuts between reads; what servers read differently is refused."""

from __future__ import annotations

import time

import pytest

from carrier.errors import Error
from carrier.wire.h1.reader import LAST_CHUNK, Chunked, chunk, last_chunk


def test_all_chunks_of_a_read_come_as_one() -> None:
    assert Chunked().feed(chunk(b"hello ") + chunk(b"world") + LAST_CHUNK) == (b"hello world", 11 + 10 + 5, ())


def test_the_offset_behind_the_body_counts_in_the_last_read() -> None:
    body = Chunked()
    assert body.feed(b"xx5\r\nhello\r", 2) == (b"hello", -1, ())
    assert body.feed(b"\n0\r\n\r\nrest") == (b"", 6, ())
    cut = Chunked()
    assert cut.feed(b"0\r\nX: 1\r\n\r") == (b"", -1, ())
    assert cut.feed(b"yy\nrest", 2) == (b"", 3, ((b"X", b"1"),))


@pytest.mark.parametrize(
    "body",
    [
        b"5\nhello\r\n",
        b"5\r\nhelloXX",
        b"5\r\nhello\r0",
        b"5\r\nhello\n",
        b"0x5\r\n",
        b"+5\r\n",
        b" 5\r\n",
        b"5 x\r\n",
        b"g\r\n",
        b"\r\n",
        b"5\r\r\n",
        b"5;\r\n",
        b"5;a\rb\r\n",
        b'5;a="\n"\r\n',
        b"5 ;a\r\n",
        b"5;a=b c\r\n",
        b"5;a=\x01\r\n",
        b"00000000000000005\r\n",
        b"1000000000000005\r\n",
        b"-1\r\n",
        b"5\x00\r\n",
        b"5\rhello",
        b"0\r\nX : 1\r\n\r\n",
        b"0\r\n X: 1\r\n\r\n",
        b"0\n\r\n",
        b"0\r\n\rX",
        b"0\r\nX: 1\n\r\n",
        b"5;" + b"a" * 5000,
    ],
)
def test_bodies_that_servers_read_differently_are_refused(body: bytes) -> None:
    with pytest.raises(Error) as caught:
        Chunked().feed(body)
    assert caught.value.kind == "protocol-error"
    with pytest.raises(Error):
        drip = Chunked(side="upstream")
        for i in range(len(body)):
            drip.feed(body[i : i + 1])


@pytest.mark.parametrize("name", [b"Content-Length", b"Transfer-Encoding", b"Host", b"host"])
def test_a_trailer_that_would_change_the_message_is_refused_and_of_an_answer_dropped(name: bytes) -> None:
    """As nginx, haproxy and Envoy do with answers: one ends here whatever its trailers say."""
    body = b"0\r\nX: a\r\n%b: 1\r\n\r\n" % name
    with pytest.raises(Error, match="in the trailers"):
        Chunked().feed(body)
    assert Chunked(side="upstream").feed(body) == (b"", len(body), ((b"X", b"a"),))


def test_a_folded_trailer_is_refused_and_of_an_answer_one_line() -> None:
    body = b"0\r\nX: a\r\n b\r\n\tc\r\n\r\n"
    with pytest.raises(Error):
        Chunked().feed(body)
    assert Chunked(side="upstream").feed(body) == (b"", len(body), ((b"X", b"a b c"),))


@pytest.mark.parametrize(
    "body",
    [
        b"5;a\r\nhello\r\n0;z=1\r\n\r\n",
        b'5;a=b;c="d;\\"e"\r\nhello\r\n0\r\n\r\n',
        b"005\r\nhello\r\n000\r\n\r\n",
        b"0000000000000005\r\nhello\r\n0000000000000000\r\n\r\n",
        b"5; a=b\r\nhello\r\n0;\ta\r\n\r\n",
        b'5;a = "b" ; c\r\nhello\r\n0;a \r\n\r\n',
    ],
)
def test_extensions_and_leading_zeros_are_good_and_dropped(body: bytes) -> None:
    assert Chunked().feed(body) == (b"hello", len(body), ())
    drip = Chunked()
    assert b"".join(drip.feed(body[i : i + 1])[0] for i in range(len(body))) == b"hello"


@pytest.mark.parametrize("pad", [b" ", b"\t", b"    "])
def test_padded_sizes_are_read_in_answers_and_refused_in_requests(pad: bytes) -> None:
    body = b"5%b\r\nhello\r\n0%b\r\n\r\n" % (pad, pad)
    assert Chunked(side="upstream").feed(body) == (b"hello", len(body), ())
    drip = Chunked(side="upstream")
    assert b"".join(drip.feed(body[i : i + 1])[0] for i in range(len(body))) == b"hello"
    for cut in (len(body), 2):
        with pytest.raises(Error):
            Chunked().feed(body[:cut])


def test_extensions_are_bounded_in_all() -> None:
    with pytest.raises(Error):
        Chunked().feed(b"1;a=bbbbbbbbbbbbbbbbbbbbb\r\nZ\r\n" * 1000)


def test_trailers_are_bounded() -> None:
    with pytest.raises(Error):
        Chunked().feed(b"0\r\n" + b"X: y\r\n" * 6000)
    with pytest.raises(Error):
        Chunked().feed(b"0\r\n" + b"X: y\r\n" * 101 + b"\r\n")


def test_trailers_that_nobody_may_trust_are_dropped() -> None:
    assert Chunked().feed(b"0\r\nAuthorization: x\r\nX-T: 1\r\nX-Forwarded-For: y\r\n\r\n")[2] == ((b"X-T", b"1"),)
    for name in (b"Connection", b"content-type", b"Trailer", b"TE", b"Upgrade", b"Content-Range"):
        assert Chunked().feed(b"0\r\n%b: x\r\nX-T: 1\r\n\r\n" % name)[2] == ((b"X-T", b"1"),)


def test_tiny_chunks_and_tiny_reads_cost_time_in_proportion() -> None:
    stream = chunk(b"a") * 10000 + b"0\r\n" + b"X: %b\r\n" % (b"y" * 4000) * 7 + b"\r\n"
    start = time.process_time()
    whole, drip = Chunked(), Chunked()
    assert whole.feed(stream)[0] == b"a" * 10000
    got = [drip.feed(stream[i : i + 1])[0] for i in range(len(stream))]
    assert b"".join(got) == b"a" * 10000
    assert time.process_time() - start < 1.5


def test_a_body_is_framed_again_by_chunk_and_last_chunk() -> None:
    assert Chunked().feed(chunk(b"x" * 300) + last_chunk([(b"X", b"1")])) == (b"x" * 300, 5 + 302 + 11, ((b"X", b"1"),))
