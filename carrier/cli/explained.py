"""The report of `explain` as text for a terminal."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

from carrier.core.labels import is_implicit, of_rule
from carrier.core.metadata import readable
from carrier.wire.grpc import call_of, is_type

if TYPE_CHECKING:
    from carrier.rules.explain import Choice, Explanation
    from carrier.rules.match import RuleReport
    from carrier.rules.near import ConditionReport


NEAREST = 3
"""Rules that do not match and are shown one by one; of the others is told what they look at."""


def render(found: Explanation, utf8: bool = True, wanted: Callable[[str], bool] | None = None) -> str:
    """The answer for a person. wanted: which rules are asked about, by name: those are all shown, and of the others only the one that takes
    the session. None: all are, the nearest misses first, equal ones together."""
    return "\n".join([*_heading(found), *_shown_steps(found, _MARKS[utf8], wanted), *_outcome(found)]) + "\n"


_MARKS = {True: ("✓", "✗", "→"), False: ("+", "-", ">")}


def _labels(found: Explanation) -> dict[str, str]:
    """Rules that nobody named, as `carrier status` calls them."""
    listed = [(step.rulelist, report) for step in found.steps for report in step.rules]
    return {report.rule: of_rule(report.rule, rulelist, report.index) for rulelist, report in listed if is_implicit(report.rule)}


def _heading(found: Explanation) -> Iterator[str]:
    http = found.session.get("HTTP")
    told = []
    if isinstance(http, Mapping) and isinstance(http.get("url"), Mapping):
        told.append(f"{http.get('method')} {http['url'].get('path')}")
        told += [f"{name}: {readable(str(value))}" for name, value in (http.get("headers") or {}).items() if name != "host"]
    ip, tls = found.session.get("IP"), found.session.get("TLS")
    if isinstance(ip, Mapping) and not any("comes from" in text for text in found.assumed):
        told.append(f"from {ip.get('src_addr')}")
    if isinstance(tls, Mapping) and tls.get("sni"):
        told.append(f"server name {tls['sni']}")
    yield f"{'  '.join(told) or 'a session'}  to listener {found.listener}, revision {found.revision}"
    if isinstance(http, Mapping) and (called := _called(http)):
        yield f"(a call of gRPC: service {called[0]}, method {called[1]})"
    if found.assumed:
        yield f"(assumed: {'; '.join(found.assumed)})"


def _called(http: Mapping[str, Any]) -> tuple[str, str] | None:
    """Service and method, if a request is a call of gRPC."""
    kind, url = (http.get("headers") or {}).get("content-type"), http.get("url")
    if http.get("method") != "POST" or not isinstance(kind, str) or not is_type(kind.encode()) or not isinstance(url, Mapping):
        return None
    return call_of(str(url.get("path")).encode("latin-1", "replace"))


def _shown_steps(found: Explanation, marks: tuple[str, str, str], wanted: Callable[[str], bool] | None) -> Iterator[str]:
    named = _labels(found)
    for step in found.steps:
        yield ""
        yield f"rule list {step.rulelist}" + ("" if step.rules else ": no rules")
        if wanted is None:
            misses = [report for report in step.rules if not report.matched and not report.note]
            near = sorted(misses, key=_distance)[:NEAREST] if len(misses) > NEAREST + 1 else misses
            yield from _shown_rules(near if len(near) < len(misses) else (), marks, named)
            yield from _shown_rules([report for report in step.rules if report not in misses or near == misses], marks, named)
            yield from _rest([report for report in misses if report not in near])
        else:
            yield from _shown_rules([report for report in step.rules if report.chosen or wanted(report.rule)], marks, named)


def _shown_rules(reports: Iterable[RuleReport], marks: tuple[str, str, str], named: Mapping[str, str]) -> Iterator[str]:
    decided = False
    for report in reports:
        decided = decided or report.chosen
        yield from _shown_rule(report, decided, marks, named)


def _distance(report: RuleReport) -> float:
    """How far a rule is from taking the session: the conditions that do not hold, each by how little what was seen is like what was
    wanted."""
    return sum(_missed(condition) for condition in report.conditions)


def _missed(condition: ConditionReport) -> float:
    if condition.held:
        return 0.0
    if condition.parts:
        return min(map(_missed, condition.parts))
    return 2.0 if condition.seen is None else 1.0 - SequenceMatcher(None, condition.seen, condition.wanted).ratio() / 2


def _rest(reports: Sequence[RuleReport]) -> Iterator[str]:
    """What the rules look at that are not shown, and how many they are."""
    kinds = Counter(_looks_at(report) for report in reports)
    for what, number in kinds.most_common():
        yield f"    {number} more rule{'s look' if number > 1 else ' looks'} at {what}, and match no better (--rule NAME shows one)"


def _looks_at(report: RuleReport) -> str:
    """`header x-user` of `header x-user is "john"`: what the first condition asks, without the value it wants."""
    missed = next((condition for condition in report.conditions if not condition.held), None)
    while missed is not None and missed.parts:
        missed = missed.parts[0]
    if missed is None or not missed.wanted:
        return missed.text if missed is not None else "nothing"
    text = missed.text.partition(f" {missed.wanted}")[0]
    return re.sub(r" (is|is one of|starts with|ends with|matches|contains|is within|within)$", "", text)


def _shown_rule(report: RuleReport, decided: bool, marks: tuple[str, str, str], named: Mapping[str, str]) -> Iterator[str]:
    yes, no, arrow = marks
    if report.chosen:
        verdict = "takes it" if report.conditions else "takes it, as it takes everything"
    elif report.matched:
        verdict = "would match, but an earlier rule takes it" if decided else "matches, but another is more specific"
    else:
        verdict = "does not match"
    name = f"{named[report.rule]} ({report.rule})" if report.rule in named else report.rule
    yield f"  {arrow if report.chosen else ' '} {name}: {verdict}"
    if report.note:
        yield f"        ! {report.note}"
    for condition in report.conditions:
        yield from _shown_condition(condition, 6, yes, no)


def _shown_condition(condition: ConditionReport, indent: int, yes: str, no: str) -> Iterator[str]:
    line = f"{' ' * indent}{yes if condition.held else no} {condition.text}"
    if not condition.parts and condition.text not in ("anything", "nothing"):
        seen = f"seen {condition.seen}" if condition.seen is not None else ""
        line += "".join(f"   {text}" for text in (seen if not condition.held or condition.near else "", condition.near) if text)
    yield line
    for part in condition.parts:
        yield from _shown_condition(part, indent + 2, yes, no)


def _outcome(found: Explanation) -> Iterator[str]:
    yield ""
    yield f"why        {found.why}"
    if found.failure is not None:
        yield f"answer     {found.failure.status} ({found.failure.kind}): {found.failure.detail}"
    if found.destination is not None:
        yield f"goes to    {_shown_choice(found.destination)}"
    if found.through:
        yield f"through    {', '.join(found.through)}"
    if found.fallback is not None:
        yield f"fallback   {_shown_choice(found.fallback)}; {found.fallback_when}"
    elif found.destination is not None:
        yield "fallback   none"
    if found.retry:
        yield f"retries    {found.retry}"
    for path, value in found.rewrites:
        yield f"rewrites   {path} to {value!r}"


def _shown_choice(found: Choice) -> str:
    at = f", endpoint {found.address}" if found.address else ""
    down = f"; down: {', '.join(found.down)}" if found.down else ""
    name = "an unnamed cluster" if is_implicit(found.cluster) else f"cluster {found.cluster}"
    return f"{name} ({found.protocol}){at}: {found.why}{down}"
