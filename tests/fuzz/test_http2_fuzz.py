"""Damaged HTTP/2: our engine beside hyper-h2, the same bytes to both, frame by frame.

What is held: valid conversations are told the same; ours takes nothing that h2 refuses, but for EXCEPTIONS, each with its reason;
what ours refuses beyond h2 is one of STRICTER; and however the bytes are cut, the same is told and the same is said.
`CARRIER_FUZZ` multiplies the number of conversations, 500, or: `H2_FUZZ=200000 pytest tests/fuzz/test_http2_fuzz.py`.
"""

from __future__ import annotations

import os
import random
import re
import time
from dataclasses import dataclass, field
from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    InformationalResponseReceived,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError
from hpack import Encoder

from carrier.wire.h2 import PREFACE, Engine, Limits, Memo, Section, Stream, encode
from carrier.wire.h2.frames import RST_STREAM, WINDOW_UPDATE, frame, settings_frame
from tests.h2talk import frames

RUNS = int(os.environ.get("H2_FUZZ", 500 * float(os.environ.get("CARRIER_FUZZ", "1"))))
LIMITS = Limits(connection_window=65535, budget=10**9, head=65536, line=65536, fields=1000, block=1 << 20)

STRICTER = [
    r"is not a token in lower case",  # HTTP/1.1 has tokens for names; h2 lets "a(b" pass
    r"has a control byte in its value",  # h2 refuses CR, LF and NUL only
    r"is not the one decimal number",  # h2 takes "5, 5" apart and leading zeros, and the same length twice
    r":path .* is not a path",  # h2 takes every path that is not empty
    r":authority .* is no host name",  # h2 does not look at it
    r":method .* is not a token",
    r":scheme .* is none",
    r":protocol .* is not a token",
    r":status .*, allowed are",
    r"a field section of|a field of",
    r"before SETTINGS",  # RFC 9113 3.4: SETTINGS come first; h2 takes any frame
    r"stream \d+ depends on itself",  # in HEADERS: h2 looks at PRIORITY only where it is told
    r"is not a multiple|of \d+ bytes, it has",
    r"before the final head",
    r"that ends the stream",
    r"cut off|an integer that is too large|no table size|a table size",
    r"which has ended|which its peer has reset|whose peer has ended it",
    r"makes a window of",
    r"with a padding of|without a Pad Length",
    r"SETTINGS_ENABLE_PUSH 1 from a server",
    r"content-length .* and no content",
    r"PUSH_PROMISE, but",  # h2 lets those on a stream that has closed pass
    r"several Host fields",  # h2 looks for it in requests only
    r"behind a regular field",  # h2 puts cookies last before it looks
    r"which nobody has opened|was opened",  # RST_STREAM and DATA on streams that are idle, or were passed over
    r"bytes less than content-length",  # h2 does not count where trailers end the stream
    r"DATA of \d+ bytes",
]


@dataclass
class Told:
    """What one side told of one stream."""

    heads: list[Any] = field(default_factory=list)
    content: bytes = b""
    over: bool = False
    reset: bool = False


def normal(pairs: Any) -> tuple[Any, ...]:
    """A head as both may tell it: cookies joined, Host and :authority one, no order."""
    pseudo = {name: value for name, value in pairs if name[:1] == b":"}
    rest = [(bytes(name), bytes(value)) for name, value in pairs if name[:1] != b":"]
    if b":method" in pseudo:
        host = dict(rest).get(b"host")
        pseudo.setdefault(b":authority", host or b"")
        rest = [pair for pair in rest if pair[0] != b"host"]
    return tuple(sorted(pseudo.items())), tuple(sorted(rest))


def of_section(section: Section) -> tuple[Any, ...]:
    pairs = [(b":method", section.method), (b":scheme", section.scheme), (b":path", section.path), (b":protocol", section.protocol)]
    pseudo = [pair for pair in pairs if pair[1]]
    if section.method:
        pseudo.append((b":authority", section.authority))
    if section.status:
        pseudo.append((b":status", b"%d" % section.status))
    return normal([*pseudo, *section.fields])


