"""Whole configurations, and the strict standard: what a file, `POST /config` and PUT may say.

l7mp takes nearly anything and fails later. Here every object is looked at before anything is built: unknown fields, types, ranges, names,
matches, specs (each protocol's class checks its own). All problems are found at once, each with its path
(`$.listeners[0].spec.port`), what was seen, what is allowed, and a near miss. `from_document` then builds the configuration with the
same `Draft` that REST calls use, and refuses names that lead nowhere. `to_document` writes a configuration so that it can be
read again: owned objects stand in their owner, with their names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import Any

import msgspec

from carrier.config.draft import WILDCARD, Draft, Protocols
from carrier.config.findings import Finding, looking
from carrier.config.given import Raw
from carrier.config.inspector import _KNOWN, SECTIONS, Check, Inspector
from carrier.core import registry
from carrier.core.slices import Steps, whole
from carrier.errors import MOST_PROBLEMS, ConfigError, Error, Problem, brief, did_you_mean, shown
from carrier.model import Admin, Cluster, Config, Route, Rule, RuleList
from carrier.rules.match import Conditions
from carrier.rules.table import Matchers

CONTROLLER = "L7mpController"
"""The protocol of the cluster that leads into the REST API."""

# -- whole documents ---------------------------------------------------------------------------------------------------------------------


def from_document(
    document: object,
    *,
    base: Config | None = None,
    allow_dangling: bool = False,
    protocols: Protocols = registry,
    files: bool = False,
    conditions: Conditions | None = None,
) -> tuple[Config, tuple[Problem, ...]]:
    """Build a whole configuration, see `building`."""
    steps = building(document, base=base, allow_dangling=allow_dangling, protocols=protocols, files=files, conditions=conditions)
    return whole(steps)


def building(
    document: object,
    *,
    base: Config | None = None,
    allow_dangling: bool = False,
    protocols: Protocols = registry,
    files: bool = False,
    conditions: Conditions | None = None,
) -> Steps[tuple[Config, tuple[Problem, ...]]]:
    """Build a whole configuration. Returns it and warnings; raises ConfigError with every problem.

    base: the configuration it is to replace: what is equal keeps its identity, so that the proxy keeps what runs, and a document
    that changes nothing gives `base` itself. Implicit names count from 0, so the same document always gives the same names. files: read
    the certificates that it names; what cannot be used is a problem. conditions: where its matches are kept when they are compiled.
    """
    if not isinstance(document, dict):
        raise ConfigError(
            Problem(f"expected a configuration, an object, got {shown(document)}", "$", seen=shown(document), allowed=", ".join(_KNOWN))
        )
    compiled = (conditions if conditions is not None else Conditions()).beside()
    yield from compiled.compiling(_matches_in(document))
    builder = _Builder(document, protocols, compiled)
    yield from builder.build()
    dangling = list(islice(builder.dangling(), MOST_PROBLEMS))
    odd = yield from looking(builder.config, Matchers(compiled), protocols)
    found = [f for f in odd if f.code != "dangling"]
    late = allow_dangling or builder.l7mp
    builder.problems += [builder.problem(f) for f in found if f.code == "loop"] + ([] if late else dangling)
    if files:
        builder.problems += builder.certificates()
    if builder.problems:
        raise ConfigError(*builder.problems)
    config = yield from _rebased(builder.config, base)
    return config, (*builder.ignored, *dangling, *map(builder.problem, found))


class _Builder:
    """Inspects and builds every object of a document, and remembers where each one stood."""

    def __init__(self, document: Raw, protocols: Protocols, conditions: Conditions) -> None:
        self.document = document
        self.draft = Draft(Config(), protocols)
        self.inspector = Inspector(protocols, conditions)
        self.problems = self.inspector.problems
        self.places: dict[tuple[str, str], str] = {}
        self.declared: set[tuple[str, str]] = set()
        """(kind, name) of objects that could not be built: a reference to one of them is not dangling."""
        self.ports: dict[tuple[Any, ...], object] = {}
        """(transport, address, port) -> name of the listener that asks for it first."""
        self.l7mp = _is_l7mps(document)
        """It is a file of l7mp's: what that one ignores is a warning, and names may lead nowhere yet."""
        self.ignored: list[Problem] = []
        self.old_style: set[tuple[str, str]] = set()
        """Routes that say `cluster` for `destination`."""

    @property
    def config(self) -> Config:
        return self.draft.done()

    def problem(self, finding: Finding) -> Problem:
        """A finding, with the place in the document that it is about."""
        place = self.places.get((finding.kind, finding.name), "$")
        at = ".cluster" if finding.at == ".destination" and (finding.kind, finding.name) in self.old_style else finding.at
        return Problem(finding.text, place + at, hint=finding.hint)

    def dangling(self) -> Iterable[Problem]:
        """Names that lead nowhere, also those in objects that could not be built."""
        for kind, name, path in self.inspector.references:
            table = getattr(self.draft, kind + "s")
            if name not in table and (kind, name) not in self.declared:
                noun = "rule list" if kind == "rulelist" else kind
                yield Problem(f"{noun} {name!r} is not defined", path, seen=shown(name), hint=did_you_mean(name, table))

    def certificates(self) -> Iterator[Problem]:
        """What is wrong with the files of `tls` blocks. It reads them, and blocks while it does."""
        from carrier.hops.certificates import client_of, server_of  # only who checks files needs TLS

        for kind, objects, made in (("listener", self.draft.listeners, server_of), ("cluster", self.draft.clusters, client_of)):
            for name, obj in objects.items():
                try:
                    made(obj.spec)
                except ConfigError as error:
                    place = self.places.get((kind, name), "$")
                    yield from [Problem(problem.message, f"{place}.spec.tls", seen=problem.seen) for problem in error.problems]

    def build(self) -> Steps[None]:
        checks: dict[str, Check] = dict.fromkeys(_KNOWN, self.inspector.anything)
        checks |= {"admin": self.inspector.admin, "bridges": self.inspector.bridges}
        self.inspector.members(self.document, "$", "the configuration", checks)
        self._ignore(0)
        if "clusterUpstream" in self.document:  # as Gefyra's README shows a port, without what stands around it
            hint = "this looks like one port of Gefyra's format: put it in a list under proxy:"
            self.problems[:] = [msgspec.structs.replace(p, hint=hint) if p.path == "$.clusterUpstream" else p for p in self.problems]
        self.draft.admin = _admin(self.document.get("admin"), self.document.get("bridges"))
        for section, kind in SECTIONS.items():
            objects = self.document.get(section)
            if objects is not None and not isinstance(objects, list):
                self.inspector.wrong(f"$.{section}", objects, f"a list of {section}")
                continue
            for i, raw in enumerate(objects or ()):
                self._build(kind, raw, f"$.{section}[{i}]")
                yield

    def _build(self, kind: str, raw: object, path: str) -> None:
        before = len(self.problems)
        getattr(self.inspector, kind)(raw, path)
        self._ignore(before)
        if kind == "listener":
            self._claim(raw, path)
        self._name(kind, raw, path, strict=len(self.problems) > before)
        if len(self.problems) == before:
            try:
                self._place(kind, getattr(self.draft, f"add_{kind}")(raw), raw, path)
                return
            except Error as error:
                self.problems.append(Problem(error.detail, path))
        if isinstance(raw, dict):
            self.declared |= set(_names_in(kind, raw))

    def _ignore(self, since: int) -> None:
        """In a file of l7mp's, fields that nobody reads are no more than a warning, as far as they are no near miss of one that is read."""
        if self.l7mp and len(self.problems) > since:
            found = self.problems[since:]
            late = [problem for problem in found if problem.message.startswith("unknown field") and not problem.hint]
            self.problems[since:] = [problem for problem in found if problem not in late]
            self.ignored += [Problem(f"{problem.message}: it is ignored, as by l7mp", problem.path, seen=problem.seen) for problem in late]

    def _name(self, kind: str, raw: object, path: str, strict: bool) -> None:
        """An object of a section has a name, and one that no other has. strict: it has other problems, so nobody will try to add it."""
        if not isinstance(raw, dict):
            return
        name = raw.get("name")
        if "name" not in raw and kind in ("cluster", "rulelist", "rule", "route"):
            noun = "rule list" if kind == "rulelist" else kind
            self.problems.append(Problem(f"a {noun} needs 'name'", path, seen=brief(", ".join(map(repr, raw)), 200)))
        elif isinstance(name, str) and ((strict and name in getattr(self.draft, kind + "s")) or (kind, name) in self.declared):
            self.problems.append(Problem(f"{kind} {name!r} is already defined", f"{path}.name", seen=shown(name)))

    def _claim(self, raw: Any, path: str) -> None:
        """Two listeners on one port of one transport and address: the second is a problem. Across addresses only binding can tell."""
        spec = raw.get("spec") if isinstance(raw, dict) else None
        protocol = spec.get("protocol") if isinstance(spec, dict) else None
        cls = self.inspector.protocols.listener(protocol) if isinstance(protocol, str) else None
        claim = cls.claim(spec) if cls is not None else None
        if claim is not None:
            holder = self.ports.setdefault(claim, raw.get("name"))
            shared = self.l7mp and claim[0] == "udp"  # which is no more than odd there (carrier/config/findings.py)
            if holder != raw.get("name") and not shared:
                text = f"port {claim[2]} is taken by listener {holder!r}"
                self.problems.append(Problem(text, f"{path}.spec.port", seen=shown(claim[2])))

    def _place(self, kind: str, name: str, raw: Any, path: str) -> None:
        """Note where the object stood in the document, and those inside it."""
        draft = self.draft
        self.places[kind, name] = path
        if kind == "listener" and not isinstance(raw["rules"], str):
            inner = {"rules": raw["rules"]} if isinstance(raw["rules"], list) else raw["rules"]
            self._place("rulelist", draft.listeners[name].rules, inner, path if isinstance(raw["rules"], list) else f"{path}.rules")
        elif kind == "rulelist":
            self.places[kind, name] = f"{path}.rules"
            for i, (rule, inner) in enumerate(zip(draft.rulelists[name].rules, raw["rules"], strict=True)):
                self._place_child("rule", rule, inner, f"{path}.rules[{i}]")
        elif kind == "rule":
            self._place_child("route", draft.rules[name].action.route, raw["action"].get("route"), f"{path}.action.route")
        elif kind == "route":
            self._place_route(name, raw, path)

    def _place_route(self, name: str, raw: Any, path: str) -> None:
        route = self.draft.routes[name]
        member = "destination" if "destination" in raw else "cluster"
        if member == "cluster":
            self.old_style.add(("route", name))
        self._place_child("cluster", route.destination, raw[member], f"{path}.{member}")
        self._place_child("cluster", route.fallback, raw.get("fallback"), f"{path}.fallback")
        for way in ("ingress", "egress"):
            for i, (cluster, inner) in enumerate(zip(getattr(route, way), raw.get(way) or (), strict=True)):
                self._place_child("cluster", cluster, inner, f"{path}.{way}[{i}]")

    def _place_child(self, kind: str, name: str | None, raw: object, path: str) -> None:
        if name is not None and isinstance(raw, dict):
            self._place(kind, name, raw, path)


