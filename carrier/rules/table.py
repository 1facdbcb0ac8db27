"""The routing of one listener at one revision, compiled: metadata in, `Decision` out.

A table is immutable but for its counters. It follows `apply` jumps (a jump never returns: contract, section 3) and knows, for every
rule, where its route leads, or which error a session gets that hits it: names bind late, so a rule may name a route or a cluster
that is not there. Tables are rebuilt for each revision, of the old one's decisions where those stand; a listener whose part of the
configuration did not change keeps its old one, and with it whatever was memoised on top. Matchers are shared too (`Matchers`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from carrier.core.decision import Decision, Hits, _resolve
from carrier.core.labels import of_rule
from carrier.core.slices import Steps, whole
from carrier.errors import Error
from carrier.model import same
from carrier.rules.inputs import total
from carrier.rules.match import Conditions, Matcher
from carrier.rules.places import networks_of

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.cluster import Cluster

JUMPS = 64
"""More jumps than that is a rule list that applies itself; one such is found when configured, this bound is for the rest."""


class Matchers:
    """Compiled rule lists by name, shared between revisions: an unchanged list is not compiled again."""

    def __init__(self, conditions: Conditions | None = None) -> None:
        self.known: dict[str, tuple[object, Matcher]] = {}
        self.conditions = conditions if conditions is not None else Conditions()

    def get(self, conf: config.Config, name: str) -> Matcher:
        return whole(self.getting(conf, name))

    def getting(self, conf: config.Config, name: str) -> Steps[Matcher]:
        """The same in slices."""
        rulelist = conf.rulelists[name]
        rules = tuple(conf.rules.get(rule) for rule in rulelist.rules)
        key = (rulelist, rules)
        known = self.known.get(name)
        if known is not None and same(known[0], key):
            return known[1]
        # A dangling name that is met before a match fails the session: it compiles to a rule that takes everything.
        matches = [(n, rule.match if rule else None) for n, rule in zip(rulelist.rules, rules, strict=True)]
        matcher = yield from Matcher.making(matches, rulelist.order, self.conditions)
        self.known[name] = (key, matcher)
        return matcher

    def forget_all_but(self, conf: config.Config) -> None:
        for name in [name for name in self.known if name not in conf.rulelists]:
            del self.known[name]
        self.conditions.forget_all_but(conf.rules)


class Table:
    """Decides the sessions of one listener. old: the listener's table so far, whose decisions are taken over where they stand."""

    def __init__(
        self,
        conf: config.Config,
        rulelist: str,
        clusters: Mapping[str, Cluster],
        matchers: Matchers,
        hits: dict[str, Hits],
        old: Table | None = None,
    ) -> None:
        whole(self._make(conf, rulelist, clusters, matchers, hits, old))

    @classmethod
    def making(cls, *parts: Any) -> Steps[Table]:
        """The same in slices: a list may have thousands of rules."""
        table = cls.__new__(cls)
        yield from table._make(*parts)
        return table

    def _make(
        self,
        conf: config.Config,
        rulelist: str,
        clusters: Mapping[str, Cluster],
        matchers: Matchers,
        hits: dict[str, Hits],
        old: Table | None = None,
    ) -> Steps[None]:
        self.revision = conf.revision
        self.rulelist = rulelist
        self.lists: dict[str, tuple[Matcher, list[Decision]]] = {}
        before = old.lists if old is not None else {}
        waiting = [rulelist]
        while waiting:
            name = waiting.pop()
            if name in self.lists or name not in conf.rulelists:
                continue
            matcher = yield from matchers.getting(conf, name)
            known = {decision.rule: decision for decision in before[name][1]} if name in before else {}
            decisions = []
            for index, rule in enumerate(conf.rulelists[name].rules):
                decision = known.get(rule)
                if decision is None or not decision.still_holds(conf, clusters):
                    if rule not in hits:
                        hits[rule] = Hits()
                    decision = Decision(rule, name, hits[rule], matcher.conditions[index] or f"never matches: {matcher.reasons[index]}")
                    _decide(decision, conf, clusters)
                label = of_rule(rule, name, index)
                decision.called(label if label != rule else f"rule {rule}")
                decisions.append(decision)
                if decision.jump is not None:
                    waiting.append(decision.jump)
                yield
            self.lists[name] = matcher, decisions
        self.reaches = self._reaches()
        """Every cluster that a session may come to."""
        self.needs = total(matcher.needs for matcher, _ in self.lists.values())
        self.start = self.lists.get(rulelist)
        self.otherwise = self.start[1][-1].cluster if self.start is not None and self.start[1] else None
        self._networks = networks_of(matcher for matcher, _ in self.lists.values())

    def place(self, address: str) -> object | None:
        """See `core.decision.Table`: the networks that a client's address is in."""
        if self._networks is None:
            return None
        return self._networks.around(address)

    def equals(self, other: Table) -> bool:
        """Both decide alike: the same decisions in the same lists."""
        return self.rulelist == other.rulelist and self.lists == other.lists  # neither matchers nor decisions are equal but to themselves

    def _reaches(self) -> frozenset[Cluster]:
        decisions = [decision for _, listed in self.lists.values() for decision in listed]
        ways = {cluster for d in decisions if d.ingress or d.egress for cluster in (*d.ingress, *d.egress)}
        return frozenset({d.cluster for d in decisions} | {d.fallback for d in decisions} | ways) - {None}  # type: ignore[return-value]

    def decide(self, meta: Mapping[str, Any]) -> Decision:
        """The decision for a session with this metadata; one whose `error` is set when there is no way to go. Never raises."""
        try:
            return self._walk(meta)
        except Exception as exc:  # a rule that cannot be evaluated fails this session, not the listener
            return _failure(self.rulelist, Error("internal", f"the rules of {self.rulelist!r} failed: {type(exc).__name__}: {exc}"))

    def _walk(self, meta: Mapping[str, Any]) -> Decision:
        found = self.start
        name = self.rulelist
        for _ in range(JUMPS):
            if found is None:
                return _failure(name, Error("no-route", f'Cannot find RuleList "{name}"'))
            matcher, decisions = found
            i = matcher.first(meta)
            if i is None:
                return _failure(name, Error("no-route", 'No route for session "{session}"'))
            decision = decisions[i]
            if decision.jump is None:
                return decision
            name = decision.jump
            found = self.lists.get(name)
        return _failure(name, Error("no-route", f'RuleList "{self.rulelist}" applies itself'))


def _failure(rulelist: str, error: Error) -> Decision:
    decision = Decision("", rulelist, Hits())
    decision.said = error.detail if error.kind != "no-route" or "{" not in error.detail else f"no rule of {rulelist} matched"
    decision.error = error
    return decision


def _decide(decision: Decision, conf: config.Config, clusters: Mapping[str, Cluster]) -> None:
    """Fill in where the decision of one rule leads."""
    decision.made_of = rule = conf.rules.get(decision.rule)
    if rule is None:
        decision.error = Error("no-route", f'Cannot find named rule "{decision.rule}" in RuleList "{decision.rulelist}"')
        return
    if rule.action.apply is not None:  # a jump: rewrite and route of the same action are ignored (contract, section 3)
        decision.jump = rule.action.apply
        return
    decision.rewrite = rule.action.rewrite
    if rule.action.route is None:
        decision.error = Error("no-route", 'Invalid route for session "{session}"')
        return
    decision.route = rule.action.route
    route = conf.routes.get(rule.action.route)
    if route is None:
        decision.error = Error("no-route", f'Cannot find Route "{rule.action.route}" for session "{{session}}"')
        return
    _resolve(decision, route, clusters)
