"""Whole configurations, and the strict standard: what a file, `POST /config` and PUT may say.

l7mp takes nearly anything and fails later. Here every object is looked at before anything is built: unknown fields, types, ranges, names,
matches, specs (each protocol's class checks its own). All problems are found at once, each with its path
(`$.listeners[0].spec.port`), what was seen, what is allowed, and a near miss. `from_document` then builds the configuration with the
same `Draft` that REST calls use, and refuses names that lead nowhere. `to_document` writes a configuration so that it can be
read again: owned objects stand in their owner, with their names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import msgspec

from carrier.config.draft import POLICIES, WILDCARD, Admin, Cluster, Config, Draft, Protocols, Raw, Route, Rule, RuleList
from carrier.config.findings import Finding, findings
from carrier.core import registry
from carrier.core.resolve import literal
from carrier.errors import ConfigError, Error, Problem, did_you_mean, shown
from carrier.observe import access
from carrier.options import check_numbers
from carrier.proxy.overload import BREAKER
from carrier.rules.match import compile_match
from carrier.rules.table import Matchers

LOG_LEVELS = ("silly", "verbose", "debug", "info", "notice", "warn", "error", "silent")
RETRY_ON = ("never", "connect-failure", "disconnect", "always")
SECTIONS = {"clusters": "cluster", "listeners": "listener", "rulelists": "rulelist", "rules": "rule", "routes": "route"}
"""Section of a document -> kind of its objects, in the order in which they are built."""
_IGNORED = ("sessions", "endpoints")
_KNOWN = ("admin", *SECTIONS, *_IGNORED)

Check = Callable[[Any, str], None]


class Inspector:
    """Looks at decoded objects and collects every problem. One method per kind of object: `(value, path)`."""

    def __init__(self, protocols: Protocols = registry) -> None:
        self.protocols = protocols
        self.problems: list[Problem] = []
        self.references: list[tuple[str, str, str]] = []
        """(kind, name, path) of every name that refers to another object."""

    # -- words -------------------------------------------------------------------------------------------------------------------

    def wrong(self, path: str, value: object, allowed: str, hint: str = "") -> None:
        self.problems.append(Problem(f"cannot be {shown(value)}", path, seen=shown(value), allowed=allowed, hint=hint))

    def members(self, value: object, path: str, what: str, checks: Mapping[str, Check], required: Collection[str] = ()) -> bool:
        """An object: known members are checked, unknown and missing ones are problems. False when it is no object at all."""
        if not isinstance(value, Mapping):
            self.wrong(path, value, f"{what}, an object")
            return False
        for name, member in value.items():
            if name in checks:
                checks[name](member, f"{path}.{name}")
            else:
                allowed = ", ".join(checks)
                hint = did_you_mean(str(name), checks)
                self.problems.append(
                    Problem(f"unknown field {name!r} in {what}", f"{path}.{name}", seen=repr(name), allowed=allowed, hint=hint)
                )
        for name in required:
            if name not in value:
                self.problems.append(
                    Problem(f"{what} needs {name!r}", path, seen=", ".join(map(repr, value)) or "{}", allowed=", ".join(checks))
                )
        return True

    def an(self, what: str, checks: Mapping[str, Check], *required: str) -> Check:
        """The check of an object with these members."""

        def check(value: Any, path: str) -> None:
            self.members(value, path, what, checks, required)

        return check

    def text(self, value: Any, path: str) -> None:
        if not isinstance(value, str):
            hint = f'write it in quotes: "{value}"' if isinstance(value, int | float) and not isinstance(value, bool) else ""
            self.wrong(path, value, "text", hint)

    def name(self, value: Any, path: str) -> None:
        if not isinstance(value, str) or not re.fullmatch(r"\S+", value):
            self.wrong(path, value, "a name: text without spaces")

    def boolean(self, value: Any, path: str) -> None:
        if not isinstance(value, bool):
            self.wrong(path, value, "true or false")

    def anything(self, value: Any, path: str) -> None: ...

    def mapping(self, value: Any, path: str) -> None:
        if not isinstance(value, Mapping):
            self.wrong(path, value, "an object")

    def number(self, least: float, most: float, whole: bool = True) -> Check:
        def check(value: Any, path: str) -> None:
            good = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
            if not good or not least <= value <= most:
                self.wrong(path, value, f"a {'whole ' if whole else ''}number {least:g}..{most:g}")

        return check

    def choice(self, *values: str) -> Check:
        def check(value: Any, path: str) -> None:
            if value not in values:
                self.wrong(path, value, "one of " + ", ".join(values), did_you_mean(str(value), values))

        return check

    def each(self, what: str, check: Check) -> Check:
        def checked(value: Any, path: str) -> None:
            if not isinstance(value, list):
                self.wrong(path, value, f"a list of {what}")
                return
            for i, item in enumerate(value):
                check(item, f"{path}[{i}]")

        return checked

    def reference(self, kind: str) -> Check:
        """The name of another object."""

        def check(value: Any, path: str) -> None:
            self.name(value, path)
            if isinstance(value, str):
                self.references.append((kind, value, path))

        return check

    def name_or(self, kind: str) -> Check:
        """The name of an object of this kind, or the object itself."""

        def check(value: Any, path: str) -> None:
            (self.reference(kind) if isinstance(value, str) else getattr(self, kind))(value, path)

        return check

    # -- objects -----------------------------------------------------------------------------------------------------------------

    def listener(self, value: Any, path: str) -> None:
        checks: dict[str, Check] = {
            "name": self.name,
            "spec": self._spec("listener"),
            "rules": self._rules,
            "options": self._options(self._class("listener", value), {"track": self.number(0, 86_400, whole=False)}),
        }
        self.members(value, path, "a listener", checks, ("name", "spec", "rules"))

    def _options(self, cls: Any, plain: Mapping[str, Check] | None) -> Check:
        """The options of a protocol: its class checks them if it has `check_options`; else `plain`, or anything."""

        def check(value: Any, path: str) -> None:
            if hasattr(cls, "check_options") and isinstance(value, dict):
                self.problems += cls.check_options(value, path)
            elif plain is not None:
                self.members(value, path, "options", plain)
            else:
                self.mapping(value, path)

        return check

    def _rules(self, value: Any, path: str) -> None:
        if isinstance(value, Mapping):
            self.rulelist(value, path)
        elif isinstance(value, list):
            self.each("rules", self.name_or("rule"))(value, path)
        elif not isinstance(value, str):
            self.wrong(path, value, "the name of a rule list, or a list of rules")
        else:
            self.reference("rulelist")(value, path)

    def cluster(self, value: Any, path: str) -> None:
        cls = self._class("cluster", value)
        checks: dict[str, Check] = {
            "name": self.name,
            "spec": self._spec("cluster"),
            "endpoints": self._endpoints(cls),
            "loadbalancer": self._loadbalancer,
            "options": self._cluster_options(cls),
        }
        self.members(value, path, "a cluster", checks, ("spec",))

    def _cluster_options(self, cls: Any) -> Check:
        """The circuit breaker's, which every cluster has, and those of the protocol."""

        def check(value: Any, path: str) -> None:
            own = value
            if isinstance(value, dict):
                own = {name: limit for name, limit in value.items() if name not in BREAKER}
                self.problems += check_numbers({name: limit for name, limit in value.items() if name in BREAKER}, BREAKER, path)
            self._options(cls, None)(own, path)

        return check

    def _endpoints(self, cls: Any) -> Check:
        def check(value: Any, path: str) -> None:
            if cls is not None and cls.virtual:
                if value not in ([], 0):
                    self.wrong(path, value, f"no endpoints: {cls.protocol} is virtual")
            else:
                self.each("endpoints", self.endpoint)(value, path)

        return check

    def endpoint(self, value: Any, path: str) -> None:
        spec: dict[str, Check] = {"address": self._address, "port": self.number(1, 65_535)}
        checks: dict[str, Check] = {
            "name": self.name,
            "spec": self.an(
                "an endpoint's spec",
                spec,
                "address",
            ),
            "weight": self.number(0, 1_000_000, whole=False),
        }
        self.members(value, path, "an endpoint", checks, ("spec",))

    def _address(self, value: Any, path: str) -> None:
        if not isinstance(value, str) or not _is_address(value):
            self.wrong(path, value, "an address: an IP address, a host name or a file", _address_hint(value))

    def _loadbalancer(self, value: Any, path: str) -> None:
        checks: dict[str, Check] = {"policy": self.choice(*POLICIES), "key": self.text}
        if self.members(value, path, "a load balancer", checks, ("policy",)) and value.get("policy") == "sticky" and "key" not in value:
            self.problems.append(Problem("policy 'sticky' needs 'key'", path, allowed="a path into the session's metadata"))

    def rulelist(self, value: Any, path: str) -> None:
        checks: dict[str, Check] = {
            "name": self.name,
            "rules": self.each("rules", self.name_or("rule")),
            "order": self.choice("first", "specific"),
        }
        self.members(value, path, "a rule list", checks, ("rules",))

    def rule(self, value: Any, path: str) -> None:
        rewrite: dict[str, Check] = {"path": self.text, "value": self.anything}
        action: dict[str, Check] = {
            "rewrite": self.each("rewrites", self.an("a rewrite", rewrite, "path", "value")),
            "route": self.name_or("route"),
            "apply": self.reference("rulelist"),
        }
        checks: dict[str, Check] = {
            "name": self.name,
            "match": self._match,
            "action": self.an("an action", action),
        }
        self.members(value, path, "a rule", checks, ("action",))

    def _match(self, value: Any, path: str) -> None:
        try:
            compile_match(value, path=path)
        except ConfigError as error:
            self.problems += error.problems

    def route(self, value: Any, path: str) -> None:
        retry: dict[str, Check] = {
            "retry_on": self.choice(*RETRY_ON),
            "num_retries": self.number(0, 100),
            "timeout": self.number(1, 3_600_000, whole=False),
        }
        cluster = self.name_or("cluster")
        checks: dict[str, Check] = {
            "name": self.name,
            "destination": cluster,
            "cluster": cluster,
            "ingress": self.each("clusters", cluster),
            "egress": self.each("clusters", cluster),
            "retry": self.an(
                "a retry policy",
                retry,
                "retry_on",
            ),
            "fallback": cluster,
            "options": self.mapping,
        }
        required = () if isinstance(value, Mapping) and "cluster" in value else ("destination",)
        self.members(value, path, "a route", checks, required)

    def admin(self, value: Any, path: str) -> None:
        offload: tuple[Any, ...] = ("init", "no_init", "disable", True, False)
        allowed = "one of init, no_init, disable, true, false"
        checks: dict[str, Check] = {
            "log_level": self.choice(*LOG_LEVELS),
            "log_file": self.text,
            "access_log_path": self.text,
            "access_log": self.access_log,
            "strict": self.boolean,
            "offload": lambda v, p: None if any(v is o or (v == o and isinstance(v, str)) for o in offload) else self.wrong(p, v, allowed),
            "offload_ifs": lambda v, p: (self.each("names", self.text) if isinstance(v, list) else self.text)(v, p),
            "version": self.anything,
        }
        self.members(value, path, "admin", checks)

    def access_log(self, value: Any, path: str) -> None:
        try:
            access.read(value, path)
        except ConfigError as error:
            self.problems += error.problems

    def _class(self, side: str, value: object) -> Any:
        spec = value.get("spec") if isinstance(value, Mapping) else None
        protocol = spec.get("protocol") if isinstance(spec, Mapping) else None
        return getattr(self.protocols, side)(protocol) if isinstance(protocol, str) else None

    def _spec(self, side: str) -> Check:
        def check(value: Any, path: str) -> None:
            names = getattr(self.protocols, f"{side}_names")()
            if not isinstance(value, dict):
                self.wrong(path, value, f"the spec of a {side}, an object")
                return
            cls = self._class(side, {"spec": value})
            if cls is not None:
                self.problems += cls.check(value, path)
            elif "protocol" not in value:
                self.problems.append(Problem(f"the spec of a {side} needs 'protocol'", path, seen=shown(value), allowed=", ".join(names)))
            else:
                seen = value["protocol"]
                text = f"unknown protocol {seen!r}"
                self.problems.append(
                    Problem(text, f"{path}.protocol", seen=shown(seen), allowed=", ".join(names), hint=did_you_mean(str(seen), names))
                )

        return check


