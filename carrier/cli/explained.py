"""The report of `explain` as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from carrier.core.metadata import readable

if TYPE_CHECKING:
    from carrier.rules.explain import Choice, Explanation
    from carrier.rules.match import RuleReport
    from carrier.rules.near import ConditionReport


def render(found: Explanation, utf8: bool = True) -> str:
    """The answer for a person."""
    return "\n".join([*_heading(found), *_shown_steps(found, _MARKS[utf8]), *_outcome(found)]) + "\n"


_MARKS = {True: ("✓", "✗", "→"), False: ("+", "-", ">")}


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
    if found.assumed:
        yield f"(assumed: {'; '.join(found.assumed)})"


def _shown_steps(found: Explanation, marks: tuple[str, str, str]) -> Iterator[str]:
    for step in found.steps:
        yield ""
        yield f"rule list {step.rulelist}" + ("" if step.rules else ": no rules")
        decided = False
        for report in step.rules:
            decided = decided or report.chosen
            yield from _shown_rule(report, decided, marks)


def _shown_rule(report: RuleReport, decided: bool, marks: tuple[str, str, str]) -> Iterator[str]:
    yes, no, arrow = marks
    if report.chosen:
        verdict = "takes it" if report.conditions else "takes it, as it takes everything"
    elif report.matched:
        verdict = "would match, but an earlier rule takes it" if decided else "matches, but another is more specific"
    else:
        verdict = "does not match"
    yield f"  {arrow if report.chosen else ' '} {report.rule}: {verdict}"
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
    return f"cluster {found.cluster} ({found.protocol}){at}: {found.why}{down}"
