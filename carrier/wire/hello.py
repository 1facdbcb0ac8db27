"""A TLS ClientHello read for its names and protocols (RFC 8446 section 4.1.2), without TLS."""

from __future__ import annotations

from typing import NamedTuple

from carrier.errors import Error


class Hello(NamedTuple):
    """What a ClientHello asks for. sni: lower case, empty when no name is asked for."""

    sni: str
    alpn: tuple[str, ...]


def parse_hello(data: bytes) -> Hello | None:
    """The first record of a connection as a ClientHello (RFC 8446 section 4.1.2); None: it is not whole yet.

    Raises Error("protocol-error") when it is none. A hello that is spread over several records is not looked into: it asks for nothing.
    """
    if data[:1] != b"\x16"[: len(data)] or (len(data) > 1 and data[1] != 3):
        raise Error("protocol-error", "no TLS ClientHello", "downstream")
    if len(data) < 5:
        return None
    size = int.from_bytes(data[3:5], "big")
    if size > 16 * 1024:
        raise Error("protocol-error", "a TLS record of more than 16 KiB", "downstream")
    if len(data) < 5 + size:
        return None
    record = _Bytes(data[5 : 5 + size])
    try:
        if record.number(1) != 1:
            raise Error("protocol-error", "the first TLS message is no ClientHello", "downstream")
        body = _Bytes(record.take(record.number(3)))
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
