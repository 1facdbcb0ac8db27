"""Every byte at every place of a request: what the grammar has there is served, anything else is refused, however the reads are cut.

A `Place` is a request with a hole. The bytes that may stand in it are written down from RFC 9110 and 9112, not taken from the reader.
"""

from __future__ import annotations

import os
import string
from collections.abc import Iterable
from typing import NamedTuple

import pytest

from tests.compliance.test_http1_cases import NEXT, H, get, post, serve

ALNUM = (string.ascii_letters + string.digits).encode()
TCHAR = {*ALNUM, *b"!#$%&'*+-.^_`|~"}
"""RFC 9110 5.6.2."""
VALUE = {9, *range(32, 127), *range(128, 256)}
"""RFC 9110 5.5: tab, space, visible, obs-text."""
HEX = {*string.hexdigits.encode()}
BLANK = {*b" \t"}
TE = b"Transfer-Encoding: chunked"
END = b"0\r\n\r\n"


class Place(NamedTuple):
    """before + byte + after is a connection's bytes; `good` are those with which the first request is served."""

    before: bytes
    after: bytes
    good: Iterable[int]


def in_head(lines: bytes, good: Iterable[int], body: bytes = b"") -> Place:
    """A hole, written as \\1, in the lines of a head."""
    before, _, after = (lines + b"\r\n\r\n").partition(b"\1")
    return Place(before, after + body, good)


def in_body(body: bytes, good: Iterable[int]) -> Place:
    """The same in a chunked body; a request that must not be served on its own follows."""
    before, _, after = (post(TE, body=body) + NEXT).partition(b"\1")
    return Place(before, after, good)


def field(line: bytes, good: Iterable[int], body: bytes = b"") -> Place:
    return in_head(b"POST /x HTTP/1.1\r\nHost: a.example\r\n" + line, good, body)


