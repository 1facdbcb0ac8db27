"""The routing of one listener at one revision, compiled: metadata in, `Decision` out.

A table is immutable but for its counters. It follows `apply` jumps (a jump never returns: contract, section 3) and knows, for every
rule, where its route leads, or which error a session gets that hits it: names bind late, so a rule may name a route or a cluster
that is not there. Tables are rebuilt for each revision, of the old one's decisions where those stand; a listener whose part of the
configuration did not change keeps its old one, and with it whatever was memoised on top. Matchers are shared too (`Matchers`).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from carrier.config import draft as config
from carrier.errors import Error
from carrier.rules.inputs import total
from carrier.rules.match import Condition, Conditions, Matcher

if TYPE_CHECKING:
    from carrier.core.cluster import Cluster

NO_RETRY = "never"
ON_SETUP = ("connect-failure", "always")
ON_DISCONNECT = ("disconnect", "always")
JUMPS = 64
"""More jumps than that is a rule list that applies itself; one such is found when configured, this bound is for the rest."""


MAX_RETRIES = 1_000_000
MAX_TIMEOUT = 86_400_000
"""Milliseconds: a day."""


class Retry:
    """A route's retry policy (contract, section 4). timeout: seconds, between attempts and for each to connect."""

    __slots__ = ("attempts", "num_retries", "on_disconnect", "on_setup", "timeout")

    def __init__(self, retry: Mapping[str, Any], default_timeout: float) -> None:
        on = retry.get("retry_on", NO_RETRY)
        self.num_retries = int(_number(retry.get("num_retries"), MAX_RETRIES, 1))
        self.on_setup = on in ON_SETUP
        self.on_disconnect = on in ON_DISCONNECT
        self.attempts = 1 + (self.num_retries if self.on_setup else 0)
        self.timeout = (_number(retry.get("timeout"), MAX_TIMEOUT, 0) / 1000) or default_timeout


def _retry(conf: Mapping[str, Any]) -> Retry:
    """The policy of a route; routes that say the same share one."""
    on = conf.get("retry_on", NO_RETRY)
    number, timeout = _number(conf.get("num_retries"), MAX_RETRIES, 1), _number(conf.get("timeout"), MAX_TIMEOUT, 0)
    return _shared_retry(on if isinstance(on, str) else NO_RETRY, number, timeout)


@functools.lru_cache(256)
def _shared_retry(on: str, number: float, timeout: float) -> Retry:
    return Retry({"retry_on": on, "num_retries": number, "timeout": timeout}, DEFAULT_CONNECT_TIMEOUT)


def _number(value: object, most: int, default: int) -> int | float:
    """A number from 0 to `most`, or the default: l7mp's calls accept any value here, and no clock takes infinity."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        return default
    return min(value, most)


class Hits:
    """How often a rule decided, and when it last did (seconds of the monotonic clock); kept across revisions by the rule's name."""

    __slots__ = ("count", "last")

    def __init__(self) -> None:
        self.count = 0
        self.last = 0.0


class Decision:
    """What one rule means: rewrites and the resolved route, or the error of a session that hits it.

    `plain`: no transforms and no reconnect, so that a ready destination may be linked at once. `made_of`: the rule as it was configured;
    `conf`: its route; `asked`: its condition, or why it has none. `missing`: the route names a cluster that is not there, which may be
    added while a session retries.
    """

    __slots__ = (
        "asked",
        "cluster",
        "conf",
        "egress",
        "error",
        "fallback",
        "hits",
        "ingress",
        "jump",
        "made_of",
        "missing",
        "options",
        "plain",
        "retry",
        "rewrite",
        "route",
        "rule",
        "rulelist",
        "said",
        "statuses",
        "tally",
    )

    def __init__(self, rule: str, rulelist: str, hits: Hits, asked: Condition | str = "") -> None:
        self.rule = rule
        self.rulelist = rulelist
        self.hits = hits
        self.asked = asked
        self.made_of: config.Rule | None = None
        self.tally: Any = None
        """Where its sessions are counted (carrier/observe/meter.py)."""
        self.said = ""
        """The reason, once somebody has asked for it."""
        self.rewrite: tuple[config.Rewrite, ...] = ()
        self.jump: str | None = None
        self.route = ""
        self.cluster: Cluster | None = None
        self.ingress: tuple[Cluster, ...] = ()
        self.egress: tuple[Cluster, ...] = ()
        self.fallback: Cluster | None = None
        self.retry: Retry = NEVER
        self.options: Mapping[str, Any] = {}
        self.statuses: frozenset[int] = frozenset()
        """Statuses of answers after which a request is asked again (`options.retry_statuses`)."""
        self.error: Error | None = None
        self.plain = False
        self.missing = False
        self.conf: config.Route | None = None

    @property
    def reason(self) -> str:
        """Why this decision, in the matcher's words: what explain, the access log, session events and headers all print."""
        if not self.said:
            asked = self.asked if isinstance(self.asked, str) else self.asked.text
            self.said = f"rule {self.rule}: {asked}" if asked else f"rule {self.rule}"
        return self.said

    def stands(self, conf: config.Config, clusters: Mapping[str, Cluster]) -> bool:
        """Would the same be decided of this rule now?"""
        rule = conf.rules.get(self.rule)
        if rule is not self.made_of and not same(rule, self.made_of):
            return False
        if rule is None or rule.action.apply is not None or rule.action.route is None:
            return True
        route = conf.routes.get(rule.action.route)
        if route is not self.conf and not same(route, self.conf):
            return False
        if route is None:
            return True
        return (
            clusters.get(route.destination) is self.cluster
            and (route.fallback is None or clusters.get(route.fallback) is self.fallback)
            and (not route.ingress or _found(route.ingress, clusters) == self.ingress)
            and (not route.egress or _found(route.egress, clusters) == self.egress)
        )

    def again(self, clusters: Mapping[str, Cluster]) -> Decision:
        """The same decision with the names of its route looked up once more."""
        if self.conf is None:
            return self
        found = Decision(self.rule, self.rulelist, self.hits, self.asked)
        found.made_of, found.rewrite, found.route = self.made_of, self.rewrite, self.route
        _resolve(found, self.conf, clusters)
        return found


