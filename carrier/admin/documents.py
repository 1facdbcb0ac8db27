"""Whole configurations over the REST API: replaced, compared, shown without the API's own objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from carrier.bridges.many import bare, carried
from carrier.config.document import building
from carrier.config.inspector import SECTIONS
from carrier.config.source import native
from carrier.config.traces import unveiled
from carrier.core.slices import Steps
from carrier.errors import ConfigError, Problem

if TYPE_CHECKING:
    from carrier.admin.calls import Call, Serving
    from carrier.model import Config


def changes_between(old: Config, new: Config) -> dict[str, Any]:
    """Section -> names that would be added, changed and removed; sections without any are left out."""
    changes = {}
    for section in SECTIONS:
        before, after = getattr(old, section), getattr(new, section)
        change = {
            "added": [name for name in after if name not in before],
            "changed": [name for name in after if name in before and after[name] != before[name]],
            "removed": [name for name in before if name not in after],
        }
        if any(change.values()):
            changes[section] = {what: names for what, names in change.items() if names}
    return changes


def weighing(config: Config, known: Weight | None = None) -> Steps[Weight]:
    """How many bytes the objects of a configuration take as JSON. known: of another one; what both have is not looked at again."""
    before, size = known or (None, 0)
    for section in SECTIONS:
        old: Mapping[str, Any] = getattr(before, section) if before is not None else {}
        new: Mapping[str, Any] = getattr(config, section)
        for number, (name, obj) in enumerate(new.items()):
            was = old.get(name)
            if was is not obj:
                size += len(msgspec.json.encode(obj)) - (len(msgspec.json.encode(was)) if was is not None else 0)
            if not number % OBJECTS:
                yield
        size -= sum(len(msgspec.json.encode(old[name])) for name in old.keys() - new.keys())
    return config, size


Weight = tuple["Config", int]
OBJECTS = 500
"""That are looked at before the event loop may go on."""


def replace_all(api: Serving, call: Call, old: Config) -> Steps[tuple[Config, Iterable[str]]]:
    """POST /config: the body is the whole configuration, user bridges apart: those stay, as far as they fit into it."""
    assert call.decoded is not None
    document = unveiled(native(call.body), old)
    if isinstance(document, Mapping) and not any(section in document for section in SECTIONS):
        allowed = ", ".join(SECTIONS)
        raise ConfigError(Problem("the configuration has no section; to remove everything, say listeners: []", "$", allowed=allowed))
    base = yield from without_bridges(api, old)
    try:
        new, warnings = yield from building(
            document,
            base=base,
            allow_dangling=call.flag("allowDangling"),
            protocols=api.protocols,
            conditions=api.matchers.conditions,
        )
    except ConfigError as error:
        raise ConfigError(*call.decoded.problems, *error.problems) from None
    if call.decoded.problems:
        raise ConfigError(*call.decoded.problems)
    if new is base:
        return old, map(str, warnings)
    said = list(map(str, warnings))
    if api.bridges is None:
        return new, said
    new, lost = yield from carried(api.bridges, old, new)
    return new, said + lost


def without_bridges(api: Serving, config: Config) -> Steps[Config]:
    """The configuration without its user bridges."""
    return config if api.bridges is None else (yield from bare(api.bridges, config))
