"""Chunked bodies (RFC 9112 section 7.1): a decoder that bears any cut between reads, and the framing of what we send."""

from __future__ import annotations

import re
from collections.abc import Iterable

from carrier.errors import Error, Side, shown
from carrier.wire.forwarding import CLAIMS
from carrier.wire.h1.head import ILL, TCHARS, Limits, refuse, split_lines, split_pairs, too_large
from carrier.wire.h1.mend import FOLD
from carrier.wire.http import ENDURING, OURS, UNMERGEABLE, Fields, join_fields

# Spaces and tabs around the parts of an extension are "bad", but the grammar has them (RFC 9112 7.1.1): read, and dropped with it. Before
# the first ";" we refuse them, as h11 does. Old servers pad the sizes of their chunks; their answers are read, requests like that are not.
_QUOTED = rb"\"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*\""
_EXTENSIONS = rb"(?:;[ \t]*%b[ \t]*(?:=[ \t]*(?:%b|%b)[ \t]*)?)*" % (TCHARS, TCHARS, _QUOTED)
_FIRST_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n")
_NEXT_SIZE = re.compile(rb"\r\n([0-9A-Fa-f]{1,15})\r\n")
_SIZE = rb"0?([0-9A-Fa-f]{1,15})"
_SIZE_LINE: dict[Side, re.Pattern[bytes]] = {
    "downstream": re.compile(rb"%b(%b)" % (_SIZE, _EXTENSIONS)),
    "upstream": re.compile(rb"%b(%b|[ \t]*)" % (_SIZE, _EXTENSIONS)),
}
_SIZE_PREFIX: dict[Side, re.Pattern[bytes]] = {
    "downstream": re.compile(rb"(?:%b(?:;[\t -~\x80-\xff]*)?\r?)?" % _SIZE),
    "upstream": re.compile(rb"(?:%b(?:;[\t -~\x80-\xff]*|[ \t]*)\r?)?" % _SIZE),
}
_SIZE_MAX = 4096  # bytes of a chunk-size line with its extensions

_UNTRUSTED = CLAIMS | UNMERGEABLE | {b"authorization", b"cookie", b"set-cookie", b"expect", b"cache-control", b"max-forwards", b"range"}
"""Trailers that are dropped (RFC 9110 6.5.1 lets us): what is for one hop, says how to read the content, modifies the request or proves who
sent it. Nobody may take these from there; nginx, haproxy and Envoy serve such a message, and so do we, without them."""
LAST_CHUNK = b"0\r\n\r\n"


def passable(name: bytes) -> bool:
    """May a trailer of this lower-case name be sent on?"""
    return name not in _UNTRUSTED and not name.startswith(OURS)


def chunk(data: bytes) -> bytes:
    """One chunk (RFC 9112 7.1). `data` must not be empty: that would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """The end of a chunked body, with trailer fields that have been checked; a WebSocket's code and reason are none."""
    return b"0\r\n" + join_fields(pair for pair in trailers if isinstance(pair, tuple)) + b"\r\n"


