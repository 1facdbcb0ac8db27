"""Heads of HTTP/2: a section that was read becomes a `Head`, and a head a block to be sent (RFC 9113 section 8).

A section that the memo keeps keeps its head, and with it what a listener decided of it. What goes on is made of the fields that came,
or, where HTTP/1.1 read the head, of its text (encoder.py).
"""

from __future__ import annotations

import base64
import os
from functools import lru_cache
from typing import TYPE_CHECKING

from carrier.errors import Error
from carrier.wire.forwarding import HOPS, passed
from carrier.wire.grpc import is_type
from carrier.wire.h1.chunked import passable
from carrier.wire.h1.text import text_of
from carrier.wire.h2.encoder import Encoder
from carrier.wire.h2.frames import DATA, END_HEADERS, END_STREAM, FRAME_MAX, HEADERS, START
from carrier.wire.h2.hpack import Pair, encode, line
from carrier.wire.http import CHUNKED, EXPLAIN, LENGTH, NONE, OURS, Fields, Head, authenticates_connections

if TYPE_CHECKING:
    from carrier.wire.forwarding import Forwarding
    from carrier.wire.h2.fields import Section

_CONTINUE = b"100-continue"
_HANDSHAKE = frozenset((b"sec-websocket-key", b"sec-websocket-accept"))
"""Fields of a WebSocket's handshake that only HTTP/1.1 has (RFC 8441 section 5)."""
CONTINUE_BLOCK = line(b":status", b"100")
TE = line(b"te", b"trailers")


def request_of(section: Section, last: bool, profile: Forwarding) -> Head:
    """The request that a section is; last: it has no content. Remembered with the section. Raises Error("expectation")."""
    kept = section.owner
    if kept is not None and kept[0] is profile and kept[1] is last:  # those of another revision are others, though they may be equal
        head: Head = kept[2]
        return head
    if section.shape is not None:
        return _request_like(section, last, profile)
    head = _request(section, last, profile)
    if section.kept and not section.protocol:
        section.owner = profile, last, head
    return head


class _Pattern:
    """Requests of one shape (memo.py). head: the first of them; None: rules look at what differs. parts: its text, cut where that stands;
    values: which of the shape's values go there. before: the one that was made last, which knows by now what was decided."""

    __slots__ = ("before", "head", "last", "parts", "pieces", "profile", "values")

    def __init__(self, section: Section, last: bool, profile: Forwarding) -> None:
        self.profile, self.last = profile, last
        self.before: Head | None = None
        self.head: Head | None = None
        self.parts: list[bytes] = []
        self.values: list[int] = []
        self.pieces: tuple[bytes, list[bytes]] | None = None  # the same of its block, for one scheme
        shape = section.shape
        first: Section = shape.section
        differ = [first.fields[i] for i in shape.places]
        if profile.interesting is not None and any(pair[0] in profile.interesting for pair in differ):
            return
        head = _request(first, last, profile)
        text, at = text_of(head), 0
        lines = b""
        begin = text.find(b"\r\n") + 2
        if head.authority:
            begin = text.find(b"\r\n", begin) + 2
        for pair in head.onward or ():
            lines += pair[0] + b": "
            for number, other in enumerate(differ):
                if pair is other:
                    self.parts.append(text[at : begin + len(lines)])
                    self.values.append(shape.places[number])
                    at = begin + len(lines) + len(pair[1])
            lines += pair[1] + b"\r\n"
        self.parts.append(text[at:])
        if text[begin : begin + len(lines)] == lines:
            self.head = head

    def made(self, section: Section) -> Head | None:
        """The request that a section of this shape is."""
        known, before, parts = self.head, self.before, self.parts
        if known is None:
            return None  # rules look at what differs
        if known.decision is None and before is not None and before.decision is not None and before.decision[1] is None:
            known.decision = before.decision
        fields = section.fields
        if len(self.values) == 1:
            text = parts[0] + fields[self.values[0]][1] + parts[1]
        else:
            text = parts[0] + b"".join([fields[i][1] + parts[n] for n, i in enumerate(self.values, 1)])
        self.before = head = known.again(text, b"", known.target, known.length)
        head.set_fields(((b"host", section.authority), *fields) if section.authority else fields)
        head.never, head.grpc, head.decision = section.never, known.grpc, known.decision
        head.block = self, fields
        return head

    def block(self, fields: Fields, scheme: bytes, encoder: Encoder) -> bytes:
        """The block of the request that was made with these fields."""
        pieces = self.pieces
        if pieces is None or pieces[0] is not scheme:
            pieces = self.pieces = scheme, self._cut(scheme, encoder)
        made, *rest = pieces[1]
        for i, behind in zip(self.values, rest, strict=True):
            made += line(*fields[i]) + behind
        return made

    def _cut(self, scheme: bytes, encoder: Encoder) -> list[bytes]:
        """The block of the first request, cut where what differs stands."""
        head = self.head
        assert head is not None
        first, *others = self.parts
        begin = first.find(b"\r\n") + 2
        between = [first[begin:], *(part[2:] for part in others)]  # lines, but for the last of each the begin of one that differs
        between = [part[: part.rfind(b"\r\n") + 2] for part in between[:-1]] + [between[-1][:-2]]
        pieces = [encoder.fields(b"\r\n" + part + b"\r\n") for part in between]
        pieces[0] = encode(_pseudo(head, scheme, head.location or head.target, head.authority)) + pieces[0]
        pieces[-1] += TE if _takes_trailers(head) else b""
        return pieces


