"""Every parser takes linear time, also of bytes that come one by one: nobody holds the loop with a slow head."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from carrier.hops.framing import Length32, Lines
from carrier.wire.first import FirstLine
from carrier.wire.forwarding import Forwarding
from carrier.wire.frames import Scanner
from carrier.wire.h1.chunked import Chunked
from carrier.wire.h1.head import Limits
from carrier.wire.h1.memo import AnswerMemo, RequestMemo
from carrier.wire.h1.reader import AnswerReader, RequestReader
from carrier.wire.hello import parse_hello, wanted
from carrier.wire.jsonheader import End

Feed = Callable[[bytes], object]
WIDE = Limits(head=1 << 20, line=1 << 20, fields=100_000)


class Target:
    """Takes what a reader says."""

    def on_head(self, head: Any) -> None: ...
    def on_data(self, data: bytes) -> None: ...
    def on_end(self, trailers: Any) -> None: ...


def request() -> Feed:
    return RequestReader(RequestMemo(WIDE, Forwarding(frozenset())), WIDE, Target()).feed


def answer() -> Feed:
    reader = AnswerReader(AnswerMemo(WIDE), WIDE, Target())
    reader.expect(b"GET")
    return reader.feed


def chunked() -> Feed:
    found = Chunked(WIDE, "downstream")
    return lambda data: found.feed(data, 0)


def hello() -> Feed:
    """As `peek` does it: what is there is looked at when as much is there as is wanted."""
    held = bytearray()
    least = [1]

    def feed(data: bytes) -> None:
        held.extend(data)
        if len(held) >= least[0]:
            assert parse_hello(bytes(held)) is None
            least[0] = wanted(bytes(held))

    return feed


def lines() -> Feed:
    joint = Lines()
    return lambda data: list(joint.decode(data))


def length32() -> Feed:
    joint = Length32()
    return lambda data: list(joint.decode(data))


PARSERS: dict[str, tuple[Callable[[], Feed], Callable[[int], bytes]]] = {
    "request line": (
        lambda: RequestReader(RequestMemo(Limits(), Forwarding(frozenset())), Limits(), Target()).feed,
        lambda n: b"GET /" + b"a" * n,
    ),
    "request fields": (request, lambda n: b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * (n // 6)),
    "answer fields": (answer, lambda n: b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * (n // 6)),
    "chunk": (chunked, lambda n: b"%x\r\n" % (2 * n) + b"a" * n),
    "small chunks": (chunked, lambda n: b"1\r\na\r\n" * (n // 6)),
    "WebSocket frame": (lambda: Scanner(False, 1 << 62).feed, lambda n: b"\x82\x7f" + (2 * n).to_bytes(8, "big") + b"a" * n),
    "JSON header": (lambda: End().feed, lambda n: b'{"a": "' + b"x" * n),
    "JSON header with signs": (lambda: End().feed, lambda n: b"{" * n),
    "JSON blanks": (lambda: End().feed, lambda n: b" " * n),
    "lines": (lines, lambda n: b"a" * n),
    "length32": (length32, lambda n: (2 * n).to_bytes(4, "big") + b"a" * n),
    "first line": (lambda: FirstLine().feed, lambda n: b"a" * n),
    "ClientHello": (hello, lambda n: b"\x16\x03\x01" + (2 * n).to_bytes(2, "big") + b"\x01" + (2 * n - 4).to_bytes(3, "big") + b"a" * n),
}


LARGEST = {"request line": 8_000, "ClientHello": 8_000}
"""Bytes that may come, where that is less."""


def spent(make: Callable[[], Feed], data: bytes) -> float:
    """Seconds of the processor for `data`, byte by byte."""
    feed = make()
    began = time.process_time()
    for i in range(len(data)):
        feed(data[i : i + 1])
    return time.process_time() - began


@pytest.mark.parametrize("name", PARSERS)
def test_bytes_that_come_one_by_one_cost_the_same_each(name: str) -> None:
    make, say = PARSERS[name]
    large = LARGEST.get(name, 32_000)
    small = large // 8
    spent(make, say(500))
    for _ in range(3):  # somebody else may have had the processor
        ratio = spent(make, say(large)) / max(spent(make, say(small)), 1e-4)
        if ratio < 32:  # linear: 8, quadratic: 64
            return
    pytest.fail(f"eight times the bytes took {ratio:.0f} times as long")
