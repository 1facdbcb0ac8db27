"""What the rules of a listener can tell of a client's address: which of the networks that they name it is in.

A connection's address does not change, so that this is asked once for each; and many addresses are the same to the rules, so that what was
decided for one client holds for others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from carrier.rules.condition import Leaf
from carrier.rules.inputs import needs_of, total
from carrier.rules.operators import Within

if TYPE_CHECKING:
    from carrier.rules.match import Matcher


class Networks:
    """Networks, and which of them are around an address."""

    def __init__(self, leaves: Iterable[Leaf]) -> None:
        """leaves: at least one, all of them on the client's address."""
        distinct = {leaf.key: leaf for leaf in leaves}
        self.part = Within(next(iter(distinct.values())))
        for number, leaf in enumerate(distinct.values()):
            self.part.add(leaf, number, None)
        self.part.close()

    def around(self, address: str) -> tuple[int, ...]:
        """The numbers of those that the address is in."""
        meta = {"IP": {"src_addr": address}}
        return tuple(sorted({number for value in self.part.read(meta) for hits in self.part.hits(value) for number, _ in hits}))


def networks_of(matchers: Iterable[Matcher]) -> Networks | None:
    """Those that rule lists look at; None where they look at more of a connection, or at none."""
    leaves = []
    for matcher in matchers:
        if not matcher.needs.peer:
            continue
        for leaf in _of_connections(matcher):
            if leaf.source.kind != "source" or leaf.op != "within":
                return None
            leaves.append(leaf)
    return Networks(leaves) if leaves else None


def _of_connections(matcher: Matcher) -> Iterator[Leaf]:
    """Conditions that look at the connection."""
    for condition in matcher.conditions:
        if condition is not None and condition.needs.peer:
            yield from (leaf for leaf in condition.leaves if total(map(needs_of, leaf.source.reads)).peer)
