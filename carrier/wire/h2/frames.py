"""HTTP/2 frames as bytes (RFC 9113 sections 4, 6 and 7): their numbers, their heads, and what stands in their payloads.

What a frame means, and whether it may come now, is the engine's matter (engine.py). A `Fault` ends the connection with GOAWAY, a
`StreamFault` ends one stream with RST_STREAM; `reason` is a word that can be counted, `detail` a sentence for a person.
"""

from __future__ import annotations

from struct import Struct

from carrier.errors import shown

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client says first (RFC 9113 3.4)."""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
FRAMES = ("DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY", "WINDOW_UPDATE", "CONTINUATION")

END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 1, 1, 4, 8, 32

(
    NO_ERROR,
    PROTOCOL_ERROR,
    INTERNAL_ERROR,
    FLOW_CONTROL_ERROR,
    SETTINGS_TIMEOUT,
    STREAM_CLOSED,
    FRAME_SIZE_ERROR,
    REFUSED_STREAM,
    CANCEL,
    COMPRESSION_ERROR,
    CONNECT_ERROR,
    ENHANCE_YOUR_CALM,
    INADEQUATE_SECURITY,
    HTTP_1_1_REQUIRED,
) = range(14)
CODES = (
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
)
"""Error codes by number (RFC 9113 section 7)."""

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(1, 7)
ENABLE_CONNECT_PROTOCOL = 8

FRAME_MAX = 16384  # bytes of a frame that we take, and the least that every peer takes (RFC 9113 4.2)
WINDOW_MAX = 0x7FFFFFFF
STREAM_MAX = 0x7FFFFFFF
WINDOW = 65535  # a window before anybody says otherwise (RFC 9113 6.9.2)

HEAD = Struct(">HBBBI")
"""Nine bytes before each payload: length in two parts, type, flags, stream."""
START = Struct(">HBBB")
"""The same without the stream, which is NUMBER."""
NUMBER = Struct(">I").pack
_SETTING = Struct(">HI")
_TWO = Struct(">II")


class Fault(Exception):
    """What ends a connection: an error code, a word to count by, a sentence. `code` goes into GOAWAY."""

    def __init__(self, code: int, detail: str, reason: str = "") -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail
        self.reason = reason or code_name(code).lower().replace("_", "-")


class StreamFault(Exception):
    """What ends one stream: `code` goes into RST_STREAM."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


def code_name(code: int) -> str:
    """CANCEL for 8; unknown codes are legal, and shown as numbers."""
    return CODES[code] if code < len(CODES) else f"code {code}"


def frame_name(kind: int) -> str:
    return FRAMES[kind] if kind < len(FRAMES) else f"frame of type {kind}"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One whole frame; the payload is at most FRAME_MAX bytes."""
    n = len(payload)
    return HEAD.pack(n >> 8, n & 255, kind, flags, stream) + payload


def unpadded(payload: bytes, flags: int, kind: int) -> bytes:
    """The payload without its padding (RFC 9113 6.1)."""
    if not flags & PADDED:
        return payload
    if not payload:
        raise Fault(FRAME_SIZE_ERROR, f"{frame_name(kind)} with PADDED but without a Pad Length")
    pad = payload[0]
    if pad >= len(payload):
        raise Fault(PROTOCOL_ERROR, f"{frame_name(kind)} of {len(payload)} bytes with a padding of {pad}")
    return payload[1 : len(payload) - pad]


def depends_on(payload: bytes) -> int:
    """The stream that a priority block (five bytes, RFC 9113 6.3) depends on. Priorities are not followed."""
    return int.from_bytes(payload[:4], "big") & STREAM_MAX


def header_frames(stream: int, block: bytes, last: bool, most: int) -> bytes:
    """A field block as HEADERS and as many CONTINUATION as it takes, none above `most` bytes (RFC 9113 6.2 and 6.10)."""
    ends = END_STREAM if last else 0
    if len(block) <= most:
        return frame(HEADERS, END_HEADERS | ends, stream, block)
    n = len(block)
    rest = [frame(CONTINUATION, END_HEADERS if i + most >= n else 0, stream, block[i : i + most]) for i in range(most, n, most)]
    return frame(HEADERS, ends, stream, block[:most]) + b"".join(rest)


def settings_frame(values: dict[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join([_SETTING.pack(name, value) for name, value in values.items()]))


SETTINGS_ACK = frame(SETTINGS, ACK, 0)


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """Identifiers and values in their order; a later one overrides (RFC 9113 6.5.3). Values out of their range are refused here."""
    if len(payload) % 6:
        raise Fault(FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes, not a multiple of 6")
    values: list[tuple[int, int]] = list(_SETTING.iter_unpack(payload))
    for name, value in values:
        if name == INITIAL_WINDOW_SIZE and value > WINDOW_MAX:
            raise Fault(FLOW_CONTROL_ERROR, f"SETTINGS_INITIAL_WINDOW_SIZE {value}, at most {WINDOW_MAX}")
        if name == MAX_FRAME_SIZE and not FRAME_MAX <= value <= 0xFFFFFF:
            raise Fault(PROTOCOL_ERROR, f"SETTINGS_MAX_FRAME_SIZE {value}, allowed {FRAME_MAX} to {0xFFFFFF}")
        if name in (ENABLE_PUSH, ENABLE_CONNECT_PROTOCOL) and value > 1:
            which = "ENABLE_PUSH" if name == ENABLE_PUSH else "ENABLE_CONNECT_PROTOCOL"
            raise Fault(PROTOCOL_ERROR, f"SETTINGS_{which} {value}, allowed 0 or 1")
    return values


def rst_frame(stream: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def window_frame(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def goaway_frame(last: int, code: int, text: str = "") -> bytes:
    return frame(GOAWAY, 0, 0, _TWO.pack(last, code) + text.encode()[:1024])


def read_goaway(payload: bytes) -> tuple[int, int, str]:
    """Last stream, code, and the peer's own words, which are shown cut."""
    if len(payload) < 8:
        raise Fault(FRAME_SIZE_ERROR, f"GOAWAY of {len(payload)} bytes, at least 8")
    last, code = _TWO.unpack_from(payload)
    return last & STREAM_MAX, code, shown(payload[8:]) if len(payload) > 8 else ""
