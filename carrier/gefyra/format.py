"""Gefyra's configuration format, read: one of its documents in, one of ours out.

A port (`proxy[]`) becomes a listener of protocol `auto`, its `clusterUpstream` the cluster that everybody is served by (the shadow), each
bridge a rule before it with a cluster of its own and the shadow as its fallback. Rules see what Gefyra's see: the path *with* its query,
regular expressions that search in a header's name and value, an empty `match` that takes everything, the first bridge in the file
that matches wins. Different, because there it is a defect: header names are compared without case, a regular expression that does not
compile is refused here, a port without `clusterUpstream` answers 503, and kubelet's probes never reach a laptop unless a rule names
`kube-probe`. Names are looked up when they are needed: one that does not resolve refuses nothing.

Probe ports become listeners that answer 200 (`probes: {httpGet, httpsGet}`), or a gRPC health check (`grpc`), or just accept (`tcpSocket`).
`protocol` of a port is ours: http, tcp, udp or auto (the default).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from carrier.core.resolve import is_here, literal
from carrier.errors import ConfigError, Problem, Problems, did_you_mean, shown
from carrier.model import Bridge, Config
from carrier.rules.notation import compile_match

PROTOCOLS = {"auto": "auto", "http": "HTTP", "tcp": "TCP", "udp": "UDP"}
PROBES = ("httpGet", "httpsGet", "tcpSocket", "grpc")
_PORT = ("port", "name", "protocol", "tls", "clusterUpstream", "bridges", "options")
_BRIDGE = ("endpoint", "tls", "sni", "rules", "fallback")
_TLS = ("certificate", "key", "sni", "ca", "client_auth")
HEADS: dict[str, float] = {"max_head": 128 * 1024, "max_fields": 256, "max_line": 16 * 1024}
OF_BYTES: dict[str, Any] = {"half_close_timeout": 0}
OF_REQUESTS: dict[str, Any] = {
    **HEADS,
    "header_timeout": 60,
    "keepalive_timeout": 0,
    "idle_timeout": 0,
    "body_min_rate": 0,
    "strict_target": 0,
    "strict_path": 0,
    "forwarding": "keep",
}
OF_ANSWERS: dict[str, Any] = {**HEADS, "answer_timeout": 0}
"""A port is what the app made it: no time limits but one for heads, wide heads, fields of the way as they came. What a port's `options` say
holds instead; those of OF_ANSWERS and UPSTREAM are for its clusters, heads for both."""
LISTENS: dict[str, dict[str, Any]] = {"auto": {**OF_REQUESTS, **OF_BYTES}, "HTTP": OF_REQUESTS, "TCP": OF_BYTES}
UPSTREAM = ("answer_timeout", "max_idle", "max_per_endpoint", "max_waiting", "max_pending", "max_retries", "health")
PROBE_AGENT = {"matchHeader": {"name": "user-agent", "value": "kube-probe/", "type": "prefix"}}
"""What kubelet says who it is: not a user, and never a reason to call a laptop."""
HOOK_AGENT = {"matchHeader": {"name": "user-agent", "value": "kube-lifecycle/", "type": "prefix"}}
"""And in a hook of the container (postStart, preStop): it means this one, which has nothing to do for it. The shadow, who did not start and
does not end, might shut down when it is told to."""

_TAKEN = ("shadow", "probes", "hooks")
"""Names that each port's own rules and cluster have, after the port's."""
_OWN_RULE = re.compile(r"\d+(/udp)?/(shadow|probes|hooks)")

Object = dict[str, Any]


def read(document: Mapping[str, Any], probes_first: bool = False) -> Object:
    """The document in our own format. Raises ConfigError with everything that is wrong with it.

    probes_first: keep kubelet's probes from bridges also where the document has none yet. Unknown top-level keys are passed over, as
    upstream passes them over (its server has dozens of them); inside a port, a bridge or a rule an unknown key is a mistake that would
    silently change who is served, and is refused.
    """
    reader = _Reader(probes_first)
    for i, port in enumerate(reader.items(document.get("proxy"), "$.proxy", "ports")):
        reader.port(port, f"$.proxy[{i}]", document.get("upstream_keepalive_pool_size"))
    reader.probes(document.get("probes"))
    reader.check_ways()
    if reader.problems:
        raise ConfigError(*reader.problems)
    found: Object = {"listeners": reader.listeners, "clusters": list(reader.clusters.values())}
    log = document.get("error_log")
    if isinstance(log, str) and log:
        found["admin"] = {"log_file": log}
    return found


def probe_ports(document: object) -> dict[str, list[int]]:
    """The ports of each kind of probe, as far as they are ports; for the log line that upstream writes."""
    probes = document.get("probes") if isinstance(document, Mapping) else None
    if not isinstance(probes, Mapping):
        return {}
    return {kind: [port for port in ports if _is_port(port)] for kind, ports in probes.items() if isinstance(ports, list)}


def alternatives(rules: object, path: str = "$.rules") -> list[list[Any]]:
    """A bridge's `rules` as lists of our conditions. Raises ConfigError with everything that is wrong with them."""
    reader = _Reader()
    found = [reader.rule(rule, f"{path}[{i}]") for i, rule in enumerate(reader.items(rules, path, "rules"))]
    if not found and not reader.problems:
        reader.wrong(path, rules, "at least one rule: which requests are this user's")
    if reader.problems:
        raise ConfigError(*reader.problems)
    return [one for one in found if one is not None]