def _request_like(section: Section, last: bool, profile: Forwarding) -> Head:
    """The request that a section is whose shape was met."""
    shape = section.shape
    pattern: _Pattern | None = shape.owner
    if pattern is None or pattern.profile is not profile or pattern.last is not last:
        pattern = shape.owner = _Pattern(section, last, profile)
    return pattern.made(section) or _request(section, last, profile)


def _request(section: Section, last: bool, profile: Forwarding) -> Head:
    seen = dict(section.fields)
    fields: Fields = ((b"host", section.authority), *section.fields) if section.authority else section.fields
    length = section.length
    body = NONE if last else LENGTH if length >= 0 else CHUNKED
    tunnel = section.protocol.lower() or None
    expected = seen.get(b"expect", b"").lower()
    if expected not in (b"", _CONTINUE):
        raise Error("expectation", f"Expect {expected.decode('latin-1')} is not 100-continue", "downstream")
    cut = profile.cut() | {b"expect"} if last or not expected else profile.cut()
    if not last:  # else it says that a body without content is one
        cut = cut | {b"content-length"}
    hops = passed(value for name, value in section.fields if name == HOPS) if profile.counts and HOPS in seen else 0
    onward = tuple(pair for pair in section.fields if pair[0] not in cut) + profile.standing(section.authority, seen, b"2.0", hops)
    if tunnel:
        body, length = NONE, -1
        onward = tuple(pair for pair in onward if pair[0] not in _HANDSHAKE and pair[0] != b"content-length")
        onward += ((b"sec-websocket-key", base64.b64encode(os.urandom(16))),)
    head = Head(
        b"",
        b"",
        b"GET" if tunnel else section.method,
        section.path,
        section.authority,
        version="2",
        body=body,
        length=max(0, length) if body == LENGTH else 0,
        expect=bool(expected) and not last,
        upgrade=tunnel,
        has_id=bool(profile.request_id) and profile.request_id in seen,
        key=_key(section, fields, profile),
        fields=fields,
        explain=EXPLAIN in seen,
        onward=onward,
        hops=hops,
        binds=authenticates_connections([seen.get(b"authorization", b"")]),
    )
    head.never = section.never
    if section.method == b"POST" and is_type(seen.get(b"content-type", b"")):
        head.grpc, head.simple = 2 if b"grpc-timeout" in seen else 1, False
    return head


def _key(section: Section, fields: Fields, profile: Forwarding) -> object:
    names = profile.interesting
    if names is None:
        return None
    return ("2", section.protocol, *(pair for pair in fields if pair[0] in names))


def answer_of(section: Section, last: bool) -> Head:
    """The answer that a section is; last: it has no content. Remembered with the section."""
    kept = section.owner
    if kept is not None and kept[0] is last:
        head: Head = kept[1]
        return head
    length, status = section.length, section.status
    body = NONE if last or status < 200 or status in (204, 304) else LENGTH if length >= 0 else CHUNKED
    onward = section.fields if last and status >= 200 and status != 204 else without_length(section.fields)
    if any(name.startswith(OURS) for name, _ in onward):
        onward = tuple(pair for pair in onward if not pair[0].startswith(OURS))
    head = Head(b"", status=status, version="2", body=body, length=max(0, length), fields=section.fields, onward=onward)
    head.never = section.never
    if section.kept:
        section.owner = last, head
    return head


def without_length(fields: Fields) -> Fields:
    """The fields without Content-Length."""
    return tuple(pair for pair in fields if pair[0] != b"content-length")


def request_block(head: Head, scheme: bytes, encoder: Encoder, timeout: bytes = b"") -> bytes:
    """The block of a request without what varies per request; kept with the head. A request for a WebSocket is an extended CONNECT.
    timeout: in place of its grpc-timeout."""
    kept = head.block
    block: bytes
    if kept is not None and not timeout:
        if kept[0] is scheme:
            block = kept[1]
            return block
        if type(kept[0]) is _Pattern and not head.never:
            block = kept[0].block(kept[1], scheme, encoder)
            head.block = scheme, block
            return block
    text = head.text
    path = text[text.find(b" ") + 1 : text.find(b" HTTP/1.1\r\n")] if text else head.location or head.target
    host = _host(text) if text else head.authority
    te = TE if _takes_trailers(head) else b""
    pseudo = _pseudo(head, scheme, path, host)
    if head.upgrade:
        pseudo[0] = (b":method", b"CONNECT")
        pseudo.insert(1, (b":protocol", head.upgrade))
    if text and not head.upgrade and not head.never and not timeout:
        block = encode(pseudo) + encoder.fields(text) + te
    else:
        fields = head.sent_on()
        if head.upgrade:
            fields = tuple(pair for pair in fields if pair[0] not in _HANDSHAKE)
        elif head.body == LENGTH:
            fields = (*fields, (b"content-length", b"%d" % head.length))
        if timeout:
            fields = tuple((name, timeout if name == b"grpc-timeout" else value) for name, value in fields)
            return encode((*pseudo, *fields), head.never) + te
        block = encode((*pseudo, *fields), head.never) + te
    head.block = scheme, block
    return block


