"""Bridges that would take each other's requests, or none: found before they are made, in words that name the other one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from carrier.core.slices import Steps
from carrier.errors import Error
from carrier.rules.match import Conditions, Finding, Matcher
from carrier.rules.notation import compile_match

if TYPE_CHECKING:
    from carrier.bridges.asked import Place, Wanted
    from carrier.model import Config, RuleList


def check_conflicts(config: Config, name: str, wanted: Wanted, place: Place, conditions: Conditions) -> Steps[None]:
    """Raise Error("conflict") when the rule could never fire, or would keep another bridge's from ever firing."""
    own = f"bridge/{name}"
    rulelist = place.rulelist
    others = [(rule, config.rules[rule].match if rule in config.rules else None) for rule in rulelist.rules]
    for match in wanted.alternatives:
        found = yield from _finding(others, place.at, (own, match), rulelist, conditions, lambda f: f.index == place.at)
        if found is not None:
            raise Error("conflict", _why(config, name, wanted.user, match, found))
    before = yield from Matcher.making(others, rulelist.order, conditions, index=False)
    dead = {finding.rule for finding in (yield from before.looking())}
    whole_port = wanted.spec.get("type") == "stream"  # it means to take what the shadow got, and nobody's bridge

    def takes(finding: Finding) -> bool:
        theirs = config.rules.get(finding.rule)
        return finding.other == place.at and finding.rule not in dead and not (whole_port and (theirs is None or theirs.bridge is None))

    found = yield from _finding(others, place.at, (own, wanted.match), rulelist, conditions, takes)
    if found is not None:
        text = f"bridge {name!r} of user {wanted.user} would take every request that {_who(config, found.rule)} gets"
        raise Error("conflict", f"{text} ({wanted.condition.text}): make its match narrower")


def _finding(
    others: list[tuple[str, Any]],
    at: int,
    new: tuple[str, Any],
    rulelist: RuleList,
    conditions: Conditions,
    which: Callable[[Finding], bool],
) -> Steps[Finding | None]:
    matcher = yield from Matcher.making([*others[:at], new, *others[at:]], rulelist.order, conditions, index=False)
    return next(filter(which, (yield from matcher.looking())), None)


def _why(config: Config, name: str, user: str, match: Any, found: Finding) -> str:
    asked = compile_match(match).text
    if found.other is None:
        return f"bridge {name!r} of user {user} can never fire: {found.text}"
    who = _who(config, found.other_rule)
    if found.kind == "duplicate":
        return f"bridge {name!r} of user {user} can never fire: {who} has the same rule already ({asked}); choose another condition"
    rule = config.rules.get(found.other_rule)
    theirs = compile_match(rule.match, strict=False).text if rule is not None else "anything"
    return f"bridge {name!r} of user {user} ({asked}) can never fire: {who} ({theirs}) comes first and takes all its requests"


def _who(config: Config, rule: str) -> str:
    """The bridge that a rule belongs to, or the rule."""
    found = config.rules.get(rule)
    bridge = config.bridges.get(found.bridge) if found is not None and found.bridge is not None else None
    return f"bridge {bridge.name!r} of user {bridge.user}" if bridge is not None else f"rule {rule!r}"
