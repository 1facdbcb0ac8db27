"""Wire cases of HTTP/1.1, each one connection's bytes against a reader: what is served, and whether the rest is refused.

The attacks are those that have worked against somebody: request smuggling in its CL.TE, TE.CL, TE.0, chunk-extension and header-injection
kinds, response splitting, host confusion. Where the corpus of attacks lies beside the repository, all of it is read as well.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from carrier.errors import Error
from carrier.wire.h1.reader import AnswerMemo, AnswerReader, Limits, RequestMemo, RequestReader, chunk, last_chunk
from carrier.wire.http import CHUNKED, Fields, Head

CORPUS = Path(__file__).parents[3] / "shared" / "data" / "http1"
H = b"Host: a.example\r\n"
TE = b"Transfer-Encoding: chunked\r\n"
NEXT = b"GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n"
HELLO = b"5\r\nhello\r\n0\r\n\r\n"


class Server:
    """The next hop: the bytes that it would be sent, message by message."""

    def __init__(self) -> None:
        self.head: Head | None = None
        self.bodies: list[bytes] = []
        self.sent: list[bytes] = []
        self.targets: list[bytes] = []
        self.statuses: list[int] = []

    def on_head(self, head: Head) -> None:
        self.head, self.body = head, b""
        self.statuses.append(head.status)

    def on_data(self, data: bytes) -> None:
        self.body += data

    def on_end(self, trailers: Fields) -> None:
        assert self.head is not None
        framed = (chunk(self.body) if self.body else b"") + last_chunk(trailers) if self.head.body == CHUNKED else self.body
        self.sent.append(self.head.text + framed)
        self.bodies.append(self.body)
        self.targets.append(self.head.target)


def serve(raw: bytes, step: int = 0, limits: Limits = Limits()) -> tuple[Server, Error | None]:  # noqa: B008 (frozen)
    """Read a connection's bytes, whole or in steps, then its end; an answered request lets the next one begin."""
    server = Server()
    reader = RequestReader(RequestMemo(limits), limits, server)
    try:
        for part in parts(raw, step):
            reader.feed(part)
            while reader.held:
                reader.resume()
        reader.finish()
    except Error as error:
        return server, error
    return server, None


def receive(raw: bytes, method: bytes = b"GET", step: int = 0) -> tuple[Server, Error | None]:
    server = Server()
    reader = AnswerReader(AnswerMemo(), Limits(), server)
    reader.expect(method)
    try:
        for part in parts(raw, step):
            reader.feed(part)
        reader.finish()
    except Error as error:
        assert not reader.reusable
        return server, error
    return server, None


def parts(raw: bytes, step: int) -> list[bytes]:
    return [raw[i : i + step] for i in range(0, len(raw), step)] if step else [raw]


def get(*fields: bytes, line: bytes = b"GET /x HTTP/1.1", host: bytes = H) -> bytes:
    return line + b"\r\n" + host + b"".join(f + b"\r\n" for f in fields) + b"\r\n"


def post(*fields: bytes, body: bytes = b"") -> bytes:
    return get(*fields, line=b"POST /x HTTP/1.1") + body


