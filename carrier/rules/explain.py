"""Why does a session go where it goes? One answer, computed by the matcher and the tables that route.

`explain(table, metadata)` gives, for a session that did not happen, every rule in order with each condition met or not, the value seen and
the value wanted, near misses in plain words, rules that can never fire, the endpoint that would be chosen and why, and the fallback
that would serve. Nothing is changed by asking: balancing is asked on a copy. `imagine` makes the metadata of a session from what a
person says about it (method, path, headers, addresses, SNI); `offline` makes the tables of a configuration that does not run.
`render` writes the answer for a person, `answer_fields` writes that of a real session as header fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import msgspec

from carrier.core.balance import KEYED
from carrier.core.metadata import get_at
from carrier.rules.condition import Group, Node
from carrier.rules.match import RuleReport
from carrier.rules.near import ConditionReport, reports
from carrier.rules.table import JUMPS, Table

if TYPE_CHECKING:
    from carrier.core.cluster import Cluster
    from carrier.core.decision import Decision
    from carrier.core.endpoint import Endpoint
    from carrier.errors import Error
    from carrier.redact import Hidden


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """One rule list that was asked. jump: the list that the chosen rule leads to instead of a route."""

    rulelist: str
    rules: tuple[RuleReport, ...]
    jump: str = ""


class Choice(msgspec.Struct, frozen=True, omit_defaults=True):
    """A cluster, and the endpoint of it that would be chosen; none when chance decides, or when there is none. down: addresses."""

    cluster: str
    protocol: str
    endpoint: str = ""
    address: str = ""
    why: str = ""
    down: tuple[str, ...] = ()


class Failure(msgspec.Struct, frozen=True):
    """What a session would hear that has nowhere to go. status: as HTTP says it."""

    kind: str
    status: int
    detail: str


class Explanation(msgspec.Struct, frozen=True, omit_defaults=True):
    """The whole answer. why: the reason, the one that access log, session events and headers print of such a session. fallback_when: in
    words; serves: "fallback" when the destination would not even be tried. assumed: what nobody said about the session."""

    listener: str
    revision: int
    session: dict[str, Any]
    steps: tuple[Step, ...]
    rule: str
    rulelist: str
    why: str
    route: str = ""
    destination: Choice | None = None
    serves: str = "destination"
    fallback: Choice | None = None
    fallback_when: str = ""
    retry: str = ""
    through: tuple[str, ...] = ()
    rewrites: tuple[tuple[str, Any], ...] = ()
    failure: Failure | None = None
    assumed: tuple[str, ...] = ()


# --- asking ------------------------------------------------------------------------------------------------------------------------------


def explain(
    listener: str, table: Table, metadata: Mapping[str, Any], assumed: Sequence[str] = (), refused: Error | None = None
) -> Explanation:
    """Why a session with this metadata would go where it would, by this listener's table. refused: why no rule would be asked. Changes
    nothing, never raises."""
    if refused is not None:
        return Explanation(
            listener=listener,
            revision=table.revision,
            session=dict(metadata),
            steps=(),
            rule="",
            rulelist=table.rulelist,
            why=refused.detail,
            serves="nobody",
            failure=Failure(refused.kind, refused.status, refused.detail),
            assumed=tuple(assumed),
        )
    decision = table.decide(metadata)
    destination = choice(cast("Cluster", decision.cluster), metadata) if decision.cluster is not None else None
    fallback = choice(cast("Cluster", decision.fallback), metadata) if decision.fallback is not None else None
    at_once = decision.cluster is not None and decision.cluster.down and fallback is not None
    return Explanation(
        listener=listener,
        revision=table.revision,
        session=dict(metadata),
        steps=tuple(_steps(table, metadata)),
        rule=decision.rule,
        rulelist=decision.rulelist,
        why=decision.reason,
        route=decision.route,
        destination=destination,
        serves="nobody" if decision.error is not None else "fallback" if at_once else "destination",
        fallback=fallback,
        fallback_when=_when(decision, at_once),
        retry=_retry(decision),
        through=tuple(cluster.name for cluster in (*decision.ingress, *decision.egress)),
        rewrites=tuple((rewrite.path, rewrite.value) for rewrite in decision.rewrite),
        failure=_failure(decision),
        assumed=tuple(assumed),
    )


def _steps(table: Table, metadata: Mapping[str, Any]) -> Iterator[Step]:
    """The rule lists in the order they are asked."""
    found, name = table.start, table.rulelist
    for _ in range(JUMPS):
        if found is None:
            return
        matcher, decisions = found
        reports = tuple(matcher.explain(metadata))
        chosen = next((report.index for report in reports if report.chosen), None)
        jump = decisions[chosen].jump or "" if chosen is not None else ""
        yield Step(name, reports, jump)
        if not jump:
            return
        found, name = table.lists.get(jump), jump


def missed(table: object, rule: str, metadata: Mapping[str, Any], hidden: Hidden) -> str:
    """Why this one rule did not decide a session of this listener: the conditions that do not hold and how near they came. Nothing is
    said of other rules, but that one of them was before it."""
    for matcher, decisions in table.lists.values() if isinstance(table, Table) else ():
        for condition, decision in zip(matcher.conditions, decisions, strict=True):
            if decision.rule != rule or condition is None:
                continue
            if condition.holds(metadata):
                return "it would take this request; a rule before it did"
            node = condition.node
            parts = node.parts if isinstance(node, Group) and node.op == "all" else (node,)
            told = zip(parts, reports(condition, metadata), strict=True)
            return "; ".join(_unmet(part, report, hidden) for part, report in told if not report.held)
    return "it is not in force"


def _unmet(node: Node, report: ConditionReport, hidden: Hidden) -> str:
    return f"{node.words(hidden)}: does not hold" + (f", {report.near}" if report.near else "")


def _when(decision: Decision, at_once: bool) -> str:
    if decision.fallback is None or decision.cluster is None:
        return ""
    name = decision.cluster.name
    if at_once:
        return f"now: every endpoint of {name} is down"
    return f"when {name} refuses or cannot be reached before anything was sent to it"


def _retry(decision: Decision) -> str:
    retry = decision.retry
    said = []
    if retry.on_setup:
        said.append(f"connecting is tried {retry.attempts} times, {retry.timeout:g} s apart")
    if retry.on_disconnect:
        said.append(f"a lost destination is connected again, {max(1, retry.num_retries)} times")
    if decision.statuses:
        said.append(f"answers {', '.join(map(str, sorted(decision.statuses)))} are asked again elsewhere")
    return "; ".join(said)


def _failure(decision: Decision) -> Failure | None:
    error = decision.error
    return Failure(error.kind, error.status, error.detail.replace(' for session "{session}"', "")) if error is not None else None


# --- the endpoint ------------------------------------------------------------------------------------------------------------------------


def choice(cluster: Cluster, metadata: Mapping[str, Any]) -> Choice:
    """The endpoint that a session with this metadata would get, and why; nobody's turn is used up."""
    protocol = str(cluster.spec.get("protocol", ""))
    if cluster.virtual:
        return Choice(cluster.name, protocol, why="played here: it has no endpoints")
    down = tuple(endpoint.address for endpoint in cluster.endpoints if not endpoint.up)
    found, why = _choose(cluster, metadata)
    if found is None:
        return Choice(cluster.name, protocol, why=why, down=down)
    state = "" if found.up else ", though it is down: no other is left"
    return Choice(cluster.name, protocol, found.name, found.address, why + state, down)


