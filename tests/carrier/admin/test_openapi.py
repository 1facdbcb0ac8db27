"""The OpenAPI document names every call, and its references lead somewhere."""

import json
import re

from carrier.admin.openapi import document
from carrier.admin.operations import OPERATIONS
from carrier.core import registry


def test_every_operation_is_in_it_and_no_other() -> None:
    found = document(registry, OPERATIONS)
    named = {(method.upper(), re.sub(r"{\w+}", "*", path[1:])) for path, calls in found["paths"].items() for method in calls}
    assert found["openapi"] == "3.1.0" and named == set(OPERATIONS)


def test_references_lead_to_schemas() -> None:
    found = document(registry, OPERATIONS)
    wanted = set(re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(found)))
    assert wanted and wanted <= set(found["components"]["schemas"])
    assert "$defs" not in json.dumps(found)


def test_paths_parameters_and_bodies_are_described() -> None:
    paths = document(registry, OPERATIONS)["paths"]
    put = paths["/bridges/{name}"]["put"]
    assert (
        put["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/bridge"} and "201" in put["responses"]
    )
    insert = paths["/rulelists/{name}/rules/{other}"]["post"]
    assert [parameter["name"] for parameter in insert["parameters"]] == ["name", "other", "dryRun"]
    explain = paths["/explain"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"listener", "path", "headers", "sni", "metadata"} <= set(explain["properties"]) and not explain["additionalProperties"]
    ids = [call["operationId"] for calls in paths.values() for call in calls.values()]
    assert len(ids) == len(set(ids))