class _Reader:
    """Collects the listeners, clusters and problems of one document."""

    def __init__(self, probes_first: bool = False) -> None:
        self.probes_first = probes_first
        self.problems = Problems()
        self.listeners: list[Object] = []
        self.clusters: dict[str, Object] = {}
        self.ports: dict[tuple[str, int], str] = {}
        self.ways: list[tuple[str, str, str, int]] = []
        """Of each bridge: path, transport, host and port of its endpoint."""

    # -- words ---------------------------------------------------------------------------------------------------------------------

    def wrong(self, path: str, seen: object, allowed: str) -> None:
        self.problems.append(Problem(f"cannot be {shown(seen)}", path, seen=shown(seen), allowed=allowed))

    def items(self, value: object, path: str, what: str) -> list[Any]:
        if value is None:
            return []
        if not isinstance(value, list):
            self.wrong(path, value, f"a list of {what}")
            return []
        return value

    def members(self, value: object, path: str, allowed: tuple[str, ...]) -> Mapping[str, Any]:
        """The object without the members that are null; unknown ones are problems."""
        if not isinstance(value, Mapping):
            self.wrong(path, value, f"an object with {', '.join(allowed)}")
            return {}
        for name in value:
            if name not in allowed:
                hint = did_you_mean(str(name), allowed)
                text = f"unknown field {name!r}"
                self.problems.append(Problem(text, f"{path}.{name}", seen=repr(name), allowed=", ".join(allowed), hint=hint))
        return {name: member for name, member in value.items() if member is not None}

    def text(self, value: object, path: str, default: str = "") -> str:
        if value is None:
            return default
        if not isinstance(value, str):
            self.wrong(path, value, "text")
            return default
        return value

    def claim(self, transport: str, port: int, path: str) -> None:
        """A port is one listener's."""
        first = self.ports.setdefault((transport, port), path)
        if first != path:
            self.problems.append(Problem(f"port {port} is taken by {first} already", path, seen=str(port)))

    def check_ways(self) -> None:
        """No bridge leads to a port of this very file. Other names and addresses of the machine are known where it runs."""
        for path, transport, host, port in self.ways:
            if (transport, port) in self.ports and (is_here(host) or host.lower().rstrip(".") == "localhost"):
                text = f"{host}:{port} is {self.ports[transport, port]}, a port of this proxy: a bridge to it would go round"
                self.problems.append(Problem(text, path, seen=f"{host}:{port}", allowed="where the user's container listens"))

    def listen(self, name: str, spec: Object, rules: list[Object], options: Object | None = None) -> None:
        """A listener. Everything has a name of its own, so that a file that changes renames nothing that stays."""
        for rule in rules:
            rule["action"] = {"route": {"name": rule["name"], **rule["action"]["route"]}}
        listener: Object = {"name": name, "spec": spec, "rules": {"name": name, "rules": rules}}
        if options:
            listener["options"] = options
        self.listeners.append(listener)

    # -- a port --------------------------------------------------------------------------------------------------------------------

    def port(self, raw: object, path: str, pool: object) -> None:
        """A listener, its shadow and its bridges."""
        body = self.members(raw, path, _PORT)
        if not body:
            return
        port = body.get("port", 0)
        if not _is_port(port):
            self.wrong(f"{path}.port", body.get("port"), "a port, 1..65535")
            return
        protocol = PROTOCOLS.get(str(body.get("protocol", "auto")).lower())
        if protocol is None:
            self.wrong(f"{path}.protocol", body["protocol"], ", ".join(PROTOCOLS))
            return
        self.claim("udp" if protocol == "UDP" else "tcp", port, f"{path}.port")
        tls = self.tls(body.get("tls"), f"{path}.tls")
        name = f"{port}/udp" if protocol == "UDP" else str(port)
        given = body.get("options", {})
        if not isinstance(given, Mapping):
            self.wrong(f"{path}.options", given, "an object: options of the port and of its clusters")
            given = {}
        before = {*self.clusters}
        shadow = self.shadow(name, protocol, body.get("clusterUpstream"), f"{path}.clusterUpstream", tls, pool)
        spec: Object = {"protocol": protocol, "port": port}
        if protocol == "UDP":
            spec["address"] = "::"  # both families, as the other ports have them without an address
        if tls is not None:
            spec["tls"] = {key: value for key, value in tls.items() if key != "sni"}
        rules = self.bridges(name, protocol, body.get("bridges"), f"{path}.bridges", tls, shadow)
        rules.append({"name": f"{name}/shadow", "action": {"route": {"destination": shadow}}})
        if protocol in ("auto", "HTTP"):
            upstream = {**OF_ANSWERS, **{key: value for key, value in given.items() if key in HEADS or key in UPSTREAM}}
            for added in self.clusters.keys() - before:
                cluster = self.clusters[added]
                cluster["options"] = {**upstream, **cluster.get("options", {})}
            given = {key: value for key, value in given.items() if key not in UPSTREAM}
            if len(rules) > 1:
                hooks = {"name": f"{name}/hooks", "match": HOOK_AGENT, "action": {"route": {"destination": self.answers("httpGet")}}}
                rules.insert(0, hooks)
        self.listen(f"port/{name}", spec, rules, {**LISTENS.get(protocol, {}), **given})

    def tls(self, raw: object, path: str) -> Object | None:
        if raw is None or raw is False:
            return None
        body = self.members(raw, path, _TLS)
        for name in ("certificate", "key"):
            if not body.get(name) or not isinstance(body[name], str):
                self.wrong(f"{path}.{name}", body.get(name), "the name of a PEM file")
        return dict(body)

    def shadow(self, name: str, protocol: str, raw: object, path: str, tls: Object | None, pool: object) -> str:
        """The cluster that serves whoever no bridge serves; without endpoints it answers 503."""
        endpoints = [self.endpoint(one, f"{path}[{i}]") for i, one in enumerate(self.items(raw, path, "HOST:PORT"))]
        sni = tls.get("sni") if tls is not None else None
        cluster = _cluster(f"{name}/shadow", protocol, [one for one in endpoints if one], _upstream_tls(tls is not None, sni))
        if isinstance(pool, int) and not isinstance(pool, bool) and 0 <= pool <= 1_000_000 and protocol in ("auto", "HTTP"):
            cluster["options"] = {"max_idle": pool}
        self.clusters[cluster["name"]] = cluster
        return str(cluster["name"])

    def endpoint(self, raw: object, path: str) -> tuple[str, int] | None:
        """HOST:PORT; the host is not looked up here."""
        host, _, port = raw.rpartition(":") if isinstance(raw, str) else ("", "", "")
        bare = host[1:-1] if host[:1] == "[" and host[-1:] == "]" else host
        bad = not bare or not bare.isprintable() or " " in bare or (":" in bare and literal(bare, 0) is None)
        if bad or not port.isascii() or not port.isdigit() or not 1 <= int(port[:6]) <= 65_535:
            self.wrong(path, raw, '"HOST:PORT", such as "app-gefyra-svc.default.svc.cluster.local:80"')
            return None
        return bare, int(port)

    # -- bridges -------------------------------------------------------------------------------------------------------------------

    def bridges(self, name: str, protocol: str, raw: object, path: str, tls: Object | None, shadow: str) -> list[Object]:
        """A rule for each bridge, in the order of the file, and one before them all that keeps probes from them."""
        if raw is not None and not isinstance(raw, Mapping):
            self.wrong(path, raw, "an object: bridges by their names")
            return []
        rules: list[Object] = []
        named: list[Object] = []
        for bridge, body in (raw or {}).items():
            place = f"{path}.{bridge}"
            if not re.fullmatch(r"[!-~]{1,200}", bridge):
                self.wrong(place, bridge, "a name without spaces")
                continue
            own = f"{name}/{_own_name(bridge)}"
            found = self.bridge(own, protocol, self.members(body, place, _BRIDGE), place, tls, shadow)
            if found is None:
                continue
            alternatives, action = found
            probing = [one for one in alternatives if _names_probes(one)]
            if probing:
                named.append({"name": f"{name}/probes/{bridge}", "match": {"any": probing}, "action": action})
            rules.append({"name": own, "match": {"any": alternatives}, "action": action})
        if (rules or self.probes_first) and protocol in ("auto", "HTTP"):
            probes = {"name": f"{name}/probes", "match": PROBE_AGENT, "action": {"route": {"destination": shadow}}}
            rules = [*named, probes, *rules]
        return rules

    def bridge(
        self, name: str, protocol: str, body: Mapping[str, Any], path: str, tls: Object | None, shadow: str
    ) -> tuple[list[Any], Object] | None:
        """(alternatives to match, action) of a bridge; None when it cannot be made."""
        if not body:
            return None
        endpoint = self.endpoint(body.get("endpoint"), f"{path}.endpoint")
        wants = body.get("tls", tls is not None)
        if not isinstance(wants, bool):
            self.wrong(f"{path}.tls", wants, "true or false")
            wants = False
        sni = self.text(body.get("sni"), f"{path}.sni", str((tls or {}).get("sni") or ""))
        fallback = body.get("fallback", "shadow")
        if fallback not in ("shadow", "error"):
            self.wrong(f"{path}.fallback", fallback, "shadow, error")
        alternatives = [
            self.rule(rule, f"{path}.rules[{i}]") for i, rule in enumerate(self.items(body.get("rules"), f"{path}.rules", "rules"))
        ]
        if endpoint is None:
            return None
        self.ways.append((f"{path}.endpoint", "udp" if protocol == "UDP" else "tcp", *endpoint))
        self.clusters[name] = _cluster(name, protocol, [endpoint], _upstream_tls(wants, sni))
        route: Object = {"destination": name}
        if fallback == "shadow":
            route["fallback"] = shadow
        return [one for one in alternatives if one is not None], {"route": route}

    def rule(self, raw: object, path: str) -> list[Any] | None:
        """The conditions of a rule, all of which must hold; None when one of them is wrong. Unlike upstream, `type` may be left out."""
        body = self.members(raw, path, ("match",))
        conditions = [
            self.condition(one, f"{path}.match[{i}]") for i, one in enumerate(self.items(body.get("match"), f"{path}.match", "conditions"))
        ]
        return None if None in conditions else conditions

    def condition(self, raw: object, path: str) -> Object | None:
        """One condition as our matcher reads it: with `raw`, so that it sees what upstream's does."""
        if not isinstance(raw, Mapping):
            self.wrong(path, raw, "{matchHeader: ...} or {matchPath: ...}")
            return None
        found: Object = {}
        for kind, body in raw.items():
            found[kind] = {**body, "raw": True} if kind in ("matchHeader", "matchPath") and isinstance(body, Mapping) else body
        try:
            compile_match(found, path=path)
        except ConfigError as error:
            self.problems += error.problems
            return None
        return found

    # -- probes --------------------------------------------------------------------------------------------------------------------

    def probes(self, raw: object) -> None:
        """A listener for each probe port that is no port of the app's: those are probed through the proxy."""
        if raw is None:
            return
        for kind, ports in self.members(raw, "$.probes", PROBES).items():
            if kind not in PROBES:
                continue
            for i, port in enumerate(self.items(ports, f"$.probes.{kind}", "ports")):
                if not _is_port(port):
                    self.wrong(f"$.probes.{kind}[{i}]", port, "a port, 1..65535")
                elif ("tcp", port) not in self.ports:
                    self.ports["tcp", port] = f"$.probes.{kind}[{i}]"
                    self.probe(kind, port)

    def probe(self, kind: str, port: int) -> None:
        spec: Object = {"protocol": "HTTP" if kind in ("httpGet", "httpsGet") else "TCP", "port": port}
        if kind == "httpsGet":
            spec["tls"] = {"self_signed": True}
        rules = [{"name": f"probe-{port}", "action": {"route": {"destination": self.answers(kind)}}}]
        self.listen(f"probe-{port}", spec, rules)

    def answers(self, kind: str) -> str:
        """The cluster that answers such probes."""
        answer = {"httpGet": "Answer", "httpsGet": "Answer", "tcpSocket": "Discard", "grpc": "GrpcHealth"}[kind]
        cluster = f"probe/{kind}"
        self.clusters.setdefault(cluster, {"name": cluster, "spec": {"protocol": answer}})
        return cluster


