"""HPACK (RFC 7541): field blocks to fields and back.

The dynamic table is a value, not a thing: a `State` never changes, and `decode` gives the fields of a block and the state after it. So what
a block means depends on two values only, and can be remembered exactly: `State.known` maps blocks that were read in this state to what
became of them (memo.py). Where nothing comes again that copying is in vain, and a `Table`, which changes, reads block after block.

What is encoded never enters the peer's dynamic table: static names and literals without Huffman coding. Such a block means the same
on every connection, so it is made once for a head that comes again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from hpack.table import HeaderTable

from carrier.wire.h2.frames import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, Fault
from carrier.wire.h2.huffman import unhuffman
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
SIZES = 8
"""Table sizes that a block may begin with; two say everything (RFC 7541 4.2), and thousands in a block cost only us."""
_RUN = re.compile(rb"[\x81-\xfe]+")
"""Indexed fields, one after the other, whose numbers are below 127; nearly all that most blocks hold (RFC 7541 6.1)."""
_NUMBER = bytes(byte & 127 for byte in range(256))

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


class Table:
    """A decoder as a thing that changes. fields: the static table behind a place for index 0, then the dynamic one, newest first; the rest
    as in `State`. changed: a block has changed it."""

    __slots__ = ("allowed", "changed", "due", "fields", "limit", "size")

    def __init__(self, state: State) -> None:
        self.fields = [*_STATIC, *state.entries]
        self.size, self.limit, self.allowed, self.due = state.size, state.limit, state.allowed, state.due
        self.changed = False

    def state(self) -> State:
        """What it is now."""
        return State(tuple(self.fields[_FIRST:]), self.size, self.limit, self.allowed, self.due)

    def allow(self, allowed: int) -> None:
        """See `State.allowing`."""
        self.allowed = allowed
        self.due = self.due or self.limit > allowed

    def read(self, block: bytes) -> tuple[list[Pair], list[int], list[bytes]]:
        """The fields of a block, which of them are literals, and the names that are never to be indexed. Raises Fault. A field of the table
        costs a reference, so what comes out is no larger than a small multiple of the block."""
        table = self.fields
        found: list[Pair] = []
        literals: list[int] = []
        never: list[bytes] = []
        i, n, index, sizes = 0, len(block), 0, 0
        try:
            while i < n:
                byte = block[i]
                if byte & 96 == 32 and byte < 128:
                    if found:
                        raise _bad("a table size behind a field")
                    sizes += 1
                    if sizes > SIZES:
                        raise _bad(f"more than {SIZES} table sizes in one block")
                    i = self._resize(block, i)
                    continue
                if self.due:
                    raise _bad(f"no table size, though {self.allowed} is allowed now")
                if byte & 128:
                    run, index = _RUN.match(block, i), 0
                    if run is not None:
                        found += map(table.__getitem__, run[0].translate(_NUMBER))
                        i = run.end()
                        continue
                    index, i = integer(block, i, 7)
                    if not index:
                        raise _bad("index 0")
                    found.append(table[index])
                    continue
                full = 63 if byte & 64 else 15  # literals (6.2)
                index = byte & full
                if index < full:
                    i += 1
                else:
                    index, i = integer(block, i, 6 if byte & 64 else 4)
                if index:
                    name = table[index][0]
                else:
                    name, i = _string(block, i)
                value, i = _string(block, i)
                literals.append(len(found))
                pair = (name, value)
                found.append(pair)
                if byte & 64:
                    self._insert(pair)
                elif byte & 16:
                    never.append(name)
        except IndexError:
            last = len(table) - 1
            index = index or next(byte & 127 for byte in block[i:] if byte & 127 > last)
            raise _bad(f"index {index}, the table ends at {last}") from None
        if self.due:
            raise _bad(f"no table size, though {self.allowed} is allowed now")
        return found, literals, never

    def _resize(self, block: bytes, i: int) -> int:
        """A table size (6.3) at i; where it ends."""
        self.limit, i = integer(block, i, 5)
        if self.limit > self.allowed:
            raise _bad(f"a table size of {self.limit}, allowed is {self.allowed}")
        self._shrink(self.limit)
        self.due, self.changed = False, True
        return i

    def _insert(self, pair: Pair) -> None:
        self.changed = True
        need = len(pair[0]) + len(pair[1]) + _ENTRY
        if self.size + need > self.limit:
            self._shrink(max(0, self.limit - need))
        if need <= self.limit:
            self.fields.insert(_FIRST, pair)
            self.size += need

    def _shrink(self, most: int) -> None:
        """The oldest entries go, so that it fits (RFC 7541 4.3, 4.4)."""
        while self.size > most:
            name, value = self.fields.pop()
            self.size -= len(name) + len(value) + _ENTRY


def size_of(pairs: Sequence[Pair]) -> int:
    """Bytes by SETTINGS_MAX_HEADER_LIST_SIZE's count."""
    return sum([len(name) + len(value) for name, value in pairs]) + _ENTRY * len(pairs)


def kept(pairs: list[Pair], size: int, most: int) -> list[Pair]:
    """The fields that are looked at: of a section of more than `most` bytes the first, and none of one that is far beyond it, a bomb, which
    is the connection's end."""
    if size <= most:
        return pairs
    if size > BOMB * most:
        raise Fault(ENHANCE_YOUR_CALM, f"a field section of more than {BOMB * most} bytes, at most {most}", TOO_LARGE[1])
    total = 0
    found = []
    for pair in pairs:
        total += len(pair[0]) + len(pair[1]) + _ENTRY
        if total > most:
            break
        found.append(pair)
    return found


def decode(state: State, block: bytes, most: int) -> tuple[list[Pair], int, list[bytes], State]:
    """Fields of a block in order, their bytes by SETTINGS_MAX_HEADER_LIST_SIZE's count, the names that are never to be indexed, and the
    state after it (the same object, if nothing was changed). Of more than `most` bytes see `kept`."""
    table = Table(state)
    pairs, _, never = table.read(block)
    size = size_of(pairs)
    return kept(pairs, size, most), size, never, table.state() if table.changed else state


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
