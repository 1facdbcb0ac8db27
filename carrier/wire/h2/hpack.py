"""HPACK (RFC 7541): field blocks to fields and back.

The dynamic table is a value, not a thing: a `State` never changes, and `decode` gives the fields of a block and the state after it. So what
a block means depends on two values only, and can be remembered exactly: `State.known` maps blocks that were read in this state to what
became of them (memo.py). Insertions copy a tuple of at most 128 entries, which costs less than to keep a version of it.

What is encoded never enters the peer's dynamic table: static names and literals without Huffman coding. Such a block means the same
on every connection, so it is made once for a head that comes again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.table import HeaderTable

from carrier.wire.h2.frames import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, Fault
from carrier.wire.h2.limits import TOO_LARGE

Pair = tuple[bytes, bytes]

TABLE_SIZE = 4096
"""Bytes of a dynamic table before anybody says otherwise (RFC 9113 6.5.2)."""
EMPTY_TABLE = b"\x20"
"""Begins a block: the encoder uses no dynamic table from now on (RFC 7541 6.3)."""
_STATIC: tuple[Pair, ...] = ((b"", b""), *[(bytes(name), bytes(value)) for name, value in HeaderTable.STATIC_TABLE])
_FIRST = len(_STATIC)  # the first index of the dynamic table
BOMB = 4  # times the bytes that are allowed: until then the section is refused, then the connection
_ENTRY = 32  # what a table entry counts beside its bytes (RFC 7541 4.1)
_INTEGER_MAX = 1 << 28
_STEPS = 8192  # entries of the Huffman decoder's table; full, it is emptied
_STRINGS, _STRING_MAX = 2048, 64  # Huffman strings that are remembered, and their bytes

_INDEX: dict[bytes, int] = {}
_PAIRS: dict[Pair, int] = {}
for _index, _pair in enumerate(_STATIC[1:], 1):
    _INDEX.setdefault(_pair[0], _index)
    if _pair[1]:
        _PAIRS[_pair] = _index

SENSITIVE = frozenset((b"authorization", b"proxy-authorization", b"cookie", b"set-cookie"))
"""Sent as never indexed: no later hop may put them into a table that somebody could probe (RFC 7541 7.1.3)."""


class State:
    """The decoder between two blocks. entries: the dynamic table, newest first. size: its bytes; limit: what its encoder chose as the most;
    allowed: what we allow it to choose; due: we allowed less, and the next block has to say that it obeys (RFC 7541 4.2)."""

    __slots__ = ("_other", "allowed", "due", "entries", "known", "limit", "size")

    def __init__(self, entries: tuple[Pair, ...], size: int, limit: int, allowed: int, due: bool = False) -> None:
        self.entries, self.size, self.limit, self.allowed, self.due = entries, size, limit, allowed, due
        self.known: dict[bytes, Any] = {}
        self._other: State | None = None

    def allowing(self, allowed: int) -> State:
        """The same table once the peer has acknowledged another SETTINGS_HEADER_TABLE_SIZE of ours; one state for all who come here."""
        if allowed == self.allowed:
            return self
        if self._other is None or self._other.allowed != allowed:
            self._other = State(self.entries, self.size, self.limit, allowed, self.due or self.limit > allowed)
        return self._other


def _bad(detail: str) -> Fault:
    return Fault(COMPRESSION_ERROR, detail)


def integer(block: bytes, i: int, bits: int) -> tuple[int, int]:
    """An integer with a prefix of `bits` at i, and where it ends (RFC 7541 5.1)."""
    most = (1 << bits) - 1
    value = block[i] & most
    i += 1
    if value < most:
        return value, i
    shift = 0
    while True:
        if i >= len(block):
            raise _bad("an integer that is cut off")
        byte = block[i]
        i += 1
        value += (byte & 127) << shift
        shift += 7
        if value > _INTEGER_MAX or shift > 35:
            raise _bad("an integer that is too large")
        if byte < 128:
            return value, i


def _string(block: bytes, i: int) -> tuple[bytes, int]:
    if i >= len(block):
        raise _bad("a string that is cut off")
    first = block[i]
    n = first & 127
    if n < 127:
        i += 1
    else:
        n, i = integer(block, i, 7)
    j = i + n
    if j > len(block):
        raise _bad(f"a string of {n} bytes of which {len(block) - i} came")
    text = block[i:j]
    return (unhuffman(text) if first & 128 else text), j


def _shrunk(entries: tuple[Pair, ...], size: int, limit: int) -> tuple[tuple[Pair, ...], int]:
    """The table without its oldest entries, so that it fits (RFC 7541 4.3, 4.4)."""
    keep = len(entries)
    while size > limit:
        keep -= 1
        name, value = entries[keep]
        size -= len(name) + len(value) + _ENTRY
    return entries[:keep], size


def decode(state: State, block: bytes, most: int) -> tuple[list[Pair], int, list[bytes], State]:
    """Fields of a block in order, their bytes by SETTINGS_MAX_HEADER_LIST_SIZE's count, the names that are never to be indexed, and the
    state after it (the same object, if nothing was changed).

    Once the bytes exceed `most`, fields are counted and no longer kept: the state stays exact, and a small block cannot grow. Far beyond
    `most` it is a bomb, and the connection's end.
    """
    fields: list[Pair] = []
    never: list[bytes] = []
    entries, size, limit, allowed = state.entries, state.size, state.limit, state.allowed
    due, changed, total = state.due, False, 0
    i, n = 0, len(block)
    try:
        while i < n:
            byte = block[i]
            if byte & 128:  # indexed (6.1)
                if byte != 255:
                    index = byte & 127
                    i += 1
                else:
                    index, i = integer(block, i, 7)
                if not index:
                    raise _bad("index 0")
                pair = _STATIC[index] if index < _FIRST else entries[index - _FIRST]
            elif byte & 96 == 32:  # table size (6.3)
                if total or fields:
                    raise _bad("a table size behind a field")
                limit, i = integer(block, i, 5)
                if limit > allowed:
                    raise _bad(f"a table size of {limit}, allowed is {allowed}")
                entries, size = _shrunk(entries, size, limit)
                due, changed = False, True
                continue
            else:  # literals (6.2)
                full = 63 if byte & 64 else 15
                index = byte & full
                if index < full:
                    i += 1
                else:
                    index, i = integer(block, i, 6 if byte & 64 else 4)
                if index:
                    name = (_STATIC[index] if index < _FIRST else entries[index - _FIRST])[0]
                else:
                    name, i = _string(block, i)
                value, i = _string(block, i)
                pair = (name, value)
                if byte & 64:
                    changed = True
                    need = len(name) + len(value) + _ENTRY
                    size += need
                    if size > limit:
                        entries, size = _shrunk(entries, size - need, max(0, limit - need))
                        size += need
                    if need <= limit:
                        entries = (pair, *entries)
                    else:
                        entries, size = (), 0
                elif byte & 16:
                    never.append(name)
            if due:
                raise _bad(f"no table size, though {allowed} is allowed now")
            total += len(pair[0]) + len(pair[1]) + _ENTRY
            if total <= most:
                fields.append(pair)
            elif total > BOMB * most:
                raise Fault(ENHANCE_YOUR_CALM, f"a field section of more than {BOMB * most} bytes, at most {most}", TOO_LARGE[1])
    except IndexError:
        raise _bad(f"index {index}, the table ends at {len(entries) + _FIRST - 1}") from None
    if due:
        raise _bad(f"no table size, though {allowed} is allowed now")
    return fields, total, never, State(entries, size, limit, allowed) if changed else state


# -- Huffman (RFC 7541 5.2, appendix B) ----------------------------------------------------------------------------------------------------


def _tree() -> list[list[int]]:
    """Nodes as [node after 0, node after 1]; a leaf is -1 - symbol. Node 0 is the root."""
    nodes = [[0, 0]]
    for symbol, (code, length) in enumerate(zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True)):
        node = 0
        for bit in range(length - 1, 0, -1):
            side = code >> bit & 1
            if not nodes[node][side]:
                nodes.append([0, 0])
                nodes[node][side] = len(nodes) - 1
            node = nodes[node][side]
        nodes[node][code & 1] = -1 - symbol
    return nodes


_NODES = _tree()
_EOS = 256
# Where a string may end: at most seven bits into EOS, which is all ones.
_ENDS = {0}
_node = 0
for _ in range(7):
    _node = _NODES[_node][1]
    _ENDS.add(_node)
_steps: dict[int, tuple[int, bytes]] = {}  # node << 8 | byte -> node after it, and what came out; made as they are met
_strings: dict[bytes, bytes] = {}


def _step(key: int) -> tuple[int, bytes]:
    node, byte, out = key >> 8, key & 255, bytearray()
    for bit in range(7, -1, -1):
        node = _NODES[node][byte >> bit & 1]
        if node < 0:
            if node == -1 - _EOS:
                raise _bad("EOS in a Huffman string")
            out.append(-1 - node)
            node = 0
    if len(_steps) >= _STEPS:
        _steps.clear()
    _steps[key] = step = (node << 8, bytes(out))
    return step


def unhuffman(text: bytes) -> bytes:
    """The bytes that a Huffman string stands for: one look-up a byte, none for a string that was seen before."""
    known = _strings.get(text)
    if known is not None:
        return known
    parts, at, steps = [], 0, _steps
    for byte in text:
        at, out = steps.get(at | byte) or _step(at | byte)
        parts.append(out)
    if at >> 8 not in _ENDS:
        raise _bad("a Huffman string with a padding that is not the begin of EOS, or of more than 7 bits")
    whole = b"".join(parts)
    if len(text) <= _STRING_MAX:
        if len(_strings) >= _STRINGS:
            _strings.clear()
        _strings[text] = whole
    return whole


# -- encoding ------------------------------------------------------------------------------------------------------------------------------


def _number(value: int, bits: int, flags: int) -> bytes:
    most = (1 << bits) - 1
    if value < most:
        return bytes((flags | value,))
    out = bytearray((flags | most,))
    value -= most
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def line(name: bytes, value: bytes, never: bool = False) -> bytes:
    """One field (lower-case name): indexed if it is in the static table, else a literal that enters no table."""
    index = _PAIRS.get((name, value))
    if index:
        return bytes((128 | index,))
    prefix = _number(_INDEX.get(name, 0), 4, 16 if never or name in SENSITIVE else 0)
    size = len(value)
    if name not in _INDEX:
        prefix += _number(len(name), 7, 0) + name
    return prefix + (bytes((size,)) if size < 127 else _number(size, 7, 0)) + value


def encode(fields: Iterable[Pair], never: frozenset[bytes] = frozenset()) -> bytes:
    """A block of these fields, in their order; names are lower case, pseudo-fields first. `never`: names that came as never indexed."""
    return b"".join([line(name, value, name in never) for name, value in fields])