def is_everybodys(rule: str) -> bool:
    """Is it a port's own rule, the shadow's or the probes', and no bridge's?"""
    return _OWN_RULE.fullmatch(rule) is not None


class BridgesOfFile:
    """The bridges of Gefyra's file as user bridges, by their rules' names: `8080/john` is john's at port 8080. Found anew when the
    configuration is another one."""

    def __init__(self) -> None:
        self._config: Config | None = None
        self._found: dict[str, Bridge] = {}

    def __call__(self, config: Config) -> Mapping[str, Bridge]:
        if config is not self._config:
            self._config, self._found = config, dict(_bridges_in(config))
        return self._found


def _bridges_in(config: Config) -> Iterator[tuple[str, Bridge]]:
    for listener in config.listeners.values():
        port = listener.name.removeprefix("port/")
        if port == listener.name or listener.rules not in config.rulelists:
            continue
        found: dict[str, list[str]] = {}  # a bridge that names the probes has two rules
        for rule in config.rulelists[listener.rules].rules:
            route = config.rules[rule].action.route if rule in config.rules and config.rules[rule].bridge is None else None
            to = config.routes[route].destination if route in config.routes else ""
            if to.startswith(f"{port}/") and not is_everybodys(to):
                found.setdefault(to, []).append(rule)
        for cluster, rules in found.items():
            user = cluster.removeprefix(f"{port}/").removeprefix("bridge/")
            bridge = Bridge(cluster, user, {}, listener.name, tuple(rules), cluster)
            yield from ((rule, bridge) for rule in rules)


