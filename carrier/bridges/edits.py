"""User bridges: one user's requests of a port go to her laptop, everybody else's stay where they were.

A bridge is an ordinary rule of the port's rule list, with a route and a cluster of its own, placed before the fallback rule (the first one
that takes everything). Its route's fallback is the shadow, the destination of that fallback rule, unless the bridge says "error".
Everything it stands on is named `bridge/NAME`; the rule is owned by the bridge, so DELETE and expiry take all of it away.

    PUT /api/v1/bridges/john   {"port": 8080, "user": "john", "match": {"matchHeader": {"name": "x-user", "value": "john"}},
                                "endpoint": "10.0.0.9:8000", "expires": 3600}

What would not work is refused with the reason (status 409, kind "conflict"): a rule whose requests another one takes all, or one that would
take all of another's; a rule that takes everybody's is refused too (400), unless it says that it means to: `{"type": "stream"}` bridges a
port as a whole. `validate` says all of this without doing it, and warns of a rule that is legal and wide. With `mirror` the laptop gets a
copy and the shadow answers. `Bridges` edits purely: a `Config` in, a `Config` out.

`Leases` takes bridges away when their time is over: they are remembered as expired for a while, and what still runs through them is given
`DRAIN` seconds. `plainly` says how a laptop is, in words that help its owner.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from carrier.bridges.asked import (
    FIELDS,
    READ_ONLY,
    Place,
    Wanted,
    alternatives_of,
    check_host,
    check_options,
    check_token,
    expiry_of,
    names_somebody,
    ports_of,
    takes_all,
)
from carrier.bridges.conflicts import check_conflicts
from carrier.bridges.shown import dump_bridge
from carrier.config.draft import Draft, Protocols
from carrier.config.given import refused
from carrier.config.inspector import inspect
from carrier.core import registry
from carrier.core.fence import Fence, Own, claimed
from carrier.core.slices import Steps, whole
from carrier.errors import ConfigError, Error, Problem, Problems, did_you_mean, shown
from carrier.model import Bridge, Config, Listener, RuleList
from carrier.rules.condition import Condition
from carrier.rules.match import Conditions
from carrier.rules.notation import compile_match

if TYPE_CHECKING:
    from carrier.core.cluster import Cluster
    from carrier.core.lookup import Place as Known

REMEMBERED = 100
"""Expired bridges that are listed, at most."""


class Bridges:
    """Edits of a configuration's user bridges. clock: seconds since 1970."""

    def __init__(
        self, protocols: Protocols = registry, clock: Callable[[], float] = time.time, conditions: Conditions | None = None
    ) -> None:
        self.protocols = protocols
        self.clock = clock
        self.conditions = conditions if conditions is not None else Conditions()
        """Compiled matches, shared with who routes by them."""
        self.fence = Fence()
        """Where bridges may lead."""
        self.names: Callable[[], Mapping[str, list[Known]]] = dict
        """Gives the names of /etc/hosts, some of which may be ours."""
        self._own: tuple[Config, Own] | None = None
        self.gone: dict[str, dict[str, Any]] = {}
        """Bridges that have expired, as they were shown, until one of that name is made again."""

    def put(self, config: Config, name: str, body: object) -> Config:
        """Make or replace bridge `name`, see `putting`."""
        return whole(self.putting(config, name, body))

    def putting(self, config: Config, name: str, body: object) -> Steps[Config]:
        """Make or replace bridge `name`; the configuration itself when that changes nothing.

        Raises ConfigError (bad body), Error("not-found") (no such port), Error("conflict").
        """
        listener, wanted = self._understand(config, name, body)
        old = config.bridges.get(name)
        if old is not None and old.user != wanted.user:
            raise Error("conflict", f"bridge {name!r} belongs to user {old.user}: choose another name, or let {old.user} delete it first")
        without = _without(config, name, self.protocols) if old is not None else config
        place = self._place(without, listener, wanted, _kept_position(config, old, listener))
        yield from check_conflicts(without, name, wanted, place, self.conditions)
        draft = Draft(without, self.protocols)
        self.insert(draft, name, wanted, place, place.at)
        new = draft.done()
        if old is not None:  # it keeps its place in the list of bridges too
            new = msgspec.structs.replace(new, bridges={other: new.bridges[other] for other in config.bridges})
        unchanged = msgspec.structs.replace(new, revision=config.revision) == config
        return config if unchanged else msgspec.structs.replace(new, revision=config.revision + 1)

    def understood(self, config: Config, name: str, body: object) -> tuple[Wanted, Place]:
        """A bridge that is not there yet, checked as far as other bridges do not matter, and where it would go. Raises as `put`."""
        listener, wanted = self._understand(config, name, body)
        return wanted, self._place(config, listener, wanted, None)

    def validate(self, config: Config, body: object) -> dict[str, Any]:
        """What would become of a bridge: `{"valid", "reasons", "warnings"}`, in sentences. The body is PUT's, and may have its `name`."""
        name = body.get("name") if isinstance(body, Mapping) else None
        try:
            new = self.put(config, name if isinstance(name, str) else "(new)", body)
        except ConfigError as error:
            return {"valid": False, "reasons": [str(problem) for problem in error.problems], "warnings": []}
        except Error as error:
            return {"valid": False, "reasons": [error.detail], "warnings": []}
        return {"valid": True, "reasons": [], "warnings": self.warnings(new, name if isinstance(name, str) else "(new)")}

    def warnings(self, config: Config, name: str) -> list[str]:
        """What is legal about a bridge and odd: it takes requests of others too."""
        bridge = config.bridges[name]
        if bridge.spec.get("type") == "stream":
            return [f"bridge {name!r} takes every session of listener {bridge.listener!r} that no other bridge takes, whoever it is from"]
        rule = config.rules[bridge.rules[0]]
        condition = compile_match(rule.match, strict=False)
        wide = [alternative for alternative in condition.alternatives if not any(map(names_somebody, alternative))]
        texts = [" and ".join(node.text for node in alternative).replace("/HTTP/url/path", "path") for alternative in wide]
        return [
            f"bridge {name!r} of user {bridge.user} takes everybody's requests with {text}: "
            "add a header, a cookie or a baggage member that only your requests have"
            for text in texts
        ]

    def renew(self, config: Config, name: str, body: object) -> Config:
        """Let a bridge live on: `{"expires": ...}` as in PUT. Raises Error("not-found"), ConfigError."""
        if name not in config.bridges:
            raise _unknown(config, name)
        problems = Problems()
        at = None
        if not isinstance(body, Mapping) or set(body) != {"expires"} or body["expires"] is None:
            problems.append(
                Problem("a bridge is renewed by 'expires' and nothing else", "$", seen=shown(body), allowed='{"expires": 3600}')
            )
        else:
            at = expiry_of(body["expires"], self.clock(), problems)
        if problems:
            raise ConfigError(*problems)
        renewed = msgspec.structs.replace(config.bridges[name], expires=at)
        return msgspec.structs.replace(config, bridges={**config.bridges, name: renewed}, revision=config.revision + 1)

    def delete(self, config: Config, name: str) -> Config:
        """Take a bridge away. Raises Error("not-found")."""
        if name not in config.bridges:
            raise _unknown(config, name)
        return msgspec.structs.replace(_without(config, name, self.protocols), revision=config.revision + 1)

    def expire(self, config: Config, now: float) -> Config:
        """Take away the bridges whose time is over at `now` (seconds since 1970); the same configuration when there are none."""
        due = [bridge.name for bridge in config.bridges.values() if bridge.expires is not None and bridge.expires <= now]
        new = config
        for name in due:
            new = _without(new, name, self.protocols)
        return msgspec.structs.replace(new, revision=config.revision + 1) if due else config

    def dump(self, config: Config, name: str | None = None, clusters: Mapping[str, Cluster] | None = None) -> Any:
        """A bridge, or all of them in a list, as PUT takes them, with `status` beside. Raises Error("not-found").

        clusters: those that run, for the health of endpoints. Those that have expired are listed too, and shown by their name.
        """
        running = clusters or {}
        if name is None:
            return [one if isinstance(one, dict) else dump_bridge(config, one, running) for one in self.listed(config)]
        if name in config.bridges:
            return dump_bridge(config, config.bridges[name], running)
        if name in self.gone and clusters is not None:
            return self.gone[name]
        raise _unknown(config, name)

    def listed(self, config: Config) -> list[Bridge | dict[str, Any]]:
        """All bridges, and behind them how those were shown that have expired."""
        return [*config.bridges.values(), *(gone for name, gone in self.gone.items() if name not in config.bridges)]

    def remember(self, config: Config, name: str) -> None:
        """A bridge of this configuration has expired: keep how it was shown."""
        self.gone.pop(name, None)
        found = dump_bridge(config, config.bridges[name], {})
        found["status"] = {"state": "expired", "listener": config.bridges[name].listener}
        self.gone[name] = found
        while len(self.gone) > REMEMBERED:
            del self.gone[next(iter(self.gone))]

    # -- what was asked for ------------------------------------------------------------------------------------------------------

    def _understand(self, config: Config, name: str, body: object) -> tuple[Listener, Wanted]:
        """The listener that is meant and the body, checked. Raises ConfigError with everything that is wrong with it; if all of that is
        that the port is not there, Error("not-found")."""
        problems = Problems()
        if not re.fullmatch(r"[^\s\x00-\x1f\x7f]{1,200}", name):
            problems.append(Problem(f"expected a name of 1 to 200 characters without spaces, got {shown(name)}", "$.name"))
        listener, missing = None, None
        try:
            listener = self._listener(config, body)
        except ConfigError as error:
            problems += error.problems
        except Error as error:
            missing = error
        wanted = self._read(name, listener, body, problems) if isinstance(body, Mapping) else None
        if wanted is not None and wanted.endpoint is not None:
            self._check_way(config, wanted.endpoint, problems)
        if problems and missing is not None:
            problems.insert(0, Problem(missing.detail, "$.port" if "port" in body else "$.listener"))  # type: ignore[operator]
        if problems:
            raise ConfigError(*problems)
        if missing is not None:
            raise missing
        assert listener is not None and wanted is not None
        return listener, wanted

    def _listener(self, config: Config, body: object) -> Listener:
        """The listener that `port` or `listener` means."""
        if not isinstance(body, Mapping):
            raise ConfigError(Problem(f"expected a bridge, an object, got {shown(body)}", "$", seen=shown(body), allowed=", ".join(FIELDS)))
        port, name = body.get("port"), body.get("listener")
        if port is None and name is None:
            raise ConfigError(Problem("a bridge needs 'port' (or 'listener')", "$", allowed=ports_of(config)))
        if port is not None and (not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65_535):
            raise ConfigError(Problem(f"expected a port 1..65535, got {shown(port)}", "$.port", seen=shown(port), allowed=ports_of(config)))
        found = [
            listener
            for listener in config.listeners.values()
            if (port is None or listener.spec.get("port") == port) and (name is None or listener.name == name)
        ]
        if not found:
            what = f"port {port}" if name is None else f"listener {shown(name)}" + (f" on port {port}" if port is not None else "")
            raise Error("not-found", f"there is no {what}; there is {ports_of(config)}")
        if len(found) > 1:
            names = ", ".join(f"{x.name} ({x.spec.get('protocol')})" for x in found)
            raise ConfigError(Problem(f"port {port} has several listeners: say which in 'listener'", "$.port", allowed=names))
        return found[0]

    def _read(self, name: str, listener: Listener | None, raw: Mapping[str, Any], problems: list[Problem]) -> Wanted | None:
        """The body, checked as far as one can without knowing the listener; None, with problems, when something is wrong with it."""
        body = {key: value for key, value in raw.items() if key not in READ_ONLY and value is not None}
        problems += [
            Problem(
                f"unknown field {shown(key)}", f"$.{key}", seen=shown(key), allowed=", ".join(FIELDS), hint=did_you_mean(str(key), FIELDS)
            )
            for key in body
            if key not in FIELDS
        ]
        if raw.get("name", name) != name:
            problems.append(Problem(f"the address says {name!r}", "$.name", seen=shown(raw["name"])))
        user = body.get("user")
        if not isinstance(user, str) or not user.strip() or not user.isprintable() or len(user) > 200:
            problems.append(Problem("a bridge needs 'user': whose it is", "$.user", seen=shown(user), allowed="1 to 200 signs that print"))
        fallback = body.get("fallback")
        if fallback not in (None, "shadow", "error"):
            problems.append(Problem("unknown fallback", "$.fallback", seen=shown(fallback), allowed="shadow, error"))
        options = body.get("options", {})
        if not isinstance(options, dict):
            problems.append(Problem(f"expected an object, got {shown(options)}", "$.options", seen=shown(options)))
        else:
            problems += check_options(options)
        host = check_host(body.get("host"), problems)
        check_token(body.get("token"), problems)
        mirror = body.get("mirror", False)
        if not isinstance(mirror, bool):
            problems.append(Problem("expected true or false", "$.mirror", seen=shown(mirror)))
        if mirror is True and host:
            problems.append(Problem("who only gets copies sets no Host: the shadow would get it, too", "$.host", seen=shown(host)))
        expires = expiry_of(body.get("expires"), self.clock(), problems)
        endpoint = self._endpoint(listener, body, problems)
        alternatives = alternatives_of(body, problems)
        condition = self._condition(listener, alternatives, body.get("type") == "stream", problems)
        if problems or condition is None:
            return None
        spec = {key: value for key, value in body.items() if key != "expires" and not (key == "token" and value is True)}
        matches = tuple(match for match, _ in alternatives)
        return Wanted(str(user), matches, condition, endpoint, fallback, options, expires, spec, mirror, host)

    def _endpoint(self, listener: Listener | None, body: Mapping[str, Any], problems: list[Problem]) -> Any:
        """The cluster object that leads to the endpoint, in the listener's own protocol; of an unknown port it is checked as for HTTP."""
        raw = body.get("endpoint")
        if listener is None and raw is not None and "port" not in body:  # it may be the file of a UNIX listener
            return None
        protocol = listener.spec.get("protocol", "") if listener is not None else "HTTP"
        cls = self.protocols.cluster(protocol)
        if cls is None or cls.virtual:
            if listener is None:  # nobody installed HTTP
                return None
            problems.append(Problem(f"listener {listener.name!r} speaks {protocol}, for which there is no cluster to bridge to", "$.port"))
            return None
        address: Any = raw
        more: dict[str, Any] = {}
        if isinstance(raw, str) and "port" in cls.fields:
            host, _, port = raw.rpartition(":")
            bare = host[1:-1] if host[:1] == "[" and host[-1:] == "]" else host
            if not bare or not port.isascii() or not port.isdigit() or not 1 <= int(port[:6]) <= 65_535 or (":" in host and bare == host):
                text = f"expected HOST:PORT, got {shown(raw)}"
                problems.append(Problem(text, "$.endpoint", seen=shown(raw), allowed='"10.0.0.9:8000", "[2001:db8::9]:8000", "name:8000"'))
                return None
            address, more = bare, {"port": int(port)}
        elif isinstance(raw, Mapping):
            address, more = raw.get("address"), {key: value for key, value in raw.items() if key != "address"}
        if raw is None or not isinstance(address, str) or not re.fullmatch(r"[^\s\x00-\x1f\x7f]{1,253}", address):
            text = "a bridge needs 'endpoint'" if raw is None else f"{shown(raw)} is no endpoint"
            allowed = '"10.0.0.9:8000", "[2001:db8::9]:8000", "name:8000"'
            problems.append(Problem(f"{text}: where the user's container listens", "$.endpoint", seen=shown(raw), allowed=allowed))
            return None
        if not self.fence.lets(address):
            text = f"bridges may not lead to {address}"
            problems.append(Problem(text, "$.endpoint", seen=shown(raw), allowed=f"{self.fence} (bridges.networks)"))
            return None
        cluster: dict[str, Any] = {"spec": {**more, "protocol": protocol}, "endpoints": [{"spec": {"address": address}}]}
        if "tls" in body:
            cluster["spec"]["tls"] = body["tls"]
        if "answer_timeout" in body:
            cluster["options"] = {"answer_timeout": body["answer_timeout"]}
        problems += inspect("cluster", cluster, "$.endpoint", self.protocols)
        return cluster

    def _check_way(self, config: Config, cluster: Mapping[str, Any], problems: list[Problem]) -> None:
        """Does a bridge's cluster lead to one of our own listeners? What a name server has to be asked for is noticed when connecting."""
        kind = self.protocols.cluster(cluster["spec"]["protocol"])
        address, port = cluster["endpoints"][0]["spec"]["address"], cluster["spec"].get("port")
        if self._own is None or self._own[0] is not config:
            self._own = config, claimed(config.listeners.values(), self.protocols.listener)
        if kind is not None and self._own[1].at(kind.transport, address, port, self.names()):
            text = f"{address}:{port} is a listener of this proxy: the bridge's requests would go round"
            problems.append(Problem(text, "$.endpoint", seen=shown(f"{address}:{port}"), allowed="where the user's container listens"))

    def _condition(
        self, listener: Listener | None, alternatives: Sequence[tuple[Any, str]], all_of_it: bool, problems: list[Problem]
    ) -> Condition | None:
        """All alternatives compiled; a problem for each one that is invalid, that takes everything, or that this listener cannot meet."""
        protocol = listener.spec.get("protocol", "") if listener is not None else ""
        name = f"listener {listener.name!r}" if listener is not None else "that port"
        cls = self.protocols.listener(protocol)
        for match, path in alternatives:
            try:
                condition = compile_match(match, path=path)
            except ConfigError as error:
                problems += error.problems
                continue
            needs = condition.needs
            if cls is not None and cls.kind != "message" and (needs.headers is None or needs.headers or needs.method or needs.url):
                text = f"{condition.text}: {name} speaks {protocol}, which has no headers, methods or paths"
                problems.append(Problem(text, path, allowed="conditions on addresses, such as matchSource"))
            elif not all_of_it and takes_all(condition):
                text = f"{condition.text} takes every session of {name}, also everybody else's"
                problems.append(Problem(text, path, hint="name a header, a path or an address that only your requests have"))
        return compile_match({"any": [match for match, _ in alternatives]}) if alternatives and not problems else None

    # -- where it goes -----------------------------------------------------------------------------------------------------------

    def _place(self, config: Config, listener: Listener, wanted: Wanted, kept: int | None) -> Place:
        rulelist = config.rulelists.get(listener.rules)
        if rulelist is None:
            raise refused(f"listener {listener.name!r} has no rules: its rule list {listener.rules!r} is not defined")
        sharing = [other.name for other in config.listeners.values() if other.rules == rulelist.name and other.name != listener.name]
        if sharing:
            text = f"listener {listener.name!r} shares its rule list {rulelist.name!r} with {', '.join(sharing)}"
            raise refused(f"{text}: a bridge would take requests of all of them; give it a rule list of its own")
        shadow = self._shadow(config, rulelist.name)
        serving = self.protocols.cluster(config.clusters[shadow].spec.get("protocol", "")) if shadow in config.clusters else None
        if serving is not None and serving.admin:
            raise refused(f"listener {listener.name!r} leads into the REST API; it cannot be bridged")
        if wanted.fallback == "shadow" and shadow is None:
            text = f"listener {listener.name!r} has no rule that takes everything: there is no shadow to fall back to"
            raise ConfigError(Problem(text, "$.fallback", seen="shadow", allowed="error"))
        end = self._first_wildcard(config, rulelist)
        limit = len(rulelist.rules) if end is None else end
        at, falls = limit if kept is None else min(kept, limit), wanted.fallback != "error"
        http = config.clusters[shadow].spec.get("http") if shadow in config.clusters else None
        return Place(listener, rulelist, at, shadow if falls else None, http)

    def _first_wildcard(self, config: Config, rulelist: RuleList, also_bridges: bool = True) -> int | None:
        """The position of the first rule that takes everything; a name that leads nowhere does too."""
        for i, name in enumerate(rulelist.rules):
            rule = config.rules.get(name)
            if rule is None:
                return i
            if rule.bridge is not None and not also_bridges:
                continue
            condition = self.conditions.get(name, rule.match)
            if not isinstance(condition, str) and condition.always:
                return i
        return None

    def _shadow(self, config: Config, rulelist: str) -> str | None:
        """The cluster that serves whatever no other rule of the list takes, through jumps."""
        seen: set[str] = set()
        while rulelist in config.rulelists and rulelist not in seen:
            seen.add(rulelist)
            at = self._first_wildcard(config, config.rulelists[rulelist], also_bridges=False)
            rule = config.rules.get(config.rulelists[rulelist].rules[at]) if at is not None else None
            if rule is None:
                return None
            if rule.action.apply is None:
                route = config.routes.get(rule.action.route or "")
                return route.destination if route is not None else None
            rulelist = rule.action.apply
        return None

    def insert(self, draft: Draft, name: str, wanted: Wanted, place: Place, at: int) -> None:
        """Put the bridge's rule (at this position), route, cluster and record into a draft. Raises ConfigError, Error("conflict")."""
        own = f"bridge/{name}"
        cluster = {**wanted.endpoint, "name": own, "endpoints": [{"name": own, **wanted.endpoint["endpoints"][0]}]}
        spoken = self.protocols.cluster(cluster["spec"]["protocol"])
        if place.http is not None and spoken is not None and "http" in spoken.fields:  # a laptop speaks what the shadow does, as for gRPC
            cluster["spec"] = {"http": place.http, **cluster["spec"]}
        route: dict[str, Any] = {"name": own, "destination": cluster}
        if wanted.mirror:
            if place.shadow is None:
                raise ConfigError(Problem("there is no shadow here that could answer while the laptop gets a copy", "$.mirror"))
            route |= {"destination": place.shadow, "ingress": [{"name": f"{own}/mirror", "spec": {"protocol": "Mirror", "cluster": own}}]}
        elif place.shadow is not None:
            route["fallback"] = place.shadow
        if wanted.options:
            route["options"] = wanted.options
        action: dict[str, Any] = {"route": route}
        if wanted.host:
            action["rewrite"] = [{"path": "/HTTP/headers/host", "value": wanted.host}]
        try:
            if wanted.mirror:
                draft.add_cluster(cluster)
            draft.insert_rule(place.rulelist.name, at, {"name": own, "match": wanted.match, "action": action})
        except Error as error:  # somebody gave an object of his own that name
            raise Error("conflict", f"bridge {name!r} cannot be made: {error.detail}") from None
        draft.rules[own] = msgspec.structs.replace(draft.rules[own], owner=own, bridge=name)
        draft.bridges[name] = Bridge(name, wanted.user, wanted.spec, place.listener.name, (own,), own, wanted.expires)