def _is_address(text: str) -> bool:
    """A file has a slash, which that of a URL does not make it; else it is an IP address or a name (RFC 1123, and "_"; "@" before a name
    is a socket without a file). Digits and dots that are no IPv4 address are no name either."""
    if "/" in text:
        return "://" not in text
    return literal(text, 0) is not None or re.fullmatch(r"(?![\d.]+$)@?[\w.-]+", text) is not None


def _address_hint(value: object) -> str:
    """What was probably meant: people write an endpoint as they would in a browser."""
    found = re.fullmatch(r"(?:\w+://)?(\[[^\]]*\]|[\w.-]+)(?::(\d+))?/?", value) if isinstance(value, str) else None
    if found is None or found[0] == found[1]:
        return ""
    return f"address: {found[1].strip('[]')!r}" + (f", port: {found[2]}" if found[2] else "")


def inspect(kind: str, value: object, path: str, protocols: Protocols = registry) -> list[Problem]:
    """Everything wrong with one object by the strict standard. kind: listener, cluster, endpoint, rulelist, rule or route."""
    inspector = Inspector(protocols)
    getattr(inspector, kind)(value, path)
    return inspector.problems


# -- whole documents ---------------------------------------------------------------------------------------------------------------------


def from_document(
    document: object, *, base: Config | None = None, allow_dangling: bool = False, protocols: Protocols = registry
) -> tuple[Config, tuple[Problem, ...]]:
    """Build a whole configuration. Returns it and warnings; raises ConfigError with every problem.

    base: the configuration it is to replace: what is equal keeps its identity, so that the proxy keeps what runs, and a document
    that changes nothing gives `base` itself. Implicit names count from 0, so the same document always gives the same names.
    """
    if not isinstance(document, Mapping):
        raise ConfigError(
            Problem(f"expected a configuration, an object, got {shown(document)}", "$", seen=shown(document), allowed=", ".join(_KNOWN))
        )
    builder = _Builder(document, protocols)
    builder.build()
    dangling = list(builder.dangling())
    found = [f for f in findings(builder.config, Matchers(), protocols) if f.code != "dangling"]
    builder.problems += [builder.problem(f) for f in found if f.code == "loop"] + ([] if allow_dangling else dangling)
    if builder.problems:
        raise ConfigError(*builder.problems)
    return _rebased(builder.config, base), (*dangling, *map(builder.problem, found))


