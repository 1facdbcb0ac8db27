"""All user bridges at once: taken out of a configuration, or carried over into another.

What many changes one after the other would do, in one draft: each bridge is understood on its own, all of them are looked at together for
rules that could never fire, and those in doubt, usually none, are tried one by one as if somebody had put them now. Both are done in slices
(carrier/core/slices.py): of 400 bridges no session has to wait for more than a few.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from carrier.bridges.edits import remove
from carrier.config.draft import Draft
from carrier.errors import Error
from carrier.rules.match import Matcher

if TYPE_CHECKING:
    from carrier.bridges.asked import Place, Wanted
    from carrier.bridges.edits import Bridges
    from carrier.core.slices import Steps
    from carrier.model import Config


class Fitting(NamedTuple):
    """A bridge that is good by itself, and its place."""

    name: str
    wanted: Wanted
    place: Place


def bare(bridges: Bridges, config: Config) -> Steps[Config]:
    """The configuration without its user bridges."""
    if not config.bridges:
        return config
    draft = Draft(config, bridges.protocols)
    for name in config.bridges:
        remove(draft, config.bridges[name])
        yield
    return draft.done()


def carried(bridges: Bridges, old: Config, new: Config) -> Steps[tuple[Config, list[str]]]:
    """`new` with the user bridges of `old`, as far as they fit; and which do not, in sentences."""
    fitting: list[Fitting] = []
    lost: dict[str, str] = {}
    bodies = {name: bridges.dump(old, name) for name in old.bridges}
    for name, body in bodies.items():
        yield
        try:
            fitting.append(Fitting(name, *bridges.understood(new, name, body)))
        except Error as error:
            lost[name] = error.detail
    doubtful = yield from _doubtful(bridges, new, fitting)
    draft = Draft(new, bridges.protocols)
    for fit, at in placed([fit for fit in fitting if fit.name not in doubtful]):
        bridges.insert(draft, fit.name, fit.wanted, fit.place, at)
        yield
    found = draft.done()
    for name in [fit.name for fit in fitting if fit.name in doubtful]:
        yield
        try:
            found = bridges.put(found, name, bodies[name])
        except Error as error:
            lost[name] = error.detail
    return found, [f"bridge {name!r} is gone: {lost[name]}" for name in bodies if name in lost]


def placed(fitting: list[Fitting]) -> list[tuple[Fitting, int]]:
    """With the positions at which they are inserted, one after the other: each before the first rule that takes everything."""
    ends: dict[str, int] = {}
    found = []
    for fit in fitting:
        rulelist = fit.place.rulelist.name
        at = ends.get(rulelist, fit.place.at)
        ends[rulelist] = at if fit.wanted.condition.always else at + 1
        found.append((fit, at))
    return found


def _doubtful(bridges: Bridges, config: Config, fitting: list[Fitting]) -> Steps[set[str]]:
    """Names of bridges that may not be made as they are: another has that name, or takes all their requests, or they another's."""
    taken = {*config.rules, *config.routes, *config.clusters}
    doubtful: set[str] = set()
    for fit in fitting:
        both = {f"bridge/{fit.name}", f"bridge/{fit.name}/mirror"}
        if taken & both or (fit.wanted.mirror and fit.place.shadow is None):
            doubtful.add(fit.name)
        taken |= both
    lists: dict[str, list[tuple[Fitting, int]]] = {}
    for fit, at in placed(fitting):
        lists.setdefault(fit.place.rulelist.name, []).append((fit, at))
    for name, group in lists.items():
        rulelist = config.rulelists[name]
        theirs = [(rule, config.rules[rule].match if rule in config.rules else None) for rule in rulelist.rules]
        blocks = [[(rule, match, "")] for rule, match in theirs]
        for fit, at in group:
            own = f"bridge/{fit.name}"
            alternatives = fit.wanted.alternatives
            names = [own] if len(alternatives) == 1 else [f"{own}#{n}" for n in range(len(alternatives))]
            blocks.insert(at, [(rule, match, fit.name) for rule, match in zip(names, alternatives, strict=True)])
        rules = [rule for block in blocks for rule in block]
        for rule, match, _ in rules:
            bridges.conditions.get(rule, match)
            yield
        dead = {finding.rule for finding in Matcher(theirs, rulelist.order, bridges.conditions).findings}
        yield
        whole = {fit.name for fit, _ in group if fit.wanted.spec.get("type") == "stream"}
        for finding in Matcher([(rule, match) for rule, match, _ in rules], rulelist.order, bridges.conditions).findings:
            mine = rules[finding.index][2]
            other = rules[finding.other][2] if finding.other is not None else ""
            if mine:
                doubtful.add(mine)
            elif other and finding.rule not in dead and other not in whole:
                doubtful.add(other)
        yield
    return doubtful