def _pseudo(head: Head, scheme: bytes, path: bytes, host: bytes) -> list[Pair]:
    return [(b":method", head.method), (b":scheme", scheme), (b":path", path), (b":authority", host)]


def _host(text: bytes) -> bytes:
    at = text.lower().find(b"\r\nhost:")
    return text[at + 7 : text.find(b"\r\n", at + 7)].strip(b" \t") if at >= 0 else b""


def _takes_trailers(head: Head) -> bool:
    return b"trailers" in [token.strip().partition(b";")[0].lower() for token in (head.get(b"te") or b"").split(b",")]


def answer_block(head: Head, encoder: Encoder) -> bytes:
    """The block of an answer; kept with the head."""
    block: bytes | None = head.block
    if block is not None:
        return block
    if head.text and head.version != "2":
        block = encoder.answer(head.status, head.text, head.never)
    else:
        fields = head.sent_on()
        if head.body == LENGTH:
            fields = (*fields, (b"content-length", b"%d" % head.length))
        block = encode(((b":status", b"%d" % head.status), *fields), head.never)
    head.block = block
    return block


def framed_answer(head: Head, encoder: Encoder, more: bytes = b"") -> tuple[bytes, bytes, int] | None:
    """The frames of a whole answer without the number of their stream and the content: what stands before the one number and the other, and
    the bytes of block and content. Kept with the head, unless there is `more` to its block. None: it has no content, or it takes more
    frames."""
    block, n = answer_block(head, encoder) + more, head.length
    m = len(block)
    if not 0 < n <= FRAME_MAX or m > FRAME_MAX or not head.whole:
        return None
    first = START.pack(m >> 8, m & 255, HEADERS, END_HEADERS)
    made = first, block + START.pack(n >> 8, n & 255, DATA, END_STREAM), m + n
    if not more:
        head.framed = made
    return made


def lines_block(lines: bytes) -> bytes:
    """Field lines of ours, each ended with CRLF, as a part of a block."""
    known = _numbered.get(lines[:_NUMBER])
    if known is not None and len(lines) == known[0]:
        return known[1] + lines[_NUMBER:_END]
    others, mark, rest = lines.partition(_ID_LINE)
    value, _, behind = rest.partition(b"\r\n")
    if not mark or len(value) > 126 or behind != b"\r\n":
        return _lines_block(lines)
    block = _known_lines(others) + _ID + bytes((len(value),)) + value
    if lines[_NUMBER:] == _FIRST:  # the first of many with ids that differ in their number only (listeners/http/request.py)
        if len(_numbered) >= _NUMBERED:
            _numbered.clear()
        _numbered[lines[:_NUMBER]] = len(lines), block[:-3]
    return block


def _lines_block(lines: bytes) -> bytes:
    made = b""
    for text in lines.split(b"\r\n"):
        if text:
            name, _, value = text.partition(b": ")
            made += line(name, value)
    return made


_known_lines = lru_cache(256)(_lines_block)
"""Of those that are the same for all requests of a connection."""
_FIRST = b"000\r\n\r\n"
_NUMBER, _END = -len(_FIRST), -4  # where the number of an id stands in lines, and where it ends
_NUMBERED = 256
_numbered: dict[bytes, tuple[int, bytes]] = {}
"""Lines before the number of an id: how many bytes they are with it, and their block without it."""
_ID_LINE = b"x-request-id: "
_ID = line(b"x-request-id", b"")[:-1]
"""The begin of the block of a request id."""


def trailers_block(trailers: object) -> bytes:
    """A block of trailers; b"" if there are none. A WebSocket's code and reason are none."""
    if not isinstance(trailers, tuple) or not trailers or not isinstance(trailers[0], tuple):
        return b""
    if len(trailers) == 1 and len(trailers[0][1]) <= _STATUS_MAX:
        return _short_block(trailers)
    return _trailers_block(trailers)


def _trailers_block(trailers: Fields) -> bytes:
    return encode([(name.lower(), value) for name, value in trailers])


_short_block = lru_cache(64)(_trailers_block)
_STATUS_MAX = 16  # bytes: the trailers of most calls of gRPC are a grpc-status


def trailers_of(section: Section) -> Fields:
    """The trailers that may be passed on."""
    return tuple(pair for pair in section.fields if passable(pair[0]))
