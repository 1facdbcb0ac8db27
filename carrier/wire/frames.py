"""WebSocket frames (RFC 6455 section 5): a scan of their headers, and how to write one.

`Scanner` follows one direction of a connection: bytes in, the bytes that may go on out. It looks at headers only and copies nothing but
what is held back: a header that is not whole yet, and a close frame, whose code it reads. It counts messages, holds the limits, and
stops at the first thing that the RFC forbids: `fault` says what. So it is all that a relay between two WebSocket peers needs, and the
gate before wsproto where somebody needs the messages. It does not look into payloads: UTF-8 is for whoever reads the text.

Cost: 0.2 to 0.3 µs for a read that is one short frame, 0.13 µs for each of many in one read (Python 3.11).
"""

from __future__ import annotations

import base64
import hashlib
from operator import attrgetter
from typing import Any, NamedTuple

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
"""Opcodes (section 5.2). TEXT and BINARY are also the `kind` of a message in `Stream.data`."""
PROTOCOL_ERROR, TOO_BIG = 1002, 1009
NO_CODE = 1005
"""Stands for a close frame without a code; never sent (section 7.4.1)."""
MAX_CONTROL = 125
MAX_MESSAGE = 16 * 1024 * 1024
DEFLATE_RSV, ANY_RSV = 0x40, 0x70
"""Reserved bits that an extension may use: that of permessage-deflate (RFC 7692), all that an unknown one could."""
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Closing(NamedTuple):
    """How a peer closes: the trailer of `Stream.end`. code: NO_CODE if it gave none."""

    code: int
    reason: str


class Fault(NamedTuple):
    """What a peer did wrong: the code to close with, and the reason in words."""

    code: int
    reason: str


class Count:
    """What went one way. An object of its own, because code that serves hops of many classes finds attributes of one class sooner."""

    __slots__ = ("bytes", "messages")

    def __init__(self) -> None:
        self.bytes = self.messages = 0


def counter(way: str, what: str) -> Any:
    """An attribute of a socket, which it keeps in the Count that it has as `way`."""

    def count(self: object, value: int) -> None:
        setattr(getattr(self, way), what, value)

    return property(attrgetter(f"{way}.{what}"), count)


