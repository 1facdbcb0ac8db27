"""A match, compiled: a small tree of conditions that says whether a session satisfies it, what it looks at, and itself in words.

A `Leaf` reads one input and checks its values; it holds when one of them satisfies it. A `Group` is all, any or none of its parts. A
`Condition` is the whole tree, taken apart into alternatives (ANDs), each with the equality or prefix that an index finds it by. Nothing
here raises, whatever the metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Literal

from carrier.errors import shown as shown_value
from carrier.redact import ALWAYS, REDACTED, Hidden
from carrier.rules.checks import ASKS, Check, checker, compile_regex, hashable, is_number, searcher
from carrier.rules.inputs import HEADERS, METHOD, NORMAL, OF_BYTES, Reader, Source, headers_of, joined, members, needs_of, reader, total

MAX_REGEX_MEMBERS = 64  # members of one header tried by one regular expression; more than that, only the whole value counts
HASHED = frozenset({str, int, float})  # types of values that an index has as keys

Held = Callable[[object], bool]


class Leaf:
    """One condition: a source, an operator, the value wanted, and whether case is ignored.

    What follows from those is made when it is first asked for: the index answers for most conditions of most rules, and 1,000 of them
    are to be small.
    """

    __slots__ = ("_check", "_held", "_key", "_shown", "fold", "op", "source", "want")

    def __init__(self, source: Source, op: str, want: object = None, fold: bool = False, shown: str | None = None) -> None:
        self.source = source
        self.op = op
        self.want = want
        self.fold = fold
        self._shown = shown
        self._check: Check | None = None
        self._held: Held | None = None
        self._key: object = None

    @property
    def read(self) -> Reader:
        """The values that the condition looks at."""
        return reader(self.source)

    @property
    def check(self) -> Check:
        """Whether one value satisfies it."""
        if self._check is None:
            if self.op == "matches" and self.source.kind in OF_BYTES:
                self._check = searcher(compile_regex(str(self.want), self.fold), of_bytes=True)
            else:
                self._check = checker(self.op, self.want, self.fold)
        return self._check

    @property
    def held(self) -> Held:
        """Whether a session satisfies it."""
        if self._held is None:
            self._held = self._make()
        return self._held

    @property
    def key(self) -> object:
        """Equal for conditions that are the same."""
        if self._key is None:
            self._key = (self.source, self.op, hashable(self.want), self.fold)
        return self._key

    @property
    def shown(self) -> str:
        """What is wanted, for people."""
        return self._shown if self._shown is not None else shown_value(self.want, 200)

    @property
    def absent(self) -> bool:
        """It holds where there is no value."""
        return self.op == "undefined" or (self.op == "type" and self.want == "undefined")

    def _make(self) -> Held:
        read, check, want = self.read, self.check, self.want
        if self.absent:
            return lambda meta: not read(meta)
        if self.source.kind == "header" and isinstance(want, str) and not self.fold and self.op in ("test", "starts"):
            return _header_held(self.source.name, want, check)
        if self.op == "matches":
            return lambda meta: any(map(check, islice(read(meta), MAX_REGEX_MEMBERS + 1)))

        return lambda meta: any(map(check, read(meta)))

    @property
    def text(self) -> str:
        """In words: `header x-user is "john"`. What is secret in any case is not shown."""
        return self.words(ALWAYS)

    def words(self, hidden: Hidden) -> str:
        """The same, without what is hidden."""
        shown = REDACTED if self.source.is_hidden(hidden) else self.shown
        wanted = "" if self.op in ("defined", "undefined") else f" {shown}"
        return f"{self.source} {ASKS[self.op]}{wanted}" + (" (in any case)" if self.fold else "")


def _header_held(name: str, want: str, check: Check) -> Held:
    """The common header conditions. The list is only taken apart when what is wanted is somewhere in it."""

    def held(meta: object) -> bool:
        value = joined(headers_of(meta).get(name))
        if value is None:
            return False
        return check(value) or ("," in value and want in value and any(map(check, members(value))))

    return held


class Group:
    """Conditions taken together: all of them, any of them, or none of them."""

    __slots__ = ("_held", "_key", "op", "parts")

    def __init__(self, op: Literal["all", "any", "none"], parts: Sequence[Node]) -> None:
        self.op = op
        self.parts = tuple(parts)
        self._held: Held | None = None
        self._key: object = None

    @property
    def held(self) -> Held:
        """Whether a session satisfies them."""
        if self._held is None:
            self._held = self._make()
        return self._held

    @property
    def key(self) -> object:
        """Equal for groups that are the same, in whatever order."""
        if self._key is None:
            self._key = (self.op, frozenset(part.key for part in self.parts))
        return self._key

    def _make(self) -> Held:
        tests = tuple(part.held for part in self.parts)
        if self.op == "all" and len(tests) == 2:  # by far the most usual, and a generator costs more than both tests
            one, two = tests
            return lambda meta: one(meta) and two(meta)
        if self.op == "all":
            return lambda meta: all(test(meta) for test in tests)
        if self.op == "any":
            return lambda meta: any(test(meta) for test in tests)
        return lambda meta: not any(test(meta) for test in tests)

    @property
    def text(self) -> str:
        """In words, with parentheses where they are needed."""
        return self.words(ALWAYS)

    def words(self, hidden: Hidden) -> str:
        """The same, without what is hidden."""
        if not self.parts:
            return "nothing" if self.op == "any" else "anything"
        said = [(part, part.words(hidden)) for part in self.parts]
        if self.op == "none":
            return "not (" + " or ".join(text for _, text in said) + ")"
        texts = [f"({text})" if isinstance(part, Group) and part.op != "none" else text for part, text in said]
        return (" and " if self.op == "all" else " or ").join(texts)


Node = Leaf | Group
Conjunction = tuple[Node, ...]


def all_of(parts: Iterable[Node]) -> Node:
    """An AND, flat: conditions that are ANDs themselves give their parts."""
    flat: list[Node] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, Group) and part.op == "all" else (part,))
    return flat[0] if len(flat) == 1 else Group("all", flat)


def any_of(parts: Sequence[Node]) -> Node:
    """An OR; one part stays itself."""
    return parts[0] if len(parts) == 1 else Group("any", parts)


def _alternatives(node: Node) -> list[Conjunction]:
    """The ORs at the top of a condition taken apart: a list of ANDs. ORs below an AND stay as they are, so nothing multiplies."""
    if isinstance(node, Group) and node.op == "any":
        return [conjunction for part in node.parts for conjunction in _alternatives(part)]
    if isinstance(node, Group) and node.op == "all":
        return [node.parts]
    return [(node,)]


def _leaves(node: Node) -> Iterator[Leaf]:
    if isinstance(node, Leaf):
        yield node
    else:
        for part in node.parts:
            yield from _leaves(part)


class Condition:
    """A compiled match. `holds(meta)` decides; `text` says it in words; `needs` says what it looks at."""

    __slots__ = ("_ways", "needs", "node")

    def __init__(self, node: Node) -> None:
        self.node = node
        found = total(needs_of(path) for leaf in _leaves(node) for path in leaf.source.reads)
        self.needs = found | NORMAL if any(leaf.source.kind == "path" for leaf in _leaves(node)) else found
        self._ways: tuple[Way, ...] | None = None

    @property
    def holds(self) -> Held:
        """Whether a session satisfies it."""
        return self.node.held

    @property
    def leaves(self) -> Iterator[Leaf]:
        """All conditions that it is made of."""
        return _leaves(self.node)

    @property
    def alternatives(self) -> list[Conjunction]:
        """The condition as an OR of ANDs."""
        return _alternatives(self.node)

    @property
    def key(self) -> object:
        """Equal for conditions that are the same."""
        return frozenset(frozenset(part.key for part in conjunction) for conjunction in self.alternatives)

    @property
    def ways(self) -> tuple[Way, ...]:
        """For each alternative: itself, the condition that it is found by, and the others. Made when first asked for, then kept: a rule
        list of which one rule changes is indexed anew as a whole."""
        if self._ways is None:
            self._ways = tuple(map(_way, self.alternatives))
        return self._ways

    @property
    def text(self) -> str:
        """In words."""
        return self.node.text

    def words(self, hidden: Hidden) -> str:
        """The same, without what is hidden."""
        return self.node.words(hidden)

    @property
    def always(self) -> bool:
        """It holds for every session."""
        return any(not conjunction for conjunction in self.alternatives)


# What an index finds an alternative by.


def pivot_of(conjunction: Conjunction) -> Leaf | None:
    """The condition that an alternative is found by: an equality on a header before other equalities, those before prefixes; an
    equality on the method only if there is nothing better, as half of all requests have the same."""
    found = min(pivots_of(conjunction), key=lambda pivot: pivot[0], default=None)
    return found and found[1]


def pivots_of(conjunction: Conjunction) -> Iterator[tuple[int, Leaf]]:
    """All conditions that it could be found by, each with its rank: the lowest is the best."""
    for leaf in conjunction:
        if not isinstance(leaf, Leaf) or leaf.fold:
            continue
        if leaf.op == "test" and (isinstance(leaf.want, str) or is_number(leaf.want)) and leaf.source.reads:
            is_header = leaf.source.reads[0][:2] == HEADERS and len(leaf.source.reads[0]) == 3
            yield 0 if is_header else 3 if leaf.source.reads == (METHOD,) else 1, leaf
        elif leaf.op == "starts" and leaf.source.reads:
            yield 2, leaf


Way = tuple[Conjunction, Leaf | None, Held | None]


def _way(conjunction: Conjunction) -> Way:
    pivot = pivot_of(conjunction)
    others = [part for part in conjunction if part is not pivot]
    return conjunction, pivot, all_of(others).held if others else None