class Ours:
    """Our engine, and what it told. It answers what asks for an answer by its path."""

    def __init__(self, client: bool = False, memo: Memo | None = None) -> None:
        self.engine = Engine(self, memo or Memo(LIMITS, client), LIMITS, client=client)
        self.told: dict[int, Told] = {}
        self.order: list[Any] = []
        self.refused: list[str] = []
        self.said = b""

    def feed(self, data: bytes) -> None:
        while self.engine.feed(data, 0.0):
            data = b""
        self.said += self.engine.take()

    def of(self, stream: Stream) -> Told:
        return self.told.setdefault(stream.id, Told())

    def on_head(self, stream: Stream, section: Section, last: bool) -> None:
        self.of(stream).heads.append(of_section(section))
        self.order.append((stream.id, section.path, last))
        stream.owner = section.path
        if last:
            self._over(stream)

    def on_data(self, stream: Stream, data: bytes, last: bool) -> None:
        self.of(stream).content += data
        self.order.append((stream.id, data, last))
        if last:
            self._over(stream)

    def on_trailers(self, stream: Stream, section: Section) -> None:
        self.of(stream).heads.append(of_section(section))
        self.order.append((stream.id, section.fields))
        self._over(stream)

    def _over(self, stream: Stream) -> None:
        self.of(stream).over = True
        if stream.owner != b"/wait" and not self.engine.client:
            stream.send_head(encode([(b":status", b"204")]), True)

    def on_reset(self, stream: Stream, code: int, detail: str) -> None:
        self.of(stream).reset = True
        self.order.append((stream.id, "reset", code))
        if not detail.startswith(("RST_STREAM", "connection:", "GOAWAY")):
            self.refused.append(detail)

    def on_refused(self, stream: Stream, section: Section, kind: str, detail: str) -> None:
        self.of(stream).reset = True
        self.order.append((stream.id, kind))
        self.refused.append(detail)

    def on_drained(self, stream: Stream) -> None: ...
    def on_goaway(self, last: int, code: int, detail: str) -> None: ...
    def on_settings(self) -> None: ...


class Theirs:
    """h2, and what it told; it answers alike."""

    def __init__(self, client: bool = False) -> None:
        self.client = client
        self.connection = H2Connection(H2Configuration(client_side=client, header_encoding=None, validate_outbound_headers=False))
        self.connection.initiate_connection()
        self.connection.clear_outbound_data_buffer()
        if not client:
            self.connection.local_settings.enable_connect_protocol = 1
        self.told: dict[int, Told] = {}
        self.paths: dict[int, bytes] = {}

    def feed(self, data: bytes) -> None:
        for event in self.connection.receive_data(data):
            number = getattr(event, "stream_id", 0)
            told = self.told.setdefault(number, Told()) if number else Told()
            if isinstance(event, RequestReceived | ResponseReceived | InformationalResponseReceived | TrailersReceived):
                told.heads.append(normal(event.headers))
                if isinstance(event, RequestReceived):
                    self.paths[number] = dict(event.headers).get(b":path", b"")
            elif isinstance(event, DataReceived):
                told.content += event.data
                if event.flow_controlled_length and number in self.connection.streams:
                    self.connection.acknowledge_received_data(event.flow_controlled_length, number)
            elif isinstance(event, StreamReset):
                told.reset = True
            elif isinstance(event, StreamEnded):
                told.over = True
                if self.paths.get(number) != b"/wait" and not self.client and not self.connection.streams[number].closed:
                    self.connection.send_headers(number, [(b":status", b"204")], end_stream=True)


# -- conversations -------------------------------------------------------------------------------------------------------------------------

VALUES = (b"", b"john", b"a=b", b"text/plain; q=1", b"v" * 300, bytes(range(33, 127)), b"caf\xc3\xa9")
NAMES = (b"x-user", b"accept", b"cookie", b"x-trace-id", b"user-agent", b"content-type", b"te")
ODD = (
    (b"", b"x"),
    (b"X-User", b"john"),
    (b"x user", b"a"),
    (b"x(y", b"a"),
    (b"x-user", b"a\r\nb: c"),
    (b"x-user", b"a\0b"),
    (b"x-user", b"a\x01b"),
    (b"x-user", b" a"),
    (b"x-user", b"a\t"),
    (b"connection", b"close"),
    (b"keep-alive", b"1"),
    (b"proxy-connection", b"close"),
    (b"transfer-encoding", b"chunked"),
    (b"upgrade", b"websocket"),
    (b"te", b"gzip"),
    (b"te", b"trailers"),
    (b"host", b"a.example"),
    (b"host", b"b.example"),
    (b"content-length", b"0"),
    (b"content-length", b"5"),
    (b"content-length", b"+5"),
    (b"content-length", b""),
    (b":path", b"/twice"),
    (b":path", b""),
    (b":method", b"G T"),
    (b":status", b"200"),
    (b":status", b"99"),
    (b":authority", b"a.example/"),
    (b":protocol", b"websocket"),
    (b":unknown", b"x"),
    (b"a:b", b"x"),
    (b":", b"x"),
)


