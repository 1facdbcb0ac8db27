"""The JSON Schema is one, and takes what the checker takes."""

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from carrier.config.jsonschema import schema

EXAMPLES = Path(__file__).resolve().parents[3] / "docs" / "examples"


@functools.cache
def validator() -> jsonschema.Draft202012Validator:
    """Made when it is wanted: whoever only collects tests has no use for it."""
    return jsonschema.Draft202012Validator(schema())


def faults(document: Any) -> list[str]:
    return [f"{error.json_path}: {error.message[:120]}" for error in validator().iter_errors(document)]


def test_it_is_a_schema_and_json() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    assert json.loads(json.dumps(schema()))["title"] == "Configuration of Carrier2"


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.name)
def test_every_example_of_the_docs_fits(file: Path) -> None:
    assert faults(yaml.safe_load(file.read_text())) == []


@pytest.mark.parametrize(
    "document, where",
    [
        ({"listenrs": []}, "$"),
        ({"listeners": [{"name": "a", "rules": []}]}, "$.listeners[0]"),
        ({"listeners": [{"name": "a", "rules": [], "spec": {"protocol": "HTTP", "port": 99999}}]}, "$.listeners[0].spec.port"),
        ({"listeners": [{"name": "a", "rules": [], "spec": {"protocol": "HTP"}}]}, "$.listeners[0].spec.protocol"),
        ({"rules": [{"name": "r", "match": {"matchHeadr": {}}, "action": {"route": "x"}}]}, "$.rules[0].match"),
        ({"routes": [{"name": "r", "destination": "c", "retry": {"retry_on": "sometimes"}}]}, "$.routes[0].retry.retry_on"),
        ({"clusters": [{"name": "c", "spec": {"protocol": "HTTP", "port": 1, "tls": {"verfy": 1}}}]}, "$.clusters[0].spec.tls"),
        ({"listeners": [{"name": "a", "rules": [], "spec": {"protocol": "TCP"}, "options": {"idle_timeout": "1 hour"}}]}, "idle_timeout"),
    ],
)
def test_what_the_checker_refuses_for_its_form_does_not_fit(document: Any, where: str) -> None:
    assert any(where in fault for fault in faults(document))
