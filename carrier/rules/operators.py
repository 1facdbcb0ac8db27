"""What an index asks of one input at once, for all the alternatives that hang on one operator of it.

A `Part` has a table from what is wanted to the alternatives that want it, and knows where in it a value's are. `handles_of` says on which
of its conditions an alternative can hang beside equalities and prefixes.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, islice, takewhile
from typing import Any, cast

from carrier.core.metadata import readable
from carrier.rules.checks import Net, is_number, regex_set
from carrier.rules.condition import HASHED, MAX_REGEX_MEMBERS, Conjunction, Group, Held, Leaf
from carrier.rules.inputs import OF_BYTES

Hit = tuple[int, Held | None]
"""A position, and what else must hold."""
Table = dict[object, list[Hit]]
ALONE = 2
"""Expressions of one input that share an automaton."""


def earliest(hits: Iterable[Hit], best: int, meta: object) -> int:
    """The first position before `best` whose rest holds; `best` if there is none."""
    for position, held in hits:
        if position >= best:
            return best
        if held is None or held(meta):
            return position
    return best


def lengths_of(table: Table) -> tuple[int, ...]:
    return tuple(sorted({len(cast(str, want)) for want in table}))


class Item:
    """What asks one input, or several: `first` gives the earliest position before `best`, or `best`."""

    __slots__ = ()

    def first(self, meta: object, best: int) -> int:
        raise NotImplementedError


class Part(Item):
    """The alternatives that hang on one operator of one input. Made of the first of its conditions; `close` when all have been added."""

    def __init__(self, leaf: Leaf) -> None:
        self.read = leaf.read
        self.source = leaf.source
        self.fold = leaf.fold
        self.table: Table = {}

    def add(self, leaf: Leaf, position: int, others: Held | None) -> None:
        """Alternatives come in their order."""
        for key in self.keys(leaf):
            self.table.setdefault(key, []).append((position, others))

    def keys(self, leaf: Leaf) -> Iterable[object]:
        """What the condition hangs on."""
        raise NotImplementedError

    def close(self) -> None: ...

    def hits(self, value: object) -> Iterator[Sequence[Hit]]:
        """Those whose condition is satisfied by the value."""
        raise NotImplementedError

    def first(self, meta: object, best: int) -> int:
        """The earliest position before `best`, as `earliest`."""
        for value in self.read(meta):
            for hits in self.hits(value):
                best = earliest(hits, best, meta)
        return best

    # for `Unless`

    def values(self, meta: object) -> Iterable[object]:
        """Those of which one must satisfy a condition."""
        return self.read(meta)

    def marks(self, value: object) -> Iterable[int]:
        """Numbers that stand for the conditions that the value satisfies, the same ones each time."""
        return [id(hits) for hits in self.hits(value)]

    def positions(self, marks: Iterable[int]) -> set[int]:
        """The positions of the conditions that these stand for."""
        known = {id(hits): hits for hits in self.table.values()}
        return {position for mark in marks for position, _ in known[mark]}


class Unless(Item):
    """Alternatives that hang on a condition of which the opposite is asked: for most sessions the first of them is right, and what a part
    says of the session tells which are not."""

    MOST = 1024
    """Answers that are kept."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.listed: list[Hit] = []
        self.known: dict[tuple[int, ...], list[Hit]] = {}
        """What a part has said -> alternatives that may be right, up to the first that is, whatever else holds."""

    def add(self, leaf: Leaf, position: int, others: Held | None) -> None:
        """Alternatives come in their order."""
        self.part.add(leaf, position, None)
        self.listed.append((position, others))

    def close(self) -> None:
        self.part.close()

    def first(self, meta: object, best: int) -> int:
        if self.listed[0][0] >= best:
            return best
        part = self.part
        marks = tuple([mark for value in part.values(meta) for mark in part.marks(value)])
        hits = self.known.get(marks)
        if hits is None:
            wrong = part.positions(marks)
            right = [hit for hit in self.listed if hit[0] not in wrong]
            conditional = list(takewhile(lambda hit: hit[1] is not None, right))
            hits = right[: len(conditional) + 1]
            if len(self.known) < self.MOST:
                self.known[marks] = hits
        return earliest(hits, best, meta)