def _is_l7mps(document: Raw) -> bool:
    """Was it written for l7mp? Its files lead a listener into its REST API, which ours has elsewhere, and say `admin`."""
    if not isinstance(document.get("admin"), dict):
        return False
    listed = document.get("listeners")
    clusters = document.get("clusters")
    names = {
        cluster.get("name")
        for cluster in (clusters if isinstance(clusters, list) else ())
        if isinstance(cluster, dict) and isinstance(cluster.get("spec"), dict) and cluster["spec"].get("protocol") == CONTROLLER
    }
    return any(_leads_to(listener, names, 0) for listener in (listed if isinstance(listed, list) else ()))


def _leads_to(value: object, names: Collection[object], depth: int) -> bool:
    """Is there a destination in it that is the controller?"""
    if depth > 12:
        return False
    if isinstance(value, dict):
        to = value.get("destination", value.get("cluster"))
        if isinstance(to, str) and to in names:
            return True
        if isinstance(to, dict) and isinstance(to.get("spec"), dict) and to["spec"].get("protocol") == CONTROLLER:
            return True
        return any(_leads_to(inner, names, depth + 1) for inner in value.values())
    return isinstance(value, list) and any(_leads_to(inner, names, depth + 1) for inner in value)


def _names_in(kind: str, raw: object) -> Iterable[tuple[str, str]]:
    """(kind, name) of an object that could not be built and of everything with a name inside it, as far as that can be told."""
    inside = {"listener": {"rules": "rule"}, "rulelist": {"rules": "rule"}, "rule": {"action": "action"}, "action": {"route": "route"}}
    inside["route"] = dict.fromkeys(("destination", "cluster", "ingress", "egress", "fallback"), "cluster")
    if isinstance(raw, list):
        for item in raw:
            yield from _names_in(kind, item)
    elif isinstance(raw, dict):
        if isinstance(raw.get("name"), str):
            yield kind, raw["name"]
        for member, child in inside.get(kind, {}).items():
            yield from _names_in(child, raw.get(member))


