"""What the REST API shows: objects of a `Config` as plain dicts, and the five ways of l7mp to write them down as JSON.

A plain dump names the objects that an object refers to; a recursive one puts them in its place, whoever defined them. The
spellings are l7mp's (contract, section 1, Dumps): `<STALE>` marks a name that leads nowhere, `<VIRTUAL>` the endpoint of a cluster
that has none, `<RANDOM>` a HashRing without a key. What l7mp does not have (order, fallback, cluster options) is shown only when
it is set, so that l7mp's clients see nothing new. `dumps` follows the npm package format-json, which l7mp uses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from carrier.core import registry

if TYPE_CHECKING:
    from carrier.config.draft import Protocols
    from carrier.model import Admin, Cluster, Config, EndPoint, Listener, Route, Rule, RuleList

FORMATS = ("plain", "terse", "space", "lines", "diffy")
Dict = dict[str, Any]


class Each(Collection[Any]):
    """A list whose members are made when somebody looks at them: what is shown of ten thousand rules need not be there at once. things:
    what does not change meanwhile."""

    def __init__(self, make: Callable[[Any], Any], things: Collection[Any]) -> None:
        self.make = make
        self.things = things

    def __len__(self) -> int:
        return len(self.things)

    def __iter__(self) -> Iterator[Any]:
        return map(self.make, self.things)

    def __contains__(self, thing: object) -> bool:
        return any(thing == one for one in self)


class View:
    """One configuration, looked at plainly or recursively."""

    def __init__(self, config: Config, recursive: bool = False, protocols: Protocols = registry) -> None:
        self.config = config
        self.recursive = recursive
        self.protocols = protocols

    def show(self, kind: str, name: str) -> Dict | str:
        """The object, or `name:<STALE>`. kind: listener, cluster, rulelist, rule or route."""
        found = getattr(self.config, kind + "s").get(name)
        shown: Dict = {} if found is None else getattr(self, kind)(found)
        return f"{name}:<STALE>" if found is None else shown

    def all(self, kind: str) -> Each:
        """Every object of a kind."""
        return Each(getattr(self, kind), getattr(self.config, kind + "s").values())

    def listener(self, obj: Listener) -> Dict:
        return {
            "name": obj.name,
            "spec": obj.spec,
            "rules": self._rules_of(obj.rules) if self.recursive else obj.rules,
            "options": obj.options or {"track": 0},
        }

    def _rules_of(self, rulelist: str) -> list[Any] | str:
        found = self.config.rulelists.get(rulelist)
        return f"{rulelist}:<STALE>" if found is None else self._children("rule", found.rules)

    def rulelist(self, obj: RuleList) -> Dict:
        shown: Dict = {"name": obj.name, "rules": self._children("rule", obj.rules)}
        if obj.order != "first":
            shown["order"] = obj.order
        return shown

    def rule(self, obj: Rule) -> Dict:
        action: Dict = {}
        if obj.action.rewrite:
            action["rewrite"] = [{"path": r.path, "value": r.value} for r in obj.action.rewrite]
        if obj.action.apply is not None:
            action["apply"] = obj.action.apply
        if obj.action.route is not None:
            action["route"] = self._child("route", obj.action.route)
        return {"name": obj.name, "match": obj.match, "action": action}

    def route(self, obj: Route) -> Dict:
        shown: Dict = {
            "name": obj.name,
            "destination": self._child("cluster", obj.destination),
            "ingress": self._children("cluster", obj.ingress),
            "egress": self._children("cluster", obj.egress),
            "retry": obj.retry,
        }
        if obj.fallback is not None:
            shown["fallback"] = self._child("cluster", obj.fallback)
        if obj.options:
            shown["options"] = obj.options
        return shown

    def cluster(self, obj: Cluster) -> Dict:
        shown: Dict = {
            "name": obj.name,
            "spec": self._cluster_spec(obj.spec),
            "endpoints": self._endpoints(obj) if self.recursive else len(obj.endpoints),
            "loadbalancer": balancer(obj),
        }
        if obj.options:
            shown["options"] = obj.options
        return shown

    def _cluster_spec(self, spec: Dict) -> Dict:
        """As posted; of a virtual cluster only the fields that its class knows, completed with their defaults, as in l7mp."""
        cls = self.protocols.cluster(spec["protocol"])
        if cls is None or not cls.virtual:
            return spec
        shown = {"protocol": spec["protocol"], **cls.defaults}
        return shown | {field: spec[field] for field in cls.fields if field in spec}

    def _endpoints(self, obj: Cluster) -> list[Dict]:
        cls = self.protocols.cluster(obj.spec["protocol"])
        if cls is not None and cls.virtual:
            return [{"name": obj.name, "spec": {"address": "<VIRTUAL>"}}] if cls.shows_endpoint else []
        return [endpoint(e) for e in obj.endpoints]

    def _child(self, kind: str, name: str) -> Dict | str:
        return self.show(kind, name) if self.recursive else name

    def _children(self, kind: str, names: Iterable[str]) -> list[Any]:
        return [self._child(kind, name) for name in names]


def endpoint(obj: EndPoint) -> Dict:
    """An endpoint: name, spec as posted, weight."""
    return {"name": obj.name, "spec": obj.spec, "weight": obj.weight}


def balancer(obj: Cluster) -> Dict:
    """The policy, and its key where there is one."""
    shown: Dict = {"policy": obj.loadbalancer.policy}
    if obj.loadbalancer.key is not None and obj.loadbalancer.policy in ("HashRing", "sticky"):
        shown["key"] = obj.loadbalancer.key
    elif obj.loadbalancer.policy == "HashRing":
        shown["key"] = "<RANDOM>"
    return shown


@cache
def version() -> str:
    """The version that is installed."""
    from importlib import metadata  # 1.7 MiB, which a proxy that nobody asks does not spend

    return metadata.version("carrier2")


def admin(obj: Admin) -> Dict:
    """Settings; `offload` says whether sessions are handed to the kernel, which no session is yet."""
    shown: Dict = {"log_level": obj.log_level, "strict": obj.strict, "offload": False, "version": version()}
    for field in ("log_file", "access_log_path"):
        if getattr(obj, field) is not None:
            shown[field] = getattr(obj, field)
    return shown


def whole(config: Config, sessions: Collection[Dict], protocols: Protocols = registry) -> Dict:
    """GET /config: everything, never recursive."""
    view = View(config, False, protocols)
    kinds = ("listener", "cluster", "rulelist", "rule", "route")
    endpoints = Each(endpoint, [e for cluster in config.clusters.values() for e in cluster.endpoints])
    return {"admin": admin(config.admin), **{kind + "s": view.all(kind) for kind in kinds}, "endpoints": endpoints, "sessions": sessions}


def dumps(value: Any, style: str = "plain") -> str:
    """JSON text in one of FORMATS; any other style is plain. No newline at the end."""
    return "".join(pieces(value, style))


def pieces(value: Any, style: str = "plain") -> Iterator[str]:
    """The same, piece by piece: each member of the value, and each of a list that is one, is made and written on its own."""
    return _pieces(value, style, "", LEVELS)


LEVELS = 2
"""Levels of a value that are written member by member."""
_MARKS = {"terse": ("", ",", ""), "space": (" ", ", ", " ")}


def _pieces(value: Any, style: str, indent: str, levels: int) -> Iterator[str]:
    if not levels or not isinstance(value, Mapping | list | tuple | Each) or not value:
        yield _written(value, style, indent)
        return
    opening, between, closing = _marks(style, indent, levels)
    deeper = indent + "  "
    brackets = "{}" if isinstance(value, Mapping) else "[]"
    before = brackets[0] + opening
    for key, member in value.items() if isinstance(value, Mapping) else ((None, member) for member in value):
        yield before
        if key is not None:
            below = style == "diffy" and isinstance(member, Mapping | list | tuple | Each) and bool(member)
            yield _scalar(str(key)) + (f":\n{deeper}" if below else ":" if style == "terse" else ": ")
        yield from _pieces(member, style, deeper, levels - 1)
        before = between
    yield closing + brackets[1]


def _marks(style: str, indent: str, levels: int) -> tuple[str, str, str]:
    """What stands after the opening bracket, between two members, before the closing bracket."""
    if style == "diffy":
        return " ", f"\n{indent}, ", f"\n{indent}"
    if style == "lines" and levels == LEVELS:
        return " ", "\n, ", "\n"
    return _MARKS.get("space" if style == "lines" else style, (f"\n{indent}  ", f",\n{indent}  ", f"\n{indent}"))


def _written(value: Any, style: str, indent: str) -> str:
    value = list(value) if isinstance(value, Each) else value
    if style == "terse":
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if style in ("space", "lines"):
        return _space(value)
    if style == "diffy":
        return _diffy(value, indent)
    return json.dumps(value, ensure_ascii=False, indent=2).replace("\n", "\n" + indent)


def chunks(value: Any, style: str = "plain") -> Iterator[bytes]:
    """The same text in UTF-8, in chunks of CHUNK bytes or a little more."""
    texts, size = [], 0
    for piece in pieces(value, style):
        texts.append(piece)
        size += len(piece)
        if size >= CHUNK:
            yield "".join(texts).encode()
            texts, size = [], 0
    if texts:
        yield "".join(texts).encode()


CHUNK = 16 * 1024


def _space(value: Any) -> str:
    return _members(value, _space, " ", ", ", " ")


def _members(value: Any, inner: Any, opening: str, between: str, closing: str) -> str:
    if isinstance(value, Mapping) and value:
        return "{" + opening + between.join(f"{_scalar(str(k))}: {inner(v)}" for k, v in value.items()) + closing + "}"
    if isinstance(value, list | tuple) and value:
        return "[" + opening + between.join(map(inner, value)) + closing + "]"
    return _scalar(value)


def _diffy(value: Any, indent: str) -> str:
    """One member a line with the comma in front, so that a diff shows a change as one line."""
    deeper = indent + "  "
    if isinstance(value, Mapping) and value:
        members = [f"{_scalar(str(k))}:{_below(v, deeper)}" for k, v in value.items()]
        return "{ " + f"\n{indent}, ".join(members) + f"\n{indent}}}"
    if isinstance(value, list | tuple) and value:
        return "[ " + f"\n{indent}, ".join(_diffy(v, deeper) for v in value) + f"\n{indent}]"
    return _scalar(value)


def _below(value: Any, indent: str) -> str:
    if isinstance(value, Mapping | list | tuple) and value:
        return f"\n{indent}{_diffy(value, indent)}"
    return " " + _scalar(value)


def _scalar(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