class Among(Part):
    """Equal to one of several values, or to one value in any case."""

    @staticmethod
    def takes(leaf: Leaf) -> bool:
        if leaf.op == "in" and isinstance(leaf.want, list):
            return all(isinstance(item, str) or is_number(item) for item in leaf.want)
        return leaf.op == "test" and isinstance(leaf.want, str)

    def keys(self, leaf: Leaf) -> Iterable[object]:
        wanted = cast("list[Any]", leaf.want) if leaf.op == "in" else [leaf.want]
        return dict.fromkeys(item.lower() if self.fold and isinstance(item, str) else item for item in wanted)

    def hits(self, value: object) -> Iterator[Sequence[Hit]]:
        if value.__class__ in HASHED:
            key = value.lower() if self.fold and isinstance(value, str) else value
            if key in self.table:
                yield self.table[key]


class Ends(Part):
    """Text that begins or ends with another, the first in any case only: other prefixes are pivots."""

    def __init__(self, leaf: Leaf) -> None:
        super().__init__(leaf)
        self.lengths: tuple[int, ...] = ()

    @staticmethod
    def takes(leaf: Leaf) -> bool:
        return leaf.op == "ends" and isinstance(leaf.want, str)

    def keys(self, leaf: Leaf) -> Iterable[object]:
        return [str(leaf.want).lower() if self.fold else str(leaf.want)]

    def close(self) -> None:
        self.lengths = lengths_of(self.table)

    def hits(self, value: object) -> Iterator[Sequence[Hit]]:
        if isinstance(value, str):
            text = value.lower() if self.fold else value
            for length in self.lengths:
                hits = self.table.get(self.piece(text, length))
                if hits is not None:
                    yield hits

    @staticmethod
    def piece(text: str, length: int) -> str:
        return text[-length:] if length else ""


class Begins(Ends):
    """The same for prefixes in any case."""

    @staticmethod
    def takes(leaf: Leaf) -> bool:
        return leaf.op == "starts" and isinstance(leaf.want, str)

    @staticmethod
    def piece(text: str, length: int) -> str:
        return text[:length]


class Below(Part):
    """Host names that are, or are below, another."""

    @staticmethod
    def takes(leaf: Leaf) -> bool:
        return leaf.op == "suffix" and isinstance(leaf.want, str) and len(leaf.want) > 1

    def keys(self, leaf: Leaf) -> Iterable[object]:
        return [leaf.want]

    def hits(self, value: object) -> Iterator[Sequence[Hit]]:
        if not isinstance(value, str):
            return
        table = self.table
        if value in table and value[:1] != ".":
            yield table[value]
        at = value.find(".")
        while at >= 0:
            for name in (value[at:], value[at + 1 :]) if at else (value[1:],):
                if name in table:
                    yield table[name]
            at = value.find(".", at + 1)


class Within(Part):
    """Addresses of networks: a table of those of each length, as routers have it."""

    def __init__(self, leaf: Leaf) -> None:
        super().__init__(leaf)
        self.masks: dict[int, tuple[int, ...]] = {}

    @staticmethod
    def takes(leaf: Leaf) -> bool:
        return leaf.op == "within"

    def keys(self, leaf: Leaf) -> Iterable[object]:
        nets = cast("tuple[Net, ...]", leaf.want)
        return dict.fromkeys((version, (last - low).bit_length(), low >> (last - low).bit_length()) for version, low, last in nets)

    def close(self) -> None:
        keys = cast("Iterable[tuple[int, int, int]]", self.table)
        for version, shift in sorted({(version, shift) for version, shift, _ in keys}):
            self.masks[version] = (*self.masks.get(version, ()), shift)

    def hits(self, value: object) -> Iterator[Sequence[Hit]]:
        if isinstance(value, tuple):
            version, number = value
            for shift in self.masks.get(version, ()):
                hits = self.table.get((version, shift, number >> shift))
                if hits is not None:
                    yield hits


