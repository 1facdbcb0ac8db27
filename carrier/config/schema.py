"""l7mp's schema and its 422 lists: what strict mode (`carrier run -s`) lets through the REST API.

The schema is l7mp's OpenAPI file as compact Python data: `o()` an object, `a()` an array, plain dicts for the rest. `validate`
checks an instance as ajv 6 does without `allErrors` and gives the same list of errors: it stops at the first one of a schema, but
an `anyOf` or `oneOf` tells what was wrong with each of its branches. The order is ajv's: required members that have no schema of
their own, then unknown members, then the members in the schema's order. Only the keywords that the schema uses are known here.

Protocols that l7mp does not have are accepted as further branches of a spec's `oneOf`, with nothing but their name checked; what we have
beyond l7mp is then looked at by our own standard (`beyond`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from carrier.config.dump import FORMATS
from carrier.core import registry
from carrier.errors import Problem

if TYPE_CHECKING:
    from carrier.config.draft import Protocols

Schema = dict[str, Any]
Fault = dict[str, Any]

ANY: Schema = {}
TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
BOOL: Schema = {"type": "boolean"}
ANY_OBJECT: Schema = {"type": "object"}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}


def o(_required: str = "", **properties: Schema) -> Schema:
    """An object with these members, of which those in the space-separated first argument must be there."""
    return {"type": "object", "required": _required.split(), "properties": properties}


def a(items: Schema) -> Schema:
    """An array of such items."""
    return {"type": "array", "items": items}


def one(*values: str) -> Schema:
    """One of these texts."""
    return {"type": "string", "enum": list(values)}


def spec(protocol: str, _required: str = "", **properties: Schema) -> Schema:
    """The spec of a protocol."""
    return o(f"protocol {_required}", protocol=one(protocol), **properties)


ADDRESS_PORT = o(address=TEXT, port=PORT)

_LISTENER_TRANSPORTS = [
    spec("WebSocket", "port", port=PORT, path=TEXT),
    spec("UDP", "port", port=PORT, connect=ADDRESS_PORT, options=o(mode=one("server", "singleton"))),
    spec("UnixDomainSocket", "filename", filename=TEXT),
    spec("TCP", "port", port=PORT),
]
_WEBSOCKET, _UDP, _UNIX, _TCP = _LISTENER_TRANSPORTS
_LISTENERS = [
    spec("HTTP", "port", port=PORT, path=TEXT),
    _WEBSOCKET,
    _UDP,
    _TCP,
    _UNIX,
    spec("JSONSocket", "transport", transport={"type": "object", "oneOf": _LISTENER_TRANSPORTS}),
]

_HEADER = o(path=o("from to", **{"from": TEXT, "to": TEXT}), set=o("key value", key=TEXT, value=TEXT))
_CONNECTED = [
    spec("WebSocket", "port", port=PORT),
    spec("UDP", "port", port=PORT, bind=ADDRESS_PORT),
    spec("TCP", "port", port=PORT, bind=ADDRESS_PORT),
    spec("UnixDomainSocket"),
]
_TRANSPORTS = [*_CONNECTED, spec("Stdio"), spec("Echo"), spec("Discard")]
_CLUSTERS = [
    *_CONNECTED,
    spec("JSONSocket", "transport", transport={"type": "object", "oneOf": _TRANSPORTS}, header=a(_HEADER)),
    spec("L7mpController"),
    spec("Stdio"),
    spec("Echo"),
    spec("Discard"),
    spec("Logger", log_file=TEXT, log_prefix=TEXT),
    spec("Sync", "query", query=TEXT),
    spec("JSONEncap"),
    spec("JSONDecap"),
    spec("Prometheus"),
    spec("Metric", byteCounterName=TEXT, packetCounterName=TEXT),
]
TOLD = "x-told"
"""Of how many branches, the first ones, the faults are told when none fits: l7mp's lists know l7mp's protocols only."""
UNKNOWN = ("Test",)
"""Protocols that l7mp has and its schema has not."""


def _with_ours(known: list[Schema], names: list[str]) -> Schema:
    theirs = {branch["properties"]["protocol"]["enum"][0] for branch in known}
    ours = [name for name in names if name not in theirs and name not in UNKNOWN]
    return {"type": "object", "oneOf": [*known, *map(spec, ours)], TOLD: len(known)}


def bodies(protocols: Protocols = registry) -> dict[str, Schema]:
    """Kind of object -> schema of the body that adds one, with the wrapper that names the kind."""
    endpoint = o("spec", name=TEXT, spec=o("address", address={"anyOf": [TEXT, TEXT]}, weight=WHOLE))
    cluster = o(
        "spec",
        name=TEXT,
        spec=_with_ours(_CLUSTERS, protocols.cluster_names()),
        endpoints={"anyOf": [WHOLE, a(endpoint)]},
        loadbalancer=o("policy", policy=TEXT, key=TEXT),
        options={"anyOf": [ANY_OBJECT, a(ANY)]},
    )
    cluster_or_name = {"anyOf": [TEXT, cluster]}
    route = o(
        "destination",
        name=TEXT,
        destination=cluster_or_name,
        ingress=a(cluster_or_name),
        egress=a(cluster_or_name),
        retry=o("retry_on", retry_on=TEXT, num_retries=WHOLE, timeout=WHOLE),
    )
    action = o(rewrite=a(o("path value", path=TEXT, value=ANY)), route={"anyOf": [TEXT, route]}, apply=TEXT)
    rule = o("action", name=TEXT, match=ANY_OBJECT, action=action)
    listener = o(
        "name spec rules",
        name=TEXT,
        spec=_with_ours(_LISTENERS, protocols.listener_names()),
        rules={"anyOf": [TEXT, a(rule)]},
        options=o(track=WHOLE),
    )
    rulelist = o("rules", name=TEXT, rules=a({"anyOf": [TEXT, rule]}))
    kinds = {"listener": listener, "cluster": cluster, "endpoint": endpoint, "rulelist": rulelist, "rule": rule, "route": route}
    wrapped = {kind: o(kind, **{kind: schema}) for kind, schema in kinds.items()}
    return wrapped | {"inserted rule": o("rule", rule=ANY), "config": o("admin"), "admin": o("admin")}


def validate_call(
    query: Mapping[str, str], allowed: Mapping[str, Schema], position: str | None, schema: Schema | None, body: object
) -> list[Fault]:
    """Everything wrong with a call, as l7mp's strict mode lists it (dataPath `.query`, `.path`, `.requestBody`); empty: nothing.

    allowed: the operation's query parameters. position: the last part of a rule list's path where it must be a number.
    """
    call: Schema = o(query=o("", **allowed) | {"additionalProperties": False}, path=o(position=WHOLE), requestBody=schema or ANY)
    instance: dict[str, Any] = {"query": {name: _coerced(value, allowed.get(name, ANY)) for name, value in query.items()}}
    if position is not None:
        instance["path"] = {"position": _coerced(position, WHOLE)}
    if schema is not None:
        instance["requestBody"] = body
    return list(validate(instance, call))


def beyond(problems: Iterable[Problem], value: object) -> list[Fault]:
    """Those problems of a body that are about what l7mp does not have, in the form of its faults. The others it lets pass in strict mode
    too: fields that it does not know, predicates that never match. Paths of problems begin with "$"."""
    return [
        {
            "keyword": "carrier",
            "dataPath": f".requestBody{problem.path.removeprefix('$')}",
            "schemaPath": "#/carrier",
            "params": {name: text for name in ("seen", "allowed", "hint") if (text := getattr(problem, name))},
            "message": problem.message,
        }
        for problem in problems
        if _is_ours(problem, value)
    ]


def _is_ours(problem: Problem, value: Any) -> bool:
    theirs, names = _vocabulary()
    found = False
    before = ""
    for name, place in re.findall(r"\.([^.\[\]]+)|\[(\d+)\]", problem.path):
        if before == "match":
            return name.startswith("match") or bool(place)
        try:
            value = value[int(place)] if place else value[name]
        except (KeyError, IndexError, TypeError):
            value = None
        if name == "spec" and isinstance(value, Mapping) and value.get("protocol") not in names[before == "listener"]:
            return True
        found = found or (not place and name not in theirs)
        before = name
    return found and not problem.message.startswith("unknown field")


@lru_cache(maxsize=1)
def _vocabulary() -> tuple[frozenset[str], tuple[frozenset[object], frozenset[object]]]:
    """The names of all members that l7mp's schema knows, and its protocols of clusters and of listeners."""
    members: set[str] = set()
    left: list[Any] = [bodies()]
    while left:
        schema = left.pop()
        if isinstance(schema, list):
            left += schema
        elif isinstance(schema, dict):
            members.update(schema.get("properties", ()))
            left += schema.values()
    clusters, listeners = ({branch["properties"]["protocol"]["enum"][0] for branch in known} for known in (_CLUSTERS, _LISTENERS))
    return frozenset(members), (frozenset((*clusters, *UNKNOWN, None)), frozenset((*listeners, *UNKNOWN, None)))


