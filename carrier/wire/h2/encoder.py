"""Heads of HTTP/1.1 as blocks of HTTP/2: what a `Head` has as `wire` is turned into the block that says the same.

Lines are known by their bytes, so a head that is new in one line costs one look-up for each of the others; a head that comes again
keeps its block itself (heads.py). What belongs to a connection of HTTP/1.1 is left out (RFC 9113 8.2.2), and Host becomes :authority.
Blocks use no dynamic table, so they mean the same on every connection; the lines of `wire` are valid already, nothing is checked here.
"""

from __future__ import annotations

from carrier.wire.h2.hpack import Pair, encode, line

_LINES_BYTES = 256 * 1024
_LINE_MAX = 256
_COST = 200  # bytes of an entry beside the two that it holds

_DROPPED = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"http2-settings", b"host", b"te")
)


class Encoder:
    """Makes blocks, and remembers their lines: one for all connections of a listener or a cluster. most: bytes of lines that are kept."""

    __slots__ = ("_lines", "_most", "_size")

    def __init__(self, most: int = _LINES_BYTES) -> None:
        self._most = most
        self._lines: dict[bytes, bytes] = {}
        self._size = 0

    def answer(self, status: int, wire: bytes, never: frozenset[bytes] = frozenset()) -> bytes:
        """The block of an answer, from the bytes of its HTTP/1.1 head. never: see `Section.never`."""
        return line(b":status", b"%d" % status) + self.fields(wire, never)

    def request(
        self,
        method: bytes,
        scheme: bytes,
        authority: bytes,
        path: bytes,
        wire: bytes,
        protocol: bytes = b"",
        te: bool = False,
        never: frozenset[bytes] = frozenset(),
    ) -> bytes:
        """The block of a request, from the bytes of its HTTP/1.1 head; what its start line and Host say is given. protocol: makes it an
        extended CONNECT (RFC 8441). te: trailers are welcome, which gRPC asks for. never: see `Section.never`."""
        pseudo: list[Pair] = [(b":method", method), (b":scheme", scheme), (b":path", path), (b":authority", authority)]
        if method == b"CONNECT" and not protocol:
            pseudo = [pseudo[0], pseudo[3]]
        elif protocol:
            pseudo.insert(1, (b":protocol", protocol))
        return encode(pseudo) + self.fields(wire, never) + (_TE if te else b"")

    def fields(self, wire: bytes, never: frozenset[bytes] = frozenset()) -> bytes:
        """The regular fields of an HTTP/1.1 head, without its start line."""
        if never:
            return b"".join([_made(text, never) for text in wire.split(b"\r\n")[1:-2]])
        lines = self._lines
        return b"".join([lines[text] if text in lines else self._line(text) for text in wire.split(b"\r\n")[1:-2]])

    def _line(self, text: bytes) -> bytes:
        made = _made(text)
        if len(text) <= _LINE_MAX:
            cost = 2 * len(text) + _COST
            if self._size + cost > self._most:
                self._lines.clear()
                self._size = 0
            self._size += cost
            self._lines[text] = made
        return made


def _made(text: bytes, never: frozenset[bytes] = frozenset()) -> bytes:
    name, _, value = text.partition(b":")
    name = name.lower()
    return b"" if name in _DROPPED else line(name, value.strip(b" \t"), name in never)


_TE = line(b"te", b"trailers")
