"""Just enough WebSocket for load and backend: the handshake, and echoing frames. RFC 6455 sections 4.2.2 and 5.2.

Messages that repeat are unmasked once: `echo` keeps a small memo of frames, so that the backend costs less than what is measured.
"""

import base64
import hashlib
import os
import re
import struct
from functools import lru_cache

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
_KEY = re.compile(rb"\r\nsec-websocket-key: *([^\r ]+)", re.IGNORECASE)


def upgrade_key(head: bytes) -> bytes | None:
    """The Sec-WebSocket-Key of a request head, None when it asks for no WebSocket."""
    found = _KEY.search(head)
    return found[1] if found else None


def accept(key: bytes) -> bytes:
    """The Sec-WebSocket-Accept for `key`."""
    return base64.b64encode(hashlib.sha1(key + GUID).digest())


def switching(key: bytes, name: str) -> bytes:
    """The 101 answer of the server `name`."""
    head = f"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nx-backend: {name}\r\nsec-websocket-accept: "
    return head.encode() + accept(key) + b"\r\n\r\n"


def request(host: str, path: str, headers: str = "") -> tuple[bytes, bytes]:
    """An opening handshake (`headers`: further lines, each with CRLF) and the accept value that its answer must carry."""
    key = base64.b64encode(os.urandom(16))
    head = (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Upgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key.decode()}\r\n\r\n"
    )
    return head.encode(), accept(key)


def build(payload: bytes, opcode: int = BINARY, mask: bytes = b"") -> bytes:
    """One final frame; `mask` (4 bytes) for what a client sends."""
    size, flag = len(payload), 0x80 if mask else 0
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, flag | size)
    elif size < 65536:
        head = struct.pack("!BBH", 0x80 | opcode, flag | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, flag | 127, size)
    return head + mask + (masked(payload, mask) if mask else payload)


def masked(payload: bytes, mask: bytes) -> bytes:
    """`payload` with `mask` applied (or taken off, it is the same)."""
    size = len(payload)
    pad = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(size, "big")


def measure(data: bytes, start: int) -> tuple[int, int]:
    """Where the payload of the frame at `start` begins (after its mask) and where it ends; (0, 0) while its head is not all here."""
    here = len(data) - start
    if here < 2:
        return 0, 0
    size, head = data[start + 1] & 0x7F, 2
    if size == 126:
        head = 4
    elif size == 127:
        head = 10
    if here < head:
        return 0, 0
    if head > 2:
        size = int.from_bytes(data[start + 2 : start + head], "big")
    body = start + head + (4 if data[start + 1] & 0x80 else 0)
    return body, body + size


def split(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """The whole frames of `data` as (opcode, unmasked payload), and the rest."""
    found: list[tuple[int, bytes]] = []
    start = 0
    while True:
        body, end = measure(data, start)
        if not end or end > len(data):
            return found, data[start:]
        found.append((data[start] & 0x0F, unmasked(data[start:end], body - start)))
        start = end


def unmasked(frame: bytes, body: int) -> bytes:
    """The payload of `frame`, which begins at `body`."""
    return masked(frame[body:], frame[body - 4 : body]) if frame[1] & 0x80 else frame[body:]


def echo(data: bytes) -> tuple[bytes, bytes]:
    """What a server answers to the whole frames of `data`, and the rest."""
    whole = _echo_one(data) if len(data) < 4096 else None
    if whole is not None:
        return whole, b""
    frames, rest = split(data)
    answers = [build(payload, PONG if opcode == PING else opcode) for opcode, payload in frames if opcode != PONG]
    return b"".join(answers), rest


@lru_cache(maxsize=1024)
def _echo_one(data: bytes) -> bytes | None:
    """The answer when `data` is exactly one frame, None otherwise."""
    body, end = measure(data, 0)
    if not end or end != len(data):
        return None
    opcode = data[0] & 0x0F
    return b"" if opcode == PONG else build(unmasked(data, body), PONG if opcode == PING else opcode)
