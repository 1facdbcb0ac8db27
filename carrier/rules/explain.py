"""Why does a session go where it goes? One answer, computed by the matcher and the tables that route.

`explain(table, metadata)` gives, for a session that did not happen, every rule in order with each condition met or not, the value seen and
the value wanted, near misses in plain words, rules that can never fire, the endpoint that would be chosen and why, and the fallback
that would serve. Nothing is changed by asking: balancing is asked on a copy. `imagine` makes the metadata of a session from what a
person says about it (method, path, headers, addresses, SNI); `offline` makes the tables of a configuration that does not run.
`render` writes the answer for a person, `answer_fields` writes that of a real session as header fields.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from carrier.config import draft as cfg
from carrier.core import registry
from carrier.core.balance import KEYED
from carrier.core.cluster import Cluster, Endpoint, Env
from carrier.core.metadata import readable
from carrier.errors import ConfigError, Error, Problem, shown
from carrier.hops import framing
from carrier.rules.match import ConditionReport, RuleReport, get_at
from carrier.rules.table import JUMPS, Decision, Hits, Matchers, Table
from carrier.wire.h1.head import ILL, Limits, parse_request
from carrier.wire.http import TOKEN, Head

if TYPE_CHECKING:
    from carrier.core.session import Session

FIELDS = ("listener", "method", "path", "headers", "source", "destination", "sni", "metadata")
"""What may be said about a session (the body of POST /explain)."""
ASSUMED = ("127.0.0.1", 0)
"""Where an imagined session comes from when nobody says so."""


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """One rule list that was asked. jump: the list that the chosen rule leads to instead of a route."""

    rulelist: str
    rules: tuple[RuleReport, ...]
    jump: str = ""


class Choice(msgspec.Struct, frozen=True, omit_defaults=True):
    """A cluster, and the endpoint of it that would be chosen; none when chance decides, or when there is none. down: addresses."""

    cluster: str
    protocol: str
    endpoint: str = ""
    address: str = ""
    why: str = ""
    down: tuple[str, ...] = ()


class Failure(msgspec.Struct, frozen=True):
    """What a session would hear that has nowhere to go. status: as HTTP says it."""

    kind: str
    status: int
    detail: str


class Explanation(msgspec.Struct, frozen=True, omit_defaults=True):
    """The whole answer. why: the reason, the one that access log, session events and headers print of such a session. fallback_when: in
    words; serves: "fallback" when the destination would not even be tried. assumed: what nobody said about the session."""

    listener: str
    revision: int
    session: dict[str, Any]
    steps: tuple[Step, ...]
    rule: str
    rulelist: str
    why: str
    route: str = ""
    destination: Choice | None = None
    serves: str = "destination"
    fallback: Choice | None = None
    fallback_when: str = ""
    retry: str = ""
    through: tuple[str, ...] = ()
    rewrites: tuple[tuple[str, Any], ...] = ()
    failure: Failure | None = None
    assumed: tuple[str, ...] = ()


# --- asking ------------------------------------------------------------------------------------------------------------------------------


def explain(listener: str, table: Table, metadata: Mapping[str, Any], assumed: Sequence[str] = ()) -> Explanation:
    """Why a session with this metadata would go where it would, by this listener's table. Changes nothing, never raises."""
    decision = table.decide(metadata)
    destination = choice(decision.cluster, metadata) if decision.cluster is not None else None
    fallback = choice(decision.fallback, metadata) if decision.fallback is not None else None
    at_once = decision.cluster is not None and decision.cluster.down and fallback is not None
    return Explanation(
        listener=listener,
        revision=table.revision,
        session=dict(metadata),
        steps=tuple(_steps(table, metadata)),
        rule=decision.rule,
        rulelist=decision.rulelist,
        why=decision.reason,
        route=decision.route,
        destination=destination,
        serves="nobody" if decision.error is not None else "fallback" if at_once else "destination",
        fallback=fallback,
        fallback_when=_when(decision, at_once),
        retry=_retry(decision),
        through=tuple(cluster.name for cluster in (*decision.ingress, *decision.egress)),
        rewrites=tuple((rewrite.path, rewrite.value) for rewrite in decision.rewrite),
        failure=_failure(decision),
        assumed=tuple(assumed),
    )


