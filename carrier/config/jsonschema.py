"""The configuration as JSON Schema (draft 2020-12), for editors and for programs that write configurations.

Made of the tables of carrier/config/reference.py and of what each protocol says of its spec and options. It is wider than the checker
where a schema cannot say it (names that lead nowhere, rules that can never fire): what the checker takes, the schema takes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from carrier.config.inspector import inspect
from carrier.config.reference import MATCHES, OBJECTS, OPTIONS, PORT, TEXT, Field, Schema, listed, ref
from carrier.core import registry
from carrier.core.breaker import BREAKER
from carrier.rules.notation import FIRST_ORDER, SECOND_ORDER

if TYPE_CHECKING:
    from carrier.config.draft import Protocols

DRAFT = "https://json-schema.org/draft/2020-12/schema"
SPEC_FIELDS: dict[str, dict[str, Schema]] = {
    "listener": {
        "port": PORT,
        "tls": {"anyOf": [{"type": "null"}, ref("server_tls"), listed(ref("server_tls"))]},
        "transport": ref("listener_spec"),
    },
    "cluster": {
        "port": {**PORT, "minimum": 1},
        "tls": {"anyOf": [{"type": ["boolean", "null"]}, ref("client_tls")]},
        "transport": ref("cluster_spec"),
        "bind": {"type": "object", "properties": {"address": TEXT, "port": PORT}},
    },
}
"""Side -> field of a spec -> its schema, where it is more than the words that the protocol says of it."""


def schema(protocols: Protocols = registry) -> Schema:
    """The whole schema."""
    defs: dict[str, Schema] = {kind: _object(text, fields) for kind, (text, fields) in OBJECTS.items()}
    for side in ("listener", "cluster"):
        defs[f"{side}_spec"] = _specs(side, protocols)
        names = getattr(protocols, f"{side}_names")()
        defs[side]["allOf"] = [
            {"if": _speaks(name), "then": {"properties": {"options": _options(side, name, protocols)}}} for name in names
        ]
    defs["match"] = _match()
    for kind in ("rule", "bridge"):
        defs[kind]["properties"]["match"] |= ref("match")
    defs["route"] |= {"required": [], "anyOf": [{"required": ["destination"]}, {"required": ["cluster"]}]}
    whole = defs.pop("configuration")
    return {"$schema": DRAFT, "title": "Configuration of Carrier2", **whole, "$defs": defs}


def options_of(side: str, protocol: str, protocols: Protocols = registry) -> dict[str, object]:
    """The options that a protocol's checker takes -> the default, or None where that is no number."""
    cls: Any = getattr(protocols, side)(protocol)
    defaults: dict[str, object] = {}
    for base in reversed(cls.__mro__):
        module = sys.modules[base.__module__]
        defaults |= getattr(module, "OPTIONS", {}) if base.__module__.split(".")[0] not in ("carrier", "builtins") else {}
    if side == "cluster":
        defaults |= BREAKER
    return {name: defaults.get(name) for name in OPTIONS if _takes(side, protocol, name, protocols)}


def _takes(side: str, protocol: str, name: str, protocols: Protocols) -> bool:
    """Ask the checker itself."""
    body = {"name": "x", "spec": {"protocol": protocol}, "rules": [], "options": {name: OPTIONS[name].example}}
    if side == "cluster":
        del body["rules"]
    at = f"$.options.{name}"
    return not any(problem.path == at for problem in inspect(side, body, "$", protocols))


def _object(text: str, fields: Iterable[Field]) -> Schema:
    fields = tuple(fields)
    found: Schema = {
        "type": "object",
        "description": text,
        "properties": {field.name: _field(field) for field in fields},
        "additionalProperties": False,
    }
    if required := [field.name for field in fields if field.required]:
        found["required"] = required
    return found


def _field(field: Field, default: object = None) -> Schema:
    found = {**field.schema, "description": f"{field.text} ({field.unit})" if field.unit else field.text}
    if field.example is not None:
        found["examples"] = [field.example]
    return found if default is None else {**found, "default": default}


def _speaks(protocol: str) -> Schema:
    return {"properties": {"spec": {"properties": {"protocol": {"const": protocol}}, "required": ["protocol"]}}, "required": ["spec"]}


def _specs(side: str, protocols: Protocols) -> Schema:
    names = getattr(protocols, f"{side}_names")()
    alike = SPEC_FIELDS[side]
    branches = []
    for name in names:
        cls: Any = getattr(protocols, side)(name)
        fields = {field: {**alike.get(field, {}), "description": words} for field, words in cls.fields.items()}
        members: Schema = {"protocol": {"const": name}, "framing": TEXT, **fields}
        branches.append({"if": {"properties": {"protocol": {"const": name}}}, "then": {"properties": members}})
    return {
        "type": "object",
        "description": f"`protocol` and the fields of that protocol, for a {side}.",
        "properties": {"protocol": {"enum": names}},
        "required": ["protocol"],
        "allOf": branches,
    }


def _options(side: str, protocol: str, protocols: Protocols) -> Schema:
    found = options_of(side, protocol, protocols)
    return {"type": "object", "properties": {name: _field(OPTIONS[name], default) for name, default in found.items()}}


def _match() -> Schema:
    conditions = {name: _object(text, fields) for name, (text, fields) in MATCHES.items()}
    return {
        "description": "Which sessions: conditions or a list of them (all must hold), `any` of a list, or a predicate of l7mp's (`op`).",
        "anyOf": [
            {"type": ["null", "string"]},
            listed(ref("match")),
            {"type": "object", "properties": conditions, "additionalProperties": False, "minProperties": 1},
            {"type": "object", "properties": {"any": listed(ref("match"))}, "required": ["any"], "additionalProperties": False},
            {"type": "object", "properties": {"match": ref("match")}, "required": ["match"], "additionalProperties": False},
            {
                "type": "object",
                "properties": {
                    "op": {"enum": [*FIRST_ORDER, *SECOND_ORDER]},
                    "path": TEXT,
                    "value": {},
                    "ignore_case": {"type": "boolean"},
                    "apply": listed(ref("match")),
                },
                "required": ["op"],
            },
        ],
    }