class Members(Part):
    """Lists that have what is wanted, or one of several, among their members."""

    @staticmethod
    def takes(leaf: Leaf) -> bool:
        wanted = leaf.want if leaf.op == "intersects" else [leaf.want]
        return (
            leaf.op in ("contained", "intersects") and isinstance(wanted, list) and all(isinstance(w, str) or is_number(w) for w in wanted)
        )

    def keys(self, leaf: Leaf) -> Iterable[object]:
        wanted = cast("list[Any]", leaf.want) if leaf.op == "intersects" else [leaf.want]
        return dict.fromkeys(item.lower() if self.fold and isinstance(item, str) else item for item in wanted)

    def hits(self, value: object) -> Iterator[Sequence[Hit]]:
        for item in value if isinstance(value, list) else ():
            if item.__class__ in HASHED:
                hits = self.table.get(item.lower() if self.fold and isinstance(item, str) else item)
                if hits is not None:
                    yield hits


class Present(Part):
    """Whatever is there."""

    @staticmethod
    def takes(leaf: Leaf) -> bool:
        return leaf.op == "defined"

    def keys(self, leaf: Leaf) -> Iterable[object]:
        return [None]

    def hits(self, value: object) -> Iterator[Sequence[Hit]]:
        return iter([self.table[None]])


class Bounded(Part):
    """Numbers below or above others: sorted, and the earliest position from each on."""

    def __init__(self, leaf: Leaf) -> None:
        super().__init__(leaf)
        self.below = leaf.op == "less"
        self.limits: list[tuple[float, int]] = []
        self.soonest: list[int] = []
        self.conditional: list[Hit] = []

    @staticmethod
    def takes(leaf: Leaf) -> bool:
        return leaf.op == "less" and is_number(leaf.want)

    def add(self, leaf: Leaf, position: int, others: Held | None) -> None:
        if others is None:
            self.limits.append((cast(float, leaf.want), position))
        else:
            self.conditional.append((position, _both(leaf.held, others)))

    def close(self) -> None:
        self.limits.sort(reverse=not self.below)
        positions = [position for _, position in self.limits]
        self.soonest = list(accumulate(reversed(positions), min))[::-1]

    def first(self, meta: object, best: int) -> int:
        for value in self.read(meta):
            if is_number(value):
                at = self.after(cast(float, value))
                if at < len(self.soonest):
                    best = min(best, self.soonest[at])
        return earliest(self.conditional, best, meta)

    def after(self, value: float) -> int:
        """How many limits, in their order, the value is not within."""
        return bisect_right(self.limits, value, key=lambda limit: limit[0])

    def marks(self, value: object) -> Iterable[int]:
        return [self.after(cast(float, value))] if is_number(value) else ()

    def positions(self, marks: Iterable[int]) -> set[int]:
        return {position for _, position in self.limits[min(marks, default=len(self.limits)) :]}


class Above(Bounded):
    """The same for numbers above others."""

    @staticmethod
    def takes(leaf: Leaf) -> bool:
        return leaf.op == "more" and is_number(leaf.want)

    def after(self, value: float) -> int:
        return bisect_right(self.limits, -value, key=lambda limit: -limit[0])