def _own_name(bridge: str) -> str:
    """What a bridge is called beside its port's own rules and clusters, whatever its user calls it."""
    return f"bridge/{bridge}" if "/" in bridge or bridge in (*_TAKEN, "bridge") else bridge


def _is_port(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65_535


def _upstream_tls(wanted: bool, sni: object) -> Object | None:
    """TLS towards the shadow or a laptop: with the name the format gives, and without a check of the certificate, as upstream does it."""
    if not wanted:
        return None
    return {"verify": False, **({"sni": sni} if isinstance(sni, str) and sni else {})}


def _cluster(name: str, protocol: str, endpoints: list[tuple[str, int]], tls: Object | None) -> Object:
    """A cluster of ours for endpoints of theirs."""
    spec: Object = {"protocol": protocol, "port": endpoints[0][1] if endpoints else 1}
    if tls is not None and protocol != "UDP":
        spec["tls"] = tls
    made = [{"name": f"{name}/{i}", "spec": {"address": host, "port": port}} for i, (host, port) in enumerate(endpoints)]
    return {"name": name, "spec": spec, "endpoints": made}


def _names_probes(conditions: list[Any]) -> bool:
    """Does a rule mean kubelet's probes?"""
    return any("kube-probe" in str(one.get("matchHeader", {}).get("value", "")) for one in conditions)