class Speaker:
    """Makes frames as a peer would send them, with an HPACK table of its own."""

    def __init__(self, chance: random.Random) -> None:
        self.chance, self.encoder, self.next = chance, Encoder(), 1
        self.open: list[int] = []

    def fields(self) -> list[tuple[bytes, bytes]]:
        names = [self.chance.choice(NAMES) for _ in range(self.chance.randrange(5))]
        value = {b"te": b"trailers", b"cookie": b"a=b"}
        return [(name, value.get(name) or self.chance.choice(VALUES)) for name in names]

    def head(self, number: int, pairs: list[tuple[bytes, bytes]], last: bool, odd: float) -> list[bytes]:
        if self.chance.random() < odd:
            pairs = list(pairs)
            for _ in range(self.chance.randrange(1, 3)):
                what = self.chance.randrange(4)
                if what == 0 and pairs:
                    del pairs[self.chance.randrange(len(pairs))]
                elif what == 1 and pairs:
                    pairs.insert(self.chance.randrange(len(pairs) + 1), self.chance.choice(pairs))
                else:
                    pairs.insert(self.chance.randrange(len(pairs) + 1), self.chance.choice(ODD))
        block = self.encoder.encode(pairs, huffman=self.chance.random() < 0.6)
        flags = 1 if last else 0
        before = after = b""
        if self.chance.random() < 0.2:
            flags |= 32
            before = self.chance.choice((0, 1, 3, 5)).to_bytes(4, "big") + b"\x10"
            if before[3] == number and not odd:
                before = b"\0\0\0\0\x10"
        if self.chance.random() < 0.2:
            flags |= 8
            pad = self.chance.randrange(10)
            before, after = bytes((pad,)) + before, b"\0" * pad
        if self.chance.random() < 0.2 and len(block) > 1:
            cut = sorted(self.chance.randrange(1, len(block) + 1) for _ in range(2))
            parts = [block[: cut[0]], block[cut[0] : cut[1]], block[cut[1] :]]
            return [frame(1, flags, number, before + parts[0] + after), frame(9, 0, number, parts[1]), frame(9, 4, number, parts[2])]
        return [frame(1, flags | 4, number, before + block + after)]

    def data(self, number: int, content: bytes, last: bool) -> bytes:
        if content and self.chance.random() < 0.2:
            pad = self.chance.randrange(20)
            return frame(0, 8 | last, number, bytes((pad,)) + content + b"\0" * pad)
        return frame(0, int(last), number, content)

    def control(self) -> bytes:
        make = self.chance.randrange(6)
        if make == 0:
            return frame(6, 0, 0, bytes(self.chance.randrange(256) for _ in range(8)))
        if make == 1:
            return settings_frame({self.chance.choice((3, 4, 5, 6, 99)): self.chance.choice((16384, 20000, 65535))})
        if make == 2:
            return frame(8, 0, self.chance.choice((0, *self.open)), self.chance.randrange(1, 9999).to_bytes(4, "big"))
        if make == 3:
            return frame(2, 0, self.chance.randrange(1, 20), b"\0\0\0\0\x05" if self.chance.random() < 0.9 else b"\0\0\0\x63\x05")
        if make == 4:
            return frame(self.chance.randrange(16, 250), self.chance.randrange(256), self.chance.randrange(9), b"what")
        return frame(6, 1, 0, b"12345678")


