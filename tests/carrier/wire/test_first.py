"""What a connection is, by its first line: decided when the line ends, and not before where that could be wrong."""

import time

import pytest

from carrier.wire.first import BLANK, LINE, WATCHED, FirstLine, classify


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (b"GET / HTTP/1.1\r\n", "http"),
        (b"\r\nPOST /x HTTP/1.0\r\nhost: x", "http"),
        (b"M-SEARCH * HTTP/1.1\r\n", "http"),
        (b"GET http://a/ HTTP/1.1\n", "http"),
        (b"get / HTTP/1.1\r\n", "http"),
        (b"GET /a b HTTP/1.1\r\n", "http"),
        ("GET /\u00e9 HTTP/1.1\r\n".encode(), "http"),
        (b"A" * 300 + b" / HTTP/1.1\r\n", "http"),
        (b"\x00 / HTTP/1.1\r\n", "http"),
        (b"GET /" + b"a" * LINE, "http"),
        (b"G", "likely"),
        (b"GE", "likely"),
        (b"GET", "likely"),
        (b"GET /incomp", "likely"),
        (b"\r\nVERSION-C", "likely"),
        (b"", "unknown"),
        (b"\r\n", "unknown"),
        (b"PING", "unknown"),
        (b"get /", "unknown"),
        (b"GETS", "unknown"),
        (b"EHLO exam", "unknown"),
        (b"\x16", "tls"),
        (b"\x16\x03\x01", "tls"),
        (b"\x16\x02", "strange"),
        (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", "strange"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "http"),
        (b"GET /key\r\n", "other"),
        (b"*1\r\n$4\r\nPING\r\n", "other"),
        (b"EHLO example.org\r\n", "other"),
        (b"\r\n" * BLANK, "other"),
        (b"a" * (WATCHED + 1), "other"),
    ],
)
def test_first_bytes_say_what_it_is(data, seen):
    assert classify(data) == seen


@pytest.mark.parametrize("data", [b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\n", b"x" * 3000 + b"\r\n", b"\x00" * 3000])
def test_byte_by_byte_it_comes_to_the_same(data):
    first = FirstLine()
    seen = [first.feed(data[i : i + 1]) for i in range(len(data))]
    assert seen[-1] == classify(data)
    assert bytes(first.held) == data


def test_a_first_line_byte_by_byte_takes_linear_time():
    def spent(size):
        first = FirstLine()
        began = time.process_time()
        for _ in range(size):
            first.feed(b"a")
        return time.process_time() - began

    spent(1000)
    assert min(spent(40_000) for _ in range(3)) < 8 * min(spent(10_000) for _ in range(3))
