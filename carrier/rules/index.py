"""What finds the first alternative of a rule list that holds, without looking at all of them.

Each alternative hangs on one of its conditions in a table: an equality or a prefix (`pivots_of`, condition.py), or whatever else a
table can have: one of several values, values in any case, ends, networks, host names with those below, regular expressions. Those of one
input share a table, which is asked once: networks by their length, expressions by one automaton (`re2.Set`) that says which of a
thousand are found. Who asks only that something does not hold hangs on that, the other way round. What hangs nowhere is tried in order.
An answer is the position of the earliest alternative, whatever found it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from carrier.core.slices import Steps, whole
from carrier.rules.condition import HASHED, Conjunction, Held, Leaf, Way, all_of, pivots_of
from carrier.rules.inputs import HEADERS, PAIRS, Pairs, Reader, Source, headers_of, whole_and_members
from carrier.rules.operators import Hit, Item, Part, Table, Unless, earliest, handles_of, lengths_of, opposites_of

FEW = 4
"""Inputs of a family that are asked one by one: to find out which of them there are would cost more."""


class Index:
    """The alternatives of a rule list. `first` gives the position of the first that holds, `end` when none does."""

    def __init__(self, ways: Sequence[Way]) -> None:
        whole(self._make(ways))

    @classmethod
    def making(cls, ways: Sequence[Way]) -> Steps[Index]:
        """The same in slices."""
        made = cls.__new__(cls)
        yield from made._make(ways)
        return made

    def _make(self, ways: Sequence[Way]) -> Steps[None]:
        self.end = len(ways)
        self.by_header: dict[str, list[tuple[Table, bool]]] = {}
        self.more: list[Item] = []
        self.rest: list[Hit] = []
        equal: dict[Source, Table] = {}
        starts: dict[Source, Table] = {}
        parts: dict[tuple[type[Part], Source, bool], Part] = {}
        negated: dict[tuple[type[Part], Source, bool], Unless] = {}
        readers: dict[Source, Reader] = {}
        shared: Counter[object] = Counter()
        for position, (conjunction, pivot, _) in enumerate(ways):
            if len(conjunction) > 1 and len(choices := _choices(conjunction, pivot)) > 1:
                shared.update(leaf.key for _, leaf in choices)
            if not position % STEP:
                yield
        for position, way in enumerate(ways):
            if not position % STEP:
                yield
            hang, held = _hung(way, shared)
            if hang is None:
                opposite = next(opposites_of(way[0]), None)
                if opposite is None:
                    self.rest.append((position, held))
                    continue
                of, leaf, others = opposite
                unless = negated.setdefault((of, leaf.source, leaf.fold), Unless(of(leaf)))
                unless.add(leaf, position, all_of(others).held if others else None)
                continue
            kind, leaf = hang
            if kind is None:
                readers[leaf.source] = leaf.read
                table = (equal if leaf.op == "test" else starts).setdefault(leaf.source, {})
                table.setdefault(leaf.want, []).append((position, held))
                continue
            key = kind, leaf.source, leaf.fold
            if key not in parts:
                parts[key] = kind(leaf)
            parts[key].add(leaf, position, held)
        plain: list[tuple[Source, Item]] = []
        for source, table in equal.items():
            path = source.reads[0]
            if source.kind in ("header", "value") and path[:2] == HEADERS and len(path) == 3:
                self.by_header.setdefault(path[2], []).append((table, source.kind == "header"))
            else:
                plain.append((source, Equal(readers[source], table)))
        plain += [(source, Starting(readers[source], table)) for source, table in starts.items()]
        for (_, source, _), part in parts.items():
            part.close()
            plain.append((source, part))
        for unless in negated.values():
            unless.close()
        self.more = [*_gated(plain), *negated.values()]  # those hold where there is no input: no gate may stand before them

    def first(self, meta: object) -> int:
        """Never raises."""
        best = self.end
        by_header = self.by_header
        if by_header:
            headers = headers_of(meta)
            # Whichever is shorter: the names that rules ask for, or those that the request has.
            for name in by_header if len(by_header) <= len(headers) else [n for n in headers if n in by_header]:
                value = headers.get(name)
                if value is not None:
                    best = self._by_value(by_header[name], value, best, meta)
        for item in self.more:
            best = item.first(meta, best)
        return earliest(self.rest, best, meta)

    @staticmethod
    def _by_value(tables: Sequence[tuple[Table, bool]], value: object, best: int, meta: object) -> int:
        for table, members in tables:
            if isinstance(value, str):
                hits = table.get(value)
                if hits is not None:
                    best = earliest(hits, best, meta)
                if not members or "," not in value:
                    continue
            for one in whole_and_members(value) if members else (value,):
                if one.__class__ in HASHED and one in table:
                    best = earliest(table[one], best, meta)
        return best


Hang = tuple[type[Part] | None, Leaf]
"""A condition that an alternative hangs on; no part: it is an equality or a prefix."""


def _hung(way: Way, shared: Counter[object]) -> tuple[Hang | None, Held | None]:
    """What an alternative hangs on, and what else must hold. Of several conditions it is the one that fewest others have too (shared: how
    many): a thousand rules for one host and a path each are found by their paths."""
    conjunction, pivot, held = way
    choices = _choices(conjunction, pivot)
    if not choices:
        return None, held
    hang = min(choices, key=lambda choice: shared[choice[1].key]) if len(choices) > 1 else choices[0]
    if hang[1] is not pivot:
        others = [node for node in conjunction if node is not hang[1]]
        held = all_of(others).held if others else None
    return hang, held


def _choices(conjunction: Conjunction, pivot: Leaf | None) -> list[Hang]:
    """What an alternative can hang on, the best first: the method last, as half of all requests have the same."""
    if len(conjunction) == 1 and pivot is not None:
        return [(None, pivot)]
    pivots = sorted(pivots_of(conjunction), key=lambda pivot: pivot[0])
    found: list[Hang] = [(None, leaf) for rank, leaf in pivots if rank < 3]
    return [*found, *handles_of(conjunction), *((None, leaf) for rank, leaf in pivots if rank == 3)]


STEP = 64
"""Alternatives that are looked at before the event loop may go on, where it may."""


class Equal(Item):
    """Values that are equal to what is wanted."""

    __slots__ = ("read", "table")

    def __init__(self, read: Reader, table: Table) -> None:
        self.read = read
        self.table = table

    def first(self, meta: object, best: int) -> int:
        for value in self.read(meta):
            if value.__class__ in HASHED and value in self.table:
                best = earliest(self.table[value], best, meta)
        return best


class Starting(Item):
    """Texts that begin with what is wanted."""

    __slots__ = ("lengths", "read", "table")

    def __init__(self, read: Reader, table: Table) -> None:
        self.read = read
        self.lengths = lengths_of(table)
        self.table = table

    def first(self, meta: object, best: int) -> int:
        for value in self.read(meta):
            if isinstance(value, str):
                for length in self.lengths:
                    hits = self.table.get(value[:length])
                    if hits is not None:
                        best = earliest(hits, best, meta)
        return best


class Gate(Item):
    """Items of many inputs of one family, of which only those are asked that a session has. present: the names that it has."""

    __slots__ = ("items", "present")

    def __init__(self, present: Callable[[object], Iterable[str]]) -> None:
        self.present = present
        self.items: dict[str, list[Item]] = {}

    def first(self, meta: object, best: int) -> int:
        for name in self.present(meta):
            for item in self.items.get(name, ()):
                best = item.first(meta, best)
        return best


class Paths(Item):
    """The same for metadata paths: a tree of their pieces, walked beside the metadata."""

    __slots__ = ("items", "pieces")

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.pieces: dict[str, Paths] = {}

    def add(self, path: Sequence[str], item: Item) -> None:
        if path:
            self.pieces.setdefault(path[0], Paths()).add(path[1:], item)
        else:
            self.items.append(item)

    def first(self, meta: object, best: int) -> int:
        for item in self.reached(meta):
            best = item.first(meta, best)
        return best

    def reached(self, here: object) -> Iterator[Item]:
        yield from self.items
        if isinstance(here, dict):
            for piece in self.pieces if len(self.pieces) <= len(here) else [piece for piece in here if piece in self.pieces]:
                if piece in here:
                    yield from self.pieces[piece].reached(here[piece])
        elif isinstance(here, list | tuple):  # places in it are asked one by one
            yield from self.below()

    def below(self) -> Iterator[Item]:
        for child in self.pieces.values():
            yield from child.items
            yield from child.below()


def _gated(plain: Sequence[tuple[Source, Item]]) -> Iterator[Item]:
    """The items, those of a family of many inputs behind one gate."""
    families: dict[str, list[tuple[Source, Item]]] = {}
    for source, item in plain:
        is_header = source.kind == "header" or (source.kind == "value" and source.reads[0][:2] == HEADERS and len(source.reads[0]) == 3)
        families.setdefault("header" if is_header else source.kind, []).append((source, item))
    for family, listed in families.items():
        names = {source for source, _ in listed}
        if len(names) < FEW or family not in ("header", "value", *PAIRS):
            yield from (item for _, item in listed)
        elif family == "value":
            paths = Paths()
            for source, item in listed:
                paths.add(source.reads[0], item)
            yield paths
        else:
            gate = Gate(headers_of if family == "header" else _names_in(PAIRS[family]))
            for source, item in listed:
                name = source.reads[0][2] if family == "header" else source.name
                gate.items.setdefault(name, []).append(item)
            yield gate


def _names_in(pairs: Pairs) -> Callable[[object], Iterable[str]]:
    return lambda meta: {name for name, _ in pairs(meta)}
