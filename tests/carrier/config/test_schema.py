"""l7mp's strict mode: the same 422 lists as ajv 6 gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from carrier.config import schema as openapi
from carrier.config.schema import query_schema, validate_call

TRANSCRIPTS = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "transcripts"
SCHEMAS = openapi.bodies()


def faults(kind: str, obj: Any) -> list[tuple[str, str]]:
    found = validate_call({}, query_schema(), None, SCHEMAS[kind], {kind: obj})
    return [(f["keyword"], f["dataPath"].removeprefix(f".requestBody.{kind}")) for f in found]


def test_a_good_object_has_no_faults() -> None:
    assert faults("listener", {"name": "x", "spec": {"protocol": "TCP", "port": 1, "more": 1}, "rules": "rl", "extra": []}) == []
    assert faults("cluster", {"spec": {"protocol": "Echo"}, "endpoints": 0}) == []


def test_the_first_missing_member_is_the_only_one_told() -> None:
    assert faults("listener", {}) == [("required", "")]
    assert validate_call({}, query_schema(), None, SCHEMAS["listener"], {})[0]["params"] == {"missingProperty": "listener"}


def test_every_branch_of_a_one_of_is_told_and_then_the_one_of() -> None:
    found = validate_call({}, query_schema(), None, SCHEMAS["cluster"], {"cluster": {"spec": {"protocol": "TCP", "port": 0}}})
    tcp = found[2]
    assert (tcp["keyword"], tcp["message"], tcp["params"]) == (
        "minimum",
        "should be >= 1",
        {"comparison": ">=", "limit": 1, "exclusive": False},
    )
    assert tcp["schemaPath"] == "#/properties/requestBody/properties/cluster/properties/spec/oneOf/2/properties/port/minimum"
    assert found[-1]["keyword"] == "oneOf"
    assert found[-1]["params"] == {"passingSchemas": None}
    assert {f["keyword"] for f in found[:2] + found[3:-1]} == {"enum"}


def test_a_required_member_without_a_schema_of_its_own_is_told_first() -> None:
    rule = {"action": {"rewrite": [{"path": 5}]}}
    assert faults("rule", rule)[0] == ("required", ".action.rewrite[0]")
    assert faults("rule", {"action": {"rewrite": [{"path": 5, "value": 1}]}})[0] == ("type", ".action.rewrite[0].path")


def test_a_missing_member_without_a_schema_of_its_own_is_named_by_its_step() -> None:
    found = validate_call({}, query_schema(), None, SCHEMAS["inserted rule"], {})[0]
    assert (found["message"], found["params"]) == ("should have required property '.rule'", {"missingProperty": ".rule"})


def test_in_a_branch_what_is_for_any_type_is_checked_after_a_wrong_type_and_outside_of_branches_it_is_not() -> None:
    found = faults("cluster", {"spec": {"protocol": None}})
    assert found[:2] == [("type", ".spec.protocol"), ("enum", ".spec.protocol")]
    assert len(found) == 31  # both for each of 15 branches, and the oneOf
    transport = faults("cluster", {"spec": {"protocol": "JSONSocket", "transport": "x"}})
    assert [where for _, where in transport].count(".spec.transport") == 9  # its type, seven branches and the oneOf
    assert faults("cluster", {"spec": None}) == [("type", ".spec")]
    assert faults("cluster", {"spec": {"protocol": "TCP", "port": 1, "bind": 5}}).count(("type", ".spec.bind")) == 1


def test_protocols_that_l7mp_does_not_have_are_let_through() -> None:
    assert faults("cluster", {"spec": {"protocol": "HTTP", "port": 80}}) == []


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ({"format": "bogus"}, ("enum", ".query.format")),
        ({"recursive": "yes"}, ("type", ".query.recursive")),
        ({"zzz": "1"}, ("additionalProperties", ".query")),
        ({"zz-z": "1"}, ("additionalProperties", ".query")),
    ],
)
def test_query_parameters_are_checked(query: dict[str, str], fault: tuple[str, str]) -> None:
    found = validate_call(query, query_schema("recursive", "format"), None, None, None)
    assert [(f["keyword"], f["dataPath"]) for f in found] == [fault]


def test_parameters_are_read_as_what_the_schema_wants() -> None:
    assert validate_call({"recursive": "false", "format": "terse"}, query_schema("recursive", "format"), "-1", None, None) == []
    assert validate_call({}, {}, "1.5", None, None)[0]["dataPath"] == ".path.position"


OPERATIONS = {"config": ("format",), "admin": ("format",)}


@pytest.mark.skipif(not TRANSCRIPTS.exists(), reason="the recorded transcripts are not part of this repository")
@pytest.mark.parametrize("name", ["01-read-strict", "04-listeners-strict", "15-readme-walkthrough"])
def test_recorded_lists_are_equal_to_the_last_member(name: str) -> None:
    checked = 0
    for step in json.loads((TRANSCRIPTS / f"{name}.json").read_text())["steps"]:
        if step["kind"] != "http" or "status" not in step["response"]:
            continue
        request, response = step["request"], step["response"]
        path, _, text = request["path"].partition("?")
        query = dict(pair.split("=") for pair in text.split("&") if pair)
        parts = [p for p in path.split("/") if p][2:]
        at = parts[3] if len(parts) == 4 and parts[2] == "rules" else None
        body = yaml.safe_load(request["body"]) if request["method"] == "POST" else None
        schema = SCHEMAS[parts[0][:-1]] if request["method"] == "POST" else None
        names = OPERATIONS.get(parts[0], ("recursive", "format")) if parts else ()
        want = response["json"]["content"] if response["status"] == 422 else []
        assert validate_call(query, query_schema(*names), at, schema, body) == want, request["path"]
        checked += response["status"] == 422
    assert checked or name == "15-readme-walkthrough"