def query_schema(*names: str) -> dict[str, Schema]:
    """The schemas of these query parameters."""
    return {name: one(*FORMATS) if name == "format" else BOOL for name in names}


def _coerced(value: str, schema: Schema) -> object:
    """Parameters come as text; l7mp reads those as what the schema wants where they can be read so."""
    if schema.get("type") == "boolean" and value in ("true", "false"):
        return value == "true"
    if schema.get("type") == "integer" and re.fullmatch(r"-?[0-9]{1,15}", value):
        return int(value)
    return value


_TYPES: dict[str, Callable[[Any], bool]] = {
    "string": lambda v: isinstance(v, str),
    "integer": lambda v: not isinstance(v, bool) and (isinstance(v, int) or (isinstance(v, float) and v.is_integer())),
    "boolean": lambda v: isinstance(v, bool),
    "object": lambda v: isinstance(v, Mapping),
    "array": lambda v: isinstance(v, list),
}
_COMPARED: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "maximum": ("<=", lambda v, limit: v <= limit),
    "minimum": (">=", lambda v, limit: v >= limit),
}


def validate(value: Any, schema: Schema, where: str = "", path: str = "#", branch: bool = False) -> Iterator[Fault]:
    """The errors of `value`, in ajv's order and words. where: ajv's dataPath so far; path: its schemaPath.

    branch: inside an anyOf or oneOf. There ajv 6 goes on after a wrong type, to the keywords that are for any type, unless the type was
    looked at together with keywords that are for it alone.
    """
    wanted = schema.get("type")
    if wanted is not None and not _TYPES[wanted](value):
        yield _fault("type", where, f"{path}/type", {"type": wanted}, f"should be {wanted}")
        if branch and not {"properties", "items"} & schema.keys():
            yield from _of_any_type(value, schema, where, path)
        return
    for keyword in ("maximum", "minimum"):
        if keyword in schema and not _COMPARED[keyword][1](value, schema[keyword]):
            sign, limit = _COMPARED[keyword][0], schema[keyword]
            params = {"comparison": sign, "limit": limit, "exclusive": False}
            yield _fault(keyword, where, f"{path}/{keyword}", params, f"should be {sign} {limit}")
            return
    faults = _inside(value, schema, where, path, branch)
    first = next(faults, None)
    if first is not None:
        yield first
        yield from faults
        return
    yield from _of_any_type(value, schema, where, path)


