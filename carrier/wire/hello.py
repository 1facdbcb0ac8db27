"""A TLS ClientHello read for its names and protocols (RFC 8446 section 4.1.2), without TLS."""

from __future__ import annotations

from typing import NamedTuple

from carrier.errors import Error

RECORD = 16 * 1024
"""Bytes of a record at most (section 5.1)."""
LONGEST = 64 * 1024
"""Bytes of a ClientHello that is read: keys of post-quantum algorithms and tickets make them grow."""
RECORDS = 64
"""Records of one ClientHello."""
MOST = LONGEST + 5 * RECORDS
"""Bytes of a connection that are looked at for it."""


class Hello(NamedTuple):
    """What a ClientHello asks for. sni: lower case, empty when no name is asked for."""

    sni: str
    alpn: tuple[str, ...]


def parse_hello(data: bytes | bytearray) -> Hello | None:
    """The ClientHello that a connection begins with (RFC 8446 section 4.1.2), in however many records it comes (section 5.1: a message may
    be spread over several, and clients do that to be read by nobody on the way); None: it is not whole yet.

    Raises Error("protocol-error") when it is none, or too long to be one. One whose inside cannot be read asks for nothing.
    """
    message = bytearray()
    at = 0
    for _ in range(RECORDS):
        if data[at : at + 1] not in (b"", b"\x16") or data[at + 1 : at + 2] not in (b"", b"\x03"):
            raise Error("protocol-error", "no TLS ClientHello", "downstream")
        if len(data) < at + 5:
            return None
        size = int.from_bytes(data[at + 3 : at + 5], "big")
        if not 0 < size <= RECORD:
            raise Error("protocol-error", f"a TLS record of {size} bytes (1 to {RECORD} are allowed)", "downstream")
        message += data[at + 5 : at + 5 + size]
        at += 5 + size
        if message and message[0] != 1:
            raise Error("protocol-error", "the first TLS message is no ClientHello", "downstream")
        whole = 4 + int.from_bytes(message[1:4], "big") if len(message) >= 4 else 4
        if whole > LONGEST:
            raise Error("protocol-error", f"a TLS ClientHello of {whole} bytes (up to {LONGEST} are read)", "downstream")
        if len(data) < at:
            return None
        if len(message) >= whole:
            return _asked(_Bytes(bytes(message[4:whole])))
    raise Error("protocol-error", f"a TLS ClientHello in more than {RECORDS} records", "downstream")


def _asked(body: _Bytes) -> Hello:
    try:
        body.take(2 + 32)
        body.take(body.number(1))
        body.take(body.number(2))
        body.take(body.number(1))
        return _extensions(_Bytes(body.take(body.number(2)))) if body.left() else Hello("", ())
    except IndexError:
        return Hello("", ())


def _extensions(body: _Bytes) -> Hello:
    sni, alpn = "", []
    while body.left():
        kind = body.number(2)
        value = _Bytes(body.take(body.number(2)))
        if kind == 0 and value.left():  # RFC 6066 section 3
            value.take(2)
            if value.number(1) == 0:
                sni = value.take(value.number(2)).decode("latin-1").lower().rstrip(".")
        elif kind == 16 and value.left():  # RFC 7301 section 3.1
            value.take(2)
            while value.left():
                alpn.append(value.take(value.number(1)).decode("latin-1"))
    return Hello(sni, tuple(alpn))


class _Bytes:
    """Bytes read from the front; IndexError when there are too few."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, size: int) -> bytes:
        if size > self.left():
            raise IndexError
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")


def wanted(data: bytes | bytearray) -> int:
    """How many bytes the record needs that is not whole: before they are there, nothing new can be said."""
    at = 0
    while at + 5 <= len(data):
        at += 5 + int.from_bytes(data[at + 3 : at + 5], "big")
    return max(at if at > len(data) else at + 5, len(data) + 1)