# name: (bytes, requests served, then refused with this status or None)
REQUESTS: dict[str, tuple[bytes, int, int | None]] = {
    # good ones
    "get": (get(), 1, None),
    "pipeline of three": (get() * 3, 3, None),
    "post then get": (post(b"Content-Length: 5", body=b"hello") + get(), 2, None),
    "chunked then get": (post(TE[:-2], body=HELLO) + get(), 2, None),
    "chunked in capitals": (post(b"TRANSFER-ENCODING: CHUNKED", body=HELLO), 1, None),
    "chunked with space after": (post(b"Transfer-Encoding: chunked \t", body=HELLO), 1, None),
    "a body that looks like a request": (post(b"Content-Length: %d" % len(NEXT), body=NEXT), 1, None),
    "empty line before": (b"\r\n" + get(), 1, None),
    "empty line between": (post(b"Content-Length: 5", body=b"hello\r\n") + get(), 2, None),
    "lf behind a body": (post(b"Content-Length: 5", body=b"hello\n"), 1, None),
    "unknown method": (get(line=b"FROB /x HTTP/1.1"), 1, None),
    "http/1.0": (b"GET /x HTTP/1.0\r\n\r\n" + NEXT, 1, None),
    "http/1.0 kept alive": (get(b"Connection: keep-alive", line=b"GET /x HTTP/1.0") + NEXT, 2, None),
    "garbage after close": (get(b"Connection: close") + b"\0\0\0", 1, None),
    "close beats keep-alive": (get(b"Connection: keep-alive", b"Connection: close") + NEXT, 1, None),
    "absolute form": (get(line=b"GET http://a.example/x HTTP/1.1"), 1, None),
    "underscored length is another field": (post(b"Content_Length: 44") + NEXT, 2, None),
    "trailer": (post(TE[:-2], body=b"5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n"), 1, None),
    "chunk extension": (post(TE[:-2], body=b"5;a=b\r\nhello\r\n0;z\r\n\r\n"), 1, None),
    "expect with body in one read": (post(b"Content-Length: 5", b"Expect: 100-continue", body=b"hello") + get(), 2, None),
    "expect without body": (get(b"Expect: 100-continue") + get(), 2, None),
    "get with body": (get(b"Content-Length: 5") + b"hello" + get(), 2, None),
    "empty list elements in connection": (get(b"Connection: , keep-alive ,,"), 1, None),
    "port zero digits": (get(host=b"Host: a.example:\r\n"), 1, None),
    "obs-text": (get(b"X: \xe9\xff\x80"), 1, None),
    "hundred fields": (get(*[b"X: y"] * 99), 1, None),
    # lengths
    "cl twice": (post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello") + NEXT, 0, 400),
    "cl differs": (post(b"Content-Length: 5", b"Content-Length: 0", body=b"hello") + NEXT, 0, 400),
    "cl list": (post(b"Content-Length: 5, 5", body=b"hello") + NEXT, 0, 400),
    "cl plus": (post(b"Content-Length: +5", body=b"hello") + NEXT, 0, 400),
    "cl minus": (post(b"Content-Length: -5", body=b"hello") + NEXT, 0, 400),
    "cl octal": (post(b"Content-Length: 010", body=b"0123456789") + NEXT, 0, 400),
    "cl hex": (post(b"Content-Length: 0x5", body=b"hello") + NEXT, 0, 400),
    "cl float": (post(b"Content-Length: 5.0", body=b"hello") + NEXT, 0, 400),
    "cl exponent": (post(b"Content-Length: 1e1", body=b"0123456789") + NEXT, 0, 400),
    "cl underscore": (post(b"Content-Length: 1_0", body=b"0123456789") + NEXT, 0, 400),
    "cl empty": (post(b"Content-Length:") + NEXT, 0, 400),
    "cl with text": (post(b"Content-Length: 5 bytes", body=b"hello") + NEXT, 0, 400),
    "cl beyond 64 bits": (post(b"Content-Length: 18446744073709551621", body=b"hello"), 0, 400),
    "cl in other digits": (post(b"Content-Length: \xd9\xa5", body=b"hello") + NEXT, 0, 400),
    "cl with nul": (post(b"Content-Length: 5\0", body=b"hello") + NEXT, 0, 400),
    "cl with vt": (post(b"Content-Length: \x0b5", body=b"hello") + NEXT, 0, 400),
    "cl with space before colon": (post(b"Content-Length : 5", body=b"hello") + NEXT, 0, 400),
    "cl with tab before colon": (post(b"Content-Length\t: 5", body=b"hello") + NEXT, 0, 400),
    "cl folded": (post(b"Content-Length:\r\n 5", body=b"hello") + NEXT, 0, 400),
    "cl behind bare cr": (post(b"X: y\rContent-Length: 5", body=b"hello") + NEXT, 0, 400),
    "cl behind bare lf": (post(b"X: y\nContent-Length: 5", body=b"hello") + NEXT, 0, 400),
    # transfer codings
    "cl.te": (post(b"Content-Length: %d" % (5 + len(NEXT)), TE[:-2], body=b"0\r\n\r\n" + NEXT), 0, 400),
    "te.cl": (post(TE[:-2], b"Content-Length: 4", body=b"2c\r\n" + NEXT + b"\r\n0\r\n\r\n"), 0, 400),
    "te.te": (post(TE[:-2], b"Transfer-Encoding: x", body=HELLO) + NEXT, 0, 400),
    "te.0": (b"OPTIONS /x HTTP/1.1\r\n" + H + b"Transfer-Encoding: identity\r\n\r\n" + HELLO, 0, 400),
    "te twice": (post(TE[:-2], TE[:-2], body=HELLO) + NEXT, 0, 400),
    "te chunked, chunked": (post(b"Transfer-Encoding: chunked, chunked", body=HELLO) + NEXT, 0, 400),
    "te chunked, identity": (post(b"Transfer-Encoding: chunked, identity", body=HELLO), 0, 400),
    "te gzip, chunked": (post(b"Transfer-Encoding: gzip, chunked", body=HELLO), 0, 501),
    "te xchunked": (post(b"Transfer-Encoding: xchunked", body=HELLO), 0, 400),
    "te quoted": (post(b'Transfer-Encoding: "chunked"', body=HELLO), 0, 400),
    "te parameter": (post(b"Transfer-Encoding: chunked;q=1", body=HELLO), 0, 400),
    "te leading comma": (post(b"Transfer-Encoding: ,chunked", body=HELLO), 0, 400),
    "te trailing comma": (post(b"Transfer-Encoding: chunked,", body=HELLO), 0, 400),
    "te vertical tab": (post(b"Transfer-Encoding: \x0bchunked", body=HELLO), 0, 400),
    "te nbsp": (post(b"Transfer-Encoding: \xa0chunked", body=HELLO), 0, 400),
    "te nul": (post(b"Transfer-Encoding: chunked\0", body=HELLO), 0, 400),
    "te bare cr": (post(b"Transfer-Encoding: \rchunked", body=HELLO), 0, 400),
    "te folded": (post(b"Transfer-Encoding:\r\n chunked", body=HELLO), 0, 400),
    "te folded list": (post(b"Transfer-Encoding: chunked\r\n , identity", body=HELLO), 0, 400),
    "te space before colon": (post(b"Transfer-Encoding : chunked", body=HELLO), 0, 400),
    "te leading space": (get(line=b"POST /x HTTP/1.1\r\n Transfer-Encoding: chunked") + HELLO, 0, 400),
    "te in http/1.0": (get(b"Connection: keep-alive", TE[:-2], line=b"POST /x HTTP/1.0") + HELLO, 0, 400),
    "te empty": (post(b"Transfer-Encoding:", body=HELLO), 0, 400),
    # chunks
    "chunk size 0x": (post(TE[:-2], body=b"0x5\r\nhello\r\n0\r\n\r\n"), 0, 400),
    "chunk size minus": (post(TE[:-2], body=b"-5\r\nhello\r\n0\r\n\r\n"), 0, 400),
    "chunk size space": (post(TE[:-2], body=b"5 \r\nhello\r\n0\r\n\r\n"), 0, 400),
    "chunk size overflow": (post(TE[:-2], body=b"10000000000000005\r\nhello\r\n0\r\n\r\n"), 0, 400),
    "chunk size sixteen digits": (post(TE[:-2], body=b"0000000000000005\r\nhello\r\n0\r\n\r\n"), 1, None),
    "chunk size of sixteen digits, all of which count": (post(TE[:-2], body=b"1000000000000005\r\nhello\r\n0\r\n\r\n"), 0, 400),
    "chunk size seventeen digits": (post(TE[:-2], body=b"00000000000000005\r\nhello\r\n0\r\n\r\n"), 0, 400),
    "chunk size empty": (post(TE[:-2], body=b"\r\nhello\r\n0\r\n\r\n"), 0, 400),
    "chunk size with lf": (post(TE[:-2], body=b"5\nhello\r\n0\r\n\r\n"), 0, 400),
    "chunk extension with lf": (post(TE[:-2], body=b"2;\nxx\r\n2f\r\n0\r\n\r\n" + NEXT), 0, 400),
    "chunk extension with cr": (post(TE[:-2], body=b"5;a\rb\r\nhello\r\n0\r\n\r\n"), 0, 400),
    "chunk extension with nul": (post(TE[:-2], body=b"5;a=\0\r\nhello\r\n0\r\n\r\n"), 0, 400),
    "chunk extension quoted over lines": (post(TE[:-2], body=b'5;a="\r\nhello\r\n0\r\n\r\n"\r\n'), 0, 400),
    "chunk extensions without end": (post(TE[:-2], body=b"1;a=bbbbbbbbbbbbbbbbbbbb\r\nZ\r\n" * 1000 + b"0\r\n\r\n"), 0, 400),
    "chunk data too long": (post(TE[:-2], body=b"5\r\nhelloX\r\n0\r\n\r\n"), 0, 400),
    "chunk data too short": (post(TE[:-2], body=b"6\r\nhello\r\n0\r\n\r\n"), 0, 400),
    "chunk data with lf": (post(TE[:-2], body=b"5\r\nhello\n0\r\n\r\n"), 0, 400),
    "chunk data with other two bytes": (post(TE[:-2], body=b"5\r\nhelloXX0\r\n\r\n"), 0, 400),
    "last chunk with lf": (post(TE[:-2], body=b"5\r\nhello\r\n0\n\r\n"), 0, 400),
    "trailer content-length": (post(TE[:-2], body=b"0\r\nContent-Length: 44\r\n\r\n" + NEXT), 0, 400),
    "trailer transfer-encoding": (post(TE[:-2], body=b"0\r\nTransfer-Encoding: chunked\r\n\r\n" + NEXT), 0, 400),
    "trailer host": (post(TE[:-2], body=b"0\r\nHost: evil\r\n\r\n"), 0, 400),
    "trailer folded": (post(TE[:-2], body=b"0\r\nX: 1\r\n 2\r\n\r\n"), 0, 400),
    "trailer without colon": (post(TE[:-2], body=b"0\r\nGET /smuggled HTTP/1.1\r\n\r\n"), 0, 400),
    "trailer bare cr": (post(TE[:-2], body=b"0\r\nX: 1\r2\r\n\r\n"), 0, 400),
    # request lines and targets
    "http/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0, 505),
    "http/1.9": (get(line=b"GET /x HTTP/1.9"), 0, 505),
    "http/0.9": (b"GET /x\r\n\r\n", 0, 400),
    "version in lower case": (get(line=b"GET /x http/1.1"), 0, 400),
    "version with comma": (get(line=b"GET /x HTTP/1,1"), 0, 400),
    "two spaces": (get(line=b"GET  /x HTTP/1.1"), 0, 400),
    "tab": (get(line=b"GET\t/x HTTP/1.1"), 0, 400),
    "space in target": (get(line=b"GET /x HTTP/1.1 HTTP/1.1"), 0, 400),
    "nul in target": (get(line=b"GET /\0 HTTP/1.1"), 0, 400),
    "del in target": (get(line=b"GET /\x7f HTTP/1.1"), 0, 400),
    "fragment": (get(line=b"GET /x#y HTTP/1.1"), 0, 400),
    "bad percent": (get(line=b"GET /%2 HTTP/1.1"), 0, 400),
    "raw utf-8": (get(line=b"GET /\xc3\xa9 HTTP/1.1"), 0, 400),
    "backslash": (get(line=b"GET /\\..\\x HTTP/1.1"), 0, 400),
    "relative target": (get(line=b"GET x HTTP/1.1"), 0, 400),
    "star with get": (get(line=b"GET * HTTP/1.1"), 0, 400),
    "authority with get": (get(line=b"GET a.example:80 HTTP/1.1"), 0, 400),
    "userinfo": (get(line=b"GET http://u:p@a.example/ HTTP/1.1"), 0, 400),
    "absolute form of another host": (get(line=b"GET http://b.example/ HTTP/1.1"), 0, 400),
    "absolute form of a file": (get(line=b"GET file:///etc/passwd HTTP/1.1"), 0, 400),
    "connect to a path": (get(line=b"CONNECT /x HTTP/1.1"), 0, 400),
    "method with colon": (get(line=b"G:T /x HTTP/1.1"), 0, 400),
    "no method": (get(line=b" /x HTTP/1.1"), 0, 400),
    "long target": (get(line=b"GET /" + b"x" * 17000 + b" HTTP/1.1"), 0, 414),
    "tls": (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", 0, 400),
    "proxy protocol 2": (b"\r\n\r\n\x00\r\nQUIT\n!\x11\x00\x00" + get(), 0, 400),
    "proxy protocol 1": (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n" + get(), 0, 400),
    # fields
    "two empty lines before": (b"\r\n\r\n" + get(), 0, 400),
    "lf as line end": (b"GET /x HTTP/1.1\nHost: a.example\n\n", 0, 400),
    "lf at the end": (b"GET /x HTTP/1.1\r\nHost: a.example\r\n\n", 0, 400),
    "cr as line end": (b"GET /x HTTP/1.1\rHost: a.example\r\r", 0, 400),
    "cr before name": (b"GET /x HTTP/1.1\r\nHost: a.example\r\n\rX: y\r\n\r\n", 0, 400),
    "no colon": (get(b"GET /smuggled HTTP/1.1"), 0, 400),
    "pseudo-header": (get(b":authority: evil"), 0, 400),
    "space before first field": (get(line=b"GET /x HTTP/1.1\r\n X: y"), 0, 400),
    "fold": (get(b"X: y\r\n z"), 0, 400),
    "nul in value": (get(b"X: a\0b"), 0, 400),
    "no host": (get(host=b""), 0, 400),
    "host twice": (get(host=H + H), 0, 400),
    "host list": (get(host=b"Host: a.example, b.example\r\n"), 0, 400),
    "host with path": (get(host=b"Host: a.example/x\r\n"), 0, 400),
    "host with user": (get(host=b"Host: u@a.example\r\n"), 0, 400),
    "host with bad port": (get(host=b"Host: a.example:80a\r\n"), 0, 400),
    "host empty": (get(host=b"Host:\r\n"), 0, 400),
    "host behind a space": (get(line=b"GET /x HTTP/1.1\r\n Host: b.example"), 0, 400),
    "expectation unknown": (get(b"Expect: 200-ok"), 0, 417),
    "too many fields": (get(*[b"X: y"] * 100), 0, 431),
    "long field": (get(b"X: " + b"y" * 17000), 0, 431),
    "garbage behind a good request": (get() + b"\0\1garbage\r\n\r\n", 1, 400),
    "cut in the head": (get()[:-2], 0, 400),
    "cut in the body": (post(b"Content-Length: 9", body=b"hello"), 0, 400),
    "cut in a chunk": (post(TE[:-2], body=b"5\r\nhel"), 0, 400),
    "cut before the last chunk": (post(TE[:-2], body=b"5\r\nhello\r\n"), 0, 400),
}

OK = b"HTTP/1.1 200 OK\r\n"
# name: (bytes, method, whole answers passed on; 0 for one that is refused or cut)
ANSWERS: dict[str, tuple[bytes, bytes, int]] = {
    "length": (OK + b"Content-Length: 5\r\n\r\nhello", b"GET", 1),
    "chunked": (OK + TE + b"\r\n" + HELLO, b"GET", 1),
    "until close": (OK + b"\r\nhello", b"GET", 1),
    "http/1.0": (b"HTTP/1.0 200 OK\r\n\r\nhello", b"GET", 1),
    "head": (OK + b"Content-Length: 5\r\n\r\n", b"HEAD", 1),
    "head of chunked": (OK + TE + b"\r\n", b"HEAD", 1),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", b"GET", 1),
    "304 with length": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"GET", 1),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", b"GET", 1),
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nLink: y\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n", b"GET", 1),
    "surplus": (OK + b"Content-Length: 5\r\n\r\nhelloX", b"GET", 1),
    "second answer": (OK + b"Content-Length: 0\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n", b"GET", 1),
    "body after head": (OK + b"Content-Length: 5\r\n\r\nhello", b"HEAD", 1),
    "body after 304": (b"HTTP/1.1 304 x\r\n\r\nhello", b"GET", 1),
    "length on 204": (b"HTTP/1.1 204 x\r\nContent-Length: 5\r\n\r\nhello", b"GET", 1),
    "length on 100": (b"HTTP/1.1 100 x\r\nContent-Length: 5\r\n\r\nhello", b"GET", 0),
    "unrequested 101": (b"HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", b"GET", 0),
    "cl and te": (OK + b"Content-Length: 5\r\n" + TE + b"\r\n" + HELLO, b"GET", 1),
    "cl twice": (OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", b"GET", 1),
    "te unknown": (OK + b"Transfer-Encoding: gzip\r\n\r\nhello", b"GET", 0),
    "te in 1.0": (b"HTTP/1.0 200 OK\r\n" + TE + b"\r\n" + HELLO, b"GET", 1),
    "splitting by bare lf": (OK + b"X: y\n\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"GET", 0),
    "splitting by bare cr": (OK + b"X: y\r\rSet-Cookie: z\r\nContent-Length: 0\r\n\r\n", b"GET", 0),
    "nul": (OK + b"X: a\0b\r\nContent-Length: 0\r\n\r\n", b"GET", 0),
    "fold": (OK + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n", b"GET", 1),
    "icy": (b"ICY 200 OK\r\n\r\n", b"GET", 0),
    "http/2": (b"HTTP/2.0 200 OK\r\n\r\n", b"GET", 0),
    "status of four digits": (b"HTTP/1.1 2000 OK\r\n\r\n", b"GET", 0),
    "empty line first": (b"\r\n" + OK + b"Content-Length: 0\r\n\r\n", b"GET", 0),
    "cut body": (OK + b"Content-Length: 9\r\n\r\nhello", b"GET", 0),
    "cut chunk": (OK + TE + b"\r\n5\r\nhel", b"GET", 0),
    "cut before last chunk": (OK + TE + b"\r\n5\r\nhello\r\n", b"GET", 0),
    "cut head": (OK, b"GET", 0),
    "no answer": (b"", b"GET", 0),
    "only interim": (b"HTTP/1.1 102 x\r\n\r\n", b"GET", 0),
    "interim for ever": (b"HTTP/1.1 100 x\r\n\r\n" * 100, b"GET", 0),
    "bad chunk": (OK + TE + b"\r\n5\r\nhelloXX", b"GET", 0),
    "trailer content-length": (OK + TE + b"\r\n0\r\nContent-Length: 3\r\n\r\n", b"GET", 1),
}


@pytest.mark.parametrize("step", [0, 1], ids=["whole", "bytewise"])
@pytest.mark.parametrize("name", REQUESTS)
def test_requests_are_served_or_refused(name: str, step: int) -> None:
    raw, served, status = REQUESTS[name]
    server, error = serve(raw, step)
    assert len(server.sent) == served
    assert (error.status if error else None) == status
    assert served != 0 or b"/smuggled" not in b"".join(server.targets)
    assert error is None or error.side == "downstream"


@pytest.mark.parametrize("name", [name for name, case in REQUESTS.items() if case[1]])
def test_what_is_sent_on_reads_the_same_at_the_next_hop(name: str) -> None:
    server, _ = serve(REQUESTS[name][0])
    second, error = serve(b"".join(server.sent), limits=Limits(fields=110))
    assert error is None
    assert second.bodies == server.bodies
    assert len(second.sent) == len(server.sent)


@pytest.mark.parametrize("step", [0, 1], ids=["whole", "bytewise"])
@pytest.mark.parametrize("name", ANSWERS)
def test_answers_are_passed_on_or_refused(name: str, step: int) -> None:
    raw, method, passed = ANSWERS[name]
    server, error = receive(raw, method, step)
    assert len(server.sent) == passed
    assert (error is None) == bool(passed)
    assert error is None or (error.side == "upstream" and error.status == 502)


COMPLETE = ("own:204-body", "own:head-chunk-body")
"""Answers that are whole before the bytes behind them come (RFC 9112 section 6.3): delivered, and their connection is given up. The oracle
would have them refused; what matters, that those bytes are nobody's answer, it watches too (LEAK, POISONED, EXTRA_RESP)."""
TAKEN = ("own:chunk-trailercl", "own:cl-listsame", "own:eol-lf", "own:te-cl", "own:te-clbefore", "own:te-comma")
"""Answers of which the oracle takes either outcome, and would like a refusal: nginx and haproxy deliver them, and so do we. The connection
is given up where the length was said twice."""


def cases(name: str) -> list[dict[str, object]]:
    path = CORPUS / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def judge(case: dict[str, object], server: Server, error: Error | None) -> str:
    """What is wrong with the outcome of one case of the corpus; empty if nothing."""
    if error and error.status in (500, 503, 504):
        return f"status {error.status}"
    if case["goal"] == "reject" and not error and case["id"] not in (*COMPLETE, *TAKEN):
        return "not refused"
    if len(server.sent) > int(str(case["n_max"])):
        return "more messages than any reading gives"
    if case["expected"] == "accept" and (error or not server.sent):
        return f"refused: {error}"
    if case["expected"] == "accept" and "body" in case and server.bodies[0] != base64.b64decode(str(case["body"])):
        return "another body"
    return ""


@pytest.mark.skipif(not CORPUS.exists(), reason="the corpus of attacks lies beside the repository, not in it")
@pytest.mark.parametrize("step", [0, 3])
def test_the_whole_corpus_of_attacks_is_read_as_its_oracle_wants(step: int) -> None:
    wrong = {}
    for case in cases("requests.jsonl"):
        raw = base64.b64decode(str(case["raw"]))
        if problem := judge(case, *serve(raw, step if len(raw) < 20000 else 0)):
            wrong[f"request {case['id']}"] = problem
    for case in cases("responses.jsonl"):
        raw = base64.b64decode(str(case["raw"]))
        method = str(case.get("method", "GET")).encode()
        if problem := judge(case, *receive(raw, method, step if len(raw) < 20000 else 0)):
            wrong[f"answer {case['id']}"] = problem
    assert wrong == {}
