"""What a rule decided for a session: rewrites and the resolved route with its retry policy, or the error of who hits it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from carrier.core.metadata import rewrite_at
from carrier.errors import Error, Problem, did_you_mean, shown
from carrier.model import same
from carrier.redact import ALWAYS, Hidden
from carrier.wire import grpc

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.parts import Cluster


NAMED = [name.lower().replace("_", "-") for name in grpc.NAMES[1:]]
"""Statuses of gRPC, as `options.retry_statuses` has them."""
NO_RETRY = "never"
ON_SETUP = ("connect-failure", "always")
ON_DISCONNECT = ("disconnect", "always")
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


DEFAULT_CONNECT_TIMEOUT = 3.0
NEVER = Retry({}, DEFAULT_CONNECT_TIMEOUT)


class Hits:
    """How often a rule decided, and when it last did (seconds of the monotonic clock); kept across revisions by the rule's name."""

    __slots__ = ("count", "last")

    def __init__(self) -> None:
        self.count = 0
        self.last = 0.0


class Needs(msgspec.Struct, frozen=True):
    """Which inputs any rule looks at, so that a listener knows what a remembered decision depends on.

    headers: lower-case names, None for all of them. method; url: the request target (and host). peer: anything below IP, TCP, UDP,
    UNIX or TLS. path: the normal form of the target's path. other: anything else, also the HTTP version: such decisions must not be
    remembered by head.
    """

    headers: frozenset[str] | None = frozenset()
    method: bool = False
    url: bool = False
    peer: bool = False
    other: bool = False
    path: bool = False

    def __or__(self, more: Needs) -> Needs:
        if self in (NOTHING, more):  # a thousand rules on one header share what they need
            return more
        headers = None if self.headers is None or more.headers is None else self.headers | more.headers
        return Needs(
            headers,
            self.method or more.method,
            self.url or more.url,
            self.peer or more.peer,
            self.other or more.other,
            self.path or more.path,
        )


NOTHING = Needs()


class Asked(Protocol):
    """A condition, as far as it is spoken of."""

    @property
    def text(self) -> str: ...

    def words(self, hidden: Hidden) -> str: ...


class Table(Protocol):
    """Who decides the sessions of a listener."""

    @property
    def needs(self) -> Needs:
        """What its decisions depend on."""

    @property
    def reaches(self) -> frozenset[Any]:
        """Every cluster that a session may come to."""

    @property
    def otherwise(self) -> Cluster | None:
        """The cluster of the last rule: who serves those whom no other rule takes."""

    def decide(self, meta: Mapping[str, Any]) -> Decision: ...

    def place(self, address: str) -> object | None:
        """What its rules can tell of a client at this address, equal for those whom they cannot tell apart; None: they look at more of a
        connection than that."""


