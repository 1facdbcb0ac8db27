"""What is odd about a configuration that is well-formed: `findings(config)`, a pass over the whole that changes nothing.

    dangling     a name that leads nowhere: allowed, because names bind late; sessions that need it fail
    loop         a rule list that applies itself: sessions that go round fail
    invalid      a match that cannot be compiled: it never matches
    duplicate, never-fires    a rule that can never decide, because an earlier one takes all its sessions
    spelling     a value that no request has in this spelling: the rule never matches
    rewrite      a rewrite of a request that cannot be sent: it does nothing
    ignored      weights of endpoints that the cluster's policy does not look at
    itself       a cluster that leads to a listener of this very process: one after the other is legitimate, round and round is not
    shared       a port that two listeners of datagrams have, as l7mp lets them: the last one gets what comes
    datagram     a datagram stream that is routed into a byte stream: the limits between messages get lost

l7mp's own calls take all of them with a warning. A whole configuration (file, POST /config) is refused for the first two, for an invalid
match, and, unless it is a file of l7mp's, for a port that is shared; carrier/config/document.py decides that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal

import msgspec

from carrier.core import registry
from carrier.core.fence import Own, claimed
from carrier.core.metadata import pieces_of, rewrite_at, text_bytes
from carrier.core.slices import Steps, whole
from carrier.errors import did_you_mean
from carrier.rules.spelling import misspelt
from carrier.rules.table import Matchers
from carrier.wire.http import TOKEN
from carrier.wire.making import rewritable

if TYPE_CHECKING:
    from carrier.config.draft import Protocols
    from carrier.model import Config, Route

Code = Literal["dangling", "loop", "invalid", "duplicate", "never-fires", "datagram", "ignored", "spelling", "itself", "rewrite", "shared"]

UNWEIGHTED = ("Trivial", "None")
"""Policies that look at no weight (carrier/core/balance.py)."""


class Finding(msgspec.Struct, frozen=True):
    """One oddity: the object (kind, name) it is in, `at` which member of it, and a sentence."""

    code: Code
    kind: str
    name: str
    at: str
    text: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.hint})" if self.hint else self.text


def findings(config: Config, matchers: Matchers, protocols: Protocols = registry) -> tuple[Finding, ...]:
    """Everything odd. matchers: the compiled rule lists, shared with the proxy."""
    return whole(looking(config, matchers, protocols))


def looking(config: Config, matchers: Matchers, protocols: Protocols = registry) -> Steps[tuple[Finding, ...]]:
    """The same in slices."""
    found: list[Finding] = []
    useless = yield from _useless(config, matchers)
    parts: tuple[Iterable[Finding | None], ...] = (
        _dangling(config),
        _loops(config),
        useless,
        _misspelt(config, matchers),
        _unsendable(config),
        _datagrams(config, protocols),
        _ignored(config),
        _itself(config, protocols),
        _shared(config, protocols),
    )
    for part in parts:
        for one in part:
            if one is not None:
                found.append(one)
            yield
        yield
    return tuple(found)


def warnings(config: Config, matchers: Matchers | None = None, protocols: Protocols = registry) -> tuple[str, ...]:
    """The findings as sentences."""
    return tuple(map(str, findings(config, matchers or Matchers(), protocols)))


# -- names ------------------------------------------------------------------------------------------------------------------------------


def _dangling(config: Config) -> Iterator[Finding]:
    if not _any_dangling(config):  # as good as always, and told in a tenth of the time
        return
    for holder, name, at, kind, wanted in _references(config):
        table = getattr(config, kind + "s")
        if wanted not in table:
            noun = {"rulelist": "rule list"}.get(kind, kind)
            text = f"{_noun(holder)} {name!r} refers to {noun} {wanted!r}, which is not defined"
            yield Finding("dangling", holder, name, at, text, did_you_mean(wanted, table))


def _any_dangling(config: Config) -> bool:
    actions = [rule.action for rule in config.rules.values()]
    routes = config.routes.values()
    lists = {listener.rules for listener in config.listeners.values()} | {action.apply for action in actions}
    rules = {name for rulelist in config.rulelists.values() for name in rulelist.rules}
    wanted = {action.route for action in actions if action.apply is None}
    clusters = {route.destination for route in routes} | {route.fallback for route in routes}
    clusters |= {name for route in routes if route.ingress or route.egress for name in (*route.ingress, *route.egress)}
    found = (lists, config.rulelists), (rules, config.rules), (wanted, config.routes), (clusters, config.clusters)
    return any(names - {None} - table.keys() for names, table in found)


def _references(config: Config) -> Iterator[tuple[str, str, str, str, str]]:
    """Every reference: (kind, name and member of the object that has it, kind and name of what it refers to)."""
    for listener in config.listeners.values():
        yield "listener", listener.name, ".rules", "rulelist", listener.rules
    for rulelist in config.rulelists.values():
        for i, rule in enumerate(rulelist.rules):
            yield "rulelist", rulelist.name, f"[{i}]", "rule", rule
    for rule_ in config.rules.values():
        if rule_.action.apply is not None:
            yield "rule", rule_.name, ".action.apply", "rulelist", rule_.action.apply
        elif rule_.action.route is not None:  # beside an apply, the route is never taken
            yield "rule", rule_.name, ".action.route", "route", rule_.action.route
    for route in config.routes.values():
        for at, cluster in _clusters_of(route):
            yield "route", route.name, at, "cluster", cluster


def _clusters_of(route: Route) -> Iterator[tuple[str, str]]:
    yield ".destination", route.destination
    for way in ("ingress", "egress"):
        for i, cluster in enumerate(getattr(route, way)):
            yield f".{way}[{i}]", cluster
    if route.fallback is not None:
        yield ".fallback", route.fallback


def _noun(kind: str) -> str:
    return "rule list" if kind == "rulelist" else kind


# -- jumps ------------------------------------------------------------------------------------------------------------------------------


def _jumps(config: Config, rulelist: str) -> Iterator[tuple[str, str]]:
    """(rule, rule list it applies) of a rule list."""
    found = config.rulelists.get(rulelist)
    for name in found.rules if found is not None else ():
        rule = config.rules.get(name)
        if rule is not None and rule.action.apply is not None:
            yield name, rule.action.apply


def _loops(config: Config) -> Iterator[Finding]:
    """Each rule whose jump closes a circle, found by a walk in depth without recursion."""
    if all(rule.action.apply is None for rule in config.rules.values()):
        return
    done: set[str] = set()
    for start in config.rulelists:
        path: list[str] = []
        stack: list[tuple[str, Iterator[tuple[str, str]]]] = []
        if start not in done:
            path.append(start)
            stack.append((start, _jumps(config, start)))
        while stack:
            here, jumps = stack[-1]
            for rule, to in jumps:
                if to in path:
                    circle = " → ".join([*path[path.index(to) :], to])
                    text = f"rule {rule!r} closes a circle of rule lists that apply each other: {circle}"
                    yield Finding("loop", "rule", rule, ".action.apply", text)
                elif to not in done:
                    path.append(to)
                    stack.append((to, _jumps(config, to)))
                    break
            else:
                done.add(here)
                path.pop()
                stack.pop()


# -- matches ----------------------------------------------------------------------------------------------------------------------------


def _useless(config: Config, matchers: Matchers) -> Steps[list[Finding]]:
    listed: list[Finding] = []
    for rulelist in config.rulelists.values():
        matcher = yield from matchers.getting(config, rulelist.name)
        name = f"rule list {rulelist.name!r}"
        found = yield from matcher.looking()
        listed += [Finding(one.kind, "rule", one.rule, ".match", f"{name}: {one.text}") for one in found]
    return listed


def _misspelt(config: Config, matchers: Matchers) -> Iterator[Finding | None]:
    """None where the event loop may go on."""
    for rulelist in config.rulelists.values():
        matcher = matchers.get(config, rulelist.name)
        for name, condition in zip(matcher.names, matcher.conditions, strict=True):
            for written, hint in misspelt(condition.node) if condition is not None else ():
                text = f"rule list {rulelist.name!r}: rule {name!r} asks for {written!r}, which no request has in this spelling"
                yield Finding("spelling", "rule", name, ".match", text, hint)
            yield None


# -- rewrites ---------------------------------------------------------------------------------------------------------------------------


def _unsendable(config: Config) -> Iterator[Finding]:
    for name, rule in config.rules.items():
        for i, change in enumerate(rule.action.rewrite if rule.action.apply is None else ()):
            pieces = pieces_of(change.path)
            tree = rewrite_at({}, change.path, change.value)
            for what, why in _lost(tree.get("HTTP") if isinstance(tree, dict) else None, pieces):
                text = f"rule {name!r} rewrites {what}, which is not sent: {why}"
                yield Finding("rewrite", "rule", name, f".action.rewrite[{i}]", text)


def _lost(http: object, pieces: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """What of a rewritten "HTTP" is not sent, and why; pieces: the path that was written."""
    if not isinstance(http, dict):
        return
    headers, url, method = (http.get(part) for part in ("headers", "url", "method"))
    for field, value in headers.items() if isinstance(headers, dict) else ():
        why = rewritable(text_bytes(field).lower(), None if value is None else text_bytes(value))
        if why:
            yield f"header {field!r}", why
    if method is not None and not TOKEN.fullmatch(text_bytes(method)):
        yield "the method", f"{method!r} is not a token"
    if pieces[:2] == ("HTTP", "url") and len(pieces) > 2 and pieces[2] in ("query", "url", "href"):
        yield "/" + "/".join(pieces), "the path with its query is at /HTTP/url/path"
    elif isinstance(url, str):
        yield "/HTTP/url", "it is an object; the path with its query is at /HTTP/url/path"


# -- kinds of streams -------------------------------------------------------------------------------------------------------------------


def _datagrams(config: Config, protocols: Protocols) -> Iterator[Finding]:
    for listener in config.listeners.values():
        cls = protocols.listener(listener.spec.get("protocol", ""))
        if cls is None or cls.kind_of(listener.spec) != "datagram":
            continue
        for route in _routes_of(config, listener.rules):
            cluster = config.clusters.get(route.destination)
            to = protocols.cluster(cluster.spec.get("protocol", "")) if cluster is not None else None
            if cluster is not None and to is not None and to.kind_of(cluster.spec) == "byte" and not to.virtual:
                text = f"listener {listener.name!r} takes datagrams; by route {route.name!r} they go to {cluster.name!r}, a stream of bytes"
                yield Finding("datagram", "route", route.name, ".destination", text, "the limits between datagrams get lost")


def _routes_of(config: Config, rulelist: str) -> Iterable[Route]:
    """Every route that a session of this rule list may take."""
    lists = [rulelist]
    routes: dict[str | None, None] = {}
    for name in lists:
        found = config.rulelists.get(name)
        rules = [config.rules[rule] for rule in (found.rules if found is not None else ()) if rule in config.rules]
        lists += [r.action.apply for r in rules if r.action.apply is not None and r.action.apply not in lists]
        routes.update({r.action.route: None for r in rules if r.action.apply is None and r.action.route in config.routes})
    return [config.routes[name] for name in routes if name is not None]


# -- weights ----------------------------------------------------------------------------------------------------------------------------


def _ignored(config: Config) -> Iterator[Finding]:
    for name, cluster in config.clusters.items():
        if cluster.loadbalancer.policy in UNWEIGHTED and len({endpoint.weight for endpoint in cluster.endpoints}) > 1:
            policy = cluster.loadbalancer.policy
            text = f"cluster {name!r} has endpoints of different weight, and its policy {policy} takes the first that is up"
            yield Finding(
                "ignored", "cluster", name, ".endpoints", text, "say loadbalancer: {policy: round_robin}, or random or least_sessions"
            )


# -- ports that are shared --------------------------------------------------------------------------------------------------------------


def _shared(config: Config, protocols: Protocols) -> Iterator[Finding]:
    """Two listeners of anything else at one port are refused when the second is bound."""
    last: dict[object, str] = {}
    for name, listener in config.listeners.items():
        kind = protocols.listener(listener.spec.get("protocol", ""))
        claim = kind.claim(listener.spec) if kind is not None else None
        if claim is None or claim[0] != "udp":
            continue
        before, last[claim] = last.get(claim), name
        if before is not None:
            text = f"listener {name!r} has port {claim[2]} of listener {before!r}: until it is removed, {before!r} gets no datagram"
            yield Finding("shared", "listener", name, ".spec.port", text)


# -- ways to ourselves ------------------------------------------------------------------------------------------------------------------


def _itself(config: Config, protocols: Protocols) -> Iterator[Finding | None]:
    """None where the event loop may go on."""
    at: dict[tuple[str, int], list[tuple[str, Own]]] = {}
    for listener in config.listeners.values():
        for key in (own := claimed((listener,), protocols.listener)).places:
            at.setdefault((key[0], key[2]), []).append((listener.name, own))
    found: dict[str, list[tuple[int, str, str]]] = {}
    for name, cluster in config.clusters.items():
        kind = protocols.cluster(cluster.spec.get("protocol", ""))
        for i, endpoint in enumerate(cluster.endpoints):
            if kind is None:
                break
            host, port = str(endpoint.spec.get("address")), endpoint.spec.get("port", cluster.spec.get("port"))
            of_port = (kind.transport, port) if isinstance(port, int) else ("unix", -1)
            for listener_, own in at.get(of_port, ()):
                if own.at(kind.transport, host, port):
                    found.setdefault(name, []).append((i, f"{host}:{port}" if port else host, listener_))
        yield None
    for name, ways in found.items():
        for i, where, listener_ in ways:
            text = f"cluster {name!r} leads to listener {listener_!r} of this proxy ({where})"
            if name in _reached(config, listener_, found):
                text += ", which leads back to it: sessions go round until they are refused, requests with 508 (options.max_hops)"
            yield Finding("itself", "cluster", name, f".endpoints[{i}]", text)


def _reached(config: Config, listener: str, ways: Mapping[str, list[tuple[int, str, str]]]) -> set[str]:
    """The clusters that a session of a listener may come to, through other listeners too."""
    listeners, clusters = [listener], set[str]()
    for name in listeners:
        for route in _routes_of(config, config.listeners[name].rules):
            clusters.update(cluster for _, cluster in _clusters_of(route))
        listeners += {to for cluster in clusters for _, _, to in ways.get(cluster, ())}.difference(listeners)
    return clusters