NEVER = Retry({}, 3.0)
DEFAULT_CONNECT_TIMEOUT = 3.0


class Matchers:
    """Compiled rule lists by name, shared between revisions: an unchanged list is not compiled again."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[object, Matcher]] = {}
        self.conditions = Conditions()

    def get(self, conf: config.Config, name: str) -> Matcher:
        rulelist = conf.rulelists[name]
        rules = tuple(conf.rules.get(rule) for rule in rulelist.rules)
        key = (rulelist, rules)
        known = self.known.get(name)
        if known is not None and same(known[0], key):
            return known[1]
        # A dangling name that is met before a match fails the session: it compiles to a rule that takes everything.
        matches = [(n, rule.match if rule else None) for n, rule in zip(rulelist.rules, rules, strict=True)]
        matcher = Matcher(matches, rulelist.order, self.conditions)
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
        self.revision = conf.revision
        self.rulelist = rulelist
        self.lists: dict[str, tuple[Matcher, list[Decision]]] = {}
        before = old.lists if old is not None else {}
        waiting = [rulelist]
        while waiting:
            name = waiting.pop()
            if name in self.lists or name not in conf.rulelists:
                continue
            matcher = matchers.get(conf, name)
            known = {decision.rule: decision for decision in before[name][1]} if name in before else {}
            decisions = []
            for index, rule in enumerate(conf.rulelists[name].rules):
                decision = known.get(rule)
                if decision is None or not decision.stands(conf, clusters):
                    if rule not in hits:
                        hits[rule] = Hits()
                    decision = Decision(rule, name, hits[rule], matcher.conditions[index] or f"never matches: {matcher.reasons[index]}")
                    _decide(decision, conf, clusters)
                decisions.append(decision)
                if decision.jump is not None:
                    waiting.append(decision.jump)
            self.lists[name] = matcher, decisions
        self.reaches = self._reaches()
        """Every cluster that a session may come to."""
        self.needs = total(matcher.needs for matcher, _ in self.lists.values())
        self.start = self.lists.get(rulelist)

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
        decision.error = Error("no-route", "Invalid route for session")
        return
    decision.route = rule.action.route
    route = conf.routes.get(rule.action.route)
    if route is None:
        decision.error = Error("no-route", f'Cannot find Route "{rule.action.route}" for session')
        return
    _resolve(decision, route, clusters)


def _found(names: tuple[str, ...], clusters: Mapping[str, Cluster]) -> tuple[Cluster, ...]:
    return tuple([clusters[name] for name in names if name in clusters])


def _resolve(decision: Decision, route: config.Route, clusters: Mapping[str, Cluster]) -> None:
    decision.conf = route
    decision.cluster = clusters.get(route.destination)
    decision.ingress = _found(route.ingress, clusters)
    decision.egress = _found(route.egress, clusters)
    missing = next((name for name in (route.destination, *route.ingress, *route.egress) if name not in clusters), None)
    if missing is not None:
        detail = f'Pipeline setup failed for session "{{session}}": Not Found: Cannot find cluster "{missing}"'
        decision.error = Error("no-route", detail)
        decision.missing = True
    if route.fallback is not None:
        decision.fallback = clusters.get(route.fallback)
    decision.options = route.options
    statuses = route.options.get("retry_statuses")
    if isinstance(statuses, list):
        decision.statuses = frozenset(s for s in statuses if isinstance(s, int))
    decision.retry = _retry(route.retry)
    decision.plain = decision.error is None and not decision.ingress and not decision.egress and not decision.retry.on_disconnect


def same(a: object, b: object) -> bool:
    """Deep equality of configuration values that keeps 1, 1.0 and true apart, as JSON does and Python's `==` does not."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        assert isinstance(b, dict)
        return len(a) == len(b) and all(key in b and same(value, b[key]) for key, value in a.items())
    if isinstance(a, (list, tuple)):
        assert isinstance(b, (list, tuple))
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, msgspec.Struct):
        return all(same(getattr(a, field), getattr(b, field)) for field in a.__struct_fields__)
    return bool(a == b)