class Decision:
    """What one rule means: rewrites and the resolved route, or the error of a session that hits it.

    `plain`: no transforms and no reconnect, so that a ready destination may be linked at once. `made_of`: the rule as it was configured;
    `conf`: its route; `asked`: its condition, or why it has none. `missing`: the route names a cluster that is not there, which may be
    added while a session retries.
    """

    __slots__ = (
        "asked",
        "calls",
        "cluster",
        "conf",
        "egress",
        "error",
        "fallback",
        "hits",
        "ingress",
        "jump",
        "label",
        "lane",
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
        "veiled",
    )

    def __init__(self, rule: str, rulelist: str, hits: Hits, asked: Asked | str = "") -> None:
        self.rule = rule
        self.rulelist = rulelist
        self.hits = hits
        self.asked = asked
        self.label = f"rule {rule}"
        """What people call the rule."""
        self.made_of: config.Rule | None = None
        self.tally: Any = None
        """Where its sessions are counted (carrier/observe/meter.py)."""
        self.veiled: tuple[Hidden, str] | None = None
        """The reason without what a process hides beside what is secret in any case."""
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
        self.statuses: frozenset[int | str] = frozenset()
        """Statuses of answers after which a request is asked again (`options.retry_statuses`): numbers of HTTP, names of gRPC."""
        self.calls: frozenset[int | str] = frozenset()
        """Those of them that are names."""
        self.error: Error | None = None
        self.plain = False
        self.lane: Cluster | None = None
        """Its cluster, if nothing else is needed than a destination of it that is ready (carrier/core/reuse.py)."""
        self.missing = False
        self.conf: config.Route | None = None

    def words(self, hidden: Hidden) -> str:
        """The reason, without what is hidden."""
        if hidden is ALWAYS or isinstance(self.asked, str):
            return self.reason
        if self.veiled is None or self.veiled[0] != hidden:
            asked = self.asked.words(hidden)
            self.veiled = hidden, f"{self.label}: {asked}" if asked else self.label
        return self.veiled[1]

    def called(self, label: str) -> None:
        """What people call the rule, which may be its place in a list that has changed."""
        if label != self.label:
            self.label, self.said, self.veiled = label, "", None

    @property
    def called_so(self) -> str:
        """The rule's name, or its place if nobody has named it."""
        return self.rule if self.label == f"rule {self.rule}" else self.label

    @property
    def reason(self) -> str:
        """Why this decision, in the matcher's words: what explain, the access log, session events and headers all print."""
        if not self.said:
            asked = self.asked if isinstance(self.asked, str) else self.asked.text
            self.said = f"{self.label}: {asked}" if asked else self.label
        return self.said

    def rewritten(self, meta: dict[str, Any]) -> dict[str, Any]:
        """A session's metadata as it is shown once it is routed so."""
        found: Any = meta
        for rewrite in self.rewrite:
            found = rewrite_at(found, rewrite.path, rewrite.value)
        if not isinstance(found, dict):  # "/" was rewritten to something that is no tree
            return {"name": meta["name"], "value": found}
        return found

    def still_holds(self, conf: config.Config, clusters: Mapping[str, Cluster]) -> bool:
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
        found.made_of, found.rewrite, found.route, found.label = self.made_of, self.rewrite, self.route, self.label
        _resolve(found, self.conf, clusters)
        return found


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
        decision.statuses = frozenset(s for s in map(retried, statuses) if s is not None)
        decision.calls = frozenset(s for s in decision.statuses if isinstance(s, str))
    decision.retry = _retry(route.retry)
    decision.plain = decision.error is None and not decision.ingress and not decision.egress and not decision.retry.on_disconnect
    if decision.plain and not decision.statuses and decision.cluster is not None and not decision.cluster.virtual:
        decision.lane = decision.cluster


def retried(status: object) -> int | str | None:
    """A status of `options.retry_statuses`: a number of HTTP's, or the name of one of gRPC's, as `resource-exhausted` in any spelling.
    None: it is none that may be asked again."""
    if isinstance(status, str):
        name = status.upper().replace("-", "_")
        return name if name in grpc.NAMES[1:] else None
    return status if isinstance(status, int) and not isinstance(status, bool) and 100 <= status <= 599 else None


def check_statuses(options: Mapping[str, Any], path: str) -> list[Problem]:
    """What is wrong with the `retry_statuses` of a route's options."""
    statuses = options.get("retry_statuses", [])
    if isinstance(statuses, list) and all(retried(status) is not None for status in statuses):
        return []
    wrong = [s for s in statuses if retried(s) is None] if isinstance(statuses, list) else []
    hint = did_you_mean(str(wrong[0]), NAMED) if wrong else ""
    allowed = "[502, 503, unavailable]: 100 to 599, and " + ", ".join(NAMED)
    return [
        Problem("expected a list of statuses of HTTP and gRPC", f"{path}.retry_statuses", seen=shown(statuses), allowed=allowed, hint=hint)
    ]


class Fixed:
    """A table of one decision, whoever comes: all sessions go one way, or all are refused."""

    def __init__(self, decision: Decision) -> None:
        self.decision = decision
        self.needs = NOTHING
        self.reaches = frozenset({decision.cluster} - {None})
        self.otherwise = decision.cluster

    def decide(self, meta: Mapping[str, Any]) -> Decision:
        """The one."""
        return self.decision

    def place(self, address: str) -> object | None:
        """They are all the same to it."""
        return ()


def stands(before: Decision, now: Decision | None) -> bool:
    """Is the rule that decided as it was, and does it lead where it did? now: what it decides by now; None: it is gone."""
    return now is not None and (
        (now.made_of is before.made_of or same(now.made_of, before.made_of))
        and now.cluster is before.cluster
        and now.fallback is before.fallback
        and (now.ingress, now.egress) == (before.ingress, before.egress)
    )