def _admin(raw: object, bridges: object) -> Admin:
    """The settings that have the right type; the others are problems already. bridges: what stands beside them of user bridges."""
    raw = raw if isinstance(raw, dict) else {}
    if isinstance(bridges, dict):
        raw = {**raw, "bridges": bridges}
    known = {f: raw[f] for f in ("log_level", "log_file", "access_log_path", "strict", "offload", "offload_ifs") if raw.get(f) is not None}
    options = {name: raw[name] for name in ("access_log", "traces", "trust_loopback", "page", "bridges") if raw.get(name) is not None}
    try:
        return msgspec.convert(known | {"options": options}, Admin)
    except msgspec.ValidationError:
        return Admin()


def _matches_in(document: Raw) -> Iterator[object]:
    """The matches of rules, wherever rules stand; what is no rule is looked at later."""
    rules = list(_listed(document.get("rules")))
    for rulelist in _listed(document.get("rulelists")):
        rules += _listed(_member(rulelist, "rules"))
    for listener in _listed(document.get("listeners")):
        inner = _member(listener, "rules")
        rules += _listed(_member(inner, "rules") if isinstance(inner, dict) else inner)
    return (rule["match"] for rule in rules if isinstance(rule, dict) and rule.get("match") is not None)


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _member(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None


def _rebased(config: Config, base: Config | None) -> Steps[Config]:
    """The same value, made of base's objects where they are equal."""
    if base is None:
        return config
    tables: dict[str, dict[str, object]] = {}
    for table in ("listeners", "clusters", "rulelists", "rules", "routes"):
        old: dict[str, object] = getattr(base, table)
        kept: dict[str, object] = {}
        tables[table] = kept
        for name, obj in getattr(config, table).items():
            kept[name] = old[name] if old.get(name) == obj else obj
            yield
    new = msgspec.structs.replace(config, revision=base.revision + 1, **tables)
    return base if msgspec.structs.replace(new, revision=base.revision, counters=base.counters) == base else new


# -- writing -----------------------------------------------------------------------------------------------------------------------------


def to_document(config: Config) -> dict[str, Any]:
    """A document that `from_document` reads as the same objects, with their names and owners."""
    writer = _Writer(config)
    admin = {k: v for k, v in msgspec.to_builtins(config.admin).items() if v is not None and k != "options"} | config.admin.options
    sections: dict[str, list[Any]] = {section: [] for section in SECTIONS}
    for owned in (False, True):  # first what nobody owns, with all that it owns; then what its owner no longer refers to
        for section, kind in SECTIONS.items():
            for obj in getattr(config, section).values():
                if bool(obj.owner) is owned and (kind, obj.name) not in writer.written:
                    sections[section].append(writer.write(kind, obj))
    return {"admin": admin, **sections}


class _Writer:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.written: set[tuple[str, str]] = set()

    def write(self, kind: str, obj: Any) -> dict[str, Any]:
        self.written.add((kind, obj.name))
        written: dict[str, Any] = getattr(self, kind)(obj)
        return {k: v for k, v in written.items() if v not in (None, {}, []) or k in ("rules", "action")}

    def child(self, owner: str, kind: str, name: str | None) -> Any:
        """The object itself if `owner` owns it, else its name."""
        obj = getattr(self.config, kind + "s").get(name)
        return self.write(kind, obj) if obj is not None and obj.owner == owner else name

    def listener(self, obj: Any) -> dict[str, Any]:
        rules = self.child(f"listener/{obj.name}", "rulelist", obj.rules)
        return {"name": obj.name, "spec": obj.spec, "rules": rules, "options": obj.options}

    def rulelist(self, obj: RuleList) -> dict[str, Any]:
        rules = [self.child(f"rulelist/{obj.name}", "rule", rule) for rule in obj.rules]
        return {"name": obj.name, "rules": rules, "order": None if obj.order == "first" else obj.order}

    def rule(self, obj: Rule) -> dict[str, Any]:
        action = {
            "rewrite": [{"path": r.path, "value": r.value} for r in obj.action.rewrite],
            "route": self.child(f"rule/{obj.name}", "route", obj.action.route),
            "apply": obj.action.apply,
        }
        action = {k: v for k, v in action.items() if v}
        return {"name": obj.name, "match": None if obj.match == WILDCARD else obj.match, "action": action}

    def route(self, obj: Route) -> dict[str, Any]:
        owner = f"route/{obj.name}"
        return {
            "name": obj.name,
            "destination": self.child(owner, "cluster", obj.destination),
            "ingress": [self.child(owner, "cluster", name) for name in obj.ingress],
            "egress": [self.child(owner, "cluster", name) for name in obj.egress],
            "retry": obj.retry,
            "fallback": self.child(owner, "cluster", obj.fallback),
            "options": obj.options,
        }

    def cluster(self, obj: Cluster) -> dict[str, Any]:
        endpoints = [msgspec.to_builtins(endpoint) for endpoint in obj.endpoints]
        balancer = {"policy": obj.loadbalancer.policy, "key": obj.loadbalancer.key}
        return {
            "name": obj.name,
            "spec": obj.spec,
            "endpoints": endpoints,
            "loadbalancer": {k: v for k, v in balancer.items() if v is not None},
            "options": obj.options,
        }
