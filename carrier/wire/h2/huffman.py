"""Huffman strings of HPACK (RFC 7541 section 5.2, appendix B) to the bytes that they stand for.

An automaton over bytes: a row for each node of the code's tree where a byte may begin, made as they are met; an entry is the row after the
byte, and what came out. Rows are plain lists, the fastest there is to look something up by a small number.
"""

from __future__ import annotations

from typing import Any

from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from carrier.wire.h2.frames import COMPRESSION_ERROR, Fault

_STRINGS, _STRING_MAX = 2048, 192  # Huffman strings that are remembered, and their bytes
_EOS = 256
_NODE = 256  # where a row has its node


class _Node:
    """A node of the tree. after: those after a 0 and a 1. symbol: -1, or it is a leaf. ends: a string may end here, at most seven bits into
    EOS, which is all ones. row: by the byte that comes, the row after it and what came out, or None if it was not met here; then itself."""

    __slots__ = ("after", "ends", "row", "symbol")

    def __init__(self) -> None:
        self.after: list[_Node | None] = [None, None]
        self.symbol = -1
        self.ends = False
        self.row: list[Any] | None = None

    def begins(self) -> list[Any]:
        """The row."""
        if self.row is None:
            self.row = [*[None] * _NODE, self]
        return self.row

    def meet(self, byte: int) -> None:
        """Make the entry of a byte."""
        node: Any = self
        out = bytearray()
        for bit in range(7, -1, -1):
            node = node.after[byte >> bit & 1]
            if node.symbol >= 0:
                if node.symbol == _EOS:
                    raise Fault(COMPRESSION_ERROR, "EOS in a Huffman string")
                out.append(node.symbol)
                node = _ROOT
        self.begins()[byte] = node.begins(), bytes(out)


def _tree() -> _Node:
    root = _Node()
    for symbol, (code, length) in enumerate(zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True)):
        node = root
        for bit in range(length - 1, -1, -1):
            side = code >> bit & 1
            after = node.after[side]
            if after is None:
                after = node.after[side] = _Node()
            node = after
        node.symbol = symbol
    return root


_ROOT = _tree()
_node: Any = _ROOT
for _ in range(8):
    _node.ends = True
    _node = _node.after[1]
_strings: dict[bytes, bytes] = {}


def unhuffman(text: bytes) -> bytes:
    """The bytes that a Huffman string stands for: one look-up a byte, none for a string that was seen before."""
    known = _strings.get(text)
    if known is not None:
        return known
    parts, row = _decoded(text)
    if not row[_NODE].ends:
        detail = "a Huffman string with a padding that is not the begin of EOS, or of more than 7 bits"
        raise Fault(COMPRESSION_ERROR, detail)
    whole = b"".join(parts)
    if len(text) <= _STRING_MAX:
        if len(_strings) >= _STRINGS:
            _strings.clear()
        _strings[text] = whole
    return whole


def _decoded(text: bytes) -> tuple[list[bytes], list[Any]]:
    """What came out, and the row after the last byte."""
    while True:
        parts: list[bytes] = []
        add, row, byte = parts.append, _ROOT.begins(), 0
        try:
            for byte in text:
                row, out = row[byte]
                add(out)
            return parts, row
        except TypeError:  # None is no pair: this byte was not met here before
            row[_NODE].meet(byte)
