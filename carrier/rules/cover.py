"""Which alternatives of a rule list can never fire, because an earlier one takes all their sessions.

`Seen` holds the earlier alternatives and is asked for one that covers the next; `contradicts` finds those that no session satisfies.
Sound, not complete: what is reported is certain, what is not reported may still be covered.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import msgspec

from carrier.core.metadata import set_at
from carrier.rules.checks import Net, same
from carrier.rules.condition import HASHED, Conjunction, Leaf, Node
from carrier.rules.inputs import HEADERS, Reader, Source


class Entry(msgspec.Struct, frozen=True):
    """One alternative of one rule, at its place in the order of evaluation."""

    position: int
    rule: int
    conjunction: Conjunction
    pivot: Leaf | None


def _implies(a: Leaf, e: Leaf) -> bool:
    """Whether every session that satisfies `a` satisfies `e`. True is certain; False may also mean "cannot tell"."""
    if a.key == e.key:
        return True
    if a.absent or (e.absent and a.source != e.source):
        return False
    if a.op == "test" and not a.fold and a.source.kind in ("value", "address") and a.source.reads and e.source.reads == a.source.reads:
        # The one field that `e` reads is known to the letter: ask it.
        return e.held(set_at({}, a.source.name, a.want))
    # matchHeader sees all that a predicate on that header sees, and the members of a list besides.
    wider = a.op == "starts" and (a.source.kind, e.source.kind) == ("value", "header") and a.source.reads == e.source.reads
    one_input = a.source == e.source or wider
    return one_input and not e.absent and _value_implies(a, e)


def _value_implies(a: Leaf, e: Leaf) -> bool:
    """The same for one value that both look at."""
    if e.op == "defined":
        return True
    folds = not a.fold or (e.fold and e.op in ("test", "starts", "ends", "contains", "in"))
    if a.op == "test":
        return folds and e.check(a.want)
    if a.op == "in":
        listed = cast("list[object]", a.want)
        return folds and bool(listed) and all(map(e.check, listed))
    if a.op in ("starts", "ends") and e.op in (a.op, "contains"):
        return folds and isinstance(e.want, str) and e.check(a.want)
    if a.op == "suffix" and e.op == "suffix":
        wide, narrow = str(e.want), str(a.want)
        # "example.org" is itself and what is below; ".example.org" only what is below.
        below = ("." + narrow.lstrip(".")).endswith("." + wide.lstrip("."))
        return below and (wide[0] != "." or narrow != wide[1:])
    if a.op == "within" and e.op == "within":
        inside, outside = cast("tuple[Net, ...]", a.want), cast("tuple[Net, ...]", e.want)
        return all(any(v == w and low >= first and high <= last for w, first, last in outside) for v, low, high in inside)
    if a.op == e.op == "less":
        return cast(float, a.want) <= cast(float, e.want)
    return a.op == e.op == "more" and cast(float, a.want) >= cast(float, e.want)


def _covers(wide: Conjunction, narrow: Conjunction) -> bool:
    """Whether every session that satisfies `narrow` satisfies `wide`: each condition of `wide` follows from one of `narrow`."""
    return all(any(_node_implies(a, e) for a in narrow) for e in wide)


def _node_implies(a: Node, e: Node) -> bool:
    return _implies(a, e) if isinstance(a, Leaf) and isinstance(e, Leaf) else a.key == e.key


def contradicts(conjunction: Conjunction) -> bool:
    """Two different values wanted of one field."""
    if len(conjunction) < 2:
        return False
    wanted: dict[Source, object] = {}
    for leaf in conjunction:
        if isinstance(leaf, Leaf) and leaf.op == "test" and not leaf.fold and leaf.source.kind in ("value", "path", "host", "sni"):
            wanted.setdefault(leaf.source, leaf.want)
            if not same(wanted[leaf.source], leaf.want):
                return True
    return False


class Seen:
    """The alternatives of earlier rules, to be asked which of them covers a new one; indexed so that many rules stay cheap."""

    def __init__(self) -> None:
        self.equal: dict[tuple[Source, object], list[Entry]] = {}
        self.starts: dict[Source, dict[str, list[Entry]]] = {}
        self.rest: list[Entry] = []
        # A regular expression follows only from itself, found by its key, or from known values, found by what both read.
        self.regexes: dict[object, list[Entry]] = {}
        self.readers: dict[tuple[tuple[str, ...], ...], dict[Source, Reader]] = {}

    def add(self, entry: Entry) -> None:
        """Take in an alternative; alternatives come in their order of evaluation."""
        pivot = entry.pivot
        if pivot is None:
            regex = next((part for part in entry.conjunction if isinstance(part, Leaf) and part.op == "matches"), None)
            if regex is None:
                self.rest.append(entry)
            else:
                self.regexes.setdefault(regex.key, []).append(entry)
                self.regexes.setdefault(regex.source.reads, []).append(entry)
            return
        self.readers.setdefault(pivot.source.reads, {})[pivot.source] = pivot.read
        if pivot.op == "test":
            self.equal.setdefault((pivot.source, pivot.want), []).append(entry)
        else:
            self.starts.setdefault(pivot.source, {}).setdefault(cast(str, pivot.want), []).append(entry)

    def candidates(self, conjunction: Conjunction) -> Iterator[Entry]:
        """Every earlier alternative that might cover this one, and few others."""
        yield from self.rest
        for leaf in conjunction:
            if isinstance(leaf, Leaf):
                yield from self.regexes.get(leaf.source.reads if leaf.op in ("test", "in") else leaf.key, ())
            if isinstance(leaf, Leaf) and leaf.op in ("test", "starts"):
                for source, value in self.views(leaf):
                    yield from self.equal.get((source, value), ()) if value.__class__ in HASHED else ()
                    if isinstance(value, str) and source in self.starts:
                        prefixes = self.starts[source]
                        for length in range(len(value) + 1):
                            yield from prefixes.get(value[:length], ())

    def views(self, leaf: Leaf) -> Iterator[tuple[Source, object]]:
        """What earlier rules' sources would read where this condition holds."""
        if leaf.op == "test" and leaf.source.kind in ("value", "address"):
            tree = set_at({}, leaf.source.name, leaf.want)
            for source, read in self.readers.get(leaf.source.reads, {}).items():
                yield from ((source, value) for value in read(tree))
            return
        yield leaf.source, leaf.want
        if leaf.source.kind == "value" and leaf.source.reads and leaf.source.reads[0][:2] == HEADERS:
            yield from ((source, leaf.want) for source in self.readers.get(leaf.source.reads, ()) if source.kind == "header")

    def covering(self, entry: Entry) -> Entry | None:
        """The first earlier alternative of another rule that takes all of this one's sessions."""
        found = [
            other
            for other in self.candidates(entry.conjunction)
            if other.rule != entry.rule and _covers(other.conjunction, entry.conjunction)
        ]
        return min(found, key=lambda other: other.position, default=None)