class _Builder:
    """Inspects and builds every object of a document, and remembers where each one stood."""

    def __init__(self, document: Raw, protocols: Protocols) -> None:
        self.document = document
        self.draft = Draft(Config(), protocols)
        self.inspector = Inspector(protocols)
        self.problems = self.inspector.problems
        self.places: dict[tuple[str, str], str] = {}
        self.declared: set[tuple[str, str]] = set()
        """(kind, name) of objects that could not be built: a reference to one of them is not dangling."""
        self.ports: dict[tuple[Any, ...], object] = {}
        """(transport, address, port) -> name of the listener that asks for it first."""
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

    def build(self) -> None:
        checks: dict[str, Check] = dict.fromkeys(_KNOWN, self.inspector.anything)
        checks["admin"] = self.inspector.admin
        self.inspector.members(self.document, "$", "the configuration", checks)
        self.draft.admin = _admin(self.document.get("admin"))
        for section, kind in SECTIONS.items():
            objects = self.document.get(section)
            if objects is not None and not isinstance(objects, list):
                self.inspector.wrong(f"$.{section}", objects, f"a list of {section}")
                continue
            for i, raw in enumerate(objects or ()):
                self._build(kind, raw, f"$.{section}[{i}]")

    def _build(self, kind: str, raw: object, path: str) -> None:
        before = len(self.problems)
        getattr(self.inspector, kind)(raw, path)
        if kind == "listener":
            self._claim(raw, path)
        self._name(kind, raw, path, strict=len(self.problems) > before)
        if len(self.problems) == before:
            try:
                self._place(kind, getattr(self.draft, f"add_{kind}")(raw), raw, path)
                return
            except Error as error:
                self.problems.append(Problem(error.detail, path))
        if isinstance(raw, Mapping):
            self.declared |= set(_names_in(kind, raw))

    def _name(self, kind: str, raw: object, path: str, strict: bool) -> None:
        """An object of a section has a name, and one that no other has. strict: it has other problems, so nobody will try to add it."""
        if not isinstance(raw, Mapping):
            return
        name = raw.get("name")
        if "name" not in raw and kind in ("cluster", "rulelist", "rule", "route"):
            noun = "rule list" if kind == "rulelist" else kind
            self.problems.append(Problem(f"a {noun} needs 'name'", path, seen=", ".join(map(repr, raw))))
        elif isinstance(name, str) and ((strict and name in getattr(self.draft, kind + "s")) or (kind, name) in self.declared):
            self.problems.append(Problem(f"{kind} {name!r} is already defined", f"{path}.name", seen=shown(name)))

    def _claim(self, raw: Any, path: str) -> None:
        """Two listeners on one port of one transport and address: the second is a problem. Across addresses only binding can tell."""
        spec = raw.get("spec") if isinstance(raw, Mapping) else None
        protocol = spec.get("protocol") if isinstance(spec, Mapping) else None
        cls = self.inspector.protocols.listener(protocol) if isinstance(protocol, str) else None
        claim = cls.claim(spec) if cls is not None else None
        if claim is not None:
            holder = self.ports.setdefault(claim, raw.get("name"))
            if holder != raw.get("name"):
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
        if name is not None and isinstance(raw, Mapping):
            self._place(kind, name, raw, path)