def request(speaker: Speaker, number: int) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Fields of a request and its content."""
    chance = speaker.chance
    content = b"c" * chance.choice((0, 0, 1, 5, 2000))
    path = chance.choice((b"/", b"/wait", b"/a/b?c=d", b"/index.html"))
    pairs = [(b":method", b"POST" if content else b"GET"), (b":scheme", b"http"), (b":path", path)]
    if chance.random() < 0.05:
        pairs = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", b"https"), (b":path", path)]
    host = [(b":authority", b"a.example")] if chance.random() < 0.9 else []
    rest = speaker.fields()
    if not host or chance.random() < 0.1:
        rest.append((b"host", b"a.example"))
    if content and chance.random() < 0.5:
        rest.append((b"content-length", b"%d" % len(content)))
    return pairs + host + rest, content


def answer(speaker: Speaker, number: int) -> tuple[list[tuple[bytes, bytes]], bytes]:
    chance = speaker.chance
    content = b"c" * chance.choice((0, 0, 1, 5, 2000))
    rest = speaker.fields()
    if content and chance.random() < 0.5:
        rest.append((b"content-length", b"%d" % len(content)))
    return [(b":status", chance.choice((b"200", b"404", b"500"))), *rest], content


def conversation(chance: random.Random, client: bool, odd: float = 0.0) -> list[bytes]:
    """Frames of a peer: a client's requests, or (if ours is the client) answers to streams 1 to 15; interleaved."""
    speaker = Speaker(chance)
    said = [settings_frame({4: 65535})]
    numbers = iter(range(1, 17, 2))
    waiting: list[tuple[int, bytes, bool]] = []
    for _ in range(chance.randrange(1, 16)):
        step = chance.random()
        if step < 0.3:
            said.append(speaker.control())
        elif step < 0.65 or not waiting:
            number = next(numbers, 0)
            if not number:
                continue
            pairs, content = (answer if client else request)(speaker, number)
            if client and chance.random() < 0.1:
                said += speaker.head(number, [(b":status", b"103"), (b"link", b"x")], False, odd)
            trailers = chance.random() < 0.2
            speaker.open.append(number)
            said += speaker.head(number, pairs, not content and not trailers, odd)
            if content or trailers:
                waiting.append((number, content, trailers))
        else:
            number, content, trailers = waiting.pop(chance.randrange(len(waiting)))
            cut = chance.randrange(len(content) + 1)
            if content:
                said.append(speaker.data(number, content[:cut], False))
                said.append(speaker.data(number, content[cut:], not trailers))
            if trailers:
                said += speaker.head(number, [(b"x-sum", b"1")], True, odd)
            if chance.random() < 0.1 and odd:
                said.append(frame(RST_STREAM, 0, number, b"\0\0\0\x08"))
    return said


def damaged(chance: random.Random, said: list[bytes]) -> list[bytes]:
    """The frames, some of them changed, lost, doubled, moved."""
    said = list(said)
    for _ in range(chance.randrange(1, 4)):
        i = chance.randrange(len(said))
        what = chance.randrange(8)
        if what == 0 and len(said) > 1:
            del said[i]
        elif what == 1:
            said.insert(i, said[i])
        elif what == 2:
            j = chance.randrange(len(said))
            said[i], said[j] = said[j], said[i]
        elif what == 3:  # the payload is shorter, and the length says so
            payload = said[i][9 : chance.randrange(9, len(said[i]) + 1)]
            said[i] = len(payload).to_bytes(3, "big") + said[i][3:9] + payload
        elif what == 4:  # another stream
            said[i] = said[i][:5] + chance.choice((0, 1, 2, 3, 5, 7, 9, 99)).to_bytes(4, "big") + said[i][9:]
        elif what == 5:  # other flags
            said[i] = said[i][:4] + bytes((said[i][4] ^ 1 << chance.choice((0, 2, 3, 5)),)) + said[i][5:]
        elif what == 6:  # another type
            said[i] = said[i][:3] + bytes((chance.randrange(10),)) + said[i][4:]
        else:
            j = chance.randrange(9, len(said[i])) if len(said[i]) > 9 else 4
            said[i] = said[i][:j] + bytes((chance.randrange(256),)) + said[i][j + 1 :]
    return said