def _steps(table: Table, metadata: Mapping[str, Any]) -> Iterator[Step]:
    """The rule lists in the order they are asked."""
    found, name = table.start, table.rulelist
    for _ in range(JUMPS):
        if found is None:
            return
        matcher, decisions = found
        reports = tuple(matcher.explain(metadata))
        chosen = next((report.index for report in reports if report.chosen), None)
        jump = decisions[chosen].jump or "" if chosen is not None else ""
        yield Step(name, reports, jump)
        if not jump:
            return
        found, name = table.lists.get(jump), jump


def _when(decision: Decision, at_once: bool) -> str:
    if decision.fallback is None or decision.cluster is None:
        return ""
    name = decision.cluster.name
    if at_once:
        return f"now: every endpoint of {name} is down"
    return f"when {name} refuses or cannot be reached before anything was sent to it"


def _retry(decision: Decision) -> str:
    retry = decision.retry
    said = []
    if retry.on_setup:
        said.append(f"connecting is tried {retry.attempts} times, {retry.timeout:g} s apart")
    if retry.on_disconnect:
        said.append(f"a lost destination is connected again, {max(1, retry.num_retries)} times")
    if decision.statuses:
        said.append(f"answers {', '.join(map(str, sorted(decision.statuses)))} are asked again elsewhere")
    return "; ".join(said)


def _failure(decision: Decision) -> Failure | None:
    error = decision.error
    return Failure(error.kind, error.status, error.detail.replace(' for session "{session}"', "")) if error is not None else None


# --- the endpoint ------------------------------------------------------------------------------------------------------------------------


def choice(cluster: Cluster, metadata: Mapping[str, Any]) -> Choice:
    """The endpoint that a session with this metadata would get, and why; asked on a copy, so that nobody's turn is used up."""
    protocol = str(cluster.spec.get("protocol", ""))
    if cluster.virtual:
        return Choice(cluster.name, protocol, why="played here: it has no endpoints")
    down = tuple(endpoint.address for endpoint in cluster.endpoints if not endpoint.up)
    found, why = _choose(cluster, metadata)
    if found is None:
        return Choice(cluster.name, protocol, why=why, down=down)
    state = "" if found.up else ", though it is down: no other is left"
    return Choice(cluster.name, protocol, found.name, found.address, why + state, down)


def _choose(cluster: Cluster, metadata: Mapping[str, Any]) -> tuple[Endpoint | None, str]:
    if cluster.only is not None:
        return cluster.only, "its only endpoint"
    left = [endpoint for endpoint in cluster.endpoints if endpoint.name not in cluster.drained]
    usable = [endpoint for endpoint in left if endpoint.up and endpoint.weight > 0] or left
    policy = cluster.balancer.policy
    if not usable or policy == "None":
        return None, "it has no endpoint that may be chosen"
    if len(usable) == 1:
        return usable[0], f"the only one of {len(cluster.endpoints)} that is up and not drained"
    value = get_at(metadata, cluster.key) if cluster.key and cluster.policy in KEYED else None
    key = None if value is None else str(value)
    names = ", ".join(endpoint.address for endpoint in usable)
    if policy == "random" or (policy == "HashRing" and key is None):
        missing = f", because {cluster.key} is not there" if policy == "HashRing" and cluster.key else ""
        return None, f"by chance among {names}{missing}"
    if policy == "least_sessions":
        least = min((endpoint.active + 1) / (endpoint.weight or 1e-9) for endpoint in usable)
        ties = [endpoint for endpoint in usable if (endpoint.active + 1) / (endpoint.weight or 1e-9) == least]
        if len(ties) > 1:
            return None, f"by chance among {', '.join(endpoint.address for endpoint in ties)}, which have the fewest sessions"
        return ties[0], f"the fewest sessions ({ties[0].active}) of {names}"
    balancer = copy.copy(cluster.balancer)
    balancer.credit = dict(balancer.credit)
    found = balancer.choose(usable, key)
    reasons = {
        "HashRing": f"by the hash of {cluster.key} ({key})",
        "round_robin": f"its turn among {names}",
        "Trivial": "the first that is up",
    }
    return found, reasons.get(policy, f"by {policy}")


# --- a session that did not happen -------------------------------------------------------------------------------------------------------


