"""Rules compiled to an index: which rule takes a session, and why.

A match is compiled once into conditions (`notation`, `condition`), which read inputs (`inputs`) and check their values (`checks`). A
`Matcher` writes a rule list as a list of alternatives (an AND of conditions each) and hangs every one on one of its equalities or
prefixes in a hash table, so that finding the first rule costs the same for one rule and for a thousand; alternatives without such a
condition are tried in order. The same conditions answer `explain` (`near`) and find the rules that can never fire (`cover`). Nothing
here does I/O, and no metadata, however odd, makes `first` or `explain` raise.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Literal, cast

import msgspec

from carrier.core.slices import Steps, whole
from carrier.errors import ConfigError
from carrier.rules.condition import Condition, Conjunction, Leaf, Way
from carrier.rules.cover import Entry, Seen, contradicts
from carrier.rules.index import Index
from carrier.rules.inputs import HEADERS, METHOD, RAW_PATH, total
from carrier.rules.near import ConditionReport, reports
from carrier.rules.notation import compile_match

STEP = 64
"""Rules that are looked at before the event loop may go on, where it may."""


class Finding(msgspec.Struct, frozen=True):
    """A rule that is no use. index, rule: which one; other, other_rule: the earlier rule that is the reason, if one is."""

    kind: Literal["invalid", "duplicate", "never-fires"]
    index: int
    rule: str
    text: str
    other: int | None = None
    other_rule: str = ""

    def __str__(self) -> str:
        return self.text


class RuleReport(msgspec.Struct, frozen=True):
    """One rule against one session. chosen: it is the rule that takes the session. note: why it can never match, if so."""

    rule: str
    index: int
    matched: bool
    conditions: tuple[ConditionReport, ...] = ()
    chosen: bool = False
    note: str = ""


class Conditions:
    """Compiled matches by rule name, kept so that a change of one rule of a thousand compiles one.

    A match that is the same object is taken for unchanged: matches are never mutated.
    """

    def __init__(self, fresh: dict[int, tuple[object, Condition]] | None = None) -> None:
        self._known: dict[str, tuple[object, Condition | str]] = {}
        self._fresh = fresh if fresh is not None else {}
        """Matches of rules that are being made, by their identity: they have no names yet."""

    def beside(self) -> Conditions:
        """Those of a configuration that may never be in force: what is compiled for it need not be compiled again if it is."""
        return Conditions(self._fresh)

    def compiling(self, matches: Iterable[object]) -> Steps[None]:
        """Compile these by the strict standard, as far as they can be, before anybody asks for them."""
        for match in matches:
            try:
                self._fresh[id(match)] = match, compile_match(match)
            except ConfigError:
                pass  # who looks at it finds all that is wrong, and says where
            yield

    def compiled(self, match: object) -> bool:
        """Has `compiling` found nothing wrong with it?"""
        return id(match) in self._fresh

    def get(self, name: str, match: object) -> Condition | str:
        """The condition, or why there is none."""
        known = self._known.get(name)
        if known is not None and known[0] is match:
            return known[1]
        made: Condition | str
        fresh = self._fresh.get(id(match))
        try:
            made = fresh[1] if fresh is not None else compile_match(match, strict=False)
        except ConfigError as exc:
            made = "; ".join(f"{p.message}; {p.hint}" if p.hint else p.message for p in exc.problems)
        self._known[name] = match, made
        return made

    def forget_all_but(self, names: Container[str]) -> None:
        """Drop the conditions of rules that are no more."""
        self._fresh.clear()
        for name in [name for name in self._known if name not in names]:
            del self._known[name]


class Matcher:
    """One rule list, compiled. `first` gives the rule that takes a session.

    rules: (name, raw match) pairs. order: "first", the first rule that matches wins; "specific", the Gateway API's precedence (host,
    exact path, longest prefix, method, number of header conditions, of query conditions, then place in the list), which is by
    alternative where a match has several. A match that cannot be compiled never matches and is a finding. conditions: what other matchers
    of these rules have compiled.
    """

    def __init__(
        self,
        rules: Sequence[tuple[str, object]],
        order: Literal["first", "specific"] = "first",
        conditions: Conditions | None = None,
    ) -> None:
        whole(self._make(rules, order, conditions))

    @classmethod
    def making(
        cls, rules: Sequence[tuple[str, object]], order: Literal["first", "specific"], conditions: Conditions | None, index: bool = True
    ) -> Steps[Matcher]:
        """The same in slices. index: it is to be asked for its `first`, and not only for its findings."""
        made = cls.__new__(cls)
        yield from made._make(rules, order, conditions, index)
        return made

    def _make(
        self, rules: Sequence[tuple[str, object]], order: Literal["first", "specific"], conditions: Conditions | None, index: bool = True
    ) -> Steps[None]:
        self.names = tuple(name for name, _ in rules)
        self.conditions: list[Condition | None] = []
        self.reasons: dict[int, str] = {}
        self._findings: tuple[Finding, ...] | None = None
        known = conditions if conditions is not None else Conditions()
        ways: list[tuple[int, Way]] = []
        for number, (name, match) in enumerate(rules):
            found = known.get(name, match)
            if isinstance(found, str):
                self.reasons[number] = found
                self.conditions.append(None)
            else:
                self.conditions.append(found)
                ways += [(number, way) for way in found.ways]
            if not number % STEP:
                yield
        self.needs = total(condition.needs for condition in self.conditions if condition)
        self.order = order
        if order == "specific":
            ways.sort(key=lambda way: _specificity(way[1][0]))  # stable: the place in the list decides last
        self._ways = ways
        """The rules' alternatives in the order in which they are tried, each with the index of its rule."""
        self._rules = [*(rule for rule, _ in ways), None]
        if index:
            self._index = yield from Index.making([way for _, way in ways])

    def first(self, meta: object) -> int | None:
        """The index of the rule that takes a session with this metadata, None when no rule does. Never raises."""
        return self._rules[self._index.first(meta)]

    def text(self, index: int) -> str:
        """A rule's conditions in words: the reason given wherever a decision is shown."""
        condition = self.conditions[index]
        return condition.text if condition else f"never matches: {self.reasons[index]}"

    def explain(self, meta: object) -> list[RuleReport]:
        """Every rule in the order of the list: each condition, held or not, what was seen, what was wanted, how near it came."""
        chosen = self.first(meta)
        told = []
        for index, (name, condition) in enumerate(zip(self.names, self.conditions, strict=True)):
            if condition is None:
                told.append(RuleReport(name, index, False, note=f"never matches: {self.reasons[index]}"))
                continue
            listed = reports(condition, meta)
            matched = all(report.held for report in listed)
            told.append(RuleReport(name, index, matched, listed, index == chosen, self._note(index)))
        return told

    def _note(self, index: int) -> str:
        return next((finding.text for finding in self.findings if finding.index == index), "")

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Rules that are invalid, duplicates of an earlier one, or can never fire; in order. Sound, not complete. Made when first
        asked for, so that a change of the configuration does not wait for it."""
        return whole(self.looking())

    def looking(self) -> Steps[tuple[Finding, ...]]:
        """The same in slices."""
        if self._findings is None:
            found: list[Finding] = []
            for one in self._find():
                if one is None:
                    yield
                else:
                    found.append(one)
            self._findings = tuple(sorted(found, key=lambda finding: finding.index))
        return self._findings

    def _find(self) -> Iterator[Finding | None]:
        """The findings; None where the event loop may go on."""
        for index, reason in self.reasons.items():
            yield Finding("invalid", index, self.names[index], f"rule {self.names[index]!r} never matches: {reason}")
        seen = Seen()
        covers: dict[int, list[Entry | None]] = {}
        for position, (rule, (conjunction, pivot, _)) in enumerate(self._ways):
            if not position % STEP:
                yield None
            entry = Entry(position, rule, conjunction, pivot)
            if not contradicts(conjunction):
                covers.setdefault(rule, []).append(seen.covering(entry))
                seen.add(entry)
        keys: dict[object, int] = {}
        if any(None not in covering for covering in covers.values()):  # what is the same as an earlier rule is covered by it
            for index, condition in enumerate(self.conditions):
                if condition is not None:
                    keys.setdefault(condition.key, index)
                if not index % STEP:
                    yield None
        for index, condition in enumerate(self.conditions):
            if not index % STEP:
                yield None
            if condition is None:
                continue
            covering = covers.get(index, [])
            if not covering:
                why = "two of its conditions exclude each other" if condition.alternatives else "it has no alternatives"
                yield Finding("invalid", index, self.names[index], f"rule {self.names[index]!r} never matches: {why}")
            elif None not in covering:
                same = keys[condition.key]
                if same != index:
                    yield self._finding("duplicate", index, same)
                else:
                    yield self._finding("never-fires", index, cast(Entry, covering[0]).rule)

    def _finding(self, kind: Literal["duplicate", "never-fires"], index: int, other: int) -> Finding:
        name, earlier = self.names[index], self.names[other]
        if kind == "duplicate":
            text = f"rule {name!r} can never fire: rule {earlier!r} has the same conditions ({self.text(other)})"
        else:
            text = f"rule {name!r} ({self.text(index)}) can never fire: rule {earlier!r} ({self.text(other)}) takes all its sessions"
        return Finding(kind, index, name, text, other, earlier)


def _specificity(conjunction: Conjunction) -> tuple[int, ...]:
    """The Gateway API's precedence (HTTPRouteRule) as a sort key: smaller comes first."""
    host = exact = prefix = method = headers = query = 0
    for leaf in conjunction:
        if not isinstance(leaf, Leaf):
            continue
        text = len(leaf.want) if isinstance(leaf.want, str) else 0
        reads = leaf.source.reads[:1]
        if leaf.source.kind == "host":
            host = max(host, text + (1 << 16 if leaf.op == "test" else 0))
        elif leaf.source.kind in ("path", "value") and reads == (RAW_PATH,):
            exact = max(exact, int(leaf.op == "test"))
            prefix = max(prefix, text if leaf.op == "starts" else 0)
        elif reads == (METHOD,):
            method = 1
        elif leaf.source.kind == "query":
            query += 1
        elif reads and reads[0][:2] == HEADERS:
            headers += 1
    return -host, -exact, -prefix, -method, -headers, -query


def conflict(new: tuple[str, object], existing: Sequence[tuple[str, object]]) -> Finding | None:
    """Why a new rule, put after the existing ones, would be of no use: None when it can fire.

    new, existing: (name, match). The finding's index is len(existing), its other the index of the rule that stands in the way.
    Raises ConfigError when the new match cannot be compiled.
    """
    compile_match(new[1], path="match")
    index = len(existing)
    return next((finding for finding in Matcher([*existing, new]).findings if finding.index == index), None)
