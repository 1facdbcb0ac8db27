"""HTTP/2 as our load and our backend write it: frames, and the field blocks of a client that sends the same few requests in turn.

Blocks are made by the `hpack` package, as a usual client's encoder makes them: all fields go through the dynamic table, strings through
Huffman coding. What such an encoder does to one connection's table repeats itself after some requests, a trace id in it or not; so the
blocks of one turn are made once (`Blocks`), and a request costs the load one concatenation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from struct import Struct

from hpack import Encoder
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
TABLE_SIZE, STREAMS_MAX = 1, 3  # settings
TABLE = 4096  # bytes of a dynamic table that nobody has said anything of
HEAD = Struct(">HBBBI")  # length in two parts, type, flags, stream
WINDOW = 65535
AMPLE = 1 << 30  # bytes of a connection's window that we give at its start: no run of ours takes as many
HELLO_SETTINGS = b"\x00\x03\x00\x00\x04\x00" + b"\x00\x04\x00\x10\x00\x00"  # 1,024 streams, 1 MiB for each
TRACE = "@trace@"  # in a field's value: replaced by 16 hex digits that differ each time
STEPS_MAX = 20_000

Fields = Sequence[tuple[str, str]]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    n = len(payload)
    return HEAD.pack(n >> 8, n & 255, kind, flags, stream) + payload


HELLO = frame(SETTINGS, 0, 0, HELLO_SETTINGS) + frame(WINDOW_UPDATE, 0, 0, (AMPLE - WINDOW).to_bytes(4, "big"))
"""What each side of ours says first (a client behind PREFACE)."""


def settings(payload: bytes) -> dict[int, int]:
    """The values of a SETTINGS frame."""
    return {int.from_bytes(payload[i : i + 2], "big"): int.from_bytes(payload[i + 2 : i + 6], "big") for i in range(0, len(payload), 6)}


class Frames:
    """Cuts bytes into frames, whatever pieces they come in."""

    def __init__(self) -> None:
        self.buffer = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
        """(type, flags, stream, payload) of each frame that is whole by now."""
        if self.buffer:
            data = self.buffer + data
        i, n = 0, len(data)
        while n - i >= 9:
            high, low, kind, flags, stream = HEAD.unpack_from(data, i)
            end = i + 9 + (high << 8 | low)
            if end > n:
                break
            yield kind, flags, stream, data[i + 9 : end]
            i = end
        self.buffer = data[i:]


@dataclass(frozen=True)
class Step:
    """The block of one request: `before`, then a trace id, then `after`; without a trace id all of it is `before`."""

    before: bytes
    after: bytes = b""
    traced: bool = False


@dataclass(frozen=True)
class Turn:
    """All steps of a connection: the first ones, and those from `again` on for ever."""

    steps: Sequence[Step]
    again: int


class Blocks:
    """The requests of one connection, in turn. traces: where trace ids come from, which must never repeat."""

    def __init__(self, turn: Turn, traces: Iterator[int]) -> None:
        self.steps, self.again, self.traces = turn.steps, turn.again, traces
        self.at = 0

    def next(self) -> bytes:
        """The block of the next request."""
        step = self.steps[self.at]
        self.at += 1
        if self.at == len(self.steps):
            self.at = self.again
        return step.before + huffman_trace(next(self.traces)) + step.after if step.traced else step.before


def turn_of(requests: Sequence[Fields]) -> Turn:
    """What an encoder makes of these requests in turn, until it repeats itself. Raises ValueError when it does not."""
    encoder, huffman = Encoder(), HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
    steps: list[Step] = []
    seen: dict[object, int] = {}
    while len(steps) < STEPS_MAX:
        which = len(steps) % len(requests)
        table = tuple((name, b"" if name == b"traceparent" else value) for name, value in encoder.header_table.dynamic_entries)
        if (known := seen.setdefault((which, table), len(steps))) != len(steps):
            return Turn(steps, known)
        traced = any(TRACE in value for _, value in requests[which])
        fields = [(name, value.replace(TRACE, f"{len(steps):016x}")) for name, value in requests[which]]
        block = encoder.encode(fields)
        if not traced:
            steps.append(Step(block))
            continue
        text = huffman.encode(f"{BEFORE}{len(steps):016x}{AFTER}".encode())
        before, _, after = block.partition(bytes((128 | len(text),)) + text)
        steps.append(Step(before, after, True))
    raise ValueError(f"no turn within {STEPS_MAX} requests")


BEFORE, AFTER = "00-4bf92f3577b34da6", "-00f067aa0ba902b7-01"
"""What stands around the digits that differ in a traceparent (W3C Trace Context)."""
TRACEPARENT = ("traceparent", BEFORE + TRACE + AFTER)


def _code(text: str) -> tuple[int, int]:
    """The Huffman code of a text, and its bits."""
    code = bits = 0
    for byte in text.encode():
        code = code << REQUEST_CODES_LENGTH[byte] | REQUEST_CODES[byte]
        bits += REQUEST_CODES_LENGTH[byte]
    return code, bits


@cache
def _quad(number: int) -> tuple[int, int]:
    """The code of four hex digits."""
    return _code(f"{number:04x}")


_FIRST, _LAST = _code(BEFORE), _code(AFTER)


@lru_cache(maxsize=4)
def _begin(high: int) -> tuple[int, int]:
    """The code up to the last four digits that differ."""
    code, bits = _FIRST
    for shift in (32, 16, 0):
        more, length = _quad(high >> shift & 0xFFFF)
        code, bits = code << length | more, bits + length
    return code, bits


def huffman_trace(number: int) -> bytes:
    """A traceparent's value as a string of HPACK, its length before it (RFC 7541 section 5.2)."""
    code, bits = _begin(number >> 16 & 0xFFFFFFFFFFFF)
    more, length = _quad(number & 0xFFFF)
    code, bits = (code << length | more) << _LAST[1] | _LAST[0], bits + length + _LAST[1]
    pad = -bits % 8
    size = (bits + pad) // 8
    return bytes((128 | size,)) + (code << pad | (1 << pad) - 1).to_bytes(size, "big")
