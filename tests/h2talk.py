"""A vocabulary for HTTP/2 in tests: frames as bytes, somebody who writes down what an engine tells, and two engines that talk."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from carrier.wire.h2 import PREFACE, Engine, Limits, Memo, Section, Stream, encode
from carrier.wire.h2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEAD,
    HEADERS,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    settings_frame,
)
from carrier.wire.h2.limits import DEFAULT

GET = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"a.example")]
POST = [(b":method", b"POST"), *GET[1:]]
OK = [(b":status", b"200")]
HELLO = PREFACE + settings_frame({})
"""What a client says first."""


class Heard:
    """A target that writes down what it is told, one tuple a call; `then` may answer, by the name of the call."""

    def __init__(self) -> None:
        self.says: list[tuple[object, ...]] = []
        self.sections: list[Section] = []
        self.streams: dict[int, Stream] = {}
        self.then: dict[str, Callable[[Stream], None]] = {}

    def _say(self, what: str, stream: Stream, *more: object) -> None:
        self.streams[stream.id] = stream
        self.says.append((what, stream.id, *more))
        if what in self.then:
            self.then[what](stream)

    def on_head(self, stream: Stream, section: Section, last: bool) -> None:
        self.sections.append(section)
        self._say("head", stream, section.status or section.path or section.authority, last)

    def on_data(self, stream: Stream, data: bytes, last: bool) -> None:
        self._say("data", stream, data, last)

    def on_trailers(self, stream: Stream, section: Section) -> None:
        self.sections.append(section)
        self._say("trailers", stream, section.fields)

    def on_drained(self, stream: Stream) -> None:
        self._say("drained", stream)

    def on_reset(self, stream: Stream, code: int, detail: str) -> None:
        self._say("reset", stream, code)

    def on_refused(self, stream: Stream, section: Section, kind: str, detail: str) -> None:
        self._say("refused", stream, kind, detail)

    def on_goaway(self, last: int, code: int, detail: str) -> None:
        self.says.append(("goaway", last, code))

    def on_settings(self) -> None:
        pass


def server(limits: Limits = DEFAULT, memo: Memo | None = None, greeted: bool = True) -> tuple[Engine, Heard]:
    """A server's engine; `greeted`: the client's preface and SETTINGS have come, and what was said until then is taken."""
    heard = Heard()
    engine = Engine(heard, memo or Memo(limits), limits)
    if greeted:
        engine.feed(HELLO + frame(SETTINGS, ACK, 0), 0.0)
        engine.take()
    return engine, heard


def client(limits: Limits = DEFAULT, memo: Memo | None = None, greeted: bool = True) -> tuple[Engine, Heard]:
    heard = Heard()
    engine = Engine(heard, memo or Memo(limits, client=True), limits, client=True)
    if greeted:
        engine.feed(settings_frame({}) + frame(SETTINGS, ACK, 0), 0.0)
        engine.take()
    return engine, heard


def head(stream: int, fields: Iterable[tuple[bytes, bytes]], last: bool = True) -> bytes:
    """HEADERS with these fields, whatever they are."""
    return frame(HEADERS, END_HEADERS | (END_STREAM if last else 0), stream, encode(fields))


def data(stream: int, content: bytes, last: bool = False) -> bytes:
    return frame(DATA, END_STREAM if last else 0, stream, content)


def frames(wire: bytes) -> list[tuple[int, int, int, bytes]]:
    """(type, flags, stream, payload) of each frame; nothing may be left over."""
    found, i = [], 0
    while i < len(wire):
        high, low, kind, flags, stream = HEAD.unpack_from(wire, i)
        end = i + 9 + (high << 8 | low)
        assert end <= len(wire), "the last frame is cut off"
        found.append((kind, flags, stream, wire[i + 9 : end]))
        i = end
    return found


def resets(wire: bytes) -> list[tuple[int, int]]:
    """(stream, code) of each RST_STREAM."""
    return [(stream, int.from_bytes(payload, "big")) for kind, _, stream, payload in frames(wire) if kind == RST_STREAM]


def goaway(wire: bytes) -> int | None:
    """The code of the last GOAWAY, None without one."""
    codes = [int.from_bytes(payload[4:8], "big") for kind, _, _, payload in frames(wire) if kind == GOAWAY]
    return codes[-1] if codes else None


def content(wire: bytes, stream: int) -> bytes:
    """All DATA of one stream."""
    return b"".join(payload for kind, _, number, payload in frames(wire) if kind == DATA and number == stream)


def windows(wire: bytes) -> list[tuple[int, int]]:
    """(stream, increment) of each WINDOW_UPDATE."""
    return [(stream, int.from_bytes(payload, "big")) for kind, _, stream, payload in frames(wire) if kind == WINDOW_UPDATE]


def continued(stream: int, block: bytes, size: int, last: bool = True) -> bytes:
    """A block as HEADERS and CONTINUATION of `size` bytes each."""
    parts = [block[i : i + size] for i in range(0, len(block), size)]
    wire = frame(HEADERS, END_STREAM if last else 0, stream, parts[0])
    for part in parts[1:-1]:
        wire += frame(CONTINUATION, 0, stream, part)
    return wire + frame(CONTINUATION, END_HEADERS, stream, parts[-1] if parts[1:] else b"")


def carry(left: Engine, right: Engine, now: float = 0.0) -> None:
    """Bytes go to and fro until nobody says anything more."""
    while True:
        there, back = left.take(), right.take()
        if not there and not back:
            return
        while right.feed(there, now):
            there = b""
        while left.feed(back, now):
            back = b""
