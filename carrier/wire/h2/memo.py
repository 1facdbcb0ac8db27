"""Blocks that were read before: from the state of the table and the bytes of a block to the section, and the state after it.

The memo is shared by all connections that say so (those of one listener, or of one cluster). All begin in the same state; a block that
fills the table leads each of them to the same next state, and so on: the second client of a kind is read without decoding anything. It is
exact, because states never change. A section carries an `owner`: whoever remembers a decision there has it back with the section.

Bounded in bytes; full, it is emptied, and connections go on with the states that they have.
"""

from __future__ import annotations

from carrier.wire.h2.fields import Section, read
from carrier.wire.h2.hpack import TABLE_SIZE, State, decode
from carrier.wire.h2.limits import Limits

_BYTES = 1024 * 1024
_BLOCK_MAX = 2048  # bytes of a block that is kept
_COST = 1600  # bytes of what is kept beside a block and its fields: a section, and a head that its owner makes of it
_STATE = 700  # bytes of a state beside its entries
_POOR = 8  # straight misses after which a connection's blocks are kept no longer, but for one in so many
_KEEP_ONE_IN = 16


class Memo:
    """What was read with one set of limits in one role. client: the blocks are answers. most: bytes kept."""

    __slots__ = ("client", "filled", "limits", "most", "size", "start")

    def __init__(self, limits: Limits, client: bool = False, most: int = _BYTES) -> None:
        self.limits, self.client, self.most = limits, client, most
        self.size = 0
        self.start = State((), 0, TABLE_SIZE, TABLE_SIZE)
        self.filled: list[State] = []

    def read(self, state: State, block: bytes, misses: int) -> tuple[Section, State]:
        """A block that `state.known` does not have. misses: how many came in a row on this connection. Raises Fault: COMPRESSION_ERROR."""
        pairs, size, never, after = decode(state, block, self.limits.head)
        section = read(pairs, size, never, self.limits, self.client)
        if section.problem or section.excess or len(block) > _BLOCK_MAX or (misses >= _POOR and misses % _KEEP_ONE_IN):
            return section, after
        cost = len(block) + size + _COST + (0 if after is state else 8 * len(after.entries) + _STATE)
        if self.size + cost > self.most:
            self.clear()
        if not state.known:
            self.filled.append(state)
        self.size += cost
        section.kept = True
        # A state that leads to itself would be a ring.
        state.known[block] = (section, None if after is state else after)
        return section, after

    def clear(self) -> None:
        """Forget everything: it is full, or what owners remember does not hold any more."""
        for state in self.filled:
            state.known.clear()
        self.filled.clear()
        self.size = 0