def excepted(piece: bytes, detail: str, theirs: Theirs) -> bool:
    """Does h2 refuse what it should take?

    - After a GOAWAY it takes nothing more, though open streams go on (RFC 9113 6.8).
    - It refuses padding that is all of the payload but its own length, which is legal (RFC 9113 6.1).
    - It refuses a WINDOW_UPDATE with its reserved bit set, which is to be ignored (RFC 9113 6.9).
    - It refuses blanks around a value, which we cut: programs send them, and proxies deliver them.
    """
    if "ConnectionState.CLOSED" in detail or ("non-compliant data" in detail and piece[3] == WINDOW_UPDATE and piece[9] & 128):
        return True
    return "surrounded by whitespace" in detail or ("invalid padding" in detail and piece[9] == len(piece) - 10)


def compare(client: bool, said: list[bytes]) -> str:
    """Feed both frame by frame; how it ended: "same", "both", "stricter"."""
    ours, theirs = Ours(client), Theirs(client)
    ours.feed(b"")
    if client:
        for number in range(1, 17, 2):
            pairs = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a.example")]
            ours.engine.request(encode(pairs), True)
            theirs.connection.send_headers(number, pairs, end_stream=True)
    else:
        ours.feed(PREFACE)
        theirs.feed(PREFACE)
    for at, piece in enumerate(said):
        seen = len(ours.said)
        refusals = len(ours.refused)
        ours.feed(piece)
        failure = None
        try:
            theirs.feed(piece)
        except ProtocolError as exc:
            failure = exc
        sent = [payload for payload in frames(ours.said[seen:]) if payload[0] == RST_STREAM]
        refused = ours.engine.failure is not None or sent or len(ours.refused) > refusals
        if failure is not None:
            if refused:
                return "both"
            if excepted(piece, str(failure), theirs):
                return "excepted"
            raise AssertionError(f"h2 refuses frame {at} {piece.hex()}: {type(failure).__name__} {failure}; ours does not")
        if ours.engine.failure is not None or len(ours.refused) > refusals:
            detail = ours.engine.failure.detail if ours.engine.failure is not None else ours.refused[-1]
            assert any(re.search(known, detail) for known in STRICTER), f"h2 takes frame {at} {piece.hex()}: {detail}"
            return "stricter"
        if sent:
            return "stricter"
    for number in ours.told.keys() | theirs.told.keys():
        mine, other = ours.told.get(number), theirs.told.get(number)
        if number % 2 and (mine or other) and (other or Told()) != Told():
            assert mine == other, number
    return "same"


@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
def test_valid_conversations_are_told_as_h2_tells_them(client):
    for seed in range(RUNS // 3):
        said = conversation(random.Random(seed), client)
        assert compare(client, said) == "same", seed


@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
def test_damaged_conversations_are_refused_where_h2_refuses_them(client):
    ends: dict[str, int] = {}
    for seed in range(RUNS):
        chance = random.Random(seed)
        said = conversation(chance, client, odd=0.15)
        if chance.random() < 0.7:
            said = damaged(chance, said)
        end = compare(client, said)
        ends[end] = ends.get(end, 0) + 1
    assert ends["same"] > RUNS // 10 and ends["both"] > RUNS // 10


@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
def test_however_the_bytes_are_cut_the_same_is_told_and_said(client):
    for seed in range(RUNS // 3):
        chance = random.Random(seed)
        said = conversation(chance, client, odd=0.1)
        wire = b"" if client else PREFACE
        wire += b"".join(damaged(chance, said) if chance.random() < 0.5 else said)
        results = []
        for size in (len(wire), 1, 0):
            ours = Ours(client)
            ours.feed(b"")
            i = 0
            while i < len(wire):
                n = size or chance.randrange(1, 60)
                ours.feed(wire[i : i + n])
                i += n
            failure = ours.engine.failure
            results.append((ours.told, ours.order, ours.said, failure and failure.detail))
        assert results[0] == results[1] == results[2], seed


def test_what_comes_byte_by_byte_takes_time_in_proportion_to_its_length():
    def seconds(frames_of_16k: int) -> float:
        ours = Ours()
        ours.feed(PREFACE + settings_frame({}))
        head = encode([(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a")])
        ours.feed(frame(1, 4, 1, head))
        wire = frame(0, 0, 1, b"x" * 16384) * frames_of_16k
        begin = time.process_time()
        for i in range(len(wire)):
            ours.engine.feed(wire[i : i + 1], 0.0)
        return time.process_time() - begin

    assert seconds(8) < 12 * max(seconds(1), 0.002)