PATH = {*ALNUM, *b"-._~!$&'()*+,;=:@/[]"}
"""RFC 3986 3.3, and the brackets that nobody reads differently."""
PLACES = {
    "a method's first byte": in_head(b"\1ET /x HTTP/1.1\r\nHost: a.example", TCHAR),
    "a method's last byte": in_head(b"GE\1 /x HTTP/1.1\r\nHost: a.example", TCHAR),
    "before a method": in_head(b"\1GET /x HTTP/1.1\r\nHost: a.example", TCHAR),
    "a target's first byte": in_head(b"GET \1x HTTP/1.1\r\nHost: a.example", b"/"),
    "within a path": in_head(b"GET /a\1b HTTP/1.1\r\nHost: a.example", PATH | {*b"?"}),
    "the end of a path": in_head(b"GET /a\1 HTTP/1.1\r\nHost: a.example", PATH | {*b"?"}),
    "within a query": in_head(b"GET /a?b=\1c HTTP/1.1\r\nHost: a.example", PATH | {*b"?"}),
    "an escape's first digit": in_head(b"GET /%\1e HTTP/1.1\r\nHost: a.example", HEX),
    "an escape's second digit": in_head(b"GET /%2\1 HTTP/1.1\r\nHost: a.example", HEX),
    "within a scheme": in_head(b"GET ht\1p://a.example/ HTTP/1.1\r\nHost: a.example", b"tT"),
    "within an authority": in_head(b"GET http://a\1b/ HTTP/1.1\r\nHost: a\1b".replace(b"a\1b", b"a.b", 1), b"."),
    "before a version": in_head(b"GET /x \1HTTP/1.1\r\nHost: a.example", b""),
    "between target and version": in_head(b"GET /x\1HTTP/1.1\r\nHost: a.example", b" "),
    "within a version's name": in_head(b"GET /x HT\1P/1.1\r\nHost: a.example", b"T"),
    "a version's slash": in_head(b"GET /x HTTP\1" + b"1.1\r\nHost: a.example", b"/"),
    "a version's major": in_head(b"GET /x HTTP/\1.1\r\nHost: a.example", b"1"),
    "a version's dot": in_head(b"GET /x HTTP/1\1" + b"1\r\nHost: a.example", b"."),
    "a version's minor": in_head(b"GET /x HTTP/1.\1\r\nHost: a.example", b"01"),
    "behind a version": in_head(b"GET /x HTTP/1.1\1\r\nHost: a.example", b""),
    "a name's first byte": field(b"\1ame: x", TCHAR),
    "within a name": field(b"na\1me: x", TCHAR | {*b":"}),
    "a name's last byte": field(b"nam\1: x", TCHAR | {*b":"}),
    "the colon": field(b"name\1x", b":"),
    "a value's first byte": field(b"name:\1x", VALUE),
    "within a value": field(b"name: a\1b", VALUE),
    "a value's last byte": field(b"name: a\1", VALUE),
    "instead of a line's CR": field(b"name: a\1\nother: b", b"\r"),
    "instead of a line's LF": field(b"name: a\r\1other: b", b"\n"),
    "before Content-Length": field(b"\1Content-Length: 5", TCHAR),
    "behind Content-Length": field(b"Content-Length\1: 5", TCHAR, b"hello"),
    "within Content-Length": field(b"Content\1Length: 5", TCHAR | {*b":"}, b"hello"),
    "a length's first byte": field(b"Content-Length:\1" + b"5", BLANK, b"hello"),
    "within a length": field(b"Content-Length: 1\1" + b"0", b"", b"0123456789"),
    "a length's last byte": field(b"Content-Length: 5\1", BLANK, b"hello"),
    "before Transfer-Encoding": field(b"\1Transfer-Encoding: chunked", TCHAR),
    "behind Transfer-Encoding": field(b"Transfer-Encoding\1: chunked", TCHAR),
    "a coding's first byte": field(b"Transfer-Encoding:\1chunked", BLANK, END),
    "within a coding": field(b"Transfer-Encoding: chun\1ked", b"", END),
    "a coding's last byte": field(b"Transfer-Encoding: chunked\1", BLANK, END),
    "a host's first byte": in_head(b"GET /x HTTP/1.1\r\nHost:\1a", {*ALNUM, *b"-._~"} | BLANK),
    "within a host": in_head(b"GET /x HTTP/1.1\r\nHost: a\1b", {*ALNUM, *b"-._~"}),
    "a host's last byte": in_head(b"GET /x HTTP/1.1\r\nHost: ab\1", {*ALNUM, *b"-._~:"} | BLANK),
    "within a port": in_head(b"GET /x HTTP/1.1\r\nHost: a:8\1", {*string.digits.encode()} | BLANK),
    "within an IPv6 address": in_head(b"GET /x HTTP/1.1\r\nHost: [::1\1]", HEX),
    "before a chunk's size": in_body(b"\1" + b"5\r\nhello\r\n" + END, b"0"),
    "behind a chunk's size": in_body(b"0\1\r\n\r\n", b"0"),
    "instead of a size's CR": in_body(b"5\1\nhello\r\n" + END, b"\r"),
    "instead of a size's LF": in_body(b"5\r\1hello\r\n" + END, b"\n"),
    "an extension's first byte": in_body(b"5;\1a\r\nhello\r\n" + END, TCHAR | BLANK),
    "within an extension's name": in_body(b"5;a\1a\r\nhello\r\n" + END, TCHAR | {*b";="}),
    "an extension's last byte": in_body(b"5;a\1\r\nhello\r\n" + END, TCHAR | BLANK),
    "within an extension's value": in_body(b"5;a=b\1c\r\nhello\r\n" + END, TCHAR | {*b";"}),
    "within a quoted value": in_body(b'5;a="b\1c"\r\nhello\r\n' + END, VALUE - {*b'"'}),
    "behind a chunk's data": in_body(b"5\r\nhello\1\r\n" + END, b""),
    "instead of a chunk's CR": in_body(b"5\r\nhello\1\n" + END, b"\r"),
    "instead of a chunk's LF": in_body(b"5\r\nhello\r\1" + END, b"\n"),
    "before the last chunk": in_body(b"5\r\nhello\r\n\1" + END, b"0"),
    "instead of the last CR": in_body(b"5\r\nhello\r\n0\r\n\1\n", b"\r"),
    "instead of the last LF": in_body(b"5\r\nhello\r\n0\r\n\r\1", b"\n"),
    "a trailer's first byte": in_body(b"0\r\n\1a: b\r\n\r\n", TCHAR),
    "behind a trailer's name": in_body(b"0\r\na\1: b\r\n\r\n", TCHAR | {*b":"}),
    "within a trailer's value": in_body(b"0\r\na: b\1c\r\n\r\n", VALUE),
    "a trailer's last byte": in_body(b"0\r\na: b\1\r\n\r\n", VALUE),
}


