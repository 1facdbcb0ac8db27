"""The index: which rule takes a request, at which cost, in which order; conflicts."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import pytest

from carrier.errors import ConfigError
from carrier.rules.match import Conditions, Matcher, conflict
from tests.matching import header, path, request


def test_the_first_rule_in_the_list_wins_whatever_the_index_finds_first() -> None:
    rules = [
        ("regex", header("^zoe$", "regex")),
        ("path and method", [path("/a", "prefix"), {"matchMethod": {"method": "GET"}}]),
        ("header", header("john")),
        ("path", path("/abc")),
        ("longer prefix", path("/ab", "prefix")),
        ("predicate", {"op": "test", "path": "/HTTP/headers/x-user", "value": "jane"}),
        ("either", {"any": [[header("max"), path("/m")], [header("moritz")]]}),
        ("rest", None),
    ]
    matcher = Matcher(rules)

    def first(*args: Any, **named: Any) -> str:
        index = matcher.first(request(*args, **named))
        assert index is not None
        return rules[index][0]

    assert first("/abc", x_user="john") == "path and method"
    assert first("/abc", "PUT", x_user="john") == "header"
    assert first("/abc", "PUT") == "path"
    assert first("/abd", "PUT") == "longer prefix"
    assert first("/abd", x_user="zoe") == "regex"
    assert first("/x", x_user="jane") == "predicate"
    assert first("/x", x_user="a, jane") == "rest"
    assert first("/x", x_user="max") == "rest"
    assert first("/m", x_user="max") == first("/", x_user="moritz") == "either"


@pytest.mark.parametrize("kind", ["one header", "many headers", "path prefix", "exact path"])
def test_a_thousand_rules_cost_what_one_costs(kind: str) -> None:
    def matcher(count: int) -> Matcher:
        matches = {
            "one header": lambda i: header(f"user{i}"),
            "many headers": lambda i: header("x", name=f"x-user-{i}"),
            "path prefix": lambda i: path(f"/other{i:04}/", "prefix"),
            "exact path": lambda i: path(f"/other{i}"),
        }
        return Matcher([*((f"r{i}", matches[kind](i)) for i in range(count)), ("rest", None)])

    meta = request("/api/v1/items", x_user="nobody", accept="*/*", host_="a", cookie="a=b")

    def cost(one: Matcher) -> float:
        start = time.process_time()
        for _ in range(2000):
            one.first(meta)
        return time.process_time() - start

    few, many = matcher(3), matcher(1000)
    assert few.first(meta) == 3
    assert many.first(meta) == 1000
    pairs = [(cost(few), cost(many)) for _ in range(9)]  # interleaved, and CPU time: the machine is busy with other things
    ratio = median(b for _, b in pairs) / median(a for a, _ in pairs)
    assert ratio < (1.5 if kind != "many headers" else 3)  # there the request's own headers are gone through instead


def test_specific_order_is_the_gateway_precedence() -> None:
    rules = [
        ("wildcard", None),
        ("prefix", path("/a", "prefix")),
        ("one header", header("j")),
        ("two headers", [header("j"), header("1", name="x-b")]),
        ("query", {"matchQuery": {"name": "q", "value": "1"}}),
        ("method", {"matchMethod": {"method": "PUT"}}),
        ("longer", path("/ab", "prefix")),
        ("exact", path("/ab")),
        ("host", {"matchHost": {"host": "h.org"}}),
        ("tie", header("j")),
    ]
    matcher = Matcher(rules, order="specific")
    names = [
        rules[matcher.first(meta) or 0][0]
        for meta in (
            request("/ab", "PUT", host="h.org", x_user="j"),
            request("/ab", "PUT", x_user="j"),
            request("/abc", "PUT", x_user="j"),
            request("/ax", "PUT", x_user="j"),
            request("/x?q=1", "PUT", x_user="j"),
            request("/x?q=1", x_user="j", x_b="1"),
            request("/x?q=1", x_user="j"),
            request("/x?q=1"),
            request("/x"),
        )
    ]
    assert names == ["host", "exact", "longer", "prefix", "method", "two headers", "one header", "query", "wildcard"]
    assert [(f.rule, f.kind) for f in matcher.findings] == [("tie", "duplicate")]
    assert [report.rule for report in matcher.explain(request("/ab")) if report.chosen] == ["exact"]


def test_a_conflict_names_the_other_rule() -> None:
    existing = [("john", header("john")), ("api", path("/api", "prefix"))]
    assert conflict(("new", header("max")), existing) is None
    same = conflict(("new", header("john")), existing)
    assert same is not None
    assert (same.kind, same.other_rule) == ("duplicate", "john")
    shadowed = conflict(("new", [path("/api/x"), header("max")]), existing)
    assert shadowed is not None
    assert (shadowed.kind, shadowed.other, shadowed.other_rule) == ("never-fires", 1, "api")
    assert shadowed.text.startswith("rule 'new' (path is \"/api/x\" and header x-user is \"max\") can never fire: rule 'api'")
    with pytest.raises(ConfigError):
        conflict(("new", path("(", "regex")), existing)


def test_conditions_are_compiled_once_for_each_match_and_shared_by_matchers() -> None:
    john, known = header("john"), Conditions()
    one = Matcher([("a", john), ("b", header("jane")), ("bad", {"op": "x"})], conditions=known)
    changed = [("new", path("/x")), ("a", john), ("b", header("joe")), ("bad", {"op": "x"})]
    two = Matcher(changed, conditions=known)
    assert two.conditions[1] is one.conditions[0]
    assert two.conditions[2] is not one.conditions[1]
    assert two.reasons == {3: one.reasons[2]}
    assert [two.first(request("/", x_user=name)) for name in ("john", "jane", "joe")] == [1, None, 2]
    assert [one.first(request("/", x_user=name)) for name in ("john", "jane", "joe")] == [0, 1, None]
    known.forget_all_but({"b"})
    assert Matcher([("a", john)], conditions=known).conditions[0] is not one.conditions[0]


def test_a_shared_condition_serves_both_orders() -> None:
    short, long, known = path("/a", "prefix"), path("/a/b", "prefix"), Conditions()
    rules = [("short", short), ("long", long)]
    assert Matcher(rules, conditions=known).first(request("/a/b")) == 0
    assert Matcher(rules, "specific", known).first(request("/a/b")) == 1
    assert Matcher(rules, "first", known).first(request("/a/b")) == 0