def _choose(cluster: Cluster, metadata: Mapping[str, Any]) -> tuple[Endpoint | None, str]:
    if cluster.only is not None:
        return cluster.only, "its only endpoint"
    left = cluster.selectable
    usable = [endpoint for endpoint in left if endpoint.up and endpoint.weight > 0] or left
    policy = cluster.balancer.policy
    if not usable or policy == "None":
        return None, "it has no endpoint that may be chosen"
    if len(usable) == 1:
        return usable[0], f"the only one of {len(cluster.endpoints)} that is up and not drained"
    value = get_at(metadata, cluster.key) if cluster.key and cluster.policy in KEYED else None
    key = None if value is None else str(value)
    names = ", ".join(endpoint.address for endpoint in usable)
    if policy == "random" or (policy == "HashRing" and key is None):
        missing = f", because {cluster.key} is not there" if policy == "HashRing" and cluster.key else ""
        return None, f"by chance among {names}{missing}"
    if policy == "least_sessions":
        least = min((endpoint.active + 1) / (endpoint.weight or 1e-9) for endpoint in usable)
        ties = [endpoint for endpoint in usable if (endpoint.active + 1) / (endpoint.weight or 1e-9) == least]
        if len(ties) > 1:
            return None, f"by chance among {', '.join(endpoint.address for endpoint in ties)}, which have the fewest sessions"
        return ties[0], f"the fewest sessions ({ties[0].active}) of {names}"
    found = cluster.balancer.peek(cluster.selectable, key) if policy == "round_robin" else cluster.balancer.choose(cluster.selectable, key)
    reasons = {
        "HashRing": f"by the hash of {cluster.key} ({key})",
        "round_robin": f"its turn among {names}",
        "Trivial": "the first that is up",
    }
    return found, reasons.get(policy, f"by {policy}")


# --- a session that did not happen -------------------------------------------------------------------------------------------------------


# --- showing -----------------------------------------------------------------------------------------------------------------------------