class Searched(Part):
    """Regular expressions: one automaton says which are found.

    Its first expression is always found: an automaton that runs out of memory finds none, not even that, and then all are tried.
    """

    def __init__(self, leaf: Leaf) -> None:
        super().__init__(leaf)
        self.patterns: dict[str, int] = {"": 0}
        self.listed: list[list[Hit]] = [[]]
        self.tried: list[Hit] = []
        self.leaves = [leaf]
        """A condition for each expression but the first, whose place nobody asks for."""
        self.match: Callable[[bytes], list[int]] | None = None
        self.of_bytes = leaf.source.kind in OF_BYTES

    @staticmethod
    def takes(leaf: Leaf) -> bool:
        return leaf.op == "matches" and isinstance(leaf.want, str)

    def add(self, leaf: Leaf, position: int, others: Held | None) -> None:
        number = self.patterns.setdefault(str(leaf.want), len(self.patterns))
        if number == len(self.listed):
            self.listed.append([])
            self.leaves.append(leaf)
        self.listed[number].append((position, others))
        self.tried.append((position, leaf.held if others is None else _both(leaf.held, others)))

    def close(self) -> None:
        if len(self.tried) >= ALONE:
            self.match = regex_set(list(self.patterns), self.fold)

    def first(self, meta: object, best: int) -> int:
        if self.match is None:
            return earliest(self.tried, best, meta)
        for value in islice(self.read(meta), MAX_REGEX_MEMBERS + 1):
            if isinstance(value, str):
                text = (readable(value) if self.of_bytes else value).encode("utf-8", "replace")
                found = self.match(text)
                if 0 not in found:
                    return earliest(self.tried, best, meta)
                for number in found:
                    best = earliest(self.listed[number], best, meta)
        return best

    def values(self, meta: object) -> Iterable[object]:
        return islice(self.read(meta), MAX_REGEX_MEMBERS + 1)

    def text(self, value: str) -> str:
        """What of a value the automaton looks at."""
        return readable(value) if self.of_bytes else value

    def marks(self, value: object) -> Iterable[int]:
        if self.match is not None and isinstance(value, str):
            found = self.match(self.text(value).encode("utf-8", "replace"))
            if 0 in found:
                return sorted(found)
        return [number for number, leaf in enumerate(self.leaves) if number and leaf.check(value)]

    def positions(self, marks: Iterable[int]) -> set[int]:
        return {position for mark in marks for position, _ in self.listed[mark]}


class Containing(Searched):
    """Texts in which another is found: each is an expression that means itself. In any case: both in lower case, as `contains` has it."""

    @staticmethod
    def takes(leaf: Leaf) -> bool:
        return leaf.op == "contains" and isinstance(leaf.want, str)

    def add(self, leaf: Leaf, position: int, others: Held | None) -> None:
        held = leaf.held if others is None else _both(leaf.held, others)
        wanted = str(leaf.want).lower() if self.fold else str(leaf.want)
        number = self.patterns.setdefault(re.escape(wanted), len(self.patterns))
        if number == len(self.listed):
            self.listed.append([])
            self.leaves.append(leaf)
        self.listed[number].append((position, held))
        self.tried.append((position, held))

    def close(self) -> None:
        if len(self.tried) >= ALONE:
            self.match = regex_set(list(self.patterns))

    def first(self, meta: object, best: int) -> int:
        values = self.read(meta)
        if self.match is None or not all(isinstance(value, str) for value in values):
            return earliest(self.tried, best, meta)
        for value in values:
            text = str(value).lower() if self.fold else str(value)
            found = self.match(text.encode("utf-8", "replace"))
            if 0 not in found:
                return earliest(self.tried, best, meta)
            for number in found:
                best = earliest(self.listed[number], best, meta)
        return best

    def values(self, meta: object) -> Iterable[object]:
        return self.read(meta)

    def text(self, value: str) -> str:
        return value.lower() if self.fold else value


def _both(one: Held, two: Held) -> Held:
    return lambda meta: one(meta) and two(meta)


PARTS: tuple[Any, ...] = (Within, Below, Among, Begins, Ends, Members, Searched, Containing, Bounded, Above, Present)
"""In the order in which a condition is preferred to hang an alternative on."""


def handles_of(conjunction: Conjunction) -> Iterator[tuple[type[Part], Leaf]]:
    """What an alternative can hang on beside equalities and prefixes, the best first."""
    for kind in PARTS:
        for node in conjunction:
            if isinstance(node, Leaf) and node.source.reads and not node.absent and kind.takes(node):
                yield kind, node


def opposites_of(conjunction: Conjunction) -> Iterator[tuple[type[Part], Leaf, Conjunction]]:
    """What must not hold that an alternative can hang on where there is nothing else, with what is left to be asked."""
    for node in conjunction:
        if not isinstance(node, Group) or node.op != "none":
            continue
        others = tuple(other for other in conjunction if other is not node)
        for kind in PARTS:
            for part in node.parts:
                if isinstance(part, Leaf) and part.source.reads and not part.absent and kind.takes(part):
                    left = tuple(one for one in node.parts if one is not part)
                    yield kind, part, (*others, Group("none", left)) if left else others
