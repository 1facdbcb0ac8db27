"""What a bridge asks for: the resource as it was written, understood against the configuration in force."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from carrier.bridges.tokens import DIGEST
from carrier.core.decision import check_statuses
from carrier.errors import Problem, did_you_mean, shown
from carrier.options import duration
from carrier.rules.condition import Condition, Leaf, Node

if TYPE_CHECKING:
    from carrier.model import Config, Listener, RuleList

FIELDS = (
    "port",
    "listener",
    "user",
    "match",
    "rules",
    "type",
    "url",
    "endpoint",
    "tls",
    "expires",
    "fallback",
    "mirror",
    "answer_timeout",
    "host",
    "token",
    "options",
)
OPTIONS = ("retry_statuses",)
"""Options of a bridge: those of its route."""
READ_ONLY = ("name", "status")
MOMENTS = 'seconds, a duration such as "8h", or "2027-01-31T18:00:00Z"'
LONGEST = 366 * 86_400.0
"""Seconds that a bridge may live at most, when it says how long."""


class Wanted(msgspec.Struct, frozen=True):
    """A body that was found good. alternatives: the match of each rule; expires: seconds since 1970, or None. mirror: copies only."""

    user: str
    alternatives: tuple[Any, ...]
    condition: Condition
    endpoint: Any
    fallback: Literal["shadow", "error"] | None
    options: dict[str, Any]
    expires: float | None
    spec: dict[str, Any]
    mirror: bool = False
    host: str = ""
    """The Host that the laptop gets; the shadow, when it serves instead, gets the one that came."""

    @property
    def match(self) -> Any:
        """One match for all: a rule holds when any of its alternatives does."""
        return self.alternatives[0] if len(self.alternatives) == 1 else {"any": list(self.alternatives)}


class Place(msgspec.Struct, frozen=True):
    """Where a bridge's rule goes: a rule list, the position in it, the cluster that serves everybody else there, and the version of HTTP
    that this one is told to speak, if it is."""

    listener: Listener
    rulelist: RuleList
    at: int
    shadow: str | None
    http: object = None


def alternatives_of(body: Mapping[str, Any], problems: list[Problem]) -> list[tuple[Any, str]]:
    """(match, path) of each alternative of `match` or `rules`."""
    rules = body.get("rules")
    kind, url = body.get("type"), body.get("url")
    if kind not in (None, "http", "stream") or (url is not None and kind != "http"):
        problems.append(Problem("unknown type of bridge", "$.type", seen=shown(kind), allowed='stream, or http with "url": a path prefix'))
        return []
    if kind == "stream" and rules is None and "match" not in body:
        return [([], "$.type")]  # no condition: everything
    if kind == "http" and url is not None:
        if not isinstance(url, str) or not url.startswith("/"):
            problems.append(Problem("expected a path prefix", "$.url", seen=shown(url), allowed='such as "/api"'))
            return []
        body = {**body, "match": [{"matchPath": {"path": url, "type": "prefix"}}, *_listed(body.get("match"))]}
    if ("match" in body) == (rules is not None):
        problems.append(Problem("a bridge needs either 'match' or 'rules': which requests are its user's", "$"))
        return []
    if rules is None:
        match = body["match"]
        if isinstance(match, Mapping) and set(match) == {"any"} and isinstance(match["any"], list) and match["any"]:
            return [(one, f"$.match.any[{i}]") for i, one in enumerate(match["any"])]
        return [(match, "$.match")]
    if not isinstance(rules, list) or not rules or not all(isinstance(rule, Mapping) and set(rule) == {"match"} for rule in rules):
        problems.append(Problem("expected a list of {match: [...]}", "$.rules", seen=shown(rules), allowed="at least one rule"))
        return []
    return [(rule["match"], f"$.rules[{i}].match") for i, rule in enumerate(rules)]


def check_options(options: Mapping[str, Any]) -> list[Problem]:
    """Everything wrong with the options of a bridge."""
    found = [
        Problem(
            f"unknown option {shown(name)}",
            f"$.options.{name}",
            seen=shown(name),
            allowed=", ".join(OPTIONS),
            hint=did_you_mean(str(name), OPTIONS),
        )
        for name in options
        if name not in OPTIONS
    ]
    return found + check_statuses(options, "$.options")


def check_host(host: object, problems: list[Problem]) -> str:
    """The Host that a bridge sets, or nothing."""
    if host is None:
        return ""
    if not isinstance(host, str) or not re.fullmatch(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?", host):
        problems.append(Problem("expected a host, with or without a port", "$.host", seen=shown(host), allowed='"app.example:8080"'))
        return ""
    return host


def check_token(token: object, problems: list[Problem]) -> None:
    """What is kept of a bridge's token, or nothing. `true`, the wish for one, is the REST API's to fulfil."""
    if token is not None and token is not True and not (isinstance(token, str) and DIGEST.fullmatch(token)):
        allowed = 'true: make one; or the digest that GET shows, "sha256:" and 64 hex digits'
        problems.append(Problem("a bridge's token is made here, and only its digest is kept", "$.token", allowed=allowed))


def _listed(match: Any) -> list[Any]:
    """The conditions of a match that is one condition, a list of them, or none."""
    return [] if match is None else match if isinstance(match, list) else [match]


def expiry_of(raw: Any, now: float, problems: list[Problem]) -> float | None:
    """`expires`: seconds from now, a duration, or a moment in ISO 8601 (without a zone: UTC)."""
    if raw is None:
        return None
    at = math.nan
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        at = now + raw
    elif isinstance(raw, str) and (after := duration(raw)) is not None:
        at = now + after
    elif isinstance(raw, str) and re.fullmatch(r"[0-9]{4}-[0-9T:.,Z+ -]{4,40}", raw):
        try:
            moment = datetime.fromisoformat(raw)
            at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            pass
    if not now < at <= now + LONGEST:
        what = "is over already" if at <= now else "is no moment within a year from now"
        problems.append(Problem(f"{shown(raw)} {what}", "$.expires", seen=shown(raw), allowed=MOMENTS))
        return None
    return round(at, 3)  # as it is shown


# Sessions that have nothing in common but what every session over IPv4 has; whatever takes all of them takes everybody's.
_STRANGERS: tuple[dict[str, Any], ...] = tuple(
    {
        "IP": {"src_addr": source, "dst_addr": "198.51.100.1"},
        **{protocol: {"src_port": port, "dst_port": 8080} for protocol in ("TCP", "UDP")},
        "HTTP": {
            "version": version,
            "method": method,
            "url": {"url": path, "href": f"http://{host}{path}", "protocol": "http", "host": host, "port": 80, "path": path, "query": ""},
            "headers": {"host": host, **headers},
        },
    }
    for source, port, method, path, host, version, headers in (
        ("192.0.2.7", 40001, "GET", "/q7/one", "one.invalid", "1.1", {"accept": "*/*"}),
        ("203.0.113.90", 50011, "POST", "/Zu/two.html?x=1", "two.test", "1.0", {"content-length": "5"}),
        ("45.6.7.8", 33333, "DELETE", "/", "[2001:db8::1]", "1.1", {"cookie": "a=b"}),
        ("10.9.8.7", 60123, "OPTIONS", "/3", "four.example", "1.1", {"x-one": "1", "accept": "*/*"}),
    )
)


def takes_all(condition: Condition) -> bool:
    return condition.always or all(condition.holds(stranger) for stranger in _STRANGERS)


def names_somebody(node: Node) -> bool:
    """Does a condition ask for something that tells one user's requests from another's? Paths, methods and hosts do not."""
    if isinstance(node, Leaf):
        return node.source.kind not in ("path", "host") and node.source.reads[:1] not in _EVERYBODYS
    return any(map(names_somebody, node.parts)) if node.op != "any" else all(map(names_somebody, node.parts))


_EVERYBODYS: tuple[Any, ...] = ((("HTTP", "method"),), (("HTTP", "url", "path"),), ())


def ports_of(config: Config) -> str:
    """The ports that can be bridged, for a message."""
    ports = [f"port {x.spec['port']} ({x.spec.get('protocol')}, listener {x.name})" for x in config.listeners.values() if "port" in x.spec]
    return ", ".join(ports) or "no port at all"