# -- reading ------------------------------------------------------------------------------------------------------------------------------


# -- placing ------------------------------------------------------------------------------------------------------------------------------


def _kept_position(config: Config, old: Bridge | None, listener: Listener) -> int | None:
    """Where the bridge's rule stands now: replaced, it stays there, so that the same PUT twice changes nothing."""
    rulelist = config.rulelists.get(listener.rules)
    if old is None or rulelist is None:
        return None
    return next((i for i, rule in enumerate(rulelist.rules) if rule in old.rules), None)


# -- taking away and showing --------------------------------------------------------------------------------------------------------------


def _without(config: Config, name: str, protocols: Protocols) -> Config:
    """The configuration without the bridge and what it stands on; what somebody else's route uses by now stays, and is nobody's."""
    draft = Draft(config, protocols)
    remove(draft, config.bridges[name])
    return draft.done()


def remove(draft: Draft, bridge: Bridge) -> None:
    """Take a bridge and what it stands on out of a draft."""
    del draft.bridges[bridge.name]
    for rulelist in list(draft.rulelists.values()):
        for rule in bridge.rules:
            if rule in rulelist.rules:
                draft.delete_rule_from(rulelist.name, rule)
    for rule in bridge.rules:
        if rule in draft.rules:
            draft.delete("rule", rule, recursive=True)
    for kind in ("route", "cluster"):  # a mirror's cluster, or left behind when somebody deleted the rule without what it owned
        if bridge.cluster in getattr(draft, f"{kind}s") and not _used(draft, kind, bridge.cluster):
            draft.delete(kind, bridge.cluster, recursive=True)


def _used(draft: Draft, kind: str, name: str) -> bool:
    if kind == "route":
        return any(rule.action.route == name for rule in draft.rules.values())
    return any(name in (r.destination, *r.ingress, *r.egress, r.fallback) for r in draft.routes.values())


def _unknown(config: Config, name: str) -> Error:
    hint = did_you_mean(name, config.bridges)
    return Error("not-found", f"there is no bridge {name!r}" + (f"; {hint}" if hint else ""))


# -- leases -------------------------------------------------------------------------------------------------------------------------------