def _names_in(kind: str, raw: object) -> Iterable[tuple[str, str]]:
    """(kind, name) of an object that could not be built and of everything with a name inside it, as far as that can be told."""
    inside = {"listener": {"rules": "rule"}, "rulelist": {"rules": "rule"}, "rule": {"action": "action"}, "action": {"route": "route"}}
    inside["route"] = dict.fromkeys(("destination", "cluster", "ingress", "egress", "fallback"), "cluster")
    if isinstance(raw, list):
        for item in raw:
            yield from _names_in(kind, item)
    elif isinstance(raw, Mapping):
        if isinstance(raw.get("name"), str):
            yield kind, raw["name"]
        for member, child in inside.get(kind, {}).items():
            yield from _names_in(child, raw.get(member))


def _admin(raw: object) -> Admin:
    """The settings that have the right type; the others are problems already."""
    if not isinstance(raw, Mapping):
        return Admin()
    known = {f: raw[f] for f in ("log_level", "log_file", "access_log_path", "strict", "offload", "offload_ifs") if raw.get(f) is not None}
    options = {"options": {"access_log": raw["access_log"]}} if raw.get("access_log") is not None else {}
    try:
        return msgspec.convert(known | options, Admin)
    except msgspec.ValidationError:
        return Admin()


def _rebased(config: Config, base: Config | None) -> Config:
    """The same value, made of base's objects where they are equal."""
    if base is None:
        return config
    tables = {}
    for table in ("listeners", "clusters", "rulelists", "rules", "routes"):
        old: dict[str, object] = getattr(base, table)
        tables[table] = {name: old[name] if old.get(name) == obj else obj for name, obj in getattr(config, table).items()}
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
