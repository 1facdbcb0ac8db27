"""The REST API as an OpenAPI 3.1 document, made of its table of operations and the schema of the configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from carrier.admin.imagine import FIELDS
from carrier.admin.recording import RECORDED
from carrier.config.dump import version
from carrier.config.jsonschema import schema
from carrier.observe.filters import FILTERS

if TYPE_CHECKING:
    from carrier.admin.calls import Operation
    from carrier.config.draft import Protocols

Schema = dict[str, Any]
NAMES = {"rulelists": "the rule list's name", "rules": "the rule's name, or its position in the list"}
PARAMETERS: dict[str, tuple[Schema, str]] = {
    "recursive": ({"type": "boolean"}, "with everything that it owns"),
    "format": ({"enum": ["plain", "space", "tab"]}, "how the JSON is laid out"),
    "document": ({"type": "boolean"}, "as POST /config takes it"),
    "dryRun": ({"type": "boolean"}, "do all but put it in force"),
    "allowDangling": ({"type": "boolean"}, "names that lead nowhere are warnings"),
    **{name: ({"type": "string"}, text) for name, text in {**RECORDED, **FILTERS}.items()},
    "lines": ({"type": "integer"}, "so many of the last lines"),
    "exit": ({"type": "boolean"}, "end the process when it is drained"),
}
ERROR: Schema = {
    "type": "object",
    "properties": {"status": {"type": "integer"}, "message": {"type": "string"}, "content": {}},
    "required": ["status", "message"],
}
"""What a refusal looks like: `content` is a sentence, or a list of problems with their places."""


def document(protocols: Protocols, operations: Mapping[tuple[str, str], Operation]) -> Schema:
    """The whole document. operations: by method and path."""
    whole = _moved(schema(protocols))
    kinds = whole.pop("$defs")
    whole.pop("$schema", None)
    paths: dict[str, Schema] = {}
    for (method, template), operation in sorted(operations.items(), key=lambda item: item[0][1]):
        paths.setdefault(_path(template), {})[method.lower()] = _operation(method, template, operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Carrier2", "version": version(), "description": "The REST API of Carrier2: l7mp's calls, and ours."},
        "servers": [{"url": "/api/v1"}],
        "paths": paths,
        "components": {
            "schemas": {**kinds, "configuration": whole, "error": ERROR},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _moved(value: Any) -> Any:
    """References of JSON Schema point to where OpenAPI keeps its schemas."""
    if isinstance(value, dict):
        return {key: value[key].replace("#/$defs/", "#/components/schemas/") if key == "$ref" else _moved(value[key]) for key in value}
    return [_moved(item) for item in value] if isinstance(value, list) else value


def _path(template: str) -> str:
    numbers = iter(("name", "other"))
    return "/" + re.sub(r"\*", lambda _: f"{{{next(numbers)}}}", template)


def _operation(method: str, template: str, operation: Operation) -> Schema:
    path = _path(template)
    asked = [*operation.query, *(("dryRun",) if operation.is_write else ()), *(("allowDangling",) if template == "config" else ())]
    parameters: list[Schema] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in re.findall(r"{(\w+)}", path)
    ]
    for name in dict.fromkeys(asked):
        form, text = PARAMETERS[name]
        parameters.append({"name": name, "in": "query", "schema": form, "description": text})
    found: Schema = {
        "operationId": re.sub(r"\W+", "_", f"{method.lower()} {template.replace('*', 'one')}").strip("_"),
        "summary": operation.text,
        "parameters": parameters,
        "responses": {
            "200": {"description": "OK", "content": {"application/json": {"schema": {}}}},
            "default": {"description": "refused", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/error"}}}},
        },
    }
    if method == "PUT" and template == "bridges/*":
        found["responses"]["201"] = {"description": "made", "content": {"application/json": {"schema": {}}}}
    if operation.takes_body:
        body = _body(template, operation)
        found["requestBody"] = {"required": True, "content": {kind: {"schema": body} for kind in ("application/json", "application/yaml")}}
    return found


def _body(template: str, operation: Operation) -> Schema:
    kind = operation.body
    if kind in ("listener", "cluster", "endpoint", "rulelist", "rule", "route"):
        return {"type": "object", "required": [kind], "properties": {kind: {"$ref": f"#/components/schemas/{kind}"}}}
    if kind == "inserted rule":
        return {"type": "object", "required": ["rule"], "properties": {"rule": {}}}
    if template in ("config", "validate"):
        return {"$ref": "#/components/schemas/configuration"}
    if template == "explain":
        return {
            "type": "object",
            "properties": {name: {"description": text} for name, text in FIELDS.items()},
            "additionalProperties": False,
        }
    return {"$ref": "#/components/schemas/bridge"} if template in ("bridges/*", "bridges:validate") else {"type": "object"}
