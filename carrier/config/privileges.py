"""What takes a caller who has shown who it is: objects that run commands, touch files, or leave the network for the machine we run on.

A protocol says so itself, for the whole of it or for a field of its spec, with the reason (`privileged` of Listener and Cluster). Here that
is asked of specs, also of one inside another; of whole configurations, where a route, a rule, a rule list and a listener that lead to
a privileged cluster are privileged like it, whoever made that cluster; of bodies, before anything in them is looked at, so that an
answer tells nothing of files; and of a change: what of it gives more than there was before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from carrier.config.draft import Protocols
from carrier.core import registry
from carrier.model import same

if TYPE_CHECKING:
    from carrier.model import Config, Route, Rule

SETTINGS: Mapping[str, str] = {
    "log_file": "writes a file",
    "access_log": "writes a file",
    "access_log_path": "writes a file",
    "traces": "sends what requests are to another machine",
    "trust_loopback": "says who is trusted",
    "bridges": "says where bridges may lead",
}
"""Settings of `admin` that are privileged."""
KINDS = ("listener", "cluster", "rulelist", "rule", "route")


def of_spec(spec: object, protocols: Protocols = registry) -> str:
    """Why this spec is privileged, with the protocol's name; "" when it is not."""
    if not isinstance(spec, Mapping) or not isinstance(protocol := spec.get("protocol"), str):
        return ""
    for kind in (protocols.listener(protocol), protocols.cluster(protocol)):
        for field, reason in (kind.privileged if kind is not None else {}).items():
            if any(True for _ in _values(spec, field.split("."))):
                return f"{protocol} {reason}" if field == "protocol" else f"{protocol} with {field} {reason}"
    inner = (of_spec(value, protocols) for value in spec.values() if isinstance(value, Mapping))
    return next(filter(None, inner), "")


def _values(value: object, path: list[str]) -> Iterator[object]:
    """Whatever stands at `path`, in lists too."""
    if isinstance(value, list):
        for item in value:
            yield from _values(item, path)
    elif not path:
        yield value
    elif isinstance(value, Mapping) and path[0] in value:
        yield from _values(value[path[0]], path[1:])


def of_document(document: object, protocols: Protocols = registry) -> str:
    """Why a decoded body is privileged, wherever in it the reason stands; "" when it is not. Nothing that it names is looked at."""
    stack = [document]
    while stack:
        here = stack.pop()
        if isinstance(here, Mapping):
            if "protocol" in here and (reason := of_spec(here, protocols)):
                return reason
            if "tls" in here and any(True for name in FILES for _ in _values(here["tls"], [name])):
                return f"tls {READS}"  # a bridge's, which has no protocol of its own
            stack += here.values()
        elif isinstance(here, list):
            stack += here
    if isinstance(document, Mapping) and isinstance(document.get("bridges"), Mapping):
        return "bridges says where bridges may lead"
    admin = document.get("admin") if isinstance(document, Mapping) else None
    named = (f"admin.{name} {reason}" for name, reason in SETTINGS.items() if isinstance(admin, Mapping) and admin.get(name) is not None)
    return next(named, "")


FILES = ("certificate", "key", "ca")
READS = "reads files"


class Reach:
    """Which objects of a configuration are privileged, and why: `of[kind, name]`."""

    def __init__(self, config: Config, protocols: Protocols = registry) -> None:
        self.config = config
        self.protocols = protocols
        self.of: dict[tuple[str, str], str] = {}
        self.own: set[tuple[str, str]] = set()
        """Those that are privileged by what they are, wherever they lead."""
        for kind, objects in (("cluster", config.clusters), ("listener", config.listeners)):
            for name, obj in objects.items():
                if reason := of_spec(obj.spec, protocols):
                    self.of[kind, name] = reason
                    self.own.add((kind, name))
        if not any(kind == "cluster" for kind, _ in self.of):
            return
        self._spread(("cluster", name, self._named(name)) for name in config.clusters)
        self._spread(("route", name, _clusters(route)) for name, route in config.routes.items())
        jumping = True
        while jumping:  # rules that apply rule lists, to any depth
            before = len(self.of)
            self._spread(("rule", name, _next(rule)) for name, rule in config.rules.items())
            self._spread(("rulelist", name, [("rule", rule) for rule in rules.rules]) for name, rules in config.rulelists.items())
            jumping = len(self.of) > before
        self._spread(("listener", name, [("rulelist", listener.rules)]) for name, listener in config.listeners.items())

    def _spread(self, objects: Iterable[tuple[str, str, list[tuple[str, str]]]]) -> None:
        for kind, name, leads in objects:
            found = next((to for to in leads if to in self.of), None)
            if found is not None and (kind, name) not in self.of:
                reason = self.of[found]
                self.of[kind, name] = reason if found[0] != "cluster" or kind == "cluster" else f'leads to cluster "{found[1]}": {reason}'

    def _named(self, name: str) -> list[tuple[str, str]]:
        """The clusters that a cluster's spec names: a mirror's."""
        spec = self.config.clusters[name].spec
        kind = self.protocols.cluster(str(spec.get("protocol")))
        return [("cluster", str(spec.get(field))) for field in (kind.names_clusters if kind is not None else ())]


def _clusters(route: Route) -> list[tuple[str, str]]:
    return [("cluster", name) for name in (route.destination, route.fallback, *route.ingress, *route.egress) if name is not None]


def _next(rule: Rule) -> list[tuple[str, str]]:
    named = (("route", rule.action.route), ("rulelist", rule.action.apply))
    return [(kind, name) for kind, name in named if name is not None]


def gained(old: Config, new: Config, protocols: Protocols = registry, bridging: bool = False) -> str:
    """What of a change is privileged, in words; "" when nothing is. Taking away is nothing.

    bridging: the change is a user bridge, whose rule and route lead to the shadow that its port leads to already.
    """
    reach = Reach(new, protocols)
    for (kind, name), reason in reach.of.items():
        if bridging and (kind, name) not in reach.own:
            continue
        before, after = (getattr(config, f"{kind}s").get(name) for config in (old, new))
        if kind == "rulelist" and before is not None:
            more = Counter(after.rules) - Counter(before.rules)
            changed = any(("rule", rule) in reach.of for rule in more)
        else:
            changed = not _same(before, after)
        if changed:
            return f'{kind.capitalize()} "{name}": {reason}'
    return ""


def _same(before: Any, after: Any) -> bool:
    """Who owns it apart: that changes when its owner goes."""
    return before is after or (before is not None and same(*(msgspec.structs.replace(one, owner=None) for one in (before, after))))