def imagine(body: object, listeners: Mapping[str, cfg.Listener]) -> tuple[str, dict[str, Any], list[str]]:
    """The listener's name, the metadata, and what was assumed, of a session that is described in `body` (see FIELDS).

    headers: an object, or a list of [name, value] pairs where one comes several times. source, destination: "host:port".
    metadata: laid over what was made of the rest. Raises ConfigError with what is wrong.
    """
    if not isinstance(body, Mapping):
        raise ConfigError(Problem("expected an object", "$", allowed=", ".join(FIELDS)))
    problems = [Problem(f"unknown field {name!r}", f"$.{name}", allowed=", ".join(FIELDS)) for name in body if name not in FIELDS]
    problems += [
        Problem(f"expected text, got {body[name]!r}", f"$.{name}")
        for name in ("listener", "method", "path", "source", "destination", "sni")
        if body.get(name) is not None and not isinstance(body[name], str)
    ]
    if not isinstance(body.get("metadata") or {}, Mapping):
        problems.append(Problem("expected an object", "$.metadata"))
    headers, wrong = _pairs(body.get("headers"))
    if problems + wrong:
        raise ConfigError(*problems, *wrong)
    conf = _listener(body, listeners)
    assumed: list[str] = []
    metadata = _metadata(body, conf, headers, assumed)
    return conf.name, {**metadata, **(body.get("metadata") or {})}, assumed


def _pairs(headers: object) -> tuple[list[tuple[str, str]], list[Problem]]:
    wrong = [Problem("expected an object of texts, or a list of [name, value] pairs", "$.headers")]
    if headers is None:
        return [], []
    items = list(headers.items()) if isinstance(headers, Mapping) else headers
    if not isinstance(items, list):
        return [], wrong
    pairs = []
    for item in items:
        if not isinstance(item, (list, tuple)) or len(item) != 2 or not all(isinstance(part, str) for part in item):
            return [], wrong
        pairs.append((item[0], item[1]))
    return pairs, []


def _listener(body: Mapping[str, Any], listeners: Mapping[str, cfg.Listener]) -> cfg.Listener:
    """The listener that is meant: named, by its port, by that of a whole URL, or the only one that fits. Raises ConfigError."""
    named = body.get("listener")
    if isinstance(named, str) and named in listeners:
        return listeners[named]
    fits = list(listeners.values())
    if named is not None:
        fits = [conf for conf in fits if str(conf.spec.get("port")) == named]
    elif "method" in body or "path" in body or "headers" in body:
        fits = [conf for conf in fits if _kind(conf) == "message"]
        port = _port_of(body.get("path") or "")
        fits = [conf for conf in fits if conf.spec.get("port") == port] or fits
    if len(fits) == 1:
        return fits[0]
    names = ", ".join(f"{conf.name} ({conf.spec.get('protocol')} {conf.spec.get('port', '')})" for conf in listeners.values()) or "none"
    text = f"there is no listener {named!r}" if named is not None else "which listener is meant?"
    hint = "name one: --listener, or 'listener' over REST" if named is None and listeners else ""
    raise ConfigError(Problem(text, "$.listener", seen="" if named is None else named, allowed=names, hint=hint))


_URL = re.compile(r"(https?)://([^/?#]*?(?::([0-9]{1,5}))?)(?:[/?#]|$)", re.IGNORECASE)
"""A target in absolute form (RFC 9112 section 3.2.2): scheme, authority, port."""


def _port_of(target: str) -> int | None:
    """The port of a target in absolute form, its scheme's if it names none; None in another form."""
    found = _URL.match(target)
    return None if found is None else int(found[3] or (443 if found[1].lower() == "https" else 80))


def _kind(conf: cfg.Listener) -> str:
    found = registry.listener(conf.spec.get("protocol"))
    return found.kind_of(conf.spec) if found is not None else "byte"


def _metadata(body: Mapping[str, Any], conf: cfg.Listener, headers: list[tuple[str, str]], assumed: list[str]) -> dict[str, Any]:
    """As the listener would make it (contract, section 4)."""
    source, destination = _address(body.get("source"), "source"), _address(body.get("destination"), "destination")
    if source is None:
        source = ASSUMED
        assumed.append(f"it comes from {ASSUMED[0]}")
    port = conf.spec.get("port", 0)
    to = destination or (str(conf.spec.get("address") or ASSUMED[0]), port if isinstance(port, int) else 0)
    kind = _kind(conf)
    metadata: dict[str, Any] = {"IP": {"src_addr": source[0], "dst_addr": to[0]}}
    metadata["UDP" if kind == "datagram" else "TCP"] = {"src_port": source[1], "dst_port": to[1]}
    if body.get("sni") is not None:
        metadata["TLS"] = {"sni": body["sni"]}
    if kind == "message":
        if not any(name.lower() == "host" for name, _ in headers):
            url = _URL.match(body.get("path") or "")
            host = url[2] if url is not None else "localhost"
            headers = [("host", host), *headers]
            assumed.append(f"its Host is {host}")
        method, path = body.get("method", "GET"), body.get("path", "/")
        method, path = "GET" if method is None else method, "/" if path is None else path
        _check_request(method, path, headers, conf.options.get("strict_target", 1) != 0)
        metadata["HTTP"] = _head(method, path, headers).metadata()
    return metadata