def _of_any_type(value: Any, schema: Schema, where: str, path: str) -> Iterator[Fault]:
    if "enum" in schema and value not in schema["enum"]:
        yield _fault("enum", where, f"{path}/enum", {"allowedValues": schema["enum"]}, "should be equal to one of the allowed values")
        return
    yield from _branches(value, schema, where, path)


def _inside(value: Any, schema: Schema, where: str, path: str, branch: bool) -> Iterator[Fault]:
    """The first faulty item or member, and what is wrong with it."""
    if "items" in schema:
        for i, item in enumerate(value):
            faults = list(validate(item, schema["items"], f"{where}[{i}]", f"{path}/items", branch))
            if faults:
                yield from faults
                return
    if "properties" in schema:
        yield from _members(value, schema, where, path, branch)


def _members(value: Mapping[str, Any], schema: Schema, where: str, path: str, branch: bool) -> Iterator[Fault]:
    properties: dict[str, Schema] = schema["properties"]
    required = schema["required"]
    for name in required:
        if name not in value and not properties.get(name):
            yield _missing(_step(name), where, path)  # ajv 6 names it by its step here, and below without
            return
    if schema.get("additionalProperties") is False:
        for name in value:
            if name not in properties:
                params = {"additionalProperty": name}
                at = f"{path}/additionalProperties"
                yield _fault("additionalProperties", where, at, params, "should NOT have additional properties")
                return
    for name, member in properties.items():
        if name not in value:
            if name in required:
                yield _missing(name, where, path)
                return
            continue
        faults = list(validate(value[name], member, where + _step(name), f"{path}/properties/{name}", branch))
        if faults:
            yield from faults
            return


def _branches(value: Any, schema: Schema, where: str, path: str) -> Iterator[Fault]:
    for keyword in ("anyOf", "oneOf"):
        if keyword not in schema:
            continue
        results = [list(validate(value, one, where, f"{path}/{keyword}/{i}", branch=True)) for i, one in enumerate(schema[keyword])]
        passed = [i for i, faults in enumerate(results) if not faults]
        if len(passed) == 1 or (passed and keyword == "anyOf"):
            continue
        params: dict[str, Any] = {} if keyword == "anyOf" else {"passingSchemas": passed or None}
        text = "some schema in anyOf" if keyword == "anyOf" else "exactly one schema in oneOf"
        if not passed:
            for faults in results[: schema.get(TOLD)]:
                yield from faults
        yield _fault(keyword, where, f"{path}/{keyword}", params, f"should match {text}")


def _step(name: str) -> str:
    return f".{name}" if re.fullmatch(r"[A-Za-z_$][\w$]*", name) else f"['{name}']"


def _missing(name: str, where: str, path: str) -> Fault:
    return _fault("required", where, f"{path}/required", {"missingProperty": name}, f"should have required property '{name}'")


def _fault(keyword: str, where: str, path: str, params: dict[str, Any], message: str) -> Fault:
    return {"keyword": keyword, "dataPath": where, "schemaPath": path, "params": params, "message": message}