class Scanner(Count):
    """One direction of a connection, and the count of what came (messages; `bytes` are counted by who reads).

    masked: it comes from the client (section 5.3). limit: bytes of a message; frame_limit: of one frame (None: the same). rsv: reserved
    bits that may be set.
    """

    __slots__ = (
        "at",
        "between",
        "close",
        "fault",
        "frame",
        "frame_limit",
        "key",
        "limit",
        "mask",
        "open",
        "over",
        "part",
        "rsv",
        "short",
        "size",
    )

    def __init__(self, masked: bool, limit: int = MAX_MESSAGE, rsv: int = 0, frame_limit: int | None = None) -> None:
        super().__init__()
        self.mask = 0x80 if masked else 0
        self.key = 4 if masked else 0
        """Bytes of the masking key in each header."""
        self.limit = limit
        self.frame_limit = limit if frame_limit is None else min(limit, frame_limit)
        self.rsv = rsv
        self.short = min(126, self.frame_limit + 1)
        self.at = 0
        """Where the next header begins, counted from the next byte to come: 0 between two frames."""
        self.between = True
        """Between two messages, and nothing is held back: a whole message that comes now needs no look at what was before."""
        self.part = b""
        """The beginning of a frame, held back."""
        self.open = False
        """Between the frames of a fragmented message."""
        self.size = 0
        self.over = False
        """Nothing more may go on: after `close` or `fault`, one of which is set then."""
        self.close: Closing | None = None
        self.frame = b""
        """The close frame as it came."""
        self.fault: Fault | None = None

    def feed(self, data: bytes) -> bytes:
        """The bytes of this read, and of what was held back, that may go on; without a close frame, which is in `frame`."""
        if self.part:
            data, self.part = self.part + data, b""
        n = len(data)
        at = self.at
        mask, key, short = self.mask, self.key, self.short
        while at < n - 1:
            first = data[at]
            size = data[at + 1] ^ mask  # beyond 127 when it is masked and should not be, or the other way round
            if (first == 0x82 or first == 0x81) and not self.open:  # a message in one frame: nearly all are
                if size < short:
                    self.messages += 1
                    at += 2 + key + size
                    continue
                if size == 126 and at + 4 <= n and 125 < (size := data[at + 2] << 8 | data[at + 3]) <= self.frame_limit:
                    self.messages += 1
                    at += 4 + key + size
                    continue
            following = self._header(data, at, n - at)
            if following < 0:
                return self._stopped(data, at)
            at = following
        if at == n - 1:
            self.part = data[at:]
            return self._stopped(data, at)
        self.at = at = at - n
        self.between = not (at or self.open)
        return data

    def _stopped(self, data: bytes, at: int) -> bytes:
        """What is before `at` may go on; what is behind it is held back, or the direction is over."""
        self.at = 0
        self.between = False
        return data[:at]

    def _header(self, data: bytes, at: int, here: int) -> int:
        """Check any header; where the next one begins, or -1: it is held back, or the direction is over."""
        first, second = data[at], data[at + 1]
        opcode = first & 0x0F
        size = second & 0x7F
        if second & 0x80 != self.mask:
            return self._wrong("a frame of a client is not masked" if self.mask else "a frame of a server is masked")
        if opcode & 0x08:
            return self._control(data, at, here, size)
        if opcode > BINARY:
            return self._wrong(f"opcode {opcode:#x} is reserved")
        allowed = self.rsv if opcode or self.rsv == ANY_RSV else 0  # RFC 7692 section 6: not on continuations
        if first & 0x70 & ~allowed:
            return self._wrong("a reserved bit is set and no extension was agreed on that uses it")
        length = 2
        if size > 125:
            length = 4 if size == 126 else 10
            if here < length:
                self.part = data[at:]
                return -1
            size = int.from_bytes(data[at + 2 : at + length], "big")
            if size >> 63:
                return self._wrong("a length with the most significant bit set")
            if size < (126 if length == 4 else 0x10000):
                return self._wrong(f"length {size} is not in its shortest form")
        if not self._continues(opcode, first & 0x80, size):
            return -1
        return at + length + self.key + size

    def _continues(self, opcode: int, final: int, size: int) -> bool:
        """Does a data frame fit into the message that it is part of (section 5.4)? Notes how far that is."""
        if (opcode == CONTINUATION) != self.open:
            self._wrong("a message begins inside another" if self.open else "a continuation of nothing")
            return False
        total = self.size + size
        if size > self.frame_limit < self.limit:
            self._wrong(f"a frame of more than {self.frame_limit} bytes", TOO_BIG)
            return False
        if total > self.limit:
            self._wrong(f"a message of more than {self.limit} bytes", TOO_BIG)
            return False
        if final:
            self.messages += 1
            self.open, self.size = False, 0
        else:
            self.open, self.size = True, total
        return True

    def _control(self, data: bytes, at: int, here: int, size: int) -> int:
        first = data[at]
        opcode = first & 0x0F
        if opcode > PONG:
            return self._wrong(f"opcode {opcode:#x} is reserved")
        if not first & 0x80:
            return self._wrong("a control frame is fragmented")
        if size > MAX_CONTROL:
            return self._wrong("a control frame of more than 125 bytes")
        if first & 0x70 and self.rsv != ANY_RSV:
            return self._wrong("a reserved bit is set on a control frame")
        end = at + 2 + self.key + size
        if opcode != CLOSE:
            return end
        if here < end - at:
            self.part = data[at:]
            return -1
        payload = data[at + 2 + self.key : end]
        if self.key:
            payload = masked(payload, data[at + 2 : at + 6])
        found = read_close(payload)
        self.over = True
        if isinstance(found, Fault):
            self.fault = found
        else:
            self.close, self.frame = found, data[at:end]
        return -1

    def _wrong(self, reason: str, code: int = PROTOCOL_ERROR) -> int:
        self.over = True
        self.fault = Fault(code, reason)
        return -1


def read_close(payload: bytes) -> Closing | Fault:
    """The code and reason of a close frame (section 5.5.1), or what is wrong with them."""
    if not payload:
        return Closing(NO_CODE, "")
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not sendable(code):
        return Fault(PROTOCOL_ERROR, "a close frame without a valid code")
    try:
        return Closing(code, payload[2:].decode())
    except UnicodeDecodeError:
        return Fault(1007, "the reason of a close frame is not UTF-8")


def sendable(code: int) -> bool:
    """May this code stand in a close frame? Section 7.4, and what IANA has registered since (1012 to 1014)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def close_payload(code: int, reason: str = "") -> bytes:
    """The payload of a close frame; empty for codes that may not be sent. A reason too long for one frame is cut between characters."""
    if not sendable(code):
        return b""
    text = reason.encode("utf-8", "replace")[: MAX_CONTROL - 2].decode("utf-8", "ignore")
    return code.to_bytes(2, "big") + text.encode()


def build(opcode: int, payload: bytes, mask: bytes = b"") -> bytes:
    """One final frame; mask: four bytes nobody can foresee, for what a client sends (section 5.3)."""
    size = len(payload)
    flag = 0x80 if mask else 0
    if size < 126:
        head = bytes((0x80 | opcode, flag | size))
    elif size < 0x10000:
        head = bytes((0x80 | opcode, flag | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, flag | 127)) + size.to_bytes(8, "big")
    return head + mask + masked(payload, mask) if mask else head + payload


def masked(payload: bytes, mask: bytes) -> bytes:
    """The payload with the mask put on, or taken off: it is the same."""
    size = len(payload)
    repeated = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(repeated, "little")).to_bytes(size, "little")


def accept_key(key: bytes) -> bytes:
    """The Sec-WebSocket-Accept for a Sec-WebSocket-Key (section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + GUID, usedforsecurity=False).digest())


def valid_key(key: bytes | None) -> bool:
    """Is it 16 bytes in base64 (section 4.1)?"""
    try:
        return key is not None and len(base64.b64decode(key, validate=True)) == 16
    except ValueError:
        return False