def _check_request(method: str, target: str, headers: list[tuple[str, str]], strict: bool) -> None:
    """Raises ConfigError with why the listener takes no such request: it would be answered 400, whatever the rules say.

    strict: of the listener's targets (options.strict_target).
    """
    problems = []
    if not TOKEN.fullmatch(method.encode("utf-8", "replace")):
        problems.append(Problem(f"expected a method, got {shown(method)}", "$.method", seen=shown(method), allowed="GET, POST, ..."))
        method = "GET"
    if wrong := _wrong_target(method, target, strict):
        problems.append(Problem(wrong, "$.path", seen=shown(target), allowed="a path that begins with /, or a whole URL"))
    for name, value in headers:
        if not TOKEN.fullmatch(name.encode("utf-8", "replace")):
            problems.append(Problem(f"expected the name of a header, got {shown(name)}", f"$.headers.{name}", seen=shown(name)))
        if ILL.search(value.encode("utf-8", "replace")) or "\r" in value:
            problems.append(Problem(f"no header has control characters in its value, as {shown(value)} has", f"$.headers.{name}"))
    if problems:
        raise ConfigError(*problems)


def _wrong_target(method: str, target: str, strict: bool) -> str:
    """What the codec has against a target; "" if it takes it."""
    url = _URL.match(target)
    line = f"{method} {target} HTTP/1.1\r\nhost: {url[2] if url is not None else 'localhost'}\r\n\r\n"
    try:
        parse_request(line.encode("utf-8", "replace"), Limits(line=1 << 20, head=1 << 21, strict_target=strict))
    except Error as error:
        return f"no request has the path {shown(target)}" + (f": {error.detail}" if target[:1] == "/" or url is not None else "")
    return ""


def _head(method: str, target: str, headers: list[tuple[str, str]]) -> Head:
    """A head as the codec makes one, of the UTF-8 bytes of these texts. Raises ConfigError when they have none."""
    try:
        fields = tuple((name.encode(), value.strip(" \t").encode("utf-8", "surrogateescape")) for name, value in headers)
    except UnicodeEncodeError as exc:
        raise ConfigError(Problem(f"no request has {exc.object!r} in its head", "$")) from None
    return Head(b"", b"", method.encode(), target.encode(), fields=fields)


def _address(text: str | None, field: str) -> tuple[str, int] | None:
    """ "host", "host:port", "[v6]:port" or "v6". Raises ConfigError."""
    if text is None:
        return None
    host, port = text, ""
    if text[:1] == "[" or text.count(":") == 1:
        host, _, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not (port or "0").isdecimal() or int(port or 0) > 65535:
        raise ConfigError(Problem(f"expected host:port, got {text!r}", f"$.{field}"))
    return host.strip("[]"), int(port or 0)


def offline(config: cfg.Config, env: Env) -> dict[str, Table]:
    """The routing tables of a configuration that is not in force: nothing is bound or connected. Raises ConfigError or Error."""
    clusters = {}
    for name, conf in config.clusters.items():
        kind = registry.cluster(conf.spec.get("protocol"))
        if kind is None:
            raise ConfigError(Problem(f"unknown protocol {conf.spec.get('protocol')!r}", f"clusters[{name}].spec.protocol"))
        clusters[name] = framing.make_cluster(kind, conf, env)
    matchers, hits = Matchers(), dict[str, Hits]()
    return {name: Table(config, conf.rules, clusters, matchers, hits) for name, conf in config.listeners.items()}


def ask(body: object, config: cfg.Config, tables: Mapping[str, Table]) -> Explanation:
    """Explain what `body` describes (see `imagine`), by these tables. Raises ConfigError."""
    name, metadata, assumed = imagine(body, config.listeners)
    if name not in tables:
        raise Error("not-found", f"listener {name!r} is not running")
    return explain(name, tables[name], metadata, assumed)


# --- showing -----------------------------------------------------------------------------------------------------------------------------