EVERY = bool(os.environ.get("CARRIER_EVERY_BYTE"))
"""Whether each byte is also read in pieces, as `make soak` does: four times the work, for bytes that are like their neighbours."""
TELLING = {*b"\0\t\n\r \x7f\x80\xff"}


def cut(good: Iterable[int]) -> set[int]:
    """Those whose reads are cut: all, or the ends of each run of bytes that are taken, their neighbours, and what ends lines and words."""
    if EVERY:
        return {*range(256)}
    fine = {*good}
    return TELLING | {byte for byte in range(256) if (byte in fine) != (byte + 1 in fine) or (byte in fine) != (byte - 1 in fine)}


@pytest.mark.parametrize("name", PLACES)
def test_every_byte_is_served_where_the_grammar_has_it_and_nowhere_else(name: str) -> None:
    before, after, good = PLACES[name]
    served = set()
    for byte in range(256):
        raw = before + bytes([byte]) + after
        server, error = serve(raw)
        if server.sent:
            served.add(byte)
        else:
            assert error is not None, byte
            assert error.status in (400, 501, 505), byte
        for step in (1, len(before), len(before) + 1) if byte in cut(good) else ():
            again, same = serve(raw, step)
            assert len(again.sent) == len(server.sent), (byte, step)
            assert (same and same.status) == (error and error.status), (byte, step)
    assert {*map(chr, served)} == {*map(chr, good)}


@pytest.mark.parametrize("between", [bytes([byte]) for byte in range(256)])
def test_what_stands_between_two_requests_is_never_taken_for_a_third(between: bytes) -> None:
    server, error = serve(get() + between + get())
    assert len(server.sent) == (2 if between[0] in TCHAR else 1), "a token byte is of the next method"
    assert (error is None) == (between[0] in TCHAR)


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\n\r", b"\r\r\n", b"\x85", b"\x0b", b"\x0c", b"\xe2\x80\xa8", b" \n", b"\0\r\n"])
def test_nothing_but_crlf_ends_a_line(end: bytes) -> None:
    for raw in (
        get().replace(b"\r\n", end),
        b"GET /x HTTP/1.1" + end + H + b"\r\n" + NEXT,
        get()[:-2] + end + NEXT,
        post(TE, body=b"5" + end + b"hello\r\n0\r\n\r\n") + NEXT,
        post(TE, body=b"5\r\nhello" + end + b"0\r\n\r\n") + NEXT,
        post(TE, body=b"5\r\nhello\r\n0" + end + b"\r\n") + NEXT,
        post(TE, body=b"5\r\nhello\r\n0\r\n" + end) + NEXT,
        post(TE, body=b"5\r\nhello\r\n0\r\nX: y" + end + b"\r\n") + NEXT,
    ):
        server, error = serve(raw)
        assert error is not None
        assert not server.sent
    for hidden in (b"Content-Length: 5", TE):
        server, _ = serve(post(b"X: y" + end + hidden, body=b"5\r\nhello\r\n0\r\n\r\n"))
        assert all(hidden.lower() in sent.lower() for sent in server.sent), "it was no line, and is sent on within the value"