class Chunked:
    """Decodes one chunked body (RFC 9112 7.1): exact CRLF, sizes of at most 15 hex digits and a zero before them, extensions checked and
    dropped.

    What is cut by the end of a read (a size line, the trailers) is kept, bounded, and joined with the next one; payload never is.
    """

    __slots__ = ("_extensions", "_inside", "_left", "_rest", "_scanned", "_trailing", "limits", "side", "size")

    def __init__(self, limits: Limits | None = None, side: Side = "downstream") -> None:
        self.limits, self.side = limits or Limits(), side
        self.size = 0  # payload so far
        self._left = 0  # payload bytes that the current chunk still lacks
        self._inside = False  # a chunk came: CRLF stands before the next size
        self._trailing = False  # the last chunk came
        self._rest = b""
        self._scanned = 0  # bytes of unfinished trailers in which they do not end
        self._extensions = 0

    def feed(self, data: bytes, i: int = 0) -> tuple[bytes, int, Fields]:
        """Decode `data` from offset i: (payload of all chunks in it, offset behind the body or -1 while it goes on, trailers).

        Raises Error("protocol-error" or "bad-answer"; "body-too-large").
        """
        kept = len(self._rest)
        if kept:
            data, i, kept = self._rest + data[i:], 0, kept - i
            self._rest = b""
        parts: list[bytes | memoryview] = []
        at, trailers = self._decode(data, i, parts)
        payload = b"".join(parts)
        self.size += len(payload)
        if self.limits.body and self.size > self.limits.body:
            raise Error("body-too-large", f"a body of more than {self.limits.body} bytes{self.limits.named('max_body')}", self.side)
        return payload, (at - kept if at >= 0 else -1), trailers

    def _decode(self, data: bytes, i: int, parts: list[bytes | memoryview]) -> tuple[int, Fields]:
        n = len(data)
        if self._left:
            if n - i < self._left:
                self._left -= n - i
                parts.append(data[i:] if i else data)
                return -1, ()
            parts.append(data[i : i + self._left])
            i += self._left
            self._left = 0
        view = memoryview(data)
        while not self._trailing:
            match = (_NEXT_SIZE if self._inside else _FIRST_SIZE).match(data, i)
            if match:
                i, size = match.end(), int(match[1], 16)
            else:
                i, size = self._odd_line(data, i)
                if i < 0:
                    return -1, ()
            if size == 0:
                self._trailing = True
                break
            self._inside = True
            end = i + size
            if end > n:
                parts.append(view[i:])
                self._left = end - n
                return -1, ()
            parts.append(view[i:end])
            i = end
        return self._trailers(data, i)

    def _odd_line(self, data: bytes, i: int) -> tuple[int, int]:
        """A size line with extensions, cut by the end of the read (-1, and it is kept), or wrong."""
        start = i
        if self._inside:
            if not b"\r\n".startswith(data[i : i + 2]):
                raise refuse(self.side, f"chunk data is not followed by CRLF but by {shown(data[i : i + 2])}")
            i += 2
        end = data.find(b"\r\n", i, i + _SIZE_MAX)
        if end < 0:
            if len(data) - i >= _SIZE_MAX or not _SIZE_PREFIX[self.side].fullmatch(data, min(i, len(data))):
                raise refuse(self.side, f"chunk size {shown(data[i : i + 40])}")
            self._rest = data[start:]
            return -1, 0
        match = _SIZE_LINE[self.side].fullmatch(data, i, end)
        if not match:
            raise refuse(self.side, f"chunk size {shown(data[i : min(end, i + 40)])}")
        self._extensions += len(match[2])
        if self._extensions > self.limits.extensions:
            raise refuse(self.side, f"more than {self.limits.extensions} bytes of chunk extensions")
        return end + 2, int(match[1], 16)

    def _trailers(self, data: bytes, i: int) -> tuple[int, Fields]:
        """The trailer section (RFC 9112 7.1.2). Fields that would change where the message ends or whom it is for are refused, or, of an
        answer, which ends here whatever they say, dropped."""
        if data.startswith(b"\r\n", i):
            return i + 2, ()
        end = data.find(b"\r\n\r\n", i + self._scanned)
        if end < 0:
            if len(data) - i > self.limits.head:
                raise too_large(self.side, f"trailers of more than {self.limits.head} bytes{self.limits.named('max_head')}")
            if match := ILL.search(data, i + self._scanned):
                raise refuse(self.side, f"byte {shown(match[0])} in the trailers")
            self._rest, self._scanned = data[i:], max(0, len(data) - i - 3)
            return -1, ()
        section = data[i : end + 4] if self.side == "downstream" else FOLD.sub(b" ", data[i : end + 4])
        lines = split_lines(b"0\r\n" + section, self.limits, self.side)  # the last chunk is their start line
        fields = split_pairs(lines[1:], self.side)
        if self.side == "upstream":
            fields = [(name, value) for name, value in fields if name.lower() not in ENDURING]
        elif bad := [name for name, _ in fields if name.lower() in ENDURING]:
            raise refuse(self.side, f"field {shown(bad[0])} in the trailers")
        return end + 4, tuple(pair for pair in fields if passable(pair[0].lower()))