def answer_fields(session: Session) -> bytes:
    """The header lines of an answer that say why it came from where it came (x-carrier-rule, -cluster, -endpoint, -why)."""
    decision, endpoint = session.decision, session.endpoint or session.last_endpoint
    values = {
        "rule": decision.rule,
        "cluster": session.cluster.name if session.cluster is not None else "",
        "endpoint": endpoint.address if endpoint is not None else "",
        "why": session.why,
    }
    return b"".join(b"x-carrier-%b: %b\r\n" % (name.encode(), _safe(value)) for name, value in values.items() if value)


def _safe(value: str) -> bytes:
    """A header value of printable ASCII (RFC 9110 section 5.5); what is not becomes "?"."""
    return "".join(c if " " <= c <= "~" else "?" for c in value)[:1024].encode()


def render(found: Explanation, utf8: bool = True) -> str:
    """The answer for a person."""
    return "\n".join([*_heading(found), *_shown_steps(found, _MARKS[utf8]), *_outcome(found)]) + "\n"


_MARKS = {True: ("✓", "✗", "→"), False: ("+", "-", ">")}


def _heading(found: Explanation) -> Iterator[str]:
    http = found.session.get("HTTP")
    told = []
    if isinstance(http, Mapping) and isinstance(http.get("url"), Mapping):
        told.append(f"{http.get('method')} {http['url'].get('path')}")
        told += [f"{name}: {readable(str(value))}" for name, value in (http.get("headers") or {}).items() if name != "host"]
    ip, tls = found.session.get("IP"), found.session.get("TLS")
    if isinstance(ip, Mapping) and not any("comes from" in text for text in found.assumed):
        told.append(f"from {ip.get('src_addr')}")
    if isinstance(tls, Mapping) and tls.get("sni"):
        told.append(f"server name {tls['sni']}")
    yield f"{'  '.join(told) or 'a session'}  to listener {found.listener}, revision {found.revision}"
    if found.assumed:
        yield f"(assumed: {'; '.join(found.assumed)})"


def _shown_steps(found: Explanation, marks: tuple[str, str, str]) -> Iterator[str]:
    for step in found.steps:
        yield ""
        yield f"rule list {step.rulelist}" + ("" if step.rules else ": no rules")
        decided = False
        for report in step.rules:
            decided = decided or report.chosen
            yield from _shown_rule(report, decided, marks)


def _shown_rule(report: RuleReport, decided: bool, marks: tuple[str, str, str]) -> Iterator[str]:
    yes, no, arrow = marks
    if report.chosen:
        verdict = "takes it" if report.conditions else "takes it, as it takes everything"
    elif report.matched:
        verdict = "would match, but an earlier rule takes it" if decided else "matches, but another is more specific"
    else:
        verdict = "does not match"
    yield f"  {arrow if report.chosen else ' '} {report.rule}: {verdict}"
    if report.note:
        yield f"        ! {report.note}"
    for condition in report.conditions:
        yield from _shown_condition(condition, 6, yes, no)


def _shown_condition(condition: ConditionReport, indent: int, yes: str, no: str) -> Iterator[str]:
    line = f"{' ' * indent}{yes if condition.held else no} {condition.text}"
    if not condition.parts and condition.text not in ("anything", "nothing"):
        seen = f"seen {condition.seen}" if condition.seen is not None else ""
        line += "".join(f"   {text}" for text in (seen if not condition.held or condition.near else "", condition.near) if text)
    yield line
    for part in condition.parts:
        yield from _shown_condition(part, indent + 2, yes, no)


def _outcome(found: Explanation) -> Iterator[str]:
    yield ""
    yield f"why        {found.why}"
    if found.failure is not None:
        yield f"answer     {found.failure.status} ({found.failure.kind}): {found.failure.detail}"
    if found.destination is not None:
        yield f"goes to    {_shown_choice(found.destination)}"
    if found.through:
        yield f"through    {', '.join(found.through)}"
    if found.fallback is not None:
        yield f"fallback   {_shown_choice(found.fallback)}; {found.fallback_when}"
    elif found.destination is not None:
        yield "fallback   none"
    if found.retry:
        yield f"retries    {found.retry}"
    for path, value in found.rewrites:
        yield f"rewrites   {path} to {value!r}"


def _shown_choice(found: Choice) -> str:
    at = f", endpoint {found.address}" if found.address else ""
    down = f"; down: {', '.join(found.down)}" if found.down else ""
    return f"cluster {found.cluster} ({found.protocol}){at}: {found.why}{down}"
