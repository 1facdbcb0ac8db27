"""Objects of a configuration looked at one by one: every wrong type, unknown name and value out of range, with its place."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import Any

from carrier.config import accesslog as access
from carrier.config import traces
from carrier.config.draft import Protocols
from carrier.config.given import NAME, POLICIES
from carrier.core import health, registry
from carrier.core.breaker import BREAKER
from carrier.core.decision import check_statuses
from carrier.core.fence import Fence
from carrier.core.resolve import literal
from carrier.core.spec import NEEDS_PORT
from carrier.errors import ConfigError, Enough, Problem, Problems, brief, did_you_mean, shown
from carrier.options import check_numbers
from carrier.rules.match import Conditions
from carrier.rules.notation import compile_match

LOG_LEVELS = ("silly", "verbose", "debug", "info", "notice", "warn", "error", "silent")
TRUST = ("uid", "none")
"""`admin.trust_loopback`: a caller on loopback has shown who it is if its socket is our own user's or root's, or never."""
RETRY_ON = ("never", "connect-failure", "disconnect", "always")
NEEDS_ADDRESS = "an endpoint's spec needs 'address'"
SECTIONS = {"clusters": "cluster", "listeners": "listener", "rulelists": "rulelist", "rules": "rule", "routes": "route"}
"""Section of a document -> kind of its objects, in the order in which they are built."""
_IGNORED = ("sessions", "endpoints")
_KNOWN = ("admin", "bridges", *SECTIONS, *_IGNORED)
Check = Callable[[Any, str], None]


class Inspector:
    """Looks at decoded objects and collects every problem. One method per kind of object: `(value, path)`."""

    def __init__(self, protocols: Protocols = registry, conditions: Conditions | None = None) -> None:
        self.protocols = protocols
        self.conditions = conditions if conditions is not None else Conditions()
        """Matches that have been compiled already: nothing is wrong with them."""
        self.problems = Problems()
        self.references: list[tuple[str, str, str]] = []
        """(kind, name, path) of every name that refers to another object."""

    # -- words -------------------------------------------------------------------------------------------------------------------

    def wrong(self, path: str, value: object, allowed: str, hint: str = "") -> None:
        self.problems.append(Problem(f"cannot be {shown(value)}", path, seen=shown(value), allowed=allowed, hint=hint))

    def members(self, value: object, path: str, what: str, checks: Mapping[str, Check], required: Collection[str] = ()) -> bool:
        """An object: known members are checked, unknown and missing ones are problems. False when it is no object at all."""
        if not isinstance(value, dict):
            self.wrong(path, value, f"{what}, an object")
            return False
        for name, member in value.items():
            if name in checks:
                checks[name](member, f"{path}.{name}")
            else:
                name = brief(name)
                allowed = ", ".join(checks)
                hint = did_you_mean(str(name), checks)
                self.problems.append(
                    Problem(f"unknown field {name!r} in {what}", f"{path}.{name}", seen=repr(name), allowed=allowed, hint=hint)
                )
        for name in required:
            if name not in value:
                self.problems.append(
                    Problem(f"{what} needs {name!r}", path, seen=brief(", ".join(map(repr, value)), 200) or "{}", allowed=", ".join(checks))
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
        if not isinstance(value, str) or not NAME(value):
            self.wrong(path, value, "a name: text without spaces")

    def boolean(self, value: Any, path: str) -> None:
        if not isinstance(value, bool):
            self.wrong(path, value, "true or false")

    def anything(self, value: Any, path: str) -> None: ...

    def mapping(self, value: Any, path: str) -> None:
        if not isinstance(value, dict):
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
        cls = self._class("listener", value)
        checks: dict[str, Check] = {
            "name": self.name,
            "spec": self._spec("listener"),
            "rules": self._rules,
            "options": self._options(cls, {"track": self.number(0, 86_400, whole=False)}),
        }
        self.members(value, path, "a listener", checks, ("name", "spec", "rules"))
        if cls is not None and isinstance(value.get("options"), dict):
            self.problems += cls.check_inside(value["spec"], value["options"], f"{path}.options")

    def _options(self, cls: Any, plain: Mapping[str, Check] | None) -> Check:
        """The options of a protocol: its class checks them if it has some of its own; else `plain`, or anything."""

        def check(value: Any, path: str) -> None:
            found = cls.check_options(value, path) if cls is not None and isinstance(value, dict) else None
            if found is not None:
                self.problems += found
            elif plain is not None:
                self.members(value, path, "options", plain)
            else:
                self.mapping(value, path)

        return check

    def _rules(self, value: Any, path: str) -> None:
        if isinstance(value, dict):
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
        before = len(self.problems)
        self.members(value, path, "a cluster", checks, ("spec",))
        if isinstance(value, dict) and _have_ports(value.get("endpoints")):
            found = self.problems[before:]
            self.problems[before:] = [p for p in found if (p.message, p.path) != (NEEDS_PORT, f"{path}.spec")]
        if cls is not None and not cls.places:
            self.problems[before:] = [p for p in self.problems[before:] if p.message != NEEDS_ADDRESS]

    def _cluster_options(self, cls: Any) -> Check:
        """The circuit breaker's and those of health, which every cluster has, and those of the protocol."""

        def check(value: Any, path: str) -> None:
            if not isinstance(value, dict):
                self.mapping(value, path)
                return
            common = (*BREAKER, "health")
            own = dict(value)
            for name in common:
                own.pop(name, None)
            self.problems += check_numbers({name: value[name] for name in BREAKER if name in value}, BREAKER, path)
            if "health" in value:
                self.problems += health.check(value["health"], f"{path}.health")
            if cls is not None:
                found = cls.check_options(own, path)
                self.problems += found if found is not None else check_numbers(own, {}, path, common)

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
        spec: dict[str, Check] = {"address": self._address, "port": self.number(1, 65_535), "filename": self._address}
        file = isinstance(value, dict) and isinstance(value.get("spec"), dict) and "filename" in value["spec"]
        checks: dict[str, Check] = {
            "name": self.name,
            "spec": self.an(
                "an endpoint's spec",
                spec,
                *(() if file else ("address",)),
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

    @cached_property
    def _of_rule(self) -> dict[str, Check]:
        rewrite: dict[str, Check] = {"path": self.text, "value": self.anything}
        action: dict[str, Check] = {
            "rewrite": self.each("rewrites", self.an("a rewrite", rewrite, "path", "value")),
            "route": self.name_or("route"),
            "apply": self.reference("rulelist"),
        }
        return {
            "name": self.name,
            "match": self._match,
            "action": self.an("an action", action),
        }

    def rule(self, value: Any, path: str) -> None:
        self.members(value, path, "a rule", self._of_rule, ("action",))

    def _match(self, value: Any, path: str) -> None:
        if self.conditions.compiled(value):
            return
        try:
            compile_match(value, path=path)
        except ConfigError as error:
            self.problems += error.problems

    @cached_property
    def _of_route(self) -> dict[str, Check]:
        retry: dict[str, Check] = {
            "retry_on": self.choice(*RETRY_ON),
            "num_retries": self.number(0, 100),
            "timeout": self.number(1, 3_600_000, whole=False),
        }
        cluster = self.name_or("cluster")
        return {
            "name": self.name,
            "destination": cluster,
            "cluster": cluster,
            "ingress": self.each("clusters", cluster),
            "egress": self.each("clusters", cluster),
            "retry": self.an("a retry policy", retry, "retry_on"),
            "fallback": cluster,
            "options": self.an("the options of a route", {"retry_statuses": self.statuses}),
        }

    def route(self, value: Any, path: str) -> None:
        required = () if isinstance(value, dict) and "cluster" in value else ("destination",)
        self.members(value, path, "a route", self._of_route, required)

    def statuses(self, value: Any, path: str) -> None:
        """`retry_statuses` of a route."""
        self.problems += check_statuses({"retry_statuses": value}, path.rpartition(".")[0])

    def admin(self, value: Any, path: str) -> None:
        offload: tuple[Any, ...] = ("init", "no_init", "disable", True, False)
        allowed = "one of init, no_init, disable, true, false"
        checks: dict[str, Check] = {
            "log_level": self.choice(*LOG_LEVELS),
            "log_file": self.text,
            "access_log_path": self.text,
            "access_log": self.read_by(access.read),
            "traces": self.read_by(traces.read),
            "trust_loopback": self.choice(*TRUST),
            "page": self.boolean,
            "bridges": self.bridges,
            "strict": self.boolean,
            "offload": lambda v, p: None if any(v is o or (v == o and isinstance(v, str)) for o in offload) else self.wrong(p, v, allowed),
            "offload_ifs": lambda v, p: (self.each("names", self.text) if isinstance(v, list) else self.text)(v, p),
            "version": self.anything,
        }
        self.members(value, path, "admin", checks)

    def bridges(self, value: Any, path: str) -> None:
        """Where user bridges may lead."""
        self.members(value, path, "bridges", {"networks": self._networks})

    def _networks(self, value: Any, path: str) -> None:
        try:
            Fence(value)
        except (ValueError, TypeError) as exc:
            self.problems.append(Problem(str(exc), path, seen=shown(value), allowed='a list of networks: ["10.0.0.0/8", "2001:db8::/32"]'))

    def read_by(self, read: Callable[[object, str], object]) -> Check:
        """What its own reader says of an object of `admin`."""

        def check(value: Any, path: str) -> None:
            try:
                read(value, path)
            except ConfigError as error:
                self.problems += error.problems

        return check

    def _class(self, side: str, value: object) -> Any:
        spec = value.get("spec") if isinstance(value, dict) else None
        protocol = spec.get("protocol") if isinstance(spec, dict) else None
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


def _have_ports(endpoints: object) -> bool:
    """Has every endpoint a port of its own? Then the cluster needs none."""
    if not isinstance(endpoints, list) or not endpoints:
        return False
    specs = [endpoint.get("spec") if isinstance(endpoint, dict) else None for endpoint in endpoints]
    return all(isinstance(spec, dict) and "port" in spec for spec in specs)


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
    try:
        getattr(inspector, kind)(value, path)
    except Enough as enough:
        return list(enough.problems)
    return inspector.problems
