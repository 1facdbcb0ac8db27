"""A session that nobody began: the metadata that a described request would have, for `explain`."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from carrier.core import registry
from carrier.core.decision import Hits
from carrier.errors import ConfigError, Error, Problem, shown
from carrier.hops import framing
from carrier.rules.explain import Explanation, explain
from carrier.rules.table import Matchers, Table
from carrier.wire.h1.head import ILL, Limits, parse_request
from carrier.wire.http import TOKEN, Head

if TYPE_CHECKING:
    from carrier import model as cfg
    from carrier.core.env import Env

FIELDS = {
    "listener": "its name, or its port; needed where several fit",
    "method": "of a request; GET",
    "path": "with its query, or a whole URL",
    "headers": "an object, or a list of [name, value] pairs",
    "source": 'who connects, "host:port"',
    "destination": 'where to, "host:port"',
    "sni": "the server name that TLS asks for",
    "metadata": "anything else, laid over what was made of the rest",
}
"""What may be said about a session (the body of POST /explain)."""
ASSUMED = ("127.0.0.1", 0)
"""Where an imagined session comes from when nobody says so."""


def imagine(
    body: object, listeners: Mapping[str, cfg.Listener], likely: Container[str] | None = None
) -> tuple[str, dict[str, Any], list[str]]:
    """The listener's name, the metadata, and what was assumed, of a session that is described in `body` (see FIELDS).

    headers: an object, or a list of [name, value] pairs where one comes several times. source, destination: "host:port".
    metadata: laid over what was made of the rest. likely: names of the listeners that are meant when nobody names one and several fit.
    Raises ConfigError with what is wrong.
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
    conf = _listener(body, listeners, likely)
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


def _listener(body: Mapping[str, Any], listeners: Mapping[str, cfg.Listener], likely: Container[str] | None) -> cfg.Listener:
    """The listener that is meant: named, by its port, by that of a whole URL, or the only one that fits. Raises ConfigError."""
    named = body.get("listener")
    if isinstance(named, str) and named in listeners:
        return listeners[named]
    fits = list(listeners.values())
    if named is not None:
        fits = [conf for conf in fits if str(conf.spec.get("port")) == named]
    elif "method" in body or "path" in body or "headers" in body:
        fits = [conf for conf in fits if _kind(conf) == "message"]
        port, said = _port_of(body.get("path") or "")
        of_port = [conf for conf in fits if conf.spec.get("port") == port]
        fits = of_port or ([] if said else fits)
    if len(fits) > 1 and likely is not None:
        fits = [conf for conf in fits if conf.name in likely] or fits
    if len(fits) == 1:
        return fits[0]
    names = ", ".join(f"{conf.name} ({' '.join(_called(conf))})" for conf in listeners.values()) or "none"
    text = f"there is no listener {named!r}" if named is not None else "which listener is meant?"
    if named is None and not fits:
        text = "no listener takes HTTP requests"
    if named is None and not fits and (port := _port_of(body.get("path") or "")[0]) is not None:
        text = f"no listener for requests has port {port}"
    hint = "name one: --listener, or 'listener' over REST" if named is None and listeners else ""
    raise ConfigError(Problem(text, "$.listener", seen="" if named is None else named, allowed=names, hint=hint))


def _called(conf: cfg.Listener) -> Iterator[str]:
    yield str(conf.spec.get("protocol"))
    if "port" in conf.spec:
        yield str(conf.spec["port"])


_URL = re.compile(r"(https?)://([^/?#]*?(?::([0-9]{1,5}))?)(?:[/?#]|$)", re.IGNORECASE)
"""A target in absolute form (RFC 9112 section 3.2.2): scheme, authority, port."""


def _port_of(target: str) -> tuple[int | None, bool]:
    """The port of a target in absolute form, its scheme's if it names none, and whether it names one; None in another form."""
    found = _URL.match(target)
    return (None, False) if found is None else (int(found[3] or (443 if found[1].lower() == "https" else 80)), found[3] is not None)


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
    # Listeners that lead nowhere but to an answer of our own are for probes: nobody asks why.
    likely = {name for name, table in tables.items() if any(not cluster.virtual for cluster in table.reaches)}
    name, metadata, assumed = imagine(body, config.listeners, likely)
    if name not in tables:
        raise Error("not-found", f"listener {name!r} is not running")
    conf, table = config.listeners[name], tables[name]
    kind = registry.listener(conf.spec.get("protocol", ""))
    refused = kind.refuses(conf.options, table.needs, metadata) if kind is not None else None
    # A table is as old as the last change of its own rules; what people compare is the revision in force.
    return msgspec.structs.replace(explain(name, table, metadata, assumed, refused), revision=config.revision)
