"""Field blocks that were read before, or whose like was.

The memo is shared by all connections that say so (those of one listener, or of one cluster). All begin in the same `State`; a block that
fills the table leads each of them to the same next state, and so on: the second client of a kind is read without decoding anything. It is
exact, because states never change. A section carries an `owner`: whoever remembers a decision there has it back with the section.

A client that says something new in each block never comes to a state that was met. After some blocks its connection reads with a `Table`,
and sections are known by their *shape*: the fields themselves, but of those whose values always differ (a trace id) only the name. What
`read` makes of fields depends on nothing else, as only fields without a meaning of their own are learnt to differ.

Bounded in bytes; full, it is emptied, and connections go on with the states that they have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from carrier.wire.h2.fields import Section, fits, meaningless, read
from carrier.wire.h2.hpack import TABLE_SIZE, Pair, State, Table, decode, kept, size_of
from carrier.wire.h2.limits import Limits

POOR = 8
"""Straight misses after which a connection reads with a table of its own, and its blocks are kept no longer, but for one in so many."""
RICH = 64
"""Sections in a row without anything new, after which it reads by states again."""
_KEEP_ONE_IN = 16
_BYTES = 1024 * 1024
_BLOCK_MAX = 2048  # bytes of a block that is kept
_COST = 1600  # bytes of what is kept beside a block and its fields: a section, and a head that its owner makes of it
_STATE = 700  # bytes of a state beside its entries
_DIFFER = 3  # values of a field in a row, each another, after which it is taken for one that always differs
_NAMES, _NAME_MAX = 256, 64  # names that are watched, and their bytes
_VALUE_MAX = 512  # bytes of a value that differs


class Shape:
    """Sections that differ in some values only. section: the first of them; places: where they stand in its fields; base: its size without
    those values. owner: as `Section.owner`, of all of them."""

    __slots__ = ("base", "owner", "places", "section")

    def __init__(self, section: Section, varying: Sequence[Pair]) -> None:
        self.section = section
        self.places = [next(i for i, pair in enumerate(section.fields) if pair is other) for other in varying]
        self.base = section.size - sum(len(value) for _, value in varying)
        self.owner: Any = None

    def like(self, pairs: Sequence[Pair], limits: Limits) -> Section | None:
        """The section of which these are the fields that differ. None: they are not what they have to be to be passed on unread."""
        size = self.base
        for name, value in pairs:
            size += len(value)
            if not fits(value) or len(value) > _VALUE_MAX or len(name) + len(value) > limits.line:
                return None
        if size > limits.head:
            return None
        fields = list(self.section.fields)
        for i, pair in zip(self.places, pairs, strict=True):
            fields[i] = pair
        made = self.section.again(tuple(fields), size)
        made.shape = self
        return made


class Memo:
    """What was read with one set of limits in one role. client: the blocks are answers. most: bytes kept."""

    __slots__ = ("client", "differ", "filled", "limits", "most", "shapes", "size", "start", "watched")

    def __init__(self, limits: Limits, client: bool = False, most: int = _BYTES) -> None:
        self.limits, self.client, self.most = limits, client, most
        self.size = 0
        self.start = State((), 0, TABLE_SIZE, TABLE_SIZE)
        self.filled: list[State] = []
        self.shapes: dict[object, Shape] = {}
        self.watched: dict[bytes, tuple[bytes, int]] = {}
        """Names of fields that came as literals: the last value, and how often it was another."""
        self.differ: set[bytes] = set()
        """Those that always are."""

    def read(self, state: State, block: bytes, misses: int) -> tuple[Section, State]:
        """A block that `state.known` does not have. misses: how many came in a row on this connection. Raises Fault: COMPRESSION_ERROR."""
        pairs, size, never, after = decode(state, block, self.limits.head)
        section = read(pairs, size, never, self.limits, self.client)
        if section.problem or section.excess or len(block) > _BLOCK_MAX or misses >= POOR:
            return section, after
        self._room(len(block) + size + _COST + (0 if after is state else 8 * len(after.entries) + _STATE))
        if not state.known:
            self.filled.append(state)
        section.kept = True
        # A state that leads to itself would be a ring.
        state.known[block] = (section, None if after is state else after)
        return section, after

    def look(self, table: Table, block: bytes, misses: int) -> tuple[Section, bool]:
        """A block, read with a connection's own table, by its shape if that was met: was it? misses, Raises: as above."""
        pairs, literals, never = table.read(block)
        differ = self.differ
        varying = [pairs[i] for i in literals if pairs[i][0] in differ] if literals else ()
        key: object = tuple(pairs)
        if varying:
            named: list[object] = [*pairs]
            for i in literals:
                if pairs[i][0] in differ:
                    named[i] = pairs[i][0]
            key = tuple(named)
        if never:
            key = key, tuple(never)
        shape = self.shapes.get(key)
        if shape is not None:
            section = shape.like(varying, self.limits) if varying else shape.section
            if section is not None:
                return section, True
        return self._new(pairs, literals, never, key, varying, misses), False

    def _new(
        self, pairs: list[Pair], literals: list[int], never: list[bytes], key: object, varying: Sequence[Pair], misses: int
    ) -> Section:
        limits = self.limits
        size = size_of(pairs)
        fields = kept(pairs, size, limits.head)
        section = read(fields, size, never, limits, self.client)
        for i in literals:
            self._watch(*pairs[i])
        if section.problem or section.excess or section.protocol or size > _BLOCK_MAX or (misses >= POOR and misses % _KEEP_ONE_IN):
            return section
        if not all(fits(value) for _, value in varying):  # the section has other values
            return section
        self._room(2 * size + _COST + 8 * len(pairs))
        shape = self.shapes[key] = Shape(section, varying)
        section.kept = not varying
        if varying:
            section.shape = shape
        return section

    def _watch(self, name: bytes, value: bytes) -> None:
        """A literal came: is it one of those that always differ?"""
        last, count = self.watched.get(name, (value, 0))
        if last != value:
            count += 1
        if name not in self.watched and (len(self.watched) >= _NAMES or len(name) > _NAME_MAX or not meaningless(name)):
            return
        self.watched[name] = value[:_VALUE_MAX], count
        if count >= _DIFFER:
            self.differ.add(name)

    def _room(self, cost: int) -> None:
        if self.size + cost > self.most:
            self.clear()
        self.size += cost

    def clear(self) -> None:
        """Forget everything: it is full, or what owners remember does not hold any more."""
        for state in self.filled:
            state.known.clear()
        self.filled.clear()
        self.shapes.clear()
        self.size = 0
